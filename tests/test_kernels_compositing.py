"""Volume rendering: the published numbers, the edges, and torch's rules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.compositing import composite, composite_alpha
from methods.kernels.library import load

from .kernels_composites import BOTH, COUNTS, all_of, samples, starts, upstream

# --- what others published


RAD_NERF = {
    "rgb": torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]),
    "t_start": torch.arange(4) * 0.0270633,
    "t_end": torch.arange(1, 5) * 0.0270633,
    "offsets": starts([4]),
}
DENSITIES = torch.tensor([10.0, 50, 200, 400])
WEIGHTS = torch.tensor([0.237104, 0.565748, 0.196269, 0.000879])


def rad_nerf(device: str, **more):
    """RAD-NeRF's worked example: four samples, red, green, blue and white."""
    return composite(DENSITIES.to(device), **{k: v.to(device) for k, v in RAD_NERF.items()}, **more)


def test_weights_and_colour_are_the_published_ones(device):
    made = rad_nerf(device, early_stop=0.0)
    # Printed with six digits.
    torch.testing.assert_close(made.weights.cpu(), WEIGHTS, rtol=0, atol=1e-6)
    torch.testing.assert_close(made.rgb.cpu(), torch.tensor([[0.237983, 0.566627, 0.197149]]), rtol=0, atol=1e-6)
    assert made.opacity.item() == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize(("early_stop", "used"), [(0.0, 4), (1e-4, 4), (1e-3, 3), (0.5, 2), (0.8, 1), (1.0, 1)])
def test_a_ray_stops_after_the_sample_that_takes_t_below_the_threshold(device, early_stop, used):
    # T after the samples: 0.762896, 0.197149, 0.000879, 1.7e-8.
    density = DENSITIES.clone().to(device).requires_grad_()
    rest = {k: v.to(device) for k, v in RAD_NERF.items()}
    made = composite(density, **rest, extra=torch.ones(4, device=device), early_stop=early_stop)
    torch.testing.assert_close(made.weights[:used].detach().cpu(), WEIGHTS[:used], rtol=0, atol=1e-6)
    assert (made.weights[used:] == 0).all()
    assert made.extra is not None
    assert made.extra.item() == used
    made.rgb.sum().backward()
    assert density.grad is not None
    assert (density.grad[used:] == 0).all()
    assert (density.grad[: used - 1] != 0).all()


def test_the_threshold_crossed_on_the_last_sample_changes_nothing(device):
    stopped, free = rad_nerf(device, early_stop=1e-6), rad_nerf(device, early_stop=0.0)
    for got, want in zip(stopped[:4], free[:4], strict=True):
        assert torch.equal(got, want)


def test_gradients_are_rad_nerfs_formulas(device):
    density, rgb = DENSITIES.clone().to(device).requires_grad_(), RAD_NERF["rgb"].clone().to(device).requires_grad_()
    rest = {k: RAD_NERF[k].to(device) for k in ("t_start", "t_end", "offsets")}
    made = composite(density, rgb, **rest, early_stop=0.0)
    to_rgb, to_opacity = torch.tensor([0.3, -1.0, 2.0]), 0.7
    ((made.rgb.cpu() * to_rgb).sum() + made.opacity.sum().cpu() * to_opacity).backward()

    dt = (RAD_NERF["t_end"] - RAD_NERF["t_start"]).double()
    survive = torch.exp(-DENSITIES.double() * dt)
    after = survive.cumprod(0)
    weights = after / survive - after
    colours = RAD_NERF["rgb"].double()
    so_far = (weights[:, None] * colours).cumsum(0)
    inner = (to_rgb.double() * (after[:, None] * colours - (so_far[-1] - so_far))).sum(1)
    want = dt * (inner + to_opacity * after[-1])
    assert density.grad is not None
    assert rgb.grad is not None
    # Some roundings of numbers of about 2, of which the length of an interval is a factor.
    torch.testing.assert_close(density.grad.cpu().double(), want, rtol=0, atol=2**-20 * float(dt.max()))
    torch.testing.assert_close(rgb.grad.cpu().double(), weights[:, None] * to_rgb, rtol=0, atol=2**-20)


