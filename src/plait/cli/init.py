"""``plait init``: from a table to a commented study that runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plait.cli.noticing import Noticed
    from plait.data import TaskSpec
    from plait.data.columns import Column
    from plait.data.sources import Table
    from plait.data.survey import Survey

LISTED = 40  # columns whose inferred types are written down one by one
LOOKED_AT = 200_000_000  # bytes: of larger files a share is read


def init(
    source: Annotated[str, typer.Argument(help="A table: CSV, Parquet or npz; globs allowed.")],
    targets: Annotated[
        str | None,
        typer.Option("--targets", "-t", help="The columns to predict: a,b or patterns 'assay_*'."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")] = Path("study.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take every guess; never ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Look at a table and write a commented study.

    Types and kinds are inferred; on a terminal you are asked where a guess is unsure.
    """
    from plait.cli import console
    from plait.data.sources import read

    if out.exists() and not force:
        raise console.InputError(f"{out} exists; give another name with -o, or --force")
    asking = console.interactive() and not yes
    table = read(source, "table")
    draft = Draft(source=source, out=out, table=table)
    for name in _targets(table, targets, asking):
        draft.add(name)
    draft.look()
    if asking:
        for task in draft.unsure():
            draft.kinds[task] = _ask_kind(draft, task)
        if draft.kinds:
            draft.look()
        draft.by = _ask_group(draft)
    text = draft.text()
    _check(text, str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    _report(draft)


@dataclass
class Draft:
    """A study being written."""

    source: str
    out: Path
    table: Table
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    found: Any = None
    noticed: Any = None
    id: str | None = None
    by: str | None = None

    def add(self, name: str) -> None:
        """Declare a target: a column, or all that fit a pattern."""
        from plait.data.columns import has_match
        from plait.data.profile import odd_words
        from plait.method import did_you_mean

        known = self.table.columns
        if name in known:
            self.tasks[name] = {}
            values = self.table.collect([name])[name]
            if str(values.dtype) == "String" and (words := odd_words(values)):
                self.tasks[name] = {"missing": words, "kind": "real"}
        elif any(mark in name for mark in "*?[") and has_match(self.table, name):
            label = "".join(c for c in name if c.isalnum() or c == "_").strip("_") or "tasks"
            self.tasks[label if label not in known else f"{label}_tasks"] = {"columns": name}
        else:
            raise ValueError(f"{self.table.place}: no column {name!r}{did_you_mean(name, known)}")

    def look(self) -> None:
        """Read the table as the study would, and keep what was inferred."""
        from plait.cli.noticing import notice
        from plait.data import DataSpec, SplitSpec, TableSpec
        from plait.data.survey import survey

        targets = [name for name in self.table.columns if self._is_target(name)]
        noticed: Noticed = notice(self.table, targets, None)
        self.noticed = noticed
        spec = TableSpec(source=self.source, types=noticed.types)
        named = noticed.split
        split = None if named is None else SplitSpec(kind="column", by=named)
        folder = self.table.folder or Path()
        size = sum((folder / file).stat().st_size for file, _ in self.table.files)
        share = min(1.0, LOOKED_AT / size) if size else 1.0
        found: Survey = survey(
            DataSpec(tables={"table": spec}, split=split),
            self.specs(),
            sample=share if share < 1 else None,
        )
        self.found = found
        ids = [c.columns[0] for c in found.columns if c.reason.startswith("an id")]
        self.id = next((name for name in ids if self._names_rows(name)), None)

    def _names_rows(self, name: str) -> bool:
        """Whether a column names every row, and each by a name of its own."""
        values = self.table.collect([name])[name]
        return values.null_count() == 0 and values.n_unique() == len(values)

    def _is_target(self, name: str) -> bool:
        from plait.data.columns import fits

        return any(fits(name, given.get("columns", label)) for label, given in self.tasks.items())

    def specs(self) -> dict[str, TaskSpec]:
        """The tasks as declared so far."""
        from plait.data import TaskSpec

        found = {}
        for name, given in self.tasks.items():
            settings = {**({} if "columns" in given else {"target": name}), **given}
            if name in self.kinds:
                settings["kind"] = self.kinds[name]
            found[name] = TaskSpec(**settings)
        return found

    def unsure(self) -> list[str]:
        """Targets of whole numbers, which may be names, grades, amounts or counts."""
        found = []
        for name, given in self.tasks.items():
            if "columns" in given:
                continue
            values = self.table.collect([name])[name].drop_nulls()
            whole = values.dtype.is_integer() or (
                values.dtype.is_float() and bool((values == values.floor()).all())
            )
            if whole and values.n_unique() > 2:
                found.append(name)
        return found

    def text(self) -> str:
        """The study, with comments."""
        from plait.comparing.emit import inline, word

        path = self.source if Path(self.source).is_absolute() else self._relative()
        named = self.noticed.split
        split = f"{{column: {word(named)}}}" if named else "{random: [0.8, 0.1, 0.1], seed: 0}"
        if self.by is not None:
            split = f"{{grouped: [0.8, 0.1, 0.1], by: {word(self.by)}}}"
        rows = [
            f"# Written by plait init. To run it: plait compare {self.out.name}",
            *(f"# Unsure: {_comment(line)}." for line in self.doubts()),
            "data:",
            f"  table: {word(path)}",
        ]
        if self.id:
            rows.append(f"  id: {word(self.id)} # every row has its own")
        rows += [
            "  # Train, valid, test. To keep rows together: {grouped: [0.8, 0.1, 0.1], by: user};",
            "  # the future as test: {time: [0.8, 0.1, 0.1], by: date}.",
            f"  split: {split}",
            *self._types(),
            "tasks:",
        ]
        rows += [self._task(name, given) for name, given in self.tasks.items()]
        rows += [
            "",
            "# Everything below may be left out.",
            "# encoder: {trunk: {mlp: {width: 256, depth: 2}}}",
            "training: {passes: 30} # over each task's labelled rows; the best weights are kept",
            "strategies: # plain baselines always run too",
        ]
        rows += [f"  {label}: {inline(spelled)} # {why}" for label, spelled, why in STRATEGIES]
        rows += ["seeds: {init: 3, split: 1} # how often weights are drawn, and rows are split"]
        if self.by is not None:
            rows += [f"intervals: {{by: {word(self.by)}}} # the units that are resampled"]
        return "".join(f"{row}\n" for row in rows)

    def doubts(self) -> list[str]:
        """Everything that was guessed and could be otherwise."""
        from plait.cli.noticing import sentinels
        from plait.comparing.emit import word

        found = list(self.noticed.unsure)
        for name in self.unsure():
            kind = self.found.tasks[name].kind
            if name not in self.kinds:
                found.append(f"{name} holds whole numbers, taken as {kind}; classes, ordinal, real "
                             "or counts?")  # fmt: skip
        for name, given in self.tasks.items():
            if "missing" in given:
                said = ", ".join(map(repr, given["missing"]))
                found.append(f"{name} holds numbers and {said}, taken as no label")
            if "columns" not in given:
                for number, share in sentinels(self.table.collect([name])[name]):
                    found.append(f"{share:.0%} of {name} is {number}; if that means no label, add "
                                 f"missing: [{number}]")  # fmt: skip
        for name, count in self.noticed.groups.items():
            if name != self.by:
                found.append(f"{name} repeats ({count:,} values); to keep its rows together, "
                             f"split: {{grouped: [0.8, 0.1, 0.1], by: {word(name)}}}")  # fmt: skip
        found += [
            f"to test on the latest rows, split: {{time: [0.8, 0.1, 0.1], by: {word(name)}}}"
            for name in self.noticed.moments
        ]
        if self.id is None and not self.noticed.groups:
            found.append("no column names the rows; if one does, add id: to data")
        return [*found, *(warning.rstrip(".") for warning in self.found.warnings)]

    def _relative(self) -> str:
        return os.path.relpath(self.source, self.out.parent).replace(os.sep, "/")

    def _types(self) -> list[str]:
        from plait.comparing.emit import word

        columns = [column for column in self.columns() if column.columns[0] != self.id]
        if len(columns) > LISTED:
            return [
                f"  # {len(columns)} inputs; their types are inferred: plait validate shows them."
            ]
        if not columns:
            return []
        rows = ["  types: # as inferred: numeric, categorical, text, image, vector or ignored"]
        width = max(len(f"{word(c.role)}: {c.type}") for c in columns)
        for column in columns:
            line = f"{word(column.role)}: {column.type}"
            rows.append(f"    {line:<{width}} # {_comment(column.reason)}")
        return rows

    def columns(self) -> Sequence[Column]:
        """What is used as an input, or left out."""
        found: Sequence[Column] = self.found.columns
        return found

    def _task(self, name: str, given: dict[str, Any]) -> str:
        from plait.comparing.emit import inline, word

        names = self.found.declared[name]
        task = self.found.tasks[names[0]]
        kinds = {self.found.tasks[each].kind for each in names}
        declared = {**given, **({"kind": task.kind} if len(kinds) == 1 else {})}
        count = sum(sum(self.found.counts[each]) for each in names)
        said = [f"{len(names)} tasks"] if "columns" in given else []
        said.append(f"{count:,} labels")
        missing = 1 - count / (self.found.rows * len(names))
        said += [f"{missing:.0%} missing"] if missing > 0.005 else []
        if task.kind == "binary" and len(names) == 1 and task.classes:
            said.append(f"{task.classes[-1]!r} is positive")
        if task.named:
            said.append(f"{len(task.classes)} classes")
        return f"  {word(name)}: {inline(declared)} # {_comment(', '.join(said))}"


STRATEGIES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("separate", {}, "one network for each task: what the others are measured against"),
    ("joint", {}, "one network, a head for each task"),
    ("weighted", {"joint": {"balancing": "uncertainty"}}, "tasks weighted by how noisy they are"),
    ("projected", {"joint": {"balancing": "pcgrad"}}, "conflicts between gradients projected away"),
    ("experts", {"joint": {"sharing": "mmoe"}}, "each task mixes shared experts"),
)


