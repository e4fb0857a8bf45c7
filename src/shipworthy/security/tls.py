"""TLS of a listener: 1.2 and above, forward secrecy alone.

Everything that OpenSSL would say in its own words at the first handshake is said here before a plane starts, with the
file and the cure.
"""

import os
import ssl
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from shipworthy.kernel.errors import AccessError, NotFoundError, UsageError
from shipworthy.security.binding import Tls

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all sound
WARN_DAYS = 30  # before a certificate ends; what renews certificates by itself does so about then
DAY_S = 86400.0
MAX_PEM_BYTES = 2**20  # a chain has some thousands; the bundle of every public authority 220,000


def server_context(tls: Tls) -> ssl.SSLContext:
    """What a listener hands to its loop: TLS 1.2 and above, no compression, no renegotiation.

    Raises:
        NotFoundError: a file is missing.
        AccessError: a file cannot be read, or others can read the key.
        UsageError: a file is not PEM, or the key is of another certificate.
    """
    _check_pair(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.client_ca:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError) as error:  # replaced meanwhile, or too weak for this machine's OpenSSL
        raise UsageError(f"{tls.cert}: OpenSSL does not take it with {tls.key}: {error}") from None
    return context


def check_tls(tls: Tls, now: float) -> str:
    """Refuse a certificate that callers would; what there is to say about it otherwise, or nothing.

    Args:
        tls: the files.
        now: Unix seconds.

    Raises:
        UsageError: it has ended, or has not begun. And as `server_context`.
    """
    _check_pair(tls)
    first, last = _validity(tls)
    if now >= last:
        raise UsageError(f"{tls.cert}: the certificate ended on {_day(last)}; renew it")
    if now < first:
        raise UsageError(f"{tls.cert}: the certificate begins on {_day(first)}; this machine's clock says {_day(now)}")
    if last - now < WARN_DAYS * DAY_S:
        return f"{tls.cert}: the certificate ends on {_day(last)}, in {int((last - now) / DAY_S)} days; renew it"
    return ""


def expiry(tls: Tls) -> float:
    """When the certificate ends, Unix seconds. Raises as `server_context`."""
    return _validity(tls)[1]


def server_name(tls: Tls) -> str:
    """A name that the certificate vouches for. Raises as `server_context`."""
    try:
        names = _certificates(tls.cert, "--tls-cert")[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return "localhost"
    found = [name for name in names.value.get_values_for_type(x509.DNSName) if not name.startswith("*")]
    return found[0] if found else "localhost"


def files_state(tls: Tls) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when one of the files is replaced: inode, size and time of each."""
    return tuple(_state(path) for path in (tls.cert, tls.key, tls.client_ca) if path)


def _check_pair(tls: Tls) -> None:
    leaf = _certificates(tls.cert, "--tls-cert")[0]
    content = _read(tls.key, "--tls-key", is_secret=True)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise UsageError(f"{tls.key} is locked by a password; unlock it: openssl pkey -in FILE -out FILE") from None
    except ValueError:
        raise UsageError(f"{tls.key} is not a PEM private key; --tls-key takes the key of {tls.cert}") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise UsageError(f"{tls.key} is not the key of the first certificate in {tls.cert}; give the two that match")
    if tls.client_ca:
        _certificates(tls.client_ca, "--tls-client-ca")


def _certificates(path: str, option: str) -> Sequence[x509.Certificate]:
    content = _read(path, option, is_secret=False)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise UsageError(
            f"{path} holds no PEM certificate; {option} takes a file that begins -----BEGIN CERT…"
        ) from None


def _validity(tls: Tls) -> tuple[float, float]:
    leaf = _certificates(tls.cert, "--tls-cert")[0]
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


def _read(path: str, option: str, *, is_secret: bool) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such file; {option} names it") from None
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({error.strerror}); {option} names it") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a file; {option} takes a PEM file")
        if is_secret:
            _check_secret(Path(path), status)
        return os.read(descriptor, MAX_PEM_BYTES)
    finally:
        os.close(descriptor)


def _check_secret(path: Path, status: os.stat_result) -> None:
    """As PostgreSQL does: ours alone, or root's and readable to a group such as Debian's ssl-cert."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o037 if status.st_uid == 0 else 0o077):
        raise AccessError(f"{path} has mode {mode:04o}: others can reach it; make it private with chmod 0600.")
    if status.st_uid not in (0, os.geteuid()):
        raise AccessError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}) nor to root.")


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
