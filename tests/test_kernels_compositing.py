"""Volume rendering: the published numbers, and kernels that equal their twins, gradients and early stop included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import compositing, reference
from methods.kernels.compositing import CompositeState, composite, composite_alive_, composite_alpha
from methods.kernels.library import load

DENSITY = pytest.param(composite, reference.composite, id="density")
ALPHA = pytest.param(composite_alpha, reference.composite_alpha, id="alpha")
BOTH = pytest.mark.parametrize(("kernel", "twin"), [DENSITY, ALPHA])
COUNTS = [0, 1, 5, 0, 64, 15, 16, 17, 130, 33, 0]
"""Of samples per ray: none, fewer than a vector register or a warp holds, exactly so many, more."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def starts(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def samples(counts: list[int], channels: int = 3, opaque: float = 0.2, alpha: bool = False, seed: int = 0) -> list:
    """Value, rgb, t_start, t_end, offsets, extra; a sample hides about ``opaque`` of what is behind."""
    make, number = generator(seed), sum(counts)
    t_start = torch.cat([torch.zeros(0)] + [0.5 + torch.rand(n, generator=make).sort().values for n in counts])
    length = 0.001 + 0.05 * torch.rand(number, generator=make)
    hides = 2 * opaque * torch.rand(number, generator=make)
    value = hides.clamp(max=1.0) if alpha else hides / length
    rgb = torch.randn(number, channels, generator=make)
    return [value, rgb, t_start, t_start + length, starts(counts), torch.randn(number, generator=make)]


def upstream(counts: list[int], channels: int = 3) -> list[Tensor]:
    """Gradients of rgb, opacity, depth, weights and extra."""
    rays, make = len(counts), generator(9)
    shapes = [(rays, channels), (rays,), (rays,), (sum(counts),), (rays,)]
    return [torch.randn(shape, generator=make) for shape in shapes]


def all_of(render, given: list, grads: list[Tensor], early_stop: float) -> list[Tensor]:
    """Outputs, then gradients to value, rgb and extra."""
    value, rgb, t_start, t_end, offsets, extra = given
    wants = [v.clone().requires_grad_() for v in (value, rgb, extra)]
    out = render(wants[0], wants[1], t_start, t_end, offsets, wants[2], early_stop)
    torch.autograd.backward(list(out), [g.to(out[0]) for g in grads])
    return [v.detach().cpu().double() for v in (*out, *(w.grad for w in wants))]


def rounded(given: list, grads: list[Tensor], longest: int, density: bool) -> list[float]:
    """How far float32 may be off, for everything that ``all_of`` returns.

    T is a product of up to ``longest`` factors of some roundings each (2^-24), and a sum has so many terms; what they
    are roundings of is at most the largest term.
    """
    unit = 4 * (longest + 4) * 2**-24
    rgb, t, extra = (float(v.abs().max()) if v.numel() else 0.0 for v in (given[1], given[3], given[5]))
    length = float((given[3] - given[2]).max()) if given[2].numel() and density else 1.0
    largest = [float(g.abs().max()) if g.numel() else 0.0 for g in grads]
    pull = given[1].shape[1] * largest[0] * rgb + largest[1] + largest[2] * t + largest[3]
    return [unit * v for v in (rgb, 1.0, t, 1.0, longest * extra, pull * length, largest[0], 0.0)]


def check_against_twin(kernel, twin, given: list, counts: list[int], early_stop: float, device: str = "cpu") -> None:
    grads = upstream(counts, given[1].shape[1])
    made = all_of(kernel, [v.to(device) for v in given], grads, early_stop)
    want = all_of(twin, [v.double() if v.is_floating_point() else v for v in given], grads, early_stop)
    slack = rounded(given, grads, max([*counts, 1]), density=kernel is composite)
    names = ("rgb", "opacity", "depth", "weights", "extra", "to value", "to rgb", "to extra")
    for name, got, truth, allowed in zip(names, made, want, slack, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=allowed, msg=lambda m, n=name: f"{n}: {m}")


# --- what others published -------------------------------------------------------------------------------------------

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


