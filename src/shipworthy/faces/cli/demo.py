"""`shipworthy demo`: a whole story on real data, told by the product's own commands."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.faces.cli.show import Face
from shipworthy.faces.flights import write_flights
from shipworthy.kernel.errors import ConflictError, RefusedError

STATE_MARK = ".shipworthy-demo"  # only a folder that the demo made is ever replaced


@click.command("demo")
@click.argument("story", type=click.Choice(["flights"]), default="flights")
@click.option("--dir", "directory", default="demo-flights", metavar="DIR", help="A fresh folder.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(story: str, directory: str, as_json: bool) -> int:
    """A CSV of 336,776 real flights to a signed release to a guarded answer."""
    started = time.perf_counter()
    face = Face(as_json)
    folder = Path(directory)
    _make_fresh(folder)
    face.say("[bold]Will this flight arrive more than 15 minutes late?[/] Asked two hours before departure.")
    face.say("Every departure of 2013 from New York, with that hour's weather. Nothing known only later is used, so no")
    face.say("model can be brilliant here; it has to be honest instead.\n")
    rows = write_flights(folder / "flights.csv")
    face.say(f"{folder}/flights.csv: {rows:,} rows\n")

    project = folder / "late-flights"
    run = Narrator(face)
    run.step("A contract and a train.py, inferred from the file")
    run.command(
        "init", str(project), "--data", str(folder / "flights.csv"), "--target", "late", "--time", "scheduled",
        "--key", "flight_id",
    )  # fmt: skip
    run.step("From the file to a signed release: checked, trained, proven, judged, deployed to local")
    run.command("ship", "--project", str(project))
    run.step("Again with nothing new")
    run.command("ship", "--project", str(project))
    run.step("Served, and asked")
    answers = _serve_and_ask(run, project)
    run.step("Where that answer came from")
    run.command("lineage", answers["good"]["prediction_id"], "--project", str(project))
    run.step("Everything verified: the audit log, every release, the records")
    run.command("verify", "all", "--project", str(project))

    seconds = time.perf_counter() - started
    face.say(f"\n[bold green]Done[/] in {seconds:.0f} s. The project is in {project}. Try next:")
    for line in (
        f"shipworthy card --project {project}",
        f"shipworthy serve --project {project}",
        f"$EDITOR {project}/shipworthy.yaml   # then: shipworthy ship --project {project}",
    ):
        face.say(f"  {escape(line)}")
    face.result({"story": story, "project": str(project), "rows": rows, "seconds": round(seconds, 1), **answers})
    return 0


def _make_fresh(folder: Path) -> None:
    mark = folder / STATE_MARK
    if folder.exists() and any(folder.iterdir()):
        if not mark.exists():
            raise ConflictError(f"{folder}: is not empty and was not made by the demo; choose another with --dir")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("made by `shipworthy demo`; replaced by the next one\n")


class Narrator:
    """Shows each command as a person would type it, runs it, and stops at the first that fails."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.count = 0

    def step(self, title: str) -> None:
        """A heading."""
        self.count += 1
        self.face.say(f"\n[bold cyan]{self.count}. {escape(title)}[/]")

    def command(self, *words: str) -> None:
        """Run `shipworthy` with `words`, its output passed through."""
        self.face.say(f"[bold]$ shipworthy {escape(shlex.join(words))}[/]")
        output = sys.stderr if self.face.as_json else None
        done = subprocess.run([*_shipworthy(), *words], check=False, stdout=output)
        if done.returncode != 0:
            raise RefusedError(f"`shipworthy {words[0]}` ended with exit code {done.returncode}; see its words above")


def _shipworthy() -> list[str]:
    return [sys.executable, "-m", "shipworthy"]


def _serve_and_ask(run: Narrator, project: Path) -> dict[str, Any]:
    words = ["serve", "--project", str(project), "--port", "0", "--json"]
    run.face.say(f"[bold]$ shipworthy {escape(shlex.join(words))} &[/]")
    server = subprocess.Popen([*_shipworthy(), *words], stdout=subprocess.PIPE, text=True)
    try:
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        ready: dict[str, Any] = json.loads(server.stdout.readline() or "{}")
        if "address" not in ready:
            raise RefusedError("the server did not start; see its words above")
        good = _ask(run, ready, ready["example"])
        bad = {"inputs": {**ready["example"]["inputs"], "hour": 77, "origin": "SFO", "sched_dep_tme": 5}}
        run.face.say("\nA bad request: every wrong field is named at once, and nothing else is told.")
        refused = _ask(run, ready, bad)
        return {"good": good, "bad": refused}
    finally:
        server.terminate()
        server.wait(timeout=10)


def _ask(run: Narrator, ready: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    import http.client
    import urllib.parse

    address = urllib.parse.urlsplit(ready["address"])
    body = json.dumps(request)
    url = f"{ready['address']}{ready['path']}"
    headers = '-H "Content-Type: application/json" -H "Authorization: Bearer $SHIPWORTHY_TOKEN"'
    run.face.say(f"[bold]$ curl {url} {headers} -d '{escape(body)}'[/]")
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request(
        "POST", ready["path"], body, {"Content-Type": "application/json", "Authorization": f"Bearer {ready['token']}"}
    )
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    connection.close()
    run.face.say(f"{response.status} {escape(json.dumps(answer, indent=2))}")
    return answer
