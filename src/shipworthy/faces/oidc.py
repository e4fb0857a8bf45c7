"""An OpenID provider: who somebody is, as it says, and nothing that somebody else could have written.

Sign-in of a browser (authorization code with PKCE) and tokens sent to the API are checked by the same rules.
Source: OpenID Connect Core 1.0 and Discovery 1.0; RFC 7636 (PKCE); RFC 8725 (JWT best practice); RFC 9207 (`iss`).
"""

import hmac
import json
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256, sha512
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, UnknownHandler

from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from shipworthy.faces.oidc_settings import OidcSettings
from shipworthy.kernel.errors import AccessError, RefusedError, UnavailableError, UsageError
from shipworthy.security.access import Principal
from shipworthy.security.binding import is_loopback
from shipworthy.workflows.principals import check_principal_name

DISCOVERY = "/.well-known/openid-configuration"
ALGORITHMS: Mapping[str, str] = {  # -> kind of key: public keys alone, so that none can be taken for a shared secret
    "RS256": "RSA",
    "PS256": "RSA",
    "ES256": "EC",
    "EdDSA": "OKP",
    "Ed25519": "OKP",
}
ID_TYPES = (None, "JWT")  # of tokens that say who signed in
API_TYPES = (None, "JWT", "at+jwt", "application/at+jwt")
MIN_RSA_BITS = 2048
LEEWAY_S = 60  # between two clocks
TIMEOUT_S = 5.0  # without a byte
DEADLINE_S = 10.0  # for a whole answer
MAX_BYTES = 1 << 20
REFRESH_S = 600.0  # keys that the provider withdrew are believed no longer than this
RETRY_S = 10.0  # between two looks at a provider, so that unknown keys cannot make us ask all the time
WAIT_S = 2.0  # for another thread's look
FLOW_S = 600.0  # to type a password and find the phone
MAX_FLOWS = 10_000  # begun and not ended, about 3 MB; the oldest goes first


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody, as the provider says, until then."""

    principal: Principal
    expires: float


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a browser goes to sign in, and the cookie by which it is known when it returns."""

    address: str
    cookie: str


