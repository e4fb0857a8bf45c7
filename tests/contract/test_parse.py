"""Parsing: each trap and each problem with its exact place, and all problems at once."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.quantities import Money
from shipworthy.contract.types import RESERVED, Contract
from shipworthy.kernel.errors import ContractError, Problem

MORTGAGE = (Path(__file__).parent / "mortgage.yaml").read_text()
REGRESSION = """\
shipworthy: 1
system: delays
purpose: Foresee how late a flight arrives.
owner: operations
risk: minimal
data: {sources: {flights: {path: flights.csv}}}
features:
  distance: {type: float, unit: km, range: [0, 20000], outside: clip}
  carrier: {type: category, values: [AA, UA], unknown: missing}
target: {column: delay, type: regression, unit: min, range: [-100, 2000]}
training: {entry: train.py:train}
decision:
  bands: [{action: board, below: 15}, {action: warn, below: 60}, {action: rebook}]
  fallback: {rules: [{if: distance > 5000, then: warn}], otherwise: board}
gates: {performance: {mae: {better_than: baseline}, r2: {at_least: 0.1}}}
"""


def problems_of(text: str, columns: list[str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ContractError) as caught:
        parse_contract(text, columns=columns)
    return caught.value.problems


def changed(text: str, old: str, new: str) -> tuple[str, int, int]:
    """`text` with `old` replaced by `new`, and the line and column of the mark « in `new`."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    marked = text.replace(old, new)
    before = marked[: marked.index("«")]
    return marked.replace("«", ""), before.count("\n") + 1, len(before) - before.rfind("\n")


def check_change(text: str, old: str, new: str, key: str, message: str) -> None:
    broken, line, column = changed(text, old, new)
    problems = problems_of(broken)
    assert [(problem.line, problem.column, problem.key) for problem in problems] == [(line, column, key)], problems
    assert message in problems[0].message


def test_the_example_parses_into_typed_values() -> None:
    contract = parse_contract(MORTGAGE)
    assert contract.data.accept.age is not None
    assert contract.data.accept.age.at_most == 86400.0
    assert contract.features["income"].range == (0.0, 1000.0)
    assert contract.derived["debt_ratio"].from_ == "100 * monthly_debt / income"
    assert contract.target.values == ("0", "1")
    assert contract.value is not None
    assert contract.value.outcomes["approve"] == {"1": 900.0, "0": -4000.0}
    assert contract.gates.value is not None
    assert contract.gates.value.per_decision.at_least == Money(120.0, "USD")
    assert contract.gates.slices is not None
    assert contract.gates.slices.limits["roc_auc"].at_least == 0.65
    assert contract.environments["production"].rollout is not None
    assert contract.environments["production"].rollout.steps == (0.05, 0.25, 1.0)
    assert contract.model_columns == ("income", "monthly_debt", "loan_purpose", "credit_score", "debt_ratio")
    assert contract.checks[0].failing.at_most == 0.01


DEBT_RATIO = '{from: "100 * monthly_debt / income", type: float, unit: "%", range: [0, 300], outside: missing}'
WRONG_CATEGORIES = [
    ("{from: income, type: float, unknown: «reject}", "unknown", "not to float"),
    ("{from: income, type: float, values: «[a]}", "values", "values are for category, not for float"),
    ("{from: «'income > 1', type: category, values: [a]}", "from", 'where(condition, "yes", "no") makes a text of it'),
    ("{from: «income, type: category, values: [a]}", "from", "bucket(x, 10, 20) gives one of three values"),
    ("{from: «loan_purpose, type: int}", "from", "a text is a category"),
    (
        "{from: '«bucket(income, 5, 9)', type: category, values: [low, high]}",
        "from",
        "3 buckets, and there are 2 values",
    ),
    (
        '{from: «\'where(income > 5, "hihg", "low")\', type: category, values: [low, high]}',
        "from",
        "may give 'hihg', which is not among its values (low, high); did you mean high?",
    ),
    (
        "{from: lower(loan_purpose), type: category, values: [purchase], unit: «m}",
        "unit",
        "not for category; remove it",
    ),
]


@pytest.mark.parametrize(("column", "key", "message"), WRONG_CATEGORIES)
def test_a_derived_category_that_cannot_be_is_named(column: str, key: str, message: str) -> None:
    plain = MORTGAGE.replace('if: "debt_ratio > 45"', 'if: "income < 1"')
    check_change(plain, DEBT_RATIO, column, f"derived.debt_ratio.{key}".rstrip("."), message)


def test_a_derived_category_is_a_model_input_with_values() -> None:
    banded = '{from: "bucket(income, 5, 9)", type: category, values: [low, middle, high], unknown: reject}'
    contract = parse_contract(MORTGAGE.replace(DEBT_RATIO, banded).replace('"debt_ratio > 45"', "debt_ratio == 'low'"))
    assert contract.derived["debt_ratio"].unknown == "reject"
    assert contract.model_categories == {
        "loan_purpose": ("purchase", "refinance"),
        "debt_ratio": ("low", "middle", "high"),
    }
    with pytest.raises(ContractError, match=r"no value of debt_ratio \(high, low, middle\); did you mean low\?"):
        parse_contract(MORTGAGE.replace(DEBT_RATIO, banded).replace('"debt_ratio > 45"', "debt_ratio == 'lwo'"))


