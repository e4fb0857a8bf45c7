"""Archives: plain tar, written the same way each time, and read as if a stranger had made it.

No compression, so that nothing can be larger than it looks. A member is a plain file with a plain name; links, devices,
folders, extended headers, a name twice (also in other letters) and a name that leads out are refused.
"""

import io
import re
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from shipworthy.kernel.errors import IntegrityError, UsageError

MAX_NAME_BYTES = 240  # what every file system takes, and ustar can hold
MAX_MEMBERS = 1_000_000
MAX_TOTAL_BYTES = 1 << 44  # 16 TiB: a mistake, not a project
MAX_DEPTH = 24
CHUNK_BYTES = 1 << 20

_NAME = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]+")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be archived, as much of it as there was when it was listed: it may grow meanwhile."""

    name: str  # in the archive, with `/`
    path: Path
    size_bytes: int


def write_archive(stream: BinaryIO, sources: Iterable[Source | tuple[str, bytes]]) -> int:
    """Write the files, in the order given; how many there were.

    Args:
        stream: where to.
        sources: files, or names with their contents.

    Raises:
        UsageError: a name cannot stand in an archive.
        OSError: a file cannot be read, or the stream not be written.
    """
    count = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for source in sources:
            name = source.name if isinstance(source, Source) else source[0]
            try:
                member = tarfile.TarInfo(check_name(name))
                member.mode = 0o600
                if isinstance(source, Source):
                    member.size = source.size_bytes
                    with open(source.path, "rb") as file:
                        archive.addfile(member, file)
                else:
                    member.size = len(source[1])
                    archive.addfile(member, io.BytesIO(source[1]))
            except (IntegrityError, ValueError) as error:
                raise UsageError(f"{name!r} cannot be archived: {error}") from None
            count += 1
    return count


def read_archive(stream: BinaryIO) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and content of each member; the content must be read before the next is asked for.

    An archive that was cut between two members looks whole: whoever writes one puts a list of its files at the end.

    Raises:
        IntegrityError: it is not an archive, or holds what ours do not.
    """
    seen: set[str] = set()
    total = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = _check_member(member, seen)
                total += member.size
                if len(seen) > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                    raise IntegrityError(f"The archive holds more than {MAX_MEMBERS:,} files or 16 TiB.")
                file = archive.extractfile(member)
                if file is None:
                    raise IntegrityError(f"{name!r} in the archive has no content.")
                yield name, member.size, _chunks(file, member.size, name)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise IntegrityError(f"The archive is damaged, or is none: {error}.") from None


def check_name(name: str) -> str:
    """The name, if it is plain: relative, without `..`, signs that some system understands, or needless parts.

    Raises:
        IntegrityError: it is not.
    """
    parts = name.split("/")
    if (
        not _NAME.fullmatch(name)
        or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES
        or len(parts) > MAX_DEPTH
        or any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
        or unicodedata.normalize("NFC", name) != name
    ):
        raise IntegrityError(f"{name[:80]!r} is not a plain name of a file.")
    return name


def _check_member(member: tarfile.TarInfo, seen: set[str]) -> str:
    if not member.isreg() or member.issparse() or member.linkname or member.pax_headers:
        raise IntegrityError(f"{member.name[:80]!r} in the archive is a link, a device, a folder or has extra headers.")
    name = check_name(member.name)
    folded = unicodedata.normalize("NFKC", name).casefold()
    if folded in seen:
        raise IntegrityError(f"{name!r} is twice in the archive.")
    seen.add(folded)
    return name


def _chunks(file: IO[bytes], size_bytes: int, name: str) -> Iterator[bytes]:
    left = size_bytes
    while left:
        try:
            chunk = file.read(min(CHUNK_BYTES, left))
        except (tarfile.TarError, EOFError):
            chunk = b""
        if not chunk:
            raise IntegrityError(f"{name!r} in the archive was cut.")
        left -= len(chunk)
        yield chunk
