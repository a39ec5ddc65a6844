"""Morton order and bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.kernels import reference
from methods.kernels.morton import morton3d, morton3d_inverse, pack_bits

from .kernels_occupancies import SPEC, generator

pytestmark = pytest.mark.usefixtures("compiled_kernels")


@pytest.mark.parametrize("function", [morton3d, reference.morton3d])
def test_morton_order_is_the_published_one(function, device):
    coords = torch.tensor([[1, 2, 3], [5, 0, 0], [127, 127, 127], [0, 0, 0], [1023, 1023, 1023]], device=device)
    assert function(coords).tolist() == [53, 65, 2097151, 0, 2**30 - 1]


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 200), seed=st.integers(0, 10**6))
def test_morton_order_and_its_inverse_equal_their_twins(number, seed):
    coords = torch.randint(1024, (number, 3), generator=generator(seed))
    index = morton3d(coords)
    assert torch.equal(index, reference.morton3d(coords))
    assert torch.equal(morton3d(coords.int()), index)
    assert torch.equal(morton3d_inverse(index), coords)
    assert torch.equal(reference.morton3d_inverse(index), coords)


def test_morton_order_fills_a_cube():
    axis = torch.arange(8)
    coords = torch.cartesian_prod(axis, axis, axis)
    assert sorted(morton3d(coords).tolist()) == list(range(512))


@pytest.mark.parametrize("function", [pack_bits, reference.pack_bits])
def test_bits_are_set_strictly_above_the_threshold_lowest_first(function, device):
    density = torch.tensor([0.0, 0.5, 0.51, -1, 0.5, 2, 0, 0] + [1.0] * 8 + [0.0] * 7 + [9.0], device=device)
    assert function(density, 0.5).tolist() == [0b100100, 0b11111111, 0b10000000]


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 300), threshold=st.sampled_from([0.0, 0.3, -1.0]), seed=st.integers(0, 10**6))
def test_bits_equal_their_twin(number, threshold, seed):
    density = torch.rand(2, 8 * number, generator=generator(seed)).sub(0.5)
    assert torch.equal(pack_bits(density, threshold), reference.pack_bits(density, threshold))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: pack_bits(d.view(-1)[:7], 0.0), ValueError, "a multiple of 8 cells, got 7"),
        (lambda d: morton3d(torch.tensor([[0, 0, 1024]])), ValueError, "coords must be 0..1023"),
        (lambda d: morton3d(torch.tensor([[0.0, 0, 1]])), TypeError, "coords must be"),
        (lambda d: morton3d_inverse(torch.tensor([-1])), ValueError, "index must be 0..1073741823"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(SPEC.shape))