def neus_depth(device: str, inv_s: float, offset: float, anneal: float) -> tuple[float, float, float, float]:
    """Opacity, depth, place and height of the peak, as NeuS has them: a sphere of radius 0.5, a ray past its centre."""
    step = 1.732 * 2 / 1024
    t = 2 + (torch.arange(int(2 / step), dtype=torch.float64) + 0.5) * step
    points = torch.stack([torch.full_like(t, offset), torch.zeros_like(t), 3 - t], dim=-1)
    sdf = points.norm(dim=-1) - 0.5
    cosine = -points[:, 2] / points.norm(dim=-1)
    slope = -((0.5 - 0.5 * cosine).relu() * (1 - anneal) + (-cosine).relu() * anneal)
    before, behind = (torch.sigmoid(inv_s * (sdf + sign * slope * step / 2)) for sign in (-1, 1))
    alpha = ((before - behind + 1e-5) / (before + 1e-5)).clamp(0, 1).float().to(device)
    edges = [(t + sign * step / 2).float().to(device) for sign in (-1, 1)]
    made = composite_alpha(alpha, torch.ones(len(t), 3, device=device), *edges, starts([len(t)]).to(device), None, 0.0)
    peak = made.weights.cpu().argmax()
    return made.opacity.item(), made.depth.item(), t[peak].item(), made.weights[peak].item()


def test_a_sphere_is_where_neus_sees_it(device):
    opacity, depth, place, height = neus_depth(device, inv_s=300, offset=0.0, anneal=1.0)
    assert opacity == pytest.approx(1.0, abs=1e-4)
    assert depth == pytest.approx(2.49963, abs=1e-5)
    assert place == pytest.approx(2.49896, abs=1e-5)
    assert height == pytest.approx(0.2425, abs=1e-4)


@pytest.mark.parametrize(("inv_s", "anneal", "depth"), [(300, 1.0, 2.59949), (64, 0.0, 2.59649)])
def test_a_sphere_beside_the_axis_is_where_neus_sees_it(device, inv_s, anneal, depth):
    assert neus_depth(device, inv_s, 0.3, anneal)[1] == pytest.approx(depth, abs=1e-5)


# --- edges


@BOTH
@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_no_rays_and_no_samples_give_zeros(device, kernel, twin, counts):
    given = [v.to(device) for v in samples(counts)]
    made = all_of(kernel, given, upstream(counts), 1e-4)
    for got, want in zip(made, all_of(twin, [v.cpu() for v in given], upstream(counts), 1e-4), strict=True):
        assert torch.equal(got, want)
        assert not got.any()


def test_a_sample_of_no_length_is_not_there(device):
    value, rgb, t_start, t_end, offsets, _ = (v.to(device) for v in samples([7, 9]))
    t_end[3] = t_start[3]
    made = composite(value, rgb, t_start, t_end, offsets)
    assert made.weights[3] == 0
    keep = torch.arange(16, device=device) != 3
    without = composite(value[keep], rgb[keep], t_start[keep], t_end[keep], starts([6, 9]).to(device))
    # The same numbers at other places of a running product.
    torch.testing.assert_close(made.rgb, without.rgb, rtol=0, atol=1e-5)


