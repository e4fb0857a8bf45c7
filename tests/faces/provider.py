"""oidc-provider-mock as a program, with the check of PKCE that it leaves out: authlib's, on which it stands."""

from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError
from authlib.oauth2.rfc7636 import CodeChallenge
from oidc_provider_mock import _app
from oidc_provider_mock.__main__ import run

CHALLENGES: dict[str, tuple[str, str]] = {}  # of each code that was given out


class Challenge(CodeChallenge):
    """Asks for it by S256 whoever the client is, and keeps it beside the codes."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        super().validate_code_challenge(grant, redirect_uri)
        asked = grant.request.payload.data
        if not asked.get("code_challenge") or not asked.get("code_challenge_method"):
            raise InvalidRequestError("Missing 'code_challenge'")

    def get_authorization_code_challenge(self, authorization_code: Any) -> str:
        return CHALLENGES[authorization_code.code][0]

    def get_authorization_code_challenge_method(self, authorization_code: Any) -> str:
        return CHALLENGES[authorization_code.code][1]


class Grant(_app.AuthorizationCodeGrant):
    """Remembers what each code was asked for with."""

    def save_authorization_code(self, code: str, request: Any) -> None:
        asked = request.payload.data
        CHALLENGES[code] = asked["code_challenge"], asked["code_challenge_method"]
        super().save_authorization_code(code, request)


class OpenIDCode(_app.OpenIDCode):
    """Brings the check along."""

    def __call__(self, grant: Any) -> None:
        super().__call__(grant)
        Challenge(required=True)(grant)


_app.AuthorizationCodeGrant = Grant
_app.OpenIDCode = OpenIDCode

if __name__ == "__main__":
    run()
