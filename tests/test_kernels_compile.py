"""Every op inside torch.compile: one graph, and what it gives without."""

from __future__ import annotations

import pytest
import torch

from methods.kernels.cases import CASES, Case
from methods.kernels.library import load
from methods.kernels.selftest import placed, tensors

SIZE = 200


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it traces
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_an_op_is_traced_whole_and_gives_the_same(case: Case):
    load("cpu")
    torch.compiler.reset()
    arguments = case.arguments(SIZE)
    plain, traced = (placed(case, arguments, "cpu", torch.float32) for _ in range(2))
    want = tensors(case.kernel(*plain)) + tensors([plain[k] for k in case.changed])
    made = tensors(torch.compile(case.kernel, fullgraph=True, backend="aot_eager")(*traced))
    made += tensors([traced[k] for k in case.changed])
    assert len(made) == len(want) > 0
    for a, b in zip(made, want, strict=True):  # the same kernel on the same inputs
        assert torch.equal(a.detach().nan_to_num(7.0), b.detach().nan_to_num(7.0))
