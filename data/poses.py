"""Camera poses and Sim(3): the one home of conversions between OpenCV/COLMAP and OpenGL axes.

Symbols: ``a_from_b`` maps coordinates in frame b to frame a. A pose is ``world_from_camera``, 4x4, float64, with
OpenGL camera axes (x right, y up, looking along -z) everywhere inside Fieldbook. OpenCV/COLMAP cameras have x right,
y down and look along +z. Pixel centres are at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
GIVEN_SPACE = "capture"
"""``space`` of reference poses that came with the capture, in its own world: nothing was reconstructed."""


def opengl_from_opencv(world_from_camera: np.ndarray) -> np.ndarray:
    """Turn OpenCV camera axes into OpenGL ones, or back: the map is its own inverse.

    Args:
        world_from_camera: Poses ``[..., 4, 4]``.

    Returns:
        Poses of the same cameras ``[..., 4, 4]`` with y and z axes negated; the world frame is untouched.
    """
    return world_from_camera @ OPENGL_FROM_OPENCV


def matrix(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Assemble a 4x4 transform from a ``[3, 3]`` rotation and a ``[3]`` translation."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Pose of a camera at ``eye`` that looks at ``target``; image up is the projection of ``up``.

    Args:
        eye: ``[3]`` camera centre.
        target: ``[3]`` point on the optical axis.
        up: ``[3]`` world direction; must not be parallel to the line of sight.

    Returns:
        ``world_from_camera`` ``[4, 4]``, OpenGL axes.

    Raises:
        ValueError: eye equals target, or up is parallel to the line of sight.
    """
    backward = np.asarray(eye, float) - np.asarray(target, float)
    right = np.cross(up, backward)
    if min(np.linalg.norm(backward), np.linalg.norm(right)) < 1e-9:
        raise ValueError(f"look_at is undefined for eye {eye}, target {target}, up {up}")
    backward, right = backward / np.linalg.norm(backward), right / np.linalg.norm(right)
    return matrix(np.stack([right, np.cross(backward, right), backward], axis=1), np.asarray(eye, float))


@dataclass(frozen=True)
class Sim3:
    """A similarity ``x_a = scale * rotation @ x_b + translation``, named ``a_from_b``.

    Attributes:
        scale: Positive.
        rotation: ``[3, 3]``, proper.
        translation: ``[3]``, in units of frame a.
    """

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def points(self, x: np.ndarray) -> np.ndarray:
        """Map points ``[..., 3]``."""
        return self.scale * x @ self.rotation.T + self.translation

    def poses(self, b_from_camera: np.ndarray) -> np.ndarray:
        """Map poses ``[..., 4, 4]``: centres as points, axes by the rotation alone (they stay orthonormal)."""
        out = np.array(b_from_camera, dtype=np.float64)
        out[..., :3, :3] = self.rotation @ out[..., :3, :3]
        out[..., :3, 3] = self.points(out[..., :3, 3])
        return out

    def inverse(self) -> Sim3:
        """``b_from_a``."""
        rotation = self.rotation.T
        return Sim3(1 / self.scale, rotation, -rotation @ self.translation / self.scale)

    def __matmul__(self, other: Sim3) -> Sim3:
        """``a_from_b @ b_from_c`` is ``a_from_c``."""
        return Sim3(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.points(np.asarray(other.translation)),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, read back by ``from_json``."""
        return {
            "scale": float(self.scale),
            "rotation": np.asarray(self.rotation).tolist(),
            "translation": np.asarray(self.translation).tolist(),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Sim3:
        """Inverse of ``to_json``."""
        return Sim3(value["scale"], np.array(value["rotation"]), np.array(value["translation"]))


def chordal_mean(rotations: np.ndarray) -> np.ndarray:
    """Rotation nearest to all of ``[n, 3, 3]`` in the Frobenius norm (Hartley et al. 2013, section 5.3)."""
    u, _, vt = np.linalg.svd(rotations.sum(axis=0))
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt


def angle_between_rad(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between vectors ``[..., 3]`` in radians, in [0, pi]; accurate near 0 and pi (Kahan's form)."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return 2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))


def rotation_angle_rad(rotation: np.ndarray) -> np.ndarray:
    """Angle of rotations ``[..., 3, 3]`` in radians, in [0, pi]."""
    skew = rotation - np.swapaxes(rotation, -1, -2)
    sine = np.linalg.norm(np.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1), axis=-1) / 2
    return np.arctan2(sine, (np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)


@dataclass(frozen=True)
class Camera:
    """A centred-pixel pinhole: ``u = fx * x / -z + cx`` with OpenGL axes, pixels of unit size, centres at +0.5."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera for pictures resampled to ``width`` x ``height``."""
        sx, sy = width / self.width, height / self.height
        return Camera(width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; read back with ``Camera(**value)``."""
        return dict(vars(self))


def project(camera: Camera, world_from_camera: np.ndarray, points_in_world: np.ndarray) -> np.ndarray:
    """Pixel coordinates ``[n, 2]`` and depth along the optical axis ``[n]`` stacked as ``[n, 3]``.

    Points behind the camera get their mirror image's pixel and a negative depth.
    """
    rotation, centre = world_from_camera[:3, :3], world_from_camera[:3, 3]
    x, y, z = ((points_in_world - centre) @ rotation).T
    depth = -z
    return np.stack([camera.fx * x / depth + camera.cx, -camera.fy * y / depth + camera.cy, depth], axis=1)
