"""Python environments with selected packages only, made of links to the installed ones."""

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]


def link_packages(names: Iterable[str], folder: Path) -> None:
    """Create `folder`, for PYTHONPATH, with links to the packages and their metadata."""
    folder.mkdir()
    for name in names:
        for top, target in _top_level(name).items():
            link = folder / top
            if not link.exists():
                link.symlink_to(target)


def make_wheels(names: Iterable[str], folder: Path) -> None:
    """Pack installed packages into wheels."""
    folder.mkdir()
    for name in names:
        found = distribution(name)
        wheel = folder / f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in found.files or ():
                if file.parts[0] != ".." and "__pycache__" not in file.parts:
                    archive.write(str(found.locate_file(file)), str(file))


def run_isolated(
    *command: str, packages: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python -S -m ...` in the repository, with `packages` after the folders in PYTHONPATH."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{before}:{packages}" if before else str(packages)
    return subprocess.run(
        [sys.executable, "-S", "-m", *command],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def _top_level(name: str) -> dict[str, Path]:
    """Return a package's top-level entries in site-packages, by name."""
    found = distribution(name)
    tops = {PurePosixPath(str(file)).parts[0] for file in found.files or ()}
    tops -= {"..", "__pycache__"}
    return {top: Path(str(found.locate_file(top))) for top in tops}
