"""The story of `demo mortgage`: a leak found, a code quarantined, and a question that the data cannot answer.

The edits of the contract are shown as they are made; the reviewed contract lies in `stories/mortgage`.
"""

import difflib
import importlib.resources
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from rich.markup import escape

from shipworthy.faces.cli.show import Face
from shipworthy.faces.mortgage import write_loans
from shipworthy.faces.narrator import Narrator
from shipworthy.faces.wiring import open_to_read
from shipworthy.kernel.errors import RefusedError
from shipworthy.workflows.attest import open_release
from shipworthy.workflows.layout import CONTRACT_FILE, Project

LEAKED, HONEST = "mortgage:1", "mortgage:2"
AUC_GATE = "performance.roc_auc"
RACE_GATE = "fairness.equal_opportunity_difference.race"
FIRST_EDIT = {
    "split: {by: random, calibrate: 10%, test: 20%}": "split: {by: random, calibrate: 10%, test: 40%}",
    "{log_loss: {better_than: baseline}}": "{log_loss: {better_than: baseline}, roc_auc: {at_least: 0.70}}",
}
PEOPLE = {"ruth": "risk", "bob": "business", "mia": "ml-engineer"}
WAIVED = "an underwriter sees every referral; judge again with the next 100 decisions"
SCORED = 300  # applications of the file that is answered

Tokens = Mapping[str, str]


def tell_mortgage(face: Face, folder: Path, run: Narrator) -> dict[str, Any]:
    """Tell the story in `folder`; the facts that it told.

    Args:
        face: where it is told.
        folder: for the data; the project lies in it, as `run.project`.
        run: tells and runs.

    Raises:
        RefusedError: a command did not end as the story needs it.
        MissingExtraError: the data package is not installed.
    """
    started = time.perf_counter()
    rows = _set_out(face, folder, run)
    leaked = _leak(run)
    honest, race, black = _review_contract(run)
    tokens = _people(run)
    _roles(run, tokens)
    decided = _answers(folder, run, tokens)
    run.step("Everything verified: the audit log, every release, the records")
    run.command("verify", "all")
    facts = {
        "story": "mortgage",
        "project": str(run.project),
        "rows": rows,
        "auc_with_leak": leaked["measured"],
        "auc": honest["measured"],
        "black_applicants": black,
        "fairness": {name: race[name] for name in ("gate", "outcome", "measured", "interval", "limit", "rows")},
        "decided": decided,
        "seconds": round(time.perf_counter() - started, 1),
    }
    _summary(face, run, facts)
    return facts


# --- to an honest release


def _set_out(face: Face, folder: Path, run: Narrator) -> int:
    face.say("[bold]May this mortgage be approved at once, or must an underwriter look?[/]")
    run.explain("Decisions of lenders in Boston in 1990, with the race and sex of those who asked.")
    data = folder / "loans.csv"
    rows = write_loans(data)
    run.step(f"{rows:,} rows, a contract inferred from them, and the questions that a machine cannot answer")
    words = ("init", str(run.project), "--data", str(data), "--target", "approve", "--key", "application")
    run.face.say(f"[bold]$ shipworthy {escape(' '.join(words))}[/]")
    output = sys.stderr if face.as_json else None
    done = subprocess.run([sys.executable, "-m", "shipworthy", *words], check=False, stdout=output)
    if done.returncode != 0:
        raise RefusedError(f"`shipworthy init` ended with exit code {done.returncode}; see its words above")
    return rows


def _leak(run: Narrator) -> Mapping[str, Any]:
    run.step("A limit on the AUC, more rows to test on, boosting alone in train.py, and a first release")
    (run.project / "train.py").write_text(_story("train.py"), encoding="utf-8")
    text = (run.project / CONTRACT_FILE).read_text(encoding="utf-8")
    for old, new in FIRST_EDIT.items():
        if old not in text:
            raise RefusedError(f"the contract does not say {old!r}, which the story changes")
        text = text.replace(old, new)
    _edit(run, text)
    run.command("ship")
    leaked = _verdict(run.project, LEAKED, AUC_GATE)
    run.explain(
        f"\nAll gates pass, and an AUC of {leaked['measured']:.2f} is too good. `check` repeats what `init` asked:"
    )
    run.command("check")
    return leaked


