"""Commands on the sessions of a running server."""

from pathlib import Path
from typing import Annotated

import typer

from ntm_serve.cli.clients import client_of
from ntm_serve.cli.options import Connection, connecting
from ntm_serve.cli.tables import console, print_facts, table
from ntm_serve.durability import Durability
from ntm_serve.errors import SettingsFault, SnapshotRejected

SessionId = Annotated[str, typer.Argument(metavar="SESSION")]
Step = Annotated[int | None, typer.Option(min=0, help="the state before this step; the present if not given")]
DurabilityWord = Annotated[
    Durability | None, typer.Option(help="what the new session outlives; as the server is set to if not given")
]

sessions_app = typer.Typer(
    help="List, show, close, snapshot, restore, fork and rewind sessions; verify a store of them.",
    invoke_without_command=True,
)


@sessions_app.callback(invoke_without_command=True)
@connecting
def sessions(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="only those of this model")] = "",
    limit: Annotated[int, typer.Option(min=1, help="at most this many rows")] = 50,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="of every tenant; needs the role admin")] = False,
    *,
    connection: Connection,
) -> None:
    """List open sessions, in the order of their ids."""
    if context.invoked_subcommand is not None:
        return
    rows = table(
        *(["tenant"] if all_tenants else []),
        "session",
        "model",
        "next step",
        "in flight",
        "durability",
        "in memory",
        "idle",
        "open for",
        "state bytes",
    )
    with client_of(connection, retry=None) as client:
        for row, info in enumerate(client.all_sessions(model) if all_tenants else client.sessions(model)):
            if row == limit:
                rows.caption = f"the first {limit}; more with --limit"
                break
            rows.add_row(
                *([info.tenant] if all_tenants else []),
                info.session_id,
                f"{info.model}/{info.version}",
                str(info.next_step),
                str(info.steps_in_flight),
                info.durability.value,
                "yes" if info.resident else "no",
                f"{info.idle_for_s:.1f} s",
                f"{info.open_for_s:.1f} s",
                f"{info.state_bytes:,}",
            )
    console().print(rows)


@sessions_app.command("show")
@connecting
def show_session(session_id: SessionId, *, connection: Connection) -> None:
    """Show where one session stands."""
    with client_of(connection, retry=None) as client:
        info = client.session_info(session_id)
    print_facts({name: fact for name, fact in vars(info).items() if fact not in ("", {})})


@sessions_app.command("close")
@connecting
def close_session(session_id: SessionId, *, connection: Connection) -> None:
    """End a session and free its memory."""
    with client_of(connection, retry=None) as client:
        info = client.close_session(session_id)
    print(f"closed {info.session_id} after {info.next_step} steps")


@sessions_app.command("snapshot")
@connecting
def snapshot_session(
    session_id: SessionId,
    output: Annotated[Path, typer.Option("--output", "-o", help="file for the session's state")],
    step: Step = None,
    *,
    connection: Connection,
) -> None:
    """Write a session's state into a file, which a server of the same model restores. The session goes on."""
    with client_of(connection, retry=None) as client:
        snapshot = client.snapshot(session_id, step=step)
    # All of it or nothing: a file that is cut short would be found out, but too late.
    beside = output.with_name(output.name + ".part")
    beside.write_bytes(snapshot.data)
    beside.replace(output)
    print(f"session {session_id}: state before step {snapshot.step} to {output}, {len(snapshot.data):,} bytes")


@sessions_app.command("restore")
@connecting
def restore_session(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="as written by `snapshot`")],
    session_id: Annotated[str, typer.Option(help="the new session's name; a random one if not given")] = "",
    durability: DurabilityWord = None,
    *,
    connection: Connection,
) -> None:
    """Open a session where a snapshot was taken."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingsFault(f"{file}: expected a file that can be read, got {error.strerror}") from error
    with client_of(connection, retry=None) as client:
        try:
            session = client.restore(data, session_id=session_id, durability=durability)
        except SnapshotRejected as error:
            raise SnapshotRejected(f"{file}: {error.message}") from None
    print(f"session {session.id}: opened at step {session.next_step}")


@sessions_app.command("fork")
@connecting
def fork_session(
    session_id: SessionId,
    fork_id: Annotated[
        str, typer.Argument(metavar="[FORK]", help="the new session's name; a random one if not given")
    ] = "",
    step: Step = None,
    durability: DurabilityWord = None,
    *,
    connection: Connection,
) -> None:
    """Open a session where another stands, or stood. The other goes on."""
    with client_of(connection, retry=None) as client:
        fork = client.fork(session_id, fork_id, step=step, durability=durability)
    print(f"session {fork.id}: forked from {session_id} at step {fork.next_step}")


@sessions_app.command("rewind")
@connecting
def rewind_session(
    session_id: SessionId,
    step: Annotated[int, typer.Argument(min=0, help="the session's next step afterwards")],
    *,
    connection: Connection,
) -> None:
    """Take a session back to where it stood."""
    with client_of(connection, retry=None) as client:
        info = client.rewind(session_id, step)
    print(f"session {info.session_id}: rewound, its next step is {info.next_step}")
