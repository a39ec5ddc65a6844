"""Paths of a hand-held camera: an arc before a card, or once round an object, with a shaking hand."""

from __future__ import annotations

import numpy as np

from data.poses import look_at

DISTANCE = 0.27  # metres, about as close as a phone gets to a card it should read


ORBIT_DISTANCE = 0.26  # metres, at which the jug takes some two thirds of the picture's height


def smooth_noise(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """Band-limited noise in [-1, 1] over one recording: five sines of ``low`` to ``high`` periods, ``[count]``.

    Its values at the same fraction of the recording do not depend on ``count``, so that a recording with more frames
    is the same movement, sampled more finely.
    """
    time = np.linspace(0, 1, count)[:, None]
    periods, phase, weight = rng.uniform(low, high, 5), rng.uniform(0, 2 * np.pi, 5), rng.uniform(0.5, 1, 5)
    return (weight * np.sin(2 * np.pi * periods * time + phase)).sum(axis=1) / weight.sum()


def arc_poses(seed: int, count: int, target: np.ndarray) -> np.ndarray:
    """Poses of the recording.

    Azimuth sweeps 100 to 140 degrees, centred on -y; elevation stays in [35, 60] degrees and the distance within
    10 % of ``DISTANCE`` before the hand shakes. The optical axis passes the target at 5 to 10 % of the distance.

    Args:
        seed: Of the movement.
        count: Frames.
        target: ``[3]`` centre of the object.

    Returns:
        ``truth_from_camera`` ``[count, 4, 4]``, OpenGL axes.
    """
    rng = np.random.default_rng([seed, 1])
    time = np.linspace(-0.5, 0.5, count)
    span_rad, lean = np.radians(rng.uniform(110, 130)), rng.choice([-1.0, 1.0])
    azimuth = -np.pi / 2 + lean * span_rad * time + np.radians(2) * smooth_noise(rng, count, 0.5, 2)
    elevation = np.radians(47.5 + 8 * np.cos(2 * np.pi * time) + 4 * smooth_noise(rng, count, 0.5, 2))
    distance = DISTANCE * (1 + 0.07 * smooth_noise(rng, count, 0.3, 1.5))
    offset = 0.075 + 0.015 * smooth_noise(rng, count, 0.3, 1.5)
    heading = rng.uniform(0, 2 * np.pi) + 1.2 * smooth_noise(rng, count, 0.3, 1.2)
    shake = _shake(rng, count)
    roll = np.radians(2.5) * smooth_noise(rng, count, 0.5, 3) + np.radians(0.3) * shake[:, 5]
    eyes = target + distance[:, None] * _directions(azimuth, elevation) + 0.0015 * shake[:, :3]
    aim = offset[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1) + 0.004 * shake[:, 3:5]
    return np.stack([_aimed(eye, target, a, r) for eye, a, r in zip(eyes, aim, roll, strict=True)])


def orbit_poses(seed: int, count: int, target: np.ndarray) -> np.ndarray:
    """Poses of a recording all round an object.

    The camera goes round once, either way, from anywhere, and comes within 10 degrees of where it began. Its elevation
    swings twice between about 20 and 46 degrees, so that neighbours differ in height and the ends meet; its distance
    stays within 6 % of ``ORBIT_DISTANCE`` before the hand shakes. The optical axis passes the target within 5 % of the
    distance, to all sides alike.

    Args:
        seed: Of the movement.
        count: Frames.
        target: ``[3]`` centre of the object.

    Returns:
        ``truth_from_camera`` ``[count, 4, 4]``, OpenGL axes.
    """
    rng = np.random.default_rng([seed, 1])
    turn = np.linspace(0, 2 * np.pi, count)
    start, way, phase = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0]), rng.uniform(0, 2 * np.pi)
    azimuth = start + way * turn + np.radians(2.5) * smooth_noise(rng, count, 1, 3)
    elevation = np.radians(33 + 11 * np.sin(2 * turn + phase) + 2 * smooth_noise(rng, count, 1, 3))
    distance = ORBIT_DISTANCE * (1 + 0.05 * smooth_noise(rng, count, 1, 3))
    aim = 0.03 * np.stack([smooth_noise(rng, count, 2, 5) for _ in range(2)], axis=1)
    shake = _shake(rng, count)
    roll = np.radians(2.5) * smooth_noise(rng, count, 0.5, 3) + np.radians(0.3) * shake[:, 5]
    eyes = target + distance[:, None] * _directions(azimuth, elevation) + 0.0015 * shake[:, :3]
    aim += 0.004 * shake[:, 3:5]
    return np.stack([_aimed(eye, target, a, r) for eye, a, r in zip(eyes, aim, roll, strict=True)])


def _shake(rng: np.random.Generator, count: int) -> np.ndarray:
    """A hand's tremor ``[count, 6]`` in [-1, 1]: three for the place, two for the aim, one for the roll."""
    return np.stack([smooth_noise(rng, count, 3, 9) for _ in range(6)], axis=1)


def _directions(azimuth_rad: np.ndarray, elevation_rad: np.ndarray) -> np.ndarray:
    """Unit vectors ``[n, 3]``."""
    level = np.cos(elevation_rad)
    return np.stack([level * np.cos(azimuth_rad), level * np.sin(azimuth_rad), np.sin(elevation_rad)], axis=1)


def _aimed(eye: np.ndarray, target: np.ndarray, aim: np.ndarray, roll_rad: float) -> np.ndarray:
    """Camera whose axis passes ``target`` by ``aim`` (right, up), in parts of the distance; then rolled."""
    up = np.array([0.0, 0.0, 1.0])
    straight = look_at(eye, target, up)
    beside = target + np.linalg.norm(target - eye) * straight[:3, :2] @ aim
    pose = look_at(eye, beside, up)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    pose[:3, :2] = pose[:3, :2] @ np.array([[c, -s], [s, c]])
    return pose
