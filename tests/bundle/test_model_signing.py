"""Payloads signed as OpenSSF Model Signing has it: a verifier that we did not write accepts ours."""

import subprocess
import sys
from pathlib import Path

import pytest
from in_toto_attestation.v1.statement import Statement

from shipworthy.bundle.format import STATEMENT_MEDIA
from shipworthy.bundle.model_signing import check_model, sign_model
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError
from shipworthy.security.model_key import ModelKey, open_model_key
from shipworthy.security.signing import open_envelope
from tests.bundle.test_bundle import FILES, KEYS, bundle  # noqa: F401 (a fixture)


@pytest.fixture
def key(tmp_path: Path) -> ModelKey:
    return open_model_key(tmp_path / "private", tmp_path / "public", "loans")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "payload"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_bytes(path.read_bytes()) for path in folder.iterdir()}


def foreign(model: Path, signature: Path, public: Path) -> "subprocess.CompletedProcess[str]":
    """What the reference implementation says."""
    words = ["verify", "key", str(model), "--signature", str(signature), "--public_key", str(public)]
    return subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True, check=False)


def test_the_reference_verifier_accepts_ours_and_refuses_what_was_changed(model: Path, key: ModelKey, tmp_path: Path):
    signature, public = tmp_path / "model.sig", tmp_path / "public" / "loans.model.pem"
    signature.write_bytes(sign_model("loans:7", digests(model), key))
    said = foreign(model, signature, public)
    assert said.returncode == 0, said.stdout + said.stderr
    (model / "policy.json").write_bytes(b"{}")
    assert foreign(model, signature, public).returncode != 0
    (model / "policy.json").write_bytes(FILES["policy.json"])
    (model / "more.json").write_bytes(b"{}")
    assert foreign(model, signature, public).returncode != 0


def test_ours_names_what_is_wrong(model: Path, key: ModelKey, tmp_path: Path):
    signed = digests(model)
    content = sign_model("loans:7", signed, key)
    check_model(content, signed, key.public)
    for found, fault, said in (
        ({**signed, "policy.json": digest_bytes(b"x")}, "changed", "policy.json is not what was signed"),
        ({**signed, "more.json": digest_bytes(b"x")}, "extra", "more.json was not signed"),
        ({name: digest for name, digest in signed.items() if name != "model.onnx"}, "missing", "model.onnx was signed"),
    ):
        with pytest.raises(IntegrityError, match=said) as error:
            check_model(content, found, key.public)
        assert error.value.fault == fault
    stranger = open_model_key(tmp_path / "private", tmp_path / "public", "stranger")
    with pytest.raises(IntegrityError, match="by another key") as error:
        check_model(content, signed, stranger.public)
    assert error.value.fault == "unknown key"
    for at in range(0, len(content), 97):
        with pytest.raises(IntegrityError):
            check_model(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], signed, key.public)


def test_a_model_key_is_made_once_and_is_its_owners_alone(key: ModelKey, tmp_path: Path):
    again = open_model_key(tmp_path / "private", tmp_path / "public", "loans")
    assert again.public == key.public
    (tmp_path / "private" / "loans.model.key").chmod(0o644)
    with pytest.raises(AccessError, match="others can reach it"):
        open_model_key(tmp_path / "private", tmp_path / "public", "loans")
    (tmp_path / "private" / "loans.model.key").unlink()
    with pytest.raises(ConflictError, match="holds another key"):
        open_model_key(tmp_path / "private", tmp_path / "public", "loans")


def test_a_release_is_a_statement_that_in_totos_own_package_finds_valid(bundle: Path):  # noqa: F811
    content = open_envelope((bundle / "release.json").read_bytes(), STATEMENT_MEDIA, KEYS)
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2

    found = statement_pb2.Statement()
    json_format.Parse(content, found)
    Statement.copy_from_pb(found).validate()
    assert found.subject[0].digest["sha256"] == verify_bundle(bundle, KEYS).payload.digest.removeprefix("sha256:")
