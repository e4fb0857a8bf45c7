"""The artefact store: content addressed, durable, verified, and no name is a path."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError, NotFoundError, StorageError, UsageError
from shipworthy.ledger.artefacts import Artefact, ArtefactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(tmp_path / "blobs")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5000))
def test_what_was_put_is_got(store: ArtefactStore, content: bytes) -> None:
    artefact = store.put_bytes(content, "model")
    assert artefact == Artefact(digest_bytes(content), "model", len(content))
    assert store.get_bytes(artefact.digest) == content
    assert store.has(artefact.digest)
    store.verify(artefact.digest)


def test_the_same_content_is_kept_once(store: ArtefactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    first = store.put_bytes(b"x" * 3_000_000, "a")
    inode = store.path_of(first.digest).stat().st_ino
    assert store.put_file(tmp_path / "file", "a") == first
    assert store.path_of(first.digest).stat().st_ino == inode
    assert [path for path in store.root.rglob("*") if path.is_file()] == [store.path_of(first.digest)]


def test_a_file_is_kept_by_its_content(store: ArtefactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert store.get_bytes(store.put_file(tmp_path / "file", "a").digest) == b"content"
    with pytest.raises(NotFoundError, match="no such file"):
        store.put_file(tmp_path / "other", "a")


def test_a_changed_artefact_is_refused_and_put_again_is_whole(store: ArtefactStore) -> None:
    artefact = store.put_bytes(b"content", "a")
    path = store.path_of(artefact.digest)
    path.chmod(0o644)
    path.write_bytes(b"contenT")
    with pytest.raises(IntegrityError, match="was changed"):
        store.get_bytes(artefact.digest)
    with pytest.raises(IntegrityError, match="was changed"):
        store.verify(artefact.digest)
    assert store.put_bytes(b"content", "a") == artefact
    assert store.get_bytes(artefact.digest) == b"content"


@pytest.mark.parametrize(
    "digest", ["", "../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:../" + "a" * 61]
)
def test_a_name_never_becomes_a_path(store: ArtefactStore, digest: str) -> None:
    for use in (store.path_of, store.has, store.get_bytes, store.verify):
        with pytest.raises(UsageError, match="not a digest"):
            use(digest)


def test_a_missing_artefact_is_said_so(store: ArtefactStore) -> None:
    for use in (store.get_bytes, store.verify):
        with pytest.raises(NotFoundError, match="is not in"):
            use(digest_bytes(b"never"))


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file, not a directory")
    with pytest.raises(StorageError, match="cannot be"):
        ArtefactStore(tmp_path / "blobs").put_bytes(b"x", "a")


def test_artefacts_are_read_only_files(store: ArtefactStore) -> None:
    path = store.path_of(store.put_bytes(b"x", "a").digest)
    assert os.stat(path).st_mode & 0o777 == 0o444
