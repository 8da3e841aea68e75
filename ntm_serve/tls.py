"""TLS of a server's ports: its certificate and key, and who signs its clients' certificates.

Rules of this file: what does not belong together is refused when it is read, and not by the first handshake; a renewed
certificate serves the next handshake, and connections that are there go on; nothing is logged of a key.
"""

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ntm_serve.errors import SettingsFault
from ntm_serve.renewal import Renewed, bytes_of


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the certificate with those between it and its authority, its key without a password, and the
    authorities whose certificates clients must have; None is no certificate of clients.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsContent:
    """What the files hold, found to belong together. ends_s: Unix seconds when the certificate ends."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    ends_s: float

    def __repr__(self) -> str:
        return f"TlsContent(ends_s={self.ends_s:.0f})"


def tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """The files that settings name; None is no TLS. Raises SettingsFault where one is missing."""
    if cert is None and key is None:
        if client_ca is not None:
            raise SettingsFault(
                "tls_client_ca: expected tls_cert and tls_key as well: clients show theirs over TLS alone"
            )
        return None
    if cert is None or key is None:
        raise SettingsFault("tls_cert, tls_key: expected both or none, got one")
    return TlsFiles(cert, key, client_ca)


def renewed_tls(files: TlsFiles) -> Renewed[TlsContent]:
    """What the files hold, renewed with them. Raises SettingsFault."""
    paths = [files.cert, files.key, *([files.client_ca] if files.client_ca else [])]
    return Renewed("tls", paths, lambda: read_tls(files))


def read_tls(files: TlsFiles, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> TlsContent:
    """Read and check them. Raises SettingsFault: bytes that are none, a key of another certificate, one that ended."""
    chain, key = bytes_of(files.cert, "tls_cert"), bytes_of(files.key, "tls_key")
    client_ca = None if files.client_ca is None else bytes_of(files.client_ca, "tls_client_ca")
    certificate = _certificates("tls_cert", files.cert, chain)[0]
    if client_ca is not None and files.client_ca is not None:
        _certificates("tls_client_ca", files.client_ca, client_ca)
    try:
        public = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        # What went wrong may quote the key.
        raise SettingsFault(f"tls_key: expected a PEM key without a password at {files.key}, got none") from fault
    if _bytes_of(public) != _bytes_of(certificate.public_key()):
        raise SettingsFault(f"tls_key: expected the key of the certificate at {files.cert}, got another at {files.key}")
    if certificate.not_valid_after_utc <= now():
        ended = f"{certificate.not_valid_after_utc:%F %T} UTC"
        raise SettingsFault(f"tls_cert: expected a certificate that holds, got one that ended {ended}")
    return TlsContent(chain, key, client_ca, certificate.not_valid_after_utc.timestamp())


def https_context(files: TlsFiles) -> ssl.SSLContext:
    """Of the HTTP port: whoever asks there shows no certificate, for probes have none. Raises SettingsFault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    renew_https(context, files)
    return context


def renew_https(context: ssl.SSLContext, files: TlsFiles) -> None:
    """The next handshakes take what the files hold now. Raises SettingsFault."""
    try:
        context.load_cert_chain(files.cert, files.key)
    except OSError as fault:  # ssl.SSLError is one.
        raise SettingsFault(f"tls_cert, tls_key: expected a certificate and its key, got: {fault}") from fault


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificates(what: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as fault:
        raise SettingsFault(f"{what}: expected PEM certificates at {path}, got: {fault}") from fault


def _bytes_of(public: object) -> bytes:
    der: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return der