def test_a_key_that_is_not_used_leaves_a_contract_as_it_was() -> None:
    dumped = parse_contract(MORTGAGE).model_dump(mode="json", by_alias=True)["derived"]["debt_ratio"]
    assert not {"values", "unknown"} & {*dumped}


def test_a_regression_without_optional_sections_parses() -> None:
    contract = parse_contract(REGRESSION)
    assert list(contract.environments) == ["local"]
    assert contract.training.split.test == 0.2
    plain = REGRESSION.replace(
        "  bands: [{action: board, below: 15}, {action: warn, below: 60}, {action: rebook}]\n", ""
    )
    plain = plain.replace("then: warn", "then: 12.5").replace("otherwise: board", "otherwise: 3")
    assert parse_contract(plain).decision.fallback.rules[0].then == 12.5


def test_keys_for_other_tools_are_ignored_in_every_section() -> None:
    text = MORTGAGE.replace("owner: lending", "owner: lending\nx-team: {a: [1, 2]}")
    text = text.replace("serving: {timeout: 200ms", "serving: {x-note: slow, timeout: 200ms")
    text = text.replace("slices: {by: [loan_purpose]", "slices: {x-by: 3, by: [loan_purpose]")
    text = text.replace("value: {unit: USD", "value: {x-source: finance, unit: USD")
    assert parse_contract(text) == parse_contract(MORTGAGE)


def test_quoted_and_plain_text_and_block_style_say_the_same() -> None:
    text = MORTGAGE.replace("seed: 7", "seed: +7\n  params: {'c': 1e3}").replace("timeout: 200ms", '"timeout": "200ms"')
    contract = parse_contract("--- # comment\n" + text + "...\n")
    assert contract.training.seed == 7
    assert contract.training.params == {"c": 1000.0}
    assert parse_contract("\ufeff" + MORTGAGE) == parse_contract(MORTGAGE)
    assert parse_contract(MORTGAGE.replace("\n", "\r\n")) == parse_contract(MORTGAGE)


TRAPS = [
    ("log: true", "log: «yes", "training.search.params.learning_rate.log", "write true or false"),
    ("log: true", "log: «On", "training.search.params.learning_rate.log", "write true or false"),
    ("log: true", "log: «True", "training.search.params.learning_rate.log", "small letters"),
    ("[purchase, refinance]", "[purchase, «no]", "features.loan_purpose.values[1]", '"no" in quotes'),
    ("[purchase, refinance]", "[purchase, «007]", "features.loan_purpose.values[1]", "leading zeros"),
    ("[purchase, refinance]", "[purchase, «0x1F]", "features.loan_purpose.values[1]", "not decimal"),
    ("[purchase, refinance]", "[purchase, «0o17]", "features.loan_purpose.values[1]", "not decimal"),
    ("[purchase, refinance]", "[purchase, «2024-01-31]", "features.loan_purpose.values[1]", "is a date"),
    ("[purchase, refinance]", "[purchase, «2024-01-31 10:00:00]", "features.loan_purpose.values[1]", "is a date"),
    ("[purchase, refinance]", "[purchase, «1:30]", "features.loan_purpose.values[1]", "base 60"),
    ("[purchase, refinance]", "[purchase, «7]", "features.loan_purpose.values[1]", 'write "7" in quotes'),
    ("[purchase, refinance]", "[purchase, «true]", "features.loan_purpose.values[1]", 'write "true" in quotes'),
    ("[purchase, refinance]", "[purchase, «~]", "features.loan_purpose.values[1]", "expected a text, not nothing"),
    ("trials: 20", "trials: «1_000", "training.search.trials", "underscores"),
    ("trials: 20", "trials: «020", "training.search.trials", "leading zeros"),
    ("high: 0.3", "high: «.inf", "training.search.params.learning_rate.high", "not a finite number"),
    ("high: 0.3", "high: «1e999", "training.search.params.learning_rate.high", "too large"),
    ("high: 0.3", "high: «" + "9" * 60, "training.search.params.learning_rate.high", "too large"),
    ("seed: 7", "seed: 7\n  «seed: 8", "training.seed", "stands already at line 35"),
    ("risk: high  ", "risk: high\n«risk: high", "risk", "stands already at line 5"),
    ("purpose: Approve", "purpose: «&p Approve", "purpose", "is an anchor"),
    ("owner: lending", "owner: «!!str lending", "owner", "is a tag"),
    ("serving: {", "serving: {«<<: 3, ", "serving.<<", "merges another mapping"),
    ('actions: {"1"', "actions: {«1", "decision.actions.1", 'write "1" in quotes'),
    ('actions: {"1"', "actions: {«no", "decision.actions.no", "the key no is true or false"),
    ("owner: lending", "owner: le«\tnding", "", "a tab"),
    ("owner: lending", "owner:«\tlending", "", "a tab"),
    ("  entry: train.py", "«\tentry: train.py", "", "a tab"),
    ("owner: lending", "owner: lending\n? «[a]\n: b", "", "a key must be a single text"),
    ("owner: lending", "owner: lending«: b", "", "not valid YAML: mapping values are not allowed here"),
    ("monitor: {every", "«---\nmonitor: {every", "", "a second document"),
    ("owner: lending", "owner: lend«\x07ing", "", "is not allowed in YAML"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), TRAPS, ids=[new[:40] for _, new, _, _ in TRAPS])
