"""Group laws and conventions of poses, Sim(3) and projection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.poses import (
    Camera,
    Sim3,
    angle_between_rad,
    chordal_mean,
    look_at,
    matrix,
    opengl_from_opencv,
    project,
    rotation_angle_rad,
)


def random_sim3(rng):
    return Sim3(
        float(np.exp(rng.normal())),
        Rotation.random(random_state=int(rng.integers(1e9))).as_matrix(),
        rng.normal(size=3),
    )


@given(st.integers(0, 2**32 - 1))
def test_sim3_is_a_group_acting_on_points(seed):
    rng = np.random.default_rng(seed)
    a, b, x = random_sim3(rng), random_sim3(rng), rng.normal(size=(5, 3))
    np.testing.assert_allclose((a @ b).points(x), a.points(b.points(x)), atol=1e-8)
    np.testing.assert_allclose(a.inverse().points(a.points(x)), x, atol=1e-8)
    np.testing.assert_allclose(Sim3.from_json(a.to_json()).points(x), a.points(x))


@given(st.integers(0, 2**32 - 1))
def test_a_point_keeps_its_pixel_when_the_world_is_transformed(seed):
    rng = np.random.default_rng(seed)
    camera = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)
    pose = matrix(Rotation.random(random_state=int(rng.integers(1e9))).as_matrix(), rng.normal(size=3))
    point = pose[:3, 3] - pose[:3, 2] * 3 + 0.3 * rng.normal(size=3)
    sim = random_sim3(rng)
    before = project(camera, pose, point[None])[0]
    after = project(camera, sim.poses(pose), sim.points(point)[None])[0]
    np.testing.assert_allclose(after, before * [1, 1, sim.scale], rtol=1e-7)


def test_projection_matches_opencv_after_the_axis_change():
    import cv2

    rng = np.random.default_rng(0)
    camera = Camera(640, 480, 500.0, 510.0, 321.0, 239.0)
    pose = matrix(Rotation.random(random_state=1).as_matrix(), rng.normal(size=3))
    points = pose[:3, 3] - pose[:3, 2] * 4 + rng.normal(size=(10, 3)) * 0.5
    camera_from_world = np.linalg.inv(opengl_from_opencv(pose))
    k = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    rvec, _ = cv2.Rodrigues(camera_from_world[:3, :3])
    expected, _ = cv2.projectPoints(points, rvec, camera_from_world[:3, 3], k, None)
    np.testing.assert_allclose(project(camera, pose, points)[:, :2], expected[:, 0], atol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_look_at_puts_the_target_on_the_axis_and_up_in_the_upper_half(seed):
    rng = np.random.default_rng(seed)
    eye, target, up = rng.normal(size=(3, 3))
    pose = look_at(eye, target, up)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(pose[:3, :3]) > 0
    assert angle_between_rad(-pose[:3, 2], target - eye) < 1e-6
    assert pose[:3, 1] @ up >= 0
    assert abs(pose[:3, 0] @ up) < 1e-9


def test_look_at_refuses_an_up_along_the_line_of_sight():
    with pytest.raises(ValueError, match="undefined"):
        look_at(np.array([0, 0, 1.0]), np.zeros(3), np.array([0, 0, 1.0]))


@given(st.floats(1e-9, np.pi - 1e-6), st.integers(0, 1000))
def test_rotation_angle_is_exact_near_zero_and_near_pi(angle, seed):
    axis = np.random.default_rng(seed).normal(size=3)
    rotation = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    assert rotation_angle_rad(rotation) == pytest.approx(angle, rel=1e-6, abs=1e-9)


def test_chordal_mean_is_a_rotation_and_recovers_a_noisy_one():
    rng = np.random.default_rng(0)
    true = Rotation.random(random_state=3)
    noisy = np.stack([(Rotation.from_rotvec(rng.normal(size=3) * 0.02) * true).as_matrix() for _ in range(400)])
    mean = chordal_mean(noisy)
    assert np.linalg.det(mean) == pytest.approx(1)
    assert rotation_angle_rad(mean @ true.as_matrix().T) < 0.005


def test_scaling_a_camera_scales_pixels():
    camera, point = Camera(640, 480, 500.0, 500.0, 320.0, 240.0), np.array([[0.3, -0.2, -2.0]])
    full, half = (project(c, np.eye(4), point)[0, :2] for c in (camera, camera.scaled(160, 120)))
    np.testing.assert_allclose(half, full / 4)
