"""A release binds everything that travels with a payload; a changed byte anywhere is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom

from shipworthy.bundle.format import ONNX
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError
from shipworthy.release.bill import Package, bill_of_materials, describe_packages
from shipworthy.release.payload import build_payload
from shipworthy.release.policy import Tuning
from shipworthy.release.publish import Documents, place, publish
from shipworthy.security.keys import create_key

CREATED = "2026-11-22T10:00:00Z"
DOCUMENTS = Documents(
    contract=b"shipworthy: 1\n", code=b"def train(): ...\n", verdicts=b"[]", card=b"# card\n", bill=b"{}"
)


@pytest.fixture
def key(tmp_path: Path) -> Any:
    return create_key(tmp_path / "keys", "shipper")


@pytest.fixture
def payload(contract: Any, model: Any, baselines: Any, tmp_path: Path) -> Any:
    return build_payload(contract, {ONNX: model}, Tuning(rows=0, threshold=0.5), baselines, tmp_path / "payload")


def release_of(payload: Any, key: Any, **changes: Any) -> Any:
    settings = {
        "system": "mortgage-approval",
        "version": 7,
        "snapshot": digest_bytes(b"rows"),
        "run": "run_1",
        "author": "ada",
        "created": CREATED,
        "key": key,
        **changes,
    }
    return publish(payload.directory, payload.digest, DOCUMENTS, **settings)


def test_a_published_release_verifies(payload: Any, key: Any, tmp_path: Path) -> None:
    release = release_of(payload, key)
    bundle = place(release, tmp_path / "live" / "local")
    verified = verify_bundle(bundle, {key.public.keyid: key.public}, release.digest)
    assert verified.release == release.name == "mortgage-approval:7"
    predicate = verified.statement.predicate
    assert predicate.payload == payload.digest == verified.payload.digest
    assert predicate.card == digest_bytes(b"# card\n")
    assert sorted(path.name for path in bundle.iterdir()) == [
        "card.md", "code.py", "contract.yaml", "payload", "release.json", "sbom.cdx.json", "verdicts.json",
    ]  # fmt: skip


def test_the_same_inputs_give_the_same_release(payload: Any, key: Any) -> None:
    assert release_of(payload, key).envelope == release_of(payload, key).envelope
    assert release_of(payload, key).digest != release_of(payload, key, version=8).digest


@pytest.mark.parametrize("file", ["card.md", "contract.yaml", "verdicts.json", "payload/policy.json", "release.json"])
def test_a_flipped_byte_is_refused(file: Any, payload: Any, key: Any, tmp_path: Path) -> None:
    bundle = place(release_of(payload, key), tmp_path / "live" / "local")
    content = bytearray((bundle / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / file).write_bytes(content)
    with pytest.raises(IntegrityError):
        verify_bundle(bundle, {key.public.keyid: key.public})


def test_a_changed_payload_is_not_published(payload: Any, key: Any) -> None:
    (payload.directory / "model.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        release_of(payload, key)


def test_a_payload_of_another_system_is_not_published(payload: Any, key: Any) -> None:
    with pytest.raises(IntegrityError, match="cannot hold it"):
        release_of(payload, key, system="other")


BILL: dict[str, Any] = {
    "system": "mortgage-approval",
    "version": 7,
    "payload": digest_bytes(b"payload"),
    "model": digest_bytes(b"model"),
    "model_kind": "LGBMClassifier",
    "created": CREATED,
}


def test_the_bill_lists_the_model_and_every_package() -> None:
    packages = [Package("numpy", "2.4.6", "BSD-3-Clause"), Package("typing_extensions", "4.16.0")]
    content = bill_of_materials(**BILL, packages=packages)
    assert content == bill_of_materials(**BILL, packages=packages)
    bill = json.loads(content)
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["timestamp"]) == ("CycloneDX", "1.6", CREATED)
    model, numpy, extensions = bill["components"]
    assert (model["type"], model["hashes"][0]["content"]) == ("machine-learning-model", digest_bytes(b"model")[7:])
    assert numpy["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert extensions["purl"] == "pkg:pypi/typing-extensions@4.16.0"
    references = {component["bom-ref"] for component in bill["components"]}
    assert set(bill["dependencies"][0]["dependsOn"]) == references
    assert len(references) == 3


def test_a_foreign_library_reads_the_bill() -> None:
    content = bill_of_materials(**BILL, packages=describe_packages({"numpy": "2", "msgspec": "0"}))
    bom = Bom.from_json(json.loads(content))
    assert {component.name for component in bom.components} == {"mortgage-approval-model", "numpy", "msgspec"}


def test_licences_are_read_only_from_the_version_that_is_installed() -> None:
    import importlib.metadata

    installed = importlib.metadata.version("numpy")
    right, wrong = describe_packages({"numpy": installed})[0], describe_packages({"numpy": "0.1"})[0]
    assert right.license is not None
    assert wrong.license is None
    assert describe_packages({"no-such-package": "1"})[0].license is None


def test_documents_are_named_one_by_one() -> None:
    assert len(DOCUMENTS.files()) == len(dataclasses.fields(Documents))
