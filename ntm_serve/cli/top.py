"""`ntm-serve top`: models, sessions and rates of running servers, again and again."""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ntm_serve.cli.clients import client_of
from ntm_serve.cli.gauging import Between, ModelLine, Reading, ServerLine, reading
from ntm_serve.cli.options import Connection, connecting
from ntm_serve.cli.tables import console, table
from ntm_serve.client import Client, SessionInfo
from ntm_serve.errors import ServerUnreachable, SettingsFault
from ntm_serve.identity import warn_of_token

# Sessions that are looked at for the busiest: one page. More would be work for the server again and again.
LOOKED_AT = 1000
SCRAPE_MAX_S = 10.0


@dataclass(frozen=True)
class SessionLine:
    """One session. steps_s: since the reading before."""

    session_id: str
    model: str
    next_step: int
    steps_s: float
    in_memory: bool
    idle_for_s: float


@dataclass(frozen=True)
class View:
    """What is shown at a time."""

    server: ServerLine
    models: Sequence[ModelLine]
    sessions: Sequence[SessionLine]


@connecting
def top(
    metrics: Annotated[
        list[str] | None, typer.Option(help="where a server's metrics are; once for each of several servers")
    ] = None,
    interval_s: Annotated[float, typer.Option(min=0.1, help="between two looks")] = 2.0,
    sessions: Annotated[int, typer.Option(min=0, max=LOOKED_AT, help="how many of the busiest are shown")] = 10,
    once: Annotated[bool, typer.Option("--once", help="look twice, show what was between, and end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON for each look")] = False,
    *,
    connection: Connection,
) -> None:
    """Show models, sessions and rates of running servers, until Ctrl-C."""
    urls = metrics or ["http://localhost:8002/metrics"]
    with client_of(connection, retry=None) as client:
        views = islice(_views(client, Metrics(urls, connection), interval_s, sessions), 1 if once else None)
        try:
            _show(views, live=not (once or as_json) and console().is_terminal, as_json=as_json)
        except KeyboardInterrupt:
            return


class Metrics:
    """Where servers' metrics are, and how they are asked: with the authorities and the token of the connection."""

    def __init__(self, urls: Sequence[str], connection: Connection) -> None:
        """Raises SettingsFault for what is no address of HTTP."""
        self.urls = urls
        addresses = [_address_of(url) for url in urls]
        self._context = ssl.create_default_context(cafile=connection.tls_ca)
        self._token = connection.token()
        if self._token is not None:
            for url, address in zip(urls, addresses, strict=True):
                if not url.startswith("https:"):
                    warn_of_token(address, instead="https://", stacklevel=3)

    def read(self) -> Reading:
        """All of them, now. Raises ServerUnreachable."""
        texts = []
        for url in self.urls:
            request = Request(url)
            if self._token is not None:  # Not for whoever is redirected to.
                request.add_unredirected_header("authorization", f"Bearer {self._token()}")
            context = self._context if url.startswith("https:") else None
            try:
                with urlopen(request, timeout=SCRAPE_MAX_S, context=context) as response:
                    texts.append(response.read().decode())
            except (OSError, ValueError) as fault:
                raise ServerUnreachable(f"metrics: expected a server's metrics at {url}, got: {fault}") from fault
        return reading(texts, time.monotonic())


def _address_of(url: str) -> str:
    """Host and port. Raises SettingsFault."""
    try:
        where = urlsplit(url)
        port = where.port or 80
    except ValueError:
        where, port = urlsplit(""), 0
    if where.scheme not in ("http", "https") or not where.hostname:
        raise SettingsFault(f"metrics: expected an address as http://HOST:8002/metrics, got {url!r}")
    return f"{where.hostname}:{port}"


def _views(client: Client, metrics: Metrics, interval_s: float, shown: int) -> Iterator[View]:
    before, known = metrics.read(), _sessions(client, shown)
    while True:
        time.sleep(interval_s)
        now, found = metrics.read(), _sessions(client, shown)
        between = Between(before, now)
        lines = busiest(known, found, took_s=now.at_s - before.at_s, shown=shown)
        yield View(between.server(len(metrics.urls)), between.models(), lines)
        before, known = now, found


