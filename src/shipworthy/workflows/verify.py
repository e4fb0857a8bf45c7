"""`verify`: releases, the audit log and the records are what was signed and recorded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipworthy.bundle.attestation import open_attestation
from shipworthy.bundle.deployment import BUNDLES, DEPLOYMENT, bundle_path, read_access, read_deployment
from shipworthy.bundle.format import COMPANIONS
from shipworthy.bundle.model_signing import MODEL_SIGNATURE, check_model, signer_of
from shipworthy.bundle.verify import MANIFEST, VerifiedBundle, verify_bundle
from shipworthy.kernel.errors import AccessError, Fault, IntegrityError, NotFoundError, UsageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.audit import AuditReport, verify_audit
from shipworthy.records.format import PARQUET
from shipworthy.records.read import list_segments, read_outcomes, read_records, verify_seal
from shipworthy.security.keyring import active_name, holder_of
from shipworthy.security.keys import PublicKey, load_public_keys
from shipworthy.security.model_key import PublicModelKey, model_keys
from shipworthy.security.vault import Vault
from shipworthy.workflows.active import last_active
from shipworthy.workflows.layout import Project, name_segment

if TYPE_CHECKING:
    from shipworthy.ledger.store import Ledger  # SQL, which a serving machine need not have


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was verified; `problem` is None when it holds."""

    name: str
    words: str
    problem: str | None = None
    fault: Fault | None = None  # in which way it does not hold

    def to_json(self) -> dict[str, Any]:
        """The document that `verify --json` prints for it."""
        return {
            "name": self.name,
            "holds": self.problem is None,
            "found": self.words,
            "problem": self.problem,
            "fault": self.fault,
        }


def _broken(name: str, error: Exception) -> Proof:
    fault: Fault | None = error.fault if isinstance(error, IntegrityError) else None
    return Proof(name, "", str(error), "missing" if isinstance(error, NotFoundError) else fault)


def verify_everything(project: Project, ledger: "Ledger", url: str | None) -> list[Proof]:
    """Every proof that a project can give: its log, releases, attestations, rows, records, what is live, its keys."""
    return [
        verify_log(project, url, ())[0],
        *verify_releases(project, ledger, None),
        *verify_attestations(project, ledger, None),
        *verify_snapshots(project, ledger),
        *verify_records(project, ledger),
        *verify_live(project, ledger),
        verify_ring(project, ledger),
    ]


def verify_log(project: Project, url: str | None, anchors: Sequence[Path]) -> tuple[Proof, AuditReport]:
    """The audit log: whole, signed, in agreement with the database (None: not compared) and with every anchor."""
    report = verify_audit(project.log, load_public_keys(project.public_keys), url, anchors)
    if report.trust == "local" and _is_signer_separate(project):
        report = replace(report, trust="separate signer")
    words = f"{report.entries:,} entries, root {report.root[:12]}, trust: {report.trust}"
    if report.last_time:
        words += f", {report.first_time} to {report.last_time}"
    problem = "; ".join(report.problems) or None
    if problem and report.first_bad is not None:
        problem = f"first bad entry {report.first_bad}: {problem}"
    return Proof("audit log", words, problem), report


def _is_signer_separate(project: Project) -> bool:
    """Whether the key that signs is not in this user's hands, but behind a command."""
    environment = project.vault.environment
    try:
        name = active_name(project.public_keys, environment)
        return name is not None and holder_of(name, environment) == "command"
    except (IntegrityError, UsageError):
        return False


def verify_releases(project: Project, ledger: "Ledger", name: str | None) -> list[Proof]:
    """Releases of the ledger, or the one called `name`: their bundles hold, wherever they lie.

    Raises:
        NotFoundError: there is no release of that name.
    """
    keys = load_public_keys(project.public_keys)
    releases = ledger.releases() if name is None else [ledger.find_release(name)]
    return [_verify_release(project, release, keys) for release in releases]


def verify_attestations(project: Project, ledger: "Ledger", name: str | None) -> list[Proof]:
    """The approvals and waivers of every release, or of the one called `name`: each signed, and about that release."""
    keys, artefacts = load_public_keys(project.public_keys), ArtefactStore(project.blobs, project.vault)
    digest = None if name is None else ledger.find_release(name)["digest"]
    proofs = []
    for body in ledger.latest("attestation"):
        if digest not in (None, body["release_digest"]):
            continue
        what = f"{body['attests']} of {body['release']} by {body['principal']} as {body['role']}"
        try:
            signed = open_attestation(artefacts.get_bytes(body["digest"]), body["release_digest"], keys)
            told = {field: getattr(signed, field) for field in ("attests", "environment", "role", "principal")}
            if any(body[field] != value for field, value in told.items()):
                raise IntegrityError("the ledger says otherwise than what was signed")
        except (AccessError, IntegrityError, NotFoundError) as error:
            proofs.append(_broken(what, error))
        else:
            proofs.append(Proof(what, f"signed for {body['environment']}, {body['time'][:10]}"))
    return proofs


