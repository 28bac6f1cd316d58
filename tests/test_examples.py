"""Every example printed anywhere is run or validated: pages, docstrings, recipes, example files.

In Markdown, the python blocks of a page are one script, run from top to bottom in a folder that
holds ``fruit.csv`` and ``fruit.parquet``; yaml blocks are studies, or fragments of one; lines of
bash blocks that start with ``plait`` are parsed by the command line, and run on the quickstart
page. ``<!-- file: NAME -->`` before a block writes it to that file; ``<!-- not run: REASON -->``
is the only way out.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML
from typer.main import get_command

from plait import recipes
from plait.cli.main import app
from plait.recipes.merge import read_merge
from plait.testing.toys import toy_frame

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
RECIPES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("benchmarks/**/*.yaml")])
SOURCES = sorted((ROOT / "src" / "plait").rglob("*.py"))
MEASURES = re.compile(r"python benchmarks/|plait compare (recipes|benchmarks)/")
MERGES = re.compile(r"^models:", re.MULTILINE)
RUN_PAGES = {"quickstart.md"}  # pages whose shell lines are executed too

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<word>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
# One process for all the lines of a page: loading torch takes longer than most of them.
COMMAND = """import pathlib
def command(words):
    from plait.cli.main import run
    try:
        run(words)
    except SystemExit as end:
        assert not end.code, f"plait {' '.join(words)} ended with {end.code}"
"""
PREFACE = {"data": "data: {table: fruit.csv}\n", "tasks": "tasks: [ripe]\n"}


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    mark: str
    word: str


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        line = text[: match.start("body")].count("\n") + 1
        indent = match["indent"]
        body = "".join(row.removeprefix(indent) for row in match["body"].splitlines(keepends=True))
        found.append(Block(match["kind"], body, line, match["mark"] or "", match["word"] or ""))
    return found


def kept(text: str, kind: str) -> list[Block]:
    return [b for b in blocks(text) if b.kind == kind and b.mark != "not run"]


def studies(text: str) -> list[str]:
    """The studies in a yaml block, fragments completed by a table and a task."""
    found = []
    for piece in re.split(r"^---$", text, flags=re.MULTILINE):
        keys = YAML(typ="safe", pure=True).load(piece)
        assert isinstance(keys, dict), f"no mapping: {piece}"
        found.append("".join(PREFACE[key] for key in PREFACE if key not in keys) + piece)
    return found


def named(paths: list[Path]) -> list[pytest.param]:
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in paths]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PLAIT_DATA", "data")
    table = toy_frame(rows=160)
    table.write_csv(tmp_path / "fruit.csv")
    table.write_parquet(tmp_path / "fruit.parquet")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", named(PAGES))
def test_yaml_in_pages_is_valid(page):
    text = page.read_text("utf-8")
    for block in kept(text, "yaml"):
        for study in studies(block.text):
            try:
                recipes.loads(study, f"{page.name}:{block.line}")
            except recipes.RecipeError as error:
                pytest.fail(f"{page.name}, line {block.line}:\n{block.text}\n{error}")


@pytest.mark.parametrize(
    "page",
    named([p for p in PAGES if kept(p.read_text("utf-8"), "python") and p.name not in RUN_PAGES]),
)
def test_python_in_pages_runs(page, folder):
    script = "".join(block.text for block in kept(page.read_text("utf-8"), "python"))
    (folder / "page.py").write_text(script, "utf-8")
    run(["page.py"], folder)


@pytest.mark.parametrize("page", named([p for p in PAGES if p.name in RUN_PAGES]))
def test_pages_that_run_from_top_to_bottom(page, folder):
    """Python blocks share one script's names; shell lines run in between, in the same folder."""
    (folder / "fruit.csv").unlink()
    script = [COMMAND]
    for block in blocks(page.read_text("utf-8")):
        if block.mark == "not run":
            continue
        if block.mark == "file":
            script.append(f"pathlib.Path({block.word!r}).write_text({block.text!r})")
        elif block.kind == "python":
            script.append(block.text)
        elif block.kind == "bash":
            script += [f"command({shlex.split(line)[1:]!r})" for line in commands(block)]
    (folder / "page.py").write_text("\n".join(script), "utf-8")
    run(["page.py"], folder)


