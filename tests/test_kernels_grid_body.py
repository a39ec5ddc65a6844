"""The grid's bodies as a GPU runs them, a point and a level at a time, compiled for the CPU and held against the twin.

The CPU's own launcher goes through them in another order, in registers; it is tested in test_kernels_grid.py.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from methods.kernels import reference
from methods.kernels.build import find_toolchain
from methods.kernels.grid import Grid

HARNESS = """
#include <bit>
#include "grid.h"
#include "ops/grid_taps.h"
using namespace fieldbook;

struct Add {
  float* out;
  int features;
  void operator()(int64_t at, const float* v) const { for (int f = 0; f < features; ++f) out[at + f] += v[f]; }
};

GridLevel level_of(const int64_t* p) {
  return {std::bit_cast<float>(static_cast<uint32_t>(p[0])), std::bit_cast<float>(static_cast<uint32_t>(p[1])),
          static_cast<uint32_t>(p[2]), static_cast<uint32_t>(p[3]), p[4], static_cast<int32_t>(p[5])};
}

extern "C" void run(int pass, const int32_t* shape, int64_t points, const int64_t* packed, const float* x,
                    const float* along, const float* table, const float* grad, const float* plain, float* out) {
  GridCall call{};
  call.args.along = along;
  call.dims = shape[0], call.features = shape[1], call.smooth = shape[2];
  const bool bounded = shape[3];
  const int levels = shape[4];
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH, bool DIRECTED>() {
    for (int l = 0; l < levels; ++l) {
      const GridLevel level = level_of(packed + 6 * l);
      const auto go = [&]<bool HASHED>() {
        for (int64_t i = 0; i < points; ++i) {
          const int64_t at = (i * levels + l) * F;
          const float *at_x = x + i * D, *v = DIRECTED ? along + i * D : nullptr;
          if (pass == 0) grid_forward<D, F, SMOOTH, HASHED, DIRECTED>(level, at_x, v, bounded, table, out + at);
          if (pass == 1)
            grid_backward_table<D, F, SMOOTH, HASHED, DIRECTED, false>(level, at_x, v, bounded, grad + at, nullptr,
                                                                       Add{out, F});
          if (pass == 3)
            grid_backward_table<D, F, SMOOTH, HASHED, DIRECTED, true>(level, at_x, v, bounded, grad + at, plain + at,
                                                                      Add{out, F});
          if (pass == 2)
            grid_backward_x<D, F, SMOOTH, HASHED, DIRECTED>(level, at_x, v, bounded, table, grad + at, out + i * D);
        }
      };
      if (level.hashed) go.template operator()<true>();
      else go.template operator()<false>();
    }
  });
}

extern "C" void run_taps(int pass, const int32_t* shape, int64_t points, const int64_t* packed, const float* x,
                         const float* offsets, const float* table, const float* grad, float* out) {
  GridCall call{};
  call.dims = shape[0], call.features = shape[1], call.smooth = shape[2];
  const bool bounded = shape[3];
  const int levels = shape[4];
  const Taps taps{offsets, shape[5], shape[6]};
  dispatch_shape(call, [&]<int D, int F, bool SMOOTH>() {
    for (int l = 0; l < levels; ++l) {
      const GridLevel level = level_of(packed + 6 * l);
      const int64_t stride = levels * F;
      const auto go = [&]<bool HASHED>() {
        for (int64_t i = 0; i < points; ++i) {
          const int64_t at = i * (1 + taps.count) * stride + l * F;
          const float* at_x = x + i * D;
          if (pass == 0) grid_taps_forward<D, F, SMOOTH, HASHED>(level, at_x, taps, bounded, table, out + at, stride);
          if (pass == 1)
            grid_taps_backward_table<D, F, SMOOTH, HASHED>(level, at_x, taps, bounded, grad + at, stride, Add{out, F});
          if (pass == 2)
            grid_taps_backward_x<D, F, SMOOTH, HASHED>(level, at_x, taps, bounded, table, grad + at, stride,
                                                       out + i * D);
        }
      };
      if (level.hashed) go.template operator()<true>();
      else go.template operator()<false>();
    }
  });
}
"""


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory):
    """A library with the bodies' functions ``run`` and ``run_taps``."""
    compiler = find_toolchain().cxx
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("grid_body")
    source, library = folder / "body.cpp", folder / "body.so"
    source.write_text(HARNESS, encoding="utf-8")
    include = Path(reference.__file__).parents[1] / "csrc"
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{include}", source, "-o", library]
    subprocess.run([str(c) for c in command], check=True)
    return ctypes.CDLL(str(library))


