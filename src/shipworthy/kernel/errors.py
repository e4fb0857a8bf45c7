"""Every error of the product, in one tree.

A message says what is wrong, where, the value seen, and what to do. Each class has a stable `code`; the
faces alone turn a code into an exit status or an HTTP status.
"""

from dataclasses import dataclass
from typing import Literal


class ShipworthyError(Exception):
    """Root of the tree. Never raised itself."""

    code = "internal"


class InternalError(ShipworthyError, RuntimeError):
    """Our own fault: a state that the code promises cannot happen."""

    code = "internal"


class UsageError(ShipworthyError, ValueError):
    """A command, option or argument that makes no sense."""

    code = "usage"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a contract, with all that is needed to mend it."""

    file: str
    line: int  # from 1
    column: int  # from 1
    key: str  # dotted path, such as `features.income.range`
    message: str  # what is wrong, the value seen, what was expected, a "did you mean"

    def __str__(self) -> str:
        """`file:line:column: key: message`."""
        key = f"{self.key}: " if self.key else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


class ContractError(ShipworthyError, ValueError):
    """The contract cannot be accepted; carries every problem found, in file order."""

    code = "contract"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class ExpressionError(ShipworthyError, ValueError):
    """An expression that does not parse, names an unknown column, or mixes types."""

    code = "expression"

    def __init__(self, message: str, position: int = 1) -> None:
        self.position = position  # character of the expression, from 1
        super().__init__(message)


class SourceError(ShipworthyError, ValueError):
    """A source that cannot be read: missing, empty, malformed, unreachable."""

    code = "source"


class DataError(ShipworthyError, ValueError):
    """Rows that were read but cannot be accepted as a batch."""

    code = "data"


class TrainingError(ShipworthyError, RuntimeError):
    """The user's training code raised, hung, or returned something unusable."""

    code = "training"


class ConversionError(ShipworthyError, ValueError):
    """A fitted model that cannot become a servable one, or not with the same inputs and answers."""

    code = "conversion"


ModelFault = Literal["raised", "late", "ended", "resting"]
"""What became of a run in a model's process: the process still stands, was killed, died, or is being started again."""


class ModelError(ShipworthyError, RuntimeError):
    """A model in a process of its own that gave no answer; `fault` says what became of it."""

    code = "model"

    def __init__(self, message: str, fault: ModelFault = "ended") -> None:
        self.fault = fault
        super().__init__(message)


class EvidenceError(ShipworthyError, ValueError):
    """Numbers handed to a gate or a statistic that it cannot judge."""

    code = "evidence"


class RefusedError(ShipworthyError):
    """A gate, rule or approval said no; says which and why."""

    code = "refused"


Fault = Literal["changed", "missing", "extra", "swapped", "replayed", "unsigned", "unknown key", "revoked key"]
"""What is wrong with something that does not hold, in one word that programs can tell apart."""


class IntegrityError(ShipworthyError, ValueError):
    """Tampering or corruption: a digest, signature or sequence that does not hold; `fault` says in which way."""

    code = "integrity"

    def __init__(self, message: str, fault: Fault = "changed") -> None:
        self.fault = fault
        super().__init__(message)


class AccessError(ShipworthyError, PermissionError):
    """The principal may not do this."""

    code = "access"


class ConflictError(ShipworthyError):
    """Somebody else holds or changed what this act needs."""

    code = "conflict"


class NotFoundError(ShipworthyError, LookupError):
    """A release, record, snapshot or file of that name does not exist."""

    code = "not_found"


class StorageError(ShipworthyError, OSError):
    """The disk or database refused: read-only, full, unreachable."""

    code = "storage"


class MissingExtraError(ShipworthyError, ImportError):
    """An optional package is not installed; says which extra brings it."""

    code = "missing_extra"


class RequestError(ShipworthyError, ValueError):
    """A caller's request that cannot be answered as it stands."""

    code = "request"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field of a request that the server did not accept."""

    field: str  # such as `inputs.income`
    expected: str
    got: str | None = None  # the value seen, shortened

    def __str__(self) -> str:
        """`field: expected this, got that`."""
        got = "" if self.got is None else f", got {self.got}"
        return f"{self.field}: expected {self.expected}{got}"


class InvalidRequestError(RequestError):
    """What a caller sent does not fit; `problems` names every field at fault."""

    code = "invalid_request"

    def __init__(self, message: str, problems: tuple[FieldProblem, ...] = ()) -> None:
        self.problems = problems
        super().__init__(message)


class RateLimitedError(ShipworthyError):
    """The caller has asked too much; `wait_s` says when it may ask again."""

    code = "rate_limited"

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        self.wait_s = wait_s  # seconds from the answer; None: the server did not say
        super().__init__(message)


class UnavailableError(ShipworthyError, ConnectionError):
    """A server that does not answer, or answers that it cannot."""

    code = "unavailable"

    def __init__(self, message: str, *, wait_s: float | None = None, may_have_answered: bool = False) -> None:
        self.wait_s = wait_s  # seconds that the server asks to wait; None: it did not say
        self.may_have_answered = may_have_answered  # the request was sent, and what became of it is not known
        super().__init__(message)


class DeadlineError(ShipworthyError, TimeoutError):
    """No answer within the time that the caller gave."""

    code = "deadline"

    def __init__(self, message: str, *, may_have_answered: bool = False) -> None:
        self.may_have_answered = may_have_answered  # the request was sent, and what became of it is not known
        super().__init__(message)
