"""Report and export of few images: the work is in proportion to the images, and is shown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torch import Tensor, nn

from limelight.artifact.store import load_artifact
from limelight.runtime.engine import Engine
from pipeline.exporting.export import export
from pipeline.report.page import render
from pipeline.report.study import Study, study
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_plan import plan_run
from pipeline.training.recipe import Recipe
from tests.pipeline.training.small_trainings import CPU

Steps = list[tuple[str, int, int]]


def make_shapes(folder: Path, images: int = 140, side: int = 32) -> Path:
    """A folder of circles, squares and stripes on noise."""
    rng = np.random.default_rng(0)
    for number in range(images):
        name = ("circle", "square", "stripes")[number % 3]
        noise = rng.normal(rng.uniform(80, 170), 25, (side, side, 3)).clip(0, 255)
        picture = Image.fromarray(noise.astype(np.uint8))
        pen = ImageDraw.Draw(picture)
        left, top, *colour = rng.integers(2, [10, 10, 256, 256, 256]).tolist()
        right, bottom, ink = left + 18, top + 18, tuple(colour)
        if name == "circle":
            pen.ellipse((left, top, right, bottom), fill=ink)
        elif name == "square":
            pen.rectangle((left, top, right, bottom), fill=ink)
        else:
            for row in range(top, bottom, 5):
                pen.line((left, row, right, row), fill=ink, width=2)
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture.save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _as_many_images_as_published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use the published numbers of images, and no data set of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("pipeline.evaluation.maps.faithfulness.EXPLAINED", 128)
        patch.setattr("pipeline.evaluation.ood_detection.OOD_IMAGES", 1000)
        patch.setattr("pipeline.evaluation.robustness.CORRUPTED", 1000)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("small")
    source = make_shapes(folder / "shapes")
    recipe = Recipe.load("folder", epochs=2, batch_size=16, network__widths=(8, 8, 12, 16))
    plan = plan_run(
        str(source), recipe_name="folder", recipe=recipe, seed=0, device=CPU, image_size=32
    )
    plan.train(folder / "run")
    return read_run(folder / "run", data=plan.data)


@pytest.fixture(scope="module")
def studied(run: Run) -> tuple[Study, Steps, int]:
    """The study of the run, its steps, and the number of images that the network evaluated."""
    evaluated, steps = [0], Steps()

    def count(head: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        evaluated[0] += len(logits)

    hook = run.network.head.register_forward_hook(count)
    found = study(run, device="cpu", progress=lambda *step: steps.append(step))
    hook.remove()
    return found, steps, evaluated[0]


def test_report_evaluates_few_images_for_each_validation_image(
    run: Run, studied: tuple[Study, Steps, int]
) -> None:
    found, _, evaluated = studied
    validation = len(run.data.validation)
    assert validation == 17
    assert evaluated < 200 * validation + len(run.data.fit)
    # What is shown says how many images it was measured on.
    assert found.trust.faithfulness.images == validation
    counts = {kind: each.images for kind, each in found.trust.ood_score.against.items()}
    assert set(counts.values()) == {5 * validation}


def test_report_names_the_file_of_each_highest_loss(
    run: Run, studied: tuple[Study, Steps, int]
) -> None:
    page = render(studied[0])
    assert len(studied[0].explained) == 16
    for each in studied[0].explained:
        assert each.file == run.data.validation.files[each.top.index]
        assert f'<p class="small file">{each.file}</p>' in page
    assert "no. " not in page


def test_report_tells_its_steps(studied: tuple[Study, Steps, int]) -> None:
    found, steps, _ = studied
    render(found, lambda *step: steps.append(step))
    assert list(dict.fromkeys(name for name, _, _ in steps)) == [
        "evaluating on 17 validation images",
        "evaluating with test-time augmentation",
        "choosing the OOD score",
        "playing the pointing game",
        "measuring the maps",
        "corrupting images",
        "drawing the figures",
    ]


def test_export_evaluates_few_images_for_each_image(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, steps, forward = [0], Steps(), Engine.run

    def counting(engine: Engine, images: Any, outputs: Sequence[str]) -> Any:
        evaluated[0] += len(images)
        return forward(engine, images, outputs)

    monkeypatch.setattr(Engine, "run", counting)
    folder = export(run, tmp_path, layercam=False, progress=lambda *step: steps.append(step))
    validation, test = len(run.data.validation), len(run.data.dataset.test)
    assert evaluated[0] < 300 * validation + 20 * test
    manifest = load_artifact(folder).manifest
    assert manifest.out_of_distribution is not None
    against = manifest.out_of_distribution.against
    assert {each.images for each in against.values()} == {5 * test}
    assert f"| noise | {5 * test} |" in (folder / "README.md").read_text()
    assert list(dict.fromkeys(name for name, _, _ in steps)) == [
        "calibrating on 17 validation images",
        "choosing the OOD score",
        "writing model.ts",
        "writing model.pt2",
        "writing model.onnx",
        f"comparing each format with eager torch on {test} test images",
        "playing the pointing game",
        "measuring the maps",
        "measuring OOD detection",
        "corrupting images",
    ]
