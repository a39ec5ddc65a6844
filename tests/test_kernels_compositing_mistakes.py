"""Wrong arguments of compositing are refused by name."""

from __future__ import annotations

import math

import pytest
import torch

from methods.kernels import compositing
from methods.kernels.compositing import composite, composite_alpha

from .kernels_composites import BOTH, samples

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
