"""Encodings: text files as UTF-8, from the encoding that the contract declares; nothing is guessed while reading."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from shipworthy.contract.data_section import Encoding
from shipworthy.data.sources.files import SHOWN_CHARACTERS, pieces
from shipworthy.kernel.errors import SourceError

CHUNK_BYTES = 16 * 2**20  # bounds the memory at a few times this
UTF8_MARK = codecs.BOM_UTF8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF8, _UTF16 = codecs.getincrementaldecoder("utf-8"), codecs.getincrementaldecoder("utf-16")
_WINDOWS = codecs.getincrementaldecoder("cp1252")
_SINGLE_BYTES = {"windows-1252": _WINDOWS, "latin-1": codecs.getincrementaldecoder("latin-1")}


def recoded(content: Iterable[bytes], encoding: Encoding, path: Path) -> Iterator[bytes]:
    """The pieces of a text file as UTF-8, without a byte order mark.

    Args:
        content: in pieces of any size.
        encoding: as it was declared. UTF-8 is passed on as it is, for `judge_utf8`.
        path: of the file.

    Raises:
        SourceError: a byte is not of the encoding, or the whole is plainly of another.
    """
    if encoding in ("utf-8", "utf-8-sig"):
        yield from _without_mark(content)
    elif encoding == "utf-16":
        yield from _from_utf16(content, path)
    else:
        yield from _from_single_bytes(content, encoding, path)


def judge_utf8(content: bytes, path: Path, before: int = 0) -> None:
    """Refuse what is not UTF-8 text; `before` lines of the file stand before `content`.

    Raises:
        SourceError: names line, byte and cure.
    """
    if content.startswith(UTF16_MARKS):
        raise SourceError(
            f"{path}: is UTF-16; convert it: iconv -f UTF-16 -t UTF-8, or declare encoding: utf-16 at its source"
        )
    try:
        _decode(content)
    except UnicodeDecodeError as error:
        _judge_nul(content[: error.start], path, before)
        raise SourceError(
            f"{_place(content, error.start, path, before)}: 0x{content[error.start]:02x} is not UTF-8 (as Latin-1 the "
            f"line begins {_line(content, error.start)!r}); "
            "convert the file: iconv -f LATIN1 -t UTF-8, or declare what it is at its source in the contract, such as "
            "encoding: windows-1252; a file that mixes encodings has to be mended where it is made"
        ) from None
    _judge_nul(content, path, before)


def _judge_nul(content: bytes, path: Path, before: int) -> None:
    nul = content.find(b"\0")
    if nul >= 0:
        raise SourceError(
            f"{path} line {before + line_of(content, nul)}: holds a NUL byte; is this a text file?"
        ) from None


def line_of(content: bytes, at: int) -> int:
    """The line, from 1, in which the byte at `at` stands."""
    return content.count(b"\n", 0, at) + 1


def detect_encoding(path: Path) -> Encoding:
    """The encoding that the whole file is sure to be, or most likely is.

    Text that is UTF-8 from end to end is hardly ever anything else. What is not, and has no byte order mark, is read as
    windows-1252, the single-byte encoding that most programs wrote, unless some of it is UTF-8 beyond ASCII.

    Raises:
        SourceError: it is none of these; names the first byte that is not UTF-8.
    """
    is_utf8, is_windows, first = True, True, True
    utf8 = _UTF8()
    for content in pieces(path, CHUNK_BYTES):
        if first and content.startswith(UTF16_MARKS):
            return "utf-16"
        first = False
        is_utf8 = is_utf8 and _decodes(utf8, content)
        is_windows = is_windows and _decodes(_WINDOWS(), content)
        if not is_utf8 and not is_windows:
            break
    if is_utf8 and _decodes(utf8, b"", final=True):
        return "utf-8"
    if is_windows and not _is_mixed(path):
        return "windows-1252"
    return "utf-8"  # what reads the file refuses it, with line, byte and cure


def _is_mixed(path: Path) -> bool:
    """Whether some lines are UTF-8 beyond ASCII, although not all of the file is."""
    rest = b""
    for content in pieces(path, CHUNK_BYTES):
        lines = (rest + content).split(b"\n")
        rest = lines.pop()
        if any(not line.isascii() and _is_utf8(line) for line in lines):
            return True
    return not rest.isascii() and _is_utf8(rest)


def _is_utf8(line: bytes) -> bool:
    return _decodes(_UTF8(), line, final=True)


def _decodes(decoder: codecs.IncrementalDecoder, content: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(content, final)
    except UnicodeDecodeError:
        return False
    return True


def _without_mark(content: Iterable[bytes]) -> Iterator[bytes]:
    first = b""
    rest = iter(content)
    for piece in rest:
        first += piece
        if len(first) >= len(UTF8_MARK):
            break
    if first:
        yield first.removeprefix(UTF8_MARK)
    yield from rest


def _from_utf16(content: Iterable[bytes], path: Path) -> Iterator[bytes]:
    decoder = _UTF16("strict")
    lines, first = 0, True
    try:
        for piece in _and_last(content):
            if first and not piece.startswith(UTF16_MARKS):
                raise SourceError(
                    f"{path}: has no byte order mark, so it is not the UTF-16 that its source declares; "
                    "correct encoding, or convert it: iconv -f UTF-16LE -t UTF-8"
                )
            first = False
            text = decoder.decode(piece, not piece)
            lines += text.count("\n")
            yield text.encode()
    except UnicodeError as error:
        raise SourceError(f"{path} near line {lines + 1}: is not UTF-16 ({_reason(error)}); copy it again") from error


def _from_single_bytes(content: Iterable[bytes], encoding: Encoding, path: Path) -> Iterator[bytes]:
    """Bytes beyond ASCII that are all UTF-8 are hardly ever of the declared encoding: the file has changed its own."""
    decoder = _SINGLE_BYTES[encoding]("strict")
    utf8 = _UTF8("strict")
    is_utf8, is_ascii, lines = True, True, 0
    for piece in _and_last(content):
        if piece.startswith(UTF16_MARKS) and not lines:
            raise SourceError(f"{path}: is UTF-16, and its source declares {encoding}; say encoding: utf-16")
        is_ascii = is_ascii and piece.isascii()
        is_utf8 = is_utf8 and _decodes(utf8, piece, final=not piece)
        try:
            yield decoder.decode(piece).encode()
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{_place(piece, error.start, path, lines)}: 0x{piece[error.start]:02x} is not {encoding}, which its "
                "source declares; correct encoding, or convert the file"
            ) from None
        lines += piece.count(b"\n")
    if is_utf8 and not is_ascii:
        raise SourceError(f"{path}: is UTF-8, and its source declares {encoding}; say encoding: utf-8")


def _and_last(content: Iterable[bytes]) -> Iterator[bytes]:
    yield from filter(None, content)
    yield b""


def _reason(error: UnicodeError) -> str:
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)


def _place(content: bytes, at: int, path: Path, before: int) -> str:
    start = content.rfind(b"\n", 0, at)
    return f"{path} line {before + line_of(content, at)}, byte {at - start}"


def _line(content: bytes, at: int) -> str:
    start = content.rfind(b"\n", 0, at) + 1
    return content[start : start + SHOWN_CHARACTERS].split(b"\n")[0].decode("latin-1")


def _decode(content: bytes) -> None:
    """Raise at the first byte that is not UTF-8, without a second copy of a large file."""
    start = 0
    view = memoryview(content)
    while start < len(content):
        end = min(start + CHUNK_BYTES, len(content))
        while end < len(content) and content[end] & 0xC0 == 0x80:  # never between the bytes of one character
            end += 1
        try:
            str(view[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError("utf-8", b"", start + error.start, start + error.end, error.reason) from None
        start = end
