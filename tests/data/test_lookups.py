"""Lookups: what was known at each row's time is found, nothing of later ever; and a server is given the same."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.bundle.format import LookupTable
from shipworthy.contract.parse import parse_contract
from shipworthy.data.columns import encode
from shipworthy.data.lookups import Joined, join_lookups, main_reads, pack_tables
from shipworthy.data.sources.read import SourceRead
from shipworthy.data.validate import validate
from shipworthy.kernel.errors import DataError
from shipworthy.release.schema import compile_schema
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from tests.data.conftest import build
from tests.stories import deliveries as story

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
CONTEXT = {"asked": {"type": "datetime", "role": "time"}}


def read_of(name: str, frame: pl.DataFrame) -> SourceRead:
    """A source as it would have been read."""
    return SourceRead(name, frame, Path(f"{name}.parquet"), "", 0, frame.height)


def contract_of(lookup: dict[str, Any], features: dict[str, Any], **sections: Any) -> Any:
    data = {"sources": {"loans": {"path": "loans.csv"}, "rates": {"path": "rates.csv"}}, "lookups": {"rates": lookup}}
    return build(data=data, features=features, **{"context": CONTEXT, **sections})


def join(contract: Any, main: pl.DataFrame, rates: pl.DataFrame, now: float = NOW) -> Joined:
    reads = {"loans": read_of("loans", main), "rates": read_of("rates", rates)}
    assert list(main_reads(contract, reads)) == ["loans"]
    return join_lookups(contract, main, reads, now=now)


def by_bank(**lookup: Any) -> Any:
    features = {"bank": {"type": "text"}, "rate": {"type": "float", "missing": "allow", "lookup": "rates"}}
    return contract_of({"key": ["bank"], **lookup}, features)


TIMED = {"time": "since", "delay": "10min", "age": {"at_most": "2h"}}
RATES = pl.DataFrame(
    {
        "bank": ["a", "a", "a", "b", "b", None],
        "since": ["2026-01-01 10:00", "2026-01-01 12:00", "2026-01-01 08:00", "2026-01-01 10:00", "soon", "2026-01-01"],
        "rate": ["1.5", "2.5", "0.5", "NA", "9", "9"],
    }
)


def test_each_row_gets_what_was_known_at_its_time():
    main = pl.DataFrame(
        {
            "bank": ["a", "a", "a", "a", "a", "a", "b", "c", None, "a"],
            "asked": [
                *(
                    "2026-01-01 10:09",
                    "2026-01-01 10:10",
                    "2026-01-01 12:00",
                    "2026-01-01 12:09",
                    "2026-01-01 12:10",
                    "2026-01-01 14:01",
                ),
                *("2026-01-01 11:00", "2026-01-01 11:00", "2026-01-01 11:00", None),
            ],
        }
    )
    joined = join(by_bank(**TIMED), main, RATES)
    # 10:09 has the row of 8:00, too old; 12:00 that of 10:00, just young enough, and 12:09 not; b's is there, empty
    assert joined.frame["rate"].to_list() == [None, "1.5", "1.5", None, "2.5", None, "NA", None, None, None]
    counts = joined.counts["rates"].to_json()
    assert counts == {
        "found": 4, "not_found": 3, "too_old": 3, "rows": 6, "undated": 2, "repeated": 0, "keys": 2, "unfit": 0,
    }  # fmt: skip
    since = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (12, 10)]
    times = [int(moment.timestamp()) * 10**6 for moment in since]
    assert joined.tables == {"rates": LookupTable(key=(["a", "b"],), times=times, columns={"rate": [2.5, None]})}


def test_without_a_time_each_key_has_one_row():
    features = {
        "bank": {"type": "text"},
        "branch": {"type": "int"},
        "staff": {"type": "int", "range": [1, 99], "lookup": "rates.people"},
    }
    contract = contract_of({"key": {"bank": "name", "branch": "branch"}}, features)
    main = pl.DataFrame({"bank": ["a", "a", "01"], "branch": ["1", "2.0", "7"]})
    rates = pl.DataFrame({"name": ["a", "a", "1", "01"], "branch": [1, 2, 7, 8], "people": [5, 200, 7, 8]})
    joined = join(contract, main, rates)
    assert joined.frame["staff"].to_list() == [5, 200, None]  # "01" is not "1"
    # 200 is beyond the range: such rows go to quarantine, and the server is not given it
    table = joined.tables["rates"]
    assert table.key == (["01", "1", "a", "a"], [8, 7, 1, 2])
    assert table.columns == {"staff": [8, 7, 5, None]}
    assert joined.counts["rates"].unfit == 1


MOMENTS = st.integers(0, 40)
KEYS = st.sampled_from(["a", "b", None])


def at(minute: int | None) -> datetime | None:
    return None if minute is None else datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)


@settings(max_examples=60, deadline=None)
@given(
    rates=st.lists(st.tuples(KEYS, st.none() | MOMENTS, st.integers(0, 10**6)), max_size=12),
    asked=st.lists(st.tuples(KEYS, st.none() | MOMENTS), min_size=1, max_size=12),
    delay=st.integers(0, 5),
    age=st.none() | st.integers(6, 20),
)
def test_it_is_what_a_reader_of_the_rule_would_pick(rates: Any, asked: Any, delay: int, age: int | None):
    lookup: dict[str, Any] = {"time": "since"}
    lookup |= {"delay": f"{delay}min"} if delay else {}
    lookup |= {"age": {"at_most": f"{age}min"}} if age is not None else {}
    moment = pl.Datetime("us", "UTC")
    table = pl.DataFrame(
        [(bank, at(minute), float(rate)) for bank, minute, rate in rates],
        schema={"bank": pl.String, "since": moment, "rate": pl.Float64}, orient="row",
    )  # fmt: skip
    main = pl.DataFrame(
        [(bank, at(minute)) for bank, minute in asked], schema={"bank": pl.String, "asked": moment}, orient="row"
    )
    joined = join(by_bank(**lookup), main, table)

    def pick(bank: str | None, minute: int | None) -> float | None:
        if bank is None or minute is None:
            return None
        known = [
            (since, place, rate) for place, (of, since, rate) in enumerate(rates) if of == bank and since is not None
        ]
        known = [row for row in known if row[0] + delay <= minute]  # what was known only later does not exist
        if not known:
            return None
        since, _, rate = max(known)
        return None if age is not None and minute - since > age else rate

    assert joined.frame["rate"].to_list() == [pick(*row) for row in asked]
    counts = joined.counts["rates"]
    assert counts.found + counts.not_found + counts.too_old == len(asked)


def test_no_feature_sees_a_planted_future():
    """For each row one is planted that is known a microsecond after it, and says when that is."""
    random = np.random.default_rng(4)
    start, delay = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=10)
    asked = [start + timedelta(minutes=int(minute)) for minute in random.integers(0, 100_000, 2_000)]
    main = pl.DataFrame({"bank": random.choice(["a", "b"], 2_000), "asked": asked}).unique(maintain_order=True)
    known = pl.col("asked") + timedelta(microseconds=1)
    rates = main.select("bank", (known - delay).alias("since"), known.dt.timestamp("us").cast(pl.Float64).alias("rate"))
    joined = join(by_bank(time="since", delay="10min"), main, rates)
    looked = joined.frame.drop_nulls()
    assert looked.height == main.height - 2  # the first row of each bank
    assert (looked["rate"] < looked["asked"].dt.timestamp("us")).all()
    # without any delay declared, what is planted would be known in time
    early = join(by_bank(time="since"), main, rates).frame
    assert (early["rate"] > early["asked"].dt.timestamp("us")).all()


def test_the_table_has_nothing_that_is_known_only_later():
    contract = by_bank(time="since", delay="10min")
    now = datetime(2026, 1, 1, 12, 9, 59, tzinfo=UTC).timestamp()
    main = pl.DataFrame({"bank": ["a"], "asked": ["2026-01-01 13:00"]})
    assert join(contract, main, RATES, now).tables["rates"].columns == {"rate": [1.5, None]}
    assert join(contract, main, RATES, now + 1).tables["rates"].columns == {"rate": [2.5, None]}


def test_the_order_of_the_source_is_no_matter_but_among_rows_of_one_moment():
    contract = by_bank(time="since")
    main = pl.DataFrame({"bank": ["a"], "asked": ["2026-01-01 13:00"]})
    one, other = (pack_tables(join(contract, main, rates).tables) for rates in (RATES, RATES.reverse()))
    assert one == other
    again = pl.concat([RATES, RATES[1:2].with_columns(rate=pl.lit("7"))])
    joined = join(contract, main, again)
    assert joined.frame["rate"].to_list() == ["7"]  # a later line corrects an earlier one
    assert joined.counts["rates"].repeated == 1


def test_times_without_a_zone_are_of_the_declared_one():
    contract = by_bank(time="since", zone="Europe/Berlin")
    main = pl.DataFrame({"bank": ["a", "a"], "asked": ["2026-07-01 09:59", "2026-07-01 10:00"]})  # UTC
    rates = pl.DataFrame({"bank": ["a"], "since": ["2026-07-01 12:00"], "rate": [3.0]})
    assert join(contract, main, rates).frame["rate"].to_list() == [None, 3.0]


def test_moments_are_looked_up_as_their_source_writes_them():
    features = {"bank": {"type": "text"}, "income": {"type": "float"}}
    features["founded"] = {"type": "datetime", "lookup": "rates"}
    contract = contract_of({"key": ["bank"]}, features)
    rates = pl.DataFrame({"bank": ["a", "b"], "founded": ["03.02.1999", "25.02.1999"]})
    joined = join(contract, pl.DataFrame({"bank": ["a"]}), rates)
    assert joined.frame["founded"].to_list() == [datetime(1999, 2, 3, tzinfo=UTC)]
    assert joined.tables["rates"].columns["founded"][0] == "1999-02-03T00:00:00.000000Z"


MAIN = pl.DataFrame({"bank": ["a"], "asked": ["2026-01-01"]})
REFUSED = {
    "a key in several rows": (
        {}, MAIN, RATES,
        r"lookup rates: 2 keys stand in several rows of rates, the first is bank 'a'; .*time: COLUMN",
    ),
    "a column of its own": (
        TIMED, MAIN.with_columns(rate=pl.lit("1")), RATES,
        r"features\.rate\.lookup: the data has a column 'rate' of its own; leave it out",
    ),
    "no such column": (
        TIMED, MAIN, RATES.rename({"rate": "rates"}),
        r"lookup rates: source rates has no column 'rate'; did you mean rates\?; it has bank, since, rates",
    ),
    "no key in the data": (TIMED, MAIN.rename({"bank": "banks"}), RATES, "rates: the data has no column 'bank'"),
    "no time in the source": (TIMED, MAIN, RATES.drop("since"), r"source rates has no column 'since'"),
    "dates that cannot be told": (
        TIMED, MAIN, RATES.with_columns(since=pl.lit("03/04/2026")),
        r"lookup rates: since: every date reads as month/day and as day/month; write year-month-day",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_looked_up_is_said(case: str):
    lookup, main, rates, words = REFUSED[case]
    with pytest.raises(DataError, match=words):
        join(by_bank(**lookup), main, rates)


def test_tables_that_no_release_can_carry_are_refused():
    tables = {"rates": LookupTable(key=([f"bank-{at}" for at in range(1000)],), columns={"rate": [1.0] * 1000})}
    with pytest.raises(DataError, match=r"the tables have 0 MB \(rates 1,000 keys\), and a release takes 0 MB; look"):
        pack_tables(tables, limit=10_000)


def test_decimal_commas_of_a_looked_up_number_are_read(tmp_path: Path):
    from shipworthy.data.sources.dialect import number_columns
    from shipworthy.data.sources.read import read_source

    features = {"bank": {"type": "text"}, "rate": {"type": "float", "lookup": "rates.percent"}}
    contract = contract_of({"key": ["bank"]}, features)
    (tmp_path / "rates.csv").write_text('bank,percent\na,"1,5"\n')
    source = contract.data.sources["rates"].model_copy(update={"decimal": ","})
    rates = read_source("rates", source, tmp_path, numbers=number_columns(contract)).frame
    assert join(contract, pl.DataFrame({"bank": ["a"]}), rates).tables["rates"].columns == {"rate": [1.5]}


ROWS, DAYS = 10_000, 3


def test_a_server_that_had_the_table_of_each_moment_sees_what_training_sees(seen: Any):
    """Time is played again: the table as it was known at each moment, and the rows that came until the next one."""
    contract = parse_contract(story.CONTRACT)
    main, fleet, sky = story.deliveries(ROWS, DAYS), story.vans(), story.weather(DAYS)
    fleet = fleet[:-3]  # some vans are not known
    reads = {name: read_of(name, frame) for name, frame in (("vans", fleet), ("weather", sky))}
    joined = join_lookups(contract, main, reads, now=NOW)
    validated = validate(contract, joined.frame)
    trained = dict(zip(validated.accepted["order"], encode(contract, validated.accepted), strict=True))
    refused = set(main["order"]) - set(trained)
    schema, delay = compile_schema(contract), timedelta(minutes=10)
    steps = sorted({story.START, *(moment + delay for moment in sky["observed_at"])})
    steps.append(story.START + timedelta(days=DAYS + 1))
    main = main.sort("due")
    equal = missing = 0
    for start, end in pairwise(steps):
        tables = join_lookups(contract, main[:1], reads, now=start.timestamp()).tables
        decoder = RequestDecoder(schema, (), tables)
        for row in main.filter(pl.col("due").is_between(start, end, closed="left")).iter_rows(named=True):
            request = {
                "inputs": {name: row[name] for name in ("plate", "depot", "stops")},
                "context": {"due": row["due"].isoformat()},
            }
            try:
                served = np.array(decoder.decode_object(request).floats, dtype=np.float32)
            except InvalidRequestError:
                assert row["order"] in refused
                refused.discard(row["order"])
                continue
            assert served.tobytes() == trained[row["order"]].tobytes() or same(served, trained[row["order"]])
            equal += 1
            missing += bool(np.isnan(served).any())
    seen("rows equal", equal)
    assert not refused  # each one that training does not have, a server refuses
    assert equal > 0.9 * ROWS
    assert 0.02 * ROWS < missing < 0.5 * ROWS  # weather that was too old, or of a kind that is not listed


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, but for which NaN says that a value is missing."""
    gone = np.isnan(one)
    return bool((gone == np.isnan(other)).all()) and one[~gone].tobytes() == other[~gone].tobytes()
