"""Distance networks: outputs, the distance's gradient and all derivatives of both, against torch and float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from methods.kernels import reference
from methods.kernels.distance_net import distance_net, distance_only, split_distance_net

pytestmark = pytest.mark.usefixtures("compiled_kernels")

BETA = 100.0
WIDTHS = [[1, 1, 1], [35, 64, 13], [3, 5, 2], [35, 32, 64, 13], [7, 9, 10, 11, 4], [128, 128, 1]]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(widths: Sequence[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    make, pairs = generator(seed), list(itertools.pairwise(widths))
    weights = [torch.randn(b, a, generator=make) / a**0.5 for a, b in pairs]
    return weights, [0.1 * torch.randn(b, generator=make) for _, b in pairs]


def inputs(samples: int, width: int, seed: int = 1) -> Tensor:
    """Pre-activations of some hundredths: beta times that is where the softplus bends."""
    return 0.03 * torch.randn(samples, width, generator=generator(seed))


def upstream(like: Sequence[Tensor], seed: int = 2) -> list[Tensor]:
    make = generator(seed)
    return [torch.randn(v.shape, generator=make).to(v) for v in like]


def all_of(function: Callable[..., Any], z: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]):
    """Outputs of ``function``, and gradients in all that went in, from random gradients in all outputs."""
    z, weights, biases = ([v.detach().clone().requires_grad_() for v in group] for group in (z, weights, biases))
    made = function(*z, weights, biases)
    made = [made] if isinstance(made, Tensor) else list(made)
    torch.autograd.backward(made, upstream(made))
    gradients = [torch.zeros_like(v) if v.grad is None else v.grad for v in (*z, *weights, *biases)]
    return [v.detach() for v in made], gradients


def doubled(group: Sequence[Tensor]) -> list[Tensor]:
    return [v.double() for v in group]


def check_against_float64(function, twin, z: Sequence[Tensor], weights, biases) -> None:
    """No further from float64 than rounding takes one, and no more than 4 times as far as torch's float32."""
    truth = all_of(twin, doubled(z), doubled(weights), doubled(biases))
    kernel, torchs = (all_of(f, z, weights, biases) for f in (function, twin))
    for group, by_torch, want in zip(kernel, torchs, truth, strict=True):
        for made, other, exact in zip(group, by_torch, want, strict=True):
            assert made.shape == exact.shape
            if made.numel():
                error, theirs = ((v.double() - exact).abs().max() for v in (made, other))
                # 2^-24 times beta h, some tens, times the slope's own slope; sums of some hundred of those.
                assert error <= max(4 * float(theirs), 2e-5 * float(exact.abs().max())), (error, theirs)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("samples", [0, 1, 31, 32, 33, 300])
def test_outputs_gradient_and_all_derivatives_are_those_of_float64(widths: list[int], samples: int):
    layers = network(widths)
    check_against_float64(distance_net, reference.distance_net, [inputs(samples, widths[0])], *layers)
    check_against_float64(distance_only, reference.distance_only, [inputs(samples, widths[0])], *layers)


def test_wherever_it_runs_it_is_the_same_network(device):
    z, (weights, biases) = inputs(300, 35), network([35, 64, 13])
    truth = reference.distance_net(z.double(), doubled(weights), doubled(biases))
    weights, biases = ([v.to(device).requires_grad_() for v in group] for group in (weights, biases))
    features, gradient = distance_net(z.to(device), weights, biases)
    made = (features, gradient, distance_only(z.to(device), weights, biases))
    for got, want in zip(made, (*truth, truth[0][:, 0]), strict=True):
        torch.testing.assert_close(got.detach().cpu().double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=3, max_size=5),
    samples=st.integers(0, 300),
    own=st.integers(0, 40),
)
def test_inputs_in_two_tensors_are_the_same_network(widths: list[int], samples: int, own: int):
    z, layers, own = inputs(samples, widths[0]), network(widths), min(own, widths[0])
    parts = (z[:, :own], z[:, own:])
    check_against_float64(split_distance_net, reference.split_distance_net, parts, *layers)
    made, (features, gradient) = split_distance_net(*parts, *layers), distance_net(z, *layers)
    assert torch.equal(made.features, features)
    assert torch.equal(torch.cat([made.to_x, made.to_encoded], dim=1), gradient)
    assert torch.equal(made.distance, features[:, 0])
    assert torch.equal(distance_only(z, *layers), features[:, 0])  # to the bit: the pre-pass and training agree


