"""YAML without its traps: a key given twice is an error, ``1e-4`` is a number, and tags, which ask for Python's types,
are refused; so are aliases that make a value hold itself, or a small file stand for a billion values."""

import re
from pathlib import Path
from typing import Any

import yaml

from pirl_core.errors import UserError
from pirl_core.readers.text import LARGEST_WHOLE, check_content, read_text
from pirl_core.readers.yaml_faults import fault, slip

MOST_BYTES = 2**20
MOST_VALUES = 100_000
REMEDY = "give a parameter file with --params, in UTF-8; params.yaml lies in the repository's root"

# YAML 1.1 wants a dot and a sign (1.0e-4); people, numpy and DVC write 1e-4.
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"a tag ({event.tag:.40}); leave it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = int(super().construct_yaml_int(node))
        if abs(value) > LARGEST_WHOLE:
            raise yaml.constructor.ConstructorError(None, None, "a number of more than 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, value_node in node.value:
            _refuse_slips(key_node, value_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a word; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice; remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_slips(key: yaml.Node, value: yaml.Node) -> None:
    """``key:value`` without its space is a text of its own: the value of the key above, or a key without a value."""
    bare = key if value.start_mark.line == key.start_mark.line and not value.value else value
    below = bare is key or value.start_mark.line > key.end_mark.line
    if below and isinstance(bare, yaml.ScalarNode) and bare.style is None and (said := slip(bare.value)):
        raise yaml.constructor.ConstructorError(None, None, said, bare.start_mark)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path, place: str = "", remedy: str = REMEDY) -> dict[str, Any]:
    """The mapping in ``path``, which messages call ``place`` if given. Raises UserError, naming the line, for anything
    else; remedy: for a file that cannot be read."""
    place = place or str(path)
    content = parse_yaml(read_text(path, remedy, MOST_BYTES), place)
    if not isinstance(content, dict):
        raise UserError(f"{place}: is {'empty' if content is None else 'no mapping'}; it must hold 'key: value' lines")
    return content


def parse_yaml(text: str, place: str) -> Any:
    """What ``text`` says. ``place``: where it stands, for the message. Raises UserError, naming the line."""
    try:
        content = yaml.load(text, _Loader)
        check_content(content, MOST_VALUES)
    except yaml.MarkedYAMLError as error:
        line, said = fault(text, error)
        where = place if line is None else f"{place} line {line}"
        raise UserError(f"{where}: {_one_line(said)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid YAML: {_one_line(str(error))}") from None
    return content


def _one_line(text: str) -> str:
    return " ".join(text.split())
