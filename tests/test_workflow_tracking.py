"""The workflow's last job logs the study; where the store is away the study ends well, and the next one tries again."""

import os

import pytest
import yaml
from mlflow import MlflowClient

from fieldbook.files import read_json

from .test_workflow import snakemake
from .tracking_study import CONFIG, finished

pytestmark = pytest.mark.slow


@pytest.fixture
def run(repository, tmp_path, monkeypatch):
    """Run the rule alone, on tables that are there: (tracking URI) -> Snakemake's exit code and words."""
    study = finished(tmp_path / "results")
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"results": str(tmp_path / "results")}))
    options = ["--cores", "1", "--directory", str(tmp_path), "--configfile", str(config), "--allowed-rules", "sync"]

    def call(uri: str = "") -> tuple[int, str]:
        monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_URI", uri)
        done = snakemake(repository, *options, "--", str(study.sync))
        return done.returncode, done.stdout + done.stderr

    return call


def logged(uri: str) -> int:
    store = MlflowClient(tracking_uri=uri)
    experiment = store.get_experiment_by_name("tiny")
    return 0 if experiment is None else len(store.search_runs([experiment.experiment_id]))


def test_a_store_that_is_away_fails_no_study_and_is_tried_again_by_the_next(run, tmp_path):
    status = tmp_path / "results/tiny/sync.json"
    for _ in range(2):
        code, said = run("http://127.0.0.1:9")
        assert code == 0, said
        assert "Tracking: cannot log to the tracking store http://127.0.0.1:9" in said
        assert read_json(status)["state"] == "queued"
    code, said = run()
    assert (code, "Tracking:" in said) == (0, False)
    assert read_json(status)["numbers"]["logged"] == logged(f"sqlite:///{tmp_path}/results/mlflow.db") == 8
    assert "Nothing to be done" in run()[1]


def test_another_store_is_logged_to_as_well(run, tmp_path):
    assert run()[0] == 0
    other = f"sqlite:///{tmp_path}/other.db"
    assert run(other)[0] == 0
    assert logged(other) == 8
    assert "Nothing to be done" in run(other)[1]


def test_a_damaged_status_is_made_again(run, tmp_path):
    status = tmp_path / "results/tiny/sync.json"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("{")
    code, said = run()
    assert code == 0, said
    assert read_json(status)["state"] == "ok"
