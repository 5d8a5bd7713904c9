"""Layer summary, compared with fastbook's figures, torch's counter and the gradient's extent."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typer import Typer
from typer.testing import CliRunner

from models import ARCHITECTURES, ClassMapNetwork, NetworkOptions, build_network
from models.heads import ClassMapHead
from models.options import Norm
from pipeline.cli.commands.summary import data_shape, summary
from pipeline.data.registry import DATASETS, load_dataset
from pipeline.errors import PipelineError
from pipeline.evaluation.layers.layer_summary import LayerSummary, render, summarise
from pipeline.evaluation.layers.receptive_field import ReceptiveField
from tests.serving_kit import REPOSITORY

ALL = [*sorted(ARCHITECTURES), "torchvision:resnet18"]


def build(
    name: str, *, in_channels: int = 3, classes: int = 10, norm: Norm = "batch"
) -> ClassMapNetwork:
    options = NetworkOptions(architecture=name, norm=norm)
    return build_network(options, in_channels=in_channels, classes=classes)


@pytest.fixture
def three_or_seven() -> list[LayerSummary]:
    """Summary of the convolutions of fastbook's chapter 13."""
    network = build("three-or-seven", in_channels=1, classes=2, norm="none")
    return [row for row in summarise(network, 1, 28, 28) if row.kind == "Conv2d"]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_activation_behind_a_norm_over_positions_depends_on_the_whole_image(norm: Norm) -> None:
    rows = summarise(build("resnet", norm=norm), 3, 32, 32)
    at = next(number for number, row in enumerate(rows) if row.kind == "GroupNorm")
    fields = [row.receptive_field for row in rows]
    assert fields[0].size == 3
    for field in fields[at:]:
        assert field.pixels(0, 32) == range(32)


def test_parameters_equal_fastbooks(three_or_seven: list[LayerSummary]) -> None:
    assert [row.parameters for row in three_or_seven] == [40, 296, 1168, 4640, 578]


def test_output_shapes_equal_fastbooks(three_or_seven: list[LayerSummary]) -> None:
    shapes = [(4, 14, 14), (8, 7, 7), (16, 4, 4), (32, 2, 2), (2, 1, 1)]
    assert [row.output_shape for row in three_or_seven] == shapes


def test_multiplications_on_the_input_equal_fastbooks(
    three_or_seven: list[LayerSummary],
) -> None:
    # "196*288=56_448 multiplications at this layer", and 7*7*(1168-16) at the next.
    second, third = three_or_seven[1:3]
    assert second.multiplications_on_its_input == third.multiplications_on_its_input == 56_448


def test_receptive_field_of_two_strided_convolutions_is_7x7(
    three_or_seven: list[LayerSummary],
) -> None:
    field = three_or_seven[1].receptive_field
    assert (field.size, field.jump) == (7, 4)


@pytest.mark.parametrize("name", ALL)
def test_multiplications_are_half_of_torchs_flop_count(name: str) -> None:
    network = build(name).eval()
    rows = summarise(network, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 32, 32))
    assert 2 * sum(row.multiplications for row in rows) == counter.get_total_flops()


@pytest.mark.parametrize("name", ALL)
def test_each_parameter_is_counted_once(name: str) -> None:
    network = build(name)
    counted = sum(row.parameters for row in summarise(network, 3, 32, 32))
    assert counted == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["three-or-seven", "simple-cnn", "convnet", "resnet-max"])
def test_receptive_field_equals_the_extent_of_the_gradient(name: str) -> None:
    options = NetworkOptions(architecture=name, widths=(2, 2, 2), norm="none")
    network = build_network(options, in_channels=1, classes=2)
    for parameter in network.parameters():  # no ReLU and no sum hides a pixel
        nn.init.constant_(parameter, 0.1)
    image = torch.ones(1, 1, 127, 127, requires_grad=True)
    features = network.features(image)
    middle = features.shape[2] // 2
    features[0, 0, middle, middle].backward()
    assert image.grad is not None
    extent = int((image.grad[0, 0] != 0).any(0).sum())
    rows = summarise(network, 1, 127, 127)
    field = [row for row in rows if row.name.startswith("features")][-1].receptive_field
    assert field.size == extent


