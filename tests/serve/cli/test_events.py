"""Events: what is read as one, what is refused, and that nothing waits."""

import io
import os

import numpy as np
import pytest

from ntm_serve.cli.events import LINE_BYTES_MAX, Lines, read_events, sources_of
from ntm_serve.cli.pipe import bounds
from ntm_serve.errors import InvalidInput, NtmServeError, SettingsFault
from ntm_serve.spec import TensorSpec

X = TensorSpec("x", "float32", (2,))
ONE = TensorSpec("one", "float32", (1,))
COUNT = TensorSpec("count", "uint8", ())


@pytest.fixture
def reading(tmp_path):
    """Reads a text as a file of events."""

    def read(text, specs=(X,), fields=(), form="jsonl", **options):
        path = tmp_path / "events"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with io.FileIO(path) as file:
            sources = sources_of(specs, fields, form)
            return list(read_events(Lines(file), sources, form=form, key="id", batch_max=100, **options))

    return read


def test_lines_of_json_are_events(reading):
    (events,) = reading('{"id": "a", "x": [1, 2]}\n\n{"x": [3, 4.5], "id": 7, "more": null}')
    assert (events.numbers, events.keys, events.rows, events.errors) == ([1, 3], ["a", "7"], [0, 1], {})
    assert (events.xs["x"].dtype, events.xs["x"].tolist()) == (np.float32, [[1, 2], [3, 4.5]])


def test_rows_of_csv_are_events(reading):
    (events,) = reading('\ufeffx_1,note,id,x_0\r\n2,"two\r\nlines",a,1\r\n4.5,,b,3\r\n', form="csv")
    assert (events.numbers, events.keys) == ([2, 4], ["a", "b"])
    assert events.xs["x"].tolist() == [[1, 2], [3, 4.5]]


def test_inputs_come_from_the_fields_that_are_named(reading):
    text = '{"id": "a", "t": 1, "h": 2, "n": 3, "v": 4}'
    (events,) = reading(text, (X, COUNT, ONE), ["x=t,h", "count=n", "one=v"])
    assert {name: array.tolist() for name, array in events.xs.items()} == {"x": [[1, 2]], "count": [3], "one": [[4]]}
    (events,) = reading("id,t,h,one\na,1,2,3\n", (X, ONE), ["x=t,h"], "csv")
    assert {name: array.tolist() for name, array in events.xs.items()} == {"x": [[1, 2]], "one": [[3]]}


@pytest.mark.parametrize(
    ("fields", "form", "message"),
    [
        (["z=a"], "jsonl", r"expected INPUT=FIELD or INPUT=FIELD,FIELD,... with an input of \['x'\], got 'z=a'"),
        (["x"], "jsonl", "got 'x'"),
        (["x=a,b,c"], "jsonl", r"x: expected 2 fields for float32\[2\], got 3"),
        (["x=a"], "csv", r"x: expected 2 fields for float32\[2\], got 1"),
    ],
)
def test_fields_that_make_no_input_are_refused(fields, form, message):
    with pytest.raises(SettingsFault, match=message):
        sources_of([X], fields, form)


KEY = "id: expected 1 to 128 of A-Z a-z 0-9 . _ ~ : @ + - or a whole number as key, "

WRONG_JSON = [
    ("not json", "event: expected a JSON object, got: Expecting value"),
    ("[1, 2]", "event: expected a JSON object, got [1, 2]"),
    ("[" * 100_000, "event: expected a JSON object, got: "),
    ('{"x": [1, 2]}', "id: expected a field of that name, got ['x']"),
    ('{"id": null, "x": [1, 2]}', f"{KEY}got null"),
    ('{"id": true, "x": [1, 2]}', f"{KEY}got true"),
    ('{"id": "", "x": [1, 2]}', f'{KEY}got ""'),
    ('{"id": "a b", "x": [1, 2]}', f'{KEY}got "a b"'),
    ('{"id": "\\ud800", "x": [1, 2]}', f'{KEY}got "\\ud800"'),
    ('{"id": "a"}', "x: expected a field of that name, got ['id']"),
    ('{"id": "a", "x": [1, 2, 3]}', "x: expected float32[2], got int64[3]"),
    ('{"id": "a", "x": 1}', "x: expected float32[2], got int64[]"),
    ('{"id": "a", "x": [[1], [2]]}', "x: expected float32[2], got [[1], [2]], which does not fit"),
    ('{"id": "a", "x": ["1", "2"]}', "x: expected float32[2], got <U1[2]"),
    ('{"id": "a", "x": [1, [2]]}', "x: expected float32[2], got no such array"),
    ('{"id": "a", "x": [1, NaN]}', "x: expected float32[2], got a number that is not finite"),
    ('{"id": "a", "x": [1, 1e300]}', "x: expected float32[2], got [1, 1e+300], which does not fit"),
    ('{"id": "a", "x": {"y": 1}}', "x: expected float32[2], got object[]"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_JSON)
def test_what_is_no_event_is_told_in_its_place(reading, line, message):
    (events,) = reading(f'{{"id": "a", "x": [1, 2]}}\n{line}\n{{"id": "b", "x": [3, 4]}}\n')
    assert events.errors[1].message.startswith(message)
    assert (list(events.errors), events.rows, events.keys[2]) == ([1], [0, 2], "b")
    assert events.xs["x"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,1", "event: expected 3 columns, got 2"),
        ("a,1,two", "x_1: expected a number for float32, got 'two'"),
        ("a,1,", "x_1: expected a number for float32, got ''"),
        ("a,1,inf", "x_0,x_1: expected float32[2], got a number that is not finite"),
        ('a,1,"2"3', "event: expected a row of CSV, got: "),
    ],
)
def test_what_is_no_row_of_csv_is_told_in_its_place(reading, line, message):
    (events,) = reading(f"id,x_0,x_1\na,1,2\n{line}\nb,3,4\n", form="csv")
    assert events.errors[1].message.startswith(message)
    assert (events.numbers, events.rows) == ([2, 3, 4], [0, 2])


