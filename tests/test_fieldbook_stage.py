"""Files are whole or absent; a stage leaves a status and a ledger; infeasible passes on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldbook import child
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import atomic_dir, atomic_path, read_json, sha256_file, write_json
from fieldbook.layout import ledger_path, status_path
from fieldbook.ledger import read_energy_j
from fieldbook.stage import Keep, run_stage
from fieldbook.status import read_status


def fail(error):
    raise error


def test_a_file_is_absent_after_a_failure_and_the_old_one_stays(tmp_path):
    target = tmp_path / "a" / "x.txt"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "frames"
    with atomic_dir(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_dir(target) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    with atomic_dir(target) as temporary:
        (temporary / "c").write_text("3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_refuses_nan_and_names_a_damaged_file(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_stage_leaves_its_numbers_and_its_cost(tmp_path):
    status = run_stage("work", tmp_path, lambda: {"n": 3})
    assert status.ok
    assert read_status(status_path(tmp_path, "work")) == status
    cost = json.loads(ledger_path(tmp_path, "work").read_text())
    assert cost["stage"] == "work"
    assert cost["wall_s"] >= 0
    assert cost["peak_rss_bytes"] > 1 << 20


def test_an_infeasible_stage_is_a_result_and_passes_its_reason_on_unchanged(tmp_path):
    first = run_stage("poses", tmp_path / "a", lambda: fail(Infeasible("2 of 6 registered", {"registered": 2})))
    called = []
    last = run_stage("train", tmp_path / "b", lambda: called.append(1), [status_path(tmp_path / "a", "poses")])
    assert (first.state, first.reason, first.numbers) == (
        "infeasible",
        "2 of 6 registered",
        {"registered": 2},
    )
    assert last == first
    assert not called


def test_a_mistake_of_the_user_leaves_no_status_so_the_stage_runs_again(tmp_path):
    with pytest.raises(UserError):
        run_stage("work", tmp_path, lambda: fail(UserError("no such file")))
    assert not status_path(tmp_path, "work").exists()


def test_running_out_of_memory_is_infeasible(tmp_path):
    assert run_stage("work", tmp_path, lambda: fail(MemoryError())).reason == "out of memory on the host"


def test_a_stage_whose_process_the_kernel_killed_is_infeasible_with_the_peak(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(child, "killed_at_mb", 321)
    keys = {"prepare": lambda: called.append("prepare"), "spec": {"mapper": "global"}}
    status = run_stage("poses", tmp_path, lambda: called.append("work"), **keys)
    assert (status.state, status.stage, status.numbers, status.spec) == (
        "infeasible",
        "poses",
        {"peak_mb": 321},
        {"mapper": "global"},
    )
    assert status.reason == "out of memory on the host: the kernel ended the stage 'poses', which had held up to 321 MB"
    assert not called


def test_what_a_stage_waits_for_is_no_cost_and_is_not_waited_for_where_nothing_is_to_do(tmp_path):
    called = []
    keep = Keep(lambda: "the same", lambda _: True)
    for _ in range(2):
        run_stage("work", tmp_path, dict, keep=keep, prepare=lambda: called.append(time.sleep(0.5)))
        assert json.loads(ledger_path(tmp_path, "work").read_text())["wall_s"] < 0.4
    assert len(called) == 1


def test_energy_is_the_sum_of_the_packages_and_absent_where_it_cannot_be_read(tmp_path):
    assert read_energy_j(tmp_path) is None
    for name, value in (("intel-rapl:0", "2000000"), ("intel-rapl:1", "500000"), ("intel-rapl:0:0", "900000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(value)
    assert read_energy_j(tmp_path) == 2.5
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert read_energy_j(tmp_path) is None


def test_what_a_dead_process_left_half_written_is_removed_and_a_living_ones_is_not(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from fieldbook.files import atomic_dir, atomic_path
with atomic_dir(Path(sys.argv[1]) / "sub" / "views") as folder, atomic_path(Path(sys.argv[1]) / "big.ckpt") as file:
    (folder / "a.png").write_bytes(b"half")
    file.write_bytes(b"half")
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.rglob(".*.tmp*"))) == 2
    with atomic_path(tmp_path / "mine.json") as mine:
        mine.write_text("{}")
        run_stage("frames", tmp_path, dict)
        assert list(tmp_path.rglob(".*.tmp*")) == [mine]
