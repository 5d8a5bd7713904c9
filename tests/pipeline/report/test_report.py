"""Report: one self-contained page, for complete and incomplete run folders."""

import base64
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from limelight.explanations.overlay import overlay
from limelight.imaging.preprocessing import View
from models.calibrator import Calibrator
from models.normalization import Normalisation
from models.serving_graph import ServingGraph
from pipeline.atomic_files import UnwritableError
from pipeline.cli.commands.report import report as report_command
from pipeline.errors import RunError
from pipeline.evaluation.calibration import calibrate
from pipeline.evaluation.classification_report import make_classification_report
from pipeline.report import write_report
from pipeline.report.history import read_history
from pipeline.report.maps import explain
from pipeline.report.page import flattened, render
from pipeline.report.study import Study, study
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_plan import plan_run
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Recipe
from pipeline.training.weights import make_network
from pipeline.wording import amount, duration, percent

CPU = torch.device("cpu")
EMPTY = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Text and addresses of a page; fails if tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.addresses, self.headings = "", [""], [""]
        self.alternatives: list[str | None] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.addresses += [fields[name] or "" for name in ("src", "href") if name in fields]
        if tag == "img":
            self.alternatives.append(fields.get("alt"))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.text += " " + data


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of two epochs on digits8, with recorded activations."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    plan = plan_run(
        "digits8",
        recipe_name="digits8",
        recipe=Recipe.load("digits8", epochs=2),
        seed=0,
        device=CPU,
    )
    plan.train(folder, watching={"activations": ActivationStatistics()})
    return folder


@pytest.fixture(scope="module")
def studied(run_folder: Path) -> Study:
    return study(read_run(run_folder), device="cpu")


def test_page_is_complete_and_self_contained(run_folder: Path) -> None:
    report = write_report(read_run(run_folder), device="cpu")
    assert report == run_folder / "report.html"
    assert not list(run_folder.glob("*.part"))
    html = report.read_text()
    page = Page(html)
    inside = ("data:image/png;base64,", "data:image/jpeg;base64,", "#")
    assert all(address.startswith(inside) for address in page.addresses if address)
    assert "<script" not in html
    assert "@import" not in html
    assert all(page.alternatives)
    assert page.headings[1:] == [
        "Training",
        "Errors by class",
        "Calibration",
        "Abstention and OOD detection",
        "Robustness",
        "Faithfulness of the maps",
        "Highest losses",
        "Activations",
        "Model card",
    ]


def test_page_shows_validation_figures_and_facts_of_the_run(studied: Study) -> None:
    run = studied.run
    validation = run.data.validation
    logits = evaluate(run.network, validation.images, run.config.normalisation, CPU)
    labels = torch.from_numpy(validation.labels)
    calibration = calibrate(logits, labels)
    accuracy = float((logits.argmax(1) == labels).float().mean())
    text = Page(render(studied)).text
    assert percent(accuracy, 2) in text
    assert percent(calibration.ece_before, 2) in text
    robustness = studied.trust.robustness
    assert robustness.images == min(20, len(validation))
    assert f"Mean {percent(robustness.mean_accuracy)} ±" in text
    for accuracy in (robustness.jpeg_75, *robustness.corruptions.values()):
        assert percent(accuracy) in text.partition("Common corruptions")[2]
    assert percent(calibration.ece_after, 2) in text
    assert f"Temperature {calibration.temperature:.3f}" in text
    assert "test-time augmentation, 5 views" in text
    assert "CC BY 4.0" in text
    assert run.config.data_sha256 in text
    assert "schedule.peak" in text


@pytest.mark.parametrize(
    ("calibrator", "words"),
    [
        (Calibrator(), ["Temperature 1.000 The logits are divided", "which changes nothing"]),
        (Calibrator(1.2), ["Temperature 1.200 The logits are divided", "lowers the confidence."]),
        (Calibrator(1.7, 1.4), ["Temperature 1.700, exponent 1.400", "raises a high confidence"]),
        (Calibrator(0.8, 0.9), ["Temperature 0.800, exponent 0.900", "lowers a high confidence"]),
    ],
)
def test_page_says_what_the_calibration_does(
    calibrator: Calibrator, words: list[str], studied: Study
) -> None:
    classification = replace(studied.classification, calibrator=calibrator)
    text = " ".join(Page(render(replace(studied, classification=classification))).text.split())
    for each in words:
        assert each in text