@dataclass(frozen=True, slots=True)
class _Flow:
    cookie: str  # hash of
    nonce: str
    verifier: str
    expires: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What the provider publishes, as last seen."""

    document: Mapping[str, Any]
    keys: tuple[Key, ...]
    at: float


@dataclass(slots=True)
class _Look:
    """When the provider was last asked, whatever came of it."""

    at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Algorithms(jws.JWSRegistry):
    """Ours alone, by both names of Ed25519: providers still write the older one, of which the library warns."""

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


class Provider:
    """One OpenID provider. Safe for threads; what it publishes is fetched when first needed.

    Args:
        settings: which one, and what its groups may do.
        redirect_uri: where browsers return to, exactly.
        now: Unix seconds.
        clock: monotonic seconds.
        entropy: random bytes.
    """

    def __init__(
        self,
        settings: OidcSettings,
        redirect_uri: str,
        *,
        now: Callable[[], float],
        entropy: Callable[[int], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.redirect_uri = redirect_uri
        self._now = now
        self._clock = clock
        self._entropy = entropy
        self._known: _Known | None = None
        self._look = _Look()
        self._flows: OrderedDict[str, _Flow] = OrderedDict()  # hash of the state -> flow
        self._flows_lock = threading.Lock()

    @property
    def origin(self) -> str:
        """Of the pages to which browsers return: cookies are good there alone."""
        parts = urlsplit(self.redirect_uri)
        return f"{parts.scheme}://{parts.netloc}"

    def begin(self) -> Beginning:
        """Begin to sign a browser in.

        Raises:
            UnavailableError: the provider does not answer, or not as one.
        """
        document = self._published().document
        state, nonce, verifier, cookie = (self._chance() for _ in range(4))
        flow = _Flow(_hash(cookie), nonce, verifier, self._now() + FLOW_S)
        with self._flows_lock:
            self._flows[_hash(state)] = flow
            while len(self._flows) > MAX_FLOWS:
                self._flows.popitem(last=False)
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _encode(sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        address = str(document["authorization_endpoint"])
        return Beginning(f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", cookie)

    def finish(self, answer: Mapping[str, str], cookie: str) -> Identity:
        """Who signed in, from what the provider sent back by the browser. Each beginning ends once.

        Args:
            answer: the query of the redirect.
            cookie: of the beginning.

        Raises:
            AccessError: it is not the answer to a beginning of this browser, or the token does not hold.
            RefusedError: the provider refused, or whom it names can be nobody here.
            UnavailableError: the provider does not answer.
        """
        with self._flows_lock:
            flow = self._flows.pop(_hash(answer.get("state", "")), None)
        if flow is None or flow.expires <= self._now() or not hmac.compare_digest(flow.cookie, _hash(cookie)):
            raise AccessError("this sign-in was ended already, took over 10 minutes, or began in another browser")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise AccessError("the answer comes from another provider")
        if "error" in answer or not answer.get("code"):
            raise RefusedError(f"the provider did not sign you in ({answer.get('error', 'no code')[:60]!r})")
        tokens = self._redeem(answer["code"], flow.verifier)
        header, claims = self._verified(str(tokens.get("id_token", "")), self.settings.client_id, ID_TYPES)
        _check_nonce(claims, flow.nonce)
        _check_party(claims, self.settings.client_id)
        _check_access_token(header, claims, tokens.get("access_token"))
        return self._identity(claims)

    def identify(self, token: str) -> Identity:
        """Whom a token stands for that was sent to the API.

        Raises:
            AccessError: it does not hold.
            RefusedError: whom it names can be nobody here.
            UnavailableError: the provider's keys are not known yet, and it does not answer.
        """
        _, claims = self._verified(token, self.settings.audience, API_TYPES)
        if self.settings.audience == self.settings.client_id:  # else it was made for another client, to be used here
            _check_party(claims, self.settings.client_id)
        return self._identity(claims)

    def _verified(
        self, token: str, audience: str, types: tuple[str | None, ...]
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Header and claims of a token that is this provider's, for us and for now."""
        try:
            header = jws.extract_compact(token.encode()).headers()
            found = self._decode(token, header, types)
            jwt.JWTClaimsRegistry(
                now=int(self._now()),
                leeway=LEEWAY_S,
                iss={"essential": True, "value": self.settings.issuer},
                aud={"essential": True, "value": audience},
                exp={"essential": True},
                iat={"essential": True},
            ).validate(found.claims)
        except ExpiredTokenError:
            raise AccessError("the token has expired") from None
        except ClaimError as error:
            raise AccessError(f"the token's claim {error.claim!r} does not hold here") from None
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):  # a stranger's bytes, of any shape
            raise AccessError("the token is not one of this provider's") from None
        return found.header, found.claims

    def _decode(self, token: str, header: Mapping[str, Any], types: tuple[str | None, ...]) -> jwt.Token:
        """The token, by the published key that signed it, as last seen or, where that fails, as it now is."""
        for key in self._fitting(header, types):
            with suppress(BadSignatureError):
                return jwt.decode(token, key, registry=_Algorithms())
        raise AccessError("the token is signed by a key that the provider does not publish")

    def _fitting(self, header: Mapping[str, Any], types: tuple[str | None, ...]) -> Iterator[Key]:
        """The published keys that the header can mean; what a token says of its own key is never believed."""
        kind = ALGORITHMS.get(str(header.get("alg")))
        if kind is None or header.get("typ") not in types:
            raise AccessError("the token is signed in a way, or of a kind, that is not taken here")
        if header.keys() & {"jwk", "jku", "x5u", "x5c", "crit"}:
            raise AccessError("the token brings its own key or rules, which are not believed")
        named = header.get("kid")
        known = self._published()
        for must_be_newer in (False, True):
            if must_be_newer:
                before, known = known, self._published(must_be_newer=True)
                if known is before:
                    return
            fitting = [
                key for key in known.keys if key.key_type == kind and key.get("alg", header["alg"]) == header["alg"]
            ]
            chosen = fitting if named is None else [key for key in fitting if key.kid == named]
            if len(chosen) == 1:  # without a name it must be clear which
                yield chosen[0]

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        chosen = self.settings.name_claim
        if chosen == "email" and claims.get("email_verified") is not True:
            raise RefusedError("the provider does not say that it verified your email, which is your name here")
        value = claims.get(chosen)
        try:
            name = check_principal_name(value if isinstance(value, str) else "")
        except UsageError:
            raise RefusedError(
                f"the provider names you {str(value)[:80]!r} (claim {chosen}); here a name has up to 64 letters, "
                "digits, '.', '@', '_' and '-', so choose another name_claim"
            ) from None
        groups = claims.get(self.settings.groups_claim)
        groups = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        roles = {role for group in groups if isinstance(group, str) for role in self.settings.roles.get(group, ())}
        return Identity(Principal(name, frozenset(roles), self.settings.systems), float(claims["exp"]))

    def _published(self, *, must_be_newer: bool = False) -> _Known:
        """What the provider publishes. Known keys go on being good while it does not answer.

        Args:
            must_be_newer: the last look did not show what is sought.
        """
        known = self._known
        if known is not None and not must_be_newer and self._clock() - known.at < REFRESH_S:
            return known
        if not self._look.lock.acquire(timeout=WAIT_S):
            if known is not None:
                return known
            raise UnavailableError("the provider of sign-ins is being asked for its keys; try again in a moment")
        try:
            if self._known is not known and self._known is not None:
                return self._known  # another thread looked meanwhile
            if self._clock() - self._look.at < RETRY_S:
                if known is None:
                    raise UnavailableError("the provider of sign-ins did not answer; try again in some seconds")
                return known
            self._look.at = self._clock()
            try:
                self._known = self._fetch_published()
            except UnavailableError:
                if known is None:
                    raise
                return known
            return self._known
        finally:
            self._look.lock.release()

    def _fetch_published(self) -> _Known:
        issuer = self.settings.issuer
        document = _fetch(issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != issuer:
            raise UnavailableError(f"the provider says it is {str(document.get('issuer'))[:200]!r}, not {issuer!r}")
        if "S256" not in document.get("code_challenge_methods_supported", ["S256"]):
            raise UnavailableError(f"the provider {issuer} does not support PKCE with S256, which is needed here")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            _check_endpoint(issuer, name, document.get(name))
        return _Known(document, _keys(_fetch(str(document["jwks_uri"]))), self._clock())

    def _redeem(self, code: str, verifier: str) -> Mapping[str, Any]:
        """The tokens for a code."""
        document, ours = self._published().document, self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if ours.client_secret and "client_secret_basic" in methods:
            pair = f"{quote(ours.client_id, safe='')}:{quote(ours.client_secret, safe='')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = ours.client_id
            if ours.client_secret:
                form["client_secret"] = ours.client_secret
        return _fetch(str(document["token_endpoint"]), urlencode(form).encode(), headers, refused=(400, 401, 403))

    def _chance(self) -> str:
        return _encode(self._entropy(32))


def _check_nonce(claims: Mapping[str, Any], nonce: str) -> None:
    found = claims.get("nonce")
    if not isinstance(found, str) or not hmac.compare_digest(found.encode(), nonce.encode()):
        raise AccessError("the token was made for another sign-in")


def _check_party(claims: Mapping[str, Any], client_id: str) -> None:
    """Whom the token was given to: it must be us where it says so, and it must say so where several may use it."""
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else client_id) != client_id:
        raise AccessError("the token was given to another client")


