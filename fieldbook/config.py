"""Read a study's config file, check it against the schema and fill in the defaults.

A mistake becomes one line: where it is, what was given, what is allowed, the nearest valid name.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import jsonschema
import yaml

from fieldbook.errors import UserError, nearest
from fieldbook.files import read_text
from fieldbook.safe_yaml import MOST_VALUES, load_yaml
from fieldbook.shapes import DEEPEST

LARGEST_CONFIG = 1 << 20
"""Bytes of a config file."""
TEMPLATE_KEY = "__use_yte__"
"""With this key Snakemake takes a config for a template and runs the Python code in it."""
SCHEMA_PATH = Path(__file__).parent.parent / "workflow" / "schemas" / "config.schema.yaml"


@functools.cache
def load_schema() -> dict[str, Any]:
    """The study schema; shared, so not to be changed."""
    return yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML config file.

    Raises:
        UserError: The file cannot be read, is not YAML of plain values, or holds no mapping.
    """
    try:
        text = read_text(path, LARGEST_CONFIG)
    except UserError as error:
        raise UserError(f"cannot read the config file: {error}") from None
    config = load_yaml(text, str(path))
    if not isinstance(config, dict):
        given = "is empty" if config is None else f"holds {type(config).__name__}, not a mapping of config keys"
        raise UserError(f"{path} {given}; see config.yaml")
    if TEMPLATE_KEY in config:
        raise UserError(f"{path} is a template ({TEMPLATE_KEY}), whose code Snakemake would run; write plain values")
    return config


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """Check ``config`` against the schema and return a copy with every default filled in.

    Raises:
        UserError: One line on the first mistake, in the order of the file.
    """
    schema = load_schema()
    _check_values(config)
    _check(config, schema, schema, ())
    _check_names(config, schema)
    return _with_defaults(copy.deepcopy(config), schema, schema)


def check_keys(keys: dict[str, Any], of: Literal["study", "scene"]) -> None:
    """Check those keys of a study or of a scene that a stage was given on its command line, as in a config.

    Raises:
        UserError: One line on the first mistake.
    """
    schema = load_schema()
    known = schema["properties"]
    if of == "scene":
        known = schema["$defs"]["scene"]["properties"]
        known = known | {"mask": known["masks"]["additionalProperties"]}  # a mask's stage gets its own source alone
    _check_values(keys)
    for key in keys.keys() & known.keys():
        _check(keys[key], known[key], schema, (key,))


