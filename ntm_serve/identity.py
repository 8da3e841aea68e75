"""How a client knows its server, and the server its client: TLS, and a token that goes with every call.

Rules of this file: a token is in no text that this file makes; it goes with a call's metadata, so that a token that was
renewed goes with the next call of the same connection.
"""

import ipaddress
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from ntm_serve.errors import InvalidInput

# A token, or what is asked for it at every call: a token that ends is renewed there.
Token = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a client: files of PEM, or what is in them.

    ca: the authorities that the server's certificate must come from; None are those that gRPC comes with. cert, key:
    what this client shows, where the server asks for it. server_name: the name that the server's certificate must have,
    where it is not that of the address.
    """

    ca: Path | str | bytes | None = None
    cert: Path | str | bytes | None = None
    key: Path | str | bytes | None = None
    server_name: str = ""

    def __repr__(self) -> str:
        return f"Tls(server_name={self.server_name!r})"

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises InvalidInput for a file that cannot be read, and a certificate without its key."""
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("tls: expected cert and key, or none of them, got one")
        ca, cert, key = (_pem(name, getattr(self, name)) for name in ("ca", "cert", "key"))
        return grpc.ssl_channel_credentials(ca, key, cert)


class Identity:
    """What the connections of one client are made with."""

    def __init__(self, tls: Tls | None, token: Token | None) -> None:
        """Raises InvalidInput."""
        self._credentials = None if tls is None else tls.credentials()
        self._server_name = "" if tls is None else tls.server_name
        self._token = token

    def channel(self, api: Any, address: str, options: tuple[tuple[str, Any], ...]) -> Any:
        """A connection to that address. api: `grpc` or `grpc.aio`."""
        if self._credentials is None:
            if self._token is not None:
                warn_of_token(address, instead="tls=Tls(...)", stacklevel=5)
            channel = api.insecure_channel(address, options=options)
        else:
            named = (("grpc.ssl_target_name_override", self._server_name),) if self._server_name else ()
            channel = api.secure_channel(address, self._credentials, options=(*options, *named))
        return channel

    def calls(self, channel: Any) -> Any:
        """What stubs are made of: the channel, with the token in the metadata of every call."""
        return channel if self._token is None else _Telling(channel, self._metadata)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token() if callable(self._token) else self._token
        return (("authorization", f"Bearer {token}"),)


class _Telling:
    """A channel whose calls have metadata. An interceptor of grpc.aio would stand in the way of every message."""

    def __init__(self, channel: Any, metadata: Callable[[], Any]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *args: Any, **more: Any) -> Any:
        return _Method(self._channel.unary_unary(*args, **more), self._metadata)

    def unary_stream(self, *args: Any, **more: Any) -> Any:
        return _Method(self._channel.unary_stream(*args, **more), self._metadata)

    def stream_stream(self, *args: Any, **more: Any) -> Any:
        return _Method(self._channel.stream_stream(*args, **more), self._metadata)


class _Method:
    def __init__(self, method: Any, metadata: Callable[[], Any]) -> None:
        self._method = method
        self._metadata = metadata

    def __call__(self, *args: Any, metadata: Any = (), **more: Any) -> Any:
        return self._method(*args, metadata=(*metadata, *self._metadata()), **more)

    def future(self, *args: Any, metadata: Any = (), **more: Any) -> Any:
        return self._method.future(*args, metadata=(*metadata, *self._metadata()), **more)


def token_of_file(path: Path | str) -> Callable[[], str]:
    """A token that a file has, read at every call: whoever renews it there need not tell. Raises InvalidInput."""
    read = partial(_read_token, Path(path))
    read()
    return read


def _read_token(path: Path) -> str:
    token = _pem("token file", path)
    assert token is not None
    text = token.decode(errors="replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidInput(f"token file: expected one line with a token at {path}, got something else")
    return text


def _pem(name: str, given: Path | str | bytes | None) -> bytes | None:
    if given is None or isinstance(given, bytes):
        return given
    try:
        return Path(given).read_bytes()
    except OSError as fault:
        raise InvalidInput(f"{name}: expected a file that can be read at {given}, got: {fault.strerror}") from fault


def warn_of_token(address: str, *, instead: str, stacklevel: int) -> None:
    """Say that a token goes to that address without TLS, if it leaves this machine. instead: what to do."""
    if not _stays_here(address):
        told = f"{address}: the token goes there readable to whoever is between: {instead}"
        warnings.warn(told, stacklevel=stacklevel)


def _stays_here(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or address.startswith("unix")
