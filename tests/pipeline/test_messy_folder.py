"""From a messy folder to a served model, by the commands of the README."""

import csv
import html
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from limelight.artifact.store import load_artifact
from limelight.imaging.formats import FORMATS
from pipeline.runs.plan_from_choices import plan_training
from pipeline.runs.run import read_run
from pipeline.training.device import uses_bfloat16
from tests.pipeline.cli.running import limelight, limelight_process
from tests.pipeline.messy_folder import (
    CLASSES,
    RARE,
    Messy,
    add_junk,
    write_messy_folder,
    write_parts,
)
from tests.serving_kit import REPOSITORY, Server, bentoml_serve

UPLOADS = {suffix for each in FORMATS.values() if each.uploads for suffix in each.suffixes}
LABELS = sorted(CLASSES | RARE)
CPU = "cpu in bfloat16" if uses_bfloat16(torch.device("cpu")) else "cpu"
SKIPPED = (
    "9 files skipped: 1 .mp4, 1 .txt, 1 outside the folders of the classes, "
    "1 without a suffix, 5 unreadable"
)

Answers = dict[str, dict[str, Any]]
"""What `limelight predict --json` says, by the file."""


@dataclass
class Chain:
    """A user's folder, in which the photos went through the commands."""

    home: Path
    messy: Messy
    said: dict[str, str]
    """What each command wrote on standard error."""
    artifact: Path

    @property
    def files(self) -> dict[str, str]:
        """The class of each image, by its path as a user types it."""
        return {
            str(path.relative_to(self.home)): label for path, label in self.messy.images.items()
        }

    @property
    def kinds(self) -> dict[str, str]:
        """A file of each kind of image."""
        return {kind: str(path.relative_to(self.home)) for kind, path in self.messy.kinds.items()}

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command as a user does, and return its standard output."""
        done = limelight(*arguments, cwd=self.home)
        assert done.returncode == status, done.stderr
        self.said[arguments[0]] = done.stderr
        return done.stdout

    def predict(self, *options: str, status: int = 0) -> Answers:
        """Predict all images."""
        lines = self.run("predict", "--json", *options, *self.files, status=status).splitlines()
        return {answer["file"]: answer for answer in map(json.loads, lines)}

    def next_command(self, command: str) -> tuple[dict[str, str], list[str]]:
        """Return variables and words of the command that `command` proposed to paste."""
        words = shlex.split(self.said[command].partition("Next: ")[2].splitlines()[0])
        variables = [*takewhile(lambda word: "=" in word, words)]
        return dict(word.split("=", 1) for word in variables), words[len(variables) :]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    home = tmp_path_factory.mktemp("user")
    chain = Chain(home, write_messy_folder(home / "my photos"), {}, home)
    narrow = ["--set", "network.widths=[8,16,16,32]"]
    options = ["--image-size", "32", "--epochs", "12", "--no-report", "--out", "my run", *narrow]
    trained = limelight_process("train", "./my photos", *options, cwd=home)
    assert (trained.returncode, trained.stdout) == (0, "my run\n"), trained.stderr
    chain.said["train"] = trained.stderr
    assert chain.run("report", "my run") == "my run/report.html\n"
    variables, words = chain.next_command("train")
    assert (variables, words[0]) == ({}, "limelight")
    chain.artifact = home / chain.run(*words[1:], "--no-layercam").strip()
    return chain


@pytest.fixture(scope="module")
def server(chain: Chain) -> Iterator[Server]:
    variables, words = chain.next_command("export")
    assert words[:2] == ["bentoml", "serve"]
    own = {"LIMELIGHT_DEFAULT_MODEL": None, "PYTHONPATH": str(REPOSITORY)}
    models = Path(variables["LIMELIGHT_MODELS"])
    with bentoml_serve(
        models, chain.home / "server", bento=words[2], cwd=chain.home, also=own
    ) as server:
        yield server


@pytest.fixture(scope="module")
def answers(chain: Chain) -> Answers:
    return chain.predict("--model", "artifacts/my-photos")


def assert_same_scores(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["label"] == expected["label"]
    assert [score["label"] for score in found["scores"]] == [
        score["label"] for score in expected["scores"]
    ]
    for score, other in zip(found["scores"], expected["scores"], strict=True):
        assert score["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_first_line_says_what_was_understood(chain: Chain) -> None:
    images = len(chain.messy.images)
    test = math.ceil(0.2 * images)
    validation = math.ceil(0.15 * (images - test))
    assert (
        f"{chain.home}/my photos: 4 classes, {images - test - validation} images to fit, "
        f"{validation} to validate on, {test} to test ({SKIPPED}); on {CPU}\n"
    ) in chain.said["train"]
    assert chain.messy.unread.total() + len(chain.messy.unreadable) == 9
    assert "the classes are uneven: " in chain.said["train"]


def test_unreadable_files_and_copies_are_named_once_and_hidden_ones_are_not(chain: Chain) -> None:
    warnings = [line for line in chain.said["train"].splitlines() if line.startswith("warning: ")]
    *skipped, copies = warnings
    named = [line.removeprefix("warning: skipped ").partition(": ")[0] for line in skipped]
    unreadable = [str(path.relative_to(chain.home)) for path in chain.messy.unreadable]
    assert sorted(named) == sorted(unreadable)
    first = chain.messy.kinds["jpeg"].relative_to(chain.messy.folder)
    wrong = str(Path(named[0]).relative_to("my photos").with_name("wrong class.jpg"))
    assert copies == (
        "warning: 2 images are in two classes, so one label is wrong: "
        f"{wrong} = {first}, {wrong} = rot [1]/copy.jpg"
    )


def test_held_out_images_are_recognised(chain: Chain, answers: Answers) -> None:
    held_out = read_run(chain.home / "my run").data.dataset.test
    labels = [LABELS[label] for label in held_out.labels]
    right = [
        answers[f"my photos/{file}"]["label"] == label
        for file, label in zip(held_out.files, labels, strict=True)
    ]
    metrics = load_artifact(chain.artifact).manifest.metrics
    assert metrics.images == len(right) == 23
    assert metrics.accuracy == pytest.approx(sum(right) / len(right))
    assert metrics.accuracy > 0.9


def test_report_names_classes_and_files_of_the_folder(chain: Chain) -> None:
    page = (chain.home / "my run" / "report.html").read_text(encoding="utf-8")
    named = re.findall(r'class="small file">(.*?)</p>', page)
    assert len(named) >= 10
    assert {f"my photos/{html.unescape(name)}" for name in named} <= {*chain.files}
    for name in LABELS:
        assert html.escape(name) in page
    assert "limelight report &#39;my run&#39;" in page


def test_every_file_is_predicted_and_its_name_is_intact(chain: Chain, answers: Answers) -> None:
    assert [*answers] == [*chain.files]
    assert load_artifact(chain.artifact).manifest.classes == tuple(LABELS)
    right = [answers[file]["label"] == label for file, label in chain.files.items()]
    assert sum(right) > 0.9 * len(right)
    kinds = {kind: answers[file]["label"] for kind, file in chain.kinds.items()}
    assert kinds == {kind: chain.files[file] for kind, file in chain.kinds.items()}


def test_run_predicts_the_classes_of_its_artefact(chain: Chain, answers: Answers) -> None:
    by_run = chain.predict("--model", "my run")
    assert {file: answer["label"] for file, answer in by_run.items()} == {
        file: answer["label"] for file, answer in answers.items()
    }


def test_table_has_the_names_of_files_and_classes(chain: Chain) -> None:
    table = chain.run("predict", *chain.files, "--model", "artifacts/my-photos")
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in table.splitlines()[3:-1]]
    assert [file for file, _ in rows] == [file.strip() for file in chain.files]
    assert {label for _, label in rows} <= {*LABELS}


def test_service_answers_as_the_command_line(
    chain: Chain, server: Server, answers: Answers
) -> None:
    served = chain.predict("--url", server.url, status=1)
    assert [*served] == [*chain.files]
    refused = {file for file in served if Path(file).suffix.lower() not in UPLOADS}
    for file, answer in served.items():
        if file in refused:
            assert answer["error"]["code"] == "unsupported_media_type"
            assert f"error: {file}: the body is a" in chain.said["predict"]
        else:
            assert_same_scores(answer, answers[file])
    for kind, file in chain.kinds.items():
        body = (chain.home / file).read_bytes()
        posted = httpx.post(f"{server.url}/predict", content=body, timeout=60)
        assert posted.status_code == (415 if file in refused else 200), kind
        if posted.status_code == 200:
            assert_same_scores(posted.json(), answers[file])


@pytest.mark.parametrize("kind", ["turned 5", "turned 6", "cmyk", "palette with alpha"])
def test_service_explains_the_picture_as_it_is_seen(
    kind: str, chain: Chain, server: Server, answers: Answers
) -> None:
    file = chain.home / chain.kinds[kind]
    url = f"{server.url}/explain"
    explained = httpx.post(url, content=file.read_bytes(), timeout=60).json()
    assert_same_scores(explained, answers[chain.kinds[kind]])
    chain.run("explain", chain.kinds[kind], "-o", f"{kind}.png", "--url", server.url)
    with Image.open(file) as photo, Image.open(chain.home / f"{kind}.png") as picture:
        assert picture.size == ImageOps.exif_transpose(photo).size


@pytest.mark.parametrize("output", ["parquet", "csv"])
def test_scores_are_the_predictions(output: str, chain: Chain, answers: Answers) -> None:
    out = f"scores as {output}"
    options = ["--model", "artifacts/my-photos", "--out", out, "--format", output]
    assert chain.run("score", "my photos", *options, "--device", "cpu") == f"{out}\n"
    images, bad = len(chain.files) + 1, len(chain.messy.unreadable)  # one is in no class
    assert f"{images + bad} images: {images} labelled, {bad} bad" in chain.said["score"]
    scored, unread = (_rows(chain.home / out, kind, output) for kind in ("part", "bad"))
    assert {f"my photos/{name}" for name in unread} == {
        str(path.relative_to(chain.home)) for path in chain.messy.unreadable
    }
    del scored["cover.jpg"]
    assert {f"my photos/{name}" for name in scored} == {*answers}
    for name, row in scored.items():
        answer = answers[f"my photos/{name}"]
        assert row["label"] == answer["label"]
        assert float(row["confidence"]) == pytest.approx(answer["confidence"], abs=1e-5)


def _rows(folder: Path, kind: str, output: str) -> Answers:
    """Read the files of labels, or of bad images, by the image."""
    rows: list[dict[str, Any]] = []
    for file in folder.glob(f"{kind}-*.{output}"):
        if output == "csv":
            with file.open(encoding="utf-8", newline="") as stream:
                rows += csv.DictReader(stream)
        else:
            rows += pq.ParquetFile(file).read().to_pylist()
    return {row["path"]: row for row in rows}


def test_shipped_model_is_finetuned(chain: Chain) -> None:
    options = ["--epochs", "1", "--freeze-epochs", "1", "--no-report", "--out", "tuned"]
    assert chain.run("finetune", "--from", "cifar10", "my photos", *options) == "tuned\n"
    # Decoded before, and the broken ones are tried again.
    assert "reading images" not in chain.said["finetune"]
    assert "initialised from cifar10/" in chain.said["finetune"]
    tuned = chain.predict("--model", "tuned")
    assert [*tuned] == [*chain.files]
    assert {answer["label"] for answer in tuned.values()} <= {*LABELS}


LAYOUTS = {
    "Kaggle": ({"Training": 12, "Testing": 4}, (20, 4, 8)),
    "Roboflow": ({"train": 10, "valid": 3, "test": 4}, (20, 6, 8)),
    "ultralytics": ({"Train": 10, "Val": 3, "TEST": 4}, (20, 6, 8)),
    "ImageNet": ({"train": 10, "val": 3}, (16, 6, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_every_layout_are_understood(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts, counts = LAYOUTS[layout]
    messy = write_parts(tmp_path / "data", parts)
    first, *_, last = parts
    add_junk(messy, home=tmp_path / "data" / last / "Grün")
    plan = plan_training(str(tmp_path / "data"), device="cpu")
    data = plan.dataset
    assert (len(plan.data.fit), len(plan.data.validation), len(data.test)) == counts
    assert plan.config.classes == ("Grün", "rot [1]")
    assert len(data.skipped) == len(messy.unreadable)
    assert data.unread == messy.unread
    assert caplog.messages[-1].startswith("1 image is in train and in ")
    assert f": {first}/Grün/IMG_0.png = {last}/Grün/" in caplog.messages[-1]


def test_dry_run_counts_the_rows_of_a_table_by_excel(tmp_path: Path) -> None:
    messy = write_parts(tmp_path / "photos", {"train": 10, "valid": 3, "test": 4})
    with (tmp_path / "labels.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream, delimiter=";")
        writer.writerow(["Filename", "note", "Class", "Set"])
        for path, label in messy.images.items():
            name = path.relative_to(tmp_path)
            writer.writerow([name, 'with ";" and ,', label, name.parts[1].upper()])
    done = limelight("train", "labels.csv", "--dry-run", "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    counts = f"2 classes, 20 images to fit, 6 to validate on, 8 to test; on {CPU}\n"
    assert f"{tmp_path}/labels.csv: {counts}" in done.stderr
    assert "classes: Grün, rot [1]\n" in done.stderr