def call(function, which: int, grid: Grid, points: int, tensors: tuple, *more: int) -> None:
    smooth, bounded = grid.interpolation == "smoothstep", grid.dialect == "torch-ngp"
    numbers = (grid.dims, grid.features, smooth, bounded, grid.levels, *more)
    pointers = [ctypes.c_void_p(None if v is None else v.data_ptr()) for v in (grid.packed, *tensors)]
    function(which, (ctypes.c_int32 * len(numbers))(*numbers), ctypes.c_int64(points), *pointers)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"interpolation": "smoothstep"},
        {"kind": "tiled", "dialect": "torch-ngp"},
        {"kind": "dense", "levels": 3},
        {"dialect": "nerfstudio"},
        {"dialect": "torch-ngp", "align_corners": True},
    ],
    ids=str,
)
def test_the_bodies_of_a_gpu_give_what_the_twin_gives(body, dims: int, features: int, more: dict):
    grid = Grid(**{"dims": dims, "features": features, "levels": 6, "base": 4, "log2_size": 8, **more})
    make = torch.Generator().manual_seed(1)
    x = torch.rand(300, dims, generator=make) * 1.1 - 0.05  # some outside
    table = torch.randn(grid.rows, features, generator=make)
    grad = torch.randn(300, grid.width, generator=make)
    along = torch.randn(300, dims, generator=make)
    leaves = [v.double().requires_grad_() for v in (x, table, grad)]
    want = reference.grid_encode(*leaves[:2], grid, (1 << grid.levels) - 1)
    to_x, to_table = torch.autograd.grad(want, leaves[:2], leaves[2].detach(), retain_graph=True)
    check(body, grid, (x, None, table, grad), (want.detach(), to_table, to_x))
    slope = torch.autograd.grad(want, leaves[0], leaves[2], create_graph=True)[0]
    to_x, to_table, to_grad = torch.autograd.grad(slope, leaves, along.double())
    check(body, grid, (x, along, table, grad), (to_grad, to_table, to_x))
    plain = torch.randn(300, grid.width, generator=make)
    (alone,) = torch.autograd.grad(reference.grid_encode(x.double(), leaves[1], grid), leaves[1], plain.double())
    made = torch.zeros_like(table)
    call(body.run, 3, grid, len(x), (x, along, table, grad, plain, made))
    assert_near(made, to_table + alone)


def check(body, grid: Grid, inputs: tuple, expected: tuple) -> None:
    for which, want in enumerate(expected):
        made = torch.zeros_like(want, dtype=torch.float32)
        call(body.run, which, grid, len(inputs[0]), (*inputs, None, made))
        assert_near(made, want)


def assert_near(made: torch.Tensor, want: torch.Tensor) -> None:
    # float32 sums of up to some hundred terms of size 1, times the finest level's cells per unit for x.
    torch.testing.assert_close(made.double(), want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("reach", [0.002, 0.05, 1.2])
@pytest.mark.parametrize("clamped", [0, 1])
@pytest.mark.parametrize(
    "more", [{}, {"interpolation": "smoothstep"}, {"dialect": "torch-ngp", "kind": "tiled"}], ids=str
)
def test_the_bodies_of_a_gpu_give_what_the_twin_gives_at_taps(body, dims, features, reach, clamped, more):
    grid = Grid(**{"dims": dims, "features": features, "levels": 6, "base": 4, "log2_size": 8, **more})
    make = torch.Generator().manual_seed(1)
    x = torch.rand(200, dims, generator=make) * 1.1 - 0.05
    offsets = (torch.rand(5, dims, generator=make) * 2 - 1) * reach
    table = torch.randn(grid.rows, features, generator=make)
    grad = torch.randn(200, 6, grid.width, generator=make)
    leaves = [v.double().requires_grad_() for v in (x, table)]
    # As a kernel finds them, in float32: on a border and beyond, a tap's rounding decides what it gets.
    taps = ((x[:, None] + offsets).double() - x[:, None].double()) + leaves[0][:, None]
    places = torch.cat([leaves[0][:, None], taps.clamp(0, 1) if clamped else taps], dim=1)
    want = reference.grid_encode(places.flatten(0, 1), leaves[1], grid).view(200, 6, grid.width)
    to_x, to_table = torch.autograd.grad(want, leaves, grad.double())
    for which, truth in enumerate((want.detach(), to_table, to_x)):
        made = torch.zeros_like(truth, dtype=torch.float32)
        call(body.run_taps, which, grid, len(x), (x, offsets, table, grad, made), len(offsets), clamped)
        assert_near(made, truth)
