"""`ntm-serve pipe`: what it writes, what it refuses, and that no interruption skips or doubles an event."""

import contextlib
import csv
import json
import os
import signal
import subprocess

import numpy as np
import pytest

from benchmarks.chaos.proxy import Chaos, ChaosProxy
from ntm_serve.client import Client
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.testing.running_sum import FAILING_INPUT

from .conftest import SCRIPT, environment

FREE = ("--port", "0", "--http-port", "0")


@pytest.fixture
def sums():
    """A server of running sums."""
    with test_server([RunningSum()]) as server:
        yield server


@pytest.fixture
def pipe(cli, sums):
    """Runs pipe in this process, against `sums`."""

    def run(*arguments):
        return cli("pipe", "running-sum", "--key", "id", "--server", sums.target, *arguments)

    return run


@pytest.fixture
def client(sums):
    with Client(sums.target) as client:
        yield client


def write_events(path, events):
    path.write_text("".join(json.dumps({"id": key, "x": x}) + "\n" for key, x in events))
    return path


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sums_of(events, *, first_line=1):
    """What pipe writes for events of which none fails."""
    total, number, lines = {}, {}, []
    for line, (key, x) in enumerate(events, start=first_line):
        total[key] = total.get(key, 0) + x
        lines.append({"line": line, "key": key, "step": number.get(key, 0), "outputs": {"y": [total[key]]}})
        number[key] = number.get(key, 0) + 1
    return lines


def many(count, keys=7):
    return [(f"d{number * number % keys}", number % 5) for number in range(count)]


