"""A whole study: its plan, its tables and its report; and the machine it runs on."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fieldbook.commands.common import load_spec
from fieldbook.errors import FieldbookError, UserError
from fieldbook.layout import StudyFiles


def plan(config: Path = Path("config.yaml"), json_: Annotated[bool, arg(name="json")] = False) -> None:
    """List a study's runs, or print everything the stages are given as JSON.

    Example: fieldbook plan --config examples/fox.yaml
    """
    from fieldbook.scenes import load_study
    from fieldbook.study import study_record

    study = load_study(config)
    record = study_record(study)
    if json_:
        specs = {r.files(study.results).root.as_posix(): study.train_spec(r) for r in study.runs}
        print(json.dumps(record | {"train_specs": specs, "score_spec": study.score_spec()}, indent=1))
        return
    for run in record["runs"]:
        print(run["id"])
    cells = len({run["cell"] for run in record["runs"]})
    print(f"runs: {len(record['runs'])}, cells: {cells}", file=sys.stderr)


def tables(
    study: Annotated[Positional[Path], arg(help="results/<study>")],
    config: Annotated[str, arg(help="The study's config file, or its content as JSON.")] = "config.yaml",
) -> None:
    """Collect a study's images.csv, runs.csv and cells.csv; runs that are not finished are rows that say so.

    Example: fieldbook tables results/demo --config config.yaml
    """
    from fieldbook.config import read_config
    from fieldbook.files import write_json
    from fieldbook.scenes import make
    from fieldbook.study import study_record
    from fieldbook.versions import versions
    from reports.tables import make_tables

    made = make(load_spec(config) if config.startswith("{") else read_config(Path(config)))
    files = StudyFiles(study)
    if made.files.root.resolve() != study.resolve():
        raise UserError(f"{config[:80]} is the study of {made.files.root}, not of {study}")
    write_json(files.resolved, study_record(made) | {"versions": versions()})
    make_tables(study.parent, files.resolved, files)


def report(study: Annotated[Positional[Path], arg(help="results/<study>")]) -> None:
    """Write a study's report.html and its entry in the research log, from its tables.

    Example: fieldbook report results/demo
    """
    from reports.html import make_report

    make_report(study.parent, StudyFiles(study).resolved, StudyFiles(study))


def sync(
    study: Annotated[Positional[Path], arg(help="results/<study>")],
    tracking_uri: Annotated[
        str | None, arg(help="Of MLflow; else $MLFLOW_TRACKING_URI, else results/mlflow.db.")
    ] = None,
    never_fail: Annotated[
        bool, arg(help="Say what went wrong and exit with 0: a study does not fail over it.")
    ] = False,
) -> None:
    """Log to MLflow what its store does not have of a study's tables, curves and pictures; docs/tracking.md.

    Example: fieldbook sync results/demo --tracking-uri http://localhost:5000
    """
    from eval.tracking import sync as work
    from fieldbook.files import write_json

    try:
        numbers = work(StudyFiles(study), tracking_uri)
    except Exception as error:
        if not never_fail:
            raise
        if not isinstance(error, FieldbookError):
            traceback.print_exc()
        write_json(StudyFiles(study).sync, {"state": "queued", "reason": str(error), "numbers": {}})
        print(f"fieldbook: {error}", file=sys.stderr)
        return
    write_json(StudyFiles(study).sync, {"state": "ok", "reason": "", "numbers": numbers})
    print(f"{study.name}: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))


def doctor(
    json_: Annotated[Path | None, arg(name="json", metavar="FILE", help="Write the same facts there.")] = None,
) -> None:
    """Look at this machine, build the compiled kernels, test each against its torch version and time both.

    Example: fieldbook doctor --json doctor.json
    """
    from fieldbook.doctor import check, examine
    from fieldbook.files import write_json

    facts = examine(lambda line: print(line, flush=True))
    if json_ is not None:
        write_json(json_, facts)
    check(facts)
