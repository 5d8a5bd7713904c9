"""From a messy folder to a served model, by the commands of the README."""

import json
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from limelight import load
from limelight.artifact.store import load_artifact
from limelight.imaging.formats import FORMATS
from limelight.labels import normalized
from pipeline.runs.planning import plan_training
from tests.pipeline.cli.running import limelight, limelight_command
from tests.pipeline.messy_folder import CLASSES, Messy, write_messy_folder, write_parts
from tests.serving_kit import Server, bentoml_serve

UPLOADS = [suffix for each in FORMATS.values() if each.uploads for suffix in each.suffixes]
LABELS = {normalized(name) for name in CLASSES}


@dataclass
class Chain:
    """A folder that went through the commands, in a folder of its own."""

    home: Path
    messy: Messy
    said: dict[str, str]
    """What each command wrote on standard error."""
    artifact: Path

    def run(self, *arguments: str) -> str:
        """Run a command as a user does, and return its standard output."""
        done = limelight(*arguments, cwd=self.home)
        assert done.returncode == 0, done.stderr
        self.said[arguments[0]] = done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    home = tmp_path_factory.mktemp("user")
    chain = Chain(home, write_messy_folder(home / "my photos"), {}, home)
    options = ["--image-size", "32", "--epochs", "12", "--out", "my run"]
    # In a process of its own: in this one, the warnings would go to pytest.
    command, environment = limelight_command("train", "my photos", *options, cwd=home)
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "my run"), done.stderr
    chain.said["train"] = done.stderr
    printed = chain.run("export", "my run", "--name", "photos", "--no-layercam")
    chain.artifact = home / printed.strip()
    return chain


@pytest.fixture(scope="module")
def server(chain: Chain) -> Iterator[Server]:
    models = chain.artifact.parent.parent
    with bentoml_serve(models, chain.home / "server", LIMELIGHT_DEFAULT_MODEL="photos") as server:
        yield server


def answers(chain: Chain) -> dict[str, dict[str, object]]:
    """Answers of `limelight predict` for an image of each kind, by the kind."""
    files = [str(path) for path in chain.messy.samples.values()]
    lines = chain.run("predict", *files, "--model", str(chain.artifact), "--json").splitlines()
    return dict(zip(chain.messy.samples, map(json.loads, lines), strict=True))


def test_first_line_says_what_was_understood(chain: Chain) -> None:
    said = unicodedata.normalize("NFC", " ".join(chain.said["train"].split()))
    manifest = load_artifact(chain.artifact).manifest
    data = chain.messy
    assert set(manifest.classes) == LABELS
    parts = said.partition("3 classes, ")[2]
    fit, _, rest = parts.partition(" images to fit, ")
    validation, _, rest = rest.partition(" to validate on, ")
    test, _, rest = rest.partition(" to test ")
    assert int(fit) + int(validation) + int(test) == data.readable
    assert rest.startswith(f"({sum(data.skipped.values())} files skipped: ")
    kinds = rest.partition("skipped: ")[2].partition(")")[0].split(", ")
    assert sorted(kinds) == sorted(f"{count} {kind}" for kind, count in data.skipped.items())


def test_copies_and_broken_files_are_named_once(chain: Chain) -> None:
    said = unicodedata.normalize("NFC", " ".join(chain.said["train"].split()))
    for name in ("broken.jpg", "empty.png", "truncated.jpg"):
        assert said.count(f"warning: skipped my photos/Grün/{name}: ") == 1, name
    assert "warning: 2 images are in two classes, so one label is wrong: " in said
    assert "wrong class.jpg" in said
    assert "copy.jpg" in said
    for name in ("small.png", "._x.png", "Thumbs.db"):
        assert name not in said


def test_held_out_images_are_recognised(chain: Chain) -> None:
    metrics = load_artifact(chain.artifact).manifest.metrics
    assert metrics.images >= 14
    # One image is in two classes.
    assert metrics.accuracy >= 0.9


def test_report_names_files_and_its_names_are_intact(chain: Chain) -> None:
    page = (chain.home / "my run" / "report.html").read_text(encoding="utf-8")
    for name in LABELS:
        assert name.replace("&", "&amp;") in page
    assert any(path.name.split(" ")[0] in page for path in chain.messy.samples.values())


def test_service_answers_as_the_command_line(chain: Chain, server: Server) -> None:
    local = answers(chain)
    sent = 0
    for kind, path in chain.messy.samples.items():
        served = httpx.post(f"{server.url}/predict", content=path.read_bytes(), timeout=60)
        if path.suffix.lower() not in UPLOADS:
            assert served.status_code == 415, kind
            continue
        sent += 1
        assert served.json()["label"] == local[kind]["label"], kind
        assert served.json()["confidence"] == pytest.approx(local[kind]["confidence"], abs=1e-5)
    assert sent >= 12


def test_every_kind_of_file_is_recognised(chain: Chain) -> None:
    local = answers(chain)
    right = {
        kind: local[kind]["label"] == normalized(path.relative_to(chain.messy.folder).parts[0])
        for kind, path in chain.messy.samples.items()
    }
    assert sum(right.values()) >= len(right) - 1, right
    classifier = load(chain.artifact)
    assert classifier.predict(chain.messy.samples["cmyk"]).label == local["cmyk"]["label"]


def test_scores_are_the_predictions(chain: Chain) -> None:
    model = str(chain.artifact)
    assert chain.run("score", "my photos", "--model", model, "--out", "scores").strip() == "scores"
    files = sorted((chain.home / "scores").glob("part-*.parquet"))
    scored = [row for file in files for row in pq.read_table(file).to_pylist()]
    by_path = {Path(str(row["path"])).name: row for row in scored if row.get("label")}
    for kind, answer in answers(chain).items():
        row = by_path[chain.messy.samples[kind].name]
        assert row["label"] == answer["label"], kind
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)


def test_exported_model_is_finetuned(chain: Chain) -> None:
    folder = chain.run(
        "finetune", "--from", str(chain.artifact), "my photos", "--epochs", "2",
        "--freeze-epochs", "1", "--no-report", "--out", "tuned",
    ).strip()  # fmt: skip
    # Decoded before, and the broken ones are tried again.
    assert "reading images" not in chain.said["finetune"]
    assert folder == "tuned"
    sample = str(chain.messy.samples["progressive"])
    answer = json.loads(chain.run("predict", sample, "--model", "tuned", "--json"))
    assert answer["label"] in LABELS
    assert answer["file"] == sample


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        ({"Training": 10, "Testing": 4}, (17, 3, 8)),
        ({"train": 10, "valid": 3, "test": 4}, (20, 6, 8)),
        ({"Train": 10, "Val": 3, "TEST": 4}, (20, 6, 8)),
        ({"train": 10, "val": 3}, (16, 6, 4)),
    ],
    ids=["Kaggle", "Roboflow", "ultralytics", "ImageNet"],
)
def test_parts_of_every_layout_are_understood(
    parts: dict[str, int], counts: tuple[int, int, int], tmp_path: Path
) -> None:
    write_parts(tmp_path / "data", parts)
    plan = plan_training(str(tmp_path / "data"), device="cpu", decode=False)
    data = plan.data
    assert (len(data.fit), len(data.validation), len(plan.dataset.test)) == counts
    assert set(plan.config.classes) == {normalized(name) for name in list(CLASSES)[:2]}