def study_keys(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    """Keys of a study that a stage was given on its command line: checked, with the defaults of the named ones.

    Raises:
        UserError: As ``check_keys``.
    """
    check_keys(keys, "study")
    return _filled(keys, load_schema()["properties"], names)


def scene_keys(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same of a scene."""
    check_keys(keys, "scene")
    return _filled(keys, load_schema()["$defs"]["scene"]["properties"], names)


def _filled(keys: dict[str, Any], known: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    node = {"type": "object", "properties": {name: known[name] for name in names}}
    return _with_defaults(copy.deepcopy(dict(keys)), node, load_schema())


def _check(value: Any, node: dict[str, Any], schema: dict[str, Any], where: tuple[str, ...]) -> None:
    validator = jsonschema.Draft202012Validator(schema).evolve(schema=node)
    error = next(validator.iter_errors(value), None)
    if error is not None:
        error.path.extendleft(reversed(where))
        raise UserError(_explain(error, schema))


def _check_values(config: dict[str, Any]) -> None:
    """Refuse what no key can mean, wherever it stands: such a value would pass as a number or a text."""
    left = MOST_VALUES
    waiting: list[tuple[Any, str, int]] = [(config, "", 0)]
    while waiting:
        value, where, depth = waiting.pop()
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise UserError(f"the config has more than {MOST_VALUES} values, or more than {DEEPEST} levels of them")
        if isinstance(value, dict):
            waiting += [(part, f"{where}.{key}" if where else str(key), depth + 1) for key, part in value.items()]
            odd = next((key for key in value if isinstance(key, str) and not key.isprintable()), None)
            if odd is not None:
                raise UserError(
                    f"{where or 'the config file'}: the key {odd!r} cannot be printed; remove what is odd in it"
                )
        elif isinstance(value, list):
            waiting += [(part, f"{where}.{index}", depth + 1) for index, part in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: {value} is not a finite number; give one")
        elif isinstance(value, str) and not value.replace("\n", "").replace("\t", "").isprintable():
            raise UserError(f"{where}: {value!r} has a character that cannot be printed; remove it")


def _check_names(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Refuse names that a file system without upper and lower case takes for one another, or for a reserved one."""
    known = schema["properties"]
    masks = schema["$defs"]["scene"]["properties"]["masks"]["propertyNames"]["not"]
    _check_apart("study", [config["study"]], known["study"]["not"])
    _check_apart("scenes", config["scenes"], known["scenes"]["propertyNames"]["not"])
    _check_apart("cones", config.get("cones", {}), known["cones"]["propertyNames"]["not"])
    for scene, spec in config["scenes"].items():
        _check_apart(f"scenes.{scene}.masks", spec.get("masks", {}), masks)


def _check_apart(where: str, names: Iterable[str], reserved: dict[str, Any]) -> None:
    taken = {word.casefold(): word for word in reserved.get("enum", [reserved.get("const")])}
    for name in names:
        other = taken.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{where}: {name!r} differs from {other!r} by upper and lower case only; choose another")


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def _with_defaults(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> Any:
    node = _resolve(node, schema)
    if "discriminator" in node:
        node = _branch(value, node)
    if isinstance(value, dict):
        for key, child in node.get("properties", {}).items():
            if key not in value and "default" in child:
                value[key] = copy.deepcopy(child["default"])
        for key in value:
            child = node.get("properties", {}).get(key, node.get("additionalProperties", {}))
            value[key] = _with_defaults(value[key], child or {}, schema)
    elif isinstance(value, list) and "items" in node:
        value = [_with_defaults(item, node["items"], schema) for item in value]
    elif isinstance(value, float) and node.get("type") == "integer":
        value = int(value)  # JSON Schema counts 2.0 as an integer
    return value


def _kinds(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {branch["properties"]["kind"]["const"]: branch for branch in node["oneOf"]}


def _branch(value: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    return _kinds(node)[value["kind"]]


def _explain(error: Any, schema: dict[str, Any]) -> str:
    where = ".".join(str(p) for p in error.absolute_path) or "the config file"
    given, node = error.instance, error.schema
    if error.validator == "additionalProperties":
        key = next(k for k in given if k not in node.get("properties", {}))
        return f"{where}: unknown key {key!r}; {nearest(key, node.get('properties', {}))}"
    if error.validator == "required":
        missing = next(k for k in error.validator_value if k not in given)
        return f"{where}: the key {missing!r} is missing; {_meaning(node, missing)}"
    if error.validator == "oneOf" and "discriminator" in node:
        return _explain_kind(error, where, node, schema)
    if error.validator in ("enum", "const"):
        allowed = error.validator_value if error.validator == "enum" else [error.validator_value]
        return f"{where}: {given!r} is not known; {nearest(given, allowed)}"
    if error.validator == "not" and "enum" in error.validator_value:
        return f"{where}: {given!r} is a reserved name; choose another"
    if error.validator == "anyOf":
        return f"{where}: {given!r} is not allowed; {node.get('description', error.message)}"
    if "propertyNames" in error.absolute_schema_path:
        how = "quote it and use up to 64 letters, digits, - and _"
        return f"{where}: {given!r} cannot be a name here: {error.message}; {how}"
    meaning = f" ({node['description']})" if "description" in node else ""
    return f"{where}: {error.message}{meaning}"


def _explain_kind(error: Any, where: str, node: dict[str, Any], schema: dict[str, Any]) -> str:
    kinds = _kinds(node)
    kind = error.instance.get("kind") if isinstance(error.instance, dict) else None
    if kind not in list(kinds):  # a list compares by equality, so an unhashable value is only unknown
        return f"{where}.kind: {kind!r} is not known; {nearest(str(kind), kinds)}"
    inner = next(jsonschema.Draft202012Validator(kinds[kind]).iter_errors(error.instance))
    inner.path.extendleft(reversed(error.absolute_path))
    return _explain(inner, schema)


def _meaning(node: dict[str, Any], key: str) -> str:
    return node.get("properties", {}).get(key, {}).get("description", "see config.yaml")
