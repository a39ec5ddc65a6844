"""Spherical harmonics and frequency encoding: the published order, sign and values, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import encodings, reference
from methods.kernels.encodings import ORDERS, frequency_encode, spherical_harmonics

DEGREES = range(1, 9)
POINTS = [0, 1, 15, 16, 17, 31, 32, 33, 1000]
"""Around what a vector register and a warp hold."""


def directions(points: int, seed: int = 0) -> Tensor:
    normal = torch.randn(points, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(normal, dim=-1)


def positions(points: int, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(points, dims, generator=torch.Generator().manual_seed(seed)) * 6 - 3


def value_and_gradient(encode, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = encode(x)
    out.backward(torch.linspace(-1, 2, out.numel()).view(out.shape).to(out))
    assert x.grad is not None
    return [v.detach().cpu().double() for v in (out, x.grad)]


# --- spherical harmonics ---------------------------------------------------------------------------------------------


def test_order_sign_and_scale_are_tiny_cuda_nns(device):
    x, y, z = directions(50).double().unbind(-1)
    published = {
        0: 0.28209479177387814 + 0 * x,
        1: -0.48860251190291987 * y,
        2: 0.48860251190291987 * z,
        3: -0.48860251190291987 * x,
        4: 1.0925484305920792 * x * y,
        5: -1.0925484305920792 * y * z,
        6: 0.94617469575755997 * z * z - 0.31539156525251999,
        7: -1.0925484305920792 * x * z,
        8: 0.54627421529603959 * (x * x - y * y),
        9: 0.59004358992664352 * y * (-3 * x * x + y * y),
        12: 0.37317633259011546 * z * (5 * z * z - 3),
        15: 0.59004358992664352 * x * (-x * x + 3 * y * y),
    }
    made = spherical_harmonics(directions(50).to(device), 4).cpu().double()
    for place, want in published.items():
        # Some roundings of numbers of at most 1; places by l^2 + l + m.
        torch.testing.assert_close(made[:, place], want, rtol=0, atol=2**-21)


@pytest.mark.parametrize("degree", DEGREES)
def test_harmonics_are_scipys(degree):
    from scipy.special import sph_harm_y

    unit = torch.nn.functional.normalize(directions(200).double(), dim=-1)
    x, y, z = unit.numpy().T
    theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    made = reference.spherical_harmonics(unit, degree).numpy()
    for l in range(degree):  # noqa: E741
        for m in range(-l, l + 1):
            # scipy's has the factor (-1)^m (Condon and Shortley), which tiny-cuda-nn keeps.
            whole = sph_harm_y(l, abs(m), theta, phi)
            want = whole.real if m == 0 else math.sqrt(2) * (whole.real if m > 0 else whole.imag)
            np.testing.assert_allclose(made[:, l * l + l + m], want, rtol=0, atol=1e-12)  # in float64


def test_harmonics_are_orthonormal_on_the_sphere(device):
    # Gauss in z and even steps around: exact for products of polynomials of degree 7.
    heights, weights = np.polynomial.legendre.leggauss(8)
    angles = np.arange(16) / 16 * 2 * np.pi
    level = np.sqrt(1 - heights**2)[:, None]
    grid = np.stack(np.broadcast_arrays(level * np.cos(angles), level * np.sin(angles), heights[:, None]), -1)
    made = spherical_harmonics(torch.tensor(grid.reshape(-1, 3), dtype=torch.float32).to(device), 8).cpu().double()
    area = torch.tensor(weights).repeat_interleave(16) * 2 * np.pi / 16
    # Sums of 128 products of numbers of at most 2.
    torch.testing.assert_close(made.T * area @ made, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("points", POINTS)
def test_harmonics_and_their_gradient_equal_the_twins(device, degree, points):
    x = directions(points)
    made = value_and_gradient(lambda v: spherical_harmonics(v, degree), x.to(device))
    want = value_and_gradient(lambda v: reference.spherical_harmonics(v, degree), x.double())
    # The recurrences round `degree` times, numbers of up to degree / 2; the gradient sums degree^2 of them, which are
    # up to degree^2 as large, times the upstream 2.
    for got, truth, terms in zip(made, want, (degree**2, degree**4), strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=terms * 2**-22)


def test_the_gradient_along_the_axes_is_finite_and_right(device):
    x = torch.eye(3).repeat(2, 1) * torch.tensor([1.0, -1.0]).repeat_interleave(3)[:, None]
    made = value_and_gradient(lambda v: spherical_harmonics(v, 8), x.to(device))
    want = value_and_gradient(lambda v: reference.spherical_harmonics(v, 8), x.double())
    for got, truth in zip(made, want, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=8**4 * 2**-22)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_the_twins_derivatives_of_harmonics_are_right(degree):
    x = directions(4).double().requires_grad_()
    encode = lambda v: reference.spherical_harmonics(v, degree)  # noqa: E731
    assert torch.autograd.gradcheck(encode, x)
    assert torch.autograd.gradgradcheck(encode, x)


# --- frequencies -----------------------------------------------------------------------------------------------------


def test_the_orders_are_rad_nerfs_and_mip_nerfs(device):
    x = torch.tensor([[0.1, 0.2]], device=device)
    s, c = math.sin, math.cos
    per_octave = [0.1, 0.2, s(0.1), s(0.2), c(0.1), c(0.2), s(0.2), s(0.4), c(0.2), c(0.4)]
    assert frequency_encode(x, 2).cpu()[0].tolist() == pytest.approx(per_octave, abs=2e-7)
    sines_first = [s(0.1), s(0.2), s(0.2), s(0.4), c(0.1), c(0.2), c(0.2), c(0.4)]
    made = frequency_encode(x, 2, include_input=False, order="all-sines-first")
    assert made.cpu()[0].tolist() == pytest.approx(sines_first, abs=2e-7)
    with_input = frequency_encode(x, 2, order="all-sines-first")
    assert with_input.cpu()[0].tolist() == pytest.approx([0.1, 0.2, *sines_first], abs=2e-7)


def test_halves_times_pi_are_exact_zeros_and_ones(device):
    made = frequency_encode(torch.tensor([[0.5], [1.0], [-3.5]], device=device), 2, False, scale=math.pi)
    assert made.cpu().tolist() == [[1, 0, 0, -1], [0, -1, 0, 1], [1, 0, 0, -1]]


@settings(max_examples=80, deadline=None)
@given(
    points=st.integers(0, 40),
    dims=st.integers(1, 7),
    octaves=st.integers(1, 16),
    include_input=st.booleans(),
    order=st.sampled_from(ORDERS),
    scale=st.sampled_from([1.0, math.pi, 2 * math.pi, 0.3]),
    seed=st.integers(0, 10**6),
)
def test_waves_and_their_gradient_equal_the_twins(device, points, dims, octaves, include_input, order, scale, seed):
    x, options = positions(points, dims, seed), (octaves, include_input, order, scale)
    made = value_and_gradient(lambda v: frequency_encode(v, *options), x.to(device))
    want = value_and_gradient(lambda v: reference.frequency_encode(v, *options), x.double())
    # Two roundings of 1; the gradient sums such numbers times frequencies and the upstream 2.
    torch.testing.assert_close(made[0], want[0], rtol=0, atol=2**-22)
    torch.testing.assert_close(made[1], want[1], rtol=0, atol=2**-20 * scale * 2**octaves + 2**-22)


def test_many_turns_keep_their_phase(device):
    x = torch.tensor([[1.0], [0.7], [-0.3]])  # times 2^22, under the 2^22 quarter turns that the docstring names
    made = frequency_encode(x.to(device), 23, include_input=False).cpu().double()
    want = reference.frequency_encode(x.double(), 23, include_input=False)
    torch.testing.assert_close(made, want, rtol=0, atol=2**-22)


@pytest.mark.parametrize("order", ORDERS)
def test_the_twins_derivatives_of_waves_are_right(order):
    x = positions(3).double().requires_grad_()
    encode = lambda v: reference.frequency_encode(v, 3, True, order, 0.7)  # noqa: E731
    assert torch.autograd.gradcheck(encode, x)
    assert torch.autograd.gradgradcheck(encode, x)


# --- both ------------------------------------------------------------------------------------------------------------

ENCODINGS = [
    pytest.param(lambda x: spherical_harmonics(x, 4), id="harmonics"),
    pytest.param(lambda x: frequency_encode(x, 5), id="sin-cos-per-octave"),
    pytest.param(lambda x: frequency_encode(x, 5, True, "all-sines-first"), id="all-sines-first"),
]


@pytest.mark.parametrize("encode", ENCODINGS)
def test_inputs_need_not_be_contiguous(device, encode):
    x = directions(40).to(device)
    columns = x.T.contiguous().T
    assert not columns.is_contiguous()
    for got, want in zip(value_and_gradient(encode, columns), value_and_gradient(encode, x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("encode", ENCODINGS)
def test_values_that_are_not_finite_are_refused(encode):
    for bad in (math.nan, math.inf, -math.inf):
        x = directions(20)
        x[3, 1] = bad
        with pytest.raises(ValueError, match="has 1 values that are NaN or infinite, of 60"):
            encode(x)


@pytest.mark.parametrize("encode", ENCODINGS)
def test_wrong_tensors_are_refused(encode):
    with pytest.raises(TypeError, match=r"must be torch.float32, got torch.float64"):
        encode(directions(5).double())
    with pytest.raises(ValueError, match=r"must be \[N, "):
        encode(directions(5)[0])
    with pytest.raises(TypeError, match="must be a tensor"):
        encode([[0.0, 0.0, 1.0]])


def test_wrong_options_are_refused():
    for degree in (0, 9):
        with pytest.raises(ValueError, match=f"degree must be 1 to 8, got {degree}"):
            spherical_harmonics(directions(5), degree)
    with pytest.raises(ValueError, match=r"directions must be \[N, 3\], got \[5, 2\]"):
        spherical_harmonics(positions(5, 2), 4)
    for octaves in (0, 32):
        with pytest.raises(ValueError, match=f"octaves must be 1 to 31, got {octaves}"):
            frequency_encode(positions(5), octaves)
    with pytest.raises(ValueError, match="order must be one of"):
        frequency_encode(positions(5), 3, order="xyz")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scale must be finite"):
        frequency_encode(positions(5), 3, scale=math.inf)


@pytest.mark.parametrize("encode", ENCODINGS)
def test_without_kernels_the_twins_run(monkeypatch, encode):
    x = directions(100)
    made = value_and_gradient(encode, x)
    monkeypatch.setattr(encodings, "has_kernels", lambda _: False)
    for got, want in zip(value_and_gradient(encode, x), made, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)  # the gradients' largest numbers are some tens


@pytest.mark.parametrize("encode", ENCODINGS)
def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads, encode):
    x = directions(5001)
    runs = [with_threads(n, lambda: value_and_gradient(encode, x)) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_the_ops_keep_torchs_rules(device):
    x, ops = directions(20).to(device), torch.ops.fieldbook
    options = (3, True, False, math.pi)
    torch.library.opcheck(ops.spherical_harmonics.default, (x, 4))
    torch.library.opcheck(ops.spherical_harmonics_backward.default, (x, 4, torch.ones(20, 16, device=device)))
    torch.library.opcheck(ops.frequency_encode.default, (x, *options))
    out = frequency_encode(x, 3, scale=math.pi)
    torch.library.opcheck(ops.frequency_encode_backward.default, (out, torch.ones_like(out), *options))


@pytest.mark.parametrize("encode", ENCODINGS)
def test_a_second_derivative_is_refused_and_not_wrong(device, encode):
    x = directions(5).to(device).requires_grad_()
    (slope,) = torch.autograd.grad(encode(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        slope.sum().backward()


@pytest.mark.parametrize("encode", ENCODINGS)
def test_a_compiled_graph_equals_eager(device, encode):
    def around(x: Tensor) -> Tensor:
        return encode(x * 0.9).tanh()

    x = directions(40).to(device)
    torch.compiler.reset()
    compiled = torch.compile(around, fullgraph=True, backend="aot_eager")
    for got, want in zip(value_and_gradient(compiled, x), value_and_gradient(around, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # the same operations
