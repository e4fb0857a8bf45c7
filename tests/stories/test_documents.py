"""What the documents tell a reader to type does what they say."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stories.loans import write_project

TOP = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (TOP / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_tutorial_works_word_for_word(
    tmp_path: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    folder = write_project(tmp_path / "origin")
    (folder / "loans.csv").rename(tmp_path / "loans.csv")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("tutorial.md", "sh") for line in block.splitlines()]
    verbs = []
    for line in lines:
        program, *words = shlex.split(line)
        if program == "pip":
            continue
        assert program == "shipworthy"
        verbs.append(words[0])
        if words[0] == "serve":
            with serving(Path(words[words.index("--project") + 1])) as server:
                assert server.post(server.ready["example"])[0] == 200
        else:
            done = shipworthy(*words)
            assert done.code == 0, f"{line}\n{done.out}{done.err}"
    assert verbs == ["init", "ship", "serve", "verify", "lineage", "card"]


def test_the_python_clients_of_the_guide_get_answers(
    project: Path, serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    said = []
    with serving(project, "--grpc-port", "0") as server:
        monkeypatch.setenv("SHIPWORTHY_TOKEN", server.ready["token"])
        for block in [*blocks("client.md", "python"), *blocks("serving.md", "python")]:
            names: dict[str, Any] = {"__name__": "guide"}
            block = block.replace("127.0.0.1:8080", server.ready["address"].partition("//")[2])
            exec(block.replace("127.0.0.1:8081", server.ready["grpc"]), names)  # noqa: S102
            if "client" in names:
                names["client"].close()
            said.append(capsys.readouterr().out.splitlines())
    with_threads, with_asyncio, refused, with_triton, by_grpc = said
    assert with_threads[0].split()[0] in {"approve", "refer"}
    assert with_asyncio[0] in {"approve", "refer"}
    assert [line.partition(":")[0] for line in refused] == ["inputs.income", "inputs.purpose"]
    assert with_triton[0].count("'") == 4  # two decisions
    assert by_grpc == with_triton
