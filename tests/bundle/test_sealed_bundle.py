"""Sealed bundles: verified as plain ones, unreadable without their key, and copied as they lie."""

from pathlib import Path

import pytest

from shipworthy.bundle.deployment import write_bundle, write_payload
from shipworthy.bundle.format import PAYLOAD_FILES
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.errors import AccessError, IntegrityError
from shipworthy.security.vault import Vault, is_sealed
from tests.bundle.test_bundle import CARD, FILES, KEYS, make_statement, sign
from tests.vaults import make_vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return make_vault(tmp_path)


@pytest.fixture
def release(tmp_path: Path) -> tuple[bytes, dict[str, bytes]]:
    """A signed statement and the payload's files."""
    digest = write_payload(tmp_path / "payload", "loans", "binary", FILES)
    return sign(make_statement(digest)), {path.name: path.read_bytes() for path in (tmp_path / "payload").iterdir()}


@pytest.fixture
def bundle(tmp_path: Path, release: tuple[bytes, dict[str, bytes]], vault: Vault) -> Path:
    return write_bundle(tmp_path / "live" / "local", *release, {"card.md": CARD}, vault=vault)


def test_a_sealed_bundle_is_the_same_release(
    tmp_path: Path, release: tuple[bytes, dict[str, bytes]], bundle: Path, vault: Vault
) -> None:
    plain = write_bundle(tmp_path / "plain" / "local", *release, {"card.md": CARD})
    assert bundle.name == plain.name
    assert verify_bundle(bundle, KEYS, vault=vault) == verify_bundle(plain, KEYS)
    assert all(is_sealed((bundle / "payload" / name).read_bytes()) for name in PAYLOAD_FILES)


def test_a_copy_of_a_sealed_bundle_is_sealed_too(tmp_path: Path, bundle: Path, vault: Vault) -> None:
    payload = {path.name: path.read_bytes() for path in (bundle / "payload").iterdir()}
    copy = write_bundle(
        tmp_path / "other" / "local", (bundle / "release.json").read_bytes(), payload, {"card.md": CARD}
    )
    assert verify_bundle(copy, KEYS, vault=vault).release == "loans:7"


def test_without_its_key_a_sealed_bundle_names_file_and_cure(bundle: Path, vault: Vault) -> None:
    with pytest.raises(AccessError, match=r"payload/model\.onnx is encrypted, and this process was given no key"):
        verify_bundle(bundle, KEYS)
    with pytest.raises(
        AccessError, match=r"payload/model\.onnx is encrypted\. The master key environment:.* not here; set"
    ):
        verify_bundle(bundle, KEYS, vault=Vault(vault.directory, {}))


@pytest.mark.parametrize("name", PAYLOAD_FILES)
def test_a_sealed_file_that_was_changed_cut_or_swapped_is_refused(bundle: Path, vault: Vault, name: str) -> None:
    path = bundle / "payload" / name
    content = path.read_bytes()
    other = (bundle / "payload" / PAYLOAD_FILES[PAYLOAD_FILES.index(name) - 1]).read_bytes()
    middle = len(content) // 2
    for harm in (content[:-1], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], other):
        path.write_bytes(harm)
        with pytest.raises(IntegrityError, match=rf"payload/{name} was changed|{name} has"):
            verify_bundle(bundle, KEYS, vault=vault)
    path.write_bytes(vault.seal(b"{}", f"payload/{name}"))  # by somebody who has the key
    with pytest.raises(IntegrityError, match="the manifest says"):
        verify_bundle(bundle, KEYS, vault=vault)


def test_a_bundle_that_cannot_be_sealed_leaves_nothing(tmp_path: Path, release: tuple[bytes, dict[str, bytes]]) -> None:
    with pytest.raises(AccessError, match="there is no data key to encrypt with"):
        write_bundle(tmp_path / "live" / "local", *release, vault=Vault(tmp_path / "none", {}))
    assert list((tmp_path / "live" / "local" / "bundles").iterdir()) == []
