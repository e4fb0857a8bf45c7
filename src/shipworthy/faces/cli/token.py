"""`shipworthy token`: what callers prove themselves with, narrowed to what each needs."""

import os
import time
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.contract.quantities import parse_duration
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.kernel.errors import UsageError
from shipworthy.ledger.events import format_time
from shipworthy.security.access import EVERY
from shipworthy.workflows.principals import acting
from shipworthy.workflows.tokens import Wanted, create_token, revoke_token, tokens

STATE_STYLES = {"valid": "green", "expired": "dim", "revoked": "red"}


@click.group("token")
def token() -> None:
    """Tokens of people and services: scoped, expiring, revocable."""


@command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="VERB:SYSTEM",
    help="What it is for, such as predict:loans; * for every one. Default: all that NAME may.",
)
@click.option("--env", "environment", default=EVERY, metavar="ENV", help="Of the data plane; default: every one.")
@click.option("--expires", default="90d", metavar="DURATION", help="At most 366d.", show_default=True)
@click.option("--rate", "per_second", type=float, metavar="N", help="Requests a second to the data plane.")
@click.option("--quota", "per_day", type=int, metavar="N", help="Predictions a day, UTC.")
def create(
    root: Path,
    face: Face,
    name: str,
    scopes: tuple[str, ...],
    environment: str,
    expires: str,
    per_second: float | None,
    per_day: int | None,
) -> int:
    """Mint a token for the principal NAME; printed once, kept as a hash."""
    wanted = Wanted(
        scopes=scopes or (f"{EVERY}:{EVERY}",),
        environment=environment,
        for_s=_duration(expires),
        per_second=per_second,
        per_day=per_day,
    )
    with open_parts(root) as parts:
        secret, body = create_token(parts, acting(parts, os.environ), name, wanted)
    shown = {key: value for key, value in body.items() if key != "hash"}
    face.result({**shown, "token": secret})
    if not face.as_json:
        face.say(f"{escape(body['name'])}, good until {format_time(body['expires'])[:10]}; shown this once:")
        face.say(f"  {secret}")
    return 0


@command("list")
def list_tokens(root: Path, face: Face) -> int:
    """Show every token and whether it is valid; never the token itself."""
    with open_to_read(root, "token list") as ledger:
        found = tokens(ledger, time.time())
    face.result({"tokens": found})
    if face.as_json:
        return 0
    if not found:
        face.say("No token yet; `shipworthy user add NAME --role ROLE` and `serve` make some.")
        return 0
    face.table(["token", "of", "for", "in", "until", "limits", "state"], [_row(item) for item in found])
    return 0


@command("revoke")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit log.")
def revoke(root: Path, face: Face, name: str, reason: str) -> int:
    """Make the token called NAME worthless; running data planes refuse it within a second."""
    with open_parts(root) as parts:
        revoke_token(parts, acting(parts, os.environ), name, reason)
    face.result({"name": name, "state": "revoked"})
    if not face.as_json:
        face.say(f"{escape(name)} opens nothing any more.")
    return 0


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--expires: {error}, not {text!r}") from None


def _row(item: dict[str, Any]) -> list[str]:
    limits = [f"{item['per_second']:g}/s"] if item["per_second"] else []
    limits += [f"{item['per_day']:,}/day"] if item["per_day"] else []
    return [
        item["name"],
        item["principal"] or "the owner",
        ", ".join(item["scopes"] or ["*:*"]),
        item["environment"] or EVERY,
        format_time(item["expires"])[:16].replace("T", " "),
        ", ".join(limits) or "-",
        f"[{STATE_STYLES[item['state']]}]{item['state']}[/]",
    ]


for _command in (create, list_tokens, revoke):
    token.add_command(_command)
