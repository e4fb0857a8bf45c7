"""The documents are complete and true."""

import re
from pathlib import Path

import click
import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.data.health import Observation
from shipworthy.faces.api import ROUTE_VERBS
from shipworthy.faces.cli.main import COMMANDS, root
from shipworthy.kernel import errors
from shipworthy.serving.breaker import Breaker
from shipworthy.serving.counters import Counters, render_metrics
from shipworthy.serving.messages.counters import MessageCounters, render_message_metrics
from shipworthy.workflows.data_health import HealthReport
from shipworthy.workflows.data_metrics import render_data_metrics

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, match in enumerate(BLOCK.finditer(page.read_text())):
            if match[1] == language:
                found.append((f"{page.relative_to(TOP)}#{number}", match[2]))
    return found


def commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(root)
    for verb in COMMANDS:
        command = root.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{verb} {name}", sub) for name, sub in command.commands.items()]
        else:
            found.append((verb, command))
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_and_each_of_its_options_is_documented(name: str, command: click.Command):
    page = (TOP / "docs" / "commands.md").read_text()
    section = re.search(rf"^## `{re.escape(name)}`?.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/commands.md has no section `{name}`"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.opts[0] not in ("--json", "--project"):
            assert parameter.opts[0] in section[0], f"{parameter.opts[0]} of `{name}` is not in docs/commands.md"


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_json_and_a_help_that_says_what_it_does(name: str, command: click.Command):
    assert any("--json" in parameter.opts for parameter in command.params), name
    assert command.help is not None, name
    assert len(command.help) > 20, name


def test_every_error_code_is_documented():
    page = (TOP / "docs" / "errors.md").read_text()
    codes = {value.code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "code")}
    assert not {code for code in codes if f"| `{code}` |" not in page}


def test_every_setting_from_the_environment_is_documented():
    used = set()
    for file in (TOP / "src").rglob("*.py"):
        used |= set(re.findall(r"SHIPWORTHY_[A-Z_]+", file.read_text()))
    text = "".join(page.read_text() for page in PAGES)
    assert not {name for name in used if f"`{name}`" not in text}


def test_every_metric_is_documented():
    tally = Counters().tally(refusals={"rate": 0}, breakers={"loans:1": Breaker()}, is_ready=True)
    text = render_metrics(tally, "loans:1", 1, restarts={"crash": 0}, certificate_expires=0.0).decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    page = (TOP / "docs" / "serving.md").read_text()
    assert len(names) > 10
    assert not {name for name in names if f"`{name}`" not in page}


def test_every_metric_of_messages_is_documented():
    text = render_message_metrics(MessageCounters(), 0).decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    page = (TOP / "docs" / "messages.md").read_text()
    assert {name for name in names if f"`{name}`" in page} == names


def test_every_metric_of_the_data_is_documented():
    seen = Observation(at=0.0, rows=1, quarantined=0, newest=0.0, sources={"loans": 1}, columns={})
    report = HealthReport("loans", 0.0, (seen,), {"digest": "d", "version": 0}, (), (), None, (), (), {}, None)
    names = set(re.findall(r"^# TYPE (\S+)", render_data_metrics(report).decode(), re.MULTILINE))
    page = (TOP / "docs" / "monitoring.md").read_text()
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" in page} == names


def test_every_route_of_the_control_plane_is_documented_with_its_verb():
    page = (TOP / "docs" / "api.md").read_text()
    rows = dict(re.findall(r"^\| `(\S+ \S+)` \| `([\w ]+)` \|", page, re.MULTILINE))
    assert rows == {f"{method} {path}": verb for (method, path), verb in ROUTE_VERBS.items()}


@pytest.mark.parametrize(("where", "text"), blocks("yaml"), ids=lambda value: value if "#" in value else "")
def test_contracts_in_the_documents_parse(where: str, text: str):
    if text.startswith("shipworthy:"):
        parse_contract(text, where)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_is_short():
    assert len((TOP / "README.md").read_text().splitlines()) < 150


def test_nothing_names_a_machine_or_an_unfinished_place():
    for page in PAGES:
        text = page.read_text()
        assert not re.search(r"/(root|work|home)/\w|\bTODO\b|\bFIXME\b", text), page


def test_no_message_or_page_names_a_command_that_does_not_exist():
    pattern = re.compile(r"(?:`|\$ |^|run: )shipworthy ([a-z]+)", re.MULTILINE)
    texts = [*(TOP / "src").rglob("*.py"), *PAGES]
    named = {verb for file in texts for verb in pattern.findall(file.read_text())}
    assert len(named) > 8
    assert named <= set(COMMANDS)