def test_a_trap_of_yaml_is_refused_with_its_cure(old: str, new: str, key: str, message: str) -> None:
    broken, line, column = changed(MORTGAGE, old, new)
    place = [(problem.line, problem.column, problem.key) for problem in problems_of(broken)]
    assert (line, column, key) in place, problems_of(broken)
    told = next(problem for problem in problems_of(broken) if (problem.line, problem.column) == (line, column))
    assert message in told.message


def test_an_alias_is_refused_once() -> None:
    text = MORTGAGE.replace("purpose: Approve", "purpose: &p Approve").replace("owner: lending", "owner: *p")
    assert [(problem.line, problem.column) for problem in problems_of(text)] == [(3, 10), (4, 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "is a mapping of sections"),
        ("just text\n", "is a mapping of sections"),
        ("{}\n", "the section is missing"),
        ("[" * 1000, "nested deeper"),
        ("a: " * 2 + "b", "not valid YAML"),
        ("a: 'b", "not valid YAML"),
        ("x" * 500_001, "at most 500000 are read"),
    ],
)
def test_what_is_no_contract_at_all_says_so(text: str, message: str) -> None:
    assert message in problems_of(text)[0].message


WRONG = [
    ("risk: high  ", "risk: «hgh  ", "risk", 'expected one of minimal, limited, high, not "hgh"; did you mean high?'),
    ("risk: high  ", "«rsk: high  ", "rsk", "did you mean risk?"),
    ("owner: lending", "owner: «3", "owner", 'expected a text, not the number 3; write "3" in quotes'),
    ("owner: lending", "owner: «{a: b}", "owner", "expected a text, not a mapping"),
    ("owner: lending", "owner: «''", "owner", "the text is empty"),
    ("system: mortgage-approval", "system: «Mortgage", "system", "small letters"),
    ("shipworthy: 1", 'shipworthy: «"1"', "shipworthy", 'expected 1, not "1"; remove the quotes'),
    ("shipworthy: 1", "shipworthy: «0", "shipworthy", "expected 1, not the number 0"),
    ("timeout: 200ms", "timeout: «200", "serving.timeout", "with its unit (ms, s, min, h or d), such as 200ms"),
    ("timeout: 200ms", "timeout: «200m", "serving.timeout", 'such as 200ms or 30d, not "200m"'),
    ("timeout: 200ms", "timeout: «-3s", "serving.timeout", "above 0"),
    (
        "calibrate: 10%",
        "calibrate: «0.1",
        "training.split.calibrate",
        "with its percent sign, such as 2%, not the number",
    ),
    ("memory: {at_most: 200MB}", "memory: {at_most: «200}", "gates.budget.memory.at_most", "(kB, MB, GB or TB)"),
    ("at_least: 120 USD", "at_least: «120", "gates.value.per_decision.at_least", "such as 120 USD, not the number 120"),
    ("confidence: 95%", "confidence: «40%", "gates.confidence", 'expected more than 50%, not "40%"'),
    ("trials: 20", 'trials: «"20"', "training.search.trials", "remove the quotes"),
    ("trials: 20", "trials: «2.5", "training.search.trials", "expected a whole number, not the number 2.5"),
    ("trials: 20", "trials: «0", "training.search.trials", "expected at least 1, not the number 0"),
    ("seed: 7", "seed: «true", "training.seed", "expected a whole number, not true"),
    ("hold: {at_least", "hold: {«at_lest", "environments.production.rollout.hold.at_lest", "did you mean at_least?"),
    ("income: {type: float", "income: {«typ: float", "features.income.typ", "did you mean type?"),
    ("income: {type: float", "income: {type: «flaot", "features.income.type", "did you mean float?"),
    ("income: {type: float, ", "«income: {", "features.income.type", "is missing; expected one of float, int"),
    ("entry: train.py:train", "entry: «train.train", "training.entry", "a Python function of the project"),
    ("  credit_score: {", "  «credit score: {", "features.credit score", "a name of letters, digits and _"),
    ("range: [1, 6]", "range: «[6, 1]", "features.credit_score.range", "is not below"),
    ("range: [1, 6]", "range: «[1, 2, 3]", "features.credit_score.range", "expected two numbers"),
    ("range: [1, 6]", "range: «5", "features.credit_score.range", "expected a list"),
    ("range: [1, 6]", "range: [1, «x]", "features.credit_score.range[1]", "expected a number"),
    ("performance: {log_loss", "performance: {«log_los", "gates.performance.log_los", "did you mean log_loss?"),
    ("local: {}  ", "local:« ", "environments.local", "expected a mapping with approvals, rollout"),
    (
        "approvals: {ml-engineer",
        "approvals: {«ml-enginer",
        "environments.production.approvals.ml-enginer",
        "did you mean",
    ),
    ("checks:\n  - {name: debt fits income, ", "checks:\n  - «{", "checks[0].name", "is missing; expected a text"),
    ("reasons: 3", "reasons: «51", "serving.reasons", "expected at most 50, not the number 51"),
    ("rows: {at_least: 2000}", "growth: {at_most: «200}", "data.accept.growth.at_most", "such as 200%"),
    ("  accept: {", "  keys: [{from: «bureau, to: a.b}]\n  accept: {", "data.keys[0].from", "expected"),
    ("  accept: {", "  unique: [«[applied_at]]\n  accept: {", "data.unique[0]", "at least 2"),
    # what only makes sense between two keys
    (
        "{role: key, type: text}",
        "{role: key, type: text, pattern: 'A«[0-9'}",
        "context.application_id.pattern",
        "this [ is never closed",
    ),
    (
        "{type: int, range",
        "{type: int, pattern: «'1', range",
        "features.credit_score.pattern",
        "a pattern is for text, not for int",
    ),
    (
        "  accept: {",
        "  keys: [{from: «burau.id, to: applications.id}]\n  accept: {",
        "data.keys[0].from",
        "did you mean bureau?",
    ),
    (
        "  accept: {",
        "  keys: [{from: bureau.id, to: «bureau.id}]\n  accept: {",
        "data.keys[0].to",
        "always is in itself",
    ),
    ("  accept: {", "  unique: [[applied_at, «incme]]\n  accept: {", "data.unique[0][1]", "did you mean income?"),
    ("  accept: {", "  unique: [[income, «income]]\n  accept: {", "data.unique[0][1]", "listed twice"),
    ("rows: {at_least: 2000}", "«rows: {}", "data.accept.rows", "takes at_least, at_most or both"),
    (
        "rows: {at_least: 2000}",
        "rows: {at_least: 2000, at_most: «1999}",
        "data.accept.rows.at_most",
        "no batch can be both",
    ),
    (
        "rows: {at_least: 2000}",
        "growth: {at_least: 60%, at_most: «50%}",
        "data.accept.growth.at_most",
        "no batch can be both",
    ),
    ("column: repaid", "column: «sex", "target.column", "'sex' is already a context column"),
    ("reference: white", "reference: «whit", "context.race.reference", "did you mean white?"),
    ("zone: America/New_York", "zone: «America/New_Yrok", "context.applied_at.zone", "did you mean America/New_York?"),
    (
        "{role: time, type: datetime, zone: America/New_York}",
        "{role: time, type: «text}",
        "context.applied_at.type",
        "a time is datetime",
    ),
    ('monthly_debt / income"', 'monthly_debt / «incme"', "derived.debt_ratio.from", "did you mean income?"),
    ('100 * monthly_debt / income"', "«race == 'white'\"", "derived.debt_ratio.from", "'race' is context (protected)"),
    ('100 * monthly_debt / income"', '1 + «debt_ratio"', "derived.debt_ratio.from", "cannot be computed from itself"),
    ('"monthly_debt < 3 * income"', '«"monthly_debt - 3 * income"', "checks[0].expect", "this gives a number"),
    ('"monthly_debt < 3 * income"', "\"loan_purpose == «'purchse'\"", "checks[0].expect", "did you mean purchase?"),
    ('"monthly_debt < 3 * income"', "\"«repaid == '1'\"", "checks[0].expect", "is the target"),
    ('if: "debt_ratio > 45"', 'if: "debt_ratio > «"', "decision.fallback.rules[0].if", "ends where"),
    ('bureau: {url: "${BUREAU_URL}", ', "«bureau: {", "data.sources.bureau", "either a path or a url"),
    (
        "{path: data/applications.csv}",
        "{path: a.csv, query: «select 1}",
        "data.sources.applications.query",
        "goes to a url",
    ),
    ("path: data/applications.csv", "path: «/etc/passwd", "data.sources.applications.path", "is absolute"),
    ("path: data/applications.csv", "path: «a/../../b.csv", "data.sources.applications.path", "leaves the project"),
    ('url: "${BUREAU_URL}"', "url: «bureau", "data.sources.bureau.url", "is no address"),
    ("retries: 3}", "retries: 3, «overlap: 1h}", "data.sources.bureau.overlap", "needs a watermark"),
    ("retries: 3}", "retries: 3, «age: {at_most: 1h}}", "data.sources.bureau.age", "needs a watermark that is a time"),
    ("retries: 3}", "retries: 3, «size: {at_most: 1MB}}", "data.sources.bureau.size", "does not go with a query"),
    (
        "retries: 3}",
        "retries: 3, rows: {at_most: «0}}",
        "data.sources.bureau.rows.at_most",
        "expected at least 1",
    ),
    (
        "retries: 3}",
        "retries: 3, «rows: {at_least: 2, at_most: 1}}",
        "data.sources.bureau.rows",
        "at_least is more than at_most",
    ),
    (
        "{path: data/applications.csv}",
        "{path: a.csv, «watermark: at}",
        "data.sources.applications.watermark",
        "of files, what did not change is known by itself",
    ),
    (
        "{path: data/applications.csv}",
        '{url: «"ftp://host/a.csv"}',
        "data.sources.applications.url",
        "'ftp' is no scheme that is read",
    ),
    (
        "{path: data/applications.csv}",
        '{url: "s3://b/a/", «store: {access_key: "${A}"}}',
        "data.sources.applications.store",
        "access_key and secret_key go together",
    ),
    (
        "{path: data/applications.csv}",
        '{url: "s3://b/a/", query: «select 1}',
        "data.sources.applications.query",
        "objects are read as they are",
    ),
    ("prepare: prepare.py:prepare", "prepare: «prepare", "data.prepare", "expected file.py:function or a SQL text"),
    ('positive: "1"', 'positive: «"2"', "target.positive", "is not among the values"),
    ("by: time", "by: «tiem", "training.split.by", "did you mean time?"),
    ("test: 20%}", "test: «0%}", "training.split.test", "leaves no rows"),
    ("minimise: log_loss", "minimise: «roc_auc", "training.search.minimise", "write maximise: roc_auc"),
    ("low: 0.02", "low: «0.4", "training.search.params.learning_rate.low", "is not below high"),
    ("low: 0.02", "low: «0", "training.search.params.learning_rate.low", "log: true needs low above 0"),
    ('{"1": approve, "0": refer}', '{"1": approve, «"2": refer, "0": refer}', "decision.actions.2", "'2' is no class"),
    ("maximise: value}", "maximise: «valeu}", "decision.threshold.maximise", "did you mean value?"),
    ("answer: refer}", "answer: «refuse}", "decision.review.answer", "'refuse' is no action (approve, refer)"),
    ("otherwise: refer", "otherwise: «reefer", "decision.fallback.otherwise", "did you mean refer?"),
    ("otherwise: refer", "otherwise: «3", "decision.fallback.otherwise", "3.0 is no action"),
    ("at_least: 0.72", "at_least: «1.72", "gates.performance.roc_auc.at_least", "is never above 1"),
    ("at_least: 0.72", "at_least: «0.72, at_most: 0.5", "gates.performance.roc_auc.at_least", "nothing can meet both"),
    ("roc_auc: {at_least: 0.72}", "roc_auc: {«at_most: 0.72}", "gates.performance.roc_auc.at_most", "higher is better"),
    ("roc_auc: {at_least: 0.72}", "«roc_auc: {}", "gates.performance.roc_auc", "a limit is missing"),
    ("roc_auc: {at_least: 0.72}", "«r2: {at_least: 0.5}", "gates.performance.r2", "does not suit a binary target"),
    ("log_loss: {no_worse_by", "«mae: {no_worse_by", "gates.champion.mae", "does not suit a binary target"),
    ("at_least: 120 USD", "at_least: «120 EUR", "gates.value.per_decision.at_least", "counts in USD"),
    ("by: [loan_purpose]", "by: [«loan_purpos]", "gates.slices.by[0]", "did you mean loan_purpose?"),
    ("by: [loan_purpose]", "by: [«income]", "gates.slices.by[0]", "slices are by category"),
    ("at_most: 0.01 USD", "at_most: «0.01 EUR", "gates.budget.cost_per_1k.at_most", "in USD"),
    ("local: {}", "«local: {approvals: {risk: 1}}", "environments.local", "owes no approvals"),
    ("steps: [5%, 25%, 100%]", "steps: «[5%, 25%]", "environments.production.rollout.steps", "the last step is 100%"),
    (
        "steps: [5%, 25%, 100%]",
        "steps: [25%, «5%, 100%]",
        "environments.production.rollout.steps[1]",
        "above the one before",
    ),
    ("value: {by: 5 USD}", "value: {by: «5 GBP}", "environments.production.rollout.no_worse.value.by", "counts in USD"),
    ("when: [drift, performance]", "when: [drift, «drift]", "retrain.when[1]", "listed twice"),
    ("when: [drift, performance]", "when: [drift, «drfit]", "retrain.when[1]", "did you mean drift?"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), WRONG, ids=[f"{new[:30]}-{key}" for _, new, key, _ in WRONG])
