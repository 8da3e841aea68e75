"""A model's config.pbtxt, read with protobuf's own text format. Pure.

Rules of this file: nothing that a config says is passed over in silence: every field that is there is named,
also those that our part of the schema does not know.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ntm_serve.errors import ModelRejected
from ntm_serve.inference.model_config_pb2 import ModelConfig

_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Config:
    """A config, and the dotted names of all fields that it has (`sequence_batching.state.dims`); unknown: those that
    the schema does not know, each once, and the outermost alone.
    """

    model: ModelConfig
    fields: tuple[str, ...]
    unknown: tuple[str, ...]


def read_config(text: str, path: Path) -> Config:
    """A config from the text of its file; `path` is for messages. Raises ModelRejected."""
    model = ModelConfig()
    try:
        text_format.Parse(text, model, allow_unknown_field=True)
    except (text_format.ParseError, ValueError, TypeError, RecursionError) as fault:  # It raises all of them.
        raise ModelRejected(f"{path}: expected protobuf's text format, got: {fault}") from fault
    fields = list(dict.fromkeys(_fields(text)))
    unknown = [place for field in fields if (place := _first_unknown(field)) is not None]
    return Config(model, tuple(".".join(field) for field in fields), tuple(dict.fromkeys(unknown)))


def _fields(text: str) -> Iterator[tuple[str, ...]]:
    """The names of all fields of a text that can be parsed, from the outermost on."""
    open_messages: list[str] = []
    latest = [""]
    for token, following in pairwise([*_tokens(text), ""]):
        if _NAME.fullmatch(token) and following in (":", "{", "<", "["):
            latest[-1] = token
            yield (*open_messages, token)
        elif token in ("{", "<"):
            open_messages.append(latest[-1])
            latest.append("")
        elif token in ("}", ">"):
            open_messages.pop()
            latest.pop()


def _tokens(text: str) -> Iterator[str]:
    tokenizer = text_format.Tokenizer(text.splitlines())
    while not tokenizer.AtEnd():
        yield tokenizer.token
        tokenizer.NextToken()


def _first_unknown(field: tuple[str, ...]) -> str | None:
    kind: Any = ModelConfig.DESCRIPTOR
    for depth, name in enumerate(field, 1):
        if kind is None or name not in kind.fields_by_name:
            return ".".join(field[:depth])
        kind = kind.fields_by_name[name].message_type
    return None
