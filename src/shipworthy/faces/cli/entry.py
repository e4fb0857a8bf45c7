"""How a plane is entered: its act decided and recorded by the ledger, or, where that cannot be used, without it.

A machine that serves may lack the ledger, its libraries or the key; whom the ledger denies is refused all the same.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import AccessError, ShipworthyError

if TYPE_CHECKING:  # it needs the ledger, which a serving machine may lack
    from shipworthy.workflows.project import Parts

_Given = TypeVar("_Given")


@dataclass(frozen=True, slots=True)
class Entered:
    """How the gate was passed."""

    actor: str
    rule: str


def on_ledger(face: Face, root: Path, act: Callable[["Parts"], _Given]) -> _Given | None:
    """What `act` gives; or a note where the ledger cannot be used, as serving goes on without."""
    try:
        from shipworthy.faces.wiring import open_parts
    except ModuleNotFoundError:
        face.note("Nothing is recorded: this machine has the serving set only (pip install 'shipworthy[standard]').")
        return None
    with ExitStack() as stack:
        try:
            parts = stack.enter_context(open_parts(root))
        except ShipworthyError as error:
            face.note(f"The ledger cannot be used, so nothing is recorded and no token made: {error}")
            return None
        try:
            return act(parts)
        except ShipworthyError as error:
            face.note(f"The ledger cannot be written: {error}")
            return None


def enter(parts: "Parts", verb: str, environment: str) -> Entered | AccessError:
    """How the gate was passed; or a denial, which may also be the key's that was to sign the decision."""
    from shipworthy.workflows.gate import permit
    from shipworthy.workflows.principals import acting

    try:
        principal = acting(parts, os.environ)
        return Entered(principal.actor, permit(parts, principal, verb, environment=environment))
    except AccessError as error:
        return error


def refuse_denied(root: Path, verb: str, environment: str) -> None:
    """A denial holds also where it cannot be recorded; where the ledger cannot even be read, nobody is known.

    Raises:
        AccessError: who acts may not do `verb`.
    """
    try:
        from shipworthy.faces.wiring import open_to_read

        with open_to_read(root, verb, environment):
            pass
    except AccessError:
        raise
    except (ModuleNotFoundError, ShipworthyError):
        return


def keep_digests(parts: "Parts", entered: Entered, environment: str) -> None:
    """Put the digests of closed segments into the ledger."""
    from shipworthy.workflows.segments import record_closed_segments

    record_closed_segments(replace(parts, rule=entered.rule), environment)
