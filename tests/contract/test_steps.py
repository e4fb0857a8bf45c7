"""Steps of `prepare` in the contract: typed where they are written, each fault with its place and cure."""

import json
from typing import Any

import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.steps import column_kinds, step_scopes
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ContractError
from tests.data.conftest import BASE

SOURCES = {"loans": {"path": "loans.csv"}, "scores": {"path": "scores.csv"}}


def parse(prepare: Any, sources: Any = SOURCES, **sections: Any) -> Contract:
    return parse_contract(json.dumps({**BASE, **sections, "data": {"sources": sources, "prepare": prepare}}))


def test_a_text_is_one_step_and_a_list_names_its_tables() -> None:
    (sql,) = parse("select * from loans").data.steps
    assert (sql.verbs, sql.table) == (("sql",), "prepared")
    (run,) = parse("prepare.py:prepare").data.steps
    assert (run.verbs, run.run) == (("run",), "prepare.py:prepare")
    steps = parse([{"table": "scores", "distinct": ["id"]}, {"sql": "select 1"}, {"table": "x", "run": "a.py:f"}])
    assert [step.table for step in steps.data.steps] == ["scores", "scores", "x"]
    assert steps.data.prepare_files == ("a.py",)
    (only,) = parse([{"keep": "income > 1"}], {"loans": {"path": "loans.csv"}}).data.steps
    assert only.table == "loans"


def test_types_hold_for_later_steps_of_the_table_until_it_is_made_anew() -> None:
    steps = [
        {"table": "loans", "keep": "dep > 1", "types": {"dep": "int", "income": "int"}},
        {"set": {"half": "dep / 2", "late": "dep > 5"}},
        {"keep": "late and half > 1"},
        {"table": "scores", "keep": "income > 1"},
        {"table": "loans", "sql": "select * from loans"},
        {"keep": "income > 1"},
    ]
    contract = parse(steps)
    scopes = step_scopes(contract.data.steps, column_kinds(contract))
    assert [scope["income"] for scope in scopes] == ["int", "int", "int", "float", "int", "float"]
    assert (scopes[2]["half"], scopes[2]["late"]) == ("float", "bool")
    assert "half" not in scopes[5]


LOANS: dict[str, Any] = {"table": "loans"}
FAULTY: dict[str, tuple[Any, str]] = {
    "two things": (
        [{**LOANS, "keep": "income > 1", "run": "a.py:f"}],
        r"prepare\[0\]: a step does one of .* keep, run$",
    ),
    "nothing": ([LOANS], r"prepare\[0\]: a step does one of .* this one does nothing"),
    "no table": ([{"keep": "income > 1"}], r"\[0\]\.table: the first step names its table; there are loans, scores"),
    "another table": ([{"table": "loan", "distinct": ["a"]}], r"no table is called 'loan' here; did you mean loans\?"),
    "a later table": (
        [{"table": "x", "distinct": ["a"]}, {"table": "x", "sql": "select 1"}],
        r"\[0\]\.table: no table is called 'x' here",
    ),
    "type not known": (
        [{**LOANS, "keep": "incom > 1"}],
        r"\[0\]\.keep: the type of 'incom' is not known; say it: types: \{incom: int\}; did you mean income\?",
    ),
    "no condition": (
        [{**LOANS, "keep": "income"}],
        r"\[0\]\.keep: a condition is true or false, and this gives a number",
    ),
    "syntax": ([{**LOANS, "set": {"x": "1 +"}}], r"\[0\]\.set\.x: the expression ends where"),
    "latest is not typed": ([{**LOANS, "distinct": ["a"], "latest": "b"}], r"\.latest: .*say types: \{b: datetime\}"),
    "latest is a text": (
        [{**LOANS, "distinct": ["a"], "latest": "b", "types": {"b": "text"}}],
        r"\.latest: what is latest is told by a number or a datetime, and it is text",
    ),
    "latest alone": (
        [{**LOANS, "keep": "income > 1", "latest": "income"}],
        r"latest goes with distinct, not",
    ),
    "types of SQL": ([{"sql": "select 1", "types": {"a": "int"}}], r"\.types: types are for expressions; sql reads"),
    "by_caller": ([{**LOANS, "keep": "income > 1", "by_caller": True}], r"by_caller goes with set, not with keep"),
    "twice": ([{**LOANS, "distinct": ["a", "a"]}], r"distinct\[1\]: 'a' is listed twice"),
    "SQL": ([{"sql": "drop table x"}], r"\[0\]\.sql: expected a SQL text \(select …\), not 'drop table x'"),
    "outside": ([{"run": "../a.py:f"}], r"\[0\]\.run: '../a.py:f' leaves the project"),
    "unknown key": ([{**LOANS, "keeep": "x"}], r"\[0\]\.keeep: the key 'keeep' is unknown; did you mean keep\?"),
    "unknown type": (
        [{**LOANS, "keep": "x > 1", "types": {"x": "category"}}],
        r"\.types\.x: expected one of float",
    ),
    "not a step": (["select 1"], r"\[0\]: expected a mapping with table, keep"),
    "empty": ([], r"expected at least 1 entries, not 0"),
    "number": (5, r"data\.prepare: expected a text or a list"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_faulty_step_is_told_with_place_and_cure(case: str) -> None:
    prepare, message = FAULTY[case]
    with pytest.raises(ContractError, match=message):
        parse(prepare)


def test_a_delay_needs_a_time_and_a_time_needs_that_of_the_rows() -> None:
    with pytest.raises(ContractError, match=r"sources\.loans\.delay: a delay goes with time"):
        parse("select 1", {"loans": {"path": "loans.csv", "delay": "1h"}})
    with pytest.raises(ContractError, match=r"sources\.loans\.time: .*a context column with role: time"):
        parse("select 1", {"loans": {"path": "loans.csv", "time": "at"}})


def test_what_no_step_uses_leaves_the_contract_as_it_was() -> None:
    """The digests of contracts, and so what `ship` did before, stay."""
    dumped = parse("select * from loans").data.model_dump(mode="json")
    assert dumped["prepare"] == "select * from loans"
    assert "future" not in dumped["accept"]
    assert not {"time", "delay"} & set(dumped["sources"]["loans"])
