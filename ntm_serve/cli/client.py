"""Commands that speak to a running server: models, sessions, run, version; and pipe and watch, which have
files of their own."""

from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import ntm_serve
from ntm_serve.cli.arrays import ArrayWriter, expect_outputs, expect_writable, read_inputs, read_sizes, read_state
from ntm_serve.cli.clients import client_of
from ntm_serve.cli.options import Connection, InitialStateFile, OutputNames, SizeWords, connecting
from ntm_serve.cli.pipe import pipe
from ntm_serve.cli.sessions import sessions_app
from ntm_serve.cli.tables import console, print_facts, table
from ntm_serve.cli.token import token
from ntm_serve.cli.watch import watch
from ntm_serve.client import ModelInfo
from ntm_serve.errors import SettingsFault


def register_client_commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(models)
    app.add_typer(sessions_app, name="sessions")
    app.command()(run)
    app.command()(pipe)
    app.command()(watch)
    app.command()(drain)
    app.command()(token)
    app.command()(version)


@connecting
def models(
    name: Annotated[str, typer.Argument(metavar="[MODEL]", help="show one model in full")] = "",
    *,
    connection: Connection,
) -> None:
    """List the models of a server, or show one."""
    with client_of(connection, retry=None) as client:
        if name:
            _print_model(client.model(name))
            return
        rows = table("model", "version", "state", "family", "task", "inputs", "outputs", "state bytes", "sessions")
        faults = []
        for model in client.models():
            if model.fault is not None:
                faults.append(model.fault.message)
            rows.add_row(
                model.name,
                model.version,
                "ready" if model.ready else f"not served: {model.fault.reason if model.fault else ''}",
                model.family,
                model.task,
                ", ".join(f"{spec.name} {spec}" for spec in model.inputs),
                ", ".join(f"{spec.name} {spec}" for spec in model.outputs),
                f"{model.state_bytes:,}",
                str(model.sessions),
            )
    console().print(rows)
    for fault in faults:
        console().print(fault, markup=False)


@connecting
def run(
    model: Annotated[str, typer.Argument(help="the model's name, or name/version")],
    input: Annotated[  # noqa: A002 It is what the flag is called.
        Path, typer.Option("--input", "-i", help=".npy [T, ...], or .npz with one array per input")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=".npy [T, ...], or .npz with one array per output")],
    steps_per_message: Annotated[int, typer.Option(min=1, help="steps sent together")] = 32,
    session_id: Annotated[
        str, typer.Option(help="go on with this session, or open it under this name; it stays open")
    ] = "",
    initial_state: InitialStateFile = None,
    size: SizeWords = None,
    output_name: OutputNames = None,
    *,
    connection: Connection,
) -> None:
    """Stream a file of inputs through a session, and write the outputs."""
    name, _, wanted_version = model.partition("/")
    expect_writable(output)
    begins_with, sizes, names = read_state(initial_state), read_sizes(size or []), output_name or []
    with client_of(connection) as client:
        if names:
            expect_outputs(client.model(name, wanted_version).outputs, names)
        session = client.session(
            name,
            version=wanted_version,
            session_id=session_id,
            resume=bool(session_id),
            initial_state=begins_with,
            sizes=sizes,
            outputs=names,
        )
        if session.next_step:
            print(f"session {session.id}: goes on at step {session.next_step}")
        elif session_id:
            print(f"session {session.id}: is new")
        try:
            inputs = read_inputs(input, session.inputs)
            steps = len(next(iter(inputs.values())))
            chunks = (
                {key: array[at : at + steps_per_message] for key, array in inputs.items()}
                for at in range(0, steps, steps_per_message)
            )
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeRemainingColumn(),
            )
            with ArrayWriter(output, session.outputs, steps) as writer, Progress(*columns) as progress:
                task = progress.add_task(f"{session.model}/{session.version}", total=steps)
                for y in session.stream(chunks):
                    progress.advance(task, writer.write(y))
        finally:
            if not session_id:
                session.close()
    print(f"{steps} steps through {session.model}/{session.version} to {output}")


@connecting
def drain(*, connection: Connection) -> None:
    """Have a server finish what it has admitted, give its sessions up and end, as SIGTERM does."""
    with client_of(connection, retry=None) as client:
        client.drain()
    print(f"{connection.server}: drains")


def version() -> None:
    """Print versions."""
    print(f"ntm-serve {ntm_serve.__version__} (grpcio {grpc.__version__}, numpy {np.__version__})")


def _print_model(model: ModelInfo) -> None:
    if model.fault is not None:
        raise SettingsFault(f"not served: {model.fault.message}")
    independence = model.batch_independence
    print_facts(
        {
            "model": f"{model.name}/{model.version}",
            "family": model.family,
            "task": model.task,
            "licence": model.licence,
            "inputs": ", ".join(f"{spec.name} {spec}" for spec in model.inputs),
            "outputs": ", ".join(f"{spec.name} {spec}" for spec in model.outputs),
            "state": ", ".join(
                f"{spec.name} {spec} ({role})" for spec, role in zip(model.state, model.roles, strict=True)
            ),
            "sizes to choose": ", ".join(
                f"{axis.name} {axis.size} ({axis.size_min} to {axis.size_max})" for axis in model.axes
            )
            or "none",
            "state bytes": f"{model.state_bytes:,}",
            "open sessions": model.sessions,
            "batch": f"at most {model.batch_max}, padded to a multiple of {independence.padding}",
            "same bits in any company": f"seen up to {independence.rows_tested} rows" if independence.holds else "no",
            "engine": model.engine,
            "digest": model.digest,
        }
    )
