"""`ntm-serve pipe`: events of many keys, each through the session of its key, in the order of the file.

A connection that breaks and a server that is away for a while are the group's to heal. What makes it safe to interrupt:
outputs are written in the order of the events; every step has its number; and no more is on its way than a session's
reply window on the server answers again.
"""

import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ntm_serve.cli.arrays import expect_outputs, read_sizes, read_state
from ntm_serve.cli.clients import client_of
from ntm_serve.cli.events import Events, Format, Lines, read_events, sources_of
from ntm_serve.cli.meter import Meter
from ntm_serve.cli.options import Connection, InitialStateFile, OutputNames, SizeWords, connecting
from ntm_serve.cli.records import LineWriter, Record, Sink, StandardOutput
from ntm_serve.client import Answers, Group, RetryPolicy
from ntm_serve.client.conversion import asked_outputs
from ntm_serve.client.healing import RETRY_DEFAULT
from ntm_serve.client.roster import GO_ON_AFTER
from ntm_serve.errors import InvalidInput, NtmServeError, SessionLost, SettingsFault, StepConflict
from ntm_serve.spec import Array, TensorSpec
from ntm_serve.wire import error_of

# What a session has unwritten must lie in its reply window, or a later run could not ask for it again: that is
# 64 messages and 1 MiB unless the server was told otherwise. A round of 1,024 events of one key is at most
# eleven messages, and one round more than these is unwritten.
ROUNDS_IN_FLIGHT_MAX = 4
BATCH_MAX = 1024
UNWRITTEN_BYTES_MAX = 512 << 10

SOME_FAILED, INTERRUPTED = 3, 130


class OnError(StrEnum):
    """What an event that fails does to the run."""

    STOP = "stop"
    SKIP = "skip"


class FormatName(StrEnum):
    """How events and outputs are written."""

    JSONL = "jsonl"
    CSV = "csv"


@connecting
def pipe(
    model: Annotated[str, typer.Argument(help="the model's name, or name/version")],
    key: Annotated[str, typer.Option("--key", "-k", help="the field that says whose event it is: its session's id")],
    input: Annotated[  # noqa: A002 It is what the flag is called.
        Path | None, typer.Option("--input", "-i", help="file of events; standard input if not given")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file of outputs; standard output if not given")
    ] = None,
    format: Annotated[  # noqa: A002 It is what the flag is called.
        FormatName | None, typer.Option(help="of both; if not given what the files' names say, else jsonl")
    ] = None,
    input_field: Annotated[
        list[str] | None,
        typer.Option(help="INPUT=FIELD, or INPUT=FIELD,FIELD,... for a vector; if not given the field of that name"),
    ] = None,
    prefix: Annotated[str, typer.Option(help="what a session's id has before the key")] = "",
    on_error: Annotated[
        OnError, typer.Option(help="stop at an event that fails, or write its error and go on")
    ] = OnError.STOP,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run that wrote --output stopped")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="begin anew where --output is there already")] = False,
    batch: Annotated[int, typer.Option(min=1, max=BATCH_MAX, help="most events sent together")] = BATCH_MAX,
    close: Annotated[bool, typer.Option("--close", help="close the sessions at the end; else they stay open")] = False,
    patience_s: Annotated[
        float, typer.Option("--patience-s", min=0.0, help="how long a server that is away is waited for; 0: not at all")
    ] = RETRY_DEFAULT.patience_s,
    initial_state: InitialStateFile = None,
    size: SizeWords = None,
    output_name: OutputNames = None,
    *,
    connection: Connection,
) -> None:
    """Send events, lines of JSON or CSV, each through the session of its key; write what they gave, in their order.

    Exit status 0: every event has its outputs; 1: stopped at an error; 3: some events failed and were skipped;
    130: interrupted. After 1 and 130, --resume goes on, and makes no step twice.
    """
    if resume and output is None:
        raise SettingsFault("resume: expected --output, the file that says how far the run came, got none")
    if resume and overwrite:
        raise SettingsFault("resume, overwrite: expected one of them: go on after the outputs, or write anew, got both")
    form_in, form_out = _format_of(format, input, output), _format_of(format, output, input)
    begins_with, sizes, names = read_state(initial_state), read_sizes(size or []), output_name or []
    name, _, version = model.partition("/")
    about = {"model": name, "version": version, "prefix": prefix, "key": key}
    if names:
        about["outputs"] = ",".join(names)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(
            client_of(
                connection, retry=RetryPolicy(patience_s=patience_s, waits_at_limits=True) if patience_s else None
            )
        )
        info = client.model(name, version)
        if info.fault is not None:
            raise info.fault
        expect_outputs(info.outputs, names)
        sources = sources_of(info.inputs, input_field or [], form_in)
        lines = Lines(stack.enter_context(_opened(input)))
        writer = LineWriter(form_out, asked_outputs(info.outputs, names))
        sink: Sink
        if output is None:
            sink = StandardOutput(writer)
        else:
            sink = stack.enter_context(
                Record(output, writer, form_out, resume=resume, overwrite=overwrite, about=about)
            )
        progress = sink.progress
        group = client.group(
            name,
            version=version,
            prefix=prefix,
            next_steps=progress.next_steps,
            initial_state=begins_with,
            sizes=sizes,
            outputs=names,
        )
        meter = stack.enter_context(Meter(f"{info.name}/{info.version}", input.stat().st_size if input else None))
        stack.enter_context(_ending_at_once(meter, "; go on with --resume" if output else ""))
        run = _Run(group, sink, writer, meter, skip=on_error is OnError.SKIP)
        batch_max, rounds_max = bounds((*info.inputs, *info.outputs), batch)
        events = read_events(
            lines, sources, form=form_in, key=key, batch_max=batch_max, after=progress.line,
            known=progress.failed, at_after=run.expect_key,
        )  # fmt: skip
        try:
            run.through(events, lines, rounds_max)
        except BaseException:
            # Nothing is waited for: a later run asks again for what was on its way.
            client.close()
            raise
        if close:
            group.close()
    if meter.failed:
        raise typer.Exit(SOME_FAILED)


