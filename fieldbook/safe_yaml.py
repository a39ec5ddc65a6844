"""YAML as a config needs it: plain values, every key once, bounded in size and depth."""

from __future__ import annotations

from typing import Any

import yaml

from fieldbook.errors import UserError
from fieldbook.shapes import DEEPEST

MOST_VALUES = 100_000
"""Of a file, aliases written out: nine lines of aliases stand for a billion values."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which knows no Python objects; a key given twice is refused, not silently overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        text: One document.
        where: The file, for messages.

    Raises:
        UserError: It is not YAML, asks for more than plain values, refers to itself, or is too large or too deep.
    """
    try:
        loader = _Loader(text)
        try:
            node: Any = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise UserError(f"{where} is not valid YAML: it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{where} is not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # What the constructors of dates, numbers and booleans raise for a text that is none.
        raise UserError(f"{where} is not valid YAML: a value does not fit its type ({error})") from None


def _check_size(root: yaml.Node) -> None:
    """Count a document's values as if its aliases were written out."""
    sizes: dict[int, int] = {}

    def size(node: Any, depth: int) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise yaml.YAMLError("an alias stands within what it stands for")
        if depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels")
        if known is None:
            sizes[id(node)] = 0  # until it is known
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = known = 1 + sum(size(part, depth + 1) for part in parts)
        if known > MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values; write fewer, or fewer aliases")
        return known

    size(root, 0)
