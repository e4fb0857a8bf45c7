"""Init: any table becomes a project whose contract parses and whose training code trains."""

import ast
import csv
import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xlsxwriter
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipworthy.contract.nodes import compose, plain
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.accept import judge_batch
from shipworthy.data.columns import encode, target_array
from shipworthy.data.names import identifier
from shipworthy.data.prepare.run import prepare
from shipworthy.data.sources.dialect import number_columns
from shipworthy.data.sources.read import read_source
from shipworthy.data.split import split
from shipworthy.data.validate import validate
from shipworthy.kernel.errors import ConflictError, DataError, SourceError, StorageError, UsageError
from shipworthy.training.context import TrainingContext
from shipworthy.workflows import templates
from shipworthy.workflows.init import InitReport, init
from shipworthy.workflows.templates import scalar

SCIKIT = Path(str(importlib.util.find_spec("sklearn").submodule_search_locations[0])) / "datasets" / "data"  # type: ignore[union-attr, index]


def contract_of(report: InitReport) -> Contract:
    return parse_contract((report.directory / "shipworthy.yaml").read_text(encoding="utf-8"))


def train(report: InitReport) -> tuple[Contract, float, float]:
    """Trains with the written code; the model's and the trivial loss on the test part."""
    contract = contract_of(report)
    reads = {
        name: read_source(name, source, report.directory, numbers=number_columns(contract))
        for name, source in contract.data.sources.items()
    }
    prepared = prepare(contract, reads, report.directory, work=report.directory, environment={})
    validated = validate(contract, prepared.frame)
    judge_batch(contract, validated, now=0.0)
    parts = split(contract, validated.accepted, contract.training.seed)
    matrix, truth = encode(contract, validated.accepted), target_array(contract, validated.accepted)
    spec = importlib.util.spec_from_file_location("written_train", report.directory / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    categories = {name: feature.values for name, feature in contract.features.items() if feature.values}
    context = TrainingContext(
        list(contract.model_columns), categories, contract.target.column, contract.target.type,
        contract.target.values or (), 7,
    )  # fmt: skip
    frame = pl.DataFrame(matrix[parts.train], schema=context.features).with_columns(
        pl.Series(context.target, truth[parts.train])
    )
    model = module.train(frame, {}, context)
    test, expected = matrix[parts.test], truth[parts.test]
    if context.task == "regression":
        usual = np.median(truth[parts.train])
        return contract, float(abs(model.predict(test) - expected).mean()), float(abs(expected - usual).mean())
    shares = np.bincount(truth[parts.train].astype(int)) / len(parts.train)
    chances = model.predict_proba(test)[np.arange(len(test)), expected.astype(int)]
    return (
        contract,
        float(-np.log(np.clip(chances, 1e-9, 1)).mean()),
        float(-np.log(shares[expected.astype(int)]).mean()),
    )


def headed(path: Path, name: str, header: list[str]) -> Path:
    """A copy of one of scikit-learn's files with a header of names."""
    rows = list(csv.reader((SCIKIT / name).read_text().splitlines()))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows[1:]])
    return path


REAL: dict[str, tuple[str, list[str], str, str]] = {
    "iris": ("iris.csv", ["sepal length (cm)", "sepal width (cm)", "c", "petal width", "kind"], "kind", "multiclass"),
    "cancer": ("breast_cancer.csv", [*(f"mean {at}" for at in range(30)), "diagnosis"], "diagnosis", "binary"),
    "wine": ("wine_data.csv", [*(f"c{at}" for at in range(13)), "cultivar"], "cultivar", "multiclass"),
}  # fmt: skip


@pytest.mark.parametrize("case", REAL)
def test_a_real_table_becomes_a_project_that_beats_the_trivial_baseline(case: str, tmp_path: Path) -> None:
    name, header, target, task = REAL[case]
    report = init(tmp_path / case, [headed(tmp_path / f"{case}.csv", name, header)], target)
    contract, loss, trivial = train(report)
    assert contract.target.type == task
    assert contract.system == case
    assert len(contract.features) == len(header) - 1
    assert loss < trivial / 2


