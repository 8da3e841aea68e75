"""The command that makes a token: what the server keeps goes to standard output, the token itself somewhere else."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ntm_serve.auth.tokens import hash_of, new_token
from ntm_serve.caller import TENANT_NAME, Role
from ntm_serve.errors import InvalidInput, SettingsFault


def token(
    name: Annotated[str, typer.Argument(help="who will have it, for the log")],
    tenant: Annotated[str, typer.Option(help="whose sessions it is for; none if not given")] = "",
    role: Annotated[list[Role] | None, typer.Option(help="what else it may; may be given several times")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="how long it holds; for ever if not given")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="new file for the token; standard error if not given")
    ] = None,
) -> None:
    """Make a token, and print the lines that a server's --auth-file is to have for it.

    They hold a hash alone: the token is told this once. `ntm-serve token gateway --tenant acme -o gateway.token >>
    callers.toml` gives both their places.
    """
    if tenant and not TENANT_NAME.fullmatch(tenant):
        raise InvalidInput(f"tenant: expected 1 to 64 of A-Z a-z 0-9 . _ -, got {tenant!r}")
    if not name or not name.isprintable():
        raise InvalidInput(f"name: expected letters, got {name!r}")
    made = new_token()
    if output is None:
        print(made, file=sys.stderr)
    else:
        _write(output, made)
    # Of these texts JSON writes what TOML reads.
    print(f"\n[[tokens]]\nname = {json.dumps(name, ensure_ascii=False)}\ntenant = {json.dumps(tenant)}")
    print(f"roles = {json.dumps([one.value for one in role or []])}\nsha256 = {json.dumps(hash_of(made).hex())}")
    if days is not None:
        print(f"ends = {datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}")


def _write(path: Path, made: str) -> None:
    """Into a file that only its owner reads. Raises SettingsFault where there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as fault:
        raise SettingsFault(f"output: expected a place for a new file at {path}, got: {fault.strerror}") from fault
    with os.fdopen(descriptor, "w") as file:
        file.write(made + "\n")