def _sessions(client: Client, shown: int) -> dict[str, SessionInfo]:
    return {one.session_id: one for one in islice(client.sessions(), LOOKED_AT if shown else 0)}


def busiest(
    before: Mapping[str, SessionInfo], now: Mapping[str, SessionInfo], *, took_s: float, shown: int
) -> list[SessionLine]:
    """The sessions that made the most steps, and of as many the one that was used last."""
    lines = [
        SessionLine(
            session_id=one.session_id,
            model=f"{one.model}/{one.version}",
            next_step=one.next_step,
            steps_s=max(0, one.next_step - before.get(one.session_id, one).next_step) / max(took_s, 1e-9),
            in_memory=one.resident,
            idle_for_s=one.idle_for_s,
        )
        for one in now.values()
    ]
    return sorted(lines, key=lambda line: (-line.steps_s, line.idle_for_s, line.session_id))[:shown]


def _show(views: Iterator[View], *, live: bool, as_json: bool) -> None:
    if not live:
        for view in views:
            if as_json:
                print(json.dumps(asdict(view)), flush=True)
            else:
                console().print(drawn(view, console().width), Text())
        return
    with Live(Text("looking ..."), console=console(), screen=True, auto_refresh=False) as screen:
        for view in views:
            screen.update(drawn(view, screen.console.width), refresh=True)


@dataclass(frozen=True)
class Column:
    """Of the table of models. width_min: of the terminals that have room for it."""

    name: str
    value: Callable[[ModelLine], str]
    width_min: int = 0


COLUMNS = (
    Column("model", lambda one: f"{one.model}/{one.version}"),
    Column("state", lambda one: "ready" if one.ready else "not served", 100),
    Column("sessions", lambda one: f"{one.sessions:,}"),
    Column("steps/s", lambda one: f"{one.steps_s:,.0f}"),
    Column("errors/s", lambda one: f"{one.errors_s:,.1f}"),
    Column("refused/s", lambda one: f"{one.refused_s:,.1f}", 100),
    Column("p50", lambda one: _ms(one.latency_p50_s)),
    Column("p99", lambda one: _ms(one.latency_p99_s)),
    Column("wait p99", lambda one: _ms(one.queue_wait_p99_s), 130),
    Column("batch", lambda one: "" if one.batch_mean is None else f"{one.batch_mean:.1f}", 130),
    Column("waiting", lambda one: f"{one.steps_waiting:,}", 130),
)


def drawn(view: View, width: int) -> Group:
    """The view as tables; in a terminal of few columns what matters most."""
    server = view.server
    told = {
        "servers": f"{server.servers_ready} of {server.servers} ready",
        "sessions": f"{server.sessions:,} in memory"
        + ("" if server.stored_sessions is None else f", {server.stored_sessions:,} in the store"),
        "steps/s": f"{server.steps_s:,.0f}",
        "processor": f"{server.processor:.0%}",
        "memory": f"{server.resident_bytes / 1e6:,.0f} MB",
        "commit p99": _ms(server.commit_p99_s),
    }
    shown = [column for column in COLUMNS if column.width_min <= width]
    models = table(*(column.name for column in shown))
    for one in view.models:
        models.add_row(*(column.value(one) for column in shown))
    head = Text("   ".join(f"{name} {value}" for name, value in told.items() if value))
    parts: list[Any] = [head, Text(), models]
    if view.sessions:
        parts += [Text(), _sessions_table(view.sessions)]
    return Group(*parts)


def _sessions_table(lines: Sequence[SessionLine]) -> Table:
    rows = table("session", "model", "next step", "steps/s", "in memory", "idle")
    for line in lines:
        rows.add_row(
            Text(line.session_id),
            line.model,
            f"{line.next_step:,}",
            f"{line.steps_s:,.0f}",
            "yes" if line.in_memory else "no",
            f"{line.idle_for_s:.1f} s",
        )
    return rows


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.1f} ms"
