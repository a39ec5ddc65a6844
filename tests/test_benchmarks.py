"""What can be checked without a GPU of the benchmarks that need one: it compiles, and it computes the right thing.

The benchmarks' modules import one another by bare names, so each test runs a process that has their folder on its path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import psutil
import pytest

from methods.kernels.build import find_toolchain

LACKS_INTERPRETER = 77

PEERS = """
import torch
from gpu_hash import eager_peer, hash_rates, hash_rows, triton_peer
from gpu_render import composite_rows, distortion_rows, large_composite_rows, march_rows
from gpu_rows import poisoned
from gpu_streaming import adam_row, encoding_rows, pack_bits_row
from methods.kernels.grid import Grid

torch.manual_seed(0)
with poisoned():
    assert torch.empty(3).isnan().all()
grid = Grid.between(16, 64, 3, log2_size=8, dialect="nerfstudio")
groups = [hash_rates(192, "cpu", grid), hash_rows(192, eager_peer, "cpu", grid), encoding_rows(100, 200, "cpu")]
groups += [composite_rows(4, 16, peer, "cpu"), large_composite_rows(8, 16, "cpu"), distortion_rows(4, "cpu")]
groups += [march_rows(16, peer, "cpu"), [pack_bits_row(800, "cpu"), adam_row(800, "cpu")]]
for group in groups:
    for row in group:
        for calls in row.sides.values():
            for call in calls:
                call()
        compared = [error for error in row.errors if error is not None]
        print(row.name, compared)
        assert all(error < 1e-6 for error in compared), (row.name, compared)  # some roundings of 6e-8
"""

NERFACC = """
import torch
import nerfacc.scan
import nerfacc.estimators.occ_grid
from gpu_peers import Nerfacc
from kernel_inputs import SHELL
from methods.kernels.marching import march

def exclusive_sum(starts, counts, inputs, normalize, backward):
    out = torch.zeros_like(inputs)
    for a, n in zip(starts.tolist(), counts.tolist()):
        values = inputs[a : a + n].flip(0) if backward else inputs[a : a + n]
        sums = values.cumsum(0) - values
        out[a : a + n] = sums.flip(0) if backward else sums
    return out

def traverse_grids(origins, directions, binaries, aabbs, near_planes, far_planes, step_size, cone_angle):
    assert abs(step_size - SHELL.step_min) < 1e-9 and cone_angle == 0
    assert torch.equal(aabbs, torch.tensor([SHELL.aabb]))
    made = march(origins, directions, near_planes, far_planes, binaries, SHELL)
    left = torch.tensor([True, False]).repeat(len(made))
    edges = torch.stack([made.t_start, made.t_end], 1).view(-1)
    samples = nerfacc.RaySamples(vals=made.midpoints, ray_indices=made.ray_index)
    return nerfacc.RayIntervals(vals=edges, is_left=left, is_right=~left), samples

# Its kernels need a GPU; its Python runs on these instead.
nerfacc.scan._C.exclusive_sum = exclusive_sum
nerfacc.estimators.occ_grid.traverse_grids = traverse_grids
peer = Nerfacc(nerfacc, 0.0)
"""

TRITON = """
import sys
import torch
import triton
import triton.language as tl

