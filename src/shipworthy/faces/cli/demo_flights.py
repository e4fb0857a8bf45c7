"""The story of `demo flights`: a model's first year in production, on every departure of 2013 from New York."""

import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shipworthy.bundle.deployment import bundle_path, read_deployment
from shipworthy.bundle.verify import verify_bundle
from shipworthy.client import Client, InvalidRequestError, Prediction
from shipworthy.data.prepare.run import prepare
from shipworthy.data.requests import make_requests, plan_requests
from shipworthy.data.sources.read import read_source
from shipworthy.faces.cli.quality import show_quality
from shipworthy.faces.flights import Flights, read_flights, write_side_tables
from shipworthy.faces.listener import Listener
from shipworthy.faces.narrator import Narrator
from shipworthy.faces.replay import DAY_S, Event, Replay
from shipworthy.kernel.errors import RefusedError
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract

SYSTEM = "late-flights"
ENVIRONMENT = "production"
WEEK_S = 7 * DAY_S
GO_LIVE, SECOND, THIRD, FOURTH, END = (
    date(2013, 4, 1), date(2013, 7, 1), date(2013, 10, 1), date(2013, 11, 1), date(2014, 1, 1)
)  # fmt: skip
REVIEWER = "a thunderstorm is forecast"


@dataclass(frozen=True, slots=True)
class Cast:
    """Who acts beside the machine's user."""

    maya: str  # token of an ml-engineer
    ruth: str  # token of a risk officer
    bot: str  # token of the service that sets the replay's clock


def tell_flights(run: Narrator, *, stay: bool) -> dict[str, Any]:
    """Tell the story in `run.project`, a folder that does not exist yet; the facts that it told.

    Args:
        run: tells and runs.
        stay: whether to go on serving at the end until interrupted.

    Raises:
        RefusedError: a command did not end as the story needs it.
        MissingExtraError: the data package is not installed.
    """
    started = time.perf_counter()
    flights = read_flights()
    exported = _set_out(run, flights)
    _first_release(run)
    cast = _approvals(run)
    with Listener() as webhook, _up(run, webhook.address) as plane:
        facts = _in_production(run, flights, plane, cast, webhook)
        _end(run, facts)
        lost = flights.before(GO_LIVE)["arr_delay"].null_count()
        first = {"trained_first": exported, "never_arrived_first": lost}
        summary = {"story": "flights", "project": str(run.project), "rows": flights.table.height, **first, **facts}
        summary["seconds"] = round(time.perf_counter() - started, 1)
        _summary(run, summary)
        if stay:
            _stay(run, plane)
    return summary


# --- from four files to a release


def _set_out(run: Narrator, flights: Flights) -> int:
    run.face.say("[bold]Will this flight arrive more than 15 minutes late?[/] Asked two hours before departure.")
    run.explain(
        "Every departure of 2013 from New York, with weather, planes and airports. Nothing known only later is used,\n"
        "so no model can be brilliant here (expect an AUC near 0.7); it has to be honest instead."
    )
    run.step("Four files, a contract, and ordinary Python")
    story = importlib.resources.files("shipworthy.faces") / "stories" / "flights"
    run.project.mkdir(parents=True)
    for name in ("shipworthy.yaml", "prepare.py", "train.py"):
        (run.project / name).write_text((story / name).read_text(encoding="utf-8"), encoding="utf-8")
    write_side_tables(run.project / "data")
    rows = _export(run, flights, GO_LIVE)
    run.explain(
        f"{run.project}/shipworthy.yaml is the contract, prepare.py joins the weather, train.py trains.\n"
        f"data/flights.csv has what flew until 31 March: {rows:,} of the year's {flights.table.height:,} departures."
    )
    run.command("check")
    return rows


def _first_release(run: Narrator) -> None:
    run.step("Joined, checked, trained, proven, judged by every gate, signed")
    run.command("ship", "--deploy", ENVIRONMENT)
    run.explain("Rows that were not accepted lie in .shipworthy/quarantine, each with its reasons.")


