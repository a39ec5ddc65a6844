"""Presets are tables: complete, import-light, and honest about what a method needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fieldbook.errors import UserError
from methods.presets import GIVES, METHODS, NEEDS, PRESETS, preset_overrides

CPU_METHODS = [name for name, method in METHODS.items() if "gpu" not in method.needs]


def test_reading_the_presets_imports_neither_torch_nor_nerfstudio():
    code = "import sys, methods.presets; sys.exit(bool({'torch', 'nerfstudio', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", ["nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "splatfacto", "instant-ngp"])
def test_every_main_method_has_the_three_presets(method: str):
    assert set(METHODS[method].presets) == set(PRESETS)


@pytest.mark.parametrize("method", list(METHODS))
def test_needs_poses_and_gives_rgb_and_depth(method: str):
    assert "poses" in NEEDS[method]
    assert {"rgb", "depth"} <= set(GIVES[method])


@pytest.mark.parametrize("method", CPU_METHODS)
def test_camera_optimiser_and_appearance_embedding_are_off_under_every_preset(method: str):
    for preset in METHODS[method].presets:
        values = preset_overrides(method, preset)
        assert values.get("pipeline.model.camera_optimizer.mode", "off") == "off"
        assert values.get("pipeline.model.use_appearance_embedding", False) is False


def test_an_unknown_preset_names_the_ones_there_are():
    with pytest.raises(UserError, match=r"no preset 'latop'; allowed: laptop, paper, smoke; did you mean 'laptop'\?"):
        preset_overrides("nerfacto", "latop")


def test_a_method_of_another_package_has_its_own_defaults_as_paper():
    assert preset_overrides("somebodys-nerf", "paper") == {}
    with pytest.raises(UserError, match="allowed: paper"):
        preset_overrides("somebodys-nerf", "laptop")
