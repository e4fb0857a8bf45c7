"""Which key signs, as the log has it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipworthy.ledger.store import Ledger  # SQL, which a serving machine need not have


def last_active(ledger: "Ledger") -> str | None:
    """The signing key that was chosen last; None if none ever was."""
    chosen = [str(body["name"]) for body in ledger.latest("key") if "keyid" in body and body["state"] == "active"]
    return chosen[-1] if chosen else None