def test_one_fault_is_one_problem_at_its_place(old: str, new: str, key: str, message: str) -> None:
    check_change(MORTGAGE, old, new, key, message)


ABSENT = [  # faults whose place is the key that should hold what is missing, or that show elsewhere
    ("owner: lending\n", "", 1, 1, "owner", "the section is missing; expected a text"),
    ("  income: {type", "  sex: {type: bool}\n  income: {type", 19, 3, "context.sex", "'sex' is already a feature"),
    ("credit_score: {type: int,", "credit_score: {type: bool,", 24, 37, "features.credit_score.range", "not for bool"),
    (
        "id: {role: key, type: text}",
        "id: {role: time, type: datetime}",
        17,
        22,
        "context.applied_at.role",
        "already the time",
    ),
    ('income", type: float', 'income", type: int', 26, 22, "derived.debt_ratio.from", "may give a fraction"),
    ("prepare: prepare.py:prepare", "x-p: 1", 7, 1, "data", "2 sources need prepare"),
    (
        '"${BUREAU_URL}", query: "select applicant_id, credit_score from scores"',
        "sqlite:///a.db",
        10,
        5,
        "data.sources.bureau",
        "needs a query",
    ),
    (', positive: "1"', "", 29, 1, "target", "names the class that its probability is of"),
    (', values: ["0", "1"]', "", 29, 1, "target", "lists its classes"),
    ("calibrate: 10%", "calibrate: 90%", 33, 10, "training.split", "leave no rows to train on"),
    ("low: 0.02, ", "", 34, 53, "training.search.params.learning_rate", "has low and high, or choices"),
    ("minimise: log_loss, ", "", 34, 3, "training.search", "such as minimise: log_loss"),
    ("maximise: value}", "maximise: value, at: 0.5}", 38, 3, "decision.threshold", "not both"),
    ('"1": 900, ', "", 41, 20, "value.approve", 'when the truth is "1" is missing'),
    (', refer: {"1": -60, "0": -60}', "", 41, 1, "value", "'refer' has no value"),
    (', "0": refer}', "}", 37, 3, "decision.actions", 'the class "0" has no action'),
    (", reference: male", "", 19, 3, "context.sex", "reference"),
    ("at_least: 30min", "at_least: 30d", 63, 13, "environments.production.rollout.hold", "longer than at_most"),
    ('{url: "${BUREAU_URL}"', '{url: "$BUREAU_URL"', 10, 19, "data.sources.bureau.url", "written ${NAME}"),
]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("«keep: {}", "nothing says what is kept: versions: 30, or for: 180d"),
        ("keep: {versions: «0}", "expected at least 1, not the number 0"),
        ("keep: {for: «30}", "with its unit"),
        ("keep: {«days: 3}", "days"),
    ],
)
def test_how_long_versions_stay_is_a_number_or_a_time(keep: str, message: str) -> None:
    at = "keep" if keep.startswith("«") else f"keep.{keep.partition('{')[2].replace('«', '').partition(':')[0]}"
    check_change(MORTGAGE, "  accept:", f"  {keep}\n  accept:", f"data.{at}", message)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "key", "message"), ABSENT, ids=[f"{case[4]}-{case[5][:20]}" for case in ABSENT]
)
def test_what_is_missing_points_at_the_key_that_should_hold_it(
    old: str, new: str, line: int, column: int, key: str, message: str
) -> None:
    assert MORTGAGE.count(old) == 1
    told = [problem for problem in problems_of(MORTGAGE.replace(old, new)) if problem.key == key]
    assert [(problem.line, problem.column) for problem in told] == [(line, column)]
    assert message in told[0].message


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        (
            "{action: warn, below: 60}",
            "{action: warn, below: «10}",
            "decision.bands[1].below",
            "is not above the band before",
        ),
        ("{action: warn, below: 60}", "«{action: warn}", "decision.bands[1]", "only the last band is open"),
        ("{action: rebook}", "{action: rebook, below: «90}", "decision.bands[2].below", "takes all the rest"),
        ("otherwise: board", "otherwise: «bord", "decision.fallback.otherwise", "did you mean board?"),
        ("range: [-100, 2000]", "values: «[a, b]", "target.values", "a regression has none"),
        ("  bands:", "  threshold: {at: 0.5}\n  bands:", "", ""),
        ("outside: clip", "outside: «clp", "features.distance.outside", "did you mean clip?"),
        (", range: [0, 20000], outside", ", outside: «clip, x-o", "features.distance.outside", "there is no range"),
        ("unit: km, range", "«unknown: missing, range", "", ""),
        (
            "carrier: {type: category, values: [AA, UA], ",
            "«carrier: {type: category, ",
            "features.carrier",
            "lists its values",
        ),
        ("[AA, UA]", "[AA, «AA]", "features.carrier.values[1]", "listed twice"),
        ("{mae: {better", "{«brier: {better", "gates.performance.brier", "choose from mae, rmse, r2"),
        ("r2: {at_least: 0.1}", "rmse: {at_most: «-1}", "gates.performance.rmse.at_most", "is never below 0"),
        (
            "train.py:train}",
            "train.py:train, split: {by: «time}}",
            "training.split.by",
            "needs a context column with role: time",
        ),
        ("train.py:train}", "train.py:train, split: {by: «subject}}", "training.split.by", "with role: subject"),
        ("train.py:train}", "../train.py:train}", "", ""),
        ("gates: {", "retrain: {when: []}\ngates: {", "", ""),
    ],
)
def test_one_fault_of_a_regression_is_one_problem_at_its_place(old: str, new: str, key: str, message: str) -> None:
    if key:
        check_change(REGRESSION, old, new, key, message)
    else:
        assert problems_of(REGRESSION.replace(old, new.replace("«", "")))


