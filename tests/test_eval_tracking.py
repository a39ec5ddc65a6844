"""What a sync logs, what it leaves alone, and what becomes of a run that changed: on SQLite, in this process."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from PIL import Image

from eval import tracking_connection, tracking_store
from eval.tracking import sync
from eval.tracking_files import read_rows
from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import RunFiles, StudyFiles

from .safety_harness import refused
from .test_safety_media import PICTURES
from .tracking_study import COMMIT, LOCK, REASON, STARTED, VIEWS, finished, planned, score, write_tables


@pytest.fixture(autouse=True)
def settings(monkeypatch, request, tmp_path):
    monkeypatch.chdir(tmp_path)  # where MLflow puts what nobody gave it a place for
    if "pictures" not in request.node.name:
        monkeypatch.setattr(tracking_store, "PICTURES", 1)  # they take half the time
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in tracking_connection._DEFAULTS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A database with MLflow's tables, whose migrations take most of a second."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def results(tmp_path, empty_store) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


def client(results: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")


def logged(results: Path, name: str = "tiny", view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    store = client(results)
    experiment = store.get_experiment_by_name(name)
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id], run_view_type=view))


def valid(results: Path, kind: str = "run") -> list[Run]:
    """Runs that nothing superseded, by name."""
    runs = [r for r in logged(results) if r.data.tags["superseded"] == "no" and r.data.tags["kind"] == kind]
    return sorted(runs, key=lambda r: r.info.run_name)


def one(results: Path, seed: int, count: str = "all") -> Run:
    """The valid run of a seed."""
    wanted = {"seed": str(seed), "count": count}
    (run,) = (r for r in valid(results) if wanted.items() <= r.data.params.items())
    return run


def folder(study: StudyFiles, run: Run) -> RunFiles:
    return RunFiles(study.root.parent / run.data.tags["run"])


def everything(results: Path) -> list[tuple]:
    """All that the store holds of the study."""
    with closing(sqlite3.connect(results / "mlflow.db")) as database:
        tables = ("experiments", "runs", "params", "metrics", "latest_metrics", "tags")
        return [(t, *row) for t in tables for row in sorted(map(repr, database.execute(f"select * from {t}")))]


def test_a_study_is_an_experiment_a_cell_a_parent_and_a_finished_run_a_child(results):
    numbers = sync(finished(results))
    assert [e.name for e in client(results).search_experiments()] == ["tiny", "Default"]
    cells, runs = valid(results, "cell"), valid(results)
    assert (len(cells), len(runs)) == (2, 6)
    for cell in cells:
        children = [r for r in runs if r.data.tags["mlflow.parentRunId"] == cell.info.run_id]
        assert sorted(r.data.params["seed"] for r in children) == ["0", "1", "2"]
        assert {r.data.tags["cell"] for r in children} == {cell.data.tags["cell"]}
        assert "mlflow.parentRunId" not in cell.data.tags
    assert numbers == {"logged": 8, "updated": 0, "unchanged": 0, "superseded": 0, "waiting": 0}


def test_params_are_flat_and_named_like_the_config(results):
    sync(finished(results))
    params = one(results, seed=2).data.params
    expected = {
        "scene": "card",
        "count": "all",
        "policy": "subset",
        "method": "nerfacto",
        "preset": "smoke",
        "seed": "2",
        "long_side": "64",
        "metrics": '["psnr", "ssim"]',
        "pipeline.model.num_levels": "4",
        "optimizers.fields.scheduler.lr_final": "0.1",
        "optimizers.fields.scheduler.max_steps": "30",  # the user's, over the preset's
        "scene.capture.kind": "synthetic",
        "scene.sfm.preset": "default",
        "scene.split.file": "null",
        "cones.up25.angle": "25.0",
    }
    assert expected.items() <= params.items()
    cell = next(c for c in valid(results, "cell") if c.data.params["count"] == "all")
    assert cell.data.params == {key: value for key, value in params.items() if key not in ("seed", "repeat")}


def test_params_say_what_a_run_was_trained_with_whatever_the_config_says_since(results):
    finished(results)
    sync(write_tables(planned(results, long_side=128)))
    assert one(results, seed=0).data.params["long_side"] == "64"


def test_metrics_are_the_means_of_the_tables(results):
    study = finished(results)
    sync(study)
    row = next(r for r in read_rows(study.runs_csv) if r["count"] == "all" and r["seed"] == "1")
    run = one(results, seed=1)
    assert run.data.metrics["test_psnr_float"] == float(row["test_psnr_float"]) == 20 + 1 + 2.5
    assert run.data.metrics["cone/up25/psnr_float"] == 21.5
    assert run.data.metrics["wall_s/train"] == 10
    assert run.data.metrics["test_views"] == 6
    assert not {"seed", "repeat", "count", "commit"} & run.data.metrics.keys()
    cell = next(c for c in valid(results, "cell") if c.data.params["count"] == "all").data.metrics
    assert cell["test_psnr_float"] == 23.5
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) and the runs' standard deviation of 1
    assert cell["test_psnr_float_lo95"] == pytest.approx(23.5 - half)
    assert cell["test_psnr_float_hi95"] == pytest.approx(23.5 + half)
    assert (cell["n_runs"], cell["planned"], cell["infeasible"]) == (3, 3, 0)


def test_curves_have_the_steps_of_the_file_and_end_when_the_training_did(results):
    sync(finished(results))
    history = client(results).get_metric_history(one(results, seed=0).info.run_id, "train/loss")
    points = sorted((m.step, m.value, m.timestamp) for m in history)
    end = STARTED + 10  # where the ledger has it; the rows are 0, 0.9 and 1.9 s after the training's begin
    assert points == [(s, 1 / (s + 1), round(1000 * (end - 1.9 + s / 10))) for s in (0, 9, 19)]


def test_the_table_of_images_is_what_images_csv_says(results, monkeypatch):
    study = finished(results)
    sync(study)
    run = one(results, seed=1)
    store = client(results)
    table = json.loads(Path(store.download_artifacts(run.info.run_id, "images.json")).read_text())
    rows = [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
    wanted = read_rows(folder(study, run).images_csv)
    assert [(r["split"], r["view"]) for r in rows] == [(w["split"], w["view"]) for w in wanted]
    for column in ("psnr_float", "ssim_float", "lpips_alex_float"):
        assert [r[column] for r in rows] == [float(w[column]) for w in wanted]
    assert {r["masked_psnr_float"] for r in rows} == {None}
    # MLflow itself finds it by a tag, over all runs of an experiment.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{results}/mlflow.db")
    loaded = store.load_table(run.info.experiment_id, "images.json", run_ids=[run.info.run_id])
    assert list(loaded["psnr_float"]) == [r["psnr_float"] for r in rows]


def test_pictures_are_the_renders_at_most_four_of_each_split(results):
    sync(finished(results))
    run, store = one(results, seed=0), client(results)
    files = {a.path: a for a in store.list_artifacts(run.info.run_id, "images") if a.path.endswith(".png")}
    views = sorted(path.removeprefix("images/").partition("+")[0] for path in files)
    spread = [VIEWS["test"][k] for k in (0, 2, 3, 5)]
    assert views == sorted([f"test~{v}" for v in spread] + [f"up25~{v}" for v in VIEWS["up25"]])
    last = next(path for path in files if "frame_00005+step+19+" in path)
    pixels = np.asarray(Image.open(store.download_artifacts(run.info.run_id, last)))
    assert (pixels == 200).all()


def test_the_files_behind_the_numbers_are_there(results):
    study = finished(results)
    sync(study)
    run, store = one(results, seed=2), client(results)
    for name in ("run.json", "config.yml", "train.csv", "images.csv", "checkpoint.json"):
        copy = Path(store.download_artifacts(run.info.run_id, name))
        assert copy.read_bytes() == (folder(study, run).root / name).read_bytes()


def test_tags_name_commit_lock_and_config(results):
    sync(finished(results))
    runs = [one(results, seed) for seed in (0, 1)]
    for run in runs:
        assert run.data.tags["commit"] == run.data.tags["mlflow.source.git.commit"] == COMMIT
        assert run.data.tags["mlflow.source.git.dirty"] == "false"
        assert (run.data.tags["lock_sha256"], run.data.tags["device_name"]) == (LOCK, "a CPU")
        assert run.data.tags["state"] == "ok"
    hashes = [run.data.tags["config_sha256"] for run in runs]
    assert len(set(hashes)) == 2
    assert all(len(h) == 64 for h in hashes)


def test_times_are_those_of_the_stages(results):
    sync(finished(results))
    run = one(results, seed=0)
    assert (run.info.start_time, run.info.end_time) == (1000 * STARTED, 1000 * (STARTED + 210))


def test_an_infeasible_run_is_a_failed_one_with_its_reason(results):
    sync(finished(results))
    run = one(results, seed=0, count="1")
    assert run.info.status == "FAILED"
    assert (run.data.tags["state"], run.data.tags["stage"], run.data.tags["reason"]) == ("infeasible", "poses", REASON)
    assert REASON in run.data.tags["mlflow.note.content"]
    assert "test_psnr_float" not in run.data.metrics
    assert one(results, seed=0).info.status == "FINISHED"


def test_a_run_that_is_not_finished_waits(results):
    study = finished(results)
    waiting = next(r for r in planned(results).runs if r.count == "all" and r.seed == 1)
    status = waiting.files(planned(results).results).status("score")
    away = status.rename(status.with_suffix(".away"))
    write_tables(planned(results))
    assert sync(study)["waiting"] == 1
    assert sorted(r.data.params["seed"] for r in valid(results) if r.data.params["count"] == "all") == ["0", "2"]
    away.rename(status)
    write_tables(planned(results))
    assert sync(study) == {"logged": 1, "updated": 1, "unchanged": 6, "superseded": 0, "waiting": 0}


def test_a_second_sync_adds_nothing(results):
    study = finished(results)
    sync(study)
    before = everything(results)
    assert sync(study) == {"logged": 0, "updated": 0, "unchanged": 8, "superseded": 0, "waiting": 0}
    assert everything(results) == before


def test_changed_params_make_new_runs_that_supersede_the_old(results):
    sync(finished(results))
    old = {r.data.tags["run"]: r.info.run_id for r in valid(results)}
    sync(finished(results, long_side=128))
    new = {r.data.tags["run"]: r for r in valid(results)}
    assert old.keys() == new.keys()
    for run, identity in old.items():
        tags = client(results).get_run(identity).data.tags
        assert (tags["superseded"], tags["superseded_by"]) == ("yes", new[run].info.run_id)
        assert new[run].data.params["long_side"] == "128"
    assert len(valid(results, "cell")) == 2
    assert {r.data.tags["mlflow.parentRunId"] for r in new.values()} == {c.info.run_id for c in valid(results, "cell")}


def test_a_changed_override_supersedes_by_the_run_that_takes_its_place(results):
    sync(finished(results))
    old = one(results, seed=1).info.run_id
    methods = [{"method": "nerfacto", "preset": "smoke", "overrides": {"optimizers.fields.scheduler.max_steps": 40}}]
    sync(finished(results, methods=methods))
    new = one(results, seed=1)
    assert new.data.params["optimizers.fields.scheduler.max_steps"] == "40"
    assert client(results).get_run(old).data.tags["superseded_by"] == new.info.run_id
    assert (len(valid(results)), len(valid(results, "cell"))) == (6, 2)


def test_what_the_study_drops_is_superseded_and_what_it_takes_back_is_valid_again(results):
    sync(finished(results))
    before = {r.info.run_id for r in logged(results)}
    numbers = sync(write_tables(planned(results, seeds=[0, 1])))
    assert numbers["superseded"] == 2
    assert sorted({r.data.params["seed"] for r in valid(results)}) == ["0", "1"]
    sync(write_tables(planned(results)))
    assert len(valid(results)) == 6
    assert {r.info.run_id for r in logged(results)} == before


def test_taking_old_params_back_takes_the_old_runs_back(results):
    sync(finished(results))
    before = {r.info.run_id for r in valid(results)}
    sync(finished(results, long_side=128))
    numbers = sync(finished(results))
    assert {r.info.run_id for r in valid(results)} == before
    assert numbers["logged"] == 0
    assert not any("superseded_by" in r.data.tags for r in valid(results))


def test_a_new_seed_changes_the_mean_of_its_cell_in_place(results):
    sync(finished(results, seeds=[0, 1]))
    (cell,) = (c for c in valid(results, "cell") if c.data.params["count"] == "all")
    assert "test_psnr_float_lo95" not in cell.data.metrics
    sync(finished(results, seeds=[0, 1, 4]))
    (after,) = (c for c in valid(results, "cell") if c.data.params["count"] == "all")
    assert after.info.run_id == cell.info.run_id
    assert after.data.metrics["n_runs"] == 3
    assert after.data.metrics["test_psnr_float"] == pytest.approx(22.5 + (0 + 1 + 4) / 3)
    assert "test_psnr_float_lo95" in after.data.metrics


def test_an_interval_that_a_cell_no_longer_has_is_not_left_standing(results):
    sync(finished(results))
    sync(write_tables(planned(results, seeds=[0, 1])))
    (cell,) = (c for c in valid(results, "cell") if c.data.params["count"] == "all")
    assert cell.data.metrics["n_runs"] == 2
    assert cell.data.metrics["test_psnr_float"] == 23.0
    assert math.isnan(cell.data.metrics["test_psnr_float_lo95"])


def test_a_run_that_was_scored_anew_is_a_new_run_of_the_same_parent(results):
    study = finished(results)
    sync(study)
    old = one(results, seed=1)
    score(folder(study, old), seed=3.0)
    write_tables(planned(results))
    assert sync(study) == {"logged": 1, "updated": 1, "unchanged": 6, "superseded": 1, "waiting": 0}
    new = one(results, seed=1)
    assert new.data.metrics["test_psnr_float"] == 25.5
    assert new.data.tags["mlflow.parentRunId"] == old.data.tags["mlflow.parentRunId"]


@pytest.mark.parametrize("call", ["log_table", "log_image", "set_terminated", "log_batch"])
def test_what_a_killed_sync_left_half_done_is_logged_anew_and_only_once(results, monkeypatch, call):
    study, calls, whole = finished(results), [], getattr(MlflowClient, call)

    def killed(*args, **keywords):
        calls.append(call)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args, **keywords)

    monkeypatch.setattr(MlflowClient, call, killed)
    with pytest.raises(KeyboardInterrupt):
        sync(study)
    monkeypatch.undo()
    assert "RUNNING" in {r.info.status for r in logged(results)}
    sync(study)
    assert len(logged(results)) == len(valid(results)) + len(valid(results, "cell")) == 8
    assert {r.info.status for r in logged(results)} == {"FINISHED", "FAILED"}
    for run in valid(results):
        if run.info.status == "FINISHED":
            table = json.loads(Path(client(results).download_artifacts(run.info.run_id, "images.json")).read_text())
            assert len(table["data"]) == 8
            assert len(client(results).get_metric_history(run.info.run_id, "train/loss")) == 3


def test_a_run_deleted_in_the_store_comes_back(results):
    study = finished(results)
    sync(study)
    client(results).delete_run(one(results, seed=0).info.run_id)
    assert sync(study)["logged"] == 1
    assert one(results, seed=0).info.status == "FINISHED"


def test_two_people_with_one_store_leave_each_others_runs_alone(results, tmp_path):
    store = f"sqlite:///{results}/mlflow.db"
    finished(results)
    other = finished(tmp_path / "theirs", seeds=[0])
    sync(StudyFiles(results / "tiny"), store)
    sync(other, store)
    sync(StudyFiles(results / "tiny"), store)
    assert (len(valid(results)), len(logged(results))) == (6 + 2, 8 + 4)


def test_a_copy_of_a_results_folder_adds_nothing_to_a_shared_store(results, tmp_path):
    store = f"sqlite:///{tmp_path}/shared.db"
    shutil.copy(results / "mlflow.db", tmp_path / "shared.db")
    sync(finished(results), store)
    shutil.copytree(results, tmp_path / "copy")
    assert sync(StudyFiles(tmp_path / "copy" / "tiny"), store)["unchanged"] == 8


@pytest.fixture
def copied(results, tmp_path, monkeypatch) -> tuple[StudyFiles, StudyFiles, str]:
    """A study of one run, the same in a copy of its results folder, and a store without locks, as a server is."""
    monkeypatch.setattr("eval.tracking.alone", lambda *_: nullcontext())
    monkeypatch.setattr(tracking_store, "has_locks", lambda _: False)
    shutil.move(results / "mlflow.db", tmp_path)
    study, _ = one_finished(results)
    (results / ".tracking-origin").write_text("0123456789abcdef\n")
    shutil.copytree(results, tmp_path / "copy")
    return study, StudyFiles(tmp_path / "copy" / "tiny"), f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_that_a_copy_of_the_folder_is_just_logging_is_left_alone(tmp_path, copied, monkeypatch):
    (study, copy, store), whole = copied, MlflowClient.log_image

    def meanwhile(*args, **keywords):
        monkeypatch.setattr(MlflowClient, "log_image", whole)
        sync(copy, store)
        return whole(*args, **keywords)

    monkeypatch.setattr(MlflowClient, "log_image", meanwhile)
    sync(study, store)
    assert (len(valid(tmp_path)), {r.info.status for r in logged(tmp_path)}) == (2, {"FINISHED"})
    assert sync(study, store)["superseded"] == 1
    assert len(valid(tmp_path)) == len(valid(tmp_path, "cell")) == 1


def test_what_a_killed_sync_of_a_copy_of_the_folder_left_is_deleted_after_an_hour(tmp_path, copied, monkeypatch):
    study, copy, store = copied
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MlflowClient, "log_table", Mock(side_effect=KeyboardInterrupt))
        sync(copy, store)
    (left,) = (r.info.run_id for r in logged(tmp_path) if r.info.status == "RUNNING")
    sync(study, store)
    assert client(tmp_path).get_run(left).info.status == "RUNNING"
    client(tmp_path).set_tag(left, "sync_unix_s", str(time.time() - 3700))
    sync(study, store)
    assert left not in {r.info.run_id for r in logged(tmp_path)}


def test_studies_are_experiments_of_their_own(results):
    sync(finished(results))
    assert sync(finished(results, study="other"))["logged"] == 8
    assert (len(logged(results)), len(logged(results, "other"))) == (8, 8)


def test_the_store_of_the_results_writes_ahead_and_keeps_its_files_beside_it(tmp_path):
    sync(finished(tmp_path))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sorted(p.name for p in (tmp_path / "mlartifacts").iterdir()) == ["tiny"]
    assert len(list((tmp_path / "mlartifacts/tiny").glob("*/artifacts/images.json"))) == 3


def test_the_environment_names_another_store_and_the_command_one_over_it(results, tmp_path, monkeypatch, capsys):
    study = finished(results)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(results / "mlflow.db", tmp_path / name / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/a/mlflow.db")
    assert main(["sync", str(study.root)]) == 0
    assert len(logged(tmp_path / "a")) == 8
    assert main(["sync", str(study.root), "--tracking-uri", f"sqlite:///{tmp_path}/b/mlflow.db"]) == 0
    assert len(logged(tmp_path / "b")) == 8
    assert client(results).get_experiment_by_name("tiny") is None
    assert "tiny: 8 logged, 0 updated, 0 unchanged, 0 superseded, 0 waiting" in capsys.readouterr().out
    assert read_json(study.sync)["state"] == "ok"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "results"], "files in the working directory"


def test_a_moved_results_folder_is_one_line_that_says_what_to_do(results, tmp_path):
    sync(finished(results))
    moved = results.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"was moved: .* remove mlflow.db and mlartifacts"):
        sync(StudyFiles(moved / "tiny"))


def test_a_deleted_experiment_is_one_line_that_says_what_to_do(results):
    study = finished(results)
    sync(study)
    experiment = client(results).get_experiment_by_name("tiny").experiment_id
    client(results).delete_experiment(experiment)
    with pytest.raises(UserError, match=f"mlflow experiments restore --experiment-id {experiment}"):
        sync(study)


def test_a_study_without_tables_is_one_line(tmp_path):
    with pytest.raises(UserError, match="has no tables yet; run `fieldbook tables`"):
        sync(StudyFiles(tmp_path / "tiny"))


@pytest.fixture
def silent_port():
    """Of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_store_that_is_away_is_one_line_within_seconds(tmp_path, capsys, monkeypatch, silent_port):
    monkeypatch.setitem(tracking_connection._KNOCK, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking_connection, "KNOCK_S", 2)
    study = finished(tmp_path)
    for uri, words in (
        ("http://me:secret@127.0.0.1:9", "Connection refused"),
        (f"http://127.0.0.1:{silent_port}", "timed out"),
        ("postgresql://me:secret@127.0.0.1:9/runs", "Connection refused"),
        (f"postgresql://me:secret@127.0.0.1:{silent_port}/runs", "timeout expired"),
        ("mysql://127.0.0.1/runs", "No module named 'MySQLdb'"),
        ("nonsense://127.0.0.1", "unsupported URI"),
    ):
        begin = time.monotonic()
        assert main(["sync", str(study.root), "--tracking-uri", uri]) == 2, uri
        assert time.monotonic() - begin < 8
        error = capsys.readouterr().err
        assert error.startswith("fieldbook: cannot log to the tracking store ")
        assert error.count("\n") == 1
        assert words in error
        assert "secret" not in error
        assert f"`fieldbook sync {study.root}`" in error
    assert not study.sync.exists()


