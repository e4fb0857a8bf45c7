"""The model card: what a release is for, what it was made of, and what is and is not evidenced about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shipworthy.bundle.format import Policy
from shipworthy.contract.columns import Derived, Feature
from shipworthy.contract.types import Contract

ABSENT = "not evidenced"
HANDLINGS = {
    "off": "They are not told from others.",
    "warn": "They are answered, and the answer says so.",
    "review": "A person looks at them.",
    "fallback": "The fallback answers them.",
}
FAULTS = {  # that test rows were given
    "swapped": "two numbers swapped",
    "unit": "a number ten times what it was",
    "far": "a number beyond all test rows, as far again as they reach",
}
SHOWN_FEATURES = 10  # of the importance table
METHODS = {  # how Shapley values were found
    "exact-trees": "exact, from the model's trees",
    "exact-linear": "exact, from the model's weights",
    "exact-enumeration": "exact, from all combinations of columns",
    "sampled": "estimated, from random orders of columns",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """Where the rows came from and how many were kept."""

    snapshot: str  # digest
    rows: int
    quarantined: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)  # why rows were quarantined
    sources: Mapping[str, str] = field(default_factory=dict)  # name -> digest of what was read
    questions: Sequence[str] = ()  # that the rows raise
    broken: Mapping[str, str] = field(default_factory=dict)  # name -> what stood in for a source that was broken
    steps: Sequence[str] = ()  # of `data.prepare`, with what each did to how many rows
    future: str | None = None  # whether features see it; None where no source says when rows were known


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """How the model was made."""

    run: str
    model_kind: str
    rows: Mapping[str, int]  # by part: train, calibrate, test
    seconds: float
    parity_rows: int  # on which the served model was compared with the trained one
    parity_difference: float  # the largest
    libraries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Everything a card is written from."""

    contract: Contract
    policy: Policy
    version: int
    created: str  # RFC 3339, UTC
    author: str
    payload: str  # digest
    data: DataFacts
    training: TrainingFacts
    verdicts: Sequence[Mapping[str, Any]]  # as `Verdict.to_json` writes them
    looks: int | None = None  # how often the test part has been looked at, if counted
    reasons: Mapping[str, Any] | None = None  # as `Faithfulness.to_json` writes it
    novelty: Mapping[str, Any] | None = None  # as `evaluation.novelty.Found.to_json` writes it
    skew: Mapping[str, int] | None = None  # as `evaluation.skew.Skew.to_json` writes it


def model_card(facts: CardFacts) -> str:
    """The card as Markdown; the same facts give the same text. What is missing is said as 'not evidenced'."""
    parts = (
        _head(facts),
        _use(facts),
        _data(facts.data),
        _training(facts),
        _verdicts("Evaluation", [v for v in facts.verdicts if not _is_fairness(v)]),
        _fairness(facts),
        _decision(facts.policy),
        _reasons(facts),
        _novelty(facts),
        _limits(facts),
    )
    return "\n\n".join(parts) + "\n"


def _head(facts: CardFacts) -> str:
    contract = facts.contract
    return f"# {contract.system}:{facts.version}\n\n" + _table(
        ("", ""),
        [
            ("Purpose", contract.purpose),
            ("Owner", contract.owner),
            ("Risk", contract.risk),
            ("Created", f"{facts.created} by {facts.author}"),
            ("Payload", f"`{facts.payload}`"),
        ],
    )


def _use(facts: CardFacts) -> str:
    contract = facts.contract
    target = contract.target
    what = f"It predicts `{target.column}` ({target.type}"
    what += f": {', '.join(target.values)})" if target.values else f"{', ' + target.unit if target.unit else ''})"
    known = f" The truth is known {_duration(target.known_after)} later." if target.known_after else ""
    columns: dict[str, Feature | Derived] = {**contract.features, **contract.derived}
    rows = [(f"`{name}`", column.type, column.unit or "", _allowed(column)) for name, column in columns.items()]
    return f"## Use\n\n{what}.{known}\n\n" + _table(("Input", "Type", "Unit", "Allowed"), rows)


def _allowed(column: Feature | Derived) -> str:
    looked_up = column.lookup if isinstance(column, Feature) else None
    return _values(column) + (f"; looked up: `{looked_up}`" if looked_up else "")


def _values(column: Feature | Derived) -> str:
    values = column.values
    if values:
        shown = ", ".join(values[:8])
        return shown if len(values) <= 8 else f"{shown} and {len(values) - 8} more"
    return f"{column.range[0]:g} to {column.range[1]:g}" if column.range else "any"