def _comment(text: str) -> str:
    from plait.cli.console import one_line

    return one_line(text)


def _targets(table: Table, given: str | None, asking: bool) -> list[str]:
    from plait.cli import console

    if given is None:
        known = ", ".join(console.one_line(name) for name in table.columns[:60])
        if not asking:
            raise console.InputError(f"say what to predict: --targets a,b (columns: {known})")
        console.say(f"Columns: {known}")
        given = typer.prompt("Which columns are predicted (a,b or patterns)")
    if given in table.columns:  # a column whose name holds a comma
        return [given]
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise console.InputError("--targets names no column")
    return list(dict.fromkeys(names))


def _ask_kind(draft: Draft, name: str) -> str:
    from plait.cli import console
    from plait.task import kind_of

    values = draft.table.collect([name])[name].drop_nulls()
    guess = draft.found.tasks[name].kind
    label = console.one_line(name)
    low, high = int(values.min()), int(values.max())  # type: ignore[arg-type]
    console.say(f"{label}: {values.n_unique()} whole numbers from {low} to {high}.")
    while True:
        word = typer.prompt(
            "  classes, ordinal (grades), real (an amount) or counts", default=guess
        )
        try:
            return kind_of(word).name
        except ValueError as error:
            console.say(f"  {error}")