def test_a_workflows_sync_says_what_went_wrong_and_ends_well(results, capsys):
    study = finished(results)
    arguments = ["sync", str(study.root), "--never-fail"]
    assert main([*arguments, "--tracking-uri", "http://127.0.0.1:9"]) == 0
    assert "cannot log" in capsys.readouterr().err
    status = read_json(study.sync)
    assert (status["state"], "Connection refused" in status["reason"]) == ("queued", True)
    assert main(arguments) == 0
    assert read_json(study.sync)["state"] == "ok"
    assert len(valid(results)) == 6


def test_a_fault_of_ours_fails_no_study_either_and_is_told_in_full(results, capsys, monkeypatch):
    study = finished(results)
    monkeypatch.setattr("eval.tracking.sync", lambda *_: 1 / 0)
    assert main(["sync", str(study.root), "--never-fail"]) == 0
    assert "Traceback" in capsys.readouterr().err
    assert read_json(study.sync)["reason"] == "division by zero"
    with pytest.raises(ZeroDivisionError):
        main(["sync", str(study.root)])


def test_a_broken_database_is_one_line(tmp_path):
    study = finished(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"file is not a database; remove .*mlflow\.db and mlartifacts beside it"):
        sync(study)


@pytest.mark.parametrize("size", [0, 5, 100, 900])
@pytest.mark.parametrize("name", ["runs.csv", "cells.csv"])
def test_a_cut_table_is_one_line(results, name, size):
    study = finished(results, seeds=[0], counts=["all"])
    path = study.root / name
    content = path.read_bytes()
    assert len(content) > size
    path.write_bytes(content[:size])
    with pytest.raises(UserError, match="make it again with `fieldbook tables`"):
        sync(study)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", "step,loss,lr,rays_per_s,seconds\n0,much,0.01,10,1\n", "train the run again"),
        ("train.csv", "step,loss\n0,0.5\n", "make it again"),
        ("images.csv", "split\ntest\n", "make it again"),
        ("images.csv", "split,view\ntest,../../../study\n", "cannot be the name"),
        ("run.json", '{"spec": 1}', "fieldbook train"),
        ("test/frame_00000.png", "no picture", "replace or remove it"),
        ("train.ledger.json", "{}", "delete it"),
    ],
)
def test_a_damaged_file_is_one_line_that_says_what_to_do(results, name, content, words):
    study, run = one_finished(results)
    (run.root / name).write_text(content)
    with pytest.raises(UserError, match=words):
        sync(study)


