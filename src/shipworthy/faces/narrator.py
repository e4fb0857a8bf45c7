"""Tells a story in the product's own commands: each is shown as a person would type it, and really run."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import RefusedError


class Narrator:
    """Shows commands, runs them, and stops at the first that does not end as it should.

    Args:
        face: where the story is told.
        project: the project that all commands are about; left out of what is shown, said once.
        on_step: told the number and title of each step as it begins.
    """

    def __init__(self, face: Face, project: Path, on_step: Callable[[int, str], None]) -> None:
        self.face = face
        self.project = project
        self.count = 0
        self._on_step = on_step

    def step(self, title: str) -> None:
        """A heading."""
        self.count += 1
        self._on_step(self.count, title)
        self.face.say(f"\n[bold cyan]{self.count}. {escape(title)}[/]")

    def explain(self, text: str) -> None:
        """Plain words."""
        self.face.say(escape(text))

    def command(self, *words: str, ends: int = 0, token: str | None = None, who: str | None = None) -> None:
        """Run `shipworthy` with `words`, its output passed through.

        Args:
            words: of the command, without `--project`.
            ends: the exit code that belongs to the story.
            token: of whom it acts as; the machine's user without one.
            who: the token's owner, who is shown.

        Raises:
            RefusedError: it ended with another exit code.
        """
        self.show(*words, who=who)
        output = sys.stderr if self.face.as_json else None
        done = subprocess.run(
            self.argv(*words), check=False, stdout=output, stderr=subprocess.DEVNULL if ends else None,
            env=self.environment(token),
        )  # fmt: skip
        self._judge(words, done.returncode, ends)

    def ask(self, *words: str, token: str | None = None, ends: int = 0) -> dict[str, Any]:
        """The answer of `shipworthy` with `words` as JSON, without showing anything.

        Raises:
            RefusedError: it ended with another exit code than `ends`.
        """
        done = subprocess.run(
            self.argv(*words, "--json"), check=False, capture_output=True, env=self.environment(token)
        )
        self._judge(words, done.returncode, ends, done.stderr.decode(errors="replace"))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def show(self, *words: str, who: str | None = None, background: bool = False) -> None:
        """A command as a person types it in the project's folder."""
        acting = f"SHIPWORTHY_TOKEN=${who.upper()} " if who else ""
        self.face.say(f"[bold]$ {escape(acting)}shipworthy {escape(shlex.join(words))}{' &' if background else ''}[/]")

    def argv(self, *words: str) -> list[str]:
        """The command with the project's folder."""
        return [sys.executable, "-m", "shipworthy", *words, "--project", str(self.project)]

    def environment(self, token: str | None) -> Mapping[str, str]:
        """The process's environment, acting as whom the token stands for."""
        plain = {name: value for name, value in os.environ.items() if name != "SHIPWORTHY_TOKEN"}
        return plain if token is None else plain | {"SHIPWORTHY_TOKEN": token}

    def _judge(self, words: tuple[str, ...], code: int, ends: int, told: str = "") -> None:
        if code != ends:
            raise RefusedError(
                f"`shipworthy {shlex.join(words)}` ended with exit code {code}, not {ends}; see its words above{told}"
            )