@pytest.mark.parametrize(("value", "taken"), [("255", True), ("256", False), ("-1", False), ("1.5", False)])
def test_whole_numbers_are_taken_whole(reading, value, taken):
    (events,) = reading(f'{{"id": "a", "count": {value}}}', (COUNT,))
    assert (events.rows == [0]) is taken


def test_bytes_that_are_no_text_are_no_reason_to_stop(reading):
    (events,) = reading(b'{"id": "\xff", "x": [1, 2]}\n{"id": "a", "x": [1, 2], "note": "\xfe"}\n')
    assert (events.keys[1], list(events.errors)) == ("a", [0])


def test_columns_that_are_not_there_are_told_at_once(reading):
    with pytest.raises(InvalidInput, match=r"line 1: expected columns \['x_0', 'x_1'\], got \['id', 'x'\]"):
        reading("id,x\na,1\n", form="csv")
    assert reading("", form="jsonl") == []


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(reading):
    with pytest.raises(InvalidInput, match=f"line 2: expected at most {LINE_BYTES_MAX} bytes"):
        reading(b"\n" + b"x" * (2 * LINE_BYTES_MAX))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_what_an_earlier_run_has_done_is_passed_over(reading, form):
    text = {
        "jsonl": "".join(f'{{"id": "k{n}", "x": [1, 2]}}\n' for n in range(1, 9)),
        "csv": "id,x_0,x_1\n" + "".join(f"k{n},1,2\n" for n in range(2, 9)),
    }[form]
    shown = []
    known = {7: NtmServeError("mine")}
    (events,) = reading(text, form=form, after=5, known=known, at_after=shown.append)
    assert (events.numbers, events.keys, shown) == ([6, 7, 8], ["k6", "k7", "k8"], ["k5"])
    assert (events.errors, events.rows) == ({1: known[7]}, [0, 2])
    with pytest.raises(InvalidInput, match="input: expected at least 9 lines, as the output has them, got 8"):
        reading(text, form=form, after=9)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_event_does_not_wait_for_the_next(form):
    read_end, write_end = os.pipe()
    lines = {"jsonl": '{"id": "a", "x": [1, 2]}\n', "csv": "a,1,2\n"}[form]
    with io.FileIO(read_end) as file, io.FileIO(write_end, "w") as writer:
        writer.write(b"id,x_0,x_1\n" if form == "csv" else b"")
        events = read_events(Lines(file), sources_of([X], [], form), form=form, key="id", batch_max=100)
        for turn in range(3):
            writer.write((lines * (turn + 1)).encode())
            assert len(next(events)) == turn + 1


def test_batches_are_as_large_as_they_may_be(tmp_path):
    path = tmp_path / "events"
    path.write_text('{"id": "a", "x": [1, 2]}\n' * 50_000)
    with io.FileIO(path) as file:
        batches = read_events(Lines(file), sources_of([X], [], "jsonl"), form="jsonl", key="id", batch_max=1024)
        assert {len(events) for events in batches} == {1024, 50_000 % 1024}


@pytest.mark.parametrize("numbers", [1, 10, 1000, 100_000, 10_000_000])
def test_what_is_unwritten_fits_into_a_reply_window(numbers):
    spec = TensorSpec("x", "float32", (numbers,))
    events, rounds = bounds([spec], 1024)
    assert 1 <= events <= 1024
    assert 1 <= rounds <= 4
    # A single message is kept whatever its size.
    assert (rounds + 1) * events * spec.nbytes <= 1 << 19 or (events, rounds) == (1, 1)
