"""Where stages put what is not finished, and what is: work folders and artefacts."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shipworthy.kernel.digest import canonical_json
from shipworthy.workflows.project import Parts


@contextmanager
def work_folder(parts: Parts, stage: str) -> Iterator[Path]:
    """An empty folder for what a stage has not finished; kept when it fails, for its log, until the next try."""
    folder = parts.project.work / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def artefact_entry(parts: Parts, digest: str, kind: str) -> dict[str, Any]:
    """How an event names an artefact."""
    return {"digest": digest, "kind": kind, "size_bytes": parts.artefacts.path_of(digest).stat().st_size}


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
