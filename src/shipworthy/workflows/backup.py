"""Backups: everything of a project that cannot be made again, in one file; and back, proven, into a new folder.

Rows and models are in it as they lie: encrypted where the contract says so. Private keys are not: keep them apart.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from shipworthy.kernel.digest import canonical_json
from shipworthy.kernel.errors import ConflictError, IntegrityError, RefusedError, StorageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.lock import LOCK_TIMEOUT_S, WriterLock
from shipworthy.ledger.rebuild import rebuild_database
from shipworthy.ledger.store import open_ledger
from shipworthy.security.access import Principal
from shipworthy.security.archive import Source, read_archive, write_archive
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.fingerprints import code_files
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import CONTRACT_FILE, STATE_DIRECTORY, Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.verify import verify_everything

MANIFEST = "backup.json"  # the last member: digest and size of all others
STATE = (
    "live",
    "releases",
    "blobs",
    "tables",
    "sources",
    "records",
    "outcomes",
    "quarantine",
    "replayed",
    "keys",
    "log",
)  # the log last
BESIDE = ("*.sql", CONTRACT_FILE, ".gitignore")  # of the project's own folder, with its code
SMALL_BYTES = 1 << 20  # up to here a file is read once, so that one that is replaced meanwhile is whole


def create_backup(parts: Parts, principal: Principal, destination: Path) -> dict[str, Any]:
    """Write a backup of the project to `destination`, whole or not at all.

    What changes meanwhile is in it as it was or as it is; the log, which is copied last, knows at least as much.

    Raises:
        AccessError: the principal may not.
        ConflictError: the file exists.
        StorageError: it cannot be written.
    """
    rule = permit(parts, principal, "backup create")
    if destination.exists():
        raise ConflictError(f"{destination} exists; name another file, or move it away")
    draft = destination.with_name(f".{destination.name}.draft")
    try:
        with open(draft, "xb") as stream:
            draft.chmod(0o600)
            count = write_archive(stream, _members(parts.project))
            stream.flush()
            os.fsync(stream.fileno())
        digest = _digest(draft)
        size = draft.stat().st_size
        draft.rename(destination)
    except OSError as error:
        raise StorageError(f"{destination} cannot be written ({error.strerror}); make room, then try again") from None
    finally:
        draft.unlink(missing_ok=True)
    body = {"digest": digest, "size_bytes": size, "files": count - 1}
    parts.ledger.append(Event("backup.created", f"backup:{digest}", principal.actor, body, rule))
    return {"file": str(destination), **body}


def restore_backup(source: Path, directory: Path) -> dict[str, Any]:
    """Make the project anew in `directory`, its database from the log, and prove all of it; else nothing is left.

    Raises:
        ConflictError: there is something already.
        IntegrityError: the backup is not whole, or not one.
        RefusedError: what it holds does not verify; says what.
        StorageError: it cannot be read or written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConflictError(f"{directory} is not empty; name a new folder")
    draft = directory.with_name(f".{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        files = _unpack(source, draft)
        project = Project(draft)
        url = f"sqlite:///{project.state / 'ledger.db'}"
        keys = load_public_keys(project.public_keys)
        try:
            entries = rebuild_database(url, project.log, keys)
            with open_ledger(url, project.log, None, lambda: 0.0, keys=keys) as ledger:
                proofs = verify_everything(project, ledger, url)
        except IntegrityError as error:
            raise RefusedError(f"the backup does not verify, nothing was restored: {error}") from None
        broken = [f"{proof.name}: {proof.problem}" for proof in proofs if proof.problem is not None]
        if broken:
            raise RefusedError(f"the backup does not verify, nothing was restored: {'; '.join(broken[:5])}")
        if directory.is_dir():
            directory.rmdir()
        draft.rename(directory)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{directory} cannot be restored from {source} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return {"directory": str(directory), "files": files, "entries": entries, "proofs": len(proofs)}


def _members(project: Project) -> Iterator[Source | tuple[str, bytes]]:
    """Every file, then the list of them."""
    listed: dict[str, Any] = {}
    own = [*code_files(project.root), *(path for pattern in BESIDE for path in sorted(project.root.glob(pattern)))]
    for path in own:
        if path.is_file() and not path.is_symlink():
            yield from _listed(project, path, listed)
    for name in STATE:
        folder = project.state / name
        if name == "log":
            with WriterLock(folder, LOCK_TIMEOUT_S).held():
                log = [*_files(folder)]
                copied = [(path, path.read_bytes()) for path in log]
            for path, content in copied:
                relative = str(path.relative_to(project.root))
                listed[relative] = {"digest": f"sha256:{sha256(content).hexdigest()}", "size_bytes": len(content)}
                yield relative, content
            continue
        for path in _files(folder):
            yield from _listed(project, path, listed)
    yield MANIFEST, canonical_json({"format": 1, "files": listed})


def _listed(project: Project, path: Path, listed: dict[str, Any]) -> Iterator[Source | tuple[str, bytes]]:
    size = path.stat().st_size
    relative = str(path.relative_to(project.root))
    if size <= SMALL_BYTES:
        content = path.read_bytes()
        listed[relative] = {"digest": f"sha256:{sha256(content).hexdigest()}", "size_bytes": len(content)}
        yield relative, content
        return
    listed[relative] = {"digest": _digest(path, size), "size_bytes": size}
    yield Source(relative, path, size)


def _files(folder: Path) -> list[Path]:
    """Plain files below, without drafts and locks."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts if part != ".gitignore")
        and path.name != "lock"
    ]


def _unpack(source: Path, draft: Path) -> int:
    digests: dict[str, dict[str, Any]] = {}
    manifest: Mapping[str, Any] | None = None
    with open(source, "rb") as stream:
        for name, size, chunks in read_archive(stream):
            if manifest is not None:
                raise IntegrityError(f"{source}: {name!r} stands behind the list of files, which is the end.", "extra")
            if name == MANIFEST:
                manifest = _manifest(b"".join(chunks), source)
                continue
            _check_place(name, source)
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = sha256()
            with open(path, "xb") as file:
                for chunk in chunks:
                    whole.update(chunk)
                    file.write(chunk)
            digests[name] = {"digest": f"sha256:{whole.hexdigest()}", "size_bytes": size}
    if manifest is None:
        raise IntegrityError(f"{source} has no list of its files: it was cut, or is no backup.", "missing")
    _compare(digests, manifest["files"], source)
    return len(digests)


def _manifest(content: bytes, source: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
        if found["format"] != 1 or not isinstance(found["files"], dict):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError(f"{source}: its list of files is not one of ours.") from None
    return dict(found)


def _check_place(name: str, source: Path) -> None:
    top, _, rest = name.partition("/")
    is_state = top == STATE_DIRECTORY and rest.partition("/")[0] in STATE
    is_own = name in (CONTRACT_FILE, ".gitignore") or name.endswith((".py", ".sql"))
    if not is_state and (not is_own or (name.startswith(".") and name != ".gitignore")):
        raise IntegrityError(f"{source}: {name!r} is nothing that a backup holds.", "extra")


def _compare(found: Mapping[str, Any], listed: Mapping[str, Any], source: Path) -> None:
    for name in sorted(found.keys() | listed.keys()):
        if name not in found:
            raise IntegrityError(f"{source}: {name} is missing.", "missing")
        if name not in listed:
            raise IntegrityError(f"{source}: {name} is not in its list of files.", "extra")
        if found[name] != listed[name]:
            raise IntegrityError(f"{source}: {name} is not what was backed up.")


def _digest(path: Path, size_bytes: int | None = None) -> str:
    whole, left = sha256(), size_bytes if size_bytes is not None else path.stat().st_size
    with open(path, "rb") as file:
        while left and (chunk := file.read(min(left, 1 << 20))):
            whole.update(chunk)
            left -= len(chunk)
    return f"sha256:{whole.hexdigest()}"
