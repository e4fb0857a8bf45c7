"""Where a plane may listen at all, and what has to protect it there. Reads no certificate: see `tls`."""

import ipaddress
import re
from dataclasses import dataclass

from shipworthy.kernel.errors import UsageError

LOOPBACK = "127.0.0.1"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,45}")


@dataclass(frozen=True, slots=True)
class Tls:
    """The files by which a listener proves who it is."""

    cert: str  # PEM: its certificate, then those that lead to an authority
    key: str  # PEM, readable to its owner alone
    client_ca: str = ""  # PEM: authorities of callers' certificates, which are then required


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a plane listens, and what protects it there."""

    host: str = LOOPBACK
    tls: Tls | None = None
    is_upstream: bool = False  # something in front of it ends TLS
    allowed_hosts: tuple[str, ...] = ()  # names by which it may be asked; none: any

    @property
    def scheme(self) -> str:
        """Of its address."""
        return "http" if self.tls is None else "https"

    @property
    def mode(self) -> str:
        """What health says about it."""
        if self.tls is not None:
            return "mutual" if self.tls.client_ca else "tls 1.2+"
        return "upstream" if self.is_upstream else "none, loopback"


def check_binding(binding: Binding, *, is_open: bool = False) -> None:
    """Refuse to listen where callers or their tokens would be in the open.

    Args:
        binding: where, and with what.
        is_open: whether callers need no token.

    Raises:
        UsageError: another address than loopback without authentication, or without TLS; a name that is none.
    """
    loopback = is_loopback(binding.host)
    if not _HOST.fullmatch(binding.host):
        raise UsageError(f"--host {binding.host!r} is no address; use one such as 127.0.0.1, 0.0.0.0 or ::")
    if is_open and not loopback:
        raise UsageError(f"{binding.host} is not loopback: an open server answers this machine alone. Use tokens.")
    if is_open and binding.is_upstream:
        raise UsageError("an open server behind a proxy answers everybody whom the proxy lets in. Use tokens.")
    if not loopback and binding.tls is None and not binding.is_upstream:
        raise UsageError(
            f"{binding.host} is not loopback: give --tls-cert and --tls-key, or put TLS in front of it and say so with "
            "--tls-terminated-upstream."
        )
    for name in binding.allowed_hosts:
        if not _HOST.fullmatch(name):
            raise UsageError(f"--allowed-host {name!r} is no name; give models.example.com, without scheme and port")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than localhost is not believed."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_tls(cert: str, key: str, client_ca: str) -> Tls | None:
    """The files that options name; None if they name none.

    Raises:
        UsageError: one without the other.
    """
    if bool(cert) != bool(key):
        raise UsageError("--tls-cert and --tls-key go together: a certificate and its private key, both PEM")
    if client_ca and not cert:
        raise UsageError("--tls-client-ca asks callers for certificates, which takes --tls-cert and --tls-key too")
    return Tls(cert, key, client_ca) if cert else None