def test_pasted_command_at_the_end_updates_the_report(studied: Study) -> None:
    moved = replace(studied, run=replace(studied.run, folder=Path("my runs/it's")))
    written = Page(render(moved)).text.partition("To update:")[2]
    assert shlex.split(written) == ["limelight", "report", "my runs/it's"]


def test_class_without_validation_images_has_no_recall(studied: Study) -> None:
    classes = studied.run.config.classes
    logits, labels = torch.eye(len(classes))[[0, 1, 2]], torch.tensor([0, 1, 1])
    report = make_classification_report(logits, labels, classes, Calibrator())
    text = " ".join(Page(render(replace(studied, classification=report))).text.split())
    assert " 1 100.0% 50.0% 66.7% 2 " in text
    assert " 2 0.0% – – 0 " in text


def test_costs_equal_hand_computed_values(studied: Study) -> None:
    # 3x3 kernels of widths 8-16-16-32 on 8x8, 4x4 and 2x2 positions, and the linear layer.
    multiplications = 9 * 64 * (1 * 8 + 8 * 16)
    multiplications += 9 * 16 * (2 * 16 * 16 + 16 * 16)
    multiplications += 9 * 4 * (2 * 16 * 16 + 16 * 32 + 2 * 32 * 32)
    assert studied.multiplications == multiplications + 32 * 10
    weights, _ = read_tensors(studied.run.folder / "checkpoint.safetensors")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    learned = [value.numel() for name, value in weights.items() if not name.endswith(buffers)]
    assert studied.parameters == sum(learned)


def test_interval_is_wilsons(studied: Study) -> None:
    share, count, z = studied.classification.accuracy, studied.classification.images, 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    half = z * spread
    assert studied.interval == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_history_has_each_step_and_each_recorded_layer(run_folder: Path) -> None:
    history = read_history(run_folder)
    tensors, _ = read_tensors(run_folder / "history.safetensors")
    assert history.steps is not None
    np.testing.assert_array_equal(history.steps.loss, tensors["loss"])
    assert len(history.layers) > 5
    last = history.layers[-1]
    assert last.name == "head"
    np.testing.assert_array_equal(last.near_zero, tensors["activations.near_zero"][-1])
    assert last.span[0] < 0 < last.span[1]


def test_command_leaves_out_sections_without_history(run_folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run_folder, tmp_path / "old")
    (old / "history.safetensors").unlink()
    app = typer.Typer()
    app.command()(report_command)
    result = CliRunner().invoke(app, [str(old), "--device", "cpu", "--no-tta"])
    assert (result.exit_code, result.stdout.strip()) == (0, str(old / "report.html"))
    page = Page((old / "report.html").read_text())
    assert "Activations" not in page.headings
    assert "Schedule one-cycle" not in page.text
    assert "views" not in page.text
    assert "Model card" in page.headings


def test_page_of_a_run_without_recorded_activations_has_no_layers(
    studied: Study, digits8_run: Run
) -> None:
    history = read_history(digits8_run.folder)
    assert history.layers == ()
    page = Page(render(replace(studied, history=history)))
    assert "Activations" not in page.headings
    assert "Schedule one-cycle" in page.text


def test_markup_in_names_is_escaped(studied: Study) -> None:
    hostile = "<script>alert(1)</script>"
    dataset = replace(studied.dataset, name=hostile, skipped=(f"{hostile}: broken",))
    run = studied.run
    classes = ("<b>bold</b>", "a & b", *run.config.classes[2:])
    config = run.config.model_copy(update={"classes": classes})
    validation = run.data.validation
    logits = evaluate(run.network, validation.images, config.normalisation, CPU)
    labels = torch.from_numpy(validation.labels)
    classification = make_classification_report(logits, labels, classes, Calibrator())
    changed = replace(
        studied,
        dataset=dataset,
        run=replace(run, config=config),
        classification=classification,
        fitted_images=dict.fromkeys(classes, 1),
    )
    html = render(changed)
    assert "<script" not in html
    assert "<b>" not in html
    text = Page(html).text
    assert hostile in text
    assert "1 unreadable file was left out" in text
    assert "<b>bold</b>" in text
    assert "a & b" in text


