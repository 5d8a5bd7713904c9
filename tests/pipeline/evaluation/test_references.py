"""Maps compared with those of torchcam and pytorch-grad-cam, on the same networks.

CAM and Grad-CAM are compared on small networks of `models` with random weights, where the maps are
mathematically equal. Score-CAM weights channels by a softmax of logits, which is almost uniform
with random weights, so it is compared on the shipped models and the examples.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchcam import methods as torchcam

from limelight.artifact.store import load_artifact, newest_version
from limelight.explanations.interpolation import bilinear
from limelight.explanations.scorecam import score_cam, strongest_channels, unveil
from limelight.imaging.decoding import decode
from limelight.imaging.preprocessing import prepare
from limelight.runtime.engine import Engine
from models import ClassMapNetwork, NetworkOptions, build_network
from models.heads import ClassMapHead
from pipeline.errors import RunError
from pipeline.runs.exported import Trained, read_trained
from service.settings import Settings

CLASSES = 5
ROOT = Path(__file__).parents[3]
Map = NDArray[np.float32]


@pytest.fixture(params=["resnet", "conv-bn-net"])
def network(request: pytest.FixtureRequest) -> ClassMapNetwork:
    """Network with average pooling and normalisation layers that are not at their defaults."""
    widths = (8, 8, 12, 16)
    torch.manual_seed(0)
    options = NetworkOptions(architecture=request.param, widths=widths, pool="average")
    made = build_network(options, in_channels=3, classes=CLASSES)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.2)
    return made.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def our_maps(network: ClassMapNetwork, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.head.class_activation_maps(network.features(images))


def as_theirs(map_hw: Map, size: int) -> Map:
    """Scale a map as pytorch-grad-cam does: without negative values, 0 to 1, at image size."""
    enlarge = bilinear(len(map_hw), size)
    enlarged = enlarge @ _scaled(np.maximum(map_hw, 0)) @ enlarge.T
    return _scaled(enlarged.astype(np.float32))


def _scaled(map_hw: Map) -> Map:
    above: Map = map_hw - map_hw.min()
    scaled: Map = above / (above.max() + np.float32(1e-7))
    return scaled


def test_class_activation_maps_equal_torchcams(network: ClassMapNetwork, images: Tensor) -> None:
    ours = our_maps(network, images)
    assert len(torch.unique(ours)) > 100
    with torchcam.CAM(network, "features", "head.linear") as extractor:
        with torch.inference_mode():
            network(images)
        for index in range(CLASSES):
            (theirs,) = extractor(class_idx=index, normalized=False)
            torch.testing.assert_close(theirs, ours[:, index], rtol=1e-5, atol=1e-6)


def test_torchcams_grad_cam_is_our_positive_map_divided_by_its_positions(
    network: ClassMapNetwork, images: Tensor
) -> None:
    ours = our_maps(network, images)
    positions = ours.shape[2] * ours.shape[3]
    with torchcam.GradCAM(network, "features") as extractor:
        for index in range(CLASSES):
            scores = network(images)
            (theirs,) = extractor(class_idx=index, scores=scores, normalized=False)
            expected = ours[:, index].clamp(min=0) / positions
            torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-7)


def test_grad_cam_weights_are_the_heads_divided_by_the_positions(
    network: ClassMapNetwork, images: Tensor
) -> None:
    """The mean over (h, w) has the derivative 1 / (h w) everywhere, and the head is linear."""
    head = network.head
    assert isinstance(head, ClassMapHead)
    with GradCAM(network, [network.features]) as extractor:
        for index in range(CLASSES):
            extractor(images, [ClassifierOutputTarget(index)] * len(images))
            (gradients,) = extractor.activations_and_grads.gradients
            weights = extractor.get_cam_weights(None, None, None, None, gradients.numpy())
            positions = gradients.shape[2] * gradients.shape[3]
            assert positions > 1
            expected = head.linear.weight[index].detach().numpy() / positions
            np.testing.assert_allclose(
                weights, np.broadcast_to(expected, weights.shape), rtol=1e-4, atol=1e-8
            )


def test_pytorch_grad_cam_equals_our_positive_map_scaled_to_its_peak(
    network: ClassMapNetwork, images: Tensor
) -> None:
    ours = our_maps(network, images).numpy()
    with GradCAM(network, [network.features]) as extractor:
        for index in range(CLASSES):
            theirs = extractor(images, [ClassifierOutputTarget(index)] * len(images))
            for map_hw, shown in zip(ours[:, index], theirs, strict=True):
                np.testing.assert_allclose(shown, as_theirs(map_hw, 32), atol=1e-4)


class Example:
    """Shipped example image, with the outputs that Score-CAM needs."""

    def __init__(self, model: str, file: str) -> None:
        folder = newest_version(Settings().models / model)
        self.trained: Trained = read_trained(folder)
        self.engine = Engine(load_artifact(folder), device="cpu")
        photo = decode((ROOT / "examples" / file).read_bytes(), max_pixels=10_000_000).image
        self.pixels_hwc, _ = prepare(photo, self.trained.manifest.image)
        found = self.engine.run(self.pixels_hwc[None], ["logits", "features"])
        self.logits, features = found["logits"][0], found["features"][0]
        varying = strongest_channels(features, len(features))
        self.features, self.constant = features[varying], np.delete(features, varying, 0)

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean colour of the data set, from 0 to 255."""
        return np.float32(255) * np.array(self.trained.normalisation.mean, np.float32)

    @property
    def input(self) -> Tensor:
        """Input of the torch network."""
        to_input = self.trained.normalisation.on(torch.device("cpu"))
        return to_input(torch.from_numpy(self.pixels_hwc.copy())[None])

    def classes(self) -> list[int]:
        """Return the most probable class, the second, and the least probable."""
        order = np.argsort(-self.logits)
        return [int(order[0]), int(order[1]), int(order[-1])]

    def ours(self, index: int, *, over_data_mean: bool) -> Map:
        """Compute our Score-CAM, masked with the data set's mean colour or with the image's own."""
        masked = unveil(self.pixels_hwc, self.features, self.mean if over_data_mean else None)
        return score_cam(self.features, self.engine.run(masked, ["logits"])["logits"][:, index])

    def ours_with_constant_channels(self, index: int) -> Map:
        """Compute Score-CAM as torchcam does, with the channels that mask the whole image."""
        masked = unveil(self.pixels_hwc, self.features, self.mean)
        blank = np.broadcast_to(np.rint(self.mean).astype(np.uint8), masked.shape[1:])
        images = np.stack([*masked, *[blank] * len(self.constant)])
        features = np.concatenate([self.features, self.constant])
        return score_cam(features, self.engine.run(images, ["logits"])["logits"][:, index])

    def pytorch_grad_cams(self, index: int) -> Map:
        network = self.trained.network
        with (
            ScoreCAM(network, [network.features]) as extractor,
            contextlib.redirect_stderr(io.StringIO()),  # its progress bar
            torch.inference_mode(),
        ):
            found: Map = extractor(self.input, [ClassifierOutputTarget(index)])[0]
        return found


