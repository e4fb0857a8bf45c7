"""Where a system is served, and how a caller proves itself there."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from shipworthy.client.wire import write_request
from shipworthy.kernel.errors import NotFoundError, UsageError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One system at one address."""

    host: str
    port: int
    root: str  # path before `/v1` and `/v2`, where a proxy puts one
    system: str
    headers: dict[str, str]
    tls: ssl.SSLContext | None  # None: plain HTTP

    def write_call(self, act: str, content: bytes) -> bytes:
        """The request that asks for `act`, such as `predict`."""
        path = f"{self.root}/v1/systems/{quote(self.system, safe='')}/{act}"
        return write_request("POST", path, self.headers, content)

    def write_health(self) -> bytes:
        """The request that asks how the server is."""
        return write_request("GET", f"{self.root}/v2/health/ready", self.headers, b"")


def make_endpoint(
    address: str,
    system: str,
    *,
    token: str | None = None,
    ca: Path | None = None,
    client_cert: tuple[Path, Path] | None = None,
) -> Endpoint:
    """Read an address, and the certificates that go with it.

    Args:
        address: such as `https://models.example.com`.
        system: its name.
        token: sent as bearer token, if given.
        ca: PEM file of the authorities to believe; None: those of this machine.
        client_cert: PEM files of a certificate and its key.

    Raises:
        UsageError: the address is not one of HTTP, the token cannot be sent, or a certificate is not right.
        NotFoundError: there is no such certificate.

    >>> make_endpoint("https://models.example.com/eu/", "loans").root
    '/eu'
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        name = (host or "").encode("idna").decode()
    except ValueError:  # UnicodeError is one
        parts, host, port, name = urlsplit(""), None, None, ""
    if parts.scheme not in PORTS or host is None or not name.isprintable() or " " in name:
        raise UsageError(f"{address!r} is not an address such as https://models.example.com.")
    if parts.scheme == "http" and (ca is not None or client_cert is not None):
        raise UsageError(f"certificates are for an https address; {address!r} is not one.")
    authority = (f"[{name}]" if ":" in name else name) + ("" if port is None else f":{port}")
    headers = {"host": authority, "accept": "application/json", "content-type": "application/json"}
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("the token has characters that no token has; is there a blank or a line end in it?")
        headers["authorization"] = f"Bearer {token}"
    tls = _make_tls(ca, client_cert) if parts.scheme == "https" else None
    root = quote(parts.path.rstrip("/"), safe="/%")
    return Endpoint(name, PORTS[parts.scheme] if port is None else port, root, system, headers, tls)


def _make_tls(ca: Path | None, client_cert: tuple[Path, Path] | None) -> ssl.SSLContext:
    names = ", ".join(str(path) for path in (ca, *(client_cert or ())) if path is not None)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if client_cert is not None:
            context.load_cert_chain(*client_cert)
    except FileNotFoundError:
        raise NotFoundError(f"{names}: not all of these files are there.") from None
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"{names}: cannot be used ({error}); give PEM files, and a key of its certificate.") from None
    return context
