"""Where stages put what is not finished, and what is: work folders and artefacts."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shipworthy.kernel.digest import canonical_json
from shipworthy.workflows.project import Parts


@contextmanager
def work_folder(parts: Parts, stage: str) -> Iterator[Path]:
    """An empty folder of one's own for what a stage has not finished.

    When the stage fails it is kept for its log until the next try; where rows are encrypted, the log alone is.
    """
    parts.project.work.mkdir(parents=True, exist_ok=True)
    parts.project.work.chmod(0o700)  # it holds rows
    folder = parts.project.work / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    except BaseException:
        if parts.artefacts.seals:
            _keep_logs(folder)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _keep_logs(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # it holds a log
                path.rmdir()
        elif path.suffix != ".log":
            path.unlink(missing_ok=True)


def artefact_entry(parts: Parts, digest: str, kind: str) -> dict[str, Any]:
    """How an event names an artefact."""
    return {"digest": digest, "kind": kind, "size_bytes": parts.artefacts.size_of(digest)}


def put_json(parts: Parts, value: Any, kind: str) -> str:
    """Keep `value` as an artefact in canonical JSON; its digest."""
    return parts.artefacts.put_bytes(canonical_json(value), kind).digest


@contextmanager
def unpacked(parts: Parts, stage: str, artefacts: Mapping[str, str]) -> Iterator[Path]:
    """A payload's files in a folder, as a server would find them."""
    with work_folder(parts, stage) as work:
        folder = work / "payload"
        folder.mkdir()
        for name, digest in artefacts.items():
            (folder / name).write_bytes(parts.artefacts.get_bytes(digest))
        yield folder
