"""Data keys and their masters: from a file, the environment or a command; changed without losing anything."""

import os
import stat
import sys
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError, UsageError
from shipworthy.security.datakeys import active_data_key, list_data_keys, make_data_key, wrap_anew
from shipworthy.security.master import BEFORE_SETTING, COMMAND_SETTING, KEY_SETTING, wrapping_master
from shipworthy.security.vault import Vault

KMS = """\
import sys
from pathlib import Path
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
key, content = Path(sys.argv[1]).read_bytes(), sys.stdin.buffer.read()
with open(sys.argv[1] + ".calls", "a") as calls:
    calls.write(sys.argv[2] + "\\n")
sys.stdout.buffer.write({"wrap": aes_key_wrap, "unwrap": aes_key_unwrap}[sys.argv[2]](key, content))
"""


def new_key() -> str:
    return b64encode(os.urandom(32)).decode()


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def kms(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A stand-in for a KMS, in a process of its own, and the setting that names it."""
    (tmp_path / "kms.py").write_text(KMS)
    (tmp_path / "kms.key").write_bytes(os.urandom(32))
    command = f"{sys.executable} {tmp_path / 'kms.py'} {tmp_path / 'kms.key'}"
    return tmp_path / "kms.key.calls", {COMMAND_SETTING: command}


def test_the_first_key_makes_a_private_master_file(tmp_path: Path, home: dict[str, str]) -> None:
    key = make_data_key(tmp_path / "data", home, 0.0)
    path = tmp_path / "config" / "shipworthy" / "keys" / "master.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert key.master.startswith("file:")
    assert path.read_text().strip() not in (tmp_path / "data" / f"{key.id}.json").read_text()


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_master_file_that_others_can_read_is_refused(tmp_path: Path, home: dict[str, str], mode: int) -> None:
    make_data_key(tmp_path / "data", home, 0.0)
    (tmp_path / "config" / "shipworthy" / "keys" / "master.key").chmod(mode)
    with pytest.raises(AccessError, match=rf"master\.key has mode 0{mode:o}.*chmod 0600"):
        Vault(tmp_path / "data", home).seal(b"", "x")


def test_a_new_data_key_seals_and_the_old_one_still_opens(tmp_path: Path, home: dict[str, str]) -> None:
    first = make_data_key(tmp_path / "data", home, 0.0)
    vault = Vault(tmp_path / "data", home)
    old = vault.seal(b"old", "x")
    second = make_data_key(tmp_path / "data", home, 1.0)
    new = vault.seal(b"new", "x")  # the same vault: a server need not start again
    assert (first.id.encode() in old, second.id.encode() in new) == (True, True)
    assert [Vault(tmp_path / "data", home).open(sealed, "x") for sealed in (old, new)] == [b"old", b"new"]
    assert [key.state for key in list_data_keys(tmp_path / "data")] == ["retired", "active"]


def test_a_new_master_file_wraps_everything_and_the_old_one_is_worth_nothing(
    tmp_path: Path, home: dict[str, str]
) -> None:
    for now in range(3):
        make_data_key(tmp_path / "data", home, float(now))
    sealed = Vault(tmp_path / "data", home).seal(b"rows", "x")
    path = tmp_path / "config" / "shipworthy" / "keys" / "master.key"
    before = path.read_bytes()
    master, count = wrap_anew(tmp_path / "data", home)
    assert (count, {key.master for key in list_data_keys(tmp_path / "data")}) == (3, {master})
    assert Vault(tmp_path / "data", home).open(sealed, "x") == b"rows"
    path.write_bytes(before)
    with pytest.raises(AccessError, match=f"The master key {master} is not here"):
        Vault(tmp_path / "data", home).open(sealed, "x")


def test_another_project_of_the_same_user_stays_readable_when_the_master_file_changes(
    tmp_path: Path, home: dict[str, str]
) -> None:
    for name in ("one", "two"):
        make_data_key(tmp_path / name, home, 0.0)
    sealed = Vault(tmp_path / "two", home).seal(b"rows", "x")
    master, _ = wrap_anew(tmp_path / "one", home)
    assert Vault(tmp_path / "two", home).open(sealed, "x") == b"rows"
    assert make_data_key(tmp_path / "two", home, 1.0).master == master
    kept = [path for path in (tmp_path / "config" / "shipworthy" / "keys").iterdir() if path.name != "master.key"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]


def test_a_rotation_of_the_master_that_was_stopped_is_carried_on(tmp_path: Path, home: dict[str, str]) -> None:
    for now in range(3):
        make_data_key(tmp_path / "data", home, float(now))
    sealed = Vault(tmp_path / "data", home).seal(b"rows", "x")
    old = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    keys = tmp_path / "config" / "shipworthy" / "keys"
    first = (keys / "master.key").read_bytes()
    master, _ = wrap_anew(tmp_path / "data", home)
    (keys / "master.key").replace(keys / "master.key.next")  # as if stopped after one of three keys
    (keys / "master.key").touch(0o600)
    (keys / "master.key").write_bytes(first)
    for path in keys.glob("master.key.????????????????"):
        path.unlink()
    for path in list(old)[1:]:
        path.write_bytes(old[path])
    assert Vault(tmp_path / "data", home).open(sealed, "x") == b"rows"
    assert wrap_anew(tmp_path / "data", home) == (master, 3)
    assert not (keys / "master.key.next").exists()
    assert Vault(tmp_path / "data", home).open(sealed, "x") == b"rows"


def test_a_master_from_the_environment_follows_the_file(tmp_path: Path, home: dict[str, str]) -> None:
    make_data_key(tmp_path / "data", home, 0.0)
    sealed = Vault(tmp_path / "data", home).seal(b"rows", "x")
    set_ = {KEY_SETTING: new_key()}
    assert wrap_anew(tmp_path / "data", home | set_)[0].startswith("environment:")
    assert Vault(tmp_path / "data", set_).open(sealed, "x") == b"rows"  # no file, no home
    changed = {KEY_SETTING: new_key(), BEFORE_SETTING: set_[KEY_SETTING]}
    wrap_anew(tmp_path / "data", changed)
    assert Vault(tmp_path / "data", {KEY_SETTING: changed[KEY_SETTING]}).open(sealed, "x") == b"rows"
    with pytest.raises(AccessError, match=f"set {KEY_SETTING}, or {BEFORE_SETTING}, to the key that wrapped it"):
        Vault(tmp_path / "data", set_).open(sealed, "x")


def test_a_command_keeps_its_master_key_and_is_asked_once(
    tmp_path: Path, home: dict[str, str], kms: tuple[Path, dict[str, str]]
) -> None:
    calls, setting = kms
    make_data_key(tmp_path / "data", setting, 0.0)
    vault = Vault(tmp_path / "data", setting)
    sealed = [vault.seal(b"rows", str(at)) for at in range(20)]
    assert [vault.open(content, str(at)) for at, content in enumerate(sealed)] == [b"rows"] * 20
    assert calls.read_text().split() == ["wrap", "unwrap"]
    assert not (tmp_path / "config").exists()
    with pytest.raises(AccessError, match=f"The master key command is not here; set {COMMAND_SETTING}"):
        Vault(tmp_path / "data", home).open(sealed[0], "0")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("false", r"false ended with 1: it said nothing"),
        ("/no/such/hook", r"/no/such/hook cannot be started \(No such file"),
        ("cat", r"cat wrap gave the key back unwrapped|cat ended with 1"),
        ("'open", r"is no command \(No closing quotation\)"),
        ("true", r"true wrap gave the key back unwrapped, or nothing"),
        ("  ", r"is empty; give a command"),
    ],
)
def test_a_command_that_does_not_wrap_is_refused_and_nothing_is_made(tmp_path: Path, command: str, words: str) -> None:
    with pytest.raises((AccessError, UsageError), match=words):
        make_data_key(tmp_path / "data", {COMMAND_SETTING: command}, 0.0)
    assert list_data_keys(tmp_path / "data") == []


@pytest.mark.parametrize("text", ["", "short", "QUJD", b64encode(bytes(32)).decode() + "AA", "é" * 32])
def test_a_setting_that_is_no_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    if not text:
        assert wrapping_master({KEY_SETTING: "", "XDG_CONFIG_HOME": str(tmp_path)}).name.startswith("file:")
        return
    with pytest.raises(UsageError, match=f"{KEY_SETTING} is not a master key: 32 bytes in base64") as error:
        make_data_key(tmp_path / "data", {KEY_SETTING: text}, 0.0)
    assert text not in str(error.value)


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other.replace(second.stem.encode(), first.stem.encode()))
    second.write_bytes(one.replace(first.stem.encode(), second.stem.encode()))


def flip(first: Path, second: Path) -> None:
    first.write_bytes(first.read_bytes().replace(b'"wrapped": "', b'"wrapped": "AAAA'))


def rename(first: Path, second: Path) -> None:
    first.write_bytes(second.read_bytes())


def garble(first: Path, second: Path) -> None:
    first.write_bytes(b"{")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (swap, "data key .* was changed since file:.* wrapped it"),
        (flip, "data key .* was changed since file:.* wrapped it"),
        (rename, "its name says another"),
        (garble, "is no data key"),
    ],
)
def test_a_data_key_that_was_harmed_is_refused(
    tmp_path: Path, home: dict[str, str], harm: Callable[[Path, Path], Any], words: str
) -> None:
    first, second = (make_data_key(tmp_path / "data", home, now) for now in (0.0, 1.0))
    sealed = Vault(tmp_path / "data", home).seal(b"", "x")
    harm(tmp_path / "data" / f"{second.id}.json", tmp_path / "data" / f"{first.id}.json")
    with pytest.raises(IntegrityError, match=words):
        Vault(tmp_path / "data", home).open(sealed, "x")


def test_an_interrupted_rotation_leaves_the_newer_key_sealing(tmp_path: Path, home: dict[str, str]) -> None:
    make_data_key(tmp_path / "data", home, 0.0)
    older = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    second = make_data_key(tmp_path / "data", home, 1.0)
    for path, content in older.items():  # its retirement was not written
        path.write_bytes(content)
    active = active_data_key(tmp_path / "data")
    assert active is not None
    assert active.id == second.id


def test_a_missing_key_file_is_named(tmp_path: Path, home: dict[str, str]) -> None:
    from shipworthy.security.datakeys import find_data_key

    with pytest.raises(NotFoundError, match="the data key 0123456789abcdef is not here"):
        find_data_key(tmp_path, "0123456789abcdef")