# --- the twin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stop", [0.0, 0.3])
@pytest.mark.parametrize(("twin", "alpha"), [(reference.composite, False), (reference.composite_alpha, True)])
def test_the_twins_derivatives_are_right(twin, alpha, early_stop):
    value, rgb, t_start, t_end, offsets, extra = samples([3, 0, 5], opaque=0.3, alpha=alpha, seed=1)
    inputs = tuple(v.double().requires_grad_() for v in (value, rgb, extra))

    def render(value: Tensor, rgb: Tensor, extra: Tensor) -> tuple:
        return twin(value, rgb, t_start.double(), t_end.double(), offsets, extra, early_stop)

    assert torch.autograd.gradcheck(render, inputs)
    assert torch.autograd.gradgradcheck(render, inputs)


def test_the_twin_equals_a_loop():
    value, rgb, t_start, t_end, offsets, extra = (v.double() for v in samples(COUNTS, opaque=0.1))
    out = reference.composite(value, rgb, t_start, t_end, offsets.long(), extra, early_stop=0.05)
    for ray in range(len(COUNTS)):
        left, sums = 1.0, torch.zeros(6, dtype=torch.float64)
        for i in range(int(offsets[ray]), int(offsets[ray + 1])):
            alpha = 1 - math.exp(-value[i] * (t_end[i] - t_start[i])) if left >= 0.05 else 0.0
            weight = left * alpha
            assert out[3][i] == pytest.approx(weight, rel=1e-12)
            middle, used = 0.5 * (t_start[i] + t_end[i]), float(left >= 0.05)
            rest = torch.stack([weight + 0 * middle, weight * middle, used * extra[i]])
            sums += torch.cat([weight * rgb[i], rest])
            left *= 1 - alpha
        made = torch.stack([*out[0][ray], out[1][ray], out[2][ray], out[4][ray]])
        torch.testing.assert_close(made, sums, rtol=1e-12, atol=1e-12)


# --- the kernels against their twins ---------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 15, 16])
@pytest.mark.parametrize("early_stop", [0.0, 0.01])
def test_outputs_and_gradients_equal_the_twins(device, kernel, twin, channels, early_stop):
    given = samples(COUNTS, channels, alpha=kernel is composite_alpha)
    check_against_twin(kernel, twin, given, COUNTS, early_stop, device)


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 70), max_size=6),
    opaque=st.sampled_from([1e-5, 0.01, 0.1, 0.5, 5.0]),
    early_stop=st.sampled_from([0.0, 1e-4, 0.1, 0.7]),
    seed=st.integers(0, 10**6),
)
def test_outputs_and_gradients_equal_the_twins_for_any_rays(device, kernel, twin, counts, opaque, early_stop, seed):
    is_alpha = kernel is composite_alpha
    given = samples(counts, opaque=opaque, alpha=is_alpha, seed=seed)
    value, t_start, t_end, offsets = (given[k].double() for k in (0, 2, 3, 4))
    survive = 1 - value if is_alpha else torch.exp(-value * (t_end - t_start))
    for a, b in zip(offsets[:-1].int(), offsets[1:].int(), strict=True):
        # Where T meets the threshold but for rounding, either answer is right.
        assume(not ((survive[a:b].cumprod(0) - early_stop).abs() < 1e-5 * early_stop).any())
    check_against_twin(kernel, twin, given, counts, early_stop, device)


@pytest.mark.parametrize("output", range(5))
def test_each_output_alone_has_its_gradient(device, output):
    given, grads = samples(COUNTS), upstream(COUNTS)

    def alone(render, inputs: list) -> list[Tensor]:
        wants = [v.clone().requires_grad_() for v in (inputs[0], inputs[1], inputs[5])]
        out = render(wants[0], wants[1], *inputs[2:5], wants[2], 0.01)
        out[output].backward(grads[output].to(out[output]))
        zeros = (torch.zeros_like(w) if w.grad is None else w.grad for w in wants)
        return [v.cpu().double() for v in zeros]

    made = alone(composite, [v.to(device) for v in given])
    want = alone(reference.composite, [v.double() if v.is_floating_point() else v for v in given])
    slack = rounded(given, grads, max(COUNTS), density=True)[5:]
    for got, truth, allowed in zip(made, want, slack, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=allowed)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_wants_a_gradient_gets_one(device, wanted):
    value, rgb, t_start, t_end, offsets, extra = (v.to(device) for v in samples(COUNTS))
    inputs = [v.requires_grad_(want) for v, want in zip((value, rgb, extra), wanted, strict=True)]
    out = composite(inputs[0], inputs[1], t_start, t_end, offsets, inputs[2])
    torch.autograd.backward(list(out), [torch.ones_like(v) for v in out])
    assert [v.grad is not None for v in inputs] == list(wanted)


