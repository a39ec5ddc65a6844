"""Cells in Morton order, and one bit per cell: the occupancy layout ``morton`` of ``march_spec``."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_range, check_tensor
from methods.kernels.library import compiled, has_kernels


def pack_bits(density: Tensor, threshold: float) -> Tensor:
    """One bit per cell, set where ``density > threshold``: cell k is bit k % 8 of byte k // 8, the lowest first.

    Args:
        density: ``[n]`` or ``[C, n]`` float32, with a multiple of 8 cells; in Morton order for the layout ``morton``.
        threshold: Of the strict comparison.

    Returns:
        ``[numel / 8]`` uint8.
    """
    flat = density.reshape(-1)
    check_tensor("density", flat, ("n",), torch.float32)
    if flat.numel() % 8:
        raise ValueError(f"density must have a multiple of 8 cells, got {flat.numel()}")
    if not has_kernels(density.device.type):
        return reference.pack_bits(flat, threshold)
    return _pack_bits(flat.detach(), threshold)


@torch.library.custom_op("fieldbook::pack_bits", mutates_args=())
def _pack_bits(density: Tensor, threshold: float) -> Tensor:
    bits = torch.empty(density.numel() // 8, dtype=torch.uint8, device=density.device)
    compiled(density.device.type).pack_bits(density.contiguous(), threshold, bits)
    return bits


@_pack_bits.register_fake
def _(density: Tensor, threshold: float) -> Tensor:
    return density.new_empty(density.numel() // 8, dtype=torch.uint8)


def morton3d(coords: Tensor) -> Tensor:
    """Z-order index: bit b of x, y, z becomes bit 3b, 3b + 1, 3b + 2.

    Args:
        coords: ``[N, 3]`` int32 or int64, 0..1023.

    Returns:
        ``[N]`` int64.
    """
    check_tensor("coords", coords, ("N", 3), (torch.int32, torch.int64))
    check_range("coords", coords, 2**10)
    return _morton3d(coords.long()) if has_kernels(coords.device.type) else reference.morton3d(coords)


def morton3d_inverse(index: Tensor) -> Tensor:
    """Cell of a Z-order index: ``[N]`` int32 or int64, 0..2^30 - 1, to ``[N, 3]`` int64."""
    check_tensor("index", index, ("N",), (torch.int32, torch.int64))
    check_range("index", index, 2**30)
    return _morton3d_inverse(index.long()) if has_kernels(index.device.type) else reference.morton3d_inverse(index)


@torch.library.custom_op("fieldbook::morton3d", mutates_args=())
def _morton3d(coords: Tensor) -> Tensor:
    index = coords.new_empty(coords.shape[0])
    compiled(coords.device.type).morton3d(coords.contiguous(), index)
    return index


@_morton3d.register_fake
def _(coords: Tensor) -> Tensor:
    return coords.new_empty(coords.shape[0])


@torch.library.custom_op("fieldbook::morton3d_inverse", mutates_args=())
def _morton3d_inverse(index: Tensor) -> Tensor:
    coords = index.new_empty(index.shape[0], 3)
    compiled(index.device.type).morton3d_inverse(index.contiguous(), coords)
    return coords


@_morton3d_inverse.register_fake
def _(index: Tensor) -> Tensor:
    return index.new_empty(index.shape[0], 3)