@pytest.mark.parametrize(
    ("old", "new", "places"),
    [
        ("value: {unit: USD", "value: {unitq: USD", [(41, 1, "value.unit"), (41, 16, "value.unitq")]),
        (
            "slices: {by: [loan_purpose]",
            "slices: {b: [loan_purpose]",
            [(49, 3, "gates.slices.by"), (49, 12, "gates.slices.b")],
        ),
    ],
)
def test_sections_that_take_free_names_miss_their_own_keys(
    old: str, new: str, places: list[tuple[int, int, str]]
) -> None:
    problems = problems_of(MORTGAGE.replace(old, new))
    assert [(problem.line, problem.column, problem.key) for problem in problems][:2] == places


@pytest.mark.parametrize("section", RESERVED)
def test_reserved_sections_do_not_work_yet(section: str) -> None:
    problems = problems_of(f"{section}: {{}}\n{MORTGAGE}")
    assert [(problem.line, problem.column, problem.key) for problem in problems] == [(1, 1, section)]
    assert "does not work yet" in problems[0].message


def test_a_contract_from_a_newer_version_is_one_clear_problem() -> None:
    problems = problems_of("shipworthy: 2\nfuture: {a: 1}\n")
    assert [(problem.line, problem.column) for problem in problems] == [(1, 13)]
    assert "newer Shipworthy" in problems[0].message