def _review_contract(run: Narrator) -> tuple[Mapping[str, Any], Mapping[str, Any], int]:
    run.step("The contract, reviewed: leaks out, codes named, fairness asked for, production owed two signatures")
    run.explain(
        "typur says who bought the loan, inson whether its insurance was approved: both are known only afterwards.\n"
        "666 cannot be where 0 and 1 are meant; 999 and 1,000,000 are codes for what nobody knew."
    )
    _edit(run, _story(CONTRACT_FILE))
    run.command("ship")
    leaked, honest, race = (
        _verdict(run.project, release, gate)
        for release, gate in ((LEAKED, AUC_GATE), (HONEST, AUC_GATE), (HONEST, RACE_GATE))
    )
    people = pl.read_csv(run.project / "data" / "loans.csv", columns=["race"])
    black = people.filter(pl.col("race") == "black").height
    high = race["interval"][1]
    run.explain(
        f"\nWithout the leaks the AUC is {honest['measured']:.2f}, not {leaked['measured']:.2f}. "
        "Two rows with 666 are in quarantine, with that reason.\n"
        f"{black} black applicants are too few to judge by: the answers to those who deserve a loan differ from\n"
        f"white ones' by {points(race['measured'])}, but it may be {points(high)}, and {points(race['limit'])} are "
        "allowed. That is neither a pass nor a fail: insufficient."
    )
    return honest, race, black


def points(share: float) -> str:
    """A difference of shares.

    >>> points(0.113)
    '11 points'
    """
    return f"{100 * share:.0f} points"


def _story(name: str) -> str:
    """A file of the story."""
    folder = importlib.resources.files("shipworthy.faces") / "stories" / "mortgage"
    return (folder / name).read_text(encoding="utf-8")


def _edit(run: Narrator, text: str) -> None:
    """Change the contract, and show what changed."""
    file = run.project / CONTRACT_FILE
    before = file.read_text(encoding="utf-8")
    run.face.say(f"[bold]$ $EDITOR {CONTRACT_FILE}[/]")
    for line in difflib.unified_diff(before.splitlines(), text.splitlines(), n=0, lineterm=""):
        if not line.startswith(("---", "+++", "@@")):
            run.face.say(f"[{'red' if line.startswith('-') else 'green'}]{escape(line)}[/]")
    file.write_text(text, encoding="utf-8")


def _verdict(project: Path, release: str, gate: str) -> Mapping[str, Any]:
    """What a gate decided of a release, as its signature binds it."""
    with open_to_read(project, "status") as ledger:
        verdicts = open_release(Project(project), ledger, release).verdicts
    return next(verdict for verdict in verdicts if verdict["gate"] == gate)


# --- people


def _people(run: Narrator) -> dict[str, str]:
    run.step("So it is for people to say, each in a role; each is shown a token once")
    tokens = {}
    for name, role in PEOPLE.items():
        run.show("user", "add", name, "--role", role)
        tokens[name] = str(run.ask("user", "add", name, "--role", role)["token"])
    return tokens


def _roles(run: Narrator, tokens: Tokens) -> None:
    run.step("As it stands nobody can deploy it")
    _refused(run, "mia", tokens, "deploy", HONEST)

    run.step("A waiver: a reason, an end, and two people in two roles. Had bob refused, it would stay in local")
    words = ("waive", HONEST, "--gate", RACE_GATE, "--reason", WAIVED, "--expires", "30d", "--role")
    _act(run, "ruth", tokens, *words, "risk")
    _refused(run, "ruth", tokens, *words, "business")
    _act(run, "bob", tokens, *words, "business")

    run.step("Approved by both, and deployed")
    for name in ("ruth", "bob"):
        _act(run, name, tokens, "approve", HONEST, "--role", PEOPLE[name])
    _act(run, "mia", tokens, "deploy", HONEST)


def _answers(folder: Path, run: Narrator, tokens: Tokens) -> dict[str, Any]:
    run.step("A file of applications, answered by production's policy; whoever is unsure of asks a person")
    loans = pl.read_csv(run.project / "data" / "loans.csv", infer_schema=False)
    loans.head(SCORED).write_csv(folder / "monday.csv")
    run.command("score", str(folder / "monday.csv"), str(folder / "answers.csv"), "--env", "production")
    run.command("review", "list", "--env", "production", "--limit", "3")
    first = run.ask("review", "list", "--env", "production", "--limit", "1")["reviews"][0]
    words = ("review", "decide", str(first["prediction_id"]), "refer", "--reason", "income is not verified")
    _act(run, "ruth", tokens, *words, "--env", "production")
    return {"prediction_id": first["prediction_id"], "meanwhile": first["decision"], "decision": "refer"}


def _act(run: Narrator, name: str, tokens: Tokens, *words: str) -> None:
    run.command(*words, token=tokens[name], who=name)


def _refused(run: Narrator, name: str, tokens: Tokens, *words: str) -> None:
    run.show(*words, who=name)
    run.explain(f"  {run.ask(*words, token=tokens[name], ends=1)['error']['message']}")


def _summary(face: Face, run: Narrator, facts: Mapping[str, Any]) -> None:
    face.say(f"\n[bold green]Done[/] in {facts['seconds']:.0f} s. The project is in {run.project}. Try next:")
    for line in (f"shipworthy card {HONEST}", "shipworthy review list --env production", "shipworthy user list"):
        face.say(f"  {line} --project {escape(str(run.project))}")