def test_each_top_loss_has_an_image_and_two_maps(studied: Study) -> None:
    assert len(studied.explained) == 16
    losses = [each.top.loss for each in studied.explained]
    assert losses == sorted(losses, reverse=True)
    for each in studied.explained:
        assert each.image.startswith("data:image/png;base64,")
        assert len({each.image, each.predicted_map, each.rival_map}) == 3


@pytest.mark.parametrize(
    ("size", "form", "map_size"),
    [((8, 8), "png", (160, 160)), ((32, 24), "png", (160, 120)), ((320, 160), "jpeg", (160, 80))],
)
def test_small_images_keep_their_pixels_and_large_ones_are_reduced(
    size: tuple[int, int], form: str, map_size: tuple[int, int]
) -> None:
    height, width = size
    network = make_network(Recipe.load("digits8"), channels=3, classes=10).eval()
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    (top,) = make_classification_report(
        torch.randn(1, 10), torch.tensor([0]), [str(i) for i in range(10)], Calibrator()
    ).top_losses
    (explained,), _ = explain(network, Normalisation.of([images]), CPU, images, (top,))
    head, _, content = explained.image.partition(",")
    assert head == f"data:image/{form};base64"
    if form == "png":
        with Image.open(BytesIO(base64.b64decode(content))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), images[0])
    with Image.open(BytesIO(base64.b64decode(explained.rival_map.partition(",")[2]))) as overlaid:
        assert (overlaid.height, overlaid.width) == map_size


def test_maps_equal_the_services_overlay(studied: Study) -> None:
    worst = studied.explained[0]
    run = studied.run
    validation = run.data.validation
    image = validation.images[:][worst.top.index]
    graph = ServingGraph(run.network, run.config.normalisation, Calibrator())
    with torch.inference_mode():
        cams = graph(torch.from_numpy(image[None]))[2][0].numpy()
    assert cams.shape[1:] == studied.map_shape
    large = Image.fromarray(image[..., 0]).resize((160, 160), Image.Resampling.NEAREST)
    for index, shown in (
        (worst.top.predicted, worst.predicted_map),
        (worst.top.rival, worst.rival_map),
    ):
        view = View(0, 0, 160, 160)
        expected = overlay(large, cams[index], view, opacity=0.5, colormap="turbo")
        with Image.open(BytesIO(base64.b64decode(shown.partition(",")[2]))) as picture:
            difference = np.asarray(picture, np.int64) - np.asarray(expected, np.int64)
        # JPEG is lossy.
        assert np.abs(difference).mean() < 5


def test_folder_without_a_run_is_rejected_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        write_report(read_run(tmp_path))
    assert not list(tmp_path.iterdir())


def test_blocked_report_is_an_error_before_the_slow_work(run_folder: Path, tmp_path: Path) -> None:
    blocked = shutil.copytree(run_folder, tmp_path / "blocked")
    (blocked / "report.html").unlink(missing_ok=True)
    (blocked / "report.html").mkdir()
    with pytest.raises(UnwritableError, match=r"cannot be written: .* limelight report"):
        write_report(
            read_run(blocked), device="nowhere", tta=False
        )  # the slow work would reject the device
    assert not list(blocked.glob("*.part"))


def test_numbers_are_formatted_for_readers() -> None:
    assert [amount(number) for number in (999, 122_370, 1_122_250, 3.6e9)] == [
        "999",
        "122,370",
        "1.12 million",
        "3.6 billion",
    ]
    assert [duration(seconds) for seconds in (4.24, 59.96, 200, 3600, 7499.6)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "2 h 05 min",
    ]
    assert percent(0.98765, 2) == "98.77%"
    fields = {"a": 1, "table": {"b": (1, 2), "c": True, "d": ()}, "e": None}
    assert list(flattened(fields)) == [
        ("a", "1"),
        ("table.b", "1, 2"),
        ("table.c", "yes"),
        ("table.d", "default"),
        ("e", "none"),
    ]
