"""Files: which ones a path names, and their bytes; one that is damaged or changes meanwhile is refused by name."""

import glob
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shipworthy.kernel.digest import digest_bytes, digest_json
from shipworthy.kernel.errors import SourceError

HEAD_BYTES = 2**20  # of a file whose kind or columns are asked for
SHOWN_CHARACTERS = 80  # of a value in a message
DELTA_LOG = "_delta_log"
_GZIP = b"\x1f\x8b"
_OTHER_ARCHIVES = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


def find_files(path: Path) -> tuple[Path, ...]:
    """The files that `path` names: itself, those in a directory, or those that match a pattern; sorted by name.

    Of a directory they are those that lie directly in it. Names that begin with `.` or `_` are passed over there and
    in patterns, as marks that other programs leave. A Delta table is one.

    Raises:
        SourceError: there is none, or the directory may not be read.
    """
    try:
        if path.is_dir() and not (path / DELTA_LOG).is_dir():
            found = [file for file in sorted(path.iterdir()) if _is_data(file)]
            if not found:
                raise SourceError(f"{path}: the directory has no files; put some in, or correct the path")
            return tuple(found)
        if os.path.lexists(path):
            return (path,)
    except PermissionError as error:
        raise SourceError(f"{path}: may not be read; give yourself the right with chmod u+rx") from error
    if not glob.has_magic(str(path)):
        raise SourceError(f"{path}: there is no such file; correct the path")
    matches = (Path(name) for name in glob.glob(str(path), recursive=True))
    found = sorted(file for file in matches if _is_data(file))
    if not found:
        raise SourceError(f"{path}: no file matches the pattern; put some there, or correct it")
    return tuple(found)


def file_name(path: Path, file: Path) -> str:
    """What one of the files of `path` is called beside the others."""
    if file == path:
        return path.name
    root = path if path.is_dir() else fixed_part(path)
    return file.relative_to(root).as_posix()


def digest_files(path: Path, digest: Callable[[Path], str]) -> str:
    """The digest of what `path` names: a file's own, or that of the names and digests of all.

    Args:
        path: as for `find_files`.
        digest: of one file.

    Raises:
        SourceError: as for `find_files`.
    """
    files = find_files(path)
    if files == (path,):
        return digest(path)
    return digest_json({file_name(path, file): digest(file) for file in files})


def read_bytes(path: Path, digest: str | None = None) -> tuple[bytes, str]:
    """The content of the file at `path`, as it lies on the disk, and its digest.

    Args:
        path: of the file.
        digest: from before, where it is known: what is read must have it. Otherwise the file must have it afterwards.

    Raises:
        SourceError: it is not there, may not be read, or changed meanwhile.
    """
    with _open(path) as file:
        raw = file.read()
    found = digest_bytes(raw)
    if found != (digest_file(path) if digest is None else digest):
        raise changed(path)
    return raw, found


def unpack(raw: bytes, path: Path) -> bytes:
    """The content of a gzip file; of another, its own.

    Raises:
        SourceError: the file is damaged, or packed in a way that is not read.
    """
    _judge_archive(raw, path)
    if not raw.startswith(_GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def pieces(path: Path, size_bytes: int, digest: str | None = None) -> Iterator[bytes]:
    """The content, unpacked, some at a time; judged as `read_bytes` and `unpack` judge it, at its end.

    Args:
        path: of the file.
        size_bytes: of a piece, about.
        digest: of the file as it lies on the disk, where it is known.

    Raises:
        SourceError: as for `read_bytes` and `unpack`.
    """
    with _open(path) as file:
        before = _stamp(file)
        head = file.read(HEAD_BYTES)
        _judge_archive(head, path)
        file.seek(0)
        hashed = _Hashed(file)
        unpacked = gzip.GzipFile(fileobj=hashed) if head.startswith(_GZIP) else hashed
        try:
            while content := unpacked.read(size_bytes):
                yield content
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            if _stamp(file) != before:
                raise changed(path) from error
            raise _damaged(path, error) from error
        if _stamp(file) != before or (digest is not None and hashed.digest != digest):
            raise changed(path)


def read_head(path: Path, size_bytes: int = HEAD_BYTES) -> bytes:
    """The first bytes of the content, unpacked.

    Raises:
        SourceError: as for `pieces`.
    """
    with _open(path) as file:
        raw = file.read(size_bytes)
        _judge_archive(raw, path)
        if not raw.startswith(_GZIP):
            return raw
        file.seek(0)
        try:
            return gzip.GzipFile(fileobj=file).read(size_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, error) from error


def digest_file(path: Path) -> str:
    """Digest of the file as it lies on the disk.

    Raises:
        SourceError: it is not there or may not be read.
    """
    with _open(path) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def changed(path: Path) -> SourceError:
    """A file that was not the same before and after it was read."""
    return SourceError(f"{path}: changed while it was read; wait until it is complete, then run this again")


def shown(text: bytes | str) -> str:
    """The text in quotes as a message repeats it: what a terminal acts on is escaped, also a turn of direction."""
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return repr(plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + "…")


def first_line(error: Exception) -> str:
    """What an engine says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def suffix(path: Path) -> str:
    """The suffix of a file's name in small letters, without that of gzip."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def fixed_part(pattern: Path) -> Path:
    """The folder that a pattern begins with: `data` of `data/*/rows-*.csv`."""
    fixed = Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._state = file, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(size)
        self._state.update(content)
        return content

    @property
    def digest(self) -> str:
        while self.read(HEAD_BYTES):  # what stands behind the end of an archive counts too
            pass
        return f"sha256:{self._state.hexdigest()}"


def _is_data(file: Path) -> bool:
    return not file.name.startswith((".", "_")) and file.is_file()


def _stamp(file: io.BufferedReader) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise SourceError(f"{path}: there is no such file; correct the path") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path}: is a directory; name one file") from error
    except PermissionError as error:
        raise SourceError(f"{path}: may not be read; give yourself the right with chmod u+r") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})") from error


def _judge_archive(head: bytes, path: Path) -> None:
    for mark, packer in _OTHER_ARCHIVES.items():
        if head.startswith(mark):
            raise SourceError(f"{path}: is packed with {packer}; unpack it, or pack it with gzip")


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path}: the gzip file is damaged ({error}); copy it again")