def _data(data: DataFacts) -> str:
    share = data.quarantined / max(data.rows + data.quarantined, 1)
    lines = [f"- snapshot `{data.snapshot}`: {data.rows:,} rows accepted"]
    lines += [f"- source {name}: `{digest}`" for name, digest in sorted(data.sources.items())]
    lines += [f"- **source {name} was broken**: {words}" for name, words in sorted(data.broken.items())]
    lines += [f"- step {number}: {words}" for number, words in enumerate(data.steps, 1)]
    lines += [] if data.future is None else [f"- {data.future}"]
    lines.append(f"- {data.quarantined:,} rows quarantined ({share:.2%})")
    by_count = sorted(data.reasons.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"  - {reason}: {count:,}" for reason, count in by_count]
    lines += [f"- question: {words}" for words in data.questions]
    return "## Data\n\n" + "\n".join(lines)


def _skew(skew: Mapping[str, int] | None) -> str:
    if skew is None:
        return ABSENT
    return f"{skew['rows']:,} rows x {skew['columns']} columns, {skew['different'] or 'none'} different"


def _training(facts: CardFacts) -> str:
    training, contract = facts.training, facts.contract
    parts = ", ".join(f"{name} {count:,}" for name, count in training.rows.items())
    params = ", ".join(f"{name}={value}" for name, value in contract.training.params.items()) or "none"
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(training.libraries.items())) or ABSENT
    looks = ABSENT if facts.looks is None else f"{facts.looks}"
    return "## Training\n\n" + "\n".join(
        [
            f"- {training.model_kind}, run `{training.run}`, {training.seconds:.1f} s",
            f"- entry `{contract.training.entry}`, parameters: {params}, seed {contract.training.seed}",
            f"- split by {contract.training.split.by}: {parts} rows",
            f"- looks at the test part: {looks}",
            f"- the served model equals the trained one on {training.parity_rows:,} rows: "
            f"largest difference {training.parity_difference:.1e}",
            f"- table and server make the same model inputs of a row, to the bit: {_skew(facts.skew)}",
            f"- libraries: {libraries}",
        ]
    )


def _is_fairness(verdict: Mapping[str, Any]) -> bool:
    return str(verdict["gate"]).startswith("fairness")


