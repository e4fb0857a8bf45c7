"""Quality: how good an environment's answers turned out to be, from the records and what was told of them."""

from typing import Any

from shipworthy.kernel.errors import NotFoundError
from shipworthy.ledger.store import Ledger
from shipworthy.monitoring.quality import measure_quality
from shipworthy.monitoring.windows import Journal
from shipworthy.workflows.attest import open_release
from shipworthy.workflows.deploy import champion_entry
from shipworthy.workflows.layout import Project

EVER = (float("-inf"), float("inf"))


def came_true(
    project: Project, ledger: Ledger, environment: str, since: float = EVER[0], until: float = EVER[1]
) -> dict[str, Any]:
    """Predictions, known truths and each release's quality in [since, until), Unix seconds of event time.

    Raises:
        NotFoundError: nothing was deployed there.
    """
    champion = champion_entry(ledger, environment)
    if champion is None:
        raise NotFoundError(f"nothing is deployed in {environment}, so nothing was answered there")
    contract = open_release(project, ledger, champion.release).contract
    journal = Journal(contract, project.records(environment), project.outcomes(environment), vault=project.vault)
    journal.refresh()
    frame = journal.frame(since, until)
    measured = measure_quality(contract, frame)
    known = sum(quality.known for quality in measured)
    return {
        "system": contract.system,
        "environment": environment,
        "predictions": frame.height,
        "known": known,
        "unknown": frame.height - known,
        "quality": [quality.to_json() for quality in measured],
    }