def verify_ring(project: Project, ledger: "Ledger") -> Proof:
    """The ring of signing keys is as the log has it: what was revoked is, and the right key signs."""
    place = project.public_keys
    try:
        known = load_public_keys(place)
        problems = [*_revocation_problems(place, known, ledger)]
        last, active = last_active(ledger), active_name(place, project.vault.environment)
        if last is not None and active != last:
            problems.append(f"{last} signs as the log has it, {active} as {place} has it")
    except IntegrityError as error:
        return _broken("key ring", error)
    revoked = sum(1 for key in known.values() if key.revocation is not None)
    words = f"{len(known) - revoked} keys believed, {revoked} revoked"
    return Proof("key ring", "" if problems else words, "; ".join(problems) or None)


def _revocation_problems(place: Path, known: Mapping[str, PublicKey], ledger: "Ledger") -> Iterator[str]:
    for body in ledger.latest("key"):
        if body["state"] != "revoked":
            continue
        key = known.get(str(body["keyid"]))
        if key is None or key.revocation is None:
            yield f"{body['name']} is revoked in the log, and {place} does not say so"
        elif key.revocation.stands_digest != body["stands_digest"]:
            yield f"what {body['name']} signed and still stands was changed in {place}"


def verify_bundles(project: Project) -> list[Proof]:
    """Every bundle that lies in the project, by its own signature: all that can be said without the ledger."""
    keys = load_public_keys(project.public_keys)
    proofs = []
    for home in _homes(project):
        for place in sorted(path for path in (home / BUNDLES).glob("*") if path.is_dir()):
            name = f"bundle {home.name}/{place.name[:12]}"
            try:
                bundle = verify_bundle(place, keys, f"sha256:{place.name}", project.vault)
            except (IntegrityError, AccessError) as error:
                proofs.append(_broken(name, error))
            else:
                proofs.append(Proof(name, f"{bundle.release}, signature and every file hold"))
    return proofs


def _homes(project: Project) -> list[Path]:
    """Where bundles lie: the releases, and each environment."""
    live = project.state / "live"
    return [project.releases, *sorted(path for path in live.glob("*") if path.is_dir())]


def _verify_release(project: Project, release: Mapping[str, Any], keys: Mapping[str, PublicKey]) -> Proof:
    name, digest = f"release {release['system']}:{release['version']}", str(release["digest"])
    places = [bundle_path(home, digest) for home in _homes(project)]
    found = [place for place in places if place.exists()]
    if not places[0].exists():
        return Proof(name, "", f"{places[0]} is missing; restore it from a copy", "missing")
    try:
        for place in found:
            bundle = verify_bundle(place, keys, digest, project.vault)
            if bundle.release != f"{release['system']}:{release['version']}":
                raise IntegrityError(f"{place} holds {bundle.release}, not what the ledger calls {name}", "swapped")
            _check_companions(place, bundle, model_keys(project.public_keys))
    except (IntegrityError, AccessError) as error:
        return _broken(name, error)
    return Proof(name, f"signature and every file hold ({len(found)} copies)")


def verify_live(project: Project, ledger: "Ledger") -> list[Proof]:
    """What servers read in each environment: the deployment that the log set last, and a signed access file."""
    keys = load_public_keys(project.public_keys)
    names = {str(entry.body["environment"]) for entry in ledger.events(verb="deployment.set")}
    return [
        _verify_environment(project.live(name), ledger.current_deployment(name) or {}, keys) for name in sorted(names)
    ]


def _verify_environment(live: Path, current: Mapping[str, Any], keys: Mapping[str, PublicKey]) -> Proof:
    name = f"live {live.name}"
    try:
        found = read_deployment(live, keys)
        if found.generation < current["generation"]:
            raise IntegrityError(
                f"{live / DEPLOYMENT} is generation {found.generation}; the log set {current['generation']} since: "
                "it was put back, or the last step stopped half way; `shipworthy control` writes it anew",
                "replayed",
            )
        said = {field: current.get(field) for field in ("system", "environment", "generation", "salt")}
        digests = [item["digest"] for item in current["releases"]]
        if any(getattr(found, field) != value for field, value in said.items()) or digests != [
            release.digest for release in found.releases
        ]:
            raise IntegrityError(f"{live / DEPLOYMENT} is not the deployment that the log set last", "swapped")
        with suppress(NotFoundError):  # nobody may call
            read_access(live, keys)
    except (IntegrityError, NotFoundError) as error:
        return _broken(name, error)
    return Proof(name, f"generation {found.generation}, as the log has it")