@pytest.mark.parametrize("hidden", [1, 2])
def test_derivatives_are_those_of_autograds_double_backward(hidden: int):
    widths = [5, *[8] * hidden, 3]
    z, (weights, biases) = inputs(40, 5).double().requires_grad_(), network(widths)
    leaves = [v.double().requires_grad_() for v in (*weights, *biases)]
    weights, biases = leaves[: len(weights)], leaves[len(weights) :]

    def plain() -> tuple[Tensor, Tensor]:
        h = z
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = F.softplus(F.linear(h, weight, bias), beta=BETA, threshold=1000)
        features = F.linear(h, weights[-1], biases[-1])
        return features, torch.autograd.grad(features[:, 0].sum(), z, create_graph=True)[0]

    want = plain()
    up = upstream(want)
    truth = torch.autograd.grad(want, [z, *leaves], up, allow_unused=True, materialize_grads=True)
    twin = reference.distance_net(z, weights, biases)
    for made, exact in zip(torch.autograd.grad(twin, [z, *leaves], up), truth, strict=True):
        torch.testing.assert_close(made, exact, rtol=1e-9, atol=1e-9)
    single = [v.detach().float().requires_grad_() for v in (z, *leaves)]
    made = distance_net(single[0], single[1 : 1 + len(weights)], single[1 + len(weights) :])
    for got, exact in zip(torch.autograd.grad(made, single, [u.float() for u in up]), truth, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


def test_the_twins_derivatives_are_those_of_finite_differences():
    weights, biases = network([3, 4, 2])
    leaves = [v.double().requires_grad_() for v in (inputs(3, 3), *weights, *biases)]

    def function(z: Tensor, *layers: Tensor) -> tuple[Tensor, Tensor]:
        return reference.distance_net(z, layers[:2], layers[2:], beta=10.0)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_a_loss_on_one_output_alone_has_its_own_gradient(wanted: int):
    z, layers = inputs(70, 9), network([9, 16, 5])

    def one(function):
        return lambda *a: function(*a)[wanted]

    parts = [z[:, :2], z[:, 2:]]
    check_against_float64(one(split_distance_net), one(reference.split_distance_net), parts, *layers)


def only_the_softplus(h: Tensor, beta: float = BETA) -> tuple[Tensor, Tensor]:
    """softplus(h) and its slope, as the kernel has them: one unit, all weights one."""
    one, zero = [torch.ones(1, 1)] * 2, [torch.zeros(1)] * 2
    features, gradient = distance_net(h[:, None].contiguous(), one, zero, beta)
    return features[:, 0], gradient[:, 0]


def exact_softplus(h: Tensor, beta: float = BETA) -> Tensor:
    """In float64, without a threshold."""
    h = h.double()
    return h.clamp(min=0) + torch.log1p(torch.exp(-beta * h.abs())) / beta


def test_the_softplus_is_as_exact_as_a_float_can_be_near_zero():
    h = torch.cat([torch.linspace(-0.2, 0.2, 400_001), torch.linspace(-1.5, 1.5, 100_001)])
    value, slope = only_the_softplus(h)
    exact = exact_softplus(h)
    # Half a unit in the last place of a number below 2 is 6e-8; where it bends it is a hundredth.
    assert (value.double() - exact).abs().max() < 1e-7
    bend = h.abs() < 0.05
    assert ((value.double() - exact).abs() / exact)[bend].max() < 1e-6
    assert (value.double() - exact)[bend].abs().max() < 5e-9
    # exp(-100 h) has the rounding of 100 h.
    assert (slope.double() - torch.sigmoid(BETA * h.double())).abs().max() < 2e-7


def test_large_arguments_are_exact_and_nothing_overflows():
    h = torch.tensor([50.0, -50.0, 1.0, -1.0, 1e30, -1e30, 3e38, -3e38, 0.0, -0.0])
    value, slope = only_the_softplus(h)
    assert value.tolist() == [*F.relu(h[:8]).tolist(), *[pytest.approx(0.00693147, rel=1e-6)] * 2]
    assert slope.tolist() == [*(h[:8] > 0).float().tolist(), 0.5, 0.5]
    weights, biases = [100 * w for w in network([4, 16, 3])[0]], network([4, 16, 3])[1]
    outputs, gradients = all_of(distance_net, [torch.randn(50, 4, generator=generator(1))], weights, biases)
    assert all(torch.isfinite(v).all() for v in (*outputs, *gradients))


def test_a_sharpness_of_any_size_is_torchs():
    h = torch.linspace(-3, 3, 301)
    for beta in (1e-3, 0.5, 1.0, 1e4):
        value, slope = only_the_softplus(h, beta)
        torch.testing.assert_close(value.double(), exact_softplus(h, beta), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(slope.double(), torch.sigmoid(beta * h.double()), rtol=0, atol=2e-7)


def test_the_distance_is_as_near_to_float64_as_torchs_own():
    z, (weights, biases) = torch.randn(20_000, 35, generator=generator(3)), network([35, 64, 13])
    exact = reference.distance_only(z.double(), doubled(weights), doubled(biases))
    ours, theirs = (f(z, weights, biases).double() - exact for f in (distance_only, reference.distance_only))
    assert ours.abs().max() < 2e-6  # of distances up to 3
    assert ours.abs().max() < 2 * theirs.abs().max()
    assert ours.square().mean() < 1.5 * theirs.square().mean()


def test_nan_is_handed_on_and_stays_with_its_sample():
    z, layers = inputs(40, 5), network([5, 8, 8, 3])
    z[7, 2] = torch.nan
    features, gradient = distance_net(z, *layers)
    for made in (features, gradient, distance_only(z, *layers)[:, None]):
        assert made[7].isnan().all()
        assert not made[torch.arange(40) != 7].isnan().any()


def test_inputs_that_are_not_contiguous_give_the_same():
    z, (weights, biases) = inputs(70, 10), network([10, 12, 3])
    plain = all_of(distance_net, [z], weights, biases)
    turned = [w.T.contiguous().T for w in weights]
    sparse = [torch.stack([b, b], dim=1)[:, 0] for b in biases]
    for options in ([z.T.contiguous().T], turned, biases), ([z], turned, sparse):
        assert any(not v.is_contiguous() for group in options for v in group)
        for got, want in zip(all_of(distance_net, *options), plain, strict=True):
            assert all(map(torch.equal, got, want))
    parts = split_distance_net(z[:, :4], z[:, 4:], weights, biases)
    assert torch.equal(parts.features, plain[0][0])


def test_the_same_bytes_every_time_and_with_any_number_of_threads(with_threads):
    z, layers = [inputs(1500, 35)], network([35, 64, 13])
    one, again, two = (with_threads(n, lambda: all_of(distance_net, z, *layers)) for n in (1, 1, 2))
    for first, second in zip(one, again, strict=True):
        assert all(map(torch.equal, first, second))
    assert all(map(torch.equal, one[0], two[0]))
    assert torch.equal(one[1][0], two[1][0])
    for a, b in zip(one[1][1:], two[1][1:], strict=True):  # sums over samples, in another order
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))


