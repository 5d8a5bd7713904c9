"""Muon, against the singular value decomposition."""

import pytest
import torch

from pipeline.training.optimization import muon
from pipeline.training.optimization.muon import Muon, orthogonalised

SHAPES = [(32, 288), (176, 1008), (64, 64), (90, 20)]


def conditioned(rows: int, columns: int, *, smallest: float) -> torch.Tensor:
    """A random matrix with singular values from 1 to `smallest`, spaced geometrically."""
    torch.manual_seed(rows + columns)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    values = smallest ** torch.linspace(0, 1, len(v))
    matrix: torch.Tensor = u @ torch.diag(values) @ v
    return matrix


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_close_to_one(shape: tuple[int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalised(conditioned(*shape, smallest=0.3)))
    assert values.min() > 0.5
    assert values.max() < 1.25


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_are_those_of_the_decomposition(shape: tuple[int, int]) -> None:
    matrix = conditioned(*shape, smallest=0.3)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    # In the bases of the decomposition the matrix is diagonal.
    inside = u.T @ orthogonalised(matrix) @ v.T
    off_diagonal = inside - torch.diag(inside.diagonal())
    assert off_diagonal.abs().max() < 1e-4
    assert (inside.diagonal() > 0.5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_of_a_matrix_has_no_effect(shape: tuple[int, int]) -> None:
    matrix = conditioned(*shape, smallest=0.5)
    torch.testing.assert_close(
        orthogonalised(1000 * matrix), orthogonalised(matrix), rtol=1e-4, atol=1e-5
    )


def test_no_gradient_gives_no_direction() -> None:
    assert not orthogonalised(torch.zeros(4, 9)).any()


def test_a_step_is_the_orthogonalised_nesterov_momentum_at_a_fixed_norm() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 3, 3, 3))
    optimizer = Muon([weight], lr=0.1, momentum=0.6)
    expected, velocity = weight.detach().clone(), torch.zeros(8, 27)
    for _ in range(3):
        gradient = torch.randn(8, 3, 3, 3)
        weight.grad = gradient
        optimizer.step()
        velocity = 0.6 * velocity + gradient.view(8, 27)
        step = orthogonalised(gradient.view(8, 27) + 0.6 * velocity)
        expected = expected * 8**0.5 / expected.norm() - 0.1 * step.view(8, 3, 3, 3)
        torch.testing.assert_close(weight.detach(), expected)


def test_a_weight_without_a_gradient_stays() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 3, 3, 3))
    before = weight.detach().clone()
    Muon([weight], lr=0.1, momentum=0.6).step()
    assert torch.equal(weight, before)


def test_a_channels_last_kernel_takes_the_same_step() -> None:
    torch.manual_seed(0)
    values, gradient = torch.randn(8, 3, 3, 3), torch.randn(8, 3, 3, 3)
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(values.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=layout)
        Muon([weight], lr=0.1, momentum=0.6).step()
        weights.append(weight.detach())
    torch.testing.assert_close(*weights)


def test_compiled_step_is_the_same_and_compiles_once_for_all_rates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[object] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(muon._move, backend=keep, dynamic=False)
    torch.manual_seed(0)
    plain = [torch.nn.Parameter(torch.randn(8, 3, 3, 3)) for _ in range(2)]
    other = [torch.nn.Parameter(weight.detach().clone()) for weight in plain]
    optimizers = [Muon(weights, lr=0.0, momentum=0.6) for weights in (plain, other)]
    for rate in (0.1, 0.07, 0.02):
        gradients = [torch.randn(8, 3, 3, 3) for _ in plain]
        for optimizer, weights in zip(optimizers, (plain, other), strict=True):
            with monkeypatch.context() as patch:
                patch.setattr(muon, "compiles", lambda _, on=weights is other: on)
                patch.setattr(muon, "_compiled_move", lambda: compiled)
                optimizer.param_groups[0]["lr"] = rate
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient.clone()
                optimizer.step()
    for one, two in zip(plain, other, strict=True):
        torch.testing.assert_close(one, two)
    assert len(graphs) == 1