def _check_access_token(header: Mapping[str, Any], claims: Mapping[str, Any], access_token: Any) -> None:
    if "at_hash" not in claims:
        return
    digest = (sha512 if ALGORITHMS[header["alg"]] == "OKP" else sha256)(str(access_token).encode()).digest()
    if not hmac.compare_digest(str(claims["at_hash"]).encode(), _encode(digest[: len(digest) // 2]).encode()):
        raise AccessError("the token belongs to another access token")


def _check_endpoint(issuer: str, name: str, address: Any) -> None:
    """A published address must be as safe as the provider's own: a document cannot send us to another scheme."""
    try:
        parts = urlsplit(address if isinstance(address, str) else "")
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    is_local = parts.scheme == "http" and is_loopback(host) and issuer.startswith("http:")
    if not host or not (parts.scheme == "https" or is_local):
        raise UnavailableError(f"the provider's {name} is {str(address)[:200]!r}; it must be https")


def _keys(document: Mapping[str, Any]) -> tuple[Key, ...]:
    """The published keys that may sign; the others are of no use here, and one that is broken harms no other."""
    found = []
    for item in document["keys"] if isinstance(document.get("keys"), list) else []:
        if not isinstance(item, dict) or item.get("use", "sig") != "sig" or "d" in item or "k" in item:
            continue
        try:
            key = JWKRegistry.import_key(item)
            if _is_sound(key):
                found.append(key)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    if not found:
        raise UnavailableError("the provider publishes no key that may sign (RSA from 2048 bits, P-256 or Ed25519)")
    return tuple(found)


def _is_sound(key: Key) -> bool:
    if isinstance(key, RSAKey):
        return key.public_key.key_size >= MIN_RSA_BITS
    return isinstance(key, ECKey | OKPKey) and key.get("crv") in ("P-256", "Ed25519")


def _fetch(
    address: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, refused: tuple[int, ...] = ()
) -> Mapping[str, Any]:
    """A JSON object from the provider: no redirect is followed, and no answer taken that is too large or too late.

    Args:
        address: https, or http on this machine.
        body: of a POST; None: a GET.
        headers: further ones.
        refused: statuses that are the provider's no, rather than its fault.
    """
    opener = OpenerDirector()
    proxies: dict[str, str] | None = {} if is_loopback(urlsplit(address).hostname or "") else None
    for handler in (ProxyHandler(proxies), UnknownHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "shipworthy"), ("Accept", "application/json")]
    where = f"the provider of sign-ins at {urlsplit(address).netloc}"
    until = time.monotonic() + DEADLINE_S
    try:
        with opener.open(Request(address, body, dict(headers or {})), timeout=TIMEOUT_S) as answer:  # noqa: S310
            status, content = answer.status, b""
            while chunk := answer.read1(1 << 16):
                content += chunk
                if len(content) > MAX_BYTES or time.monotonic() > until:
                    raise UnavailableError(f"{where} answers too much or too slowly")
    except (URLError, OSError, ValueError, HTTPException) as error:
        if isinstance(error, UnavailableError):
            raise
        reason = getattr(error, "reason", error)
        raise UnavailableError(f"{where} does not answer ({type(reason).__name__})") from None
    if status in refused:
        raise AccessError("the provider does not take this sign-in's code")
    try:
        found = json.loads(content) if status == 200 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UnavailableError(f"{where} answered {status}, and not as a provider does")
    return found


def _encode(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