def test_no_gradient_is_asked_for_without_need():
    z, layers = inputs(40, 5), network([5, 8, 3])
    assert not any(v.requires_grad for v in (*distance_net(z, *layers), distance_only(z, *layers)))
    x, encoded = z[:, :2].contiguous(), z[:, 2:].contiguous().requires_grad_()
    split_distance_net(x, encoded, *layers).features.sum().backward()
    assert x.grad is None
    assert encoded.grad is not None


def test_a_second_derivative_is_refused_and_not_silently_zero():
    z = inputs(3, 4).requires_grad_()
    (slope,) = torch.autograd.grad(distance_only(z, *network([4, 8, 1])).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        slope.square().sum().backward()


def test_wide_networks_are_torchs():
    z, layers = inputs(20, 5), network([5, 200, 3])
    for got, want in zip(distance_net(z, *layers), reference.distance_net(z, *layers), strict=True):
        assert torch.equal(got, want)


GOOD: dict[str, Any] = {"z": torch.ones(5, 4), "weights": network([4, 8, 2])[0], "biases": network([4, 8, 2])[1]}
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one layer": ({"weights": GOOD["weights"][:1], "biases": GOOD["biases"][:1]}, ValueError, "two or more matrices"),
    "a bias less": ({"biases": GOOD["biases"][:1]}, ValueError, "a bias for each, got 2 and 1"),
    "z's type": ({"z": torch.ones(5, 4).double()}, TypeError, "z must be torch.float32, got torch.float64"),
    "z's axes": ({"z": torch.ones(4)}, ValueError, r"z must be \[M, I\], got \[4\]"),
    "z's width": ({"z": torch.ones(5, 3)}, ValueError, r"weights\[0\] must be \[outputs, 3\], got \[8, 4\]"),
    "layers": ({"weights": [torch.ones(8, 4), torch.ones(2, 9)]}, ValueError, r"weights\[1\] must be \[outputs, 8\]"),
    "a bias's size": ({"biases": [torch.ones(8), torch.ones(3)]}, ValueError, r"biases\[1\] must be \[2\], got \[3\]"),
    "a bias's type": (
        {"biases": [torch.ones(8).half(), torch.ones(2)]},
        TypeError,
        r"biases\[0\] must be torch.float32",
    ),
    "no output": (
        {"weights": [torch.ones(8, 4), torch.ones(0, 8)], "biases": [torch.ones(8), torch.ones(0)]},
        ValueError,
        r"weights\[1\] must have a first row",
    ),
    "beta": ({"beta": 0.0}, ValueError, "beta must be above 0 and finite, got 0.0"),
    "infinite beta": ({"beta": float("inf")}, ValueError, "beta must be above 0 and finite, got inf"),
    "device": ({"biases": [torch.ones(8), torch.ones(2, device="meta")]}, ValueError, r"biases\[1\] on meta; move one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("function", [distance_net, distance_only])
def test_a_wrong_argument_is_named(mistake: str, function: Callable[..., Any]):
    change, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        function(**{**GOOD, **change})


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"encoded must be \[5, I\], got \[4, 2\]"):
        split_distance_net(torch.ones(5, 2), torch.ones(4, 2), GOOD["weights"], GOOD["biases"])


def check_compiled(**options: Any) -> None:
    def total(x: Tensor, encoded: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, ...]:
        made = split_distance_net(x * 2, encoded, weights, biases)
        return made.features + 1, made.to_x * 3, distance_only(encoded, weights[1:], biases[1:])

    torch.compiler.reset()
    layers = network([9, 6, 8, 3])
    parts = [inputs(70, 3), inputs(70, 6)]
    compiled = torch.compile(total, fullgraph=True, **options)
    for got, want in zip(all_of(compiled, parts, *layers), all_of(total, parts, *layers), strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # fusing may round once less


def test_a_compiled_graph_equals_eager():
    check_compiled(backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning")  # its own import
def test_code_that_torch_compile_generates_equals_eager():
    check_compiled()


def test_the_op_keeps_torchs_rules():
    weights, biases = network([5, 8, 2])
    flat = torch.cat([v.reshape(-1) for pair in zip(weights, biases, strict=True) for v in pair]).requires_grad_()
    x, more = inputs(20, 2).requires_grad_(), inputs(20, 3).requires_grad_()
    for whole in (True, False):
        torch.library.opcheck(torch.ops.fieldbook.distance_net.default, (x, more, flat, [5, 8, 2], BETA, whole))
