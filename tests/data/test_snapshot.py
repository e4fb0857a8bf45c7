"""Snapshots: the same content has one digest and one version; what is read back is what was taken."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipworthy.data.snapshot import PART_ROWS, Snapshot, content_digest, end_of, extend, read, take
from shipworthy.kernel.errors import IntegrityError, NotFoundError, StorageError
from tests.data.conftest import build

GOLDEN = "sha256:54b3c59f431a28a838a7086fbd75cb6bea8a31e7ee29d303a1bb4bfb0337b03e"  # of numbered(PART_ROWS + 1)
WHOLE = "sha256:9facd6a8ad4a6c7aa9b22ad42434962c55fa0da494552e1319ebb651898c9cd2"  # as one part
FRAME = pl.DataFrame(
    {
        "id": ["a", None, "ü", ""],
        "at": [datetime(2026, 1, 1, tzinfo=UTC), None, None, datetime(1969, 1, 1, tzinfo=UTC)],
        "income": [1.5, None, -0.0, 1e300],
        "n": [1, None, -(2**62), 0],
        "owner": [True, None, False, True],
        "nothing": [None] * 4,
    },
    schema_overrides={"at": pl.Datetime("us", "UTC"), "nothing": pl.String},
)


def test_what_was_taken_is_read_back(make: Any, tmp_path: Path) -> None:
    snapshot = take(make(), FRAME, tmp_path)
    assert read(snapshot).equals(FRAME)
    assert read(snapshot).schema == FRAME.schema
    assert (snapshot.version, snapshot.rows, snapshot.path) == (0, 4, tmp_path / "loans")


def test_content_that_is_there_makes_no_new_version(make: Any, tmp_path: Path) -> None:
    first = take(make(), FRAME, tmp_path)
    second = take(make(), FRAME.head(2), tmp_path)
    assert (second.version, second.digest == first.digest) == (1, False)
    assert take(make(), FRAME.clone(), tmp_path) == first
    assert take(make(), FRAME.head(2).rechunk(), tmp_path) == second
    assert read(first).equals(FRAME)


def test_a_version_of_other_columns_is_taken_too(make: Any, tmp_path: Path) -> None:
    take(make(), FRAME, tmp_path)
    changed = FRAME.select(pl.col("n").cast(pl.Float64), extra=pl.lit("x"))
    assert read(take(make(), changed, tmp_path)).equals(changed)


def test_rows_keep_their_order_in_a_large_table(make: Any, tmp_path: Path) -> None:
    frame = pl.DataFrame({"n": pl.int_range(300_000, eager=True).shuffle(seed=1)})
    assert read(take(make(), frame, tmp_path)).equals(frame)


def test_the_digest_is_of_content_in_order_and_the_same_on_every_machine() -> None:
    assert content_digest(FRAME) == "sha256:eecd4118f0fea56bf4867088b29293a3879fe3487bcaf79fd8247d13ca05d386"
    for other in (
        FRAME.reverse(),
        FRAME.rename({"id": "key"}),
        FRAME.select(reversed(FRAME.columns)),
        FRAME.with_columns(pl.col("n").cast(pl.Int32, strict=False)),
        FRAME.with_columns(pl.col("n").fill_null(0)),
        FRAME.with_columns(pl.col("id").fill_null("")),
    ):
        assert content_digest(other) != content_digest(FRAME)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=3) | st.none(), min_size=1, max_size=5), st.integers(0, 4), st.text(max_size=3))
def test_any_change_of_a_text_changes_the_digest(texts: Any, at: Any, text: Any) -> None:
    changed = [*texts]
    changed[at % len(texts)] = text
    frames = [pl.DataFrame({"a": column}, schema={"a": pl.String}) for column in (texts, changed)]
    assert (content_digest(frames[0]) == content_digest(frames[1])) == (texts == changed)


def test_a_changed_table_and_a_missing_one_are_noticed(make: Any, tmp_path: Path) -> None:
    first, second = take(make(), FRAME, tmp_path), take(make(), FRAME.head(3), tmp_path)
    with pytest.raises(IntegrityError, match="the rows of version 1 have digest"):
        read(Snapshot(first.digest, second.version, first.rows, first.path))
    for file in Path(second.path).glob("*.parquet"):
        file.unlink()
    with pytest.raises(NotFoundError, match="version 1 cannot be read"):
        read(second)
    with pytest.raises(NotFoundError, match="version 9 cannot be read"):
        read(Snapshot(first.digest, 9, 4, first.path))


def test_a_folder_whose_name_the_table_format_cannot_hold_is_refused_with_the_cure(make: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a folder with \[ \] in its name; rename it"):
        take(make(), FRAME, tmp_path / "loans [old]")
    assert take(make(), FRAME, tmp_path / "Größe & more, it's").rows == FRAME.height


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * PART_ROWS), st.integers(0, 3 * PART_ROWS))
def test_rows_have_one_digest_however_they_came(rows: int, first: int) -> None:
    with TemporaryDirectory() as folder:
        whole, at_once = numbered(rows), content_digest(numbered(rows))
        for part in (whole.head(first), whole):
            snapshot = take(build(), part, Path(folder))
        assert (snapshot.digest, snapshot.rows) == (at_once, rows)
        assert read(snapshot).equals(whole)
        pieces = pl.concat([whole[:first], whole[first:]], rechunk=False)
        assert content_digest(pieces) == at_once


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 2 * PART_ROWS), st.lists(st.integers(1, PART_ROWS), min_size=1, max_size=3))
@example(PART_ROWS, [PART_ROWS, 1])
def test_a_snapshot_that_is_extended_is_that_of_all_rows(rows: int, added: list[int]) -> None:
    with TemporaryDirectory() as folder:
        snapshot = take(build(), numbered(rows), Path(folder))
        for count in added:
            end = end_of(snapshot)
            assert end is not None
            extended = extend(snapshot, end, numbered(rows + count)[rows:])
            assert extended is not None
            snapshot, rows = extended, rows + count
        assert snapshot.digest == content_digest(numbered(rows))
        assert read(snapshot).equals(numbered(rows))
        assert take(build(), numbered(rows), Path(folder)) == snapshot


def test_only_the_newest_version_is_extended_and_only_if_it_is_whole(make: Any, tmp_path: Path) -> None:
    first = take(make(), numbered(5), tmp_path)
    end = end_of(first)
    second = take(make(), numbered(3), tmp_path)
    assert end_of(first) is None
    assert end is not None
    assert extend(first, end, numbered(1)) is None  # somebody wrote meanwhile; nothing is left behind
    assert len(list(second.path.glob("*.parquet"))) == 2
    for file in second.path.glob("*.parquet"):
        file.unlink()
    assert end_of(second) is None


def test_each_part_of_a_large_table_counts_and_so_does_their_order() -> None:
    rows = numbered(3 * PART_ROWS + 1)
    swapped = pl.concat([rows[PART_ROWS : 2 * PART_ROWS], rows[:PART_ROWS], rows[2 * PART_ROWS :]])
    digests = {content_digest(other) for other in (rows, rows[:-1], rows[1:], swapped, rows.head(PART_ROWS))}
    assert len(digests) == 5
    assert content_digest(numbered(PART_ROWS + 1)) == GOLDEN


def test_a_version_whose_digest_is_of_all_rows_at_once_is_still_read(make: Any, tmp_path: Path) -> None:
    rows = numbered(PART_ROWS + 1)
    taken = take(make(), rows, tmp_path)
    assert read(Snapshot(WHOLE, taken.version, taken.rows, taken.path)).equals(rows)


def numbered(rows: int) -> pl.DataFrame:
    return pl.select(n=pl.int_range(rows), t=pl.repeat("ä", rows))