# --- edges -----------------------------------------------------------------------------------------------------------


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


# --- rendering without gradients, a few samples at a time -------------------------------------------------------------


def state_of(rays: int, channels: int, device: str) -> CompositeState:
    return CompositeState(*(torch.zeros(s, device=device) for s in ((rays, channels), (rays,), (rays,))))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("step", [1, 4, 20, 200])
def test_steps_add_up_to_the_whole(device, step, channels):
    given = samples(COUNTS, channels, opaque=0.05)
    value, rgb, t_start, t_end, offsets = (v.to(device) for v in given[:5])
    whole = composite(value, rgb, t_start, t_end, offsets, early_stop=0.01)
    state = state_of(len(COUNTS), channels, device)
    alive = torch.arange(len(COUNTS), device=device)
    done = torch.zeros(len(COUNTS), dtype=torch.int64)
    while len(alive):
        ids = alive.cpu()
        counts = (torch.tensor(COUNTS)[ids] - done[ids]).clamp(max=step)
        first = offsets.cpu()[ids] + done[ids]
        take = torch.cat([torch.arange(a, a + n) for a, n in zip(first, counts, strict=True)]).to(device)
        part = [v[take] for v in (value, rgb, t_start, t_end)]
        alive = composite_alive_(starts(counts.tolist()).to(device), alive, *part, state, step, early_stop=0.01)
        done[ids] += counts
    # T is taken from 1 - opacity at every step: a rounding of 1 (2^-24), up to 130 times.
    for got, want in ((state.rgb, whole.rgb), (state.opacity, whole.opacity), (state.depth, whole.depth)):
        torch.testing.assert_close(got, want, rtol=0, atol=130 * 2**-22)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    early_stop=st.sampled_from([0.0, 1e-4, 0.1]),
    seed=st.integers(0, 10**6),
)
def test_a_step_equals_the_twins(device, counts, early_stop, seed):
    value, rgb, t_start, t_end, offsets, _ = samples(counts, opaque=0.3, seed=seed)
    alive = torch.randperm(10, generator=generator(seed))[: len(counts)]
    ours = CompositeState(*(torch.rand(s, generator=generator(seed)) * 0.5 for s in ((10, 3), (10,), (10,))))
    state = CompositeState(*(v.to(device) for v in (ours.rgb, ours.opacity, ours.depth)))
    truth = tuple(v.double().clone() for v in (ours.rgb, ours.opacity, ours.depth))
    part = [v.to(device) for v in (value, rgb, t_start, t_end)]
    kept = composite_alive_(offsets.to(device), alive.to(device), *part, state, 4, early_stop)
    doubles = [v.double() for v in (value, rgb, t_start, t_end)]
    assert kept.cpu().equal(reference.composite_alive_(offsets, alive, *doubles, truth, 4, early_stop))
    for got, want in zip((state.rgb, state.opacity, state.depth), truth, strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=0, atol=40 * 2**-24)


def test_rays_go_on_while_they_get_all_samples_and_let_light_through(device):
    counts, opaque = [2, 1, 0, 2, 2], 1e6
    density = torch.tensor([0.0, 0.1, 0.1, 0.0, opaque, opaque, 0.0], device=device)
    t_start = torch.arange(7.0, device=device)
    state, alive = state_of(9, 3, device), torch.tensor([8, 7, 6, 5, 4], device=device)
    rgb = torch.ones(7, 3, device=device)
    kept = composite_alive_(starts(counts).to(device), alive, density, rgb, t_start, t_start + 1, state, 2)
    assert kept.tolist() == [8]
    assert (state.opacity.cpu() > 0).tolist() == [False] * 4 + [True, True, False, True, True]


# --- wrong arguments -------------------------------------------------------------------------------------------------

