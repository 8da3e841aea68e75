"""The way to redis: one server, or a cluster, found out by asking; its faults told in our words.

Rules of this file:
- Every command comes back, or fails, in bounded time. A connection that broke is made again and the
  commands are sent again, as all that this store sends may be done twice; a time-out is not tried again,
  as whoever waits has waited long enough.
- The URL may hold a password, so messages name the address alone.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    ResponseError,
)
from redis.retry import Retry

from ntm_serve.errors import NtmServeError, SettingsFault, StoreDamaged, StoreUnavailable
from ntm_serve.stores.redis_scripts import ALL, Script

# Scripts whose writes depend on TIME are replicated by their effects.
REDIS_MIN = (6, 0)
# A connection that broke is made again so often, after 20 ms, 40 ms: enough for one that a proxy cut.
RETRIES = 2
BACKOFF_S = 0.02
BACKOFF_MAX_S = 0.2

# With these redis answers when a write is on its disk, and not before.
DURABLE = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}

Command = tuple[Any, ...]


class RedisLink:
    """Commands to redis, in pipelines."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """timeout_s: for a connection, and for an answer. Raises SettingsFault, StoreUnavailable."""
        self.address = _address(url)
        options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(
                ExponentialWithJitterBackoff(base=BACKOFF_S, cap=BACKOFF_MAX_S), RETRIES, (redis.ConnectionError,)
            ),
            "protocol": 2,
        }
        try:
            self._client: Any = redis.Redis.from_url(url, **options)
        except ValueError as error:
            raise SettingsFault(f"store: expected redis://, rediss:// or unix:// and an address, got {error}") from None
        try:
            with self._translated():
                info = self._client.info()
        except StoreUnavailable as error:
            raise StoreUnavailable(
                error.message, detail=f"{error.detail}; expected a redis or valkey that listens there"
            ) from error
        self._expect_usable(info)
        self.is_cluster = bool(info.get("cluster_enabled"))
        if self.is_cluster:
            self._client.close()
            with self._translated():
                self._client = RedisCluster.from_url(url, **options)

    def run(self, *commands: Command) -> list[Any]:
        """The answers, as from `ask`. Raises the first fault among them, after all have been done."""
        answers = self.ask(*commands)
        for answer in answers:
            if isinstance(answer, NtmServeError):
                raise answer
        return answers

    def ask(self, *commands: Command) -> list[Any]:
        """The answers from one round trip, or in the place of one the fault. On a cluster each node gets a
        trip of its own; nothing binds them together.
        """
        with self._translated():
            answers = self._send(commands)
            missed = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if missed:
                for script in ALL:
                    self._client.script_load(script.text)
                again = self._send([commands[place] for place in missed])
                for place, answer in zip(missed, again, strict=True):
                    answers[place] = answer
        return [self._fault(answer) if isinstance(answer, Exception) else answer for answer in answers]

    def expect_fsync(self) -> None:
        """Raises SettingsFault where redis may answer before a write is on its disk."""
        with self._translated():
            if self.is_cluster:
                nodes = self._client.config_get("*append*", target_nodes=RedisCluster.PRIMARIES)
                found = list(nodes.values()) if "appendonly" not in nodes else [nodes]
            else:
                found = [self._client.config_get("*append*")]
        for one in found:
            got = {name: one.get(name) for name in DURABLE}
            if got != DURABLE:
                raise SettingsFault(
                    f"store: {self.address}: expected redis with {_as_text(DURABLE)}, as durability disk needs, "
                    f"got {_as_text(got)}; set them in redis.conf, or choose durability process"
                )

    def stored_bytes(self) -> int:
        with self._translated():
            if not self.is_cluster:
                return int(self._client.info("memory")["used_memory"])
            nodes = self._client.info("memory", target_nodes=RedisCluster.PRIMARIES)
        return sum(int(one["used_memory"]) for one in (nodes.values() if "used_memory" not in nodes else [nodes]))

    def close(self) -> None:
        self._client.close()

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return cast(list[Any], pipeline.execute(raise_on_error=False))

    def _expect_usable(self, info: dict[str, Any]) -> None:
        version = tuple(int(part) for part in re.findall(r"\d+", str(info.get("redis_version", "0")))[:2])
        if version < REDIS_MIN:
            raise SettingsFault(
                f"store: {self.address}: expected redis {'.'.join(map(str, REDIS_MIN))} or newer, "
                f"got {info.get('redis_version')}"
            )
        policy = str(info.get("maxmemory_policy", ""))
        if info.get("maxmemory") and policy.startswith("allkeys"):
            raise SettingsFault(
                f"store: {self.address}: expected redis to keep what it is given, got maxmemory-policy {policy}, which "
                "throws sessions away when memory is short; set `maxmemory-policy noeviction`"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, RedisClusterException, OSError) as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> NtmServeError:
        # Where it is, and what redis says of it, is not for callers.
        told, said = f"store: redis: {type(error).__name__}", f"store: {self.address}: {error}"
        if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
            return SettingsFault(told, detail=f"{said}; expected a user and password that redis lets in")
        # A script stumbles ("attempt to compare nil ...") where a key holds something that no script has left there.
        if isinstance(error, ResponseError) and ("WRONGTYPE" in str(error) or "attempt to" in str(error)):
            return StoreDamaged(told, detail=f"{said}; expected what was left there")
        return StoreUnavailable(told, detail=said)


def script_command(script: Script, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def _as_text(settings: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
