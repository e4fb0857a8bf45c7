"""The key ring as a story: keys are made, followed and disowned, each time recorded, and what is live signed anew.

A signing key that is rotated stays believed. One that is revoked is not, but for what the log has of it: those contents
are named by digest in its revocation, so that nothing it signs afterwards, or signed beside the log, can stand.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.format import STATEMENT_MEDIA
from shipworthy.bundle.verify import RELEASE
from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, StorageError, UsageError
from shipworthy.ledger.checkpoint import Checkpoint
from shipworthy.ledger.events import Event, format_time
from shipworthy.security.access import Principal
from shipworthy.security.datakeys import DataKey, active_data_key, list_data_keys, make_data_key, wrap_anew
from shipworthy.security.keyring import (
    RingKey,
    active_name,
    choose_active,
    find_signer,
    free_name,
    holder_of,
    list_ring,
    revoke,
)
from shipworthy.security.keys import (
    REVOKED,
    PublicKey,
    Revocation,
    check_key_name,
    create_key,
    key_directory,
    load_public_key,
    load_public_keys,
)
from shipworthy.security.signing import signed_digest
from shipworthy.workflows.active import last_active
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, hold_project
from shipworthy.workflows.tokens import refresh_access
from shipworthy.workflows.traffic import repair

PROBE = b"shipworthy: can this key sign?"

Environment = Mapping[str, str]


def create_signing_key(
    parts: Parts, principal: Principal, environment: Environment, name: str, public: Path | None
) -> dict[str, Any]:
    """Add a signing key to the ring, not yet active: a new one here, or one whose private half a command has.

    Args:
        parts: of the project.
        principal: who asks.
        environment: names the key directory.
        name: of the key.
        public: PEM file of a public key whose private half is elsewhere; None to make both halves.

    Raises:
        AccessError: `principal` may not manage keys.
        ConflictError: there is a key of that name.
        UsageError: the name cannot name a key.
    """
    rule = permit(parts, principal, "key create", name=f"key:{name}")
    ring = parts.project.public_keys
    if any(key.name == check_key_name(name) for key in list_ring(ring, environment)):
        raise ConflictError(f"there is a key {name!r} already; choose another name")
    key = create_key(key_directory(environment), name).public if public is None else load_public_key(public)
    _refuse_known(ring, key)
    key.write_public(ring / f"{name}.pub")
    body = {"name": name, "keyid": key.keyid, "state": "believed", "holder": holder_of(name, environment)}
    parts.ledger.append(_event(parts, "key.created", name, principal.actor, rule, body))
    return body


def rotate_signing_key(
    parts: Parts, principal: Principal, environment: Environment, to: str | None = None
) -> dict[str, Any]:
    """Let another key sign from now on, and sign anew what is live; the key before stays believed.

    Stop it anywhere and run it again: a rotation that was begun is finished first.

    Args:
        parts: of the project.
        principal: who asks.
        environment: names the key directory and the signing command.
        to: a key of the ring; None for a new one.

    Raises:
        AccessError: `principal` may not manage keys, or the signing command failed.
        NotFoundError: there is no key `to`, or its private half is not here.
        ConflictError: it signs already.
    """
    rule = permit(parts, principal, "key rotate", name=f"key:{to or 'new'}")
    with hold_project(parts.project, "key rotate"):
        ring, before = parts.project.public_keys, parts.key.name
        last = last_active(parts.ledger)
        is_begun = (ring / "active").exists() and last != before and to in (None, before)
        name = before if is_begun else _successor(parts, environment, before, to)
        find_signer(ring, environment, name).sign(PROBE)  # before anything depends on it
        choose_active(ring, name)
        holder = holder_of(name, environment)
        body = {"name": name, "keyid": parts.key.public.keyid, "state": "active", "holder": holder}
        events = [_event(parts, "key.rotated", name, principal.actor, rule, body)]
        retired = last if is_begun else before
        if retired is not None and retired != name:
            gone = {"name": retired, "state": "retired", "successor": name}
            events.insert(0, _event(parts, "key.rotated", retired, principal.actor, rule, gone))
        parts.ledger.append_all(events)  # signed by the new key, over everything before
        return body | {"before": retired, "signed_anew": _sign_anew(parts)}


def revoke_signing_key(
    parts: Parts, principal: Principal, environment: Environment, name: str, reason: str
) -> dict[str, Any]:
    """Believe `name` no more, but for the releases, attestations and anchors that the log has.

    What is live is signed anew first. Stop it anywhere and run it again.

    Raises:
        AccessError: `principal` may not manage keys.
        NotFoundError: there is no such key.
        ConflictError: it is the key that signs, or is revoked already.
        UsageError: no reason is given.
        IntegrityError: a release or attestation of the log does not hold.
    """
    rule = permit(parts, principal, "key revoke", name=f"key:{name}")
    if not reason.strip():
        raise UsageError("a revocation needs a reason: --reason TEXT")
    ring = parts.project.public_keys
    with hold_project(parts.project, "key revoke"):
        if (ring / REVOKED / f"{check_key_name(name)}.json").exists():
            raise ConflictError(f"{name} is revoked already; `shipworthy key list` shows it")
        if not (ring / f"{name}.pub").exists():
            raise NotFoundError(f"there is no key {name!r}; `shipworthy key list` shows all")
        if name == active_name(ring, environment):
            raise ConflictError(f"{name} is the key that signs; run `shipworthy key rotate` first, then revoke it")
        _sign_anew(parts)
        key = load_public_key(ring / f"{name}.pub")
        standing = _standing(parts, key)
        revocation = Revocation(
            name=name,
            public=key.raw.hex(),
            revoked=format_time(parts.now()),
            reason=reason,
            stands=frozenset(standing),
        )
        body = {
            "name": name,
            "keyid": key.keyid,
            "state": "revoked",
            "reason": reason,
            "stands": len(standing),
            "stands_digest": revocation.stands_digest,
        }
        parts.ledger.append(_event(parts, "key.revoked", name, principal.actor, rule, body))
        revoke(ring, revocation)
        return body | {"standing": sorted(standing.values())}


def ensure_data_key(parts: Parts) -> None:
    """Make the project's first data key, where its contract wants encryption and there is none; recorded.

    Raises:
        AccessError, UsageError: the master key cannot be used.
    """
    if active_data_key(parts.project.data_keys) is None:
        _new_data_key(parts, parts.project.vault.environment, parts.actor, parts.rule)


def rotate_data_key(parts: Parts, principal: Principal, environment: Environment) -> dict[str, Any]:
    """Let a new data key encrypt from now on; what the ones before encrypted stays readable.

    Raises:
        AccessError: `principal` may not manage keys, or the master key is not here.
    """
    rule = permit(parts, principal, "key rotate", name="key:data")
    with hold_project(parts.project, "key rotate"):
        before = active_data_key(parts.project.data_keys)
        key = _new_data_key(parts, environment, principal.actor, rule)
        return _data_body(key) | {"before": None if before is None else before.id}


def rotate_master_key(parts: Parts, principal: Principal, environment: Environment) -> dict[str, Any]:
    """Wrap every data key by the master key that settings name now, or by a new one where it is the private file.

    Raises:
        AccessError: `principal` may not manage keys, or a master key that wrapped one is not here.
        NotFoundError: nothing is encrypted here.
    """
    rule = permit(parts, principal, "key rotate", name="key:master")
    with hold_project(parts.project, "key rotate"):
        if not list_data_keys(parts.project.data_keys):
            raise NotFoundError("nothing is encrypted here yet: no data key is wrapped by a master key")
        master, count = wrap_anew(parts.project.data_keys, environment)
        body = {"name": "master", "master": master, "state": "active", "wraps": count}
        parts.ledger.append(_event(parts, "key.rotated", "master", principal.actor, rule, body))
        return body


def list_keys(project: Project, environment: Environment) -> dict[str, Any]:
    """Every key of the project as it stands; nothing in it is secret."""
    signing = [_ring_json(key) for key in list_ring(project.public_keys, environment)]
    data = [_data_body(key) | {"created": key.created} for key in list_data_keys(project.data_keys)]
    return {"signing": signing, "data": data}


def _successor(parts: Parts, environment: Environment, before: str, to: str | None) -> str:
    ring = parts.project.public_keys
    if to is None:
        name = free_name(ring, environment, before)
        create_key(key_directory(environment), name).public.write_public(ring / f"{name}.pub")
        return name
    if to == before:
        raise ConflictError(f"{to} is the key that signs already")
    if not (ring / f"{check_key_name(to)}.pub").exists():
        raise NotFoundError(f"there is no key {to!r}; `shipworthy key list` shows all, `key create` adds one")
    return to


def _refuse_known(ring: Path, key: PublicKey) -> None:
    known = load_public_keys(ring).get(key.keyid)
    if known is not None:
        words = "is in the ring under another name" if known.revocation is None else f"is {known.revocation.words}"
        raise ConflictError(f"the key {key.keyid[:16]} {words}")


def _sign_anew(parts: Parts) -> list[str]:
    """Deployment and access files of every environment, as the ledger has them, by the key that signs now."""
    live = parts.project.state / "live"
    done = []
    for place in sorted(path for path in live.glob("*") if path.is_dir()):
        if repair(parts, place.name, anew=True):
            done.append(f"{place.name}/deployment")
        if (place / "access").exists():
            refresh_access(parts, place.name, anew=True)
            done.append(f"{place.name}/access")
    return done


def _standing(parts: Parts, key: PublicKey) -> dict[str, str]:
    """What the log has that `key` signed: digest of each signed content, and what it is called."""
    believed = {key.keyid: key}
    found: dict[str, str] = {}
    for release in parts.ledger.releases():
        place = bundle_path(parts.project.releases, str(release["digest"])) / RELEASE
        try:
            envelope = place.read_bytes()
        except OSError as error:
            raise StorageError(
                f"{place} cannot be read ({error.strerror}), so it could not stand; restore it"
            ) from None
        found |= _signed_by(envelope, believed, f"release {release['system']}:{release['version']}")
    for body in parts.ledger.latest("attestation"):
        envelope = parts.artefacts.get_bytes(str(body["digest"]))
        found |= _signed_by(envelope, believed, f"{body['attests']} of {body['release']} by {body['principal']}")
    checkpoint = parts.ledger.checkpoint
    for body in parts.ledger.anchors():
        origin = "" if checkpoint is None else checkpoint.origin
        anchor = Checkpoint(origin, int(body["size"]), bytes.fromhex(str(body["root"])))
        found[sha256(anchor.text().encode()).hexdigest()] = f"anchor at entry {body['size']}"
    return found


def _signed_by(envelope: bytes, believed: Mapping[str, PublicKey], what: str) -> dict[str, str]:
    try:
        return {signed_digest(envelope, STATEMENT_MEDIA, believed): what}
    except IntegrityError:  # by another key, or not what it was, which `verify` says
        return {}


def _new_data_key(parts: Parts, environment: Environment, actor: str, rule: str) -> DataKey:
    directory = parts.project.data_keys
    before = active_data_key(directory)
    key = make_data_key(directory, environment, parts.now())
    events = [_event(parts, "key.created", f"data/{key.id}", actor, rule, _data_body(key))]
    if before is not None:
        retired = _data_body(before) | {"state": "retired", "successor": key.id}
        events.append(_event(parts, "key.rotated", f"data/{before.id}", actor, rule, retired))
    parts.ledger.append_all(events)
    return key


def _event(parts: Parts, verb: str, name: str, actor: str, rule: str, body: Mapping[str, Any]) -> Event:
    known = parts.ledger.find_latest("key", name)
    revision = 1 if known is None else int(known["revision"]) + 1
    return Event(verb, f"key:{name}", actor, {**body, "revision": revision}, rule)


def _data_body(key: DataKey) -> dict[str, Any]:
    return {"name": key.id, "purpose": "data", "state": key.state, "master": key.master}


def _ring_json(key: RingKey) -> dict[str, Any]:
    return {"name": key.name, "keyid": key.keyid, "state": key.state, "holder": key.holder, "words": key.words}