def test_a_compressed_table_of_a_regression_becomes_a_project(tmp_path: Path) -> None:
    columns = [
        gzip.decompress((SCIKIT / name).read_bytes()).decode().splitlines()
        for name in ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz")
    ]
    lines = [f"{','.join(left.split())},{float(right)}" for left, right in zip(*columns, strict=True)]
    header = "age,sex,bmi,bp,s1,s2,s3,s4,s5,s6,progression"
    path = tmp_path / "diabetes.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *lines]).encode()))
    report = init(tmp_path / "diabetes", [path], "progression")
    contract, loss, trivial = train(report)
    assert (contract.target.type, contract.context["sex"].role) == ("regression", "protected")
    assert contract.risk == "high"
    assert loss < 0.9 * trivial


def table(path: Path, rows: int = 400) -> Path:
    """Everything that a table may hold, with a target that can be learnt."""
    random = np.random.default_rng(3)
    income = random.uniform(10, 90, rows).round(2)
    colour = random.choice(["red", "dark blue", "no", "1e5", "a: b"], rows)
    repaid = (income + 20 * (colour == "red") + random.normal(0, 15, rows) > 55).astype(int)
    pl.DataFrame(
        {
            "loan id": [f"L{row}" for row in range(rows)],
            "applied at": [f"2026-{1 + row * 12 // rows:02}-{1 + row % 28:02} 10:00:00" for row in range(rows)],
            "Income (kUSD)": [None if row % 10 == 0 else income[row] for row in range(rows)],
            "colour": colour,
            "sex": random.choice(["f", "m"], rows),
            "yes": random.choice(["true", "false"], rows),
            "note": [f"free text {row}" for row in range(rows)],
            "outcome": [("declined", "granted")[value] for value in repaid],
            "repaid": repaid,
        }
    ).write_csv(path)
    return path


def test_everything_a_table_holds_finds_its_place(tmp_path: Path) -> None:
    report = init(tmp_path / "My Loans", [table(tmp_path / "loans.csv")], "repaid")
    contract, loss, trivial = train(report)
    assert {name: column.role for name, column in contract.context.items()} == {
        "loan_id": "key",
        "applied_at": "time",
        "sex": "protected",
    }
    assert list(contract.features) == ["Income_kUSD", "colour", "yes"]
    assert contract.features["colour"].values == ("1e5", "a: b", "dark blue", "no", "red")
    assert contract.features["Income_kUSD"].missing == "allow"
    assert contract.training.split.by == "time"
    assert contract.decision.actions == {"0": "not_repaid", "1": "repaid"}
    assert (contract.system, contract.target.positive) == ("my-loans", "1")
    assert loss < trivial
    text = (report.directory / "shipworthy.yaml").read_text()
    assert "#   note: holds 400 distinct texts" in text
    assert "#   outcome: gives the target away" in text
    assert any(note.startswith("applied_at: written without a time zone") for note in report.review)
    assert report.written == ("data/loans.csv", ".gitignore", "train.py", "shipworthy.yaml")


def test_no_quality_limit_but_better_than_the_baseline_is_set(tmp_path: Path) -> None:
    gates = contract_of(init(tmp_path / "p", [table(tmp_path / "loans.csv")], "repaid")).gates
    assert {name: limit.model_dump(exclude_none=True) for name, limit in gates.performance.items()} == {
        "log_loss": {"better_than": "baseline"}
    }
    assert (gates.fairness, gates.value, gates.slices, gates.robustness) == (None, None, None, None)


@pytest.mark.parametrize("template", ["train_classes.py.txt", "train_numbers.py.txt"])
def test_the_training_code_is_short_valid_and_formatted(template: str, tmp_path: Path) -> None:
    text = (Path(templates.__file__).parent / template).read_text()
    assert len(text.splitlines()) < 60
    assert next(node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)) == "train"
    code = tmp_path / "train.py"
    code.write_text(text)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "120", str(code)]
        assert subprocess.run(ruff, check=False).returncode == 0


