"""Power loss, or kill -9, at every step of a promotion: the old or the new is live and verifies, never neither."""

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shipworthy.bundle.deployment import (
    bundle_path,
    read_deployment,
    write_bundle,
    write_deployment,
    write_payload,
)
from shipworthy.bundle.files import LocalDisk
from shipworthy.bundle.format import DeployedRelease, Deployment
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import NotFoundError
from tests.bundle.test_bundle import CARD, FILES, KEY, KEYS, make_statement, sign
from tests.conftest import Seen

REORDERINGS = int(os.environ.get("SHIPWORTHY_SOAK", "2"))  # random fates at each step, beside the three plain ones


class TracingDisk(LocalDisk):
    """The real disk, not waited for, and a list of what was asked of it."""

    def __init__(self) -> None:
        self.trace: list[tuple[Any, ...]] = []

    def make_directory(self, path: Path) -> list[Path]:
        changed = super().make_directory(path)  # asks itself for the parents, which are noted first
        if changed:
            self.trace.append(("make", path))
        return changed

    def write_new(self, path: Path, content: bytes) -> None:
        super().write_new(path, content)
        self.trace.append(("write", path, content))

    def sync(self, path: Path) -> None:
        self.trace.append(("sync", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.trace.append(("rename", source, target))

    def sync_directory(self, path: Path) -> None:
        self.trace.append(("sync directory", path))

    def remove(self, path: Path) -> None:
        raise AssertionError("nothing fails here")


@dataclass
class File:
    """What was written, and what of it the medium has."""

    now: bytes
    safe: bytes = b""


@dataclass
class Folder:
    """Names; those that the medium has; and the changes between, each of which it takes whole or not at all."""

    now: dict[str, "File | Folder"] = field(default_factory=dict)
    safe: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[dict[str, "File | Folder | None"]] = field(default_factory=list)

    def change(self, names: dict[str, "File | Folder | None"]) -> None:
        self.changes.append(names)
        apply(self.now, names)


def apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def read_folder(path: Path) -> Folder:
    """A folder as it lies on a disk that has it all."""
    names: dict[str, File | Folder] = {}
    for entry in path.iterdir():
        names[entry.name] = read_folder(entry) if entry.is_dir() else File(entry.read_bytes(), entry.read_bytes())
    return Folder(names, dict(names))


class Machine:
    """A machine that did the first steps of a trace and then lost its power."""

    def __init__(self, root: Path, before: Path, steps: list[tuple[Any, ...]]) -> None:
        self.root = root
        self.top = read_folder(before)
        for step in steps:
            self._do(*step)

    def _find(self, path: Path) -> Any:
        node: Any = self.top
        for name in path.relative_to(self.root).parts:
            node = node.now[name]
        return node

    def _do(self, kind: str, path: Path, *rest: Any) -> None:
        if kind == "make":
            self._find(path.parent).change({path.name: Folder()})
        elif kind == "write":
            self._find(path.parent).change({path.name: File(rest[0])})
        elif kind == "sync":
            file = self._find(path)
            file.safe = file.now
        elif kind == "rename":
            assert path.parent == rest[0].parent
            self._find(path.parent).change({path.name: None, rest[0].name: self._find(path)})
        elif path == self.root or self.root in path.parents:
            folder = self._find(path)
            folder.safe, folder.changes = dict(folder.now), []

    def survive(self, target: Path, fate: str, chance: random.Random) -> None:
        """Write to `target` what a start after the loss finds."""
        self._write(self.top, target, fate, chance)

    def _write(self, folder: Folder, target: Path, fate: str, chance: random.Random) -> None:
        target.mkdir(parents=True)
        names = dict(folder.safe)
        for change in folder.changes:
            if fate in ("kept", "torn") or (fate == "reordered" and chance.random() < 0.5):
                apply(names, change)
        for name, node in names.items():
            if isinstance(node, Folder):
                self._write(node, target / name, fate, chance)
            else:
                (target / name).write_bytes(content_of(node, fate, chance))


def content_of(file: File, fate: str, chance: random.Random) -> bytes:
    if file.safe == file.now or fate == "kept":
        return file.now
    if fate == "lost" or (fate == "reordered" and chance.random() < 0.3):
        return file.safe
    written = file.now[: chance.randrange(len(file.now))]
    hole = chance.randrange(len(written) + 1) if chance.random() < 0.5 else 0
    return bytes(hole) + written[hole:]


def make_release(folder: Path, version: int) -> tuple[bytes, dict[str, bytes]]:
    payload = write_payload(folder / str(version), "loans", "binary", {**FILES, "model.onnx": bytes([version]) * 5000})
    contents = {path.name: path.read_bytes() for path in (folder / str(version)).iterdir()}
    return sign(make_statement(payload, version=7)), contents


def promote(live: Path, release: bytes, contents: dict[str, bytes], generation: int, disk: LocalDisk) -> None:
    write_bundle(live, release, contents, {"card.md": CARD}, disk=disk)
    deployed = DeployedRelease(
        release="loans:7", digest=digest_bytes(release), payload=digest_bytes(contents["manifest.json"]), share=1.0
    )
    deployment = Deployment(system="loans", environment="local", generation=generation, salt="00", releases=(deployed,))
    write_deployment(live, deployment, KEY, disk=disk)


def live_generation(live: Path) -> int:
    """The generation that a server would serve, after it verified the bundle; 0 if nothing is deployed."""
    try:
        deployment = read_deployment(live, KEYS)
    except NotFoundError:
        return 0
    for release in deployment.releases:
        assert verify_bundle(bundle_path(live, release.digest), KEYS).payload.digest == release.payload
    return deployment.generation


@pytest.mark.parametrize("old", [0, 1])
@pytest.mark.timeout(36_000)
def test_wherever_a_promotion_stops_the_old_or_the_new_is_live(tmp_path: Path, old: int, seen: Seen) -> None:
    """Every prefix of the trace of a first promotion and of a later one, with any fate of what was unsynced."""
    root = tmp_path / "state"
    live = root / "live" / "local"
    root.mkdir()
    if old:
        promote(live, *make_release(tmp_path, old), old, LocalDisk())
    before = shutil.copytree(root, tmp_path / "before")
    release, contents = make_release(tmp_path, old + 1)
    disk = TracingDisk()
    promote(live, release, contents, old + 1, disk)
    states = 0
    fates = ["lost", "kept", "torn", *["reordered"] * REORDERINGS]
    for cut in range(len(disk.trace) + 1):
        machine = Machine(root, Path(before), disk.trace[:cut])
        for number, fate in enumerate(fates):
            found = tmp_path / "found"
            machine.survive(found, fate, random.Random(1000 * cut + number))
            generation = live_generation(found / "live" / "local")
            assert generation in (old, old + 1), (cut, fate)
            if cut == len(disk.trace):
                assert generation == old + 1, fate  # it was acknowledged
            promote(found / "live" / "local", release, contents, old + 2, TracingDisk())
            assert live_generation(found / "live" / "local") == old + 2, (cut, fate)
            shutil.rmtree(found)
            states += 1
    assert len(disk.trace) > 25
    seen("cut points", len(disk.trace) + 1)
    seen("states after a loss", states)


def test_a_promotion_that_forgets_a_sync_is_caught(tmp_path: Path) -> None:
    """The rehearsal can fail: without any one kind of sync, some state is lost."""
    root = tmp_path / "state"
    root.mkdir()
    before = shutil.copytree(root, tmp_path / "before")
    disk = TracingDisk()
    promote(root / "live" / "local", *make_release(tmp_path, 1), 1, disk)
    for forgotten in ("sync", "sync directory"):
        trace = [step for step in disk.trace if step[0] != forgotten]
        machine = Machine(root, Path(before), trace)
        machine.survive(tmp_path / forgotten, "lost", random.Random(1))
        found = tmp_path / forgotten / "live" / "local"
        assert not (found / "deployment").is_file() or (found / "deployment").read_bytes() == b""
