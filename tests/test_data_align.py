"""Alignment of two camera sets: exact, noisy, with outliers, and where it cannot be."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.spatial.transform import Rotation

from data.align import OutlierRule, align_poses
from data.poses import Sim3
from fieldbook.errors import Infeasible


def cameras(rng, n):
    """Poses of random cameras ``[n, 4, 4]`` about two units from the origin."""
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, :3] = Rotation.random(n, rng=rng).as_matrix()
    poses[:, :3, 3] = rng.normal([0, 0, 2], size=(n, 3))
    return poses


def similarity(rng):
    return Sim3(10 ** rng.uniform(-3, 3), Rotation.random(rng=rng).as_matrix(), rng.normal(size=3) * 10)


def named(poses):
    return {f"frame_{i:05d}.png": p for i, p in enumerate(poses)}


def turned(pose, degrees, axis=(0, 0, 1)):
    out = pose.copy()
    out[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec(np.radians(degrees) * np.asarray(axis)).as_matrix()
    return out


def assert_same(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a.scale, b.scale, rtol=tolerance)
    np.testing.assert_allclose(a.rotation, b.rotation, atol=tolerance)
    np.testing.assert_allclose(a.translation, b.translation, atol=tolerance * (1 + np.abs(b.translation).max()))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_exact_cameras_give_back_the_similarity_even_two_of_them(seed, n):
    rng = np.random.default_rng(seed)
    fixed, true = cameras(rng, n), similarity(rng)
    found = align_poses(named(fixed), named(true.inverse().poses(fixed)), unit=1.0)
    assert_same(found.fixed_from_moving, true, 1e-7)
    assert found.outliers == []
    assert max(found.centre_residuals.values()) < 1e-7
    assert max(found.rotation_residuals_deg.values()) < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 12), st.integers(1, 2))
def test_wrong_cameras_are_named_and_do_not_move_the_fit(seed, n, bad):
    rng = np.random.default_rng(seed)
    fixed, true = cameras(rng, n), similarity(rng)
    corrupt = fixed.copy()
    corrupt[0, :3, 3] += rng.choice([-1, 1], 3) * 3
    if bad == 2:
        corrupt[1] = turned(corrupt[1], 90)
    found = align_poses(named(fixed), named(true.inverse().poses(corrupt)), unit=1.0)
    assert found.outliers == list(named(fixed))[:bad]
    assert_same(found.fixed_from_moving, true, 1e-7)


def test_noise_is_averaged_and_no_camera_is_called_an_outlier():
    rng = np.random.default_rng(1)
    fixed, true = cameras(rng, 40), similarity(rng)
    noisy = np.stack([turned(p, rng.normal() * 0.2, axis=(1, 0, 0)) for p in fixed])
    noisy[:, :3, 3] += rng.normal(size=(40, 3)) * 0.003
    found = align_poses(named(fixed), named(true.inverse().poses(noisy)), unit=1.0)
    assert found.outliers == []
    # Least squares over the centres given the rotation, written out naively, is what the fit must equal.
    d = true.inverse().poses(noisy)[:, :3, 3] @ found.fixed_from_moving.rotation.T
    design = np.zeros((120, 4))
    design[:, 0], design[:, 1:] = d.ravel(), np.tile(np.eye(3), (40, 1))
    scale, *shift = np.linalg.lstsq(design, fixed[:, :3, 3].ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.fixed_from_moving.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(found.fixed_from_moving.translation, shift, atol=1e-9)


def test_swapping_the_frames_inverts_an_exact_alignment():
    rng = np.random.default_rng(2)
    fixed, true = cameras(rng, 5), similarity(rng)
    there = align_poses(named(fixed), named(true.inverse().poses(fixed))).fixed_from_moving
    back = align_poses(named(true.inverse().poses(fixed)), named(fixed)).fixed_from_moving
    assert_same(back, there.inverse(), 1e-8)


def test_only_shared_cameras_count():
    rng = np.random.default_rng(3)
    fixed, true = cameras(rng, 6), similarity(rng)
    moving = named(true.inverse().poses(fixed))
    del moving["frame_00002.png"]
    moving["frame_00099.png"] = np.eye(4)
    found = align_poses(named(fixed), moving)
    assert sorted(found.centre_residuals) == found.kept == sorted(set(named(fixed)) - {"frame_00002.png"})


def test_residuals_are_measured_in_the_unit():
    rng = np.random.default_rng(4)
    fixed = cameras(rng, 8)
    moved = fixed.copy()
    moved[:, :3, 3] += rng.normal(size=(8, 3)) * 0.01
    a, b = (align_poses(named(fixed), named(moved), unit=u) for u in (1.0, 4.0))
    assert a.outliers == b.outliers == []
    for name in a.kept:
        assert a.centre_residuals[name] == pytest.approx(4 * b.centre_residuals[name])
    assert a.summary()["centre_median"] == pytest.approx(np.median(list(a.centre_residuals.values())))


def test_the_default_unit_is_the_median_distance_from_the_mean_centre():
    rng = np.random.default_rng(5)
    fixed = cameras(rng, 9)
    centres = fixed[:, :3, 3]
    unit = np.median(np.linalg.norm(centres - centres.mean(0), axis=1))
    assert align_poses(named(fixed), named(fixed)).unit == pytest.approx(unit)


def test_no_camera_beyond_the_limit_is_kept_however_noisy_the_rest():
    rng = np.random.default_rng(6)
    fixed = cameras(rng, 10)
    noisy = np.stack([turned(p, d) for p, d in zip(fixed, rng.uniform(-8, 8, 10), strict=True)])
    loose = align_poses(named(fixed), named(noisy), unit=1.0)
    tight = align_poses(named(fixed), named(noisy), unit=1.0, rule=OutlierRule(rotation_limit_deg=4.0))
    assert loose.outliers == []
    assert tight.outliers
    assert tight.summary()["rotation_max_deg"] <= 4.0 < max(tight.rotation_residuals_deg.values())


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_centres_that_coincide_are_infeasible(side):
    rng = np.random.default_rng(7)
    sides = {"fixed": cameras(rng, 4), "moving": cameras(rng, 4)}
    sides[side][:, :3, 3] = [1.0, 2.0, 3.0]
    with pytest.raises(Infeasible, match="no baseline") as error:
        align_poses(named(sides["fixed"]), named(sides["moving"]))
    assert error.value.numbers[f"{side}_spread"] == 0.0


def test_one_shared_camera_is_infeasible():
    poses = named(cameras(np.random.default_rng(8), 3))
    with pytest.raises(Infeasible) as error:
        align_poses(poses, {"frame_00001.png": np.eye(4), "other.png": np.eye(4)})
    assert error.value.numbers == {"shared": 1}


def test_two_cameras_with_opposite_baselines_are_infeasible():
    fixed = np.tile(np.eye(4), (2, 1, 1))
    fixed[1, 0, 3] = 1.0
    moving = fixed.copy()
    moving[1, 0, 3] = -1.0
    with pytest.raises(Infeasible, match="no similarity"):
        align_poses(named(fixed), named(moving), unit=1.0)
