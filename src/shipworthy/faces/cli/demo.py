"""`shipworthy demo`: a whole story on real data, told by the product's own commands."""

import json
import shutil
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.faces.cli.show import Face
from shipworthy.faces.narrator import Narrator
from shipworthy.kernel.errors import ConflictError

STATE_MARK = ".shipworthy-demo"  # only a folder that the demo made is ever replaced


@click.command("demo")
@click.argument("story", type=click.Choice(["flights", "mortgage"]), default="flights")
@click.option("--dir", "directory", default=None, metavar="DIR", help="A fresh folder (default: demo-STORY).")
@click.option("--stay", is_flag=True, help="Go on serving at the end, and print the addresses.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(story: str, directory: str | None, stay: bool, as_json: bool) -> int:
    """A model's first year in production on 336,776 real flights, or a mortgage model before its approval."""
    face = Face(as_json)
    folder = Path(directory or f"demo-{story}")
    mark = _make_fresh(face, folder)

    def note(number: int, title: str) -> None:
        _write_mark(mark, {"story": story, "step": number, "title": title, "done": False})

    if story == "flights":
        from shipworthy.faces.cli.demo_flights import SYSTEM, tell_flights  # each story loads its own engines

        facts = tell_flights(Narrator(face, folder / SYSTEM, note), stay=stay)
    else:
        from shipworthy.faces.cli.demo_mortgage import tell_mortgage

        facts = tell_mortgage(face, folder, Narrator(face, folder / "mortgage", note))
    _write_mark(mark, {"story": story, "done": True})
    face.result(facts)
    return 0


def _make_fresh(face: Face, folder: Path) -> Path:
    """An empty folder with the demo's mark; what an earlier demo left there is removed, and that is said."""
    mark = folder / STATE_MARK
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise ConflictError(f"{folder}: is not empty and was not made by the demo; choose another with --dir")
        before = _read_mark(mark)
        if not before.get("done", True):
            step = f"step {before['step']} ({before['title']})" if "step" in before else "its beginning"
            face.say(f"An earlier demo was stopped at {escape(step)}. This one starts clean.\n")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_mark(mark, {"done": False})
    return mark


def _read_mark(mark: Path) -> dict[str, Any]:
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_mark(mark: Path, state: dict[str, Any]) -> None:
    mark.write_text(json.dumps(state) + "\n", encoding="utf-8")