def process(*arguments, **options):
    return subprocess.Popen(
        [SCRIPT, "pipe", "running-sum", "--key", "id", *map(str, arguments)], env=environment(),
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def ended(running):
    """The process is over: its status, and what it told on stderr."""
    _, err = running.communicate(timeout=60)
    return running.returncode, err.decode()


# What it writes


@pytest.mark.parametrize("batch", [1, 3, 1024])
def test_each_event_goes_through_the_session_of_its_key(pipe, client, tmp_path, batch):
    events = many(500)
    ran = pipe("-i", write_events(tmp_path / "x.jsonl", events), "-o", tmp_path / "y.jsonl", "--batch", batch)
    assert (ran.status, ran.out) == (0, "")
    assert ran.err.startswith("500 events of 4 sessions, 0 failed, ")
    assert written(tmp_path / "y.jsonl") == sums_of(events)
    assert client.session_info("d0").next_step == sum(key == "d0" for key, _ in events)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["x.jsonl", "y.jsonl"]


def test_the_bits_are_those_of_a_session(cli, served, tmp_path):
    xs = np.random.default_rng(0).integers(0, 2, (60, 9)).astype(np.float32)
    lines = [json.dumps({"id": f"bits-{number % 3}", "x": x.tolist()}) for number, x in enumerate(xs)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    ran = cli("pipe", "copy-ff/1", "-k", "id", "-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--close")
    assert ran.status == 0
    with Client(served.target) as client:
        for number in range(3):
            with client.session("copy-ff") as session:
                y = session.step(xs[number::3])
            ours = [line["outputs"]["y"] for line in written(tmp_path / "y.jsonl")[number::3]]
            assert np.array(ours, np.float32).tobytes() == y.tobytes()
        assert not [info for info in client.sessions() if info.session_id.startswith("bits-")]


def test_csv_is_read_and_written_by_the_names_of_the_files(pipe, tmp_path):
    (tmp_path / "x.csv").write_text("when,id,reading\n1,a,1\n2,b,2.5\n3,a,3\n")
    ran = pipe("-i", tmp_path / "x.csv", "-o", tmp_path / "y.csv", "--input-field", "x=reading")
    assert ran.status == 0
    assert (tmp_path / "y.csv").read_text() == "line,key,step,y,error\n2,a,0,1.0,\n3,b,0,2.5,\n4,a,1,4.0,\n"
    assert pipe("-i", tmp_path / "x.csv", "-o", tmp_path / "y.jsonl", "--input-field", "x=reading").status == 0
    assert written(tmp_path / "y.jsonl")[0] == {"line": 2, "key": "a", "step": 2, "outputs": {"y": [5]}}


def test_sessions_stay_open_and_the_next_file_goes_on(pipe, tmp_path):
    for turn in range(2):
        write_events(tmp_path / "x.jsonl", [("a", 1), ("a", 1)])
        files = ("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--overwrite")
        assert pipe(*files, "--prefix", "plant-").status == 0
        assert [line["step"] for line in written(tmp_path / "y.jsonl")] == [2 * turn, 2 * turn + 1]


def test_an_output_comes_while_the_input_is_still_open(sums):
    running = process("--server", sums.target, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for turn in range(1, 4):
        running.stdin.write(b'{"id": "a", "x": 1}\n')
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["outputs"] == {"y": [turn]}
    running.stdin.close()
    running.stdin = None
    assert ended(running)[0] == 0
    running.stdout.close()


def test_a_reader_that_leaves_ends_it_with_one_line(sums, tmp_path):
    write_events(tmp_path / "x.jsonl", many(20_000))
    running = process("--server", sums.target, "-i", tmp_path / "x.jsonl", stdout=subprocess.PIPE)
    running.stdout.readline()
    running.stdout.close()
    running.stdout = None
    status, err = ended(running)
    assert status == 1
    assert err.splitlines()[-1].startswith("ntm-serve: output: expected to write ")
    assert "Traceback" not in err


# What fails


def test_it_stops_at_an_event_that_fails_and_goes_on_once_it_is_mended(pipe, client, tmp_path):
    events = many(300)
    wrong = list(events)
    wrong[123] = (events[123][0], FAILING_INPUT)
    ran = pipe("-i", write_events(tmp_path / "x.jsonl", wrong), "-o", tmp_path / "y.jsonl", "--batch", 50)
    assert ran.status == 1
    assert ran.err.splitlines()[-1] == "ntm-serve: line 124: running-sum: -666.0 was asked to fail"
    assert written(tmp_path / "y.jsonl") == sums_of(events[:123])
    for path, said in ((wrong, 1), (events, 0)):
        ran = pipe("-i", write_events(tmp_path / "x.jsonl", path), "-o", tmp_path / "y.jsonl", "--resume")
        assert ran.status == said
    assert written(tmp_path / "y.jsonl") == sums_of(events)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_it_stops_at_a_line_that_is_no_event_and_goes_on_once_it_is_mended(pipe, tmp_path, form):
    def text(third):
        if form == "csv":
            return "id,x\n" + "".join(f"a,{x}\n" for x in (1, third, 3, 4))
        return "\n" + "".join(f'{{"id": "a", "x": {x}}}\n' for x in (1, third, 3, 4))

    path = tmp_path / f"x.{form}"
    path.write_text(text('"two"'))
    arguments = ("-i", path, "-o", tmp_path / "y.jsonl", "--format", form, "--resume")
    ran = pipe(*arguments)
    assert ran.status == 1
    says = "x: expected a number for float32, got 'two'" if form == "csv" else "x: expected float32[1], got <U3[]"
    assert ran.err.splitlines()[-1] == f"ntm-serve: line 3: {says}"
    path.write_text(text(2))
    assert pipe(*arguments).status == 0
    assert len((tmp_path / "y.jsonl").read_text().splitlines()) == 4 + (form == "csv")
    assert "10" in (tmp_path / "y.jsonl").read_text().splitlines()[-1]


def test_events_that_fail_are_skipped_if_asked(pipe, tmp_path):
    lines = [
        '{"id": "a", "x": 1}', '{"id": "a", "x": -666}', '{"id": "a b", "x": 1}', "{", '{"id": "a", "x": 3e38}',
        '{"id": "a", "x": 3e38}', '{"id": "a", "x": [1, 2]}', '{"id": "a", "x": -3e38}', '{"id": "b", "x": 2}',
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    ran = pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--on-error", "skip")
    assert ran.status == 3
    assert ran.err.startswith("9 events of 2 sessions, 5 failed, ")
    told = [
        (line["key"], line.get("step", line.get("error", {}).get("reason"))) for line in written(tmp_path / "y.jsonl")
    ]
    assert told == [
        ("a", 0), ("a", "ENGINE_FAULT"), ("", "INVALID_INPUT"), ("", "INVALID_INPUT"), ("a", 1),
        ("a", "NON_FINITE_STATE"), ("a", "INVALID_INPUT"), ("a", 2), ("b", 0),
    ]  # fmt: skip
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.csv", "--on-error", "skip", "--prefix", "z").status == 3
    with (tmp_path / "y.csv").open() as file:
        last = list(csv.DictReader(file))[-3]
    assert last["error"] == "INVALID_INPUT: x: expected float32[1], got int64[2]"


def test_what_is_not_the_events_fault_is_never_skipped(pipe, client, tmp_path):
    session = client.session("running-sum", session_id="a")
    write_events(tmp_path / "x.jsonl", [("a", 1), ("a", 1)])
    (tmp_path / "y.jsonl").write_text('{"line":1,"key":"a","step":0,"outputs":{"y":[1]}}\n')
    session.step([[1], [7]])  # Somebody else's second step.
    ran = pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume", "--on-error", "skip")
    assert ran.status == 1
    assert "line 2: session a: steps 1 to 1 were taken with other inputs" in ran.err
    assert len(written(tmp_path / "y.jsonl")) == 1


def test_what_cannot_be_is_one_line_and_status_1(pipe, cli, tmp_path):
    x = write_events(tmp_path / "x.jsonl", [("a", 1)])
    (tmp_path / "other.jsonl").write_text("something\n")
    for arguments, says in (
        (("-i", tmp_path / "nope"), "input: expected a file of events, got "),
        (("-i", tmp_path), "input: expected a file of events, got "),
        (("-i", x, "-o", tmp_path / "no" / "y"), "output: expected a file in a folder that is there, got "),
        (("-i", x, "--resume"), "resume: expected --output, the file that says how far the run came, got none"),
        (("-i", x, "-o", tmp_path / "y", "--input-field", "z=z"), "input-field: expected INPUT=FIELD"),
        (("-i", x, "-o", tmp_path / "other.jsonl", "--resume"), "output: expected line 1 of "),
        (("-i", x, "-o", tmp_path / "other.jsonl", "--resume", "--format", "csv"), "output: expected "),
    ):
        ran = pipe(*arguments)
        assert (ran.status, ran.out) == (1, ""), arguments
        assert ran.err.splitlines()[-1].startswith(f"ntm-serve: {says}"), ran.err
    assert cli("pipe", "nope", "-k", "id", "-i", x).err.startswith("ntm-serve: model nope: expected one of copy-ff/1")


# Interruptions


def test_outputs_that_were_lost_are_made_again_and_no_event_twice(pipe, client, tmp_path):
    events = many(400)
    write_events(tmp_path / "x.jsonl", [*events[:300], ("a b", 1), *events[301:]])
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--batch", 64).status == 1
    lines = (tmp_path / "y.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 300
    # As if the last 150 were made and never written, and one half of a line was.
    (tmp_path / "y.jsonl").write_text("".join(lines[:150]) + lines[150][:20])
    write_events(tmp_path / "x.jsonl", events)
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume", "--batch", 7).status == 0
    assert written(tmp_path / "y.jsonl") == sums_of(events)
    assert client.session_info("d0").next_step == sum(key == "d0" for key, _ in events)


def test_sessions_that_had_no_output_yet_are_known_from_the_journal(pipe, client, tmp_path):
    client.session("running-sum", session_id="d0").step([[0]] * 5)
    events = many(60)
    write_events(tmp_path / "x.jsonl", [*events, ("a b", 1)])
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl").status == 1
    whole = written(tmp_path / "y.jsonl")
    (tmp_path / "y.jsonl").write_text("")
    write_events(tmp_path / "x.jsonl", events)
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume").status == 0
    assert written(tmp_path / "y.jsonl") == whole
    assert whole[0]["step"] == 5


def test_an_event_that_failed_before_its_line_was_written_is_not_run_with_a_later_number(pipe, client, tmp_path):
    events = [("a", 1), ("a", FAILING_INPUT), ("a", 2), ("b", 1), ("a", 3)]
    write_events(tmp_path / "x.jsonl", events)
    arguments = ("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--on-error", "skip")
    assert pipe(*arguments).status == 3
    whole = written(tmp_path / "y.jsonl")
    # As if it was killed after the first line; `test_a_failure_is_in_the_journal` shows that its journal is this.
    about = {"model": "running-sum", "version": "", "prefix": "", "key": "id"}
    records = [{"about": about}, {"key": "a", "step": 0}, {"key": "b", "step": 0},
               {"line": 2, "error": whole[1]["error"]}]  # fmt: skip
    (tmp_path / "y.jsonl.journal").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "y.jsonl").write_text(json.dumps(whole[0]) + "\n")
    assert pipe(*arguments, "--resume").status == 3
    assert written(tmp_path / "y.jsonl") == whole
    assert client.session_info("a").next_step == 3


def test_a_failure_is_in_the_journal_before_its_session_goes_on(tmp_path):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        write_events(tmp_path / "x.jsonl", [("a", FAILING_INPUT), ("a", 1)])
        running = process("--server", server.target, "-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl",
                          "--on-error", "skip", "--batch", 1)  # fmt: skip
        # The failing step is run twice: with its company, and by itself. The next run is that of the other event.
        for _ in range(2):
            gate.await_run()
            gate.let_through(1)
        gate.await_run()
        running.kill()
        ended(running)
        gate.open()
        records = [json.loads(line) for line in (tmp_path / "y.jsonl.journal").read_text().splitlines()]
        assert records[1:] == [
            {"key": "a", "step": 0},
            {"line": 1, "error": {"reason": "ENGINE_FAULT", "message": "running-sum: -666.0 was asked to fail"}},
        ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_interrupted_again_and_again_is_whole_in_the_end(tmp_path, number):
    gate, events, lengths = Gate(), many(6_000, keys=300), [0]
    write_events(tmp_path / "x.jsonl", events)
    path = tmp_path / "y.jsonl"
    with test_server([RunningSum(before_run=gate)], compute_threads=1) as server:
        arguments = ("--server", server.target, "-i", tmp_path / "x.jsonl", "-o", path, "--resume", "--batch", 100)
        for _ in range(3):
            running = process(*arguments)
            for _ in range(50):
                gate.await_run()
                gate.let_through(1)
            gate.await_run()  # Rounds are on their way, and a run has just begun.
            running.send_signal(number)
            status, err = ended(running)
            assert status == (130 if number is signal.SIGINT else -number), err
            gate.let_through(1)
            assert path.with_name("y.jsonl.journal").exists()
            lengths.append(path.stat().st_size)
        gate.open()
        assert lengths == sorted(set(lengths)), "each run came further"
        assert ended(process(*arguments))[0] == 0
    assert written(path) == sums_of(events)


def test_an_interrupted_run_is_not_written_over(pipe, tmp_path):
    write_events(tmp_path / "x.jsonl", [("a", 1), ("a b", 1)])
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl").status == 1
    ran = pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl")
    assert ran.status == 1
    assert "was interrupted: --resume goes on after it, --overwrite begins anew" in ran.err
    assert len(written(tmp_path / "y.jsonl")) == 1
    write_events(tmp_path / "x.jsonl", [("b", 1)])
    assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--overwrite").status == 0
    assert written(tmp_path / "y.jsonl") == sums_of([("b", 1)])
    assert not (tmp_path / "y.jsonl.journal").exists()


def test_outputs_that_are_there_are_not_written_over_unless_that_is_asked_for(pipe, tmp_path):
    write_events(tmp_path / "x.jsonl", [("a", 1)])
    path = tmp_path / "y.jsonl"
    path.touch()
    assert pipe("-i", tmp_path / "x.jsonl", "-o", path).status == 0, "nothing is lost of an empty file"
    before = path.read_bytes()
    ran = pipe("-i", tmp_path / "x.jsonl", "-o", path)
    told = (
        f"ntm-serve: output: {path} exists, and it is not empty: --resume goes on after it, --overwrite begins anew\n"
    )
    assert (ran.status, ran.err.splitlines(keepends=True)[-1]) == (1, told)
    assert path.read_bytes() == before
    write_events(tmp_path / "x.jsonl", [("b", 2), ("b", 3)])
    assert pipe("-i", tmp_path / "x.jsonl", "-o", path, "--overwrite").status == 0
    assert written(path) == sums_of([("b", 2), ("b", 3)])
    assert "expected one of them" in pipe("-i", tmp_path / "x.jsonl", "-o", path, "--overwrite", "--resume").err


def test_a_run_goes_on_with_its_own_input_and_model_alone(pipe, tmp_path):
    write_events(tmp_path / "x.jsonl", [("a", 1), ("b", 1), ("a b", 1)])
    arguments = ("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume")
    assert pipe(*arguments).status == 1
    ran = pipe(*arguments, "--prefix", "other-")
    assert (ran.status, "resume: expected the run to be of " in ran.err) == (1, True)
    write_events(tmp_path / "x.jsonl", [("a", 1), ("c", 1), ("b", 1)])
    ran = pipe(*arguments)
    assert (ran.status, ran.err.splitlines()[-1]) == (
        1,
        "ntm-serve: line 2: expected an event of 'b', as the output has it, got one of 'c': is it the same input?",
    )
    write_events(tmp_path / "x.jsonl", [("a", 1)])
    assert "input: expected at least 2 lines, as the output has them, got 1" in pipe(*arguments).err


def test_a_file_that_grew_is_gone_on_with(pipe, tmp_path):
    events = many(50)
    for count in (0, 20, 20, 50):
        write_events(tmp_path / "x.jsonl", events[:count])
        assert pipe("-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume").status == 0
        assert written(tmp_path / "y.jsonl") == sums_of(events[:count])


def test_a_server_that_goes_away_is_one_line(serve, repository):
    server = serve("--models", str(repository), *FREE)
    running = subprocess.Popen(
        [SCRIPT, "pipe", "copy-ff", "-k", "id", "--server", server.target, "--patience-s", "0.5"],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    event = json.dumps({"id": "a", "x": [0] * 9}).encode() + b"\n"
    running.stdin.write(event)
    assert json.loads(running.stdout.readline())["step"] == 0
    server.process.kill()
    running.stdin.write(event)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (1, b"")
    told, line = err.decode().splitlines()
    assert told.startswith("1 events of 1 sessions")
    assert line.startswith(("ntm-serve: line 2: UNAVAILABLE: ", "ntm-serve: UNAVAILABLE: "))


def test_a_server_that_comes_back_is_gone_on_with(tmp_path):
    events, settings = many(60), {"store": f"sqlite:{tmp_path}/s.db"}
    lines = [json.dumps({"id": key, "x": x}).encode() + b"\n" for key, x in events]
    made = []
    with contextlib.ExitStack() as stack:
        running = None
        for at in range(0, 60, 20):
            with test_server([RunningSum()], **settings) as server:
                settings["port"] = server.running.port
                if running is None:
                    arguments = ("--server", server.target, "--on-error", "skip")
                    running = process(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
                    stack.enter_context(running)
                running.stdin.write(b"".join(lines[at : at + 20]))
                made += [json.loads(running.stdout.readline()) for _ in range(20)]
                if len(made) == len(events):
                    running.stdin.close()
                    assert running.wait(60) == 0
    assert made == sums_of(events)


def test_no_output_is_skipped_or_doubled_when_connections_are_cut(sums, tmp_path):
    events = many(6_000, keys=300)
    write_events(tmp_path / "x.jsonl", events)
    with ChaosProxy(sums.target, Chaos(cut=1.0, after_bytes=(10_000, 30_000))) as proxy:
        arguments = ("--server", proxy.target, "-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--batch", 50)
        status, err = ended(process(*arguments))
        assert status == 0, err
        assert proxy.counts["cut"] >= 2
    assert written(tmp_path / "y.jsonl") == sums_of(events)


def test_a_memory_that_was_lost_is_told_and_nothing_is_made_up(cli, serve, repository, tmp_path):
    write_events(tmp_path / "x.jsonl", [*[("a", [0] * 9)] * 3, ("a", "wrong")])
    arguments = ("pipe", "copy-ff", "-k", "id", "-i", tmp_path / "x.jsonl", "-o", tmp_path / "y.jsonl", "--resume")
    server = serve("--models", str(repository), *FREE)
    assert cli(*arguments, "--server", server.target).status == 1
    before = (tmp_path / "y.jsonl").read_text()
    assert len(before.splitlines()) == 3
    server.process.kill()
    write_events(tmp_path / "x.jsonl", [("a", [0] * 9)] * 4)
    ran = cli(*arguments, "--server", serve("--models", str(repository), *FREE).target)
    assert ran.status == 1
    assert "line 4: session a: expected it to stand at step 3 or later, got 0: its memory was lost" in ran.err
    assert (tmp_path / "y.jsonl").read_text() == before


# Limits


def test_memory_does_not_grow_with_the_file(sums, tmp_path):
    peaks = []
    for events in (2_000, 60_000):
        running = process("--server", sums.target, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        line = json.dumps({"id": "a", "x": 1, "more": "x" * 1000}).encode() + b"\n"
        for _ in range(events // 1000):
            running.stdin.write(line * 1000)
        running.stdin.close()
        err = running.stderr.read()
        running.stderr.close()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        assert running.returncode == 0, err
        peaks.append(usage.ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 25, f"MiB: {peaks}; the file has 58"


def test_a_limit_is_waited_for_and_no_event_is_made_twice(cli, tmp_path):
    events = [(f"k{number % 3}", float(number)) for number in range(60)]
    source, sink = write_events(tmp_path / "events.jsonl", events), tmp_path / "outputs.jsonl"
    with test_server([RunningSum()], steps_per_s_max=30) as server:
        arguments = ("pipe", "running-sum", "--key", "id", "--server", server.target, "--batch", "4")
        result = cli(*arguments, "--input", str(source), "--output", str(sink))
    assert result.status == 0, result.err
    assert written(sink) == sums_of(events)


def test_a_limit_that_does_not_pass_is_told_when_patience_ends(cli, tmp_path):
    source = write_events(tmp_path / "events.jsonl", [("a", 1.0), ("b", 1.0)])
    with test_server([RunningSum()], sessions_max=1) as server:
        arguments = ("pipe", "running-sum", "--key", "id", "--server", server.target, "--patience-s", "1")
        result = cli(*arguments, "--input", str(source), "--output", str(tmp_path / "outputs.jsonl"))
    assert result.status == 1
    assert "sessions: expected at most 1 open at once" in result.err
