"""Read a study's config file, check it against the schema and fill in the defaults.

A mistake becomes one line: where it is, what was given, what is allowed, the nearest valid name.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from fieldbook.errors import UserError, nearest

SCHEMA_PATH = Path(__file__).parent.parent / "workflow" / "schemas" / "config.schema.yaml"


def load_schema() -> dict[str, Any]:
    """The study schema."""
    return yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML config file.

    Raises:
        UserError: The file is missing, is not YAML, or holds no mapping.
    """
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the config file {path}: {error}") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UserError(f"{path} is not valid YAML{line}: {getattr(error, 'problem', error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds {type(config).__name__}, not a mapping of config keys; see config.yaml")
    return config


def validate(config: dict[str, Any]) -> dict[str, Any]:
    """Check ``config`` against the schema and return a copy with every default filled in.

    Raises:
        UserError: One line on the first mistake, in the order of the file.
    """
    schema = load_schema()
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if errors:
        raise UserError(_explain(errors[0], schema))
    return _with_defaults(copy.deepcopy(config), schema, schema)


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
        return f"{where}: {given!r} cannot be a name here: {error.message}; quote it and use letters, digits, - and _"
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
