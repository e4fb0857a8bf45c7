"""The card says what is evidenced, and says of the rest that it is not."""

import dataclasses
from typing import Any

import msgspec
import pytest

from shipworthy.bundle.format import ActionBand, Calibration, FallbackRule, Intervals, Policy
from shipworthy.contract.parse import parse_contract
from shipworthy.evaluation.faithfulness import Faithfulness
from shipworthy.evaluation.novelty import Found, Strange
from shipworthy.gates.verdict import Verdict
from shipworthy.governance.card import CardFacts, DataFacts, TrainingFacts, model_card

CONTRACT = """
shipworthy: 1
system: mortgage-approval
purpose: Approve a mortgage application | or refer it.
owner: lending
risk: high
data: {sources: {applications: {path: applications.csv}}}
context:
  application_id: {role: key, type: text}
  sex: {role: protected, type: category, values: [female, male], reference: male}
features:
  income: {type: float, unit: kUSD/month, range: [0, 1000]}
  loan_purpose: {type: category, values: [purchase, refinance]}
target: {column: repaid, type: binary, values: ["0", "1"], positive: "1", known_after: 30d}
training: {entry: "train.py:train", seed: 7, params: {learning_rate: 0.1}}
decision:
  actions: {"1": approve, "0": refer}
  fallback: {otherwise: refer}
gates: {performance: {log_loss: {better_than: baseline}}}
environments: {local: {}}
"""
POLICY = Policy(
    task="binary",
    classes=("0", "1"),
    positive="1",
    actions={"1": "approve", "0": "refer"},
    threshold=0.71,
    calibration=Calibration(slope=0.5, offset=-0.1),
    review_below=0.65,
    review_answer="refer",
    fallback_rules=(FallbackRule(condition="income < 1", action="refer"),),
    fallback_otherwise="refer",
    timeout_s=0.2,
)
IMPORTANCE = {f"f{at}": 1 / (at + 1) for at in range(12)}
PASSED = Verdict("performance.log_loss", "pass", 0.41, (0.38, 0.44), 0.69, None, 812, "The bound is below the limit.")
FAIRNESS = Verdict("fairness.demographic_parity_ratio.sex", "insufficient", None, None, 0.8, None, 9, "Too few rows.")


@pytest.fixture(scope="module")
def facts() -> Any:
    return CardFacts(
        contract=parse_contract(CONTRACT),
        policy=POLICY,
        version=7,
        created="2026-11-22T10:00:00Z",
        author="ada",
        payload="sha256:" + "0" * 64,
        data=DataFacts(
            snapshot="sha256:" + "1" * 64,
            rows=980,
            quarantined=20,
            reasons={"income is above 1000": 15, "repaid is missing": 5},
            sources={"applications": "sha256:" + "2" * 64},
        ),
        training=TrainingFacts(
            run="run_1",
            model_kind="LGBMClassifier",
            rows={"train": 700, "calibrate": 90, "test": 190},
            seconds=2.5,
            parity_rows=10_190,
            parity_difference=1.4e-7,
            libraries={"lightgbm": "4.7.0"},
        ),
        verdicts=[PASSED.to_json(), FAIRNESS.to_json()],
    )


def test_the_card_says_what_was_seen(facts: Any) -> None:
    card = model_card(facts)
    for words in (
        "# mortgage-approval:7",
        "| Purpose | Approve a mortgage application \\| or refer it. |",
        "The truth is known 30 d later",
        "| `income` | float | kUSD/month | 0 to 1000 |",
        "| `loan_purpose` | category |  | purchase, refinance |",
        "- 20 rows quarantined (2.00%)\n  - income is above 1000: 15\n  - repaid is missing: 5",
        "train 700, calibrate 90, test 190 rows",
        "on 10,190 rows: largest difference 1.4e-07",
        "| `performance.log_loss` | pass | 0.41 | 0.38 to 0.44 | 0.69 | 812 | The bound is below the limit. |",
        "- `1` from a calibrated probability of 0.71",
        "Platt scaling with slope 0.5 and offset -0.1",
        "a person reviews answers with a confidence below 0.65, meanwhile refer",
        "when the model cannot answer and `income < 1`: refer",
    ):
        assert words in card
    assert card == model_card(facts)
    assert "the last good release" not in card
    policy = msgspec.structs.replace(POLICY, fallback_last_good=True)
    asking = model_card(dataclasses.replace(facts, policy=policy))
    assert "when the model cannot answer: the last good release, where there is one that can" in asking