@pytest.mark.parametrize(
    ("old", "new", "secret"),
    [
        ('"${BUREAU_URL}"', '"postgresql://lending:hunter2@db/scores"', "hunter2"),
        ('"${BUREAU_URL}"', '"postgresql://lending:${PASSWORD}hunter2@db/scores"', "hunter2"),
        ('"${BUREAU_URL}"', '"https://example.org/scores?api_key=hunter2"', "hunter2"),
        ("retries: 3", "retries: 3, password: hunter2", "hunter2"),
        ("seed: 7", "params: {api_token: hunter2}", "hunter2"),
        ("owner: lending", "owner: lending\nx-tool: {secret: hunter2}", "hunter2"),
        ("owner: lending", "owner: AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
        ("owner: lending", 'owner: lending\nalerts: {webhooks: ["https://me:hunter2@host/x"]}', "hunter2"),
        ("owner: lending", 'owner: lending\nalerts: {webhooks: ["https://host/x?token=hunter2"]}', "hunter2"),
        (
            "owner: lending",
            'owner: lending\nalerts: {webhooks: ["https://hooks.slack.com/services/T1/B1/xy"]}',
            "B1/xy",
        ),
    ],
)
def test_a_literal_secret_is_refused_and_never_repeated(old: str, new: str, secret: str) -> None:
    text = MORTGAGE.replace(old, new)
    problems = problems_of(text)
    assert any("${NAME}" in problem.message for problem in problems)
    assert not any(secret in str(problem) for problem in problems)


@pytest.mark.parametrize(
    "url",
    [
        "${URL}",
        "postgresql://lending:${DB_PASSWORD}@db:5432/scores",
        "postgresql://lending@db/scores",
        "postgresql://${USER}:${DB_PASSWORD}@db/scores",
    ],
)
def test_secrets_by_name_are_accepted(url: str) -> None:
    assert parse_contract(MORTGAGE.replace("${BUREAU_URL}", url)).data.sources["bureau"].url == url


def test_alerts_go_to_addresses_that_may_hide_behind_names() -> None:
    assert parse_contract(MORTGAGE).alerts.webhooks == ()
    addresses = ("${ALERT_URL}", "http://127.0.0.1:9/x", "https://me:${PASSWORD}@alerts.example/${TEAM}")
    text = MORTGAGE + f"\nalerts: {{webhooks: {json.dumps(addresses)}}}\n"
    assert parse_contract(text).alerts.webhooks == addresses


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://alerts.example", "an http or https address, or ${NAME} that holds one"),
        ("file:///etc/passwd", "an http or https address"),
        ("alerts.example/x", "an http or https address"),
        ("https://alerts.example/a b", "an http or https address"),
        ("https://alerts.example/$TEAM", "a variable is written ${NAME}"),
    ],
)
def test_an_alert_goes_nowhere_else(address: str, message: str) -> None:
    problems = problems_of(MORTGAGE + f"\nalerts: {{webhooks: [{json.dumps(address)}]}}\n")
    assert [problem.key for problem in problems] == ["alerts.webhooks[0]"]
    assert message in problems[0].message


