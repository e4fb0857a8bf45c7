"""Sealed snapshots: the same digests as in the open, beside the table, and nothing of a row to be read."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.snapshot import Snapshot, read, take
from shipworthy.kernel.errors import AccessError, IntegrityError
from shipworthy.security.vault import Vault
from tests.data.test_snapshot import FRAME
from tests.vaults import make_vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return make_vault(tmp_path)


def only(snapshot: Snapshot) -> Path:
    (path,) = snapshot.path.with_name(snapshot.path.name + ".sealed").glob("*.parquet")
    return path


def test_a_sealed_snapshot_is_read_back_with_the_digest_of_a_plain_one(make: Any, tmp_path: Path, vault: Vault) -> None:
    sealed, plain = take(make(), FRAME, tmp_path / "a", vault), take(make(), FRAME, tmp_path / "b")
    assert sealed.digest == plain.digest
    assert read(sealed, vault).equals(FRAME)
    assert read(sealed, vault).schema == FRAME.schema
    assert not (tmp_path / "a" / "loans").exists()
    assert b"PAR1" not in only(sealed).read_bytes()


def test_the_same_rows_are_one_version_and_others_the_next(make: Any, tmp_path: Path, vault: Vault) -> None:
    first = take(make(), FRAME, tmp_path, vault)
    assert take(make(), FRAME.clone(), tmp_path, vault) == first
    second = take(make(), FRAME.head(2), tmp_path, vault)
    assert (first.version, second.version) == (0, 1)
    assert read(second, vault).equals(FRAME.head(2))


def test_snapshots_in_the_open_stay_readable_beside_sealed_ones(make: Any, tmp_path: Path, vault: Vault) -> None:
    plain = take(make(), FRAME, tmp_path)
    sealed = take(make(), FRAME.head(3), tmp_path, vault)
    again = take(make(), FRAME, tmp_path, vault)
    assert (read(plain, vault).height, read(sealed, vault).height, read(again, vault).height) == (4, 3, 4)
    assert (plain.version, sealed.version, again.version) == (0, 1, 2)  # a number names one version


def test_a_sealed_snapshot_without_its_key_or_changed_is_refused(make: Any, tmp_path: Path, vault: Vault) -> None:
    snapshot = take(make(), pl.DataFrame({"n": range(1000)}), tmp_path, vault)
    with pytest.raises(AccessError, match="is encrypted, and this process was given no key"):
        read(snapshot)
    path = only(snapshot)
    content = path.read_bytes()
    path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(IntegrityError, match=f"{path.name} was changed at byte 56 or after"):
        read(snapshot, vault)
    path.write_bytes(vault.seal(b"no table", f"snapshot/{snapshot.digest}"))
    with pytest.raises(IntegrityError, match="does not hold a table"):
        read(snapshot, vault)
    other = take(make(), FRAME, tmp_path / "other", vault)
    forged = vault.open(only(other).read_bytes(), f"snapshot/{other.digest}")
    path.write_bytes(vault.seal(forged, f"snapshot/{snapshot.digest}"))
    with pytest.raises(IntegrityError, match="the rows of version 0 have digest"):
        read(snapshot, vault)
