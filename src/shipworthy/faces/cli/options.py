"""The options that every command takes."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from shipworthy.faces.cli.show import Face


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with `--project` and `--json`; the function gets `root: Path` and `face: Face` first."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def run(*args: Any, project: str, as_json: bool, **options: Any) -> int | None:
            return function(Path(project), Face(as_json), *args, **options)

        decorated = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(run)
        decorated = click.option(
            "--project", default=".", metavar="DIR", help="The project's folder.", show_default=True
        )(decorated)
        return click.command(name)(decorated)

    return decorate