def test_columns_that_the_data_does_not_have_are_named_with_the_nearest() -> None:
    given_columns = ["applicant_id", "applied_at", "race", "sex", "income", "monthly_debts", "loan_purpose"]
    problems = problems_of(MORTGAGE, [*given_columns, "credit_score", "repaied", "application_id"])
    told = [(problem.line, problem.column, problem.key, problem.message.split("; ")[1]) for problem in problems]
    assert told == [
        (22, 3, "features.monthly_debt", "did you mean monthly_debts?"),
        (29, 18, "target.column", "did you mean repaied?"),
    ]
    parse_contract(REGRESSION, columns=["distance", "carrier", "delay", "other"])


def test_all_problems_are_told_at_once_in_file_order() -> None:
    text = MORTGAGE
    for old, new in [
        ("risk: high", "risk: hihg"),
        ("quarantined: {at_most: 2%}", "quarantined: {at_most: 2}"),
        ("[female, male]", "[female, male, no]"),
        ("{type: int, range: [1, 6]", "{type: integer, range: [1, 6]"),
        ("monthly_debt / income", "monthly_debts / income"),
        ("monthly_debt < 3", "monthly_debt << 3"),
        ('positive: "1"', "positive: 1"),
        ("trials: 20", "trial: 20"),
        ("otherwise: refer", "otherwise: refuse"),
        ("at_least: 0.72", "at_least: 7.2"),
        ("when: [drift", "when: [drifts"),
    ]:
        text = text.replace(old, new)
    problems = problems_of(text + "limits: {}\n")
    assert [(problem.line, problem.key) for problem in problems] == [
        (5, "risk"),
        (12, "data.accept.quarantined.at_most"),
        (19, "context.sex.values[2]"),
        (24, "features.credit_score.type"),
        (26, "derived.debt_ratio.from"),
        (28, "checks[0].expect"),
        (29, "target.positive"),
        (34, "training.search.trial"),
        (40, "decision.fallback.otherwise"),
        (45, "gates.performance.roc_auc.at_least"),
        (67, "retrain.when[0]"),
        (68, "limits"),
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[1," * 100_000,
        "{" * 400_000,
        "a: '" + "x" * 400_000 + "'",
        "a: " + "1_" * 200_000 + "x",
        "a: '" + "a://:" * 80_000 + "'",
        "system: " + "9" * 400_000,
        "\n".join(f"k{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 300)),
        "features: {" + ",".join(f"a{i}: {{type: flaot}}" for i in range(2000)) + "}",
        "derived: {a: {type: float, from: '" + "(" * 1999 + "'}}",
    ],
    ids=lambda text: text[:20],
)
def test_a_bomb_is_refused_in_time(text: str) -> None:
    assert problems_of(text)


def test_a_wide_contract_beside_other_data_is_told_in_time() -> None:
    features = "".join(f"  feature_{number}: {{type: float}}\n" for number in range(1000))
    problems = problems_of(
        MORTGAGE.replace("derived:", features + "derived:"), [f"f_{number}" for number in range(1000)]
    )
    assert len(problems) > 1000


def test_a_problem_reads_as_an_editor_expects_it() -> None:
    with pytest.raises(ContractError, match=r"^team/a\.yaml:4:8: owner: expected a text") as caught:
        parse_contract(MORTGAGE.replace("owner: lending", "owner: 3"), "team/a.yaml")
    assert len(caught.value.problems) == 1


def check_total(text: str) -> None:
    try:
        assert isinstance(parse_contract(text, columns=["income"]), Contract)
    except ContractError as error:
        problems = error.problems
    else:
        return
    lines = text.count("\n") + 2
    assert problems
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in problems)


