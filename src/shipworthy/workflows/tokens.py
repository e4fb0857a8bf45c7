"""Tokens for callers of the data plane: recorded in the ledger by hash, put into the signed access file."""

from shipworthy.bundle.deployment import read_access, write_access
from shipworthy.bundle.format import Access, AccessToken
from shipworthy.kernel.errors import NotFoundError
from shipworthy.ledger.events import Event
from shipworthy.security.keys import load_public_keys
from shipworthy.security.tokens import mint_token
from shipworthy.workflows.project import Parts

TOKEN_S = 8 * 3600.0  # a working day


def grant_token(parts: Parts, environment: str, system: str) -> str:
    """A token that may ask `system` for predictions in `environment` for eight hours; recorded, never stored."""
    now = parts.now()
    token, digest = mint_token(parts.entropy(32))
    live = parts.project.live(environment)
    try:
        current = read_access(live, load_public_keys(parts.project.public_keys))
    except NotFoundError:
        current = Access(environment=environment, generation=0, tokens=())
    name = f"serve-{digest[:8]}"
    scope = f"predict:{system}"
    fresh = AccessToken(name=name, hash=digest, scopes=(scope,), expires=now + TOKEN_S)
    kept = tuple(known for known in current.tokens if known.expires is None or known.expires > now)
    body = {"name": name, "hash": digest, "scopes": [scope], "expires": fresh.expires, "environment": environment}
    parts.ledger.append(Event("token.minted", f"token:{name}", parts.actor, body))
    write_access(
        live, Access(environment=environment, generation=current.generation + 1, tokens=(*kept, fresh)), parts.key
    )
    return token