def _approvals(run: Narrator) -> Cast:
    run.step("Production asks for two roles, and nobody approves their own work")
    release = f"{SYSTEM}:1"
    tokens = {}
    for name, role in (("maya", "ml-engineer"), ("ruth", "risk"), ("replay", "service")):
        run.show("user", "add", name, "--role", role)
        tokens[name] = str(run.ask("user", "add", name, "--role", role)["token"])
    run.explain("Each was shown a token once. Without an approval, or with the author's own, nothing moves:")
    run.show("deploy", release)
    run.explain("  " + _refusal(run, "deploy", release))
    run.show("approve", release, "--role", "risk")
    run.explain("  " + _refusal(run, "approve", release, "--role", "risk"))
    run.explain("What the two look at is a card made from evidence; it says where there is none:")
    _card(run, release)
    cast = Cast(tokens["maya"], tokens["ruth"], tokens["replay"])
    _approve(run, cast, release)
    return cast


def _card(run: Narrator, release: str) -> None:
    """What the model card says of its limits."""
    run.show("card", release)
    limits = str(run.ask("card", release)["card"]).partition("## Limits")[2].partition("\n## ")[0].strip()
    run.explain("  ...\n  ## Limits\n" + "\n".join(f"  {line}" for line in limits.splitlines()))


def _approve(run: Narrator, cast: Cast, release: str) -> None:
    run.command("approve", release, "--role", "ml-engineer", token=cast.maya, who="maya")
    run.command("approve", release, "--role", "risk", token=cast.ruth, who="ruth")
    run.command("deploy", release, token=cast.maya, who="maya")


def _refusal(run: Narrator, *words: str) -> str:
    return str(run.ask(*words, ends=1)["error"]["message"])


def _export(run: Narrator, flights: Flights, until: date, *, swapped: bool = False) -> int:
    return flights.export(until, run.project / "data" / "flights.csv", swapped=swapped)


# --- in production


@contextmanager
def _up(run: Narrator, webhook: str) -> Iterator[dict[str, Any]]:
    """`shipworthy up` for production, in a session of its own; ended in any case."""
    words = ("up", "--env", ENVIRONMENT, "--port", "0", "--control-port", "0", "--clock", "manual")
    run.step("Served: data plane, control loop and console")
    run.show(*words, background=True)
    with (run.project / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*run.argv(*words), "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"ALERT_WEBHOOK": webhook},
            start_new_session=True,  # a Ctrl-C at the terminal reaches the story alone, which ends it in order
        )
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise RefusedError(f"`shipworthy up` did not start; see {run.project}/up.log")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _in_production(
    run: Narrator, flights: Flights, plane: dict[str, Any], cast: Cast, webhook: Listener
) -> dict[str, Any]:
    client = Client(plane["address"], system=SYSTEM, token=plane["token"], timeout_s=60)
    events = _events(run, flights)
    replay = Replay(events, client, plane["control"], cast.bot, ENVIRONMENT)
    facts: dict[str, Any] = {"traffic": len(events)}
    with replay:
        _live_through(run, flights, plane, cast, webhook, client, replay, events, facts)
    facts |= {
        "answered": replay.tally.sent - replay.tally.refused,
        "told": replay.tally.told,
        "never_came": replay.tally.never,
    }
    return facts


def _live_through(
    run: Narrator,
    flights: Flights,
    plane: dict[str, Any],
    cast: Cast,
    webhook: Listener,
    client: Client,
    replay: Replay,
    events: list[Event],
    facts: dict[str, Any],
) -> None:
    replay.tick(_moment(GO_LIVE))
    facts |= _ask(run, client, plane, events)
    facts |= _model_fails(run, plane)
    _spring(run, replay, facts, webhook)
    facts["review"] = _review(run, cast)
    _second_release(run, replay, flights, cast, facts)
    _third_release(run, replay, flights, cast, facts)
    _fourth_release(run, replay, flights, facts)