def one_finished(results: Path) -> tuple[StudyFiles, RunFiles]:
    """A study of one run."""
    only = {"seeds": [0], "counts": ["all"]}
    made = planned(results, **only)
    return finished(results, **only), made.runs[0].files(made.results)


BAD_RENDERS = ("cut png", "tiff", "postscript, which starts a program", "16 bits", "a bomb", "no pixels", "a pipe")


@pytest.mark.parametrize(("make", "word"), [PICTURES[name] for name in BAD_RENDERS], ids=BAD_RENDERS)
def test_a_render_that_is_no_picture_is_refused_in_one_line_and_starts_no_program(
    results, tmp_path, monkeypatch, make: Callable[[Path], Any], word: str
):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    study, run = one_finished(results)
    render = run.test / "frame_00000.png"
    render.unlink()
    make(render)
    assert word.replace("a.png", render.name) in refused(lambda: sync(study))
    assert not (tmp_path / "started").exists()
    render.unlink()
    sync(study)  # a view without a picture is left out
    assert [r.info.status for r in logged(results)] == ["FINISHED"] * 2


def test_a_curve_longer_than_a_request_arrives_whole(results):
    study, run = one_finished(results)
    rows = "".join(f"{k},{1 / (k + 1)},0.01,1000,{k / 10}\n" for k in range(1500))
    run.train_log.write_text("step,loss,lr,rays_per_s,seconds\n" + rows)
    sync(study)
    assert len(client(results).get_metric_history(one(results, seed=0).info.run_id, "train/loss")) == 1500


def test_more_params_than_a_request_takes_arrive_whole(results):
    overrides = {f"pipeline.model.extra.p{k}": k for k in range(250)}
    methods = [{"method": "nerfacto", "preset": "smoke", "overrides": overrides}]
    sync(finished(results, seeds=[0], methods=methods))
    assert {k: str(v) for k, v in overrides.items()}.items() <= one(results, seed=0).data.params.items()