WRONG = [
    (0, lambda v: v.double(), TypeError, "float32"),
    (0, lambda v: v[:-1], ValueError, r"must be \[21\]"),
    (0, lambda v: v[:, None], ValueError, "must be"),
    (1, lambda v: v.half(), TypeError, "rgb must be"),
    (1, lambda v: v[:, :0], ValueError, "1 to 16 channels, got 0"),
    (1, lambda v: v.repeat(1, 6), ValueError, "1 to 16 channels, got 18"),
    (1, lambda v: v[:, 0], ValueError, "rgb must be"),
    (2, lambda v: v.tolist(), TypeError, "t_start must be a tensor"),
    (3, lambda v: v[:-1], ValueError, "t_end must be"),
    (4, lambda v: v.int(), TypeError, "offsets must be torch.int64"),
    (4, lambda v: v[:0], ValueError, r"offsets must be \[N \+ 1\]"),
    (4, lambda v: v + 1, ValueError, "from 0 to the number of samples, 21; got 1 to 22"),
    (4, lambda v: v[:-1], ValueError, "got 0 to 15"),
    (4, lambda v: torch.tensor([0, 15, 5, 21]), ValueError, "never fall"),
    (4, lambda v: torch.tensor([0, -1, 5, 21]), ValueError, "never fall"),
    (5, lambda v: v[:3], ValueError, "extra must be"),
]


@pytest.mark.parametrize(("place", "change", "error", "text"), WRONG)
def test_wrong_tensors_are_refused(place, change, error, text):
    given = samples([5, 10, 6])
    given[place] = change(given[place])
    for render in (composite, composite_alpha):
        with pytest.raises(error, match=text):
            render(*given)


@pytest.mark.parametrize("early_stop", [-0.1, 1.1, math.nan])
def test_a_threshold_outside_0_to_1_is_refused(early_stop):
    with pytest.raises(ValueError, match="early_stop"):
        composite(*samples([3]), early_stop=early_stop)


@BOTH
@pytest.mark.parametrize("place", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_sample_that_is_not_finite_is_refused_by_name(monkeypatch, kernel, twin, place, bad, compiled):
    if not compiled:
        monkeypatch.setattr(compositing, "has_kernels", lambda _: False)
    given = samples([5, 10, 6], alpha=kernel is composite_alpha)
    given[place].view(-1)[7] = bad
    names = ("alpha" if kernel is composite_alpha else "density", "rgb", "t_start", "t_end", "", "extra")
    with pytest.raises(ValueError, match=f"^{names[place]} has 1 values that are NaN or infinite"):
        kernel(*given)


def test_a_step_refuses_what_does_not_fit():
    value, rgb, t_start, t_end, offsets, _ = samples([2, 2])
    part, alive = [value, rgb, t_start, t_end], torch.tensor([0, 3])
    with pytest.raises(ValueError, match=r"alive must be 0\.\.2"):
        composite_alive_(offsets, alive, *part, state_of(3, 3, "cpu"), 2)
    with pytest.raises(ValueError, match="alive must be"):
        composite_alive_(offsets, alive[:1], *part, state_of(4, 3, "cpu"), 2)
    with pytest.raises(ValueError, match="rgb must be"):
        composite_alive_(offsets, alive, *part, state_of(4, 4, "cpu"), 2)
    spread = CompositeState(torch.zeros(3, 4).T, torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="contiguous"):
        composite_alive_(offsets, alive, *part, spread, 2)
    value[1] = math.nan
    with pytest.raises(ValueError, match="density has 1 values"):
        composite_alive_(offsets, alive, *part, state_of(4, 3, "cpu"), 2)


# --- without kernels, threads, torch.compile --------------------------------------------------------------------------


def test_without_kernels_the_twins_run(monkeypatch):
    given, grads = samples(COUNTS), upstream(COUNTS)
    value, rgb, t_start, t_end, _, _ = samples([2, 1])
    step = (starts([2, 1]), torch.tensor([1, 0]), value, rgb, t_start, t_end)

    def run() -> list[Tensor]:
        state = state_of(2, 3, "cpu")
        kept = composite_alive_(*step, state, 2)
        return [*all_of(composite, given, grads, 0.01), kept.double(), state.rgb.double()]

    with_kernels = run()
    monkeypatch.setattr(compositing, "has_kernels", lambda _: False)
    for got, want in zip(run(), with_kernels, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


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
