"""Small files that must be whole or not be there: drafts, synced, then renamed."""

import os
from pathlib import Path


def replace_durably(path: Path, content: bytes, *, mode: int) -> None:
    """Replace `path` by `content` at one moment; durable when this returns. Its directory is made if missing.

    Raises:
        OSError: the disk refused; the old content stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _write_draft(path, content, mode)
    try:
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise
    sync_directory(path.parent)


def create_durably(path: Path, content: bytes, *, mode: int) -> bool:
    """Make `path` with `content` all at once; False if it exists.

    Raises:
        OSError: the disk refused; nothing was made.
    """
    draft = _write_draft(path, content, mode)
    try:
        os.link(draft, path)  # unlike rename, never replaces
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    sync_directory(path.parent)
    return True


def sync_directory(path: Path) -> None:
    """Return when the names in `path` would survive a loss of power."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_draft(path: Path, content: bytes, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        os.unlink(draft)
        raise
    return draft
