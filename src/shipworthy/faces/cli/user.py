"""`shipworthy user`: people and services that may act on the project, and their roles."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.security.access import ROLES
from shipworthy.workflows.principals import TOKEN_S, TOKEN_VARIABLE, acting, add_principal, principals


@click.group("user")
def user() -> None:
    """People and services, and their roles."""


@command("add")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, metavar="ROLE", help=f"One of {', '.join(ROLES)}.")
def add(root: Path, face: Face, name: str, roles: tuple[str, ...]) -> int:
    """Let NAME act on the project in these roles; prints a token, once."""
    with open_parts(root) as parts:
        token = add_principal(parts, acting(parts, os.environ), name, roles)
    face.result({"name": name, "roles": sorted(set(roles)), "token": token})
    if not face.as_json:
        face.say(f"{escape(name)} may act here as {', '.join(sorted(set(roles)))}.")
        face.say(f"The token is shown once and is good for {TOKEN_S / 86400:.0f} days:")
        face.say(f"  {token}")
        face.say(f"Use it with any command: export {TOKEN_VARIABLE}=swt_…; or to sign in to the console.")
    return 0


@command("list")
def list_users(root: Path, face: Face) -> int:
    """Show everybody whom the project knows, with their roles."""
    with open_to_read(root) as ledger:
        found = principals(ledger)
    face.result({"principals": found})
    if face.as_json:
        return 0
    if not found:
        face.say("Nobody but the owner of this folder; `shipworthy user add NAME --role ROLE` adds one.")
        return 0
    face.table(["name", "roles"], [[item["name"], ", ".join(item["roles"])] for item in found])
    return 0


user.add_command(add)
user.add_command(list_users)
