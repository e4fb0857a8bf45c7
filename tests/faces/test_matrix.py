"""The tables of docs/security.md are what the gate decides: for every role, verb, system and environment, really."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from shipworthy.faces.api import ROUTE_VERBS
from shipworthy.faces.cli.main import COMMANDS, root
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import AccessError, ShipworthyError
from shipworthy.security import access
from shipworthy.security.access import PERMISSIONS, ROLES, VERBS, Principal, Reach, Target, Verb, decide
from shipworthy.workflows.principals import add_principal, owner_of, remove_principal
from tests.faces.life import CONTRACT

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
MINE, OTHER = "flights", "elsewhere"
NOBODY = "nobody"
ENVIRONMENTS = ("local", "production")
DATA_PLANE = {"predict", "tell"}

Cell = tuple[str, str, str, str]  # role, verb, whose system, environment


def rows(title: str) -> list[list[str]]:
    """The cells of the table whose heading begins with `title`."""
    found = re.search(rf"^\| {title} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None, title
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def documented() -> dict[Cell, bool]:
    """What the page says of every cell."""
    reach = {(row[0], role): word for row in rows("action") for role, word in zip(ROLES, row[1:], strict=True)}
    said = {}
    for verb, action, _, _ in rows("verb"):
        for role in (*ROLES, NOBODY):
            for system in (MINE, OTHER):
                for environment in ENVIRONMENTS:
                    word = "any" if action == "public" else reach.get((action, role), "-")
                    near = system == MINE
                    said[role, verb, system, environment] = (
                        word == "any"
                        or (word == "own" and near)
                        or (word == "local" and near and environment == "local")
                    )
    return said


def decided() -> dict[Cell, bool]:
    """What the gate says of every cell."""
    found = {}
    for role in (*ROLES, NOBODY):
        who = Principal("kim", frozenset({role} - {NOBODY}), frozenset({MINE}))
        for verb in access.VERBS:
            for system in (MINE, OTHER):
                for environment in ENVIRONMENTS:
                    target = Target(system, environment)
                    found[role, verb, system, environment] = decide(who, verb, target).allowed
    return found


def duties() -> dict[str, tuple[str, str]]:
    """Of each verb, whether it is recorded and whose hand it must not be: as the gate has it."""
    return {name: ("yes" if verb.is_recorded else "no", verb.never or "-") for name, verb in access.VERBS.items()}


def test_the_gate_decides_every_cell_as_the_page_says():
    said = documented()
    assert len(said) == len(VERBS) * (len(ROLES) + 1) * 4
    assert {cell for cell, allowed in decided().items() if allowed != said[cell]} == set()
    assert duties() == {verb: (recorded, never) for verb, _, recorded, never in rows("verb")}


def test_what_is_not_in_the_tables_is_nobodys():
    everyone = Principal("kim", frozenset(ROLES))
    assert not decide(everyone, "audit delete", Target(MINE)).allowed
    assert not decide(everyone, "", Target(MINE)).allowed


def mutants() -> Iterator[tuple[str, Mapping[str, Mapping[str, Reach]], Mapping[str, Verb]]]:
    """Every table that differs from ours in one cell."""
    for action, allowed in PERMISSIONS.items():
        for role in ROLES:
            for reach in ("-", "local", "own", "any"):
                if allowed.get(role, "-") != reach:
                    others = {name: word for name, word in allowed.items() if name != role}
                    row = others if reach == "-" else {**others, role: reach}
                    yield f"{action}/{role}/{reach}", {**PERMISSIONS, action: row}, VERBS  # type: ignore[dict-item]
    for name, verb in VERBS.items():
        yield f"{name} recorded", PERMISSIONS, {**VERBS, name: Verb(verb.action, not verb.is_recorded, verb.never)}
        for never in ("", "author", "self"):
            if never != verb.never:
                yield f"{name} {never}", PERMISSIONS, {**VERBS, name: Verb(verb.action, verb.is_recorded, never)}
        if verb.action != "public":
            yield f"{name} public", PERMISSIONS, {**VERBS, name: Verb("public", verb.is_recorded, verb.never)}


def test_a_single_flipped_cell_of_the_policy_is_seen(monkeypatch: pytest.MonkeyPatch):
    said, told = documented(), duties()
    unseen, count = [], 0
    for name, permissions, verbs in mutants():
        with monkeypatch.context() as patch:
            patch.setattr(access, "PERMISSIONS", permissions)
            patch.setattr(access, "VERBS", verbs)
            count += 1
            if decided() == said and duties() == told:
                unseen.append(name)
    assert count > 500
    assert unseen == []


def cli_verbs() -> dict[str, click.Command]:
    """Every verb of the command line, as the user types it."""
    context, found = click.Context(root), {}
    for name in COMMANDS:
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            found.update({f"{name} {sub}": inner for sub, inner in command.commands.items()})
        elif command is not None:
            found[name] = command
    return found


def test_every_verb_of_every_face_stands_in_the_table_and_each_of_the_table_in_a_face():
    typed = {*cli_verbs(), "alerts acknowledge"}  # `alerts --ack`
    assert typed | set(ROUTE_VERBS.values()) | DATA_PLANE == set(VERBS)


WORDS: dict[str, tuple[str, ...]] = {  # what each verb needs to come as far as the gate, and to end soon after it
    "ship": (),
    "approve": ("flights:9", "--role", "risk"),
    "waive": ("flights:9", "--gate", "g", "--role", "risk", "--reason", "r", "--expires", "1d"),
    "deploy": ("flights:9",),
    "rollback": ("--reason", "r"),
    "score": ("nothing.csv", "out.csv"),
    "outcomes": ("nothing.csv",),
    "serve": ("--port", "0"),
    "consume": ("in", "--answers", "out", "--url", "amqp://127.0.0.1:1"),
    "up": ("--port", "0", "--control-port", "0"),
    "control": (),
    "data quarantine": (),
    "data replay": ("nothing.csv",),
    "records compact": (),
    "data log": (),
    "data diff": ("0", "1"),
    "data show": ("0",),
    "data tag": ("0", "golden"),
    "data untag": ("golden",),
    "data export": ("0", "out.csv"),
    "data compact": (),
    "status": (),
    "quality": (),
    "loadtest": ("--seconds", "1", "--rps", "1"),
    "alerts": (),
    "alerts acknowledge": ("--ack", "a_none"),
    "review list": (),
    "review show": ("p_none",),
    "review claim": ("p_none",),
    "review decide": ("p_none", "calm", "--reason", "r"),
    "user list": (),
    "user add": ("kim", "--role", "king"),
    "user set": ("kim", "--role", "risk"),
    "user remove": ("kim", "--reason", "r"),
    "token list": (),
    "token create": ("kim",),
    "token revoke": ("kim-00000000", "--reason", "r"),
    "data health": (),
    "lineage": ("nothing",),
    "data describe": ("--croissant", "croissant.json"),
    "card": (),
    "backup create": ("nowhere/backup.tar",),
    "audit export": ("--out", "entries"),
    "audit anchor": ("anchor",),
    "audit list": (),
    "audit rebuild": (),
    "key list": (),
    "key create": ("KING",),
    "key rotate": ("--to", "none"),
    "key revoke": ("none", "--reason", "r"),
    "key open": ("nothing", "--out", "out"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[tuple[str, str], str]]]:
    """A project in which nothing was shipped, and a token for each role in this system and in another one."""
    folder = tmp_path_factory.mktemp("matrix")
    project = folder / "flights"
    project.mkdir()
    (project / "shipworthy.yaml").write_text(CONTRACT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.chdir(folder)
        tokens = {}
        with open_parts(project) as parts:
            owner = owner_of(parts.actor)
            for role in ROLES:
                for system in (MINE, OTHER):
                    tokens[role, system] = add_principal(parts, owner, f"{role}.{system}", (role,), (system,))
            tokens[NOBODY, MINE] = add_principal(parts, owner, NOBODY, ("platform",))
            remove_principal(parts, owner, NOBODY, "left")
        yield project, tokens


def run(verb: str, project: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """How the verb ended: the words of the gate if it was denied, else empty."""
    argv = [*verb.removesuffix(" acknowledge").split(), *words, "--project", str(project)]
    try:
        root.main(argv, standalone_mode=False)
    except AccessError as error:
        return str(error)
    except (ShipworthyError, click.ClickException):
        pass
    finally:
        capsys.readouterr()
    return ""


def takes_environment(verb: str) -> bool:
    command = cli_verbs()[verb.removesuffix(" acknowledge")]
    return any("--env" in parameter.opts for parameter in command.params)


@pytest.mark.parametrize("verb", sorted(WORDS))
def test_a_role_does_on_the_command_line_what_the_page_says(
    place: tuple[Path, dict[tuple[str, str], str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
):
    project, tokens = place
    said, wrong = documented(), []
    for (role, system), token in tokens.items():
        for environment in ENVIRONMENTS if takes_environment(verb) else ("production",):
            monkeypatch.setenv("SHIPWORTHY_TOKEN", token)
            words = (*WORDS[verb], *(("--env", environment) if takes_environment(verb) else ()))
            before = count(project)
            refusal = run(verb, project, words, capsys)
            wanted = said[role, verb, system, environment]
            if (not refusal) != wanted:
                wrong.append((role, system, environment, refusal))
            if role != NOBODY and VERBS[verb].is_recorded:
                entry = decision_after(project, before)
                if entry != (f"access.{'allowed' if wanted else 'denied'}", f"user:{role}.{system}", verb):
                    wrong.append((role, system, environment, str(entry)))
    assert wrong == []


def count(project: Path) -> int:
    with open_parts(project) as parts:
        checkpoint = parts.ledger.checkpoint
    return 0 if checkpoint is None else checkpoint.size


def decision_after(project: Path, seq: int) -> tuple[str, str, str]:
    """The first event behind `seq`: verb, actor, and what was decided on."""
    with open_parts(project) as parts:
        entry = next(iter(parts.ledger.events(after=seq, limit=1)))
    return entry.verb, entry.actor, str(entry.body.get("verb"))


def test_every_recorded_verb_of_the_command_line_is_tried_or_public():
    untried = set(cli_verbs()) - set(WORDS)
    assert {verb for verb in untried if VERBS[verb].action != "public"} == set()
