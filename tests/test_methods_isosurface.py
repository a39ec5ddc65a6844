"""Marching cubes in slabs: closed, outward, where the distance is 0, thin parts too; or a result with its reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from fieldbook.errors import Infeasible
from methods.runner import isosurface
from methods.runner.isosurface import Grid, extract

BOX = np.array([[-1.0] * 3, [1.0] * 3])
CHUNK = 1 << 16


def ball(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points, axis=1) - 0.5


def block(points: np.ndarray, half) -> np.ndarray:
    away = np.abs(points) - half
    return np.linalg.norm(np.maximum(away, 0), axis=1) + np.minimum(away.max(axis=1), 0)


def waves(points: np.ndarray) -> np.ndarray:
    """A knobbly body with holes and loose parts; its gradient is not 1."""
    rng = np.random.default_rng(0)
    turns, phases = rng.normal(size=(12, 3)) * 15, rng.uniform(0, 6, 12)
    return 0.5 * (np.linalg.norm(points, axis=1) - 0.55) + 0.2 * np.cos(points @ turns.T + phases).mean(axis=1)


def as_trimesh(found) -> trimesh.Trimesh:
    return trimesh.Trimesh(found.vertices, found.faces, process=False)


@pytest.mark.parametrize("layers", [4, 7, 64])
@pytest.mark.parametrize("sdf", [ball, waves, lambda p: block(p, 0.46875)], ids=["ball", "waves", "block on the grid"])
def test_slabs_of_any_thickness_make_one_closed_mesh(sdf, layers, monkeypatch):
    monkeypatch.setattr(isosurface, "LAYERS", layers)
    found = as_trimesh(extract(sdf, BOX, 48, CHUNK))
    assert found.is_watertight
    assert found.is_winding_consistent
    assert found.volume > 0
    monkeypatch.setattr(isosurface, "LAYERS", 1000)
    whole = as_trimesh(extract(sdf, BOX, 48, CHUNK))
    assert (len(whole.vertices), len(whole.faces)) == (len(found.vertices), len(found.faces))
    assert whole.volume == pytest.approx(found.volume, rel=1e-6)


def test_a_ball_is_where_it_is_and_faces_out():
    found = extract(ball, BOX, 100, CHUNK)
    cell = found.grid.cell.max()
    assert cell == pytest.approx(1.2 / 99, rel=0.1), "refitted to the ball and a tenth on each side"
    assert np.abs(np.linalg.norm(found.vertices, axis=1) - 0.5).max() < 0.25 * cell**2 + 1e-3 * cell
    mesh = as_trimesh(found)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.125, rel=1e-3)
    assert mesh.euler_number == 2
    large = mesh.area_faces > 1e-3 * mesh.area_faces.max()
    assert (np.einsum("nk,nk->n", mesh.face_normals, mesh.triangles_center)[large] > 0).all()


def test_the_error_falls_with_the_resolution():
    errors = [np.abs(np.linalg.norm(extract(ball, BOX, n, CHUNK).vertices, axis=1) - 0.5).max() for n in (32, 64, 128)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_distance_in_another_unit_gives_the_same_mesh():
    there, scaled = (extract(lambda p, s=s: s * ball(p), BOX, 64, CHUNK) for s in (1, 1e-3))
    np.testing.assert_allclose(there.vertices, scaled.vertices, atol=1e-6)


def test_a_plate_thinner_than_a_coarse_cell_is_found_apart_from_the_rest():
    def sdf(points: np.ndarray) -> np.ndarray:
        plate = block(points - [0.7, 0.7, 0.71], np.array([0.2, 0.2, 0.008]))
        return np.minimum(np.linalg.norm(points + 0.6, axis=1) - 0.2, plate)

    found = as_trimesh(extract(sdf, BOX, 256, CHUNK))
    parts = found.split()
    assert len(parts) == 2
    assert min(part.volume for part in parts) == pytest.approx(0.4 * 0.4 * 0.016, rel=0.03)


def test_a_surface_that_leaves_the_box_is_cut_open_at_its_side():
    found = extract(lambda p: p[:, 2] - 0.25, BOX, 40, CHUNK)
    np.testing.assert_allclose(found.vertices[:, 2], 0.25, atol=1e-6)
    assert np.abs(found.vertices[:, :2]).max() == pytest.approx(1)
    assert not as_trimesh(found).is_watertight
    assert as_trimesh(found).area == pytest.approx(4)


def test_a_box_of_unequal_sides_has_nearly_cubic_cells_and_its_own_corners():
    grid = Grid.over(np.array([[0, 0, 0], [2.0, 1.03, 0.1]]), 101)
    assert grid.shape == (101, 53, 6)
    np.testing.assert_allclose(grid.cell, 0.02, rtol=0.02)
    points = grid.points(0, math.prod(grid.shape))
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], grid.box, rtol=1e-6)


@pytest.mark.parametrize(("value", "word"), [(3.0, "outside"), (-3.0, "inside")])
def test_one_sign_everywhere_is_a_result_with_the_range(value, word):
    with pytest.raises(Infeasible, match=f"{word} everywhere in its box, from {value:.4g} to {value:.4g}") as caught:
        extract(lambda p: np.full(len(p), value), BOX, 32, CHUNK)
    assert caught.value.numbers == {"sdf_min": value, "sdf_max": value}


def test_a_distance_that_only_nearly_reaches_0_has_no_surface():
    with pytest.raises(Infeasible, match=r"outside everywhere in its box, from 0\.02"):
        extract(lambda p: np.abs(p[:, 2]) + 0.005, BOX, 64, CHUNK)


def test_a_surface_between_the_samples_is_said_to_be_too_small():
    with pytest.raises(Infeasible, match="smaller than a cell"):
        extract(lambda p: np.linalg.norm(p - 1 / 63, axis=1) - 0.002, BOX, 4, CHUNK)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_distance_that_is_not_a_number_is_a_result_not_a_mesh(value):
    def sdf(points: np.ndarray) -> np.ndarray:
        return np.where(points[:, 0] > 0.9, value, ball(points))

    with pytest.raises(Infeasible, match="not a finite number at"):
        extract(sdf, BOX, 64, CHUNK)


def test_no_more_points_are_asked_at_once_than_allowed_and_none_twice():
    asked = []

    def sdf(points: np.ndarray) -> np.ndarray:
        asked.append(len(points))
        return ball(points)

    found = extract(sdf, BOX, 90, 5000)
    assert max(asked) <= 5000
    assert sum(asked) == 64**3 + math.prod(found.grid.shape)
