"""Dotted overrides reach every depth, keep types, and name the nearest field when they miss."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fieldbook.errors import UserError
from methods.runner.overrides import apply_overrides


@dataclass
class Inner:
    rate: float = 0.1
    steps: int = 3
    mode: Literal["off", "on"] = "off"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    limit: Optional[int] = None  # noqa: UP045 - nerfstudio's configs spell it so
    flag: bool = False
    number_or_text: Union[float, str] = 0.0  # noqa: UP007
    rates: list[float] = field(default_factory=list)
    planes: dict[str, float] = field(default_factory=lambda: {"near": 1.0})
    nets: list[dict] = field(default_factory=list)
    folder: Path = Path()
    _target: type = dict


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    groups: dict[str, Any] = field(default_factory=lambda: {"fields": {"optimizer": Inner(), "scheduler": None}})
    name: str = "a"


@given(rate=st.floats(allow_nan=False), steps=st.integers())
def test_values_land_where_the_key_says_and_nowhere_else(rate: float, steps: int):
    config, untouched = Outer(), Outer()
    apply_overrides(config, {"inner.rate": rate, "groups.fields.optimizer.steps": steps})
    assert (config.inner.rate, config.groups["fields"]["optimizer"].steps) == (rate, steps)
    config.inner.rate = untouched.inner.rate
    config.groups["fields"]["optimizer"].steps = untouched.groups["fields"]["optimizer"].steps
    assert config == untouched


def test_lists_become_tuples_integers_floats_and_strings_paths():
    config = Outer()
    apply_overrides(
        config,
        {"inner.sizes": [4, 5, 6], "inner.pair": [3, 4], "inner.rate": 2, "inner.folder": "a/b", "inner.limit": 7},
    )
    inner = config.inner
    assert (inner.sizes, inner.pair, inner.folder, inner.limit) == ((4, 5, 6), (3, 4.0), Path("a/b"), 7)
    assert isinstance(inner.rate, float)
    assert isinstance(inner.pair[1], float)


@given(
    value=st.floats(min_value=1e-30, max_value=1e30), form=st.sampled_from(["{:.0e}", "{:.0E}", "+{:.0e}", "-{:.0e}"])
)
def test_a_number_that_yaml_reads_as_a_string_arrives_as_the_number(value: float, form: str):
    text = form.format(value)
    loaded = yaml.safe_load(
        f"inner.rate: {text}\ninner.limit: 2e3\ninner.pair: [1e2, {text}]\ninner.rates: [{text}, 1]"
    )
    assert isinstance(loaded["inner.rate"], str)
    config = Outer()
    apply_overrides(config, loaded)
    inner = config.inner
    assert (inner.rate, inner.limit, inner.pair, inner.rates) == (
        float(text),
        2000,
        (100, float(text)),
        [float(text), 1],
    )
    assert isinstance(inner.limit, int)


def test_a_text_that_could_be_a_number_stays_one_where_texts_are_welcome():
    config = Outer()
    apply_overrides(config, {"name": "1e-3", "inner.number_or_text": "1e-3"})
    assert (config.name, config.inner.number_or_text) == ("1e-3", "1e-3")


def test_a_list_of_dicts_is_copied_as_plain_ones():
    class Keys(dict[str, Any]):
        pass

    given_nets, config = [Keys(size=3)], Outer()
    apply_overrides(config, {"inner.nets": given_nets})
    config.inner.nets[0]["size"] = 4
    assert type(config.inner.nets[0]) is dict
    assert given_nets == [{"size": 3}]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("inner.rate", "fast", "float"),
        ("inner.rate", "1e", "float"),
        ("inner.rate", "e3", "float"),
        ("inner.rate", "1e-3 ", "float"),
        ("inner.rate", "0.5", "float"),
        ("inner.rate", "nan", "float"),
        ("inner.rate", "1e999", "float"),
        ("inner.steps", "3", "int"),
        ("inner.steps", "1e-3", "int"),
        ("inner.rates", ["1e-3", "x"], "list"),
        ("inner.planes", {"near": "close"}, "dict"),
        ("inner.steps", 1.5, "int"),
        ("inner.steps", True, "int"),
        ("inner.flag", 1, "bool"),
        ("inner.mode", "maybe", "'off', 'on'"),
        ("inner.sizes", 3, "tuple"),
        ("inner.sizes", [1, "x"], "tuple"),
        ("inner.pair", [1, 2, 3], "tuple"),
        ("inner.limit", "x", "int"),
        ("name", 3, "str"),
        ("inner", 3, "Inner"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_is_allowed(key: str, value: Any, allowed: str):
    with pytest.raises(UserError, match=f"override '{key}': got .*allowed: .*{allowed}"):
        apply_overrides(Outer(), {key: value})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("iner.rate", "the method's config has no field 'iner'.*did you mean 'inner'"),
        ("inner.ratte", "inner has no field 'ratte'.*did you mean 'rate'"),
        ("groups.field.optimizer.rate", "groups has no field 'field'.*did you mean 'fields'"),
        ("inner.rate.x", "inner.rate has no fields below it"),
        ("inner._target", "no field '_target'"),
    ],
)
def test_an_unknown_key_names_the_nearest_field_at_its_level(key: str, hint: str):
    with pytest.raises(UserError, match=hint):
        apply_overrides(Outer(), {key: 1})