def _events(run: Narrator, flights: Flights) -> list[Event]:
    """The traffic from the first day in production on, made as a caller would: the same joins, without the truth."""
    project = Project(run.project)
    contract = read_contract(project)
    bundle = _serving(project)
    everything = run.project / "data" / "everything.csv"
    flights.table.write_csv(everything)
    sources = dict(contract.data.sources)
    sources["flights"] = sources["flights"].model_copy(update={"path": "data/everything.csv"})
    reads = {name: read_source(name, source, run.project) for name, source in sources.items()}
    everything.unlink()
    with tempfile.TemporaryDirectory() as work:
        frame = prepare(contract, reads, run.project, work=Path(work), environment=os.environ).frame
    clock = pl.col("scheduled").str.to_datetime().dt.replace_time_zone("America/New_York", non_existent="null")
    frame = frame.with_columns(due=clock.dt.epoch("s")).filter(pl.col("due") >= _moment(GO_LIVE))
    requests = make_requests(plan_requests(bundle, frame), frame)
    known_after = contract.target.known_after or 0.0
    times, truths = frame["due"].to_list(), frame["late"].to_list()
    return [
        Event(float(due), due + known_after, request, truth)
        for due, request, truth in zip(times, requests, truths, strict=True)
    ]


def _serving(project: Project) -> Any:
    live, keys = project.live(ENVIRONMENT), load_public_keys(project.public_keys)
    return verify_bundle(bundle_path(live, read_deployment(live, keys).releases[0].digest), keys).payload.schema


def _moment(day: date) -> float:
    """Midnight of the day in New York, Unix seconds (standard time the year round: a boundary, not a flight)."""
    return datetime(day.year, day.month, day.day, 5, tzinfo=UTC).timestamp()


def _ask(run: Narrator, client: Client, plane: dict[str, Any], events: list[Event]) -> dict[str, Any]:
    run.step("Asked: an answer with its reasons, and a bad request told all that is wrong with it")
    first = events[0].request
    _show_curl(run, plane, first | {"reasons": True})
    answer = client.predict(first["inputs"], context=first["context"], id=first["id"], reasons=True)
    _say_answer(run, answer)
    bad = {**first["inputs"], "hour": 77, "origin": "SFO", "sched_dep_tme": 5}
    run.explain("\nhour 77, origin SFO and a field that does not exist:")
    try:
        client.predict(bad, context=first["context"])
    except InvalidRequestError as error:
        run.explain("\n".join(f"  {line}" for line in str(error).splitlines()))
        return {"prediction": answer.prediction_id, "refused_fields": [problem.field for problem in error.problems]}
    raise RefusedError("the server took a bad request")


def _show_curl(run: Narrator, plane: dict[str, Any], request: Mapping[str, Any]) -> None:
    url = f"{plane['address']}{plane['path']}"
    shown = json.dumps(request)
    run.face.say(f"[bold]$ curl {url} -H \"Authorization: Bearer $TOKEN\" -d '{escape(shown)}'[/]")


def _say_answer(run: Narrator, answer: Prediction) -> None:
    probability = {name: round(share, 4) for name, share in (answer.probability or {}).items()}
    run.explain(
        f"  decision {answer.decision}, probability {probability}, confidence {answer.confidence or 0:.4f}, "
        f"{answer.handling}, by the {answer.source} of {answer.release}"
    )
    for change in (answer.reasons or {}).get("changes", ()):
        run.explain(f"  because: without {change['feature']} the probability would change by {change['change']:+.4f}")


