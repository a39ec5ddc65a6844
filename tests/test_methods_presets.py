"""Presets are tables: complete, import-light, and honest about what a method needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fieldbook.errors import UserError
from methods.presets import METHODS, PRESETS, SCENE_NEEDS, preset_overrides

MACHINE_NEEDS = {"gpu", "tinycudann", "nerfacc", "gsplat"}


def test_reading_the_presets_imports_neither_torch_nor_nerfstudio():
    code = "import sys, methods.presets; sys.exit(bool({'torch', 'nerfstudio', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", ["nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "splatfacto", "instant-ngp"])
def test_every_main_method_has_the_three_presets(method: str):
    assert set(METHODS[method].presets) == set(PRESETS)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_need_has_a_meaning_and_pictures_with_depth_come_out(method: str):
    needs = set(METHODS[method].needs)
    assert needs <= {*SCENE_NEEDS, *MACHINE_NEEDS}
    assert needs & {"poses", "prompt"}
    assert {"rgb", "depth"} <= set(METHODS[method].gives)


@pytest.mark.parametrize("method", list(METHODS))
def test_no_preset_touches_what_the_runner_turns_off_for_every_method(method: str):
    for preset in METHODS[method].presets:
        assert not [key for key in preset_overrides(method, preset) if "camera_optimizer" in key or "appearance" in key]


def test_an_unknown_preset_names_the_ones_there_are():
    with pytest.raises(UserError, match=r"no preset 'latop'; allowed: laptop, paper, smoke; did you mean 'laptop'\?"):
        preset_overrides("nerfacto", "latop")


def test_a_method_of_another_package_has_its_own_defaults_as_paper():
    assert preset_overrides("somebodys-nerf", "paper") == {}
    with pytest.raises(UserError, match="allowed: paper"):
        preset_overrides("somebodys-nerf", "laptop")