def verify_bundle_at(place: Path, keys: Mapping[str, PublicKey], vault: Vault | None = None) -> Proof:
    """A bundle wherever it lies, by the public keys alone: no ledger, no project.

    Args:
        place: the bundle's folder.
        keys: whom to believe, by keyid.
        vault: opens files that are sealed.
    """
    name = f"bundle {place.name[:12]}"
    try:
        bundle = verify_bundle(place, keys, vault=vault)
        _check_companions(place, bundle, None)
    except (IntegrityError, AccessError) as error:
        return _broken(name, error)
    signed = bundle.statement.predicate
    return Proof(name, f"{bundle.release}, signed {signed.created[:10]}, shipped by {signed.author}: every file holds")


def _check_companions(place: Path, bundle: VerifiedBundle, known: Mapping[str, PublicModelKey] | None) -> None:
    """Every document that the release binds is there; the model's own signature is by one of `known`, if given."""
    for name, field in COMPANIONS.items():
        if getattr(bundle.statement.predicate, field) and not (place / name).is_file():
            raise IntegrityError(f"{place / name} is missing; restore it from a copy", "missing")
    signature = place / MODEL_SIGNATURE
    if known is None or not signature.is_file():
        return
    digests = {name: entry.digest for name, entry in bundle.payload.manifest.files.items()}
    content = signature.read_bytes()
    key = known.get(signer_of(content))
    if key is None:
        raise IntegrityError(f"{signature} is signed by a model key that is not known here", "unknown key")
    check_model(content, {MANIFEST: bundle.payload.digest, **digests}, key)


def verify_records(project: Project, ledger: "Ledger") -> list[Proof]:
    """Prediction records and outcomes of each environment: whole, and as sealed when their segment was closed."""
    sealed = {entry.object: entry.body for entry in ledger.events(verb="segment.closed")}
    compacted = {entry.object: str(entry.body["digest"]) for entry in ledger.events(verb="segment.compacted")}
    known = {name.removeprefix("segment:").partition("/")[0] for name in sealed}
    proofs = []
    for kind in ("records", "outcomes"):
        folder = project.state / kind
        there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
        for environment in sorted(there | known):
            mine = {name: body for name, body in sealed.items() if _is_of(name, environment, kind)}
            if mine or environment in there:
                proofs.append(_verify_segments(project, folder / environment, mine, compacted))
    return proofs


def _is_of(name: str, environment: str, kind: str) -> bool:
    """Whether the ledger's name of a segment is of this environment's records or outcomes."""
    return name_segment(Path(kind) / environment / name.rpartition("/")[2]) == name


def _verify_segments(
    project: Project, folder: Path, sealed: Mapping[str, Mapping[str, Any]], compacted: Mapping[str, str]
) -> Proof:
    kind, name = folder.parent.name, f"{folder.parent.name} {folder.name}"
    segments = list_segments(folder)
    try:
        for segment in segments:
            seal = verify_seal(segment)
            known = sealed.get(name_segment(segment))
            if known is not None and (seal is None or seal.digest != known["digest"]):
                raise IntegrityError(f"{segment} is not the segment whose digest the ledger has")
            if segment.name.endswith(PARQUET) and (
                seal is None or seal.compacted != compacted.get(name_segment(segment))
            ):
                raise IntegrityError(f"{segment} is not the file whose digest the ledger has")
        missing = sorted(sealed.keys() - {name_segment(segment) for segment in segments})
        if missing:
            raise IntegrityError(f"{missing[0]} is in the ledger, its file is missing", "missing")
        read = read_records if kind == "records" else read_outcomes
        count = sum(1 for _ in read(folder, project.vault))
    except (IntegrityError, AccessError) as error:
        return _broken(name, error)
    words = "predictions" if kind == "records" else "outcomes"
    return Proof(name, f"{count:,} {words} in {len(segments)} segments")


def verify_snapshots(project: Project, ledger: "Ledger") -> list[Proof]:
    """Every snapshot can be read and is what its digest names."""
    from shipworthy.data.snapshot import Snapshot, read  # the data engine, only where snapshots are verified
    from shipworthy.workflows.shipping import is_removed

    proofs = []
    for body in ledger.snapshots():
        name = f"snapshot {str(body['digest'])[7:19]}"
        system = str(body.get("system", ""))
        snapshot = Snapshot(str(body["digest"]), int(body["version"]), int(body["rows"]), project.tables / system)
        try:
            read(snapshot, project.vault)
        except (AccessError, IntegrityError, NotFoundError) as error:
            if isinstance(error, NotFoundError) and is_removed(ledger, body):
                proofs.append(Proof(name, f"version {snapshot.version} was removed by `data compact`, as the log says"))
            else:
                proofs.append(_broken(name, error))
        else:
            proofs.append(Proof(name, f"{snapshot.rows:,} rows, version {snapshot.version}"))
    return proofs
