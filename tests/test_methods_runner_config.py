"""What the runner makes of nerfstudio's configs: schedules, camera optimisers, appearance embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import pytest

from fieldbook.layout import DatasetFiles
from methods.presets import METHODS

from .runner_ball import SPEC, run_files, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def test_a_study_can_turn_the_camera_optimiser_on_and_set_a_schedule(dataset: DatasetFiles, tmp_path: Path):
    from methods.runner.setup import build_config

    overrides = {
        "pipeline.model.camera_optimizer.mode": "SO3xR3",
        "pipeline.model.far_plane": 9,
        "optimizers.fields.scheduler": {"lr_final": 1e-5, "max_steps": 7},
        "optimizers.camera_opt.scheduler": None,
    }
    config = build_config(run_files(tmp_path), dataset, {**SPEC, "overrides": overrides})
    model: Any = config.pipeline.model
    assert (model.camera_optimizer.mode, model.far_plane) == ("SO3xR3", 9.0)
    assert config.optimizers["fields"]["scheduler"].max_steps == 7
    assert config.optimizers["camera_opt"]["scheduler"] is None


def _values(config: Any, name: str) -> list[Any]:
    """Every value called ``name`` in a nest of dicts."""
    below = [v for part in config.values() if isinstance(part, dict) for v in _values(part, name)]
    return [config[name], *below] if name in config else below


@pytest.mark.parametrize("method", [*sorted(METHODS), "plugin"])
def test_camera_optimiser_and_appearance_embedding_are_off_for_every_method_and_preset(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    from nerfstudio.configs.method_configs import all_methods

    from methods.presets import method_entry
    from methods.runner import setup

    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    monkeypatch.setitem(all_methods, "plugin", setup.method_config("nerfacto"))
    for preset in method_entry(method).presets:
        config = setup.build_config(run_files(tmp_path, method), dataset, {**SPEC, "method": method, "preset": preset})
        model = setup.plain_config(config.pipeline.model)
        assert all(c is None or c["mode"] == "off" for c in _values(model, "camera_optimizer"))
        # True is instant-ngp's word for no embedding; that none is built is tested above, with the models.
        assert set(_values(model, "use_appearance_embedding")) <= {method.startswith("instant-ngp")}
    if method in ("plugin", "nerfacto", "splatfacto"):
        on = {"pipeline.model.camera_optimizer.mode": "SO3xR3"}
        config = setup.build_config(
            run_files(tmp_path, method), dataset, {**SPEC, "method": method, "preset": "paper", "overrides": on}
        )
        assert setup.plain_config(config.pipeline.model)["camera_optimizer"]["mode"] == "SO3xR3"


def test_an_embedding_that_only_has_a_size_gets_size_0():
    from methods.runner.setup import fix_cameras_and_appearance

    @dataclass
    class Field:
        appearance_embedding_dim: int = 32
        use_appearance_embedding: bool = True

    @dataclass
    class Model:
        appearance_embed_dim: int = 32
        field: Field = dataclass_field(default_factory=Field)

    model = Model()
    fix_cameras_and_appearance(model)
    assert model == Model(appearance_embed_dim=0, field=Field(32, use_appearance_embedding=False))
