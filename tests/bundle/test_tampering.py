"""Whoever can write the store: everything that they change is found, and called by its name."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shipworthy.bundle.deployment import (
    read_access,
    read_deployment,
    write_access,
    write_bundle,
    write_deployment,
    write_payload,
)
from shipworthy.bundle.format import STATEMENT_MEDIA, Access, AccessToken
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import sign_envelope
from tests.bundle.test_bundle import CARD, FILES, KEY, KEYS, deployment_of, make_statement, sign
from tests.conftest import Seen

TAMPERINGS = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 400
STRANGER = SigningKey.from_seed("stranger", b"x" * 32)


class Store:
    """Two releases of one system, live in one environment, as somebody with write access finds them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live = root / "live" / "local"
        self.bundles = [self._write(version) for version in (7, 8)]
        self.deployments = []
        for generation, place in enumerate(self.bundles, start=1):
            write_deployment(self.live, deployment_of(place, generation), KEY)
            self.deployments.append((self.live / "deployment").read_bytes())
        token = AccessToken(name="t", hash="0" * 64, scopes=("predict:loans",), expires=None)
        write_access(self.live, Access(environment="local", generation=3, tokens=(token,)), KEY)
        self.good = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    def _write(self, version: int) -> Path:
        source = self.root / f"payload-{version}"
        digest = write_payload(source, "loans", "binary", {**FILES, "model.onnx": bytes([version]) * 500})
        statement = sign(make_statement(digest, version=version))
        contents = {path.name: path.read_bytes() for path in source.iterdir()}
        shutil.rmtree(source)
        return write_bundle(self.live, statement, contents, {"card.md": CARD})

    def check(self) -> None:
        """What a server and `verify` do with it."""
        read_access(self.live, KEYS)
        read_deployment(self.live, KEYS)
        for place in self.bundles:
            verify_bundle(place, KEYS, f"sha256:{place.name}")

    def restore(self) -> None:
        for path in self.root.rglob("*"):
            if (path.is_symlink() or not path.is_dir()) and path not in self.good:
                path.unlink()
        for path, content in self.good.items():
            if path.is_symlink() or not path.exists() or path.read_bytes() != content:
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


Tampering = Callable[[Store, random.Random], set[str]]  # does it; how it may be called


def a_file(store: Store, chance: random.Random) -> Path:
    return chance.choice([path for path in store.good if "bundles" in path.parts])


def flip_a_bit(store: Store, chance: random.Random) -> set[str]:
    path = chance.choice(sorted(store.good))
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    # in an envelope it may hit the keyid, the type, or the list of signatures
    return {"changed", "unknown key", "swapped"} if path.suffix == ".json" or path.parent == store.live else {"changed"}


def cut(store: Store, chance: random.Random) -> set[str]:
    path = chance.choice(sorted(store.good))
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content))])
    return {"changed"}


def add(store: Store, chance: random.Random) -> set[str]:
    place = chance.choice(store.bundles)
    (place / chance.choice(["", "payload"]) / f"more-{chance.randrange(99)}.bin").write_bytes(b"x")
    return {"extra"}


def remove(store: Store, chance: random.Random) -> set[str]:
    path = a_file(store, chance)
    while path.name == "card.md":  # bound, but need not travel to a server
        path = a_file(store, chance)
    path.unlink()
    return {"missing"}


def link(store: Store, chance: random.Random) -> set[str]:
    path = a_file(store, chance)
    aside = store.root / "aside"
    aside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(aside)
    return {"changed"}


def swap_files(store: Store, chance: random.Random) -> set[str]:
    one, other = chance.sample(["model.onnx", "schema.json", "policy.json", "baselines.json"], 2)
    place = chance.choice(store.bundles) / "payload"
    exchange(place / one, place / other)
    return {"swapped"}


def swap_payloads(store: Store, chance: random.Random) -> set[str]:
    for path in (store.bundles[0] / "payload").iterdir():
        exchange(path, store.bundles[1] / "payload" / path.name)
    return {"swapped"}


def swap_manifests(store: Store, chance: random.Random) -> set[str]:
    exchange(*(place / "payload" / "manifest.json" for place in store.bundles))
    return {"changed"}  # neither manifest is that of the files beside it


def swap_bundles(store: Store, chance: random.Random) -> set[str]:
    aside = store.root / "aside"
    store.bundles[0].rename(aside)
    store.bundles[1].rename(store.bundles[0])
    aside.rename(store.bundles[1])
    return {"swapped"}


def sign_as_a_stranger(store: Store, chance: random.Random) -> set[str]:
    place = chance.choice(store.bundles)
    content = verify_bundle(place, KEYS)
    forged = sign_envelope(msgspec.json.encode(content.statement), STATEMENT_MEDIA, STRANGER)
    (place / "release.json").write_bytes(forged)
    return {"unknown key"}


def strip_the_signature(store: Store, chance: random.Random) -> set[str]:
    path = chance.choice([store.live / "deployment", store.live / "access", store.bundles[0] / "release.json"])
    document = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**document, "signatures": []}).encode())
    return {"unsigned"}


def pose(store: Store, chance: random.Random) -> set[str]:
    (store.live / "deployment").write_bytes((store.live / "access").read_bytes())
    return {"swapped"}


TAMPERINGS_BY_NAME: list[Tampering] = [
    flip_a_bit,
    cut,
    add,
    remove,
    link,
    swap_files,
    swap_payloads,
    swap_manifests,
    swap_bundles,
    sign_as_a_stranger,
    strip_the_signature,
    pose,
]


def exchange(one: Path, other: Path) -> None:
    mine, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs)
    other.write_bytes(mine)


def test_every_tampering_is_found_and_called_by_its_name(store: Store, seen: Seen):
    chance = random.Random(1)
    unfound, misnamed = [], []
    for number in range(TAMPERINGS):
        tamper = TAMPERINGS_BY_NAME[number % len(TAMPERINGS_BY_NAME)]
        names = tamper(store, chance)
        try:
            store.check()
            unfound.append(tamper.__name__)
        except IntegrityError as error:
            if error.fault not in names:
                misnamed.append((tamper.__name__, error.fault, str(error)))
        store.restore()
    store.check()
    assert unfound == []
    assert misnamed == []
    seen("tamperings found and named", TAMPERINGS)
