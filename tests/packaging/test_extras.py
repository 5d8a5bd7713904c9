"""Each extra, installed alone in an empty environment, provides its features and nothing else."""

import subprocess
import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from bench.gpu.wheels import closure
from pipeline.cli.main import COMMANDS
from tests.isolated import ROOT, link_packages, run_isolated
from tests.own_images import encoded

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
HEAVY = {"torch", "bentoml", "onnxruntime-gpu", "pyarrow", "grpcio", "scikit-learn"}

PROMISES = {
    "": "from limelight import AsyncClient, Client, Explanation; Client('http://localhost')",
    "runtime": "import limelight; print(limelight.load('digits').predict('examples/seven.png'))",
    "serve": "import service.bento, limelight; limelight.load('digits')",
    "serve,grpc": "import service.oip.grpc.servicer",
    "serve,tracing": "from service.telemetry.tracing import Tracing; "
    "Tracing('http://127.0.0.1:9', ratio=1).close()",
    "score": "import pipeline.scoring.job",
    "sign": "from model_signing import signing, verifying; import limelight.artifact.signatures; "
    "import pipeline.exporting.signing",
    "train": "import pipeline.training.trainer, pipeline.exporting.export, pipeline.report; "
    "import pipeline.lessons.ladder, models",
    "train,track": "from pipeline.runs.tracking_backends import MLflow, TensorBoard",
}
BRINGS = {
    "runtime": {"onnxruntime-gpu"},
    "serve": {"onnxruntime-gpu", "bentoml"},
    "serve,grpc": {"onnxruntime-gpu", "bentoml", "grpcio"},
    "serve,tracing": {"onnxruntime-gpu", "bentoml"},
    "score": {"onnxruntime-gpu", "pyarrow"},
    "train": {"onnxruntime-gpu", "torch", "scikit-learn"},
    # TensorBoard requires grpcio.
    "train,track": {"onnxruntime-gpu", "torch", "scikit-learn", "grpcio"},
}
"""Heavy packages that each extra installs."""


def environment(extra: str, folder: Path) -> Path:
    """Create a folder with the requirements of the package and of this extra."""
    name = f"limelight[{extra}]" if extra else "limelight"
    link_packages(closure([name], HERE) - {"limelight"}, folder)
    return folder


@pytest.mark.parametrize("extra", PROMISES)
def test_extra_installs_its_packages_and_no_other_heavy_ones(extra: str, tmp_path: Path) -> None:
    name = f"limelight[{extra}]" if extra else "limelight"
    assert closure([name], HERE) & HEAVY == BRINGS.get(extra, set())
    done = run_isolated(
        "tests.packaging.run", PROMISES[extra], packages=environment(extra, tmp_path / "there"),
        variables={"HOME": str(tmp_path), "BENTOML_HOME": str(tmp_path / "bentoml")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    if extra == "runtime":
        assert done.stdout.startswith("7 ")


def test_base_install_is_small(tmp_path: Path) -> None:
    packages = closure(["limelight"], HERE) - {"limelight"}
    assert {"httpx", "numpy", "pillow", "pydantic"} <= packages
    size = sum(file.size or 0 for name in packages for file in distribution(name).files or ())
    assert size < 120e6
    assert len(packages) < 20


@pytest.mark.parametrize("extra", ["", "serve"])
def test_help_lists_every_command_and_a_missing_extra_is_named(extra: str, tmp_path: Path) -> None:
    there = environment(extra, tmp_path / "there")

    def limelight(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_isolated("pipeline", *arguments, packages=there, variables={"COLUMNS": "200"})

    listed = limelight("--help")
    assert listed.returncode == 0, listed.stderr
    for command in COMMANDS:
        assert f" {command} " in listed.stdout, command
    failed = limelight("train", "digits8")
    assert failed.returncode == 1
    assert "pip install 'limelight[train]'" in failed.stderr
    assert "Traceback" not in failed.stderr
    picture = str(ROOT / "examples" / "seven.png")
    predicted = limelight("predict", picture, "--json")
    if extra:
        assert '"label": "7"' in predicted.stdout, predicted.stderr
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").touch()
        failed = limelight("predict", picture, "--model", str(tmp_path / "run"))
        assert "is a run, and running it needs" in failed.stderr
        assert "pip install 'limelight[train]'" in failed.stderr
    else:
        assert "pip install 'limelight[serve]'" in predicted.stderr


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="not installed: limelight[heic]")
def test_heic_needs_its_extra_and_nothing_else_does(tmp_path: Path) -> None:
    with Image.open(ROOT / "examples" / "seven.png") as image:
        (tmp_path / "seven.heic").write_bytes(encoded(image.convert("L"), "HEIF"))
    script = "import sys, limelight; print(limelight.load('digits').predict(sys.argv[-1]))"
    assert closure(["limelight[runtime,heic]"], HERE) - closure(["limelight[runtime]"], HERE) == {
        "pillow-heif"
    }
    for extra in ("runtime", "runtime,heic"):
        there = environment(extra, tmp_path / extra)
        done = run_isolated(
            "tests.packaging.run", script, str(tmp_path / "seven.heic"),
            packages=there, variables={"HOME": str(tmp_path)},
        )  # fmt: skip
        if "heic" in extra:
            assert done.stdout.startswith("7 "), done.stderr
        else:
            assert "pip install 'limelight[heic]'" in done.stderr


def test_extra_of_every_command_exists() -> None:
    extras = set(distribution("limelight").metadata.get_all("Provides-Extra") or ())
    assert set(COMMANDS.values()) <= extras