def test_a_file_inside_the_project_is_named_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "raw files").mkdir()
    report = init(tmp_path, [table(tmp_path / "raw files" / "loans.csv")], "repaid")
    assert contract_of(report).data.sources["loans"].path == "raw files/loans.csv"
    assert not (tmp_path / "data").exists()


def test_several_files_of_one_table_are_read_as_one(tmp_path: Path) -> None:
    whole = table(tmp_path / "loans.csv").read_text().splitlines()
    for name, part in (("a.csv", whole[1:200]), ("b.csv", whole[200:])):
        (tmp_path / name).write_text("\n".join([whole[0], *part]))
    report = init(tmp_path / "p", [tmp_path / "a.csv", tmp_path / "b.csv"], "repaid")
    contract, loss, trivial = train(report)
    assert contract.data.prepare == "select * from a union all select * from b"
    assert report.rows == 400
    assert loss < trivial
    (tmp_path / "c.csv").write_text("x,repaid\n1,2\n")
    with pytest.raises(UsageError, match=r"c\.csv and .*a\.csv differ in columns"):
        init(tmp_path / "q", [tmp_path / "a.csv", tmp_path / "c.csv"], "repaid")


def test_columns_may_be_named_as_in_the_file(tmp_path: Path) -> None:
    report = init(tmp_path / "p", [table(tmp_path / "loans.csv")], "Income (kUSD)", key="loan id", time="applied at")
    assert contract_of(report).target.column == "Income_kUSD"


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    source = table(tmp_path / "loans.csv")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "train.py").write_text("mine")
    report = init(tmp_path / "p", [source], "repaid")
    assert (report.kept, (tmp_path / "p" / "train.py").read_text()) == (("train.py",), "mine")
    with pytest.raises(ConflictError, match=r"shipworthy\.yaml exists; change it by hand"):
        init(tmp_path / "p", [source], "repaid")
    (tmp_path / "q" / "data").mkdir(parents=True)
    (tmp_path / "q" / "data" / "loans.csv").write_text("other")
    with pytest.raises(ConflictError, match="exists with other content"):
        init(tmp_path / "q", [source], "repaid")


