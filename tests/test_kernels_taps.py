"""Gradients and Laplacians by differences, against functions whose derivatives are known."""

from __future__ import annotations

import math

import pytest
import torch

from methods.kernels.taps import gradient_and_laplacian, tap_directions


def _at(function, x: torch.Tensor, taps: int, length: float):
    places = x[:, None] + length * tap_directions(taps).to(x.dtype)
    return gradient_and_laplacian(function(x), function(places), length)


@pytest.mark.parametrize("taps", [4, 6])
def test_directions_have_length_one_and_sum_to_nothing(taps: int):
    d = tap_directions(taps)
    assert torch.allclose(d.norm(dim=-1), torch.ones(taps))
    assert d.sum(dim=0).abs().max() < 1e-6
    assert torch.allclose(d.T @ d, torch.eye(3) * taps / 3, atol=1e-6)


def test_a_quadratic_is_exact_but_for_the_tetrahedrons_mixed_terms():
    a = torch.tensor([[1.0, 0.3, 0.2], [0.3, -2.0, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64)
    b = torch.tensor([0.4, -0.1, 0.9], dtype=torch.float64)
    x = torch.randn(20, 3, dtype=torch.float64)

    def f(p: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((p @ a) * p).sum(-1) + p @ b

    exact = x @ a + b
    gradient, laplacian = _at(f, x, 6, 0.1)
    assert torch.allclose(gradient, exact, atol=1e-7)
    assert torch.allclose(laplacian, torch.full((20,), -0.3, dtype=torch.float64), atol=1e-5)
    gradient, laplacian = _at(f, x, 4, 0.1)
    # Each component is off by length / sqrt(3) times the mixed derivative of the other two.
    wrong = 0.1 / math.sqrt(3) * torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.allclose((gradient - exact).abs(), wrong.expand(20, 3), atol=1e-6)
    assert torch.allclose(laplacian, torch.full((20,), -0.3, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(("taps", "length", "want"), [(4, 0.01, 3.65857), (4, 0.003, 3.65360), (6, 1e-4, 3.65148)])
def test_the_curvature_of_a_sphere(taps: int, length: float, want: float):
    x = torch.tensor([[0.5, 0.1, 0.2]], dtype=torch.float64)
    _, laplacian = _at(lambda p: p.norm(dim=-1) - 0.5, x, taps, length)
    assert float(laplacian) == pytest.approx(want, abs=2e-5)


def test_another_number_of_taps_is_refused():
    with pytest.raises(ValueError, match="4 or 6"):
        gradient_and_laplacian(torch.zeros(2), torch.zeros(2, 5), 0.1)