def test_receptive_field_of_resnet_18_is_435_pixels() -> None:
    # As computed by Araujo et al. (Distill, 2019); the jump is the network's stride of 32.
    rows = summarise(build("torchvision:resnet18"), 3, 64, 64)
    last = [row for row in rows if row.name.startswith("features")][-1].receptive_field
    assert (last.size, last.jump) == (435, 32)


def test_layer_behind_global_pooling_depends_on_the_whole_image() -> None:
    *_, linear = summarise(build("resnet"), 3, 32, 32)
    assert linear.name == "head.linear"
    assert linear.receptive_field.is_whole


def extents(network: ClassMapNetwork, side: int) -> dict[str, range]:
    """Find the pixels that the first activation of each convolution has a gradient to."""
    outputs: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, __, output, at=name: outputs.update({at: output})
            )
    image = torch.rand(1, 3, side, side, requires_grad=True)
    network(image)
    found = {}
    for name, output in outputs.items():
        (gradient,) = torch.autograd.grad(output[0, :, 0, 0].sum(), image, retain_graph=True)
        (seen,) = gradient[0].any(0).any(0).nonzero(as_tuple=True)
        found[name] = range(int(seen.min()), int(seen.max()) + 1)
    return found


class Gate(nn.Module):
    """Gate of squeeze-and-excitation, without a layer behind the mean."""

    def __init__(self, *, keepdim: bool) -> None:
        super().__init__()
        self.reduce, self.keepdim = nn.Conv2d(8, 8, 1), keepdim

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.reduce(x).mean((2, 3), keepdim=self.keepdim))


class Mean(nn.Module):
    """Pooling without a name that is known."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Shift(nn.Module):
    """Block whose branch sees the whole image."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.conv = branch, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.branch(x)
        out: Tensor = self.conv(x + (seen[..., None, None] if seen.ndim == 2 else seen))
        return out