@given(st.text(max_size=200))
def test_any_text_is_a_contract_or_a_contract_error(text: str) -> None:
    check_total(text)


OTHERS = ["yes", "~", "a", "x-", "{}", "[]", ": ", "\n  ", "${A}", "1e9", "<<: ", "\x85", "\ufeff"]
PIECES = st.sampled_from([*"{}[]:,-?|>&*!%@#\"'\n\t \\0179", *OTHERS])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_edit_of_the_example_is_a_contract_or_a_contract_error(data: st.DataObject) -> None:
    text = MORTGAGE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(PIECES | st.text(max_size=4)) + text[end:]
    check_total(text)


def test_any_value_anywhere_is_a_contract_or_a_contract_error() -> None:
    """Every scalar of the example in turn becomes every other kind of value."""
    pick = random.Random(5)
    values = ["{}", "[]", "~", "3", "-1.5", "true", "x", '""', "[a, 1]", "{a: {b: c}}", "5%", "1 USD", "'1 > income'"]
    lines = MORTGAGE.splitlines()
    for number, line in enumerate(lines):
        at = [i for i in range(len(line)) if line.startswith(": ", i)]
        for start in at:
            rest = line[start + 2 :]
            end = min([rest.index(stop) for stop in ",}]#" if stop in rest] or [len(rest)])
            edited = line[: start + 2] + pick.choice(values) + " " + rest[end:]
            check_total("\n".join([*lines[:number], edited, *lines[number + 1 :]]) + "\n")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("serving: {memory: «1MB}", "serving.memory", "a worker needs nearly 128MB to start"),
        ("records: {spool: «2GB}", "records.spool", "nothing is spooled; it goes with when_full: spool"),
        ("records: {when_full: spool, spool: «9kB}", "records.spool", "a spool needs 1MB or more"),
    ],
)
def test_what_cannot_work_is_refused(section: str, key: str, message: str) -> None:
    last = "gates: {performance: {mae: {better_than: baseline}, r2: {at_least: 0.1}}}\n"
    check_change(REGRESSION, last, f"{last}{section}\n", key, message)


@pytest.mark.parametrize("bound", ["0.5", "9007199254740992"])
def test_the_bounds_of_whole_numbers_are_whole(bound: str) -> None:
    old = "distance: {type: float, unit: km, range: [0, 20000], outside: clip}"
    new = f"distance: {{type: int, unit: km, range: «[-1, {bound}], outside: clip}}"
    check_change(REGRESSION, old, new, "features.distance.range", "its bounds are whole numbers")


def test_a_bound_that_float32_cannot_hold_is_refused() -> None:
    check_change(REGRESSION, "[0, 20000]", "«[0, 1.0e39]", "features.distance.range", "float32")


@pytest.mark.parametrize(
    ("changes", "decides"),
    [
        ((), False),  # the truth comes by itself, after 30 days
        ((("confidence_below: 0.65", "confidence_below: 0.65, truth: person"),), True),
        (((", known_after: 30d", ""),), True),
        (((", known_after: 30d", ""), ("confidence_below: 0.65", "confidence_below: 0.65, truth: later")), False),
    ],
)
def test_a_persons_decision_is_the_truth_unless_it_comes_by_itself(changes: Any, decides: bool) -> None:
    text = MORTGAGE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    assert parse_contract(text).decides_truth is decides


def test_the_last_good_release_is_asked_only_where_the_contract_says_so() -> None:
    assert parse_contract(MORTGAGE).decision.fallback.last_good is False
    asked = parse_contract(MORTGAGE.replace("fallback: {", "fallback: {last_good: true, "))
    assert asked.decision.fallback.last_good is True


@pytest.mark.parametrize(("value", "seen"), [("yes", "yes"), ("1", "1"), ('"true"', "quotes"), ("loans:1", "loans:1")])
def test_last_good_is_true_or_false_and_nothing_else(value: str, seen: str) -> None:
    key = "decision.fallback.last_good"
    check_change(MORTGAGE, "fallback: {", f"fallback: {{last_good: «{value}, ", key, seen)
