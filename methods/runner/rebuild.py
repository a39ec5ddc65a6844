"""A trained run's nerfstudio config, built anew from the plain values in ``run.json``.

``config.yml`` is there for nerfstudio's own tools. It is YAML that makes Python objects, so reading it runs what its
maker wrote, and a run's folder may be anybody's: nothing here reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fieldbook.documents import RUN, read_document
from fieldbook.errors import UserError
from fieldbook.layout import DatasetFiles, RunFiles
from methods.runner.overrides import apply_overrides
from methods.runner.registry import TrainerConfig
from methods.runner.setup import plain_config, resolve_config

_MODEL = "pipeline.model"


def rebuild_config(run: RunFiles, dataset: DatasetFiles, device: str) -> TrainerConfig:
    """The config of a trained run, its model as it was trained even where a preset or the scene has changed since.

    Args:
        run: A trained run.
        dataset: Its dataset.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: There is no ``run.json``, or it describes a model that there is no more.
        Infeasible: The machine lacks what the method needs.
    """
    if not run.run.is_file():
        raise UserError(f"no {run.run}; train the run first with `fieldbook train`")
    recorded = read_document(run.run, RUN)
    config = resolve_config(dataset, {**recorded["spec"], "device": device})
    trained = dict(_values(recorded["config"]["pipeline"]["model"]))
    now = dict(_values(plain_config(config.pipeline.model)))
    changed = {key: value for key, value in trained.items() if key in now and now[key] != value}
    apply_overrides(config, {f"{_MODEL}.{key}": value for key, value in changed.items()})
    rebuilt = dict(_values(plain_config(config.pipeline.model)))
    if rebuilt != trained:
        odd = next(key for key in (*trained, *rebuilt) if trained.get(key, _MODEL) != rebuilt.get(key, _MODEL))
        raise UserError(f"{run.run}: the model has another {odd} than this version of the method; train the run again")
    return config


def _values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values of a config, without what is chosen by code: the classes that are built."""
    if not isinstance(config, dict) or not config:
        yield prefix, config
        return
    for key, value in config.items():
        if not key.startswith("_"):
            yield from _values(value, f"{prefix}.{key}" if prefix else key)