def _model_fails(run: Narrator, plane: dict[str, Any]) -> dict[str, Any]:
    run.step("The model is made to fail, and the declared fallback answers")
    words = ("serve", "--env", "local", "--port", "0", "--rehearse", "failure")
    run.show(*words, background=True)
    process = subprocess.Popen(
        [*run.argv(*words), "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        ready = json.loads((process.stdout.readline() if process.stdout else b"") or b"{}")
        if "address" not in ready:
            raise RefusedError("`shipworthy serve --rehearse failure` did not start")
        example = {**plane["example"]["inputs"], "hour": 18, "visib": 1.5}
        with Client(ready["address"], system=SYSTEM, token=ready["token"]) as client:
            answer = client.predict(example, context=plane["example"].get("context"))
    finally:
        process.terminate()
        process.wait(timeout=30)
    run.explain(
        f"  18 o'clock, visibility 1.5 miles: decision {answer.decision}, by the {answer.source} "
        f"({'; '.join(answer.warnings)})"
    )
    return {"fallback": {"decision": answer.decision, "source": answer.source}}


# --- the year


def _spring(run: Narrator, replay: Replay, facts: dict[str, Any], webhook: Listener) -> None:
    run.step("April to June as traffic, in the flights' own time; what came true is told a day later")
    _play(run, replay, "April to June", SECOND, WEEK_S)
    if not any(alert["kind"] == "drift" for alert in run.ask("alerts")["alerts"]):
        raise RefusedError("no drift was found from winter to summer; see `shipworthy alerts --all`")
    run.explain("The model was trained on a winter. What the monitors say:")
    run.command("alerts")
    run.explain(f"The webhook was told as well: {len(webhook.received)} times so far.")
    facts["webhook"] = len(webhook.received)


def _review(run: Narrator, cast: Cast) -> dict[str, Any]:
    run.step("The model was unsure of some: a person decides")
    run.command("review", "list", "--env", ENVIRONMENT, "--limit", "3")
    first = run.ask("review", "list", "--env", ENVIRONMENT, "--limit", "1")["reviews"][0]
    name = str(first["prediction_id"])
    run.command("review", "claim", name, "--env", ENVIRONMENT, token=cast.ruth, who="ruth")
    run.command(
        "review", "decide", name, "warn", "--env", ENVIRONMENT, "--reason", REVIEWER, token=cast.ruth, who="ruth"
    )
    return {"confidence": first["confidence"], "decision": "warn"}


def _second_release(run: Narrator, replay: Replay, flights: Flights, cast: Cast, facts: dict[str, Any]) -> None:
    run.step("1 July: release 2, trained on half a year, must beat release 1 on live traffic")
    _export(run, flights, SECOND)
    run.command("ship")
    _approve(run, cast, f"{SYSTEM}:2")
    _play(run, replay, "July, a day at a time while the canary runs", date(2013, 8, 1), DAY_S)
    facts["second"] = _say_rollout(run, 2, "promoted")
    _play(run, replay, "August and September", THIRD, WEEK_S)


def _third_release(run: Narrator, replay: Replay, flights: Flights, cast: Cast, facts: dict[str, Any]) -> None:
    run.step("1 October: the label feed breaks, and release 3 is trained and tested on it")
    run.explain(
        "The new feed has the sign of each delay turned round: early is late. Training and test rows agree with each\n"
        "other, so every gate passes, and two people approve in good faith. What is true shows on live traffic alone."
    )
    _export(run, flights, THIRD, swapped=True)
    run.command("ship")
    _approve(run, cast, f"{SYSTEM}:3")
    _play(run, replay, "October, a day at a time while the canary runs", FOURTH, DAY_S)
    facts["third"] = _say_rollout(run, 3, "rolled back")


def _fourth_release(run: Narrator, replay: Replay, flights: Flights, facts: dict[str, Any]) -> None:
    run.step("1 November: the feed is mended, and a slip of the pen makes release 4 plainly worse")
    run.explain("n_estimators: 1 instead of 80. Its gate stops it; nothing is released.")
    contract = run.project / "shipworthy.yaml"
    good = contract.read_text(encoding="utf-8")
    contract.write_text(good.replace("n_estimators: 80", "n_estimators: 1"), encoding="utf-8")
    _export(run, flights, FOURTH)
    run.command("ship", ends=1)
    refused = run.ask("ship", ends=1)["verdicts"]
    facts["fourth"] = {v["gate"]: round(v["measured"], 4) for v in refused if v["outcome"] == "fail"}
    contract.write_text(good, encoding="utf-8")
    _play(run, replay, "November and December", END, WEEK_S)
    replay.finish(_moment(END) + DAY_S)


def _play(run: Narrator, replay: Replay, what: str, until: date, step_s: float) -> None:
    """Replay up to a day; by weeks again once no canary runs."""
    before, end = replay.tally.sent, _moment(until)
    columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} flights"))
    err = run.face.err
    with Progress(
        *columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal
    ) as progress:
        task = progress.add_task(what, total=replay.count_before(end))
        for _ in replay.run(end, step_s):
            progress.update(task, completed=replay.tally.sent - before)
    run.explain(f"{what}: {replay.tally.sent - before:,} flights answered.")


def _say_rollout(run: Narrator, version: int, expected: str) -> dict[str, Any]:
    rollouts = run.ask("status")["rollouts"]
    found = next(item for item in rollouts if item["release"] == f"{SYSTEM}:{version}")
    if found["state"] != expected:
        raise RefusedError(f"{found['release']} is {found['state']}, not {expected}: {found['reason']}")
    run.command("status")
    judged = {item["metric"]: item for item in found["judgements"]}
    return {
        "state": found["state"],
        "days": (found["judged"] - found["started"]) / DAY_S,
        "value_difference": judged["value"]["measured"],
        "interval": judged["value"]["interval"],
        "reason": found["reason"],
    }


# --- the end


def _end(run: Narrator, facts: dict[str, Any]) -> None:
    run.step("How good it was, as it came true")
    run.show("quality", "--env", ENVIRONMENT)
    found = run.ask("quality", "--env", ENVIRONMENT)
    show_quality(run.face, found)
    facts["quality"] = found["quality"]
    drift = next(alert for alert in run.ask("alerts", "--all")["alerts"] if alert["kind"] == "drift")
    facts["drift"] = {name: drift[name] for name in ("opened", "count", "title", "cause")}
    run.step("Everything verified; then one byte of the audit log is changed in a copy")
    run.command("verify", "all")
    facts["tamper"] = _tamper(run)


def _tamper(run: Narrator) -> str:
    """Flip one byte of a copy's audit log, and ask `verify` about that."""
    copy = run.project.with_name(f"{run.project.name}-tampered")
    shutil.copytree(run.project, copy, ignore=shutil.ignore_patterns("tables", "records", "live", "outcomes", "data"))
    entries = sorted((copy / ".shipworthy" / "log").glob("entries/**/*"))
    place = next(path for path in entries if path.is_file())
    content = bytearray(place.read_bytes())
    at = content.index(b'"maya"') + 1
    content[at] = ord("M")
    place.write_bytes(bytes(content))
    run.explain(f"In the copy {copy.name}, maya became Maya in {place.relative_to(copy)}:")
    run.face.say(f"[bold]$ shipworthy verify audit --project {escape(str(copy))}[/]")
    done = subprocess.run(
        [sys.executable, "-m", "shipworthy", "verify", "audit", "--project", str(copy), "--json"],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    proof = json.loads(done.stdout)["proofs"][0]
    shutil.rmtree(copy)
    if proof["holds"]:
        raise RefusedError("`verify audit` did not see the change")
    run.face.say(f"[bold red]BROKEN[/]  {escape(proof['name'])}: {escape(proof['problem'][:300])}")
    return str(proof["problem"])


def _summary(run: Narrator, facts: dict[str, Any]) -> None:
    run.face.say(f"\n[bold green]Done[/] in {facts['seconds']:.0f} s.\n")
    third, drift = facts["third"], facts["drift"]
    low, high = third["interval"]
    rows = [
        ("flights in the files", f"{facts['rows']:,}", "shipworthy lineage data/flights.csv"),
        ("answered in production", f"{facts['answered']:,}", "shipworthy quality --env production"),
        ("truths told, a day late", f"{facts['told']:,}", "shipworthy quality --env production"),
        ("truths that never came", f"{facts['never_came'] + facts['never_arrived_first']:,}, "
         f"{facts['never_arrived_first']:,} of them before", "shipworthy quality, and .shipworthy/quarantine"),
        ("release 2", f"promoted after {facts['second']['days']:.0f} days", "shipworthy status"),
        ("release 3", f"rolled back after {third['days']:.0f} days: {third['value_difference']:+.2f} USD "
         f"a decision ({low:+.2f} to {high:+.2f})", "shipworthy status"),
        ("release 4", "stopped by " + ", ".join(facts["fourth"]), "shipworthy ship"),
        ("drift", f"in {drift['count']} weeks since {drift['opened'][:10]}", "shipworthy alerts --all"),
    ]  # fmt: skip
    run.face.table(["", "", "found again with"], rows)
    run.face.say("\nTry next:")
    for line in ("card", "lineage " + facts["prediction"], "up --env production"):
        run.face.say(f"  shipworthy {escape(line)} --project {escape(str(run.project))}")


def _stay(run: Narrator, plane: dict[str, Any]) -> None:
    run.face.say(f"\nServing on (Ctrl-C stops):\n  endpoint  {plane['address']}{plane['path']}")
    run.face.say(f"  token     {plane['token']}\n  console   {plane['console']}")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        run.face.say("Stopped.")
