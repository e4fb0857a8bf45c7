"""A contract as an ODCS document and back: nothing lost on the way, and what others wrote is taken or named."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import open_data_contract_standard
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from open_data_contract_standard.model import OpenDataContractStandard

from shipworthy.contract.parse import parse_contract
from shipworthy.governance.odcs import to_odcs
from shipworthy.governance.odcs_import import from_odcs, parse_document
from shipworthy.kernel.errors import ShipworthyError, SourceError, UsageError
from tests.faces.life import CONTRACT as FLIGHTS
from tests.stories.lending import CONTRACT as LENDING
from tests.stories.loans import CONTRACT as LOANS

HERE = Path(__file__).parent
MORTGAGE = (HERE.parent / "contract" / "mortgage.yaml").read_text()
CHURN = parse_document((HERE / "churn.odcs.yaml").read_text(), "churn.odcs.yaml")
REGRESSION = LOANS.replace('type: binary, values: ["0", "1"], positive: "1"', "type: regression, range: [0, 9]")
REGRESSION = REGRESSION.split("decision:")[0] + (
    "decision: {fallback: {otherwise: 0}}\ngates: {performance: {mae: {better_than: baseline}}}\n"
)
BANDED = LOANS.replace(
    'ratio: {from: "debt / income", type: float}',
    'size: {from: "bucket(income, 5, 9)", type: category, values: [low, middle, high], unknown: review}',
)
CONTRACTS = {
    "mortgage": MORTGAGE,
    "banded": BANDED,
    "lending": LENDING,
    "loans": LOANS,
    "flights": FLIGHTS,
    "regression": REGRESSION,
}
SCHEMA = json.loads((Path(open_data_contract_standard.__file__).parent / "schema.json").read_text())
JUDGE = jsonschema_rs.validator_for(SCHEMA)


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_way_out_and_back_gives_the_same_contract(name: str):
    exported = to_odcs(CONTRACTS[name], "shipworthy.yaml")
    JUDGE.validate(exported.document)
    text = yaml.safe_dump(exported.document, sort_keys=False)
    read = OpenDataContractStandard.from_string(text)
    assert [table.name for table in read.schema_ or ()] == [parse_contract(CONTRACTS[name]).system]
    imported = from_odcs(parse_document(text, "x"))
    assert imported.left_out == imported.assumed == ()
    back = parse_contract(json.dumps(imported.contract))
    before = parse_contract(CONTRACTS[name])
    assert back.model_dump() == before.model_dump()
    assert list(back.features) == list(before.features)  # the order of the model's inputs


def test_the_standards_own_words_are_used():
    document = to_odcs(MORTGAGE, "x").document
    [table] = document["schema"]
    columns = {column["name"]: column for column in table["properties"]}
    assert (document["team"]["name"], document["slaProperties"][0]["value"]) == ("lending", 1)
    assert columns["application_id"]["primaryKey"]
    assert columns["applicant_id"]["classification"] == "personal"
    assert columns["income"]["logicalTypeOptions"] == {"minimum": 0, "maximum": 1000}
    assert (columns["income"]["required"], columns["credit_score"]["required"]) == (True, False)
    assert columns["sex"]["quality"][0]["arguments"] == {"validValues": ["female", "male"]}
    assert columns["debt_ratio"]["transformLogic"] == "100 * monthly_debt / income"
    assert [rule["type"] for rule in table["quality"]] == ["library", "custom"]
    assert document["servers"][1]["location"] == "${BUREAU_URL}"


def test_what_is_carried_as_our_own_is_named():
    own = to_odcs(LOANS, "x").own
    assert {"decision", "gates", "training", "role of columns"} <= set(own)
    assert "features" not in own


def test_a_bound_that_somebody_changed_in_the_document_is_the_contracts():
    document = to_odcs(MORTGAGE, "x").document
    income = next(column for column in document["schema"][0]["properties"] if column["name"] == "income")
    income["logicalTypeOptions"]["maximum"] = 500
    document["description"]["purpose"] = "Another."
    back = parse_contract(json.dumps(from_odcs(document).contract))
    assert (back.features["income"].range, back.purpose) == ((0, 500), "Another.")


def test_a_document_of_others_becomes_a_contract_and_what_has_no_place_is_named():
    JUDGE.validate(CHURN)
    imported = from_odcs(CHURN, "churned")
    contract = parse_contract(json.dumps(imported.contract))
    assert (contract.system, contract.owner) == ("customer-churn", "mhopper")
    assert (contract.target.type, contract.target.values) == ("binary", ("001", "1"))
    assert contract.features["country"].values == ("no", "de", "fr")
    assert contract.context["Customer_ID"].personal
    assert contract.context["signed_up"].role == "time"
    assert (contract.features["age"].missing, contract.features["spend"].missing) == ("reject", "allow")
    assert contract.data.accept.age is not None
    assert (contract.data.accept.age.at_most, contract.data.accept.rows.at_least) == (4 * 86400, 100)
    for place in (
        "schema orders", "servers prod", "slaProperties retention", "age.tags",
        "age.quality: duplicateValues", "spend.logicalTypeOptions.minimum",
        "address", "quality: no orphans", "domain", "description.limitations", "price.priceAmount", "contractCreatedTs",
    ):  # fmt: skip
        assert any(place in left for left in imported.left_out), place
    assert {line.partition(":")[0] for line in imported.assumed} == {
        "risk", "target.positive", "training", "decision", "gates",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "target", "words"),
    [
        ({"kind": "Service"}, None, "kind is 'Service'"),
        ({**CHURN, "apiVersion": "v2.2.2"}, "churned", "apiVersion 'v2.2.2'"),
        (CHURN, None, "--target COLUMN"),
        (CHURN, "nothing", "--target COLUMN"),
        (CHURN, "country", ""),
        ({**CHURN, "schema": []}, "churned", "schema names no table"),
        ({**CHURN, "schema": "customers"}, "churned", "schema is 'customers'; it must be a list"),
    ],
)
def test_what_cannot_become_a_contract_says_why(document: Any, target: str | None, words: str):
    if not words:
        assert from_odcs(document, target).contract["target"]["type"] == "multiclass"
        return
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        from_odcs(document, target)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "line 1: is not YAML"),
        ("- a", "is no mapping"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n"
         + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)), "too large"),
        ("a: " + "[" * 5000, "nested too deep|is not YAML"),
    ],
    ids=["broken", "list", "twice", "bomb", "deep"],
)  # fmt: skip
def test_a_text_that_is_no_document_is_refused(text: str, words: str):
    with pytest.raises(SourceError, match=words):
        parse_document(text, "x")


def test_only_numbers_and_true_are_more_than_text():
    found = parse_document('a: no\nb: 2022-11-15\nc: 007\nd: "1"\ne: 1.5\nf: true\ng: ~', "x")
    assert found == {"a": "no", "b": "2022-11-15", "c": "007", "d": "1", "e": 1.5, "f": True, "g": None}


ODD: list[Any] = [None, "", "x", 0, -1, 1.5, True, [], ["x"], [None], {}, {"a": 1}, [{"a": 1}], [[]]]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_no_broken_document_is_worse_than_an_error(data: st.DataObject, is_ours: bool):
    """Any one part replaced by anything is imported, or refused in words."""
    document = copy.deepcopy(to_odcs(MORTGAGE, "x").document if is_ours else CHURN)
    part: Any = document
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(part[key], dict | list) and part[key] and data.draw(st.booleans()):
            part = part[key]
            continue
        part[key] = data.draw(st.sampled_from(ODD))
        break
    with contextlib.suppress(ShipworthyError):
        parse_contract(json.dumps(from_odcs(document, None if is_ours else "churned").contract))