def commands(block: Block) -> list[str]:
    lines = [line.partition(" #")[0].strip() for line in block.text.splitlines()]
    return [line for line in lines if line.startswith("plait ")]


@pytest.mark.parametrize("page", named(PAGES))
def test_command_lines_in_pages_are_understood(page):
    """Commands and options exist; nothing is run."""
    root = get_command(app)
    for block in kept(page.read_text("utf-8"), "bash"):
        for line in commands(block):
            words = shlex.split(line)[1:]
            command = root.commands.get(words[0]) if not words[0].startswith("-") else root
            assert command is not None, f"{page.name}:{block.line}: no command {words[0]!r}"
            result = CliRunner().invoke(command, [*words[1:], "--help"])
            assert result.exit_code == 0, f"{page.name}:{block.line}: {line}\n{result.output}"


def test_make_targets_in_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        for block in blocks(page.read_text("utf-8")):
            if block.kind not in ("bash", "sh"):
                continue
            for target in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE):
                assert target in targets, f"{page.name}: make {target}"


@pytest.mark.parametrize("recipe", named(RECIPES))
def test_recipes_are_valid_and_written_back_the_same(recipe):
    study = recipes.read(recipe)
    assert recipes.loads(recipes.write(study), recipe.name) == study


@pytest.mark.parametrize("example", named(EXAMPLES))
def test_example_files_run(example, folder):
    assert run([str(example)], folder).strip(), f"{example.name} prints nothing"


def literal_yaml(words: str) -> list[str]:
    """Indented blocks after ``::`` and fences in a docstring that hold a study or a part of one."""
    found = [block.text for block in kept(words, "yaml")]
    for match in re.finditer(r"::\n\n((?:(?: {4,}.*)?\n)+)", words + "\n"):
        rows = match[1].splitlines()
        lead = min(len(row) - len(row.lstrip()) for row in rows if row.strip())
        text = "\n".join(row[lead:] for row in rows)
        if re.match(r"(data|tasks|strategies|training|encoder|seeds|title):", text):
            found.append(text)
    return found


def test_yaml_in_docstrings_is_valid():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for text in literal_yaml(ast.get_docstring(node) or ""):
                for study in studies(text):
                    recipes.loads(study, path.name)


def test_python_in_docstrings_is_a_doctest():
    """A fenced python block would not be run: docstrings use ``>>>``, which pytest runs."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                words = ast.get_docstring(node) or ""
                assert "```python" not in words, f"{path.name}: write it as a doctest"


def test_blocks_left_out_are_rare_and_say_why():
    left = [
        (page.name, block.word, block.text)
        for page in PAGES
        for block in blocks(page.read_text("utf-8"))
        if block.mark == "not run"
    ]
    assert all(len(word.split()) >= 2 for _, word, _ in left), left
    # Beside the commands that repeat measurements, which take too long by their nature, and the
    # recipes of merges, which are read below.
    own = (MEASURES, MERGES)
    others = [(page, word) for page, word, text in left if not any(x.search(text) for x in own)]
    assert len(others) <= 2, others


@pytest.mark.parametrize(
    "text",
    [b.text for page in PAGES for b in blocks(page.read_text("utf-8")) if MERGES.search(b.text)],
)
def test_recipes_of_merges_in_pages_are_read(text, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text, "utf-8")
    job = read_merge(file)
    assert {"math", "code"} <= set(job.models)


@pytest.mark.parametrize("page", named(PAGES))
def test_links_in_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith(("https://", "#")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in known, f"{page.name}: {path} has no heading {anchor!r}"
