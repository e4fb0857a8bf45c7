"""The data-only format of a payload, a release, a deployment and an access file.

All are JSON; the model is ONNX, or where the contract asks for it Python source with data that only it reads. A
directory `payload/` holds `manifest.json` and the files that it names;
a bundle directory holds `release.json` (a signed statement) beside its payload.
"""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

ONNX = "model.onnx"
DOCUMENTS = ("schema.json", "policy.json", "baselines.json")
PAYLOAD_FILES = (ONNX, *DOCUMENTS)
SOURCE = "model.py"  # of a payload whose model is Python, instead of ONNX
LOOKUPS = "lookups.msgpack"  # of a payload whose schema looks features up
DATA = "data."  # begins the names of such a model's data: `data.weights.npz`
MAX_DATA_FILES = 64
_DATA_FILE = re.compile(r"data\.[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
_MAX_NAME = 100  # characters of a file's name
COMPANIONS = {  # file that travels beside a payload -> field of the release that binds it
    "card.md": "card",
    "verdicts.json": "verdicts",
    "sbom.cdx.json": "bill_of_materials",
    "contract.yaml": "contract",
    "code.py": "code",
    "model.sig": "model_signature",
}
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
RELEASE_TYPE = "https://shipworthy.dev/release/v1"
ATTESTATION_TYPE = "https://shipworthy.dev/attestation/v1"
STATEMENT_MEDIA = "application/vnd.in-toto+json"
DEPLOYMENT_MEDIA = "application/vnd.shipworthy.deployment+json"
ACCESS_MEDIA = "application/vnd.shipworthy.access+json"

Kind = Literal["float", "int", "bool", "category", "text", "datetime"]
Task = Literal["binary", "multiclass", "regression"]
Outside = Literal["reject", "clip", "missing", "review"]


def are_payload_files(names: Iterable[str]) -> bool:
    """Whether a payload may have exactly these files beside its manifest.

    >>> are_payload_files(PAYLOAD_FILES), are_payload_files([*DOCUMENTS, SOURCE, "data.weights.npz"])
    (True, True)
    >>> are_payload_files([*PAYLOAD_FILES, SOURCE]), are_payload_files([*DOCUMENTS, SOURCE, "data.../x"])
    (False, False)
    """
    found = set(names) - {LOOKUPS}
    if found == set(PAYLOAD_FILES):
        return True
    data = found - {SOURCE, *DOCUMENTS}
    return found >= {SOURCE, *DOCUMENTS} and len(data) <= MAX_DATA_FILES and all(map(is_data_file, data))


def is_data_file(name: str) -> bool:
    """Whether a file of a payload may be called so that holds data of a Python model."""
    return len(name) <= _MAX_NAME and _DATA_FILE.fullmatch(name) is not None


class FeatureField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature as the server validates it."""

    name: str
    kind: Kind
    unit: str | None = None
    low: float | None = None  # both bounds allowed values
    high: float | None = None
    outside: Outside = "reject"
    values: tuple[str, ...] | None = None  # a category's; the model sees the index as float32
    unknown: Literal["reject", "missing", "review"] = "reject"
    missing: Literal["reject", "allow"] = "reject"
    pattern: str | UnsetType = UNSET  # that a whole text must match; not written where there is none
    zone: str | None = None  # of a datetime: where a text without offset is, and parts are read; None is UTC
    lookup: str | UnsetType = UNSET  # that gives it, so that callers do not send it


class ContextField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One context column: recorded, never a model input."""

    name: str
    kind: Kind
    role: Literal["key", "subject", "time", "protected", "slice"]
    low: float | None = None  # both bounds allowed values
    high: float | None = None
    values: tuple[str, ...] | None = None
    required: bool = False
    pattern: str | UnsetType = UNSET  # as of a feature
    zone: str | None = None  # as of a feature


class DerivedField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One derived column: an expression over features and earlier derived columns."""

    name: str
    kind: Literal["float", "int", "bool", "category"]
    expression: str
    low: float | None = None
    high: float | None = None
    outside: Outside = "missing"
    values: tuple[str, ...] | UnsetType = UNSET  # a category's, or labels of buckets; not written where there are none
    unknown: Literal["reject", "missing", "review"] | UnsetType = UNSET  # of a category; not written otherwise


class CheckField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule between the columns of a row; a row for which it is false is refused."""

    name: str
    condition: str


class LookupField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the rows of a lookup's table are found; times are whole microseconds."""

    name: str
    key: tuple[str, ...]  # columns of the request
    is_timed: bool = False  # whether a row of the table is of a moment
    delay_us: int = 0  # after its moment a row is known
    max_age_us: int | None = None  # after its moment it is no longer used


class LookupTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one lookup in `lookups.msgpack`: the latest row of each key, by columns of equal length."""

    key: tuple[list[str | int], ...]
    times: list[int] | None = None  # of each row, microseconds since 1970 in UTC
    columns: dict[str, list[bool | int | float | str | None]]  # by feature; as a request has them, null where missing


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`schema.json`: what a request looks like and how it becomes the model's row."""

    system: str
    features: tuple[FeatureField, ...]
    context: tuple[ContextField, ...]
    derived: tuple[DerivedField, ...]
    columns: tuple[str, ...]  # model inputs in order; float32, missing is NaN, bool is 0/1
    checks: tuple[CheckField, ...] = ()
    lookups: tuple[LookupField, ...] | UnsetType = UNSET  # not written where there is none

    @property
    def asked(self) -> tuple[FeatureField, ...]:
        """The features that a caller sends."""
        if self.lookups is UNSET:
            return self.features
        return tuple(field for field in self.features if field.lookup is UNSET)

    @property
    def looked_up(self) -> tuple[LookupField, ...]:
        """The lookups that give the others."""
        return () if self.lookups is UNSET else self.lookups

    def as_recorded(self) -> "Schema":
        """Of requests that carry what was looked up, as records do."""
        features = tuple(msgspec.structs.replace(field, lookup=UNSET) for field in self.features)
        return msgspec.structs.replace(self, features=features, lookups=UNSET)


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model's probabilities become calibrated ones.

    binary: p' = sigmoid(slope * logit(p) + offset), p of the positive class. multiclass: log p is divided
    by `temperature` and normalised again. Regression: unused.
    """

    slope: float = 1.0
    offset: float = 0.0
    temperature: float = 1.0


class Intervals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Regression: conformal half-widths by bin of the prediction.

    Bin i holds predictions in [edges[i-1], edges[i]); there is one more half-width than edges.
    `confidences[i]` is the share of past cases with a wider interval than bin i's.
    """

    coverage: float
    edges: tuple[float, ...]
    half_widths: tuple[float, ...]
    confidences: tuple[float, ...]


class FallbackRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When `condition` holds for a row's features, context and derived columns, `action` is answered."""

    condition: str
    action: str | float  # a number for a regression without bands


class ActionBand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Regression: `action` for predictions below `below` (None: all the rest)."""

    action: str
    below: float | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy.json`: from the model's output to an answer."""

    task: Task
    classes: tuple[str, ...] = ()  # in the order of the model's probability columns
    positive: str | None = None  # binary
    actions: dict[str, str] = {}  # class -> action; empty: the class or number itself
    bands: tuple[ActionBand, ...] = ()
    threshold: float | None = None  # binary: on the calibrated probability of `positive`
    calibration: Calibration = Calibration()
    intervals: Intervals | None = None
    review_below: float | None = None  # confidence under which an answer is handled by review
    review_answer: str | None = None
    out_of_distribution: Literal["off", "review", "fallback", "warn"] = "off"  # of rows beyond the novelty's limit
    fallback_last_good: bool = False  # whether the release before is asked first where the model cannot answer
    fallback_rules: tuple[FallbackRule, ...] = ()
    fallback_otherwise: str | float
    timeout_s: float
    reasons: int = 0  # how many reasons an answer may carry
    reasons_always: bool = False  # whether each answer of the model carries them, asked for or not
    durability: Literal["sync", "async", "off"] = "sync"
    when_full: Literal["refuse", "spool", "drop"] = "refuse"
    spool_bytes: int = 0  # that may wait in the spool of a server
    encryption: Literal["off", "at_rest"] = "off"  # of records and outcomes on the server's disk
    workers: int = 1
    worker_memory_bytes: int = 0  # resident, beyond which a worker is replaced; 0: no limit
    model_memory_bytes: int = 0  # private, that the process of a Python model may take; 0: the model is ONNX


class ColumnBaseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model input was distributed in training rows."""

    name: str
    rows: int
    missing: int
    reference: float | None  # median of a number, most frequent code of a category: what reasons set
    mean: float | None = None
    sd: float | None = None
    edges: tuple[float, ...] = ()  # of the histogram, ascending
    counts: tuple[int, ...] = ()  # len(edges) + 1 bins, the outer ones open; or one per category code


class NoveltyColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the values of one model input become scores (stats.novelty)."""

    name: str
    knots: tuple[float, ...] = ()  # of a number, ascending
    scores: tuple[float, ...] = ()  # at the knots; linear between them
    below: float = 0.0  # for each unit below the first knot
    above: float = 0.0
    rarities: tuple[float, ...] = ()  # of a category: by code
    missing: float = 0.0  # rarity of a missing value


class Novelty(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How unlike the training rows a row is, and how unlike it may be."""

    columns: tuple[NoveltyColumn, ...]  # in the order of the model's
    precision: tuple[tuple[float, ...], ...]
    limit: float  # of the distance
    share: float  # of ordinary rows beyond it, as declared
    rows: int  # held out, on which the limit was fixed


class Baselines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`baselines.json`: the distributions that monitors compare with."""

    columns: tuple[ColumnBaseline, ...]
    score_edges: tuple[float, ...] = ()
    score_counts: tuple[int, ...] = ()
    swings: dict[str, dict[str, float]] = {}  # column -> aspect -> largest effect in a past window (monitoring.drift)
    score_swing: float = 0.0
    novelty: Novelty | None = None  # where the policy asks for it


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digest and size of one file."""

    digest: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json` of a payload; its digest is the payload's digest."""

    format: Literal[1] = 1
    system: str
    task: Task
    files: dict[str, FileEntry]


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a statement is about, in in-toto's words."""

    name: str
    digest: dict[str, str]  # {"sha256": hexadecimal}


class ReleasePredicate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a release binds together; every digest as `sha256:…`."""

    system: str
    version: int
    payload: str  # digest of the payload's manifest.json
    contract: str
    code: str  # training entry file
    snapshot: str
    run: str  # run id
    verdicts: str
    card: str
    bill_of_materials: str
    author: str
    created: str  # RFC 3339, UTC
    model_signature: str = ""  # OpenSSF Model Signing bundle over the payload's files; empty: it has none


class ReleaseStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The in-toto statement that `ship` signs."""

    type: str = msgspec.field(name="_type", default=STATEMENT_TYPE)
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType", default=RELEASE_TYPE)
    predicate: ReleasePredicate


class AttestationPredicate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody vouches for: that a release may serve in an environment, or may although a gate did not pass."""

    attests: Literal["approval", "waiver"]
    release: str  # `mortgage-approval:7`
    verdicts: str  # digest: an approval dies when the verdicts change
    environment: str
    role: str
    principal: str
    gate: str | None = None  # of a waiver
    reason: str
    expires: str | None = None  # of a waiver; RFC 3339, UTC
    time: str  # RFC 3339, UTC


class AttestationStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The in-toto statement of an approval or a waiver; its subject is the release's digest."""

    type: str = msgspec.field(name="_type", default=STATEMENT_TYPE)
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType", default=ATTESTATION_TYPE)
    predicate: AttestationPredicate


class DeployedRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release's place in a deployment."""

    release: str  # `mortgage-approval:7`
    digest: str  # of release.json; names the bundle directory
    payload: str
    share: float  # of traffic; all shares sum to 1
    attestations: tuple[str, ...] = ()  # digests of the approvals and waivers that let it in


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which releases answer in an environment, inside a signed envelope."""

    system: str
    environment: str
    generation: int
    salt: str
    releases: tuple[DeployedRelease, ...]
    unit: Literal["subject", "key", "request"] = "subject"  # what keeps its release while traffic is shared


class AccessToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token that the data plane accepts."""

    name: str
    hash: str  # hexadecimal SHA-256 of the token
    scopes: tuple[str, ...]  # `predict:SYSTEM`, `tell:SYSTEM`: what the table of permissions leaves of the token's
    expires: float | None  # Unix seconds
    principal: str = ""  # whom it stands for
    per_second: float | None = None  # rate limit: requests in a second, on the average
    per_day: int | None = None  # quota: rows in a day, UTC


class Access(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call the data plane of an environment, inside a signed envelope."""

    environment: str
    generation: int
    tokens: tuple[AccessToken, ...]
