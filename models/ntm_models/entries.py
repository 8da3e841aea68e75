"""From a table of a TOML file to a frozen dataclass.

Rules of this file: the dataclass is the schema; an entry that is missing, unknown or of another type
is refused by its path ("training.steps"); what a dataclass says in `__post_init__` is given its path too.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

_KINDS = {int: "an integer", float: "a number", str: "a string", dict: "a table", tuple: "a list"}


def record_of(kind: type[Record], entries: object, *, at: str = "") -> Record:
    """The dataclass `kind` from its entries; `at` is the table's path. Raises ValueError."""
    if not isinstance(entries, Mapping):
        raise ValueError(f"{at}: expected a table, got {entries!r}")
    declared = get_type_hints(kind)
    own = fields(kind)  # type: ignore[arg-type]  # A type variable cannot be bound to "a dataclass".
    hints = {field.name: declared[field.name] for field in own}
    for name in entries:
        if name not in hints:
            raise ValueError(f"{_path(at, name)}: unknown; expected one of {', '.join(hints)}")
    values = {}
    for field in own:
        if field.name in entries:
            values[field.name] = _value_of(hints[field.name], entries[field.name], at=_path(at, field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{_path(at, field.name)}: expected {_described(hints[field.name])}, got nothing")
    try:
        return kind(**values)
    except ValueError as fault:
        raise ValueError(_path(at, str(fault))) from fault


def _value_of(hint: Any, given: object, *, at: str) -> object:
    """An entry's value as its field's type wants it."""
    if get_origin(hint) is UnionType:  # `float | None`: TOML has no None, so what is given is the other.
        hint = get_args(hint)[0]
    if is_dataclass(hint) and isinstance(hint, type):
        return record_of(hint, given, at=at)
    if get_origin(hint) is tuple and isinstance(given, list):
        return tuple(_value_of(get_args(hint)[0], item, at=f"{at}[{i}]") for i, item in enumerate(given))
    # TOML writes a whole float as an integer. `type` and not isinstance: to Python, true is an integer.
    if hint is float and type(given) is int:
        return float(given)
    if type(given) is not (get_origin(hint) or hint):
        raise ValueError(f"{at}: expected {_described(hint)}, got {given!r}")
    return given


def _described(hint: Any) -> str:
    return _KINDS.get(get_origin(hint) or hint, "a table")


def _path(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)