def bounds(specs: Sequence[TensorSpec], batch: int) -> tuple[int, int]:
    """How many events a round may have, and how many rounds may be on their way, so that a session's reply window
    holds what it has unwritten, were all of it its own. specs: of inputs and outputs.
    """
    step_bytes = max(1, sum(spec.nbytes for spec in specs))
    rounds = min(ROUNDS_IN_FLIGHT_MAX, max(1, UNWRITTEN_BYTES_MAX // step_bytes - 1))
    return max(1, min(batch, UNWRITTEN_BYTES_MAX // ((rounds + 1) * step_bytes))), rounds


@contextlib.contextmanager
def _ending_at_once(meter: Meter, told: str) -> Iterator[None]:
    """Ctrl-C ends the process where it stands, as kill -9 may at any time: raised inside a call, KeyboardInterrupt
    can leave locks of gRPC's that it waits for itself afterwards.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        meter.stop()
        print(f"ntm-serve: interrupted{told}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """Events on their way. Events are read and sent by one thread, and what they gave is written by another."""

    def __init__(self, group: Group, sink: Sink, writer: LineWriter, meter: Meter, *, skip: bool) -> None:
        self._group = group
        self._sink = sink
        self._writer = writer
        self._meter = meter
        self._skip = skip
        # Sent and not yet written, and how many were written before.
        self._sent: deque[Events] = deque()
        self._written = 0

    def through(self, events: Iterator[Events], lines: Lines, rounds_max: int) -> None:
        """Send all events, and write what they gave. Raises the error of the event that stops the run."""
        rounds = self._group.stream_rows(
            self._rounds(events), in_flight_max=rounds_max, go_on=self._skip, on_failure=self._note
        )
        for answers in rounds:
            self._write(self._sent[0], answers, lines.bytes_read)
            self._sent.popleft()
            self._written += 1

    def expect_key(self, key: str) -> None:
        """Refuse another input than that of the run that is resumed. Raises InvalidInput."""
        progress = self._sink.progress
        if key != progress.key:
            raise InvalidInput(
                f"line {progress.line}: expected an event of {progress.key!r}, as the output has it, got one of "
                f"{key!r}: is it the same input?"
            )

    def _rounds(self, events: Iterator[Events]) -> Iterator[tuple[list[str], dict[str, Array]]]:
        for one in events:
            keys, xs = [one.keys[place] for place in one.rows], one.xs
            if one.errors and not self._skip:
                # What follows an event that stops the run is not sent: it would take that event's number.
                first = min(one.errors)
                count = sum(place < first for place in one.rows)
                keys, xs = keys[:count], {name: array[:count] for name, array in xs.items()}
            fresh = [key for key in dict.fromkeys(keys) if key not in self._group]
            if fresh and self._sink.journal is not None:
                stands = self._group.open(fresh)
                self._sink.journal.took_up({key: step for key, step in stands.items() if isinstance(step, int)})
            self._sent.append(one)
            yield keys, xs
            if one.errors and not self._skip:
                return

    def _note(self, number: int, row: int, error: NtmServeError) -> None:
        """An event failed, and its session will make the step of that number with another one."""
        events = self._sent[number - self._written]
        if self._sink.journal is not None and not _stops(error):
            self._sink.journal.failed(events.numbers[events.rows[row]], error)

    def _write(self, events: Events, answers: Answers, bytes_read: int) -> None:
        errors = events.errors | {events.rows[row]: error for row, error in answers.errors.items()}
        until = min((place for place, error in errors.items() if not self._skip or _stops(error)), default=len(events))
        self._sink.write(self._writer.lines(events, answers, errors, until=until))
        failed = sum(place < until for place in errors)
        self._meter.count(until, failed, sessions=len(self._group), bytes_read=bytes_read)
        if until < len(events):
            error = errors[until]
            raise error_of(
                reason=error.reason,
                message=f"line {events.numbers[until]}: {error.message}",
                metadata=error.fields,
                retry_after_s=None,
            )


def _stops(error: NtmServeError) -> bool:
    """Whether it is no fault of the event, so that another run may have its outputs."""
    return not isinstance(error, GO_ON_AFTER) or isinstance(error, (SessionLost, StepConflict))


def _format_of(given: FormatName | None, path: Path | None, other: Path | None) -> Format:
    if given is not None:
        return "csv" if given is FormatName.CSV else "jsonl"
    for one in (path, other):
        if one is not None:
            return "csv" if one.suffix.lower() == ".csv" else "jsonl"
    return "jsonl"


def _opened(path: Path | None) -> FileIO:
    try:
        return FileIO(sys.stdin.fileno() if path is None else str(path), closefd=path is not None)
    except OSError as fault:
        raise InvalidInput(f"input: expected a file of events, got {path}: {fault.strerror}") from fault