def test_the_card_says_how_faithful_reasons_are(facts: Any) -> None:
    assert "## Reasons\n\nAnswers carry none." in model_card(facts)
    policy = msgspec.structs.replace(POLICY, reasons=3, reasons_always=True)
    assert "up to 3 with each answer" in model_card(dataclasses.replace(facts, policy=policy))
    assert "- faithfulness: not evidenced" in model_card(dataclasses.replace(facts, policy=policy))
    compared = Faithfulness(500, 12, "exact-trees", 400, "raw score of 1", 3, 0.714, 0.805, 0.75, 0.968, IMPORTANCE)
    card = model_card(dataclasses.replace(facts, policy=policy, reasons=compared.to_json()))
    for words in (
        "on 500 test rows with Shapley values (exact, from the model's trees; raw score of 1; 400 training rows",
        "rank correlation of all 12 features, by size: 0.71",
        "of an answer's first 3, 80% are among the exact first 3; by chance 25%",
        "the first reason is the exact first in 75%",
        "97% say the same direction",
        "| `f0` | 1 |\n| `f1` | 0.5 |",
    ):
        assert words in card


def test_the_card_says_how_strange_rows_are_told(facts: Any) -> None:
    assert "training rows\n\nThey are not told from others.\n" in model_card(facts)
    told = dataclasses.replace(facts, policy=msgspec.structs.replace(POLICY, out_of_distribution="review"))
    assert "A person looks at them. Evidence: not evidenced" in model_card(told)
    gone, some = Strange(100, 100, 0), Strange(1000, 200, 600)
    found = Found(0.005, "review", 2000, 12, (0.0034, 0.0105), some, some, gone)
    card = model_card(dataclasses.replace(told, novelty=found.to_json()))
    for words in (
        "of 2,000 ordinary test rows 0.60% are taken for one (0.34% to 1.05%); declared are 0.50%",
        "- two numbers swapped: ranges refuse 20%, 75% of the others are found",
        "as far again as they reach: ranges refuse 100%, none is left",
    ):
        assert words in card


def test_what_is_missing_is_said_to_be_not_evidenced(facts: Any) -> None:
    card = model_card(facts)
    assert "- looks at the test part: not evidenced" in card
    assert "- business value: not evidenced" in card
    assert "| `fairness.demographic_parity_ratio.sex` | insufficient | not evidenced |" in card
    assert "- `fairness.demographic_parity_ratio.sex`: insufficient, Too few rows." in card


def test_a_card_without_verdicts_claims_nothing(facts: Any) -> None:
    card = model_card(dataclasses.replace(facts, verdicts=[]))
    assert "## Evaluation\n\nnot evidenced" in card
    assert "Protected columns: sex. Differences between groups: not evidenced" in card


def test_a_source_that_was_broken_is_named(facts: Any):
    data = dataclasses.replace(facts.data, broken={"applications": "rows of 2026-11-01 are used"})
    card = model_card(dataclasses.replace(facts, data=data))
    assert "- **source applications was broken**: rows of 2026-11-01 are used" in card


def test_it_never_says_compliant(facts: Any) -> None:
    assert "complian" not in model_card(facts).lower()


def test_a_regression_shows_intervals_and_bands(facts: Any) -> None:
    intervals = Intervals(coverage=0.9, edges=(1.0,), half_widths=(0.5, 2.0), confidences=(0.5, 0.0))
    policy = Policy(
        task="regression",
        bands=(ActionBand(action="small", below=10.0), ActionBand(action="large")),
        intervals=intervals,
        fallback_otherwise=0.0,
        timeout_s=1.0,
    )
    card = model_card(dataclasses.replace(facts, policy=policy))
    assert "intervals that hold the truth of 90% of cases: ± 0.5 to 2" in card
    assert "- small below 10\n- large for the rest" in card
