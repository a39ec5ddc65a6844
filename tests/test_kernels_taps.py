"""Derivatives by differences: what is exact, what is not and by how much, and the published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods.kernels.taps import gradient_and_laplacian, tap_offsets

A = torch.tensor([[1.0, 0.3, 0.2], [0.3, -2.0, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64)
B = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
POINT = torch.tensor([[0.5, 0.1, 0.2]], dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * ((x @ A) * x).sum(dim=-1) + x @ B


def sphere(x: Tensor) -> Tensor:
    return x.norm(dim=-1) - 0.5


def derivatives(field, x: Tensor, eps: float, kind) -> tuple[Tensor, Tensor]:
    # The offsets again in float64: their float32 rounding is no part of the formula.
    offsets = tap_offsets(1.0, kind).double()
    offsets = offsets / offsets.norm(dim=-1, keepdim=True) * eps
    return gradient_and_laplacian(field(x), field(x[:, None] + offsets), eps, kind)


@pytest.mark.parametrize("kind", ["axes", "tetrahedron"])
@pytest.mark.parametrize("eps", [0.3, 0.1, 0.01])
def test_a_quadratics_laplacian_is_its_trace(kind, eps):
    x = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, laplacian = derivatives(quadratic, x, eps, kind)
    torch.testing.assert_close(laplacian, torch.full_like(laplacian, A.trace().item()), rtol=0, atol=1e-10)


def test_six_taps_give_a_quadratics_gradient_and_four_miss_it_by_the_mixed_derivative():
    gradient, _ = derivatives(quadratic, POINT, 0.1, "axes")
    truth = POINT @ A + B
    torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-12)
    gradient, _ = derivatives(quadratic, POINT, 0.1, "tetrahedron")
    error = [[0.1 / math.sqrt(3) * mixed for mixed in (A[1, 2], A[0, 2], A[0, 1])]]
    torch.testing.assert_close(gradient - truth, torch.tensor(error, dtype=torch.float64), rtol=0, atol=1e-12)
    assert error[0] == pytest.approx([0.00577, 0.01155, 0.01732], abs=5e-6)


@pytest.mark.parametrize(("eps", "published"), [(0.01, 3.65857), (0.003, 3.65360)])
def test_a_spheres_laplacian_by_four_taps_is_the_published_one(eps, published):
    _, laplacian = derivatives(sphere, POINT, eps, "tetrahedron")
    assert laplacian.item() == pytest.approx(published, abs=6e-6)
    assert 2 / POINT.norm().item() == pytest.approx(3.65148, abs=5e-6)


@pytest.mark.parametrize(("kind", "order"), [("axes", 2), ("tetrahedron", 1)])
def test_the_gradients_error_shrinks_with_the_order_of_the_method(kind, order):
    truth = POINT / POINT.norm()
    errors = [float((derivatives(sphere, POINT, eps, kind)[0] - truth).norm()) for eps in (0.02, 0.01)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("kind", ["axes", "tetrahedron"])
def test_every_tap_lies_eps_away_and_together_they_balance(kind):
    offsets = tap_offsets(0.25, kind)
    assert offsets.dtype == torch.float32
    torch.testing.assert_close(offsets.norm(dim=-1), torch.full((len(offsets),), 0.25))
    assert offsets.sum(dim=0).abs().max() == 0


@pytest.mark.parametrize("kind", ["axes", "tetrahedron"])
def test_float32_keeps_a_laplacian_to_the_rounding_of_the_values(kind):
    eps = 1 / 128
    values = [v.float() for v in (sphere(POINT), sphere(POINT[:, None] + tap_offsets(eps, kind).double()))]
    _, laplacian = gradient_and_laplacian(values[0], values[1], eps, kind)
    # Values of 0.05 are rounded by 2^-29; six or four of them are divided by eps^2 (a third of it for four).
    assert laplacian.item() == pytest.approx(2 / POINT.norm().item(), abs=8 * 3 * 2**-29 / eps**2 + 0.01)


def test_both_are_differentiable_in_the_values():
    centre = torch.rand(3, dtype=torch.float64, requires_grad=True)
    taps = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, t: gradient_and_laplacian(c, t, 0.1), (centre, taps))


@pytest.mark.parametrize("kind", ["axes", "tetrahedron"])
def test_no_points_give_none(kind):
    count = len(tap_offsets(1.0, kind))
    gradient, laplacian = gradient_and_laplacian(torch.zeros(0), torch.zeros(0, count), 0.1, kind)
    assert (gradient.shape, laplacian.shape) == ((0, 3), (0,))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(2), torch.zeros(2, 6), 0.1), ValueError, r"centre must be \[N\] and taps \[N, 4\], got \[2\]"),
        ((torch.zeros(2, 1), torch.zeros(2, 4), 0.1), ValueError, r"got \[2, 1\] and \[2, 4\]"),
        ((torch.zeros(3), torch.zeros(2, 4), 0.1), ValueError, r"got \[3\] and \[2, 4\]"),
        ((torch.zeros(2).half(), torch.zeros(2, 4).half(), 0.1), TypeError, "float32 or float64, got torch.float16"),
        ((torch.zeros(2), torch.zeros(2, 4).double(), 0.1), TypeError, "got torch.float32 and torch.float64"),
        ((torch.zeros(2), torch.zeros(2, 4), 0.0), ValueError, "eps must be above 0 and finite, got 0.0"),
        ((torch.zeros(2), torch.zeros(2, 4), math.nan), ValueError, "got nan"),
        ((torch.zeros(2), torch.zeros(2, 4), 0.1, "cube"), ValueError, r"one of \('axes', 'tetrahedron'\), got 'cube'"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        gradient_and_laplacian(*arguments)