@pytest.mark.parametrize(
    "middle",
    [
        Shift(Gate(keepdim=True)),
        Shift(Gate(keepdim=False)),
        Shift(Mean()),
        Shift(nn.AdaptiveAvgPool2d(1)),
        nn.InstanceNorm2d(8),
        nn.GroupNorm(2, 8),
        nn.LocalResponseNorm(2),
        nn.Sequential(nn.BatchNorm2d(8), nn.GELU(), nn.Dropout2d()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_receptive_fields_behind_unknown_layers_equal_the_extent_of_the_gradient(
    middle: nn.Module,
) -> None:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1), middle, nn.Conv2d(8, 4, 3, padding=1)
    )
    network = ClassMapNetwork(features, ClassMapHead(4, 2)).eval()
    rows = {row.name: row.receptive_field.pixels(0, 32) for row in summarise(network, 3, 32, 32)}
    found = extents(network, 32)
    assert {name: rows[name] for name in found} == found


class Add(nn.Module):
    """Layer of two inputs."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x + other


class Twice(nn.Module):
    """Block that gives its input to a layer of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.add(x, x)
        return out


def fields_behind(middle: nn.Module) -> list[ReceptiveField]:
    features = nn.Sequential(nn.Conv2d(3, 8, 3), middle, nn.Conv2d(8, 4, 1))
    network = ClassMapNetwork(features, ClassMapHead(4, 2))
    rows = summarise(network, 3, 32, 32)
    return [row.receptive_field for row in rows if row.name.startswith("features")]


def test_norm_over_positions_counts_also_if_its_weight_is_zero() -> None:
    norm = nn.GroupNorm(2, 8)
    nn.init.zeros_(norm.weight)
    assert [field.is_whole for field in fields_behind(norm)] == [False, True, True]


def test_pooling_to_a_few_positions_counts_as_the_whole_image() -> None:
    fields = fields_behind(nn.AdaptiveMaxPool2d(2))
    assert [field.is_whole for field in fields] == [False, True, True]


def test_layer_of_two_inputs_has_the_field_of_the_first() -> None:
    assert [field.size for field in fields_behind(Twice())] == [3, 3, 3]


def test_norm_over_channels_does_not_count_on_a_map_of_one_position() -> None:
    *_, last = [
        row
        for row in summarise(build("timm:test_convnext"), 3, 32, 32)
        if row.name.startswith("features") and row.output_shape[1:] == (1, 1)
    ]
    assert not last.receptive_field.is_whole


def test_summary_draws_no_random_numbers() -> None:
    network = build("resnet", norm="group")
    before = torch.get_rng_state()
    summarise(network, 3, 32, 32)
    assert torch.equal(torch.get_rng_state(), before)


def test_receptive_fields_behind_squeeze_and_excitation_equal_the_extent_of_the_gradient() -> None:
    torch.manual_seed(0)
    network = build("timm:test_efficientnet").eval()
    rows = {row.name: row.receptive_field.pixels(0, 64) for row in summarise(network, 3, 64, 64)}
    found = extents(network, 64)
    assert {name: rows[name] for name in found} == found
    assert any(".se." in name for name in found)
    # Not all are whole: those before the first mean over all positions see a part.
    assert 1 < sum(extent != range(64) for extent in found.values()) < len(found)


@pytest.mark.parametrize("name", ["three-or-seven", "simple-cnn"])
def test_image_may_have_a_single_pixel(name: str) -> None:
    first, *_ = summarise(build(name), 3, 1, 1)
    assert first.output_shape[1:] == (1, 1)
    assert first.receptive_field.pixels(0, 1) == range(1)


def test_summary_does_not_change_the_network() -> None:
    network = build("resnet-max").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    summarise(network, 3, 32, 32)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert not any(module._forward_pre_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_too_small_images_are_rejected() -> None:
    with pytest.raises(PipelineError, match=r"not accept images of 28x28 .*another size"):
        summarise(build("simplenet"), 3, 28, 28)


def test_table_ends_with_totals(three_or_seven: list[LayerSummary]) -> None:
    text = io.StringIO()
    Console(file=text, width=120).print(render(three_or_seven))
    total = next(line for line in text.getvalue().splitlines() if "total" in line)
    assert "6,722" in total
    assert f"{sum(row.multiplications for row in three_or_seven):,}" in total


def printed(*arguments: str) -> str:
    app = Typer()
    app.command()(summary)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_accepts_a_recipe_and_uses_its_data_shape() -> None:
    output = printed("digits8")
    assert "8x8x8" in output
    assert "…" not in output


def test_command_accepts_an_architecture_and_a_shape() -> None:
    output = printed("convnet", "--image-size", "28", "--channels", "1", "--classes", "3")
    assert "20x13x13" in output


def test_command_rejects_unknown_names() -> None:
    with pytest.raises(PipelineError, match=r"model 'resnet3'; recipes: cifar10, .*: resnet, "):
        printed("resnet3")
    with pytest.raises(PipelineError, match="no architecture torchvision:vgg; there are: resnet"):
        printed("torchvision:vgg")


def test_command_accepts_a_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    shipped = REPOSITORY / "pipeline" / "training" / "recipes" / "digits8.toml"
    file.write_text(shipped.read_text())
    assert printed(str(file)) == printed("digits8")


def test_data_shapes_are_known_without_the_images() -> None:
    digits = load_dataset("digits8")
    shape = digits.image.channels, digits.image.height, digits.image.width, 10
    assert data_shape("digits8") == shape
    assert data_shape("mnist37") == (1, 28, 28, 2)
    assert data_shape("cats-and-dogs") == (3, 64, 64, 2)
    assert {data_shape(name)[0] for name in DATASETS} == {1, 3}
    assert data_shape("folder") == (3, 64, 64, 10)


class NormWithActivation(nn.BatchNorm2d):
    """A layer with a layer inside, as timm has them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.act(super().forward(images))
        return out


def test_parameters_of_a_layer_with_layers_inside_are_counted() -> None:
    features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), NormWithActivation(8))
    network = ClassMapNetwork(features, ClassMapHead(8, 4))
    rows = {row.name: row for row in summarise(network, 3, 16, 16)}
    assert rows["features.1"].parameters == 16
    assert rows["features.1"].output_shape == (8, 16, 16)
    total = sum(row.parameters for row in rows.values())
    assert total == sum(parameter.numel() for parameter in network.parameters())
