"""A broken contract is rejected at the line that is broken: every key and value of the example, broken in turn."""

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipworthy.contract.nodes import Listing, Scalar, Table, compose, dotted, walk
from shipworthy.contract.nodes import Path as KeyPath
from shipworthy.contract.outline import FREE, inner, keys_of, section_of
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ContractError
from tests.conftest import Seen

MORTGAGE = (Path(__file__).parent / "mortgage.yaml").read_text()
LINES = MORTGAGE.splitlines(keepends=True)
COUNT = int(os.environ.get("SHIPWORTHY_SOAK", "200"))


@dataclass(frozen=True, slots=True)
class Mutation:
    """One edit, and where it must be found: line, column and key."""

    kind: str
    key: str
    line: int
    column: int
    text: str


def edited(line: int, column: int, old: str, new: str) -> str:
    """The example with `old`, which stands at line and column, replaced."""
    row = LINES[line - 1]
    assert row[column - 1 :].startswith(old), (row, column, old)
    return "".join([*LINES[: line - 1], row[: column - 1] + new + row[column - 1 + len(old) :], *LINES[line:]])


def annotation(path: KeyPath) -> object:
    found: object = Contract
    for part in path:
        found = inner(found, part)
    return found


def source(node: Scalar) -> str:
    """The scalar as the example writes it."""
    rest = LINES[node.place.line - 1][node.place.column - 1 :]
    if rest[0] in "\"'":
        return rest[: rest.index(rest[0], 1) + 1]
    if isinstance(node.value, str):
        return node.value  # plain texts of the example are written as they are
    return re.split(r"\s*[,}\]#\n]", rest)[0]


def mutations() -> Iterator[Mutation]:
    root, _ = compose(MORTGAGE, "example")
    assert root is not None
    for path, node in walk(root):
        if isinstance(node, Scalar):
            yield from of_value(path, node)
        if isinstance(node, Table):
            yield from of_keys(path, node)
        if isinstance(node, Listing):
            old = "["
            if LINES[node.place.line - 1][node.place.column - 1] == old and path[-1] != "range":  # told as a whole
                text = edited(node.place.line, node.place.column, old, "[[a], ")
                place = node.place
                yield Mutation("a list in a list", dotted((*path, 0)), place.line, place.column + 1, text)


def of_value(path: KeyPath, node: Scalar) -> Iterator[Mutation]:
    line, column, old = node.place.line, node.place.column, source(node)
    key = dotted(path)
    for kind, new in [("a mapping", "{oops: 1}"), ("a trap", "no"), ("an anchor", "&a x"), ("a date", "2024-01-31")]:
        yield Mutation(f"{kind} for a value", key, line, column, edited(line, column, old, new))
    if re.fullmatch(r"[\d.]+(%|[A-Za-z]+| USD)", old):
        number = re.match(r"[\d.]+", old)
        assert number is not None
        yield Mutation("no unit", key, line, column, edited(line, column, old, number[0]))
    if isinstance(node.value, int | float) and not isinstance(node.value, bool):
        yield Mutation("a number as text", key, line, column, edited(line, column, old, f"'{old}'"))


def of_keys(path: KeyPath, node: Table) -> Iterator[Mutation]:
    section = section_of(annotation(path))
    for key, entry in node.entries.items():
        line, column = entry.place.line, entry.place.column
        full = dotted((*path, key))
        written = f'"{key}"' if LINES[line - 1][column - 1] == '"' else key
        if LINES[line - 1][: column - 1].strip():  # a flow mapping
            text = edited(line, column, written, f"{written}: 1, {written}")
            yield Mutation("a duplicate", full, line, column + len(written) + 5, text)
        if section is not None and section not in FREE and key in keys_of(section):
            wrong = dotted((*path, f"{key}q"))
            yield Mutation("a misspelt key", wrong, line, column, edited(line, column, written, f"{key}q"))


ALL = list(mutations())
SAMPLE = sorted(random.Random(22).sample(range(len(ALL)), min(COUNT, len(ALL))))


def test_there_are_enough_mutations_of_each_kind(seen: Seen) -> None:
    kinds = {mutation.kind: sum(other.kind == mutation.kind for other in ALL) for mutation in ALL}
    assert len(ALL) > 700
    seen("mutations", len(SAMPLE))
    assert min(kinds.values()) >= 5, kinds
    assert len({mutation.text for mutation in ALL}) == len(ALL)


@pytest.mark.parametrize("number", SAMPLE, ids=lambda number: f"{ALL[number].kind} {ALL[number].key}")
def test_a_broken_contract_is_rejected_at_the_broken_place(number: int) -> None:
    mutation = ALL[number]
    with pytest.raises(ContractError) as caught:
        parse_contract(mutation.text)
    places = [(problem.line, problem.column) for problem in caught.value.problems]
    assert (mutation.line, mutation.column) in places, caught.value.problems
    assert mutation.key in [problem.key for problem in caught.value.problems], caught.value.problems
