"""Every reader of ours over files that mean harm, in a watched process: `python hostile_files.py ROOT COUNT`."""

import codecs
import io
import json
import marshal  # noqa: TID251 (written here, never read)
import os
import pickle  # noqa: TID251 (written here, never read)
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.ma  # numpy loads it when it is first asked for: its own doing, not the file's

from shipworthy.bundle.attestation import open_attestation
from shipworthy.bundle.deployment import read_access, read_deployment
from shipworthy.bundle.model_signing import check_model
from shipworthy.bundle.verify import verify_bundle, verify_payload
from shipworthy.contract.parse import parse_contract
from shipworthy.data.sources.read import read_file
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.audit import check_proof
from shipworthy.ledger.checkpoint import read_note
from shipworthy.ledger.events import Entry
from shipworthy.records.read import read_outcomes, read_records
from shipworthy.security.keys import SigningKey, load_key, load_public_key
from shipworthy.security.model_key import PublicModelKey
from shipworthy.security.signing import open_envelope
from shipworthy.serving.decode import RequestDecoder
from tests.bundle.test_bundle import FILES, KEY, KEYS
from tests.security.watched import watch
from tests.serving.conftest import loans_schema

codecs.lookup("cp437")  # zipfile loads it when it is first asked for

CANARY = "canary"


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.canary, "w")


def corpus(root: Path, count: int) -> list[bytes]:
    """Harm in every disguise, and mutations of it."""
    canary = str(root.parent / CANARY)
    code = f"open({canary!r}, 'w')"
    pickles = [pickle.dumps(Evil(canary), protocol) for protocol in range(6)]
    archive, tar, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickles[2])
        file.writestr("../../escape", b"x")
    with tarfile.open(fileobj=tar, mode="w") as file2:
        for name in ("/etc/escape", "../escape"):
            file2.addfile(tarfile.TarInfo(name), io.BytesIO())
    np.save(arrays, np.array([Evil(canary)], dtype=object), allow_pickle=True)
    yaml = f"!!python/object/apply:builtins.open [{json.dumps(canary)}, w]"
    seeds = [
        *pickles,
        marshal.dumps(compile(code, "x", "exec")),
        archive.getvalue(),
        tar.getvalue(),
        arrays.getvalue(),
        f"shipworthy: 1\nsystem: {yaml}\n".encode(),
        yaml.encode(),
        b"#!/bin/sh\ntouch " + canary.encode(),
        code.encode(),
        b"\x7fELF" + bytes(200),
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"payload": "", "payloadType": "", "signatures": []}',
        b'{"__class__": "os.system", "args": ["touch x"]}',
        b"PAR1" + bytes(100) + b"PAR1",
        b"ARROW1" + bytes(100),
        b"SHIPREC1" + bytes(64),
        b"\x1f\x8b" + bytes(64),
        b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"=cmd|' /C calc'!A0,1\n",
    ]
    chance = random.Random(3)
    found = list(seeds)
    while len(found) < count:
        content = bytearray(chance.choice(seeds)[:4000])
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        found.append(bytes(content))
    return found[:count]


def readers(root: Path) -> list[Callable[[bytes], object]]:
    """Each takes a hostile content to where one of our readers finds it."""
    decoder = RequestDecoder(loans_schema(), ())
    store = ArtefactStore(root / "blobs")

    def put(path: Path, content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def as_payload_file(name: str) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            place = root / "payload"
            for file, good in FILES.items():
                put(place / file, good)
            put(place / name, content)
            return verify_payload(place)

        return read

    def as_signed_statement(content: bytes) -> object:
        place = root / "bundle"
        put(place / "release.json", content)
        (place / "payload").mkdir(exist_ok=True)
        return verify_bundle(place, KEYS)

    def as_blob(content: bytes) -> object:
        digest = "sha256:" + "ab" * 32
        put(store.path_of(digest), content)
        return store.get_bytes(digest)

    def as_segment(kind: str) -> Callable[[bytes], object]:
        def read(content: bytes) -> object:
            folder = root / kind
            put(folder / "w0-00000001", content)
            put(folder / "w0-00000001.seal", content)
            return list((read_records if kind == "records" else read_outcomes)(folder))

        return read

    def as_table(suffix: str) -> Callable[[bytes], object]:
        return lambda content: read_file("rows", put(root / f"rows{suffix}", content))

    def as_private_key(content: bytes) -> object:
        folder = root / "private"
        folder.mkdir(mode=0o700, exist_ok=True)
        put(folder / "k.key", content).chmod(0o600)
        return load_key(folder, "k")

    def as_proof(content: bytes) -> object:
        return check_proof(json.loads(content), KEYS)

    public = KEY.public
    return [
        *(as_payload_file(name) for name in (*FILES, "manifest.json")),
        as_signed_statement,
        as_blob,
        as_segment("records"),
        as_segment("outcomes"),
        *(as_table(suffix) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")),
        as_private_key,
        as_proof,
        lambda content: read_deployment(put(root / "live" / "deployment", content).parent, KEYS),
        lambda content: read_access(put(root / "live" / "access", content).parent, KEYS),
        lambda content: parse_contract(content.decode("utf-8", "replace"), "shipworthy.yaml"),
        lambda content: read_note(put(root / "checkpoint", content)),
        lambda content: load_public_key(put(root / "k.pub", content)),
        lambda content: open_envelope(content, "x", {public.keyid: public}),
        lambda content: open_attestation(content, "sha256:" + "0" * 64, KEYS),
        lambda content: check_model(content, {}, PublicModelKey(content)),
        lambda content: Entry.from_bytes(content),
        lambda content: decoder.decode(content),
    ]


def main(root: Path, count: int) -> None:
    """Run every reader over the corpus; what they do beside refusing is in the report."""
    armed = root.parent / "armed"
    watch(root.parent / "report", armed, root)
    for name in (
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "utf-32-le",
        "utf-32-be",
        "latin-1",
        "cp1252",
    ):
        codecs.lookup(name)  # json.loads asks for them by the first bytes
    contents, tried, accepted, fell = corpus(root, count), 0, 0, []
    for at, read in enumerate(readers(root)):
        for number, content in enumerate([*contents[:4], *contents]):
            if number == 4:  # the first ones let libraries load themselves
                armed.touch()
            try:
                read(content)
                accepted += 1
            except (ShipworthyError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                pass
            except Exception as error:  # noqa: BLE001 (reported)
                fell.append(f"reader {at}, content {number}: {type(error).__name__}: {error}"[:200])
            tried += 1
        armed.unlink()
    print(json.dumps({"tried": tried, "accepted": accepted, "fell": fell[:20]}))


if __name__ == "__main__":
    assert isinstance(KEY, SigningKey)
    os.chdir(sys.argv[1])
    main(Path(sys.argv[1]), int(sys.argv[2]))
