"""Weights of a backbone from a file, and a run with them until its export."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import limelight
from pipeline.errors import RunError
from pipeline.exporting.export import export
from pipeline.runs.backbone_weights import (
    BackboneWeights,
    initialise_from_file,
    read_backbone_weights,
)
from pipeline.runs.exported import read_trained
from pipeline.runs.run import read_run
from pipeline.runs.run_plan import plan_run
from pipeline.training.recipe import Recipe
from tests.pipeline.data.test_registry import make_folder

WITHOUT_TIMM = "timm is not installed: pip install 'limelight[timm]'"


def read(file: Path, architecture: str, *, channels: int = 3) -> BackboneWeights:
    recipe = Recipe.load("folder", network={"architecture": architecture})
    return read_backbone_weights(file, recipe, channels=channels, classes=4)


def published(name: str = "resnet18", seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state: dict[str, Tensor] = torchvision.models.get_model(name, weights=None).state_dict()
    return state


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    return published()


SAVED: dict[str, Callable[[dict[str, Tensor], Path], Any]] = {
    "a.safetensors": save_file,
    "a.pth": torch.save,
    "a.ckpt": lambda state, file: torch.save({"epoch": 3, "state_dict": state}, file),
    "a.pt": lambda state, file: torch.save(
        {"model": {f"module.{name}": value for name, value in state.items()}}, file
    ),
    "half.pth": lambda state, file: torch.save(
        {name: value.half() for name, value in state.items()}, file
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_features_get_the_weights_of_a_file(
    name: str, resnet18: dict[str, Tensor], tmp_path: Path
) -> None:
    SAVED[name](resnet18, tmp_path / name)
    found = read(tmp_path / name, "torchvision:resnet18")
    assert set(found.weights) == {
        f"features.{number}.{key.partition('.')[2]}"
        for number, child in enumerate(
            ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        )
        for key in resnet18
        if key.startswith(f"{child}.")
    }
    first = found.weights["features.0.weight"]
    assert first.dtype == torch.float32
    torch.testing.assert_close(first, resnet18["conv1.weight"], rtol=1e-3, atol=1e-4)
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert found.record == f"{name} sha256:{digest}"


def test_older_file_without_counters_of_batches_fits(
    resnet18: dict[str, Tensor], tmp_path: Path
) -> None:
    older = {name: value for name, value in resnet18.items() if "num_batches" not in name}
    torch.save(older, tmp_path / "a.pth")
    assert len(read(tmp_path / "a.pth", "torchvision:resnet18").weights) == 100


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        (
            "torchvision:resnet34",
            "120 of the 216 .*first that do not: layer1.2.conv1.weight is mis",
        ),
        ("torchvision:resnet50", r"layer1.0.conv1.weight is 64x64x3x3 instead of 64x64x1x1; "),
        ("torchvision:wide_resnet50_2", "Give weights of this network"),
        ("resnet", "resnet takes no file of weights: choose an --arch timm:NAME or torchvision:"),
    ],
)
def test_weights_of_another_network_are_refused(
    architecture: str, words: str, resnet18: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(resnet18, tmp_path / "a.pth")
    with pytest.raises(RunError, match=words):
        read(tmp_path / "a.pth", architecture)


def test_weights_of_a_deeper_network_are_refused_although_all_tensors_are_there(
    tmp_path: Path,
) -> None:
    torch.save(published("resnet34"), tmp_path / "a.pth")
    with pytest.raises(RunError, match=r"120 of the 120 .*layer1.2.conv1.weight is of no layer in"):
        read(tmp_path / "a.pth", "torchvision:resnet18")


class Evil:
    """Would write a file if it were unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


def test_nothing_in_a_file_is_executed(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(resnet18 | {"more": Evil(tmp_path / "executed")}, tmp_path / "a.pth")
    with pytest.raises(RunError, match="holds more than tensors, which is never executed: save"):
        read(tmp_path / "a.pth", "torchvision:resnet18")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.safetensors", b"xx", "a.safetensors cannot be read"),
        ("a.pth", b"", "damaged, or no file of weights"),
        ("a.pth", b"no weights", "is no state dict"),
        ("a.pth", b"PK\x03\x04", "damaged, or no file of weights"),
        ("b.pth", None, "cannot be read: No such file"),
    ],
)
def test_file_without_weights_is_refused(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=words):
        read(tmp_path / name, "torchvision:resnet18")


def test_list_of_tensors_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(RunError, match="holds no state dict: save"):
        read(tmp_path / "a.pth", "torchvision:resnet18")


def test_grey_network_takes_all_but_the_first_layer(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason=WITHOUT_TIMM)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "a.safetensors")
    colour, grey = (
        read(tmp_path / "a.safetensors", "timm:test_resnet", channels=n).weights for n in (3, 1)
    )
    assert colour.keys() - grey.keys() == {"features.0.model.conv1.0.weight"}


def test_run_from_a_file_is_exported_and_rebuilt_without_the_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason=WITHOUT_TIMM)
    torch.manual_seed(3)
    state = timm.create_model("test_resnet").state_dict()
    (tmp_path / "private").mkdir()
    file = tmp_path / "private" / "a.safetensors"
    save_file(state, file)
    make_folder(tmp_path / "photos", images=24, size=(64, 60))
    recipe = Recipe.load(
        "folder", network={"architecture": "timm:test_resnet"}, epochs=1, batch_size=8
    )
    plan = plan_run(
        str(tmp_path / "photos"), recipe_name="folder", recipe=recipe, seed=0,
        device=torch.device("cpu"), image_size=96,
    )  # fmt: skip
    plan = initialise_from_file(plan, file)
    begun = plan.trainer().network.state_dict()
    for published_name, value in state.items():
        if not published_name.startswith("fc."):
            torch.testing.assert_close(begun[f"features.0.model.{published_name}"], value)
    with pytest.raises(RunError, match="one source: leave out --weights or the other"):
        initialise_from_file(plan, file)
    plan.train(tmp_path / "run")
    file.unlink()
    run = read_run(tmp_path / "run")
    folder = export(run, tmp_path / "artifacts", layercam=False)
    manifest = (folder / "manifest.json").read_text()
    record = json.loads(manifest)["training"]["network"]["weights"]
    assert record.startswith("a.safetensors sha256:")
    assert "private" not in manifest
    rebuilt = read_trained(folder)
    with Image.open(next((tmp_path / "photos").rglob("*.png"))) as image:
        classifier = limelight.load(folder, device="cpu")
        upload = classifier.read(image)
        explained = classifier.explain(image)
    pixels_nchw = rebuilt.normalisation.on(torch.device("cpu"))(
        torch.from_numpy(upload.pixels_hwc.copy())[None]
    )
    with torch.inference_mode():
        features = rebuilt.network.features(pixels_nchw)
        maps = rebuilt.network.head.class_activation_maps(features)[0]
        logits = rebuilt.network(pixels_nchw)[0]
    np.testing.assert_allclose(explained.cam.values, maps[explained.cam.index], atol=1e-4)
    torch.testing.assert_close(maps.mean((1, 2)) + rebuilt.network.head.bias, logits)
