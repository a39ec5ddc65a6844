"""Syncs as processes, against real stores: SQLite, a server that comes and goes, PostgreSQL from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fieldbook.layout import StudyFiles

from .tracking_study import finished

BIN = Path(sys.executable).parent
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": ""}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def start(study: StudyFiles, uri: str = "") -> subprocess.Popen[str]:
    command = [str(BIN / "fieldbook"), "sync", str(study.root), *(("--tracking-uri", uri) if uri else ())]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, error = process.communicate(timeout=300)
    return process.returncode, output + error


def sync(study: StudyFiles, uri: str = "") -> str:
    code, said = end(start(study, uri))
    assert code == 0, said
    return said


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(params=["sqlite", "postgresql", "server"])
def store(request, tmp_path) -> str:
    """The address of a fresh store of each kind."""
    if request.param == "sqlite":
        return sqlite(tmp_path)
    return request.getfixturevalue("postgres" if request.param == "postgresql" else "server").uri


def assert_whole(uri: str, studies: list[str], runs: int = 6, cells: int = 2) -> None:
    """Every run of the studies is there, once, with all that belongs to it."""
    store = MlflowClient(tracking_uri=uri)
    assert sorted(e.name for e in store.search_experiments()) == sorted(["Default", *studies])
    for name in studies:
        found = runs_of(store, name)
        assert {r.info.status for r in found} <= {"FINISHED", "FAILED"}
        keys = [r.data.tags["run"] for r in found if r.data.tags["kind"] == "run"]
        assert (len(keys), len(set(keys)), len(found) - len(keys)) == (runs, runs, cells)
        for run in found:
            if run.data.tags.get("state") == "ok":
                assert len(store.get_metric_history(run.info.run_id, "train/loss")) == 3
                files = {a.path for a in store.list_artifacts(run.info.run_id)}
                assert files >= {"images.json", "images.csv", "train.csv", "run.json", "images"}
                assert run.data.metrics["test_psnr_float"] == 22.5 + int(run.data.params["seed"])


def runs_of(store: MlflowClient, study: str) -> list[Run]:
    experiment = store.get_experiment_by_name(study)
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id]))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Server:
    """`mlflow server` on a SQLite file of its own."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        files = ["--artifacts-destination", str(self.folder / "files")]
        command = [str(BIN / "mlflow"), "server", *store, *files, "--port", str(self.port), "--workers", "1"]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | QUIET, cwd=self.folder, start_new_session=True
            )
        wait_for(self.answers, f"mlflow server, see {self.folder}/server.log")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    def down(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def wait_for(done: Callable[[], bool], what: str, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit, f"waited for {what}"
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server")
    made.up()
    yield made
    made.down()


class Postgres:
    """A cluster of its own under /tmp, as the user that PostgreSQL wants to be."""

    def __init__(self, binaries: Path, folder: Path, user: str | None):
        self.binaries, self.folder, self.port = binaries, folder, free_port()
        self.who = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        self.uri = f"postgresql://fieldbook@127.0.0.1:{self.port}/postgres"
        self.run("initdb", "--auth=trust", "--username=fieldbook", "--no-sync", "--encoding=UTF8")

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), "-D", str(self.folder), *arguments]
        with open(self.folder.parent / f"{self.folder.name}.log", "ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", **self.who)

    def up(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-w", "-o", options, "start")

    def down(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not binaries:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="fieldbook-postgres-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)
    made = Postgres(binaries[-1].parent, folder, user)
    made.up()
    yield made
    made.down()
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.log").unlink()


def test_eight_syncs_at_once_on_a_fresh_sqlite_lose_nothing_and_double_nothing(tmp_path):
    studies = [finished(tmp_path / "results", study=name) for name in ("tiny", "other")]
    said = [end(process) for process in [start(study) for study in studies * 4]]
    assert [code for code, _ in said] == [0] * 8, said
    assert sum("8 logged" in text for _, text in said) == 2
    assert sum("0 logged, 0 updated, 8 unchanged" in text for _, text in said) == 6
    assert_whole(sqlite(tmp_path / "results"), ["tiny", "other"])


def test_eight_results_folders_sync_into_one_fresh_sqlite_file(tmp_path):
    names = [f"study{k}" for k in range(8)]
    studies = [finished(tmp_path / f"results{k}", study=name) for k, name in enumerate(names)]
    said = [end(process) for process in [start(study, sqlite(tmp_path)) for study in studies]]
    assert [code for code, _ in said] == [0] * 8, said
    assert_whole(sqlite(tmp_path), names)


def test_two_results_folders_sync_at_once_into_one_fresh_store(tmp_path, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    names = ["left", "right"]
    studies = [finished(tmp_path / f"results-{name}", study=name) for name in names]
    said = [end(process) for process in [start(study) for study in studies * 4]]
    assert [code for code, _ in said] == [0] * 8, said
    assert sum("8 logged" in text for _, text in said) == 2
    assert_whole(store, names)


def test_what_copies_of_a_results_folder_sync_at_once_is_there_once_or_else_valid_once_after_the_next(tmp_path, store):
    study = finished(tmp_path / "results")
    (tmp_path / "results/.tracking-origin").write_text("0123456789abcdef\n")
    copies = [StudyFiles(tmp_path / f"copy{k}" / "tiny") for k in range(3)]
    for copy in copies:
        shutil.copytree(tmp_path / "results", copy.root.parent)
    said = [end(process) for process in [start(each, store) for each in (study, *copies)]]
    assert [code for code, _ in said] == [0] * 4, said
    if not store.startswith("http"):
        assert_whole(store, ["tiny"])
    sync(study, store)
    found = runs_of(MlflowClient(tracking_uri=store), "tiny")
    assert {r.info.status for r in found} == {"FINISHED", "FAILED"}
    valid = [r for r in found if r.data.tags["superseded"] == "no"]
    assert len({r.data.tags.get("run", r.data.tags["cell"]) for r in valid}) == len(valid) == 8
    cells = {r.info.run_id for r in valid if r.data.tags["kind"] == "cell"}
    assert {r.data.tags["mlflow.parentRunId"] for r in valid if r.data.tags["kind"] == "run"} == cells
    assert "0 logged, 0 updated, 8 unchanged, 0 superseded" in sync(study, store)


def test_a_sync_killed_in_the_midst_loses_nothing_and_doubles_nothing(tmp_path):
    study = finished(tmp_path / "results")
    artifacts = tmp_path / "results/mlartifacts/tiny"
    for pictures in (1, 8, 15):  # ever further into the same work
        process = start(study)
        wait_for(lambda: len(list(artifacts.glob("*/artifacts/images/*.png"))) >= pictures, "pictures")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
    sync(study)
    assert_whole(sqlite(tmp_path / "results"), ["tiny"])


def test_what_a_server_missed_while_it_was_down_it_gets_when_it_is_up(tmp_path, server):
    study = finished(tmp_path / "results", seeds=[0, 1])
    assert "6 logged" in sync(study, server.uri)
    server.down()
    finished(tmp_path / "results")
    begin = time.monotonic()
    code, said = end(start(study, server.uri))
    assert (code, said.count("\n")) == (2, 1)
    assert "Connection refused" in said
    assert time.monotonic() - begin < 30
    server.up()
    assert "2 logged, 2 updated, 4 unchanged, 0 superseded" in sync(study, server.uri)
    assert "0 logged, 0 updated, 8 unchanged" in sync(study, server.uri)
    assert_whole(server.uri, ["tiny"])


@pytest.mark.parametrize(("kind", "files"), [("server", "server/files"), ("postgres", "results/mlartifacts")])
def test_a_store_that_dies_during_a_sync_ends_it_with_one_line_and_has_all_after_the_next(
    kind, files, tmp_path, request
):
    store = request.getfixturevalue(kind)
    study = finished(tmp_path / "results", seeds=list(range(6)))
    process = start(study, store.uri)
    wait_for(lambda: bool(list((tmp_path / files).rglob("*.png"))), "pictures")
    store.down()
    code, said = end(process)
    assert (code, said.count("\n")) == (2, 1), said
    assert "nothing is lost" in said
    store.up()
    sync(study, store.uri)
    assert_whole(store.uri, ["tiny"], runs=12)


def test_eight_syncs_at_once_to_a_server_lose_nothing_and_double_nothing(tmp_path, server):
    studies = [finished(tmp_path / "results", study=name) for name in ("tiny", "other")]
    said = [end(process) for process in [start(study, server.uri) for study in studies * 4]]
    assert [code for code, _ in said] == [0] * 8, said
    assert_whole(server.uri, ["tiny", "other"])


def test_postgresql_takes_eight_syncs_at_once_and_what_it_missed_while_it_was_down(tmp_path, postgres):
    names = ["tiny", "other"]
    studies = [finished(tmp_path / "results", study=name, seeds=[0, 1]) for name in names]
    said = [end(process) for process in [start(study, postgres.uri) for study in studies * 4]]
    assert [code for code, _ in said] == [0] * 8, said
    assert_whole(postgres.uri, names, runs=4)
    postgres.down()
    for name in names:
        finished(tmp_path / "results", study=name)
    begin = time.monotonic()
    code, text = end(start(studies[0], postgres.uri))
    assert (code, text.count("\n")) == (2, 1)
    assert "Connection refused" in text
    assert time.monotonic() - begin < 30
    postgres.up()
    for study in studies:
        assert "2 logged, 2 updated, 4 unchanged, 0 superseded" in sync(study, postgres.uri)
    assert_whole(postgres.uri, names)
    finished(tmp_path / "results", long_side=128)
    assert "8 logged, 0 updated, 0 unchanged, 8 superseded" in sync(studies[0], postgres.uri)
