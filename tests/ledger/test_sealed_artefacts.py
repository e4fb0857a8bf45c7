"""Sealed artefacts: the same digests and sizes as in the open, and nothing of them to be read on the disk."""

from pathlib import Path

import pytest

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, IntegrityError
from shipworthy.ledger.artefacts import Artefact, ArtefactStore
from shipworthy.security.vault import Vault
from tests.vaults import make_vault

CONTENT = b"a model, in plain words " * 9000


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return make_vault(tmp_path)


@pytest.fixture
def store(tmp_path: Path, vault: Vault) -> ArtefactStore:
    return ArtefactStore(tmp_path / "blobs", vault).sealing()


def test_digest_and_size_are_those_of_the_content(store: ArtefactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    artefact = store.put_bytes(CONTENT, "model")
    assert (
        artefact == Artefact(digest_bytes(CONTENT), "model", len(CONTENT)) == store.put_file(tmp_path / "file", "model")
    )
    assert store.get_bytes(artefact.digest) == CONTENT
    assert store.size_of(artefact.digest) == len(CONTENT)
    store.verify(artefact.digest)
    assert b"plain words" not in store.path_of(artefact.digest).read_bytes()


def test_what_lies_in_the_open_is_sealed_when_it_is_put_again_and_never_back(tmp_path: Path, vault: Vault) -> None:
    plain = ArtefactStore(tmp_path / "blobs", vault)
    digest = plain.put_bytes(CONTENT, "model").digest
    assert b"plain words" in plain.path_of(digest).read_bytes()
    plain.sealing().put_bytes(CONTENT, "model")
    assert b"plain words" not in plain.path_of(digest).read_bytes()
    plain.put_bytes(CONTENT, "model")
    assert b"plain words" not in plain.path_of(digest).read_bytes()
    assert plain.get_bytes(digest) == CONTENT


def test_a_sealed_artefact_in_anothers_place_or_changed_is_refused_and_put_again_is_whole(store: ArtefactStore) -> None:
    first, second = (store.put_bytes(content, "a") for content in (b"first", b"second"))
    path = store.path_of(first.digest)
    path.chmod(0o644)
    for harm in (store.path_of(second.digest).read_bytes(), path.read_bytes()[:-1], b"first!"):
        path.write_bytes(harm)
        for read in (store.get_bytes, store.verify):
            with pytest.raises(IntegrityError, match=path.name):
                read(first.digest)
    store.put_bytes(b"first", "a")
    assert store.get_bytes(first.digest) == b"first"


def test_without_a_key_a_sealed_artefact_names_the_cure(store: ArtefactStore, vault: Vault) -> None:
    digest = store.put_bytes(CONTENT, "model").digest
    with pytest.raises(AccessError, match="is encrypted, and this process was given no key"):
        ArtefactStore(store.root).get_bytes(digest)
    with pytest.raises(AccessError, match=r"is encrypted\. The master key environment:"):
        ArtefactStore(store.root, Vault(vault.directory, {})).verify(digest)
    with pytest.raises(AccessError, match="is to be encrypted, and this process was given no key"):
        ArtefactStore(store.root).sealing().put_bytes(b"new", "model")
    assert not [path for path in store.root.rglob(".*") if path.is_file()]
