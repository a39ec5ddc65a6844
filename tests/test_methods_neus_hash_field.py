"""neus-hash's formulas: opacity, the distance network and its gradient, the background, the schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.kernels.compositing import composite_alpha
from methods.neus_hash.background import Background, contract
from methods.neus_hash.config import NeusHashModelConfig
from methods.neus_hash.differences import step_length
from methods.neus_hash.field import NormedLinear, SurfaceField, alpha_from, even_directions
from methods.neus_hash.schedules import active_levels, cos_anneal, learning_rate_factor, next_rays, weight_at

SMALL: dict[str, Any] = {"num_levels": 4, "log2_hashmap_size": 10, "base_res": 4, "max_res": 32, "hidden_dim": 64}


def _field(**more: Any) -> SurfaceField:
    torch.manual_seed(0)
    return SurfaceField(NeusHashModelConfig(**{**SMALL, **more}))


def _rough(field: SurfaceField) -> SurfaceField:
    """With features that matter."""
    with torch.no_grad():
        field.encoding.table.normal_(std=0.3)
        for layer in field.layers:
            layer.direction.add_(0.3 * torch.randn_like(layer.direction))
    return field


def _through_a_sphere(offset: float, sharpness: float, anneal: float):
    """A ray from z = 3 down past a sphere of radius 0.5, in steps of 2 sqrt(3) / 1024 from t = 2 on."""
    step = 1.732 * 2 / 1024
    start = 2 + step * torch.arange(600, dtype=torch.float32)
    end, middle = start + step, start + step / 2
    points = torch.stack([torch.full_like(middle, offset), torch.zeros_like(middle), 3 - middle], dim=-1)
    sdf = points.norm(dim=-1) - 0.5
    cosine = -points[:, 2] / points.norm(dim=-1)
    alpha = alpha_from(sdf, cosine, end - start, torch.tensor(sharpness), anneal, 1e-5)
    white = torch.ones(len(alpha), 3)
    return composite_alpha(alpha, white, start, end, torch.tensor([0, len(alpha)]), early_stop=0.0), middle


def test_a_ray_stops_at_an_analytic_sphere():
    made, middle = _through_a_sphere(0.0, 300.0, 1.0)
    assert float(made.opacity) == pytest.approx(1.0, abs=1e-4)
    assert float(made.depth) == pytest.approx(2.49963, abs=2e-5)
    assert float(middle[made.weights.argmax()]) == pytest.approx(2.49896, abs=2e-5)
    assert float(made.weights.max()) == pytest.approx(0.2425, abs=1e-4)


@pytest.mark.parametrize(("sharpness", "anneal", "depth"), [(300.0, 1.0, 2.59949), (64.0, 0.0, 2.59649)])
def test_a_ray_beside_the_middle_stops_at_the_sphere_too(sharpness: float, anneal: float, depth: float):
    made, _ = _through_a_sphere(0.3, sharpness, anneal)
    assert float(made.depth) == pytest.approx(depth, abs=3e-5)  # the surface is at 2.6


def test_epsilon_decides_whether_the_inside_is_opaque():
    numbers = (torch.tensor([-0.05]), torch.tensor([-1.0]), torch.tensor([0.004]), torch.tensor(300.0), 1.0)
    assert float(alpha_from(*numbers, 1e-5)) == pytest.approx(0.984, abs=1e-3)
    assert float(alpha_from(*numbers, 0.0)) == pytest.approx(0.037, abs=1e-3)
    outside = alpha_from(torch.full((590,), 0.5), *(v.expand(590) for v in numbers[1:3]), numbers[3], 1.0, 1e-5)
    assert float(1 - (1 - outside.double()).prod()) == pytest.approx(0.0059, abs=1e-4)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(1e-4, 0.5), st.floats(1e-6, 1e6), st.floats(0, 1))
@settings(deadline=None)
def test_alpha_is_an_opacity_whatever_goes_in(sdf: float, cosine: float, length: float, sharpness: float, a: float):
    values = [torch.tensor([v], requires_grad=True) for v in (sdf, cosine, length)]
    s = torch.tensor(sharpness, requires_grad=True)
    for epsilon in (0.0, 1e-5):
        alpha = alpha_from(*values, s, a, epsilon)
        assert 0 <= alpha.item() <= 1
        gradients = torch.autograd.grad(alpha.sum(), [*values, s])
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("inside_out", [False, True])
def test_the_distance_starts_as_a_sphere(inside_out: bool):
    for seed in range(3):
        torch.manual_seed(seed)
        field = SurfaceField(NeusHashModelConfig(**SMALL, radius=1.5, inside_out=inside_out))
        x = (torch.rand(2000, 3) * 2 - 1) * 1.5
        x = x[x.norm(dim=-1) > 0.25 * 1.5]  # nearer, the softplus rounds the cone's tip off
        made = field.surface(x)
        sign = -1 if inside_out else 1
        assert (made.sdf - sign * (x.norm(dim=-1) / 1.5 - 0.5)).abs().max() < 0.05
        assert (made.gradient.norm(dim=-1) * 1.5 - 1).abs().max() < 0.1  # the gradient is 1 / radius


def test_directions_of_a_sphere_are_even_and_have_length_one():
    for number in (7, 64):
        torch.manual_seed(number)
        d = even_directions(number)
        assert d.shape == (number, 3)
        assert torch.allclose(d.norm(dim=-1), torch.ones(number))
    assert d.mean(dim=0).abs().max() < 1e-6
    assert (d.T @ d / 64 - torch.eye(3) / 3).abs().max() < 0.02


@pytest.mark.parametrize("layers", [1, 2])
def test_the_gradient_is_that_of_autograd(layers: int):
    field = _rough(_field(num_layers=layers, radius=1.3))
    x = ((torch.rand(300, 3) * 2 - 1) * 1.2).requires_grad_()
    made = field.surface(x)
    (want,) = torch.autograd.grad(made.sdf.sum(), x)
    assert torch.allclose(made.gradient, want, atol=1e-4 * float(want.abs().max()))
    assert torch.allclose(made.sdf, field.distance(x), atol=1e-6)
    assert torch.equal(made.features[:, 0], made.sdf)


@pytest.mark.parametrize("layers", [1, 2])
def test_losses_on_the_gradient_reach_every_parameter_as_by_double_backward(layers: int):
    field = _rough(_field(num_layers=layers))
    x = (torch.rand(200, 3) * 2 - 1).requires_grad_()
    parameters = dict(field.layers.named_parameters())

    def gradients(gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        field.zero_grad()
        field.encoding.table.grad = None
        ((gradient.norm(dim=-1) - 1) ** 2).mean().backward()
        found = {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in parameters.items()}
        assert field.encoding.table.grad is not None
        return {**found, "table": field.encoding.table.grad.clone()}

    ours = gradients(field.surface(x).gradient)

    # The peer: the same network with the grid's torch twin, and autograd's own double backward pass.
    from methods.kernels import reference

    def distance(points: torch.Tensor) -> torch.Tensor:
        grid = field.encoding.grid
        hidden = torch.cat([points, reference.grid_encode(points * 0.5 + 0.5, field.encoding.table, grid, -1)], dim=-1)
        for layer in field.layers[:-1]:
            hidden = torch.nn.functional.softplus(hidden @ layer.weight.T + layer.bias, beta=100)
        return (hidden @ field.layers[-1].weight.T + field.layers[-1].bias)[:, 0]

    (normal,) = torch.autograd.grad(distance(x).sum(), x, create_graph=True)
    theirs = gradients(normal)
    assert set(ours) == set(theirs)
    for name, want in theirs.items():
        assert torch.allclose(ours[name], want, atol=2e-4 * float(want.abs().max() + 1e-6)), name


@pytest.mark.parametrize("taps", ["axes", "tetrahedron"])
def test_differences_over_a_cell_agree_with_the_derivative_of_a_smooth_field(taps: str):
    field = _field(gradient="numerical", taps=taps, max_res=512)  # its features are as good as zero: a sphere
    x = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1) * 0.7
    made = field.surface(x)
    field.config.gradient = "analytic"
    exact = field.surface(x)
    assert torch.allclose(made.features, exact.features, atol=1e-6)
    assert (made.gradient - exact.gradient).norm(dim=-1).max() < 0.02
    assert made.laplacian is not None
    assert float(made.laplacian.detach().mean()) == pytest.approx(2 / 0.7, rel=0.1)


def test_the_curvature_loss_reaches_the_table_through_the_taps():
    field = _rough(_field(gradient="numerical", start_levels=2, level_every=10))
    made = field.surface(torch.rand(50, 3) - 0.5)
    assert made.laplacian is not None
    made.laplacian.abs().mean().backward()
    grad = field.encoding.table.grad
    assert grad is not None
    assert grad[: field.encoding.grid.offsets[2]].any()
    assert not grad[field.encoding.grid.offsets[2] :].any()


def test_a_difference_spans_a_cell_of_the_finest_level_in_use():
    field = _field(gradient="numerical", start_levels=2, level_every=10)
    cells = [4, 8, 16, 32]
    for step, level in ((0, 1), (9, 1), (10, 2), (20, 3), (500, 3)):
        field.step = step
        assert step_length(field) == pytest.approx(1 / cells[level])


def test_a_normed_layer_starts_as_its_weight_and_moves_only_by_length_along_it():
    weight = torch.randn(4, 5)
    layer = NormedLinear(weight.clone(), torch.zeros(4))
    assert torch.allclose(layer.weight, weight)
    (layer.weight * weight).sum().backward()
    assert layer.direction.grad is not None
    assert (layer.direction.grad * layer.direction).sum(dim=1).abs().max() < 1e-5


def test_levels_not_yet_in_use_change_nothing_and_learn_nothing():
    field = _rough(_field(start_levels=2, level_every=10))
    x = torch.rand(50, 3) - 0.5
    first = field.surface(x)
    assert field.level_mask == 0b11
    with torch.no_grad():
        field.encoding.table[field.encoding.grid.offsets[2] :] += 1
    again = field.surface(x)
    assert torch.equal(first.sdf, again.sdf)
    assert torch.equal(first.gradient, again.gradient)
    again.gradient.sum().backward()
    assert field.encoding.table.grad is not None
    assert not field.encoding.table.grad[field.encoding.grid.offsets[2] :].any()
    field.step = 20
    assert field.level_mask is None
    assert not torch.equal(field.surface(x).sdf, first.sdf)


@pytest.mark.parametrize("gradient", ["analytic", "numerical"])
def test_nothing_in_gives_nothing_out(gradient: str):
    field = _field(gradient=gradient)
    made = field.surface(torch.zeros(0, 3))
    assert made.sdf.shape == (0,)
    assert made.gradient.shape == (0, 3)
    (made.gradient.sum() + made.sdf.sum()).backward()


def test_the_unit_ball_keeps_its_shape_and_infinity_lies_on_a_sphere():
    x = torch.tensor([[0.5, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -1e7], [0.0, 0.0, 0.0]])
    want = [[0.625, 0.5, 0.5], [0.5, 0.875, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]]
    assert torch.allclose(contract(x), torch.tensor(want), atol=1e-6)


def _background(**more: Any) -> Background:
    torch.manual_seed(0)
    return Background(NeusHashModelConfig(**{**SMALL, "background_occupancy_res": 16, **more}))


def test_the_background_is_marched_from_the_box_to_the_far_end_by_growing_steps():
    background = _background()
    origins, directions = torch.tensor([[0.0, 0, -3], [0, 5, 0], [0, 0, 0]]), torch.tensor([[0.0, 0, 1]] * 3)
    samples, x = background.march(origins, directions, torch.tensor([4.0, -1.0, 1.0]), None)
    assert ((x >= 0) & (x <= 1)).all()
    for ray, start in enumerate((4.0, 0.1, 1.0)):  # the second misses the box
        own = slice(*samples.offsets[ray : ray + 2].tolist())
        begin, end = samples.t_start[own], samples.t_end[own]
        assert float(begin[0]) == pytest.approx(start)
        assert torch.allclose(begin[1:], end[:-1])  # all cells outside the ball are occupied at first
        assert float(end[-1]) > 900
        growth = 10 ** (3 / 64) - 1
        assert torch.allclose(end - begin, (begin * growth).clamp(min=0.01), rtol=1e-4)
    assert int(samples.offsets[3] - samples.offsets[2]) == 64  # from 1 to 1000


def test_background_cells_that_are_empty_have_no_samples_and_none_at_all_gives_zeros():
    background = _background()
    background.occupancy.occupied.zero_()
    made = background.render(torch.zeros(2, 3), torch.eye(3)[:2], torch.ones(2), torch.rand(2))
    assert not made.rgb.any()
    assert not made.opacity.any()
    (made.rgb.sum() + made.opacity.sum()).backward()


def test_only_cells_that_samples_can_lie_in_count_for_the_background():
    occupied = _background(background_occupancy_res=64).occupancy.occupied[0]
    assert not occupied[0, 0, 0]
    assert not occupied[32, 32, 32]
    assert occupied[32 + 24, 32, 32]
    x = contract(torch.nn.functional.normalize(torch.randn(5000, 3), dim=-1) * torch.rand(5000, 1).reciprocal())
    x = x[(x - 0.5).norm(dim=-1) > 0.2501]
    cell = (x * 64).long().clamp(0, 63)
    assert occupied[cell[:, 0], cell[:, 1], cell[:, 2]].all()


def test_schedules_at_their_corners():
    assert [weight_at((100, 1.0, 3.0, 300), step) for step in (0, 100, 200, 300, 900)] == [1, 1, 2, 3, 3]
    assert weight_at(0.5, 7) == 0.5
    assert [cos_anneal(step, 20_000) for step in (0, 10_000, 20_000, 30_000)] == [0, 0.5, 1, 1]
    assert cos_anneal(0, 0) == 1
    assert [active_levels(step, 16, 4, 1000) for step in (0, 999, 1000, 12_000, 50_000)] == [4, 4, 5, 16, 16]
    assert active_levels(0, 16, None, 1000) == 16


def test_learning_rates_of_both_published_schedules():
    blender = [learning_rate_factor(step, 500, 0.01, 0, 20_000, 0.1) for step in (0, 250, 500, 20_000, 30_000)]
    assert blender == pytest.approx([0.01, 0.505, 1.0, 0.1, 0.1])
    dtu = [learning_rate_factor(step, 0, 0.01, 5000, 20_000, 0.1) for step in (0, 5000, 12_500, 20_000)]
    assert dtu == pytest.approx([1.0, 1.0, math.sqrt(0.1), 0.1])


def test_rays_follow_the_samples_by_a_tenth_of_the_way():
    assert next_rays(256, 256 * 1024, 256 * 1024, 8192) == 256
    assert next_rays(256, 128 * 1024, 256 * 1024, 8192) == int(0.9 * 256 + 0.1 * 512)
    assert next_rays(8000, 10, 256 * 1024, 8192) == 8192
    assert next_rays(100, 0, 1000, 8192) == int(0.9 * 100 + 0.1 * 8192)
