"""The house rules: budgets, the import rule, nothing stale, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import plait
from plait.method import methods
from plait.testing import docs, index

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "plait"
MODULES = sorted(SOURCE.rglob("*.py"))
METHODS = sorted(
    Path(module.__file__ or "") for module in index.method_modules() if index.own_methods(module)
)
ROOMS = sorted({path.parent for path in METHODS})


def named(paths: list[Path]) -> list[pytest.param]:
    return [pytest.param(path, id=str(path.relative_to(SOURCE))) for path in paths]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_file_keeps_its_budget():
    over = []
    for path in MODULES:
        lines = len(path.read_text("utf-8").splitlines())
        allowed = 200 if path in METHODS else 400
        if lines > allowed:
            over.append(f"{path.relative_to(SOURCE)}: {lines} lines, {allowed} allowed")
    assert not over, over


def test_every_function_keeps_its_budget():
    over = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    over.append(f"{path.relative_to(SOURCE)}: {node.name} has {lines} lines")
    assert not over, over


def test_package_files_only_export():
    lazy = {"__getattr__", "__dir__"}
    for path in MODULES:
        if path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            exports = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
            words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            fetch = isinstance(node, ast.FunctionDef) and node.name in lazy
            assert exports or words or types or fetch, (
                f"{path.relative_to(SOURCE)}:{node.lineno} does more than export"
            )


def test_every_module_says_what_it_is():
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        if tree.body:
            assert ast.get_docstring(tree), f"{path.relative_to(SOURCE)} has no docstring"


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError\(\)\s*#")
    for path in MODULES:
        found = marks.search(path.read_text("utf-8"))
        assert not found, f"{path.relative_to(SOURCE)}: {found and found.group()}"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", named(METHODS))
def test_method_files_import_no_other_method_file(path):
    others = {
        "plait." + ".".join(other.relative_to(SOURCE).with_suffix("").parts)
        for other in METHODS
        if other != path
    }
    assert not others & set(imports(path))


def test_imports_point_down_only():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-cache", "--config", ROOT / ".importlinter"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_import_rule_is_enforced(tmp_path):
    """A module that imports upwards is refused by the same contracts."""
    package = tmp_path / "plait"
    for room in ("testing", "cli", "recipes", "comparing", "training", "sharing", "balancing",
                 "adapting", "merging", "networks", "data", "weights", "batch", "task", "metrics",
                 "losses", "kinds", "linalg", "method", "settings"):  # fmt: skip
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "balancing" / "__init__.py").write_text("import plait.sharing\n")
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-cache", "--config", ROOT / ".importlinter", "--contract", "layers"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "plait.balancing is not allowed to import plait.sharing" in done.stdout


LIGHT = ["plait", "plait.method", "plait.weights", "plait.merging"]
# What mergers that look at data share; these mergers themselves load torch, the others never do.
LOOKING = {
    "activations", "bench", "exclusive", "modules", "objectives", "route", "statistics", "tune",
    "vertices",
}  # fmt: skip
SEEN = {"unlabelled", "labelled", "features", "heads", "backward", "router_data"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module):
    looking = LOOKING | {one.name for one in methods("merging") if SEEN.intersection(one.needs)}
    code = (
        f"import sys, pkgutil, importlib; found = importlib.import_module({module!r})\n"
        f"if {module!r} in ('plait.weights', 'plait.merging'):\n"
        "    for one in pkgutil.iter_modules(found.__path__):\n"
        f"        if one.name not in {sorted(looking)}:\n"
        "            importlib.import_module(f'{found.__name__}.{one.name}')\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_torch():
    code = (
        "import sys; sys.argv = ['plait', '--help']\n"
        "from plait.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'polars', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout


def test_settings_keyed_by_names_say_whether_these_are_tasks():
    """Else a study's misspelt task in them is found only when the cell runs."""
    silent = {
        f"{entry.key}.{name}"
        for entry in methods()
        for name, row in entry.settings.items()
        if "Mapping[str" in row["type"] and "part" not in row and "tasks" not in row
    }
    of_tensors = {f"merging.{one}.rules" for one in ("by_tensor", "pleas", "seme", "zipit")}
    assert silent == of_tensors, "say so in names_tasks of the class"


def test_the_index_of_methods_is_fresh():
    assert not index.stale(), "run: python -m plait.testing.index"


def test_a_stale_index_is_noticed(monkeypatch, tmp_path):
    stored = index.PATH.read_text("utf-8")
    copy = tmp_path / "methods.json"
    monkeypatch.setattr(index, "PATH", copy)
    copy.write_text("[]\n", "utf-8")
    assert "missing: balancing.equal" in index.stale()
    copy.write_text(stored.replace('"summary": "', '"summary": "Not '), "utf-8")
    assert "changed: balancing.equal" in index.stale()
    copy.write_text(stored + "\n", "utf-8")
    assert index.stale() == "formatted differently"


def test_the_method_pages_are_fresh():
    assert not docs.stale(), "run: python -m plait.testing.docs"


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/plait/__init__.py"
    assert version("plait") == plait.__version__


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_place_on_one_machine():
    place = re.compile(r"(?<![\w./{}-])(/(home|root|Users|work|workspace)/\w|[A-Z]:\\Users\\)")
    for path in files():
        if path.suffix in {".png", ".parquet", ".npz", ".safetensors", ".lock"}:
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            assert not place.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_no_large_or_binary_litter():
    for path in files():
        assert path.stat().st_size < 2_000_000, f"{path.relative_to(ROOT)} is large"
        assert path.suffix not in {".pkl", ".pt", ".joblib", ".ckpt", ".sqlite"}, path


def test_public_names_exist_whatever_was_imported_before():
    """A submodule of a room must not take the place of what the room exports under its name."""
    code = (
        "import importlib, pkgutil, types, plait\n"
        "for found in pkgutil.walk_packages(plait.__path__, 'plait.'):\n"
        "    if '__main__' not in found.name:\n        importlib.import_module(found.name)\n"
        "for _ in range(2):\n"
        "    for name in plait.__all__:\n"
        "        assert not isinstance(getattr(plait, name), types.ModuleType), name"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plait.nothing
