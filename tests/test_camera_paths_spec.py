"""Path specs: defaults are filled in, and every mistake is one line that says what is allowed."""

import subprocess
import sys

import pytest

from camera_paths.spec import PATH_KEYS, check_path_spec
from fieldbook.errors import UserError

MINIMAL = {
    "cone": {"kind": "cone", "angle": 20, "distance": 1},
    "orbit": {"kind": "orbit"},
    "spherical": {"kind": "spherical"},
    "spiral": {"kind": "spiral"},
}


@pytest.mark.parametrize("kind", PATH_KEYS)
def test_defaults_fill_every_key_and_checking_twice_changes_nothing(kind):
    given = dict(MINIMAL[kind])
    spec = check_path_spec("p", given)
    assert set(spec) == {"kind", *PATH_KEYS[kind]}
    assert check_path_spec("p", spec) == spec
    assert given == MINIMAL[kind]


@pytest.mark.parametrize("kind", PATH_KEYS)
def test_defaults_are_within_their_own_range(kind):
    spec = check_path_spec("p", MINIMAL[kind])
    explicit = {k: v for k, v in spec.items() if v is not None}
    assert check_path_spec("p", explicit) == spec


def test_whole_numbers_become_the_keys_type():
    spec = check_path_spec("p", {"kind": "cone", "angle": 20, "height": 2, "views": 8.0})
    assert (type(spec["angle"]), type(spec["height"]), type(spec["views"])) == (float, float, int)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "path 'p' has no kind; allowed: cone, orbit, spherical, spiral"),
        ({"kind": "orbits"}, "unknown kind 'orbits'; .*did you mean 'orbit'"),
        ({"kind": "cone", "angle": 1, "distanse": 1}, "no key 'distanse'.*did you mean 'distance'"),
        ({"kind": "cone", "distance": 1}, "angle is missing; it is the half-angle"),
        ({"kind": "cone", "angle": 86, "distance": 1}, "angle is 86; allowed: at least 0, at most 85"),
        ({"kind": "cone", "angle": -1, "distance": 1}, "angle is -1"),
        ({"kind": "cone", "angle": 1}, "exactly one of height and distance, neither given"),
        ({"kind": "cone", "angle": 1, "distance": 1, "height": 1}, "both given"),
        ({"kind": "cone", "angle": 1, "distance": 0}, "distance is 0; allowed: more than 0"),
        ({"kind": "cone", "angle": float("nan"), "distance": 1}, "angle is nan; give a number"),
        ({"kind": "cone", "angle": True, "distance": 1}, "angle is True; give a number"),
        ({"kind": "cone", "angle": "20", "distance": 1}, "angle is '20'; give a number"),
        ({"kind": "cone", "angle": 1, "distance": 1, "views": 2.5}, "views is 2.5; give a whole number"),
        ({"kind": "cone", "angle": 1, "distance": 1, "views": 0}, "views is 0; allowed: at least 1"),
        ({"kind": "cone", "angle": 1, "distance": 1, "roll": "folow"}, "did you mean 'follow'"),
        ({"kind": "cone", "angle": 1, "distance": 1, "roll": 3}, "roll is 3; allowed: fixed, follow"),
        ({"kind": ["cone"]}, "unknown kind"),
        ({"kind": "orbit", "about": "down"}, "about is 'down'; allowed: axis, up"),
        ({"kind": "spiral", "distance": 1, "depth": 1}, "depth 1 must be less than distance 1"),
        ({"kind": "spherical", "distance": 1, "height": -2}, "height -2 must lie within distance 1"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(spec, message):
    with pytest.raises(UserError, match=message) as error:
        check_path_spec("p", spec)
    assert "\n" not in str(error.value)


def test_the_module_needs_only_the_standard_library():
    code = "import sys, camera_paths.spec; print(any(m in sys.modules for m in ('numpy', 'torch', 'av')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
