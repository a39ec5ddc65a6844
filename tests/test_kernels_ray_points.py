"""Points of samples on their rays, and their gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from methods.kernels import ray_points, reference
from methods.kernels.marching import Samples, march_alive

from .kernels_marches import DOWN, SMALL, marched, on, rays

pytestmark = pytest.mark.usefixtures("compiled_kernels")


def test_points_equal_their_twin_forward_and_backward(device):
    given, samples = marched(SMALL)
    upstream = torch.randn(len(samples), 3, generator=torch.Generator().manual_seed(0))
    made, want = [], []
    for into, function, dtype, where in (
        (made, ray_points.ray_points, torch.float32, device),
        (want, reference.ray_points, torch.float64, "cpu"),
    ):
        inputs = (given["origins"], given["directions"], samples.midpoints)
        origins, directions, t = (v.to(where, dtype, copy=True).requires_grad_() for v in inputs)
        out = function(origins, directions, Samples(**on(vars(samples), where)), t)
        out.backward(upstream.to(where, dtype))
        into += [out.detach(), origins.grad, directions.grad, t.grad]
    for a, b in zip(made, want, strict=True):
        # Sums of up to 50 terms of size up to 4.
        assert torch.allclose(a.cpu().double(), b, rtol=1e-5, atol=1e-5)
    assert torch.count_nonzero(want[1]) > 0


def test_points_are_those_of_the_midpoints_and_of_living_rays():
    origins, directions, near, far, occupied, *_ = marched(SMALL)[0].values()
    alive = torch.tensor([60, 2, 31])
    samples = march_alive(origins, directions, near.clone(), far, alive, occupied, SMALL, 6)
    made = ray_points.ray_points(origins, directions.requires_grad_(), samples)
    assert torch.allclose(made, reference.ray_points(origins, directions, samples), rtol=0, atol=5e-7)
    (grad,) = torch.autograd.grad(made.sum(), directions)
    want = torch.zeros(64).index_add_(0, samples.ray_index, samples.midpoints)
    # Sums of up to 6 terms of size 4.
    assert torch.allclose(grad[:, 0], want, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_points_twin_are_exact():
    _, samples = marched(SMALL, 5)
    origins, directions = (v.double().requires_grad_() for v in rays(5))
    t = samples.midpoints.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o, d, t: reference.ray_points(o, d, samples, t), (origins, directions, t))


def test_points_and_marches_keep_torchs_rules_for_operators():
    given, samples = marched(SMALL, 8)
    origins, directions, near, far, occupied, spec, noise = given.values()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    t = samples.midpoints.requires_grad_()
    torch.library.opcheck(
        torch.ops.fieldbook.ray_points, (origins, directions, t, samples.ray_index, samples.offsets), test_utils=checks
    )
    arguments = (origins, directions, near, far, occupied, noise, spec.packed, -1)
    torch.library.opcheck(torch.ops.fieldbook.march, arguments, test_utils=checks)


def test_points_compile_whole():
    given, samples = marched(SMALL, 8)
    directions = given["directions"]

    def loss(origins: Tensor) -> Tensor:
        return ray_points.ray_points(origins, directions, samples, samples.t_start).square().sum()

    origins = given["origins"].requires_grad_()
    torch._dynamo.reset()
    whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (made,), (want,) = (torch.autograd.grad(f(origins), origins) for f in (whole, loss))
    assert torch.equal(made, want)


# --- mistakes


def test_samples_of_other_rays_are_refused():
    none = torch.zeros(0)
    offsets = torch.tensor([0, 0, 0, 0, 1])
    samples = Samples(offsets, torch.tensor([3]), none.new_ones(1), none.new_ones(1), torch.tensor(0))
    with pytest.raises(ValueError, match="of these 3 rays; ray_index goes from 3 to 3"):
        ray_points.ray_points(torch.zeros(3, 3), torch.ones(3, 3), samples)


@pytest.mark.parametrize("name", ["ray_index", "offsets"])
@pytest.mark.parametrize("wrong", [lambda v: v.int(), lambda v: v.float(), lambda v: v[:-1], lambda v: v + 1])
def test_points_of_samples_that_are_not_packed_are_refused(name, wrong):
    """Every one of these once read or wrote beyond a buffer."""
    origins, directions = DOWN
    origins = origins.expand(2, 3).clone().requires_grad_()
    directions = directions.expand(2, 3)
    t = torch.arange(4.0)
    good = Samples(torch.tensor([0, 1, 4]), torch.tensor([0, 1, 1, 1]), t, t + 1, torch.zeros((), dtype=torch.int64))
    assert ray_points.ray_points(origins, directions, good).shape == (4, 3)
    with pytest.raises((TypeError, ValueError), match=r"offsets|ray_index|packed"):
        ray_points.ray_points(origins, directions, dataclasses.replace(good, **{name: wrong(getattr(good, name))}))


def test_a_ray_index_that_contradicts_the_offsets_is_refused_where_it_decides_a_gradient():
    origins = torch.zeros(2, 3, requires_grad=True)
    t = torch.arange(3.0)
    mixed = Samples(torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), t, t + 1, torch.zeros((), dtype=torch.int64))
    with pytest.raises(ValueError, match="packed"):
        ray_points.ray_points(origins, torch.ones(2, 3), mixed)
    with torch.no_grad():
        assert ray_points.ray_points(origins, torch.ones(2, 3), mixed).shape == (3, 3)
