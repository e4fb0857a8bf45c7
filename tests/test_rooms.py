"""The house: each room says what it promises and lists its files, the serving set stays light, nothing is unpickled."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shipworthy

SOURCE = Path(shipworthy.__file__).parent
ROOMS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file())
FRONTS = ("client",)  # rooms that are imported by their own name: their front lists what they offer, not their files
NAMED_AFTER = {"records/parquet.py"}  # files of what they import, which nothing light imports at its top
LIGHT_ROOMS = ("bundle", "client", "kernel", "records", "security", "serving")
HEAVY = {
    "alembic", "deltalake", "fairlearn", "joblib", "lightgbm", "onnx", "onnxmltools", "pandas", "polars", "psycopg",
    "pyarrow", "pydantic", "scipy", "shap", "skl2onnx", "sklearn", "sqlalchemy", "torch", "xgboost", "yaml",
}  # fmt: skip
FORBIDDEN_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {
    "compile", "eval", "exec", "__import__", "os.popen", "os.system", "torch.load", "yaml.load", "yaml.unsafe_load",
    "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def modules_of(room: str) -> set[str]:
    found = pkgutil.iter_modules([str(SOURCE / room)])
    return {module.name for module in found if not module.ispkg and not module.name.startswith("_")}


def folders_of(room: str) -> set[str]:
    return {module.name for module in pkgutil.iter_modules([str(SOURCE / room)]) if module.ispkg}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below `tree`, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def offences(source: str) -> list[str]:
    """What `source` does that could run code out of data, or run a shell."""
    tree = ast.parse(source)
    found = [f"imports {name}" for name in imported(tree) if name.partition(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) in FORBIDDEN_CALLS:
                found.append(f"line {node.lineno} calls {ast.unparse(node.func)}")
            found += [
                f"line {node.lineno} sets {keyword.arg}"
                for keyword in node.keywords
                if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False"
            ]
    return found


def top_level_imports(source: str) -> set[str]:
    """Distributions that loading `source` imports, also inside a module-level `if` or `try`."""
    pending: list[ast.AST] = [ast.parse(source)]
    found: set[str] = set()
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {name.partition(".")[0] for name in imported(ast.Module([node], []))}
            pending.append(node)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_promises(room: str) -> None:
    package = importlib.import_module(f"shipworthy.{room}")
    assert package.__doc__
    assert list(package.__all__) == sorted(package.__all__)


@pytest.mark.parametrize("room", sorted({*ROOMS} - {*FRONTS}))
def test_a_rooms_front_lists_its_files_and_imports_nothing(room: str) -> None:
    package = importlib.import_module(f"shipworthy.{room}")
    assert modules_of(room) <= set(package.__all__) <= modules_of(room) | folders_of(room)
    source = (SOURCE / room / "__init__.py").read_text()
    assert list(imported(ast.parse(source))) == []


@pytest.mark.parametrize("room", FRONTS)
def test_a_front_offers_what_it_lists_from_a_room_that_imports_only_the_kernel(room: str) -> None:
    package = importlib.import_module(f"shipworthy.{room}")
    assert all(inspect.getdoc(getattr(package, name)) for name in package.__all__)
    for path in (SOURCE / room).rglob("*.py"):
        for name in imported(ast.parse(path.read_text())):
            is_ours = name.startswith(f"shipworthy.{room}.") or name == "shipworthy.kernel.errors"
            assert is_ours or name.partition(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_turns_data_into_code(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "def f():\n    from joblib import load",
        "import torch\ntorch.load('x')",
        "yaml.load(text)",
        "eval('1')",
        "exec(code)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "import marshal as m",
    ],
)
def test_a_planted_offence_is_found(planted: str) -> None:
    assert offences(planted)


def test_what_only_looks_like_an_offence_is_not_one() -> None:
    assert offences("model.eval()\nre.compile('x')\nnp.load(path, allow_pickle=False)\nmsgspec.json.decode(x)") == []


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_a_light_room_imports_nothing_heavy_at_the_top(room: str) -> None:
    for path in sorted((SOURCE / room).rglob("*.py")):
        if path.relative_to(SOURCE).as_posix() not in NAMED_AFTER:
            assert not top_level_imports(path.read_text()) & HEAVY, path


def test_heavy_imports_are_seen_wherever_loading_meets_them() -> None:
    assert top_level_imports("try:\n    import polars as pl\nexcept ImportError:\n    pl = None") == {"polars"}
    assert top_level_imports("class A:\n    from sklearn.base import clone") == {"sklearn"}
    assert top_level_imports("def f():\n    import polars") == set()


def test_loading_the_light_rooms_brings_in_nothing_heavy() -> None:
    files = [(room, module) for room in LIGHT_ROOMS for module in sorted(modules_of(room))]
    names = [f"shipworthy.{room}.{module}" for room, module in files if f"{room}/{module}.py" not in NAMED_AFTER]
    code = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code, *names], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout))
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert not {name for name in loaded if name.startswith(("shipworthy.ledger", "shipworthy.data"))}
