"""Certificates are looked at before a plane starts, and a plane is never offered in the open."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from shipworthy.kernel.errors import AccessError, NotFoundError, UsageError
from shipworthy.security.binding import Binding, Tls, check_binding, make_tls
from shipworthy.security.tls import check_tls, files_state, server_context
from tests.certificates import DAY, NOW, Authority

NOW_S = NOW.timestamp()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> Tls:
    pair = authority.issue("server")
    return Tls(str(pair.cert), str(pair.key))


@contextmanager
def listening(tls: Tls) -> Iterator[int]:
    """A socket that takes one connection under `tls` and says what was agreed on."""
    context = server_context(tls)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            try:
                with server.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as wire:
                    wire.sendall(str(wire.version()).encode())
            except OSError:
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def agree(port: int, authority: Authority, version: ssl.TLSVersion, ciphers: str | None = None) -> str:
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        return wire.recv(100).decode()


@pytest.mark.parametrize(
    ("version", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
def test_tls_1_2_and_1_3_are_spoken(tls: Tls, authority: Authority, version: ssl.TLSVersion, name: str) -> None:
    with listening(tls) as port:
        assert agree(port, authority, version) == name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"),  # no AEAD
    ],
)
def test_older_versions_and_ciphers_are_refused(
    tls: Tls, authority: Authority, version: ssl.TLSVersion, ciphers: str
) -> None:
    with (
        listening(tls) as port,
        pytest.raises(ssl.SSLError, match=r"(?i)(protocol.version|handshake.failure)"),
    ):
        agree(port, authority, version, ciphers)


def test_a_context_is_hardened(tls: Tls) -> None:
    context = server_context(tls)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-")) and "SHA1" not in name and "CBC" not in name for name in names)


def test_a_good_certificate_has_nothing_said_about_it(tls: Tls) -> None:
    assert check_tls(tls, NOW_S) == ""


def test_a_certificate_that_ends_soon_is_said(authority: Authority) -> None:
    pair = authority.issue("soon", ends=NOW + 12 * DAY)
    said = check_tls(Tls(str(pair.cert), str(pair.key)), NOW_S)
    assert said == f"{pair.cert}: the certificate ends on {NOW + 12 * DAY:%Y-%m-%d}, in 12 days; renew it"


def test_a_certificate_that_ended_or_has_not_begun_is_refused(authority: Authority) -> None:
    old = authority.issue("old", begins=NOW - 9 * DAY, ends=NOW - DAY)
    with pytest.raises(UsageError, match=f"the certificate ended on {NOW - DAY:%Y-%m-%d}; renew it"):
        check_tls(Tls(str(old.cert), str(old.key)), NOW_S)
    young = authority.issue("young", begins=NOW + DAY)
    with pytest.raises(UsageError, match=r"begins on \S+; this machine's clock says"):
        check_tls(Tls(str(young.cert), str(young.key)), NOW_S)


def test_files_that_are_missing_or_not_pem_are_named(tls: Tls, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("not a certificate")
    junk.chmod(0o600)
    with pytest.raises(NotFoundError, match=r"nowhere: there is no such file; --tls-cert names it"):
        server_context(Tls(str(tmp_path / "nowhere"), tls.key))
    with pytest.raises(NotFoundError, match=r"nowhere: there is no such file; --tls-key names it"):
        server_context(Tls(tls.cert, str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match=r"junk holds no PEM certificate; --tls-cert"):
        server_context(Tls(str(junk), tls.key))
    with pytest.raises(UsageError, match=r"junk is not a PEM private key"):
        server_context(Tls(tls.cert, str(junk)))
    with pytest.raises(UsageError, match=r"junk holds no PEM certificate; --tls-client-ca"):
        server_context(Tls(tls.cert, tls.key, str(junk)))
    with pytest.raises(UsageError, match="is not a file"):
        server_context(Tls(str(tmp_path), tls.key))


def test_a_key_of_another_certificate_is_refused(tls: Tls, authority: Authority) -> None:
    other = authority.issue("other")
    with pytest.raises(UsageError, match=r"other\.key is not the key of the first certificate in .*server\.pem"):
        server_context(Tls(tls.cert, str(other.key)))


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    pair = authority.issue("loose")
    for mode in (0o604, 0o660, 0o644, 0o601):
        pair.key.chmod(mode)
        with pytest.raises(AccessError, match=f"has mode {mode:04o}: others can reach it; make it private with chmod"):
            server_context(Tls(str(pair.cert), str(pair.key)))
    pair.key.chmod(0o400)
    server_context(Tls(str(pair.cert), str(pair.key)))


def test_a_locked_key_is_refused_without_asking_at_the_terminal(tls: Tls, authority: Authority) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(Path(tls.key).read_bytes(), None)
    locked = Path(tls.key).with_name("locked.key")
    locked.touch(mode=0o600)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(UsageError, match="is locked by a password; unlock it: openssl pkey"):
        server_context(Tls(tls.cert, str(locked)))


def test_a_replaced_file_changes_the_state(authority: Authority) -> None:
    pair = authority.issue("renewed")
    tls = Tls(str(pair.cert), str(pair.key))
    before = files_state(tls)
    assert files_state(tls) == before
    authority.issue("renewed")
    assert files_state(tls) != before
    pair.cert.unlink()
    assert None in files_state(tls)


# --- where to listen


def test_loopback_needs_nothing(tls: Tls) -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_binding(Binding(host))
        check_binding(Binding(host), is_open=True)
        check_binding(Binding(host, tls))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "models.example.com", "127.0.0.1.example.com", "127.1"])  # noqa: S104
def test_another_address_takes_tokens_and_tls(tls: Tls, host: str) -> None:
    with pytest.raises(UsageError, match=r"is not loopback: give --tls-cert and --tls-key"):
        check_binding(Binding(host))
    with pytest.raises(UsageError, match="an open server answers this machine alone"):
        check_binding(Binding(host, tls), is_open=True)
    check_binding(Binding(host, tls))
    check_binding(Binding(host, is_upstream=True))


def test_an_open_server_is_not_put_behind_a_proxy() -> None:
    with pytest.raises(UsageError, match="an open server behind a proxy answers everybody"):
        check_binding(Binding("127.0.0.1", is_upstream=True), is_open=True)


def test_addresses_and_names_are_read_strictly(tls: Tls) -> None:
    for host in ("", "http://127.0.0.1", "a b", "-x"):
        with pytest.raises(UsageError, match="is no address"):
            check_binding(Binding(host, tls))
    for name in ("", "https://models.example.com", "models.example.com:8080", "*.example.com"):
        with pytest.raises(UsageError, match=r"is no name; give models\.example\.com, without scheme and port"):
            check_binding(Binding(allowed_hosts=(name,)))


def test_a_certificate_and_its_key_go_together() -> None:
    for names in (("a", "", ""), ("", "b", ""), ("", "b", "c")):
        with pytest.raises(UsageError, match="--tls-cert and --tls-key go together"):
            make_tls(*names)
    with pytest.raises(UsageError, match="--tls-client-ca asks callers for certificates"):
        make_tls("", "", "c")
    assert make_tls("", "", "") is None
    assert make_tls("a", "b", "c") == Tls("a", "b", "c")


def test_health_can_say_how_a_plane_is_protected(tls: Tls) -> None:
    modes = [
        Binding().mode,
        Binding(is_upstream=True).mode,
        Binding(tls=tls).mode,
        Binding(tls=Tls(tls.cert, tls.key, "ca")).mode,
    ]
    assert modes == ["none, loopback", "upstream", "tls 1.2+", "mutual"]
