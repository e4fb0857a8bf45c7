"""An older file of what is live, validly signed, that somebody put back."""

from pathlib import Path

import msgspec
import pytest

from shipworthy.bundle.deployment import read_deployment
from shipworthy.faces.wiring import open_parts
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.traffic import repair, set_traffic
from shipworthy.workflows.verify import verify_live


def test_a_deployment_that_was_put_back_is_called_a_replay_and_mended(
    project: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    with open_parts(project) as parts:
        live = parts.project.live("local")
        older = (live / "deployment").read_bytes()
        releases = read_deployment(live, load_public_keys(parts.project.public_keys)).releases
        set_traffic(parts, parts.actor, "test", "local", [msgspec.structs.replace(releases[0], share=1.0)])
        (proof,) = verify_live(parts.project, parts.ledger)
        assert (proof.problem, proof.words) == (None, "generation 2, as the log has it")
        (live / "deployment").write_bytes(older)
        (proof,) = verify_live(parts.project, parts.ledger)
        assert proof.fault == "replayed"
        assert "generation 1; the log set 2 since" in str(proof.problem)
        assert repair(parts, "local")
        assert verify_live(parts.project, parts.ledger)[0].problem is None
        (live / "deployment").unlink()
        assert verify_live(parts.project, parts.ledger)[0].fault == "missing"
