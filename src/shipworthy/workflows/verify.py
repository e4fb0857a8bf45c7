"""`verify`: releases, the audit log and the records are what was signed and recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipworthy.bundle.deployment import BUNDLES, bundle_path
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.ledger.audit import AuditReport, verify_audit
from shipworthy.records.read import list_segments, read_records, verify_seal
from shipworthy.security.keys import PublicKey, load_public_keys
from shipworthy.workflows.layout import Project

if TYPE_CHECKING:
    from shipworthy.ledger.store import Ledger  # SQL, which a serving machine need not have


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was verified; `problem` is None when it holds."""

    name: str
    words: str
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document that `verify --json` prints for it."""
        return {"name": self.name, "holds": self.problem is None, "found": self.words, "problem": self.problem}


def verify_log(project: Project, url: str | None, anchors: Sequence[Path]) -> tuple[Proof, AuditReport]:
    """The audit log: whole, signed, in agreement with the database (None: not compared) and with every anchor."""
    report = verify_audit(project.log, load_public_keys(project.public_keys), url, anchors)
    words = f"{report.entries:,} entries, root {report.root[:12]}, trust: {report.trust}"
    if report.last_time:
        words += f", {report.first_time} to {report.last_time}"
    problem = "; ".join(report.problems) or None
    if problem and report.first_bad is not None:
        problem = f"first bad entry {report.first_bad}: {problem}"
    return Proof("audit log", words, problem), report


def verify_releases(project: Project, ledger: "Ledger", name: str | None) -> list[Proof]:
    """Releases of the ledger, or the one called `name`: their bundles hold, wherever they lie.

    Raises:
        NotFoundError: there is no release of that name.
    """
    keys = load_public_keys(project.public_keys)
    releases = ledger.releases() if name is None else [ledger.find_release(name)]
    return [_verify_release(project, release, keys) for release in releases]


def verify_bundles(project: Project) -> list[Proof]:
    """Every bundle that lies in the project, by its own signature: all that can be said without the ledger."""
    keys = load_public_keys(project.public_keys)
    proofs = []
    for home in _homes(project):
        for place in sorted(path for path in (home / BUNDLES).glob("*") if path.is_dir()):
            name = f"bundle {home.name}/{place.name[:12]}"
            try:
                bundle = verify_bundle(place, keys, f"sha256:{place.name}")
            except IntegrityError as error:
                proofs.append(Proof(name, "", str(error)))
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
        return Proof(name, "", f"{places[0]} is missing; restore it from a copy")
    try:
        for place in found:
            bundle = verify_bundle(place, keys, digest)
            if bundle.release != f"{release['system']}:{release['version']}":
                raise IntegrityError(f"{place} holds {bundle.release}, not what the ledger calls {name}")
    except IntegrityError as error:
        return Proof(name, "", str(error))
    return Proof(name, f"signature and every file hold ({len(found)} copies)")


def verify_records(project: Project, ledger: "Ledger") -> list[Proof]:
    """The prediction records of each environment: whole, and as sealed when their segment was closed."""
    sealed = {entry.object: entry.body for entry in ledger.events(verb="segment.closed")}
    folder = project.state / "records"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [_verify_environment(project, name, sealed) for name in names]


def _verify_environment(project: Project, environment: str, sealed: Mapping[str, Mapping[str, Any]]) -> Proof:
    name, folder = f"records {environment}", project.records(environment)
    segments = list_segments(folder)
    try:
        for segment in segments:
            seal = verify_seal(segment)
            known = sealed.get(f"segment:{environment}/{segment.name}")
            if known is not None and (seal is None or seal.digest != known["digest"]):
                raise IntegrityError(f"{segment} is not the segment whose digest the ledger has")
        there = {f"segment:{environment}/{segment.name}" for segment in segments}
        missing = sorted(key for key in sealed if key.startswith(f"segment:{environment}/") and key not in there)
        if missing:
            raise IntegrityError(f"{missing[0]} is in the ledger, its file is missing")
        count = sum(1 for _ in read_records(folder))
    except IntegrityError as error:
        return Proof(name, "", str(error))
    return Proof(name, f"{count:,} predictions in {len(segments)} segments")


def verify_snapshots(project: Project, ledger: "Ledger") -> list[Proof]:
    """Every snapshot can be read and is what its digest names."""
    from shipworthy.data.snapshot import Snapshot, read  # the data engine, only where snapshots are verified

    proofs = []
    for body in ledger.snapshots():
        name = f"snapshot {str(body['digest'])[7:19]}"
        system = str(body.get("system", ""))
        snapshot = Snapshot(str(body["digest"]), int(body["version"]), int(body["rows"]), project.tables / system)
        try:
            read(snapshot)
        except (IntegrityError, NotFoundError) as error:
            proofs.append(Proof(name, "", str(error)))
        else:
            proofs.append(Proof(name, f"{snapshot.rows:,} rows, version {snapshot.version}"))
    return proofs