def _verdicts(title: str, verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return f"## {title}\n\n{ABSENT}"
    rows = [
        (
            f"`{verdict['gate']}`",
            str(verdict["outcome"]),
            _number(verdict.get("measured"), verdict.get("unit")),
            _interval(verdict.get("interval")),
            _number(verdict.get("limit"), verdict.get("unit")),
            f"{verdict['rows']:,}",
            str(verdict["reason"]),
        )
        for verdict in verdicts
    ]
    return f"## {title}\n\n" + _table(("Gate", "Outcome", "Measured", "Interval", "Limit", "Rows", "Reason"), rows)


def _fairness(facts: CardFacts) -> str:
    protected = facts.contract.context_by_role("protected")
    found = [verdict for verdict in facts.verdicts if _is_fairness(verdict)]
    if found:
        return _verdicts("Fairness", found)
    named = f"Protected columns: {', '.join(protected)}. " if protected else "No protected column is named. "
    return f"## Fairness\n\n{named}Differences between groups: {ABSENT}"


def _decision(policy: Policy) -> str:
    lines = []
    if policy.threshold is not None:
        lines.append(f"- `{policy.positive}` from a calibrated probability of {policy.threshold:.4g}")
    lines += [f"- class `{name}`: {action}" for name, action in policy.actions.items()]
    lines += [
        f"- {band.action}" + (f" below {band.below:g}" if band.below is not None else " for the rest")
        for band in policy.bands
    ]
    lines.append(f"- {_calibration(policy)}")
    if policy.intervals is not None:
        widths = policy.intervals.half_widths
        lines.append(
            f"- intervals that hold the truth of {policy.intervals.coverage:.0%} of cases: "
            f"± {min(widths):.4g} to {max(widths):.4g}"
        )
    if policy.review_below is not None:
        answer = f", meanwhile {policy.review_answer}" if policy.review_answer else ""
        lines.append(f"- a person reviews answers with a confidence below {policy.review_below:g}{answer}")
    if policy.fallback_last_good:
        lines.append("- when the model cannot answer: the last good release, where there is one that can")
    lines += [f"- when the model cannot answer and `{r.condition}`: {r.action}" for r in policy.fallback_rules]
    lines.append(f"- when the model cannot answer: {policy.fallback_otherwise}")
    return "## Decision\n\n" + "\n".join(lines)


def _calibration(policy: Policy) -> str:
    scaling = policy.calibration
    if policy.task == "regression":
        return "predictions are used as the model gives them"
    if policy.task == "multiclass":
        same = scaling.temperature == 1.0
        return "probabilities as the model gives them" if same else f"temperature {scaling.temperature:.4g}"
    if (scaling.slope, scaling.offset) == (1.0, 0.0):
        return "probabilities as the model gives them: scaling did not improve held-out rows"
    return f"Platt scaling with slope {scaling.slope:.4g} and offset {scaling.offset:.4g}"


def _reasons(facts: CardFacts) -> str:
    policy, found = facts.policy, facts.reasons
    if not policy.reasons:
        return "## Reasons\n\nAnswers carry none."
    given = "with each answer" if policy.reasons_always else "on request"
    lines = [
        f"- up to {policy.reasons} {given}: by how much the score changes when one feature is set to its reference"
    ]
    if found is None:
        return "## Reasons\n\n" + "\n".join([*lines, f"- faithfulness: {ABSENT}"])
    among = min(found["top"], found["features"])
    lines += [
        f"- compared on {found['rows']:,} test rows with Shapley values ({METHODS[found['method']]}; "
        f"{found['score']}; {found['background_rows']:,} training rows as background):",
        f"  - rank correlation of all {found['features']} features, by size: {found['rank_correlation']:.2f}",
        f"  - of an answer's first {among}, {found['top_agreement']:.0%} are among the exact first {among}; "
        f"by chance {among / found['features']:.0%}",
        f"  - the first reason is the exact first in {found['first_agreement']:.0%}",
        f"  - {found['sign_agreement']:.0%} say the same direction",
    ]
    largest = list(found.get("importance", {}).items())[:SHOWN_FEATURES]
    return "## Reasons\n\n" + "\n".join(lines) + _importance(largest, found["score"])


def _importance(largest: Sequence[tuple[str, float]], score: str) -> str:
    if not largest:
        return ""
    rows = [(f"`{name}`", f"{size:.3g}") for name, size in largest]
    return f"\n\nWhat moves the {score} most, by the mean size of its Shapley values:\n\n" + _table(
        ("Feature", "Moves it by"), rows
    )


def _novelty(facts: CardFacts) -> str:
    title, found = "## Rows unlike the training rows", facts.novelty
    handling = HANDLINGS[facts.policy.out_of_distribution]
    if found is None:
        return f"{title}\n\n{handling}" + ("" if facts.policy.out_of_distribution == "off" else f" Evidence: {ABSENT}")
    low, high = found["interval"]
    lines = [
        f"- {handling}",
        f"- of {found['rows']:,} ordinary test rows {found['flagged'] / found['rows']:.2%} are taken for one "
        f"({low:.2%} to {high:.2%}); declared are {found['share']:.2%}",
    ]
    for name, words in FAULTS.items():
        fault = found[name]
        left = fault["rows"] - fault["refused"]
        if fault["rows"]:
            known = f"{fault['flagged'] / left:.0%} of the others are found" if left else "none is left"
            lines.append(f"- {words}: ranges refuse {fault['refused'] / fault['rows']:.0%}, {known}")
    return f"{title}\n\n" + "\n".join(lines)


def _limits(facts: CardFacts) -> str:
    open_points = [
        f"- `{verdict['gate']}`: {verdict['outcome']}, {verdict['reason']}"
        for verdict in facts.verdicts
        if verdict["outcome"] in ("fail", "insufficient")
    ]
    gates = facts.contract.gates
    unset = {
        "comparison with a champion": bool(gates.champion),
        "business value": gates.value is not None,
        "fairness between groups": gates.fairness is not None,
        "quality on slices": gates.slices is not None,
        "robustness to noise": gates.robustness is not None,
        "latency, memory and cost": gates.budget is not None,
    }
    missing = [f"- {name}: {ABSENT}" for name, is_set in unset.items() if not is_set]
    scope = "- Evidence is on past rows of the snapshot above; on other populations: " + ABSENT
    return "## Limits\n\n" + "\n".join([scope, *open_points, *missing])


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _number(value: Any, unit: Any) -> str:
    if value is None:
        return ABSENT
    text = f"{value:.4g}" if isinstance(value, int | float) else str(value)
    return f"{text} {unit}" if unit and isinstance(value, int | float) else text


def _interval(bounds: Any) -> str:
    if bounds is None:
        return ""
    low, high = bounds
    return f"{_bound(low)} to {_bound(high)}"


def _bound(value: Any) -> str:
    return "open" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())
