"""`shipworthy verify`: proof that nothing was changed."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import IntegrityError, UsageError
from shipworthy.security.keys import load_public_key, load_public_keys
from shipworthy.workflows.layout import Project
from shipworthy.workflows.verify import (
    Proof,
    verify_attestations,
    verify_bundle_at,
    verify_bundles,
    verify_live,
    verify_log,
    verify_records,
    verify_releases,
    verify_ring,
    verify_snapshots,
)

if TYPE_CHECKING:
    from shipworthy.ledger.store import Ledger

TRUST_WORDS = {
    "unsigned": "The log is not signed: anyone who can write here could have rewritten it.",
    "local": "Trust is local: whoever holds the signing key could have rewritten the log. "
    "`shipworthy audit anchor FILE` makes an anchor to keep elsewhere.",
    "separate signer": "The signer is separate: its key is not here, so whoever only writes here "
    "could not have rewritten the log.",
    "anchored": "Trust is anchored: the log agrees with a checkpoint kept elsewhere.",
}


@command("verify")
@click.argument("what", default="all", metavar="[RELEASE | audit | all]")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="An exported checkpoint.",
)
@click.option("--bundle", default=None, metavar="DIR", type=click.Path(path_type=Path), help="This bundle alone.")
@click.option(
    "--key", "keys", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="Believe this public key."
)
def verify(
    root: Path, face: Face, what: str, anchors: tuple[Path, ...], bundle: Path | None, keys: tuple[Path, ...]
) -> int:
    """Verify a RELEASE, the audit log, or everything. Names what is wrong."""
    project = Project(root)
    if bundle is not None:
        return _verify_bundle(face, project, bundle, keys)
    if keys:
        raise UsageError("--key goes with --bundle DIR; a project believes the keys of its ring")
    project.require()
    proofs: list[Proof] = []
    trust = None
    opener = _ledger_opener()
    if what in ("audit", "all"):
        with face.err.status("verifying the audit log"):
            proof, report = verify_log(project, project.ledger_url(os.environ) if opener else None, anchors)
        proofs.append(proof)
        trust = report.trust
    if what != "audit":
        proofs += _verify_made(face, root, opener, None if what == "all" else what)
    holds = all(proof.problem is None for proof in proofs)
    face.result({"holds": holds, "trust": trust, "proofs": [proof.to_json() for proof in proofs]})
    if not face.as_json:
        _show(face, proofs, trust)
    return 0 if holds else 1


def _verify_bundle(face: Face, project: Project, place: Path, files: tuple[Path, ...]) -> int:
    """One bundle, by the keys that are given, else by those of the project."""
    known = {key.keyid: key for key in map(load_public_key, files)} or load_public_keys(project.public_keys)
    if not known:
        raise UsageError("no public key is known here; give one: --key FILE")
    proof = verify_bundle_at(place, known, project.vault)
    face.result({"holds": proof.problem is None, "trust": None, "proofs": [proof.to_json()]})
    if not face.as_json:
        _show(face, [proof], None)
    return 0 if proof.problem is None else 1


def _ledger_opener() -> "Callable[[Path, str], AbstractContextManager[Ledger]] | None":
    """What opens the ledger; None on a machine with the serving set only, which verifies by signatures alone."""
    try:
        from shipworthy.faces.wiring import open_to_read
    except ModuleNotFoundError:
        return None
    return open_to_read


def _verify_made(
    face: Face,
    root: Path,
    opener: "Callable[[Path, str], AbstractContextManager[Ledger]] | None",
    release: str | None,
) -> list[Proof]:
    project = Project(root)
    if opener is None:
        face.note("The database is not compared: this machine has the serving set only.")
        return verify_bundles(project)
    try:
        with opener(root, "verify") as ledger, face.err.status("verifying releases, snapshots and records"):
            proofs = verify_releases(project, ledger, release) + verify_attestations(project, ledger, release)
            if release is None:
                proofs += verify_snapshots(project, ledger) + verify_records(project, ledger)
                proofs += [*verify_live(project, ledger), verify_ring(project, ledger)]
            return proofs
    except IntegrityError as error:
        return [Proof("ledger", "", str(error), error.fault)]


def _show(face: Face, proofs: list[Proof], trust: str | None) -> None:
    for proof in proofs:
        if proof.problem is None:
            face.say(f"[green]holds[/]   {escape(proof.name)}: {escape(proof.words)}")
        else:
            fault = f" ({proof.fault})" if proof.fault else ""
            face.say(f"[bold red]BROKEN[/]  {escape(proof.name)}{fault}: {escape(proof.problem)}")
    if trust:
        face.say(f"[dim]{TRUST_WORDS.get(trust, trust)}[/]")
