"""What is known of meshes stands in the tables, per run and per cell, with the reason where there is none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fieldbook.files import write_json
from fieldbook.layout import StudyFiles, ledger_path
from fieldbook.status import Status, write_status
from reports.costs import cost_table
from reports.html import make_report
from reports.records import load_study
from reports.tables import make_tables

from .test_reports_study import MONDAY, make_study, rows

CELL = "desk-n8-reference"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, StudyFiles]:
    """A study in which one cell's runs have surfaces: the last seed's is nowhere, the others' are compared."""
    root = tmp_path_factory.mktemp("results")
    study, out = make_study(root, counts=("8",)), StudyFiles(root / "sweep")
    make_tables(root, study, out)
    (root / "before.csv").write_bytes(out.runs_csv.read_bytes())
    for run in load_study(root, study).runs:
        if run.entry["cell"] == CELL:
            finish(run.files, run.entry["seed"])
    make_tables(root, study, out)
    return root, study, out


def finish(files, seed: int) -> None:
    if seed == 2:
        for stage in ("mesh", "geometry"):
            write_status(files.status(stage), Status("infeasible", "mesh", "outside everywhere"))
        return
    taken = {"vertices": 1000 + seed, "faces": 2000, "components": 1, "watertight": True, "sha256": "ab"}
    write_status(files.status("mesh"), Status("ok", "mesh", numbers=taken))
    found = {"geometry": "available", "chamfer_world": 0.25 + seed, "fscore": 0.5, "normal_consistency": 0.75}
    write_status(files.status("geometry"), Status("ok", "geometry", numbers=found | {"fscore:0.005": 0.25}))
    ledger = {"stage": "mesh", "wall_s": 3.0, "cpu_s": 2.0, "peak_rss_bytes": 2**20, "started_unix_s": 5.0}
    write_json(ledger_path(files.root, "mesh"), ledger)


def test_a_run_has_its_meshs_numbers_and_costs(made):
    runs = {r["seed"]: r for r in rows(made[2].runs_csv) if r["cell"] == CELL}
    first = runs["0"]
    assert (first["geometry"], first["chamfer_world"], first["fscore:0.005"]) == ("available", "0.25", "0.25")
    assert (first["mesh_vertices"], first["mesh_watertight"], first["wall_s:mesh"]) == ("1000", "1", "3.0")


def test_a_surface_that_is_nowhere_spoils_no_picture(made):
    (last,) = (r for r in rows(made[2].runs_csv) if r["cell"] == CELL and r["seed"] == "2")
    assert (last["state"], last["geometry"], last["chamfer_world"]) == ("ok", "outside everywhere", "")
    assert float(last["test_psnr_float"]) > 0


def test_a_cell_averages_the_meshes_there_are_and_says_how_many(made):
    (cell,) = (c for c in rows(made[2].cells_csv) if c["cell"] == CELL)
    assert (cell["chamfer_world_mean"], cell["chamfer_world_n"], cell["n_runs"]) == ("0.75", "2", "3")
    assert cell["chamfer_world_lo95"] == "", "two runs make no interval"


def test_runs_without_a_surface_have_empty_cells(made):
    others = [r for r in rows(made[2].runs_csv) if r["cell"] != CELL]
    assert others
    assert {(r["chamfer_world"], r["geometry"]) for r in others} == {("", "")}


def test_a_study_without_surfaces_has_no_columns_for_them(made):
    with open(made[0] / "before.csv", newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream))
    assert not [c for c in header if "chamfer" in c or "mesh" in c or "geometry" in c]


def test_the_report_shows_and_counts_them(made):
    root, study, out = made
    make_report(root, study, out, MONDAY)
    page = out.report.read_text(encoding="utf-8")
    assert "Chamfer" in page
    assert "F-score" in page
    assert "mesh" in {row["stage"] for row in cost_table(load_study(root, study), out)}
