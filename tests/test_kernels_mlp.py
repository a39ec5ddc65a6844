"""Small networks: the compiled form equals plain matrix products, for every width and number of samples."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.library import load
from methods.kernels.mlp import mlp

WIDTHS = [[1, 1], [3, 5], [32, 64, 16], [31, 64, 64, 3], [7, 9, 10, 11, 13], [128, 128, 1]]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(*shape: int, seed: int) -> Tensor:
    """Of -1, 0 and 1: sums of their products are exact, so that no rounding opens a ReLU in one form alone."""
    return torch.randint(-1, 2, shape, generator=generator(seed)).float()


def network(widths: list[int], seed: int = 0) -> list[Tensor]:
    return [whole(b, a, seed=seed + k) for k, (a, b) in enumerate(itertools.pairwise(widths))]


def all_of(function, x: Tensor, weights: list[Tensor], shared=None, index=None, shared_grad=False) -> list[Tensor]:
    """Outputs, gradient to x, to each matrix, and to what is shared if asked for."""
    x, weights = x.clone().requires_grad_(), [w.clone().requires_grad_() for w in weights]
    shared = shared.clone().requires_grad_(shared_grad) if shared is not None else None
    out = function(x, weights, shared, index)
    upstream = whole(*out.shape, seed=9).to(out)
    out.backward(upstream)
    wanted = [x, *weights, *([shared] if shared_grad else [])]
    return [v.detach().cpu() for v in (out, *(w.grad for w in wanted))]


def check_against_twin(
    x: Tensor, weights: list[Tensor], shared=None, index=None, device="cpu", shared_grad=False
) -> None:
    def to(*where) -> tuple:
        return x.to(*where), [w.to(*where) for w in weights], shared if shared is None else shared.to(*where)

    on = (*to(device), index if index is None else index.to(device))
    made = all_of(mlp, *on, shared_grad=shared_grad)
    want = all_of(reference.mlp, *to(torch.float64), index, shared_grad=shared_grad)
    # Exact below 2^24; the gradients of deep matrices go beyond, and only they have roundings, of their sums.
    for got, truth in zip(made, want, strict=True):
        largest = float(truth.abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(got.double(), truth, rtol=0, atol=0 if largest < 2**20 else 2**-20 * largest)


@pytest.fixture(autouse=True)
def _compiled():
    """Without the compiled kernels these tests would compare the twin with itself."""
    load("cpu")


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("samples", [0, 1, 255, 256, 257, 600])
def test_outputs_and_gradients_equal_the_twins(device, widths, samples):
    x = whole(samples, widths[0], seed=1)
    check_against_twin(x, network(widths), device=device)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_outputs_of_fractions_equal_the_twins(device, widths):
    x = torch.randn(300, widths[0], generator=generator(1))
    weights = [w * torch.rand(w.shape, generator=generator(2)) for w in network(widths)]
    made = mlp(x.to(device), [w.to(device) for w in weights]).cpu().double()
    truth = reference.mlp(x.double(), [w.double() for w in weights])
    # A rounding of 2^-24 for each of at most 128 terms of a sum, in at most 4 layers, and they hardly ever agree.
    torch.testing.assert_close(made, truth, rtol=0, atol=2**-19 * float(truth.abs().max()))


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    samples=st.integers(0, 600),
    common=st.integers(0, 20),
    groups=st.integers(1, 9),
)
def test_any_widths_and_inputs_that_samples_share_equal_the_twin(widths, samples, common, groups):
    weights = network([widths[0] + common, *widths[1:]])
    x = whole(samples, widths[0], seed=1)
    shared = whole(groups, common, seed=2)
    index = torch.randint(groups, (samples,), generator=generator(3))
    check_against_twin(x, weights, shared, index)


def test_inputs_can_all_be_shared(device):
    shared, index = whole(4, 6, seed=2), torch.tensor([3, 0, 0, 2, 1])
    check_against_twin(torch.empty(5, 0), network([6, 8, 2]), shared, index, device)


def test_shared_inputs_that_want_a_gradient_get_it(device):
    x, shared = whole(300, 5, seed=1), whole(7, 4, seed=2)
    index = torch.randint(7, (300,), generator=generator(3))
    check_against_twin(x, network([9, 16, 3]), shared, index, device, shared_grad=True)


def test_wide_networks_equal_the_twin(device):
    check_against_twin(whole(20, 5, seed=1), network([5, 200, 3]), device=device)


def test_no_gradient_is_asked_for_without_need(device):
    out = mlp(torch.ones(3, 4, device=device), [w.to(device) for w in network([4, 8, 2])])
    assert not out.requires_grad


def test_inputs_that_are_not_contiguous_give_the_same(device):
    x, weights = torch.randn(300, 6, generator=generator(1)), network([10, 12, 3])
    shared, index = torch.randn(7, 4, generator=generator(2)), torch.randint(7, (600,), generator=generator(3))
    plain = [v.to(device) for v in (x, shared, index[::2].contiguous())]
    strided = [x.T.contiguous().to(device).T, shared.T.contiguous().to(device).T, index.to(device)[::2]]
    assert not any(v.is_contiguous() for v in strided)
    matrices = [w.to(device) for w in weights]
    turned = [w.T.contiguous().to(device).T for w in weights]
    want = all_of(mlp, plain[0], matrices, *plain[1:])
    for got, truth in zip(all_of(mlp, strided[0], turned, *strided[1:]), want, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=0 if device == "cpu" else 1e-5)


def test_the_same_bytes_every_time():
    x, weights = torch.randn(700, 6, generator=generator(1)), network([6, 12, 3])
    first, second = (all_of(mlp, x, weights) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_the_number_of_threads_changes_roundings_of_the_matrices_gradients_alone(with_threads):
    x, weights = torch.randn(1500, 6, generator=generator(1)), network([6, 12, 3])
    one, two = (with_threads(n, lambda: all_of(mlp, x, weights)) for n in (1, 2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    for a, b in zip(one[2:], two[2:], strict=True):
        # 1500 products of about 1 in another order: roundings of sums of up to some hundreds.
        torch.testing.assert_close(a, b, rtol=0, atol=1500 * 2**-23)


def test_a_second_derivative_is_refused_and_not_silently_zero():
    x = torch.randn(3, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(mlp(x, network([4, 8, 1])).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        slope.square().sum().backward()


MISTAKES = {
    "no weights": (lambda a: a | {"weights": []}, ValueError, "weights must hold at least one matrix"),
    "shared alone": (lambda a: a | {"index": None}, ValueError, "give shared and index together, or neither"),
    "x's type": (lambda a: a | {"x": a["x"].double()}, TypeError, "x must be torch.float32, got torch.float64"),
    "x's axes": (lambda a: a | {"x": a["x"][0]}, ValueError, r"x must be \[M, I\], got \[4\]"),
    "too many inputs": (lambda a: a | {"x": torch.ones(5, 6)}, ValueError, r"weights\[0\] must be \[outputs, 8\]"),
    "layers": (lambda a: a | {"weights": network([6, 8]) + network([9, 2])}, ValueError, r"weights\[1\] must be"),
    "a weight's type": (lambda a: a | {"weights": [w.half() for w in a["weights"]]}, TypeError, r"weights\[0\] must"),
    "index's type": (lambda a: a | {"index": a["index"].int()}, TypeError, "index must be torch.int64"),
    "index's size": (lambda a: a | {"index": a["index"][1:]}, ValueError, r"index must be \[5\], got \[4\]"),
    "index above": (lambda a: a | {"index": a["index"] + 1}, ValueError, r"index must lie in 0..2, got 1..3"),
    "index below": (lambda a: a | {"index": a["index"] - 1}, ValueError, r"index must lie in 0..2, got -1..1"),
    "nothing shared": (lambda a: a | {"shared": torch.ones(0, 2)}, ValueError, r"index must lie in"),
    "device": (lambda a: a | {"shared": a["shared"].to("meta")}, ValueError, "shared on meta; move one"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("shared_grad", [False, True])
def test_a_wrong_argument_is_named(mistake, shared_grad):
    change, error, words = MISTAKES[mistake]
    shared = torch.ones(3, 2).requires_grad_(shared_grad)
    arguments = {"x": torch.ones(5, 4), "weights": network([6, 8, 2]), "shared": shared}
    with pytest.raises(error, match=words):
        mlp(**change(arguments | {"index": torch.tensor([0, 1, 2, 1, 0])}))


def check_compiled(**options) -> None:
    def network_of(x: Tensor, weights: list[Tensor], shared: Tensor, index: Tensor) -> Tensor:
        return mlp(x * 2, weights, shared, index) + 1

    torch.compiler.reset()
    x, shared = torch.randn(300, 5, generator=generator(1)), torch.randn(7, 4, generator=generator(2))
    index, weights = torch.randint(7, (300,), generator=generator(3)), network([9, 16, 3])
    compiled = torch.compile(network_of, fullgraph=True, **options)
    for got, want in zip(
        all_of(compiled, x, weights, shared, index), all_of(network_of, x, weights, shared, index), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # fusing may round once less
    with pytest.raises(ValueError, match=r"index must lie in 0..6, got 1..7"):
        compiled(x, weights, shared, index + 1)


def test_a_compiled_graph_equals_eager_and_still_looks_at_the_index():
    check_compiled(backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning")  # its own import
def test_code_that_torch_compile_generates_equals_eager():
    check_compiled()


def test_the_op_keeps_torchs_rules():
    weights = torch.cat([w.reshape(-1) for w in network([5, 8, 2])]).requires_grad_()
    x, shared, index = torch.randn(20, 4, requires_grad=True), torch.randn(3, 1), torch.arange(20) % 3
    torch.library.opcheck(torch.ops.fieldbook.mlp.default, (x, shared, index, weights, [5, 8, 2]))