@triton.jit
def double(x, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(x + i, 2 * tl.load(x + i))

try:
    double[(1,)](torch.ones(4), n=4)
except Exception as error:
    print(f"triton {triton.__version__} does not interpret: {error}")
    sys.exit(77)

from triton_grid import TritonGrid
from methods.kernels import reference
from methods.kernels.grid import Grid

torch.manual_seed(0)
grid = Grid.between(16, 64, 3, log2_size=8, dialect="nerfstudio")
x, table, slopes = torch.rand(300, 3), torch.rand(grid.rows, 2), torch.randn(300, grid.width)
x[0], x[1], x[2] = 0.0, 1.0, torch.tensor([0.0, 0.5, 1.0])
encode = TritonGrid(grid, table)
made = encode(x)
made.backward(slopes)
exact = table.double().requires_grad_()
want = reference.grid_encode(x.double(), exact, grid)
want.backward(slopes.double())
torch.testing.assert_close(made.double(), want, rtol=0, atol=1e-6)
torch.testing.assert_close(encode.table.grad.double(), exact.grad, rtol=0, atol=1e-5)  # sums of some ten slopes
"""


@pytest.fixture
def python(repository, tmp_path):
    """Run a script that can import the benchmarks' modules: (text, more environment) -> finished process."""

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(text)
        paths = [str(repository / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)

    return run


def test_what_measures_a_gpu_compiles_and_loads(python, tmp_path):
    if find_toolchain().nvcc is None:
        pytest.skip("no nvcc: $CUDA_HOME, /usr/local/cuda and the path have none")
    folder = f"Path({str(tmp_path)!r})"
    text = f"from pathlib import Path\nfrom gpu_rates import *\nlibrary = load_library(compile_library({folder}))\n"
    done = python(text + "assert ACCESSES % library.granule() == 0 and ACCESSES < 2**32")
    assert done.returncode == 0, done.stderr


def test_the_shim_gives_nerfacc_the_name_that_cub_lost(python, tmp_path):
    """nerfacc itself takes minutes to build; this is the one thing in which its sources fail."""
    tools = find_toolchain()
    if tools.nvcc is None:
        pytest.skip("no nvcc: $CUDA_HOME, /usr/local/cuda and the path have none")
    done = python(
        "import json\nfrom pathlib import Path\nfrom gpu_peers import build_variables\n"
        f"print(json.dumps(build_variables(Path({str(tmp_path)!r}), Path({str(tools.cuda_home)!r}))))"
    )
    assert done.returncode == 0, done.stderr
    variables = json.loads(done.stdout)
    source = tmp_path / "scan.cu"
    source.write_text("#include <cub/version.cuh>\nstatic_assert(cub::Equality{}(1, 1) && !cub::Equality{}(1, 2));\n")
    command = [tools.nvcc, "-std=c++17", "-ccbin", str(tools.cxx), "-c", str(source), "-o", str(tmp_path / "scan.o")]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    assert made.returncode == 0, made.stderr


def test_the_triton_grid_agrees_with_the_twin(python):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    done = python(TRITON, TRITON_INTERPRET="1")
    if done.returncode == LACKS_INTERPRETER:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr


def test_both_sides_of_every_gpu_row_compute_the_same(python):
    """On the CPU and small; what is timed on a GPU are these very calls."""
    done = python(NERFACC + PEERS)
    assert done.returncode == 0, done.stdout + done.stderr
    names = done.stdout
    assert all(f"/ {peer}" in names for peer in ("torch eager", "nerfacc", "nerfstudio", "a copy of its bytes"))


LIMITS = """
from bm_startup import HELP_S, MUST, PLAN_S, missed

def results(ratio=MUST, seconds=HELP_S, plan=PLAN_S):
    return {"ready": {"nerfacto": {"ratio": ratio}}, "help_s": [0.1, seconds, 9.0], "plan_s": {"10000": plan}}

assert missed(results()) == []
for name, limit in (("ratio", MUST), ("seconds", HELP_S), ("plan", PLAN_S)):
    assert len(missed(results(**{name: 1.02 * limit}))) == 1, name
"""


def test_a_limit_of_the_start_up_that_is_missed_is_named(python):
    done = python(LIMITS)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_start_up_keeps_its_limits(repository):
    if (busy := psutil.cpu_percent(3.0)) > 20:
        pytest.skip(f"the machine is {busy:.0f} % busy with something else: seconds would say nothing")
    command = [sys.executable, str(repository / "benchmarks/bm_startup.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" must") == 1
    assert "dry run of 10000 runs" in done.stdout
