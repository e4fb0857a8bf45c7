"""Show: tables keep what they say, however narrow the terminal."""

import pytest

from shipworthy.faces.cli.show import Face


def test_a_long_name_is_folded_and_never_cut(capsys: pytest.CaptureFixture[str]):
    names = [f"fairness.equal_opportunity_difference.{group}" for group in ("black", "hispan")]
    Face(as_json=False).table(["gate", *"abcde"], [[name, *["a value of some length"] * 5] for name in names])
    shown = "".join(line.split("  ")[0] for line in capsys.readouterr().out.splitlines())
    assert "…" not in shown
    assert all(name in shown for name in names)


def test_what_names_a_row_is_kept_whole_so_that_it_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    name = "p_01m88caf35dcaw5nrjnw1p000p"
    Face(as_json=False).table(["prediction", *"abcdef"], [[name, *(word * 12 for word in ("x ", "y ", "z ") * 2)]])
    assert name in capsys.readouterr().out