@pytest.fixture(
    scope="module",
    params=[("cifar10", "cat.png"), ("digits", "seven.png"), ("digits", "two.png")],
    ids=lambda each: each[1],
)
def example(request: pytest.FixtureRequest) -> Example:
    return Example(*request.param)


def test_network_read_from_weights_equals_the_served_one(example: Example) -> None:
    with torch.inference_mode():
        logits = example.trained.network(example.input)[0]
    np.testing.assert_allclose(logits, example.logits, atol=1e-4)


def test_folder_without_a_network_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run nor an artefact"):
        read_trained(tmp_path)


class ByteInput(nn.Module):
    """Network whose input is rounded to bytes, as every input of the service is."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.network = trained.network
        scale, shift = trained.normalisation.scale_and_shift()
        self.scale, self.shift = scale[:, None, None], shift[:, None, None]

    def forward(self, input_nchw: Tensor) -> Tensor:
        grey_levels = ((input_nchw - self.shift) / self.scale).round()
        logits: Tensor = self.network(grey_levels * self.scale + self.shift)
        return logits


def test_score_cam_equals_torchcams_when_masked_with_the_data_sets_mean(example: Example) -> None:
    network = ByteInput(example.trained)
    for index in example.classes():
        with torchcam.ScoreCAM(network, "network.features") as extractor, torch.inference_mode():
            network(example.input)
            (theirs,) = extractor(class_idx=index, normalized=False)
        ours = example.ours_with_constant_channels(index)
        # The runtimes' logits may differ by 1e-4, as above, and differ by that on a processor
        # without AVX-512. That changes a weight, which is a softmax of logits, by 2e-4 of itself.
        np.testing.assert_allclose(ours, theirs[0], atol=2e-4 * float(theirs.max()))


def test_score_cam_agrees_with_pytorch_grad_cams_except_for_mask_interpolation(
    example: Example,
) -> None:
    """Theirs aligns the corner cells of a mask with the image's corners."""
    winner = example.classes()[0]
    theirs = example.pytorch_grad_cams(winner)
    ours = as_theirs(example.ours(winner, over_data_mean=True), len(theirs))
    assert correlation(ours, theirs) > 0.995
    assert at_peak(theirs, of=ours) > 0.95


def test_score_cam_masked_with_the_images_own_mean_is_close_but_not_equal(
    example: Example,
) -> None:
    """Our choice: in an image of other colours, the data set's mean colour is itself a feature."""
    winner = example.classes()[0]
    theirs = example.pytorch_grad_cams(winner)
    own, of_the_data = (example.ours(winner, over_data_mean=each) for each in (False, True))
    assert not np.allclose(own, of_the_data, rtol=1e-3)
    ours = as_theirs(own, len(theirs))
    assert correlation(ours, theirs) > 0.9
    assert at_peak(theirs, of=ours) > 0.75


def correlation(one: Map, other: Map) -> float:
    """Compute Spearman's rank correlation."""
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def at_peak(theirs: Map, *, of: Map) -> float:
    """Return the value, 0 to 1, of `theirs` at the peak of `of`; close peaks may swap places."""
    height: float = theirs[np.unravel_index(of.argmax(), of.shape)]
    return height
