"""`shipworthy user`: people and services that may act on the project, and their roles."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.security.access import EVERY, ROLES
from shipworthy.workflows.principals import (
    TOKEN_S,
    TOKEN_VARIABLE,
    acting,
    add_principal,
    change_principal,
    principals,
    remove_principal,
)

_roles = click.option(
    "--role", "roles", multiple=True, required=True, metavar="ROLE", help=f"One of {', '.join(ROLES)}."
)
_systems = click.option(
    "--system", "systems", multiple=True, metavar="SYSTEM", help="A system that is theirs; default: every one."
)


@click.group("user")
def user() -> None:
    """People and services, and their roles."""


@command("add")
@click.argument("name")
@_roles
@_systems
def add(root: Path, face: Face, name: str, roles: tuple[str, ...], systems: tuple[str, ...]) -> int:
    """Let NAME act on the project in these roles; prints a token, once."""
    with open_parts(root) as parts:
        token = add_principal(parts, acting(parts, os.environ), name, roles, systems or (EVERY,))
    face.result({"name": name, "roles": sorted(set(roles)), "systems": sorted(systems or (EVERY,)), "token": token})
    if not face.as_json:
        face.say(f"{escape(name)} may act here as {', '.join(sorted(set(roles)))}.")
        face.say(f"The token is shown once and is good for {TOKEN_S / 86400:.0f} days:")
        face.say(f"  {token}")
        face.say(f"Use it with any command: export {TOKEN_VARIABLE}=swt_…; or to sign in to the console.")
        face.say(f"A narrower one: shipworthy token create {escape(name)} --scope VERB:SYSTEM --expires 30d")
    return 0


@command("set")
@click.argument("name")
@_roles
@_systems
def set_roles(root: Path, face: Face, name: str, roles: tuple[str, ...], systems: tuple[str, ...]) -> int:
    """Give NAME these roles instead of those it has; its tokens are good for them at once."""
    with open_parts(root) as parts:
        found = change_principal(parts, acting(parts, os.environ), name, roles, systems or None)
    face.result({"name": name, "roles": found["roles"], "systems": found["systems"]})
    if not face.as_json:
        face.say(f"{escape(name)} may act here as {', '.join(found['roles'])}.")
    return 0


@command("remove")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit log.")
def remove(root: Path, face: Face, name: str, reason: str) -> int:
    """Take every role from NAME and revoke its tokens; what it did stays on record."""
    with open_parts(root) as parts:
        remove_principal(parts, acting(parts, os.environ), name, reason)
    face.result({"name": name, "roles": []})
    if not face.as_json:
        face.say(f"{escape(name)} may do nothing here any more; its tokens are revoked.")
    return 0


@command("list")
def list_users(root: Path, face: Face) -> int:
    """Show everybody whom the project knows, with their roles."""
    with open_to_read(root, "user list") as ledger:
        found = principals(ledger)
    face.result({"principals": found})
    if face.as_json:
        return 0
    if not found:
        face.say("Nobody but the owner of this folder; `shipworthy user add NAME --role ROLE` adds one.")
        return 0
    rows = [[item["name"], ", ".join(item["roles"]), _systems_of(item["systems"])] for item in found]
    face.table(["name", "roles", "systems"], rows)
    return 0


def _systems_of(systems: list[str]) -> str:
    return "every one" if systems == [EVERY] else ", ".join(systems)


for _command in (add, set_roles, remove, list_users):
    user.add_command(_command)
