"""Keys: private ones stay private, public ones are found and never replaced."""

import copy
import os
import pickle  # noqa: TID251 - shows that a key refuses it
from pathlib import Path

import pytest

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, UsageError
from shipworthy.security.keys import (
    PublicKey,
    SigningKey,
    create_key,
    key_directory,
    load_key,
    load_public_key,
    load_public_keys,
)

RFC8032_TEST_3 = (  # section 7.1
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    "af82",
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
)


def test_signatures_are_those_of_rfc_8032() -> None:
    seed, public, message, signature = (bytes.fromhex(text) for text in RFC8032_TEST_3)
    key = SigningKey.from_seed("rfc", seed)
    assert key.public.raw == public
    assert key.sign(message) == signature
    key.public.verify(message, signature)


@pytest.mark.parametrize("signature", [bytes(64), b"", b"short", bytes(65)])
def test_a_wrong_signature_is_an_integrity_error(signature: bytes) -> None:
    key = SigningKey.from_seed("k", bytes(32))
    with pytest.raises(IntegrityError, match="does not match its content"):
        key.public.verify(b"content", signature)


def test_a_created_key_is_loaded_again_and_only_its_owner_can_reach_it(tmp_path: Path) -> None:
    directory = tmp_path / "config" / "keys"
    made = create_key(directory, "signer")
    assert load_key(directory, "signer").sign(b"x") == made.sign(b"x")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in directory.iterdir()] == ["signer.key"]
    assert (directory / "signer.key").stat().st_mode & 0o777 == 0o600


def test_a_second_key_of_the_same_name_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    first = create_key(tmp_path / "keys", "signer")
    with pytest.raises(ConflictError, match="exists"):
        create_key(tmp_path / "keys", "signer")
    assert load_key(tmp_path / "keys", "signer").public == first.public
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["signer.key"]


@pytest.mark.parametrize(("what", "mode"), [("keys/signer.key", 0o640), ("keys/signer.key", 0o604), ("keys", 0o750)])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, what: str, mode: int) -> None:
    create_key(tmp_path / "keys", "signer")
    (tmp_path / what).chmod(mode)
    with pytest.raises(AccessError, match=f"has mode {mode:04o}.*chmod"):
        load_key(tmp_path / "keys", "signer")


def test_a_link_is_not_a_key(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "signer")
    (tmp_path / "keys" / "other.key").symlink_to(tmp_path / "keys" / "signer.key")
    with pytest.raises(AccessError, match="plain file"):
        load_key(tmp_path / "keys", "other")


@pytest.mark.parametrize("name", ["", "../signer", "a/b", ".hidden", "UPPER", "x" * 65, "a\n"])
def test_a_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        create_key(tmp_path, name)
    with pytest.raises(UsageError, match="cannot be named"):
        load_key(tmp_path, name)


def test_a_missing_key_says_where_it_should_come_from(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="copy it there from where it was made"):
        load_key(tmp_path / "nowhere", "signer")


def test_a_file_that_is_no_key_is_an_integrity_error(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "signer")
    (tmp_path / "keys" / "signer.key").write_bytes(b"not a key")
    with pytest.raises(IntegrityError, match="not a PEM private key"):
        load_key(tmp_path / "keys", "signer")


def test_public_keys_are_found_by_keyid(tmp_path: Path) -> None:
    keys = [create_key(tmp_path / "private", name).public for name in ("a", "b")]
    for name, key in zip("ab", keys, strict=True):
        key.write_public(tmp_path / "public" / f"{name}.pub")
    assert load_public_keys(tmp_path / "public") == {key.keyid: key for key in keys}
    assert load_public_keys(tmp_path / "missing") == {}


def test_a_public_key_is_never_replaced_silently(tmp_path: Path) -> None:
    key, other = (create_key(tmp_path / "private", name).public for name in ("a", "b"))
    path = tmp_path / "signer.pub"
    key.write_public(path)
    key.write_public(path)
    with pytest.raises(ConflictError, match="another public key"):
        other.write_public(path)
    assert load_public_key(path) == key


def test_a_broken_public_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pub").write_text("garbage")
    with pytest.raises(IntegrityError, match=r"x\.pub is not a PEM public key"):
        load_public_keys(tmp_path)
    with pytest.raises(NotFoundError, match="no such public key"):
        load_public_key(tmp_path / "y.pub")
    with pytest.raises(IntegrityError, match="31 bytes"):
        PublicKey(bytes(31))


def test_the_key_directory_follows_the_environment() -> None:
    assert key_directory({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}) == Path("/c/shipworthy/keys")
    assert key_directory({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}) == Path("/h/.config/shipworthy/keys")
    with pytest.raises(UsageError, match="set HOME"):
        key_directory({})


def test_a_private_key_shows_neither_in_repr_nor_in_a_copy(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys", "signer")
    secret = (tmp_path / "keys" / "signer.key").read_text().splitlines()[1]
    assert secret not in repr(key)
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(AccessError, match="does not leave its process"):
            leave(key)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "signer")
    os.chown(tmp_path / "keys" / "signer.key", 65534, 65534)
    with pytest.raises(AccessError, match="belongs to user 65534"):
        load_key(tmp_path / "keys", "signer")
