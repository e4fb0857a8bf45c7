"""Overview: everything about a system that the portfolio is made from, read from the ledger at once."""

import json
from collections.abc import Mapping
from typing import Any

from shipworthy.contract.types import Contract
from shipworthy.governance.portfolio import Ledgered, name_of
from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.workflows.project import Parts


def gather(parts: Parts, contract: Contract, waiting: Mapping[str, int] | None = None) -> Ledgered:
    """The bodies that the portfolio of `contract`'s system is made from.

    Args:
        parts: the project's parts; nothing is changed.
        contract: names the system and its environments.
        waiting: environment to how many answers wait for a person, where that was counted.
    """
    ledger = parts.ledger
    releases = ledger.releases(contract.system)
    return Ledgered(
        releases=releases,
        verdicts={name_of(release): verdicts_of(parts, release) for release in releases},
        deployments={name: ledger.current_deployment(name) for name in contract.environments},
        approvals={name: dict(found.approvals.items()) for name, found in contract.environments.items()},
        attestations=ledger.latest("attestation"),
        rollouts=ledger.latest("rollout"),
        windows=ledger.latest("window"),
        alerts=ledger.latest("alert"),
        clocks=ledger.latest("clock"),
        waiting=waiting or {},
    )


def verdicts_of(parts: Parts, release: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the gates said of a release; nothing where the document is lost or changed, which `verify` tells of."""
    try:
        found = json.loads(parts.artefacts.get_bytes(str(release["verdicts"])))
    except (NotFoundError, IntegrityError):
        return []
    return list(found)