@pytest.mark.parametrize("twin", [False, True])
def test_what_lies_behind_an_opaque_sample_still_counts_for_its_gradient(device, twin):
    # rgb = a0 c0 + (1 - a0) a1 c1 with a0 = 1: the derivative by a0 is c0 - a1 c1, and by a1 it is 0.
    alpha = torch.tensor([1.0, 0.5], device=device, requires_grad=True)
    rgb = torch.tensor([[0.2], [0.8]], device=device)
    edges = torch.tensor([0.0, 1.0], device=device), torch.tensor([1.0, 2.0], device=device)
    render = reference.composite_alpha if twin else composite_alpha
    render(alpha, rgb, *edges, starts([2]).to(device), None, 0.0)[0].sum().backward()
    assert alpha.grad is not None
    torch.testing.assert_close(alpha.grad.cpu(), torch.tensor([0.2 - 0.5 * 0.8, 0.0]), rtol=0, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(offsets=st.lists(st.integers(-(2**62), 2**62) | st.integers(-3, 30), min_size=1, max_size=6))
def test_kernels_stay_inside_the_samples_whatever_the_offsets_are(device, offsets):
    # On a GPU nobody looks at the offsets before a kernel does.
    guard, number, rays = 64, 21, len(offsets) - 1
    value, rgb, t_start, t_end, _, _ = (v.to(device) for v in samples([number]))
    weights, to_value, to_rgb = (torch.full((number + 2 * guard, c), 7.0, device=device) for c in (1, 1, 3))
    inside = slice(guard, guard + number)
    sums = [torch.empty(s, device=device) for s in ((rays, 3), (rays,), (rays,))]
    given = (value, rgb, t_start, t_end, torch.tensor(offsets, device=device))
    ops = load(device)
    ops.composite_forward(*given, None, False, 0.0, *sums, weights[inside], None)
    ops.composite_backward(*given, False, 0.0, *sums, None, None, to_value[inside], to_rgb[inside], None)
    for made in (weights, to_value, to_rgb):
        assert (made[:guard] == 7).all()
        assert (made[guard + number :] == 7).all()


def test_a_gradient_of_depth_can_be_left_out(device):
    given = [v.to(device) for v in samples(COUNTS)]
    given[0].requires_grad_()
    assert composite(*given).depth.requires_grad
    without = composite(*given, depth_gradient=False)
    assert not without.depth.requires_grad
    assert without.rgb.requires_grad


def test_inputs_need_not_be_contiguous(device):
    given = [v.to(device) for v in samples(COUNTS)]
    spread = [torch.stack([v, v], dim=-1)[..., 0] for v in given]
    assert not any(v.is_contiguous() for v in spread)
    grads = upstream(COUNTS)
    for got, want in zip(all_of(composite, spread, grads, 0.01), all_of(composite, given, grads, 0.01), strict=True):
        assert torch.equal(got, want)


# --- threads, torch.compile


def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads):
    counts = [(37 * k) % 150 for k in range(300)]
    given, grads = samples(counts), upstream(counts)
    runs = [with_threads(n, lambda: all_of(composite, given, grads, 0.01)) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_the_ops_keep_torchs_rules(device):
    given = [v.to(device) for v in samples(COUNTS)]
    ops, grads = torch.ops.fieldbook, [g.to(device) for g in upstream(COUNTS)]
    torch.library.opcheck(ops.composite.default, (*given, False, 0.01))
    torch.library.opcheck(ops.composite.default, (given[0] / given[0].max(), *given[1:5], None, True, 0.01))
    torch.library.opcheck(ops.composite_backward.default, (given[:5], grads, False, 0.01, True))
    torch.library.opcheck(ops.composite_backward.default, (given[:5], [grads[0], *[None] * 4], False, 0.01, False))


def test_a_second_derivative_is_refused_and_not_wrong(device):
    given = [v.to(device) for v in samples([5])]
    given[0].requires_grad_()
    (slope,) = torch.autograd.grad(composite(*given).rgb.sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        slope.sum().backward()


@pytest.mark.parametrize("extra", [True, False])
def test_a_compiled_graph_equals_eager(device, extra):
    value, rgb, t_start, t_end, offsets, more = (v.to(device) for v in samples(COUNTS))

    def loss(value: Tensor, rgb: Tensor) -> Tensor:
        made = composite(value * 2, rgb.tanh(), t_start, t_end, offsets, more if extra else None)
        return made.rgb.square().sum() + made.depth.sum() + (made.weights * t_start).sum()

    torch.compiler.reset()
    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        inputs = [v.clone().requires_grad_() for v in (value, rgb)]
        out = run(*inputs)
        out.backward()
        results.append([out.detach(), *(v.grad for v in inputs)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # the same operations
