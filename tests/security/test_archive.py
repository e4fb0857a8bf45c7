"""Archives are read as if a stranger had made them."""

import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.errors import IntegrityError, UsageError
from shipworthy.security.archive import Source, check_name, read_archive, write_archive


def archive(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    write_archive(stream, members)
    return stream.getvalue()


def read(content: bytes) -> list[tuple[str, bytes]]:
    return [(name, b"".join(chunks)) for name, _, chunks in read_archive(io.BytesIO(content))]


def test_what_was_written_is_read_back_and_the_same_files_make_the_same_bytes(tmp_path: Path):
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    stream = io.BytesIO()
    sources: list[Any] = [("a/b.txt", b"x"), Source("big", tmp_path / "big", 3_000_000), ("empty", b"")]
    assert write_archive(stream, sources) == 3
    assert read(stream.getvalue()) == [("a/b.txt", b"x"), ("big", (tmp_path / "big").read_bytes()), ("empty", b"")]
    again = io.BytesIO()
    write_archive(again, sources)
    assert again.getvalue() == stream.getvalue()


def test_a_file_that_grows_meanwhile_is_in_it_as_far_as_it_was_listed(tmp_path: Path):
    (tmp_path / "log").write_bytes(b"12345")
    stream = io.BytesIO()
    write_archive(stream, [Source("log", tmp_path / "log", 3)])
    assert read(stream.getvalue()) == [("log", b"123")]


def hostile(name: str = "x", **changes: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=changes.pop("format", tarfile.GNU_FORMAT)) as file:
        member = tarfile.TarInfo(name)
        for field, value in changes.items():
            setattr(member, field, value)
        file.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        hostile(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        hostile(type=tarfile.LNKTYPE, linkname="y"),
        hostile(type=tarfile.DIRTYPE),
        hostile(type=tarfile.CHRTYPE),
        hostile(type=tarfile.BLKTYPE),
        hostile(type=tarfile.FIFOTYPE),
        hostile(format=tarfile.PAX_FORMAT, pax_headers={"path": "../x"}),
        hostile(format=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.size": "9"}),
        *(
            hostile(name)
            for name in (
                "/etc/passwd", "../x", "a/../../x", "a//b", "./x", "a/.", "a/..", "C:/x", "a\\b", "..", "a" * 300,
                "x ", "x.", "con|x", "e\u0301", "/".join("a" * 30),
            )
        ),
    ],
)  # fmt: skip
def test_whatever_is_no_plain_file_with_a_plain_name_is_refused(content: bytes):
    with pytest.raises(IntegrityError):
        read(content)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "A"), ("ﬁle", "file")])
def test_a_name_that_is_there_twice_is_refused(names: tuple[str, str]):
    with pytest.raises(IntegrityError, match="twice"):
        read(archive(*((name, b"x") for name in names)))


def test_an_archive_that_was_cut_or_is_none_is_refused():
    whole = archive(("a", b"x" * 5000), ("b", b"y" * 5000))
    for at in (1, 511, 600, 3000, 9000):
        with pytest.raises(IntegrityError):
            read(whole[:at])
    for content in (b"", b"PK\x03\x04" + bytes(600), b"\x1f\x8b" + bytes(600), os.urandom(2048)):
        with pytest.raises(IntegrityError):
            read(content)


def test_mutated_archives_never_give_a_name_that_leads_out():
    chance = random.Random(4)
    whole = archive(("a/b", b"x" * 700), ("c", b"y" * 700))
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        try:
            names = [name for name, _ in read(bytes(content))]
        except IntegrityError:
            continue
        assert all(check_name(name) == name for name in names)


@given(st.text())
def test_a_plain_name_stays_below_its_folder(text: str):
    try:
        name = check_name(text)
    except IntegrityError:
        return
    root = Path("/root")
    assert os.path.normpath(root / name) == str(root / name)
    assert str(root / name).startswith("/root/")


def test_a_name_that_could_not_be_read_is_not_written():
    with pytest.raises(UsageError, match="cannot be archived"):
        archive(("../x", b""))