def test_a_failed_init_leaves_no_contract_behind(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(SourceError, match="the file is empty"):
        init(tmp_path / "p", [tmp_path / "empty.csv"], "repaid")
    (tmp_path / "few.csv").write_text("a,b\n1,x\n2,x\n3,y\n")
    with pytest.raises(DataError, match="class 'y' of the target b has one row"):
        init(tmp_path / "p", [tmp_path / "few.csv"], "b")
    with pytest.raises(UsageError, match="has no column 'c'; it has a, b"):
        init(tmp_path / "p", [tmp_path / "few.csv"], "c")
    assert not (tmp_path / "p").exists()


@pytest.fixture
def without_rights() -> Iterator[Path]:
    """A folder that everybody may read, handed to a process that may not write it, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    table(folder / "loans.csv")
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_refused(without_rights: Path) -> None:
    for directory in (without_rights, without_rights / "p"):
        with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\); give yourself the right"):
            init(directory, [without_rights / "loans.csv"], "repaid")
    assert [path.name for path in without_rights.iterdir()] == ["loans.csv"]


def test_more_quarantine_than_usual_raises_its_limit_and_says_so(tmp_path: Path) -> None:
    path = table(tmp_path / "loans.csv")
    frame = pl.read_csv(path, infer_schema=False)
    holes = pl.int_range(frame.height) % 5 == 0
    frame.with_columns(repaid=pl.when(~holes).then(pl.col("repaid"))).write_csv(path)
    report = init(tmp_path / "p", [path], "repaid")
    assert report.quarantined == 80
    limit = contract_of(report).data.accept.quarantined
    assert limit is not None
    assert limit.at_most == pytest.approx(0.3)
    assert any("80 of 400 rows are quarantined" in note for note in report.review)


def test_the_report_is_told_in_json(tmp_path: Path) -> None:
    report = init(tmp_path / "p", [table(tmp_path / "loans.csv")], "repaid")
    told: dict[str, Any] = report.to_json()
    assert told["target"] == {"column": "repaid", "type": "binary", "values": ("0", "1"), "positive": "1"}


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12), min_size=2, max_size=9
    ),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=10), min_size=1, max_size=3, unique=True),
)
def test_whatever_names_and_labels_a_table_has_its_contract_parses(
    tmp_path_factory: Any, labels: list[str], headers: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("init")
    path = folder / "t.csv"
    rows = [[f"{row}.5", *(labels[(row + at) % len(labels)] for at in range(len(headers)))] for row in range(60)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["number", *headers], *rows])
    try:
        report = init(folder / "p", [path], "number")
    except (DataError, SourceError, UsageError):
        return
    assert contract_of(report).target.column == "number"


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_a_text_in_the_contract_stays_what_it_is(text: str) -> None:
    written = f"a: [{scalar(text)}]"
    root, problems = compose(written, "x.yaml")
    assert not problems
    assert root is not None
    assert list(plain(root)["a"]) == [text]


def german(folder: Path, months: int = 2, rows: int = 300) -> Path:
    """Tables as a German Excel exports them: semicolons, windows-1252, 1.234,56; and `None`, as programs write."""
    random = np.random.default_rng(4)
    folder.mkdir()
    for month in range(1, months + 1):
        income = random.uniform(500, 9000, rows).round(2)
        paid = (income + random.normal(0, 1500, rows) > 5000).astype(int)
        lines = ["Einkommen;Stadt;Schulden;Filiale;bezahlt"]
        for row in range(rows):
            sum_ = f"{income[row]:,.2f}".translate(str.maketrans(",.", ".,"))
            debt = "None" if row % 4 == 0 else f"{row * 7},5"
            lines.append(f"{sum_};{('Köln', 'Ulm')[row % 2]};{debt};{('001', '002')[row // 2 % 2]};{paid[row]}")
        (folder / f"{month:02}.csv").write_bytes("\n".join(lines).encode("cp1252"))
    return folder


def test_how_a_folder_of_files_is_written_is_told_and_fixed_in_the_contract(tmp_path: Path) -> None:
    report = init(tmp_path / "p", [german(tmp_path / "monate")], "bezahlt")
    contract, loss, trivial = train(report)
    assert contract.data.sources["monate"].model_dump(exclude_defaults=True) == {
        "path": "data/monate",
        "format": "csv",
        "delimiter": ";",
        "encoding": "windows-1252",
        "decimal": ",",
        "thousands": ".",
        "nulls": ("None",),
    }
    assert {name: feature.type for name, feature in contract.features.items()} == {
        "Einkommen": "float", "Stadt": "category", "Schulden": "float", "Filiale": "category",
    }  # fmt: skip
    assert contract.features["Filiale"].values == ("001", "002")
    assert contract.features["Stadt"].values == ("Köln", "Ulm")
    assert contract.features["Schulden"].missing == "allow"
    assert (report.rows, report.quarantined) == (600, 0)
    assert loss < trivial
    assert report.written[:2] == ("data/monate/01.csv", "data/monate/02.csv")
    notes = " ".join(report.review)
    assert "monate: is not UTF-8 and read as windows-1252; look whether its texts are right" in notes
    assert "numbers are read as 1.234,5 (decimal sign ',', thousands by '.'), as in Einkommen" in notes
    assert "'None' among numbers is taken for no value, in every column" in notes


def test_a_pattern_stays_one_and_files_inside_the_project_stay_where_they_lie(tmp_path: Path) -> None:
    german(tmp_path / "monate", months=3)
    outside = init(tmp_path / "p", [tmp_path / "monate" / "0[12].csv"], "bezahlt")
    (source,) = contract_of(outside).data.sources.values()
    assert source.path == "data/monate/0[12].csv"
    assert sorted(path.name for path in (tmp_path / "p" / "data" / "monate").iterdir()) == ["01.csv", "02.csv"]
    inside = init(tmp_path, [tmp_path / "monate" / "0*.csv"], "bezahlt")
    (source,) = contract_of(inside).data.sources.values()
    assert (source.path, inside.rows) == ("monate/0*.csv", 900)
    assert not (tmp_path / "data").exists()


def test_numbers_that_may_be_read_in_two_ways_are_left_for_a_person(tmp_path: Path) -> None:
    path = table(tmp_path / "loans.csv")
    header, *lines = path.read_text().splitlines()
    costs = (f'{line},"{1 + at % 9},{at % 1000:03}"' for at, line in enumerate(lines))
    path.write_text("\n".join([f"{header},cost", *costs]))
    report = init(tmp_path / "p", [path], "repaid")
    assert contract_of(report).data.sources["loans"].model_dump(exclude_defaults=True) == {
        "path": "data/loans.csv",
        "format": "csv",
    }
    assert "cost" not in contract_of(report).features
    assert any(note.startswith("cost: whether its sign parts decimals or thousands") for note in report.review)


def test_numbers_that_are_written_in_two_ways_are_named(tmp_path: Path) -> None:
    path = german(tmp_path / "monate", months=1) / "01.csv"
    header, *lines = path.read_text("cp1252").splitlines()
    path.write_text("\n".join([f"{header};Rate", *(f"{line};{at}.5" for at, line in enumerate(lines))]), "cp1252")
    report = init(tmp_path / "p", [path], "bezahlt")
    assert set(contract_of(report).features) == {"Stadt", "Filiale", "Rate"}
    assert any("written in different ways (Rate unlike others), so none is declared" in note for note in report.review)


def test_codes_that_look_like_grouped_numbers_stay_texts(tmp_path: Path) -> None:
    path = german(tmp_path / "monate", months=1) / "01.csv"
    header, *lines = path.read_text("cp1252").splitlines()
    codes = ("1.001", "2.002", "3.003")
    coded = (f"{line};{codes[at % 3]}" for at, line in enumerate(lines))
    path.write_text("\n".join([f"{header};race", *coded]), "cp1252")
    report = init(tmp_path / "p", [path], "bezahlt", protected=["race"])
    assert contract_of(report).context["race"].values == codes
    assert report.quarantined == 0
    train(report)


def test_a_sheet_of_a_workbook_becomes_a_project(tmp_path: Path) -> None:
    frame = pl.read_csv(table(tmp_path / "loans.csv")).with_columns(pl.col("applied at").str.to_datetime())
    with xlsxwriter.Workbook(str(tmp_path / "loans.xlsx")) as book:
        frame.write_excel(book, worksheet="Loans")
        pl.DataFrame({"x": [1]}).write_excel(book, worksheet="Notes")
    report = init(tmp_path / "p", [tmp_path / "loans.xlsx"], "repaid")
    contract, loss, trivial = train(report)
    source = contract.data.sources["loans"]
    assert (source.format, source.sheet) == ("excel", "Loans")
    assert contract.context_by_role("time") == ("applied_at",)
    assert list(contract.features) == ["Income_kUSD", "colour", "yes"]
    assert loss < trivial
    assert any("the sheet 'Loans' is read; it also has Notes" in note for note in report.review)


def test_a_delta_table_is_copied_whole(tmp_path: Path) -> None:
    frame = pl.read_csv(table(tmp_path / "loans.csv"))
    write_deltalake(str(tmp_path / "loans"), frame.rename({name: identifier(name, 1) for name in frame.columns}))
    report = init(tmp_path / "p", [tmp_path / "loans"], "repaid")
    assert contract_of(report).data.sources["loans"].model_dump(exclude_defaults=True) == {
        "path": "data/loans",
        "format": "delta",
    }
    assert (report.rows, report.written[0]) == (400, "data/loans")
    train(report)