def _ask_group(draft: Draft) -> str | None:
    """The column whose rows stay together, where there is a candidate and the user says so."""
    from plait.cli import console

    if draft.noticed.split:
        return None
    for name, count in draft.noticed.groups.items():
        said = f"{console.one_line(name)} repeats ({count:,} values). Keep its rows together"
        if typer.confirm(f"{said} in train, valid or test?", default=True):
            return str(name)
    return None


def _check(text: str, name: str) -> None:
    """What was written must be what the other commands read."""
    from plait.recipes import loads

    loads(text, name)


def _report(draft: Draft) -> None:
    from plait.cli import console

    found = draft.found
    shown = draft.columns()[:LISTED]
    rows = [(" + ".join(c.columns), c.type, c.reason) for c in shown]
    console.show(console.table(("column", "type", "because"), rows))
    if len(draft.columns()) > LISTED:
        console.say(f"… and {len(draft.columns()) - LISTED} more columns", "dim")
    console.say()
    tasks = [
        (row["name"], row["kind"], f"{row['train']:,}", f"{row['valid']:,}", f"{row['test']:,}")
        for row in found.summary()[:LISTED]
    ]
    head = ("task", "kind", "train", "valid", "test")
    console.show(console.table(head, tasks, right=head[2:]))
    for warning in found.warnings:
        console.warn(warning)
    console.say()
    console.say(f"Written: {draft.out}. To run it: plait compare {draft.out}")
