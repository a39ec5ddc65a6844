"""Encodings without parameters: spherical harmonics of directions, sines and cosines of positions.

N directions or points, D dimensions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_finite, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.ops import Op

MAX_DEGREE = 8
MAX_OCTAVES = 31
ORDERS = ("sin-cos-per-octave", "all-sines-first")


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to l = degree - 1, orthonormal on the sphere.

    Order and sign are those of tiny-cuda-nn and torch-ngp: Y_lm at ``l^2 + l + m``, with the factor (-1)^m. They are
    polynomials ``q(z) Re or Im (x + iy)^m``; off the sphere, where they mean nothing, they go on as such, and so does
    the gradient.

    Args:
        directions: ``[N, 3]`` float32, unit vectors (tiny-cuda-nn's own input is ``(directions + 1) / 2``).
        degree: 1 to 8.

    Returns:
        ``[N, degree^2]`` float32.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or degree, or directions that are NaN or infinite.
    """
    check_tensor("directions", directions, ("N", 3), torch.float32)
    if not 1 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be 1 to {MAX_DEGREE}, got {degree}")
    check_finite("directions", directions)
    if not has_kernels(directions.device.type):
        return reference.spherical_harmonics(directions, degree)
    return _harmonics(directions, degree)


def frequency_encode(
    x: Tensor,
    octaves: int,
    include_input: bool = True,
    order: Literal["sin-cos-per-octave", "all-sines-first"] = "sin-cos-per-octave",
    scale: float = 1.0,
) -> Tensor:
    """Sines and cosines of ``2^k scale x``, k = 0 to octaves - 1 (Mildenhall et al. 2020, equation 4).

    Args:
        x: ``[N, D]`` float32; the phase is exact to 6e-8 below 2^22 quarter turns.
        octaves: 1 to 31.
        include_input: Whether x itself comes first.
        order: ``sin-cos-per-octave``: per octave D sines, then D cosines, as RAD-NeRF has them; ``all-sines-first``:
            the sines of all octaves, then the cosines, as mip-NeRF and TAVA.
        scale: 1, or pi where the method's formula has it.

    Returns:
        ``[N, D (2 octaves + include_input)]`` float32.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape, order or number of octaves, or values that are NaN or infinite.
    """
    check_tensor("x", x, ("N", "D"), torch.float32)
    if not 1 <= octaves <= MAX_OCTAVES:
        raise ValueError(f"octaves must be 1 to {MAX_OCTAVES}, got {octaves}")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    check_finite("x", x)
    if not has_kernels(x.device.type):
        return reference.frequency_encode(x, octaves, include_input, order, scale)
    return _frequency(x, octaves, include_input, order == "all-sines-first", float(scale))


def _launch_harmonics(directions: Tensor, degree: int) -> Tensor:
    out = _empty_harmonics(directions, degree)
    compiled(directions.device.type).harmonics_forward(directions.contiguous(), degree, out)
    return out


def _empty_harmonics(directions, degree):
    return directions.new_empty(directions.shape[0], degree**2)


def _launch_harmonics_backward(directions: Tensor, degree: int, grad: Tensor) -> Tensor:
    out = _empty_directions(directions, degree, grad)
    compiled(directions.device.type).harmonics_backward(directions.contiguous(), degree, grad.contiguous(), out)
    return out


def _empty_directions(directions, degree, grad):
    return directions.new_empty(directions.shape)


def _harmonics_context(ctx, inputs, output) -> None:
    directions, ctx.degree = inputs
    ctx.save_for_backward(directions)


def _harmonics_gradient(ctx, grad: Tensor):
    return _harmonics_backward(*ctx.saved_tensors, ctx.degree, grad), None


_harmonics = Op("spherical_harmonics", _launch_harmonics, _empty_harmonics, (_harmonics_gradient, _harmonics_context))
_harmonics_backward = Op("spherical_harmonics_backward", _launch_harmonics_backward, _empty_directions)


def _launch_frequency(x: Tensor, octaves: int, include_input: bool, sines_first: bool, scale: float) -> Tensor:
    out = _empty_frequency(x, octaves, include_input, sines_first, scale)
    if out.numel():
        ops = compiled(x.device.type)
        ops.frequency_forward(x.contiguous(), octaves, include_input, sines_first, scale, out)
    return out


def _empty_frequency(x, octaves, include_input, sines_first, scale):
    return x.new_empty(x.shape[0], x.shape[1] * (2 * octaves + include_input))


def _launch_frequency_backward(
    out: Tensor, grad: Tensor, octaves: int, include_input: bool, sines_first: bool, scale: float
) -> Tensor:
    to_x = _empty_x(out, grad, octaves, include_input, sines_first, scale)
    if to_x.numel():
        ops = compiled(out.device.type)
        ops.frequency_backward(out, grad.contiguous(), octaves, include_input, sines_first, scale, to_x)
    return to_x


def _empty_x(out, grad, octaves, include_input, sines_first, scale):
    return out.new_empty(out.shape[0], out.shape[1] // (2 * octaves + include_input))


def _frequency_context(ctx, inputs, output) -> None:
    _, *ctx.options = inputs
    ctx.save_for_backward(output)


def _frequency_gradient(ctx, grad: Tensor):
    return _frequency_backward(*ctx.saved_tensors, grad, *ctx.options), None, None, None, None


_frequency = Op("frequency_encode", _launch_frequency, _empty_frequency, (_frequency_gradient, _frequency_context))
_frequency_backward = Op("frequency_encode_backward", _launch_frequency_backward, _empty_x)
