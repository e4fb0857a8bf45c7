"""The vault: what was sealed comes back whole under its own name, or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.errors import AccessError, IntegrityError, ShipworthyError
from shipworthy.security.datakeys import list_data_keys, make_data_key
from shipworthy.security.vault import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, Vault, is_sealed

SOAK = int(os.environ.get("SHIPWORTHY_SOAK", "1"))
EDGES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7)
PIECE = CHUNK_BYTES + TAG_BYTES


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    top = tmp_path_factory.mktemp("vault")
    environment = {"XDG_CONFIG_HOME": str(top)}
    make_data_key(top / "data", environment, 0.0)
    return Vault(top / "data", environment)


@pytest.mark.parametrize("size", EDGES)
def test_what_was_sealed_comes_back(vault: Vault, size: int) -> None:
    content = os.urandom(size)
    sealed = vault.seal(content, "payload/model.onnx")
    assert is_sealed(sealed)
    assert vault.open(sealed, "payload/model.onnx") == content
    assert len(sealed) == HEADER_BYTES + size + TAG_BYTES * max(1, -(-size // CHUNK_BYTES))
    assert content[:64] not in sealed or size < 8


@settings(deadline=None, max_examples=30 * SOAK)
@given(st.lists(st.binary(max_size=3 * CHUNK_BYTES), max_size=4), st.integers(1, 2 * PIECE))
def test_pieces_of_any_length_are_the_same_object(vault: Vault, pieces: list[bytes], width: int) -> None:
    sealed = b"".join(vault.seal_chunks(pieces, "x"))
    parted = (sealed[at : at + width] for at in range(0, len(sealed), width))
    assert b"".join(vault.open_chunks(parted, "x")) == b"".join(pieces)


def test_the_same_content_is_never_sealed_alike(vault: Vault) -> None:
    assert len({vault.seal(b"same", "x") for _ in range(50)}) == 50


def test_an_object_under_another_name_is_refused(vault: Vault) -> None:
    sealed = vault.seal(b"rows", "quarantine/a")
    with pytest.raises(IntegrityError, match=r"quarantine/b was changed at byte 56 or after, or is not what its place"):
        vault.open(sealed, "quarantine/b")


def test_a_cut_at_a_chunk_is_called_a_cut(vault: Vault) -> None:
    sealed = vault.seal(bytes(3 * CHUNK_BYTES), "x")
    with pytest.raises(IntegrityError, match=rf"x was cut at byte {HEADER_BYTES + 2 * PIECE}; restore"):
        vault.open(sealed[: HEADER_BYTES + 2 * PIECE], "x")


def tampered(sealed: bytes) -> Iterator[tuple[str, bytes]]:
    """Directed damage of every kind to an object of three chunks."""
    first, second, third = (sealed[HEADER_BYTES + at * PIECE :][:PIECE] for at in range(3))
    header = sealed[:HEADER_BYTES]
    yield "reordered", header + second + first + third
    yield "left out", header + first + third
    yield "twice", header + first + second + second + third
    yield "last first", header + third + first + second
    yield "cut in the header", sealed[: HEADER_BYTES - 1]
    yield "cut in a chunk", sealed[:-20]
    yield "cut to the header", header
    yield "appended", sealed + b"x"
    yield "another salt", header[:-1] + bytes([header[-1] ^ 1]) + sealed[HEADER_BYTES:]


def test_damage_of_every_kind_is_found(vault: Vault) -> None:
    sealed = vault.seal(os.urandom(2 * CHUNK_BYTES + 100), "x")
    for kind, damaged in tampered(sealed):
        with pytest.raises(IntegrityError, match="x "):
            pytest.fail(f"{kind}: {len(vault.open(damaged, 'x'))} bytes came back")


def test_every_flipped_bit_is_found(vault: Vault) -> None:
    sealed = vault.seal(os.urandom(300), "x")
    for at in range(0, 8 * len(sealed), 1 if SOAK > 1 else 13):
        damaged = bytearray(sealed)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(ShipworthyError):  # of the id: another key is named, which is not here
            vault.open(bytes(damaged), "x")


def test_without_its_key_an_object_names_the_key_and_the_cure(vault: Vault, tmp_path: Path) -> None:
    sealed = vault.seal(b"rows", "x")
    (key,) = list_data_keys(vault.directory)
    with pytest.raises(AccessError, match=rf"a\.csv is encrypted under the data key {key.id}.*copy {key.id}\.json"):
        Vault(tmp_path / "none", vault.environment).open(sealed, "x", "a.csv")
    with pytest.raises(AccessError, match=r"a\.csv is encrypted\. The master key file:\w{16} is not here; copy master"):
        Vault(vault.directory, {"XDG_CONFIG_HOME": str(tmp_path)}).open(sealed, "x", "a.csv")


def test_nothing_is_sealed_without_a_data_key(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"there is no data key to encrypt with.*key rotate --data"):
        Vault(tmp_path / "data", {"XDG_CONFIG_HOME": str(tmp_path)}).seal(b"", "x")


def test_what_a_destroyed_key_sealed_is_gone_and_says_so(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    key = make_data_key(tmp_path / "data", environment, 0.0)
    sealed = Vault(tmp_path / "data", environment).seal(b"rows", "x")
    gone = msgspec.structs.replace(key, state="destroyed", wrapped="")
    (tmp_path / "data" / f"{key.id}.json").write_bytes(msgspec.json.encode(gone))
    with pytest.raises(AccessError, match="was destroyed: what it sealed cannot be read again"):
        Vault(tmp_path / "data", environment).open(sealed, "x")


def test_a_vault_never_shows_its_keys(vault: Vault) -> None:
    vault.seal(b"", "x")
    assert repr(vault) == f"Vault(directory={vault.directory!r})"
