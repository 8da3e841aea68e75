"""Sequences: their names, and their turns."""

import re

import hypothesis
import pytest
from hypothesis import strategies

from ntm_serve.caller import SESSION_NAME
from ntm_serve.errors import InvalidInput
from ntm_serve.sequences import NAME_MAX, session_name

IDS = strategies.integers(1, 2**64 - 1) | strategies.text(min_size=1, max_size=32)
MODELS = strategies.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"), fullmatch=True)


@pytest.mark.parametrize(
    ("sequence_id", "name"),
    [
        (7, "seq:copy-ff:7"),
        ("7", "seq:copy-ff:~37"),
        ("70", "seq:copy-ff:~370"),
        ("user-7", "seq:copy-ff:user-7"),
        ("a b", "seq:copy-ff:a~20b"),
        ("a~20b", "seq:copy-ff:a~7e20b"),
        ("ü", "seq:copy-ff:~c3~bc"),
        ("a:b", "seq:copy-ff:a~3ab"),
        (2**64 - 1, "seq:copy-ff:18446744073709551615"),
    ],
)
def test_a_name_can_be_read(sequence_id, name):
    assert session_name("copy-ff", sequence_id) == name


@hypothesis.given(strategies.tuples(MODELS, IDS), strategies.tuples(MODELS, IDS))
def test_every_sequence_has_a_name_of_its_own_that_sessions_may_have(one, other):
    assert SESSION_NAME.fullmatch(session_name(*one))
    assert (session_name(*one) == session_name(*other)) == (one == other)


def test_a_name_that_would_be_too_long_ends_with_a_digest():
    one, other = session_name("m", "~" * 100), session_name("m", "~" * 99)
    assert len(one) <= NAME_MAX
    assert re.fullmatch(r"seq:m:~~[0-9a-f]{64}", one)
    assert one != other
    assert len(session_name("m" * 128, 7)) <= NAME_MAX


def test_an_id_that_is_too_long_is_refused():
    with pytest.raises(InvalidInput, match="sequence_id: expected at most 128 bytes"):
        session_name("m", "ü" * 65)
