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
using namespace fieldbook;

struct Add {
  float* out;
  int features;
  void operator()(int64_t at, const float* v) const { for (int f = 0; f < features; ++f) out[at + f] += v[f]; }
};

extern "C" void run(int pass, const int32_t* shape, int64_t points, const int64_t* packed, const float* x,
                    const float* along, const float* table, const float* grad, float* out) {
  GridCall call{};
  call.args.along = along;
  call.dims = shape[0], call.features = shape[1], call.smooth = shape[2];
  const bool bounded = shape[3];
  const int levels = shape[4];
  dispatch_grid(call, [&]<int D, int F, bool SMOOTH, bool DIRECTED>() {
    for (int l = 0; l < levels; ++l) {
      const int64_t* p = packed + 6 * l;
      const GridLevel level{std::bit_cast<float>(static_cast<uint32_t>(p[0])),
                            std::bit_cast<float>(static_cast<uint32_t>(p[1])), static_cast<uint32_t>(p[2]),
                            static_cast<uint32_t>(p[3]), p[4], static_cast<int32_t>(p[5])};
      const auto go = [&]<bool HASHED>() {
        for (int64_t i = 0; i < points; ++i) {
          const int64_t at = (i * levels + l) * F;
          const float *at_x = x + i * D, *v = DIRECTED ? along + i * D : nullptr;
          if (pass == 0) grid_forward<D, F, SMOOTH, HASHED, DIRECTED>(level, at_x, v, bounded, table, out + at);
          if (pass == 1)
            grid_backward_table<D, F, SMOOTH, HASHED, DIRECTED, false>(level, at_x, v, bounded, grad + at, nullptr,
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
"""


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory):
    """(pass, grid, x, along, table, grad, out) -> None, by the bodies."""
    compiler = find_toolchain().cxx
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("grid_body")
    source, library = folder / "body.cpp", folder / "body.so"
    source.write_text(HARNESS, encoding="utf-8")
    include = Path(reference.__file__).parents[1] / "csrc"
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{include}", source, "-o", library]
    subprocess.run([str(c) for c in command], check=True)
    run = ctypes.CDLL(str(library)).run

    def call(which: int, grid: Grid, x, along, table, grad, out) -> None:
        smooth, bounded = grid.interpolation == "smoothstep", grid.dialect == "torch-ngp"
        shape = (ctypes.c_int32 * 5)(grid.dims, grid.features, smooth, bounded, grid.levels)
        tensors = (grid.packed, x, along, table, grad, out)
        pointers = [ctypes.c_void_p(None if v is None else v.data_ptr()) for v in tensors]
        run(which, shape, ctypes.c_int64(len(x)), *pointers)

    return call


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


def check(body, grid: Grid, inputs: tuple, expected: tuple) -> None:
    for which, want in enumerate(expected):
        made = torch.zeros_like(want, dtype=torch.float32)
        body(which, grid, *inputs, made)
        # float32 sums of up to some hundred terms of size 1, times the finest level's cells per unit for x.
        assert torch.allclose(made.double(), want, rtol=1e-4, atol=1e-5 * float(want.abs().max())), which
