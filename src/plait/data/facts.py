"""What there is to know about the data before anything is trained, in plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from plait.data.columns import Column
from plait.data.records import TaskLabels
from plait.data.stores import Array
from plait.task import TaskSet

FEW_LABELS = 20
SHOWN = 6
PAIRED = 64  # tasks; of more, pairs are not counted


def named(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def column_facts(columns: Sequence[Column]) -> list[str]:
    """How many inputs of each type, and what was left out."""
    roles = {column.role: column for column in columns}
    used = Counter(column.type for column in roles.values() if column.type != "ignored")
    facts = ["Inputs: " + ", ".join(f"{count} {kind}" for kind, count in used.items()) + "."]
    left = [
        f"{role} ({column.reason})" for role, column in roles.items() if column.type == "ignored"
    ]
    if left:
        facts.append(f"Left out: {named(left)}.")
    return facts


def label_facts(
    tasks: TaskSet, labels: Mapping[str, TaskLabels], split: Array, possible: Mapping[str, int]
) -> tuple[list[str], list[str]]:
    """Label counts, the share of missing labels, and warnings for tasks that cannot be learnt well.

    ``possible`` is the number of rows that could carry a label of each task.
    """
    counts = label_counts(labels, split)
    total = sum(sum(each) for each in counts.values())
    chance = sum(possible.values())
    facts = []
    missing = f"; {1 - total / chance:.1%} of the labels are missing" if total < chance else ""
    noun = "task" if len(tasks) == 1 else "tasks"
    facts.append(f"{len(tasks)} {noun}, {total:,} labels{missing}.")
    facts += _kinds(tasks)
    if len(tasks) <= SHOWN:
        for name, (train, valid, test) in counts.items():
            facts.append(f"{name}: {train:,} train, {valid:,} valid, {test:,} test labels.")
    else:
        numbers = sorted(each[0] for each in counts.values())
        facts.append(
            f"Training labels a task: {numbers[0]:,} to {numbers[-1]:,}, "
            f"{numbers[len(numbers) // 2]:,} in the middle."
        )
    return facts, _label_warnings(tasks, labels, split, counts)


def label_counts(labels: Mapping[str, TaskLabels], split: Array) -> dict[str, tuple[int, int, int]]:
    """The labels of each task in train, valid and test."""
    found = {}
    for name, own in labels.items():
        parts = split[own.rows]
        train, valid, test = (int((parts == part).sum()) for part in range(3))
        found[name] = (train, valid, test)
    return found


def pair_counts(labels: Mapping[str, TaskLabels], rows: int) -> dict[tuple[str, str], int]:
    """How many rows have labels of both of two tasks; empty above ``PAIRED`` tasks."""
    if not 1 < len(labels) <= PAIRED:
        return {}
    kind = np.dtype(f"u{max(1, 1 << (-(-len(labels) // 8) - 1).bit_length())}")
    marks = np.zeros(rows, dtype=kind)
    for place, own in enumerate(labels.values()):
        marks[own.rows] |= kind.type(1 << place)
    counts: Counter[int] = Counter()
    for start in range(0, rows, 1 << 20):
        values, times = np.unique(marks[start : start + (1 << 20)], return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    found = {}
    for (i, one), (j, two) in combinations(enumerate(labels), 2):
        both = (1 << i) | (1 << j)
        found[one, two] = sum(n for mark, n in counts.items() if mark & both == both)
    return found


def pair_facts(labels: Mapping[str, TaskLabels], rows: int) -> list[str]:
    """Rows labelled for several tasks: each pair of few tasks, the extremes of many."""
    pairs = pair_counts(labels, rows)
    if not pairs:
        return []
    if len(labels) <= 4:
        shown = "; ".join(f"{one} and {two}: {count:,}" for (one, two), count in pairs.items())
        return [f"Rows labelled for both of two tasks: {shown}."]
    low, high = min(pairs, key=pairs.__getitem__), max(pairs, key=pairs.__getitem__)
    none = sum(count == 0 for count in pairs.values())
    apart = f"; {none} of {len(pairs)} pairs share no row" if none else ""
    least, most = (f"{pairs[pair]:,} ({' and '.join(pair)})" for pair in (low, high))
    return [f"Rows labelled for both of two tasks: from {least} to {most}{apart}."]


def _kinds(tasks: TaskSet) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for task in tasks:
        words = f"{len(task.classes)} classes" if task.kind == "classes" else task.kind
        kinds.setdefault(words, []).append(task.name)
    return ["Kinds: " + "; ".join(f"{kind}: {named(names)}" for kind, names in kinds.items()) + "."]


def _label_warnings(
    tasks: TaskSet,
    labels: Mapping[str, TaskLabels],
    split: Array,
    counts: Mapping[str, Sequence[int]],
) -> list[str]:
    warnings = []
    for number, part in ((1, "valid"), (2, "test")):
        absent = [name for name, each in counts.items() if not each[number]]
        if absent:
            warnings.append(f"No {part} labels for {named(absent)}.")
    few = [name for name, each in counts.items() if each[0] < FEW_LABELS]
    if few:
        warnings.append(f"Fewer than {FEW_LABELS} training labels for {named(few)}.")
    for number, part in ((0, "training"), (1, "valid"), (2, "test")):
        constant: list[str] = []
        one_class: list[str] = []
        for name, found in labels.items():
            values = found.values[split[found.rows] == number]
            if len(values) > 1 and (values == values[0]).all():
                (one_class if found.truth is None and number else constant).append(name)
        if constant:
            warnings.append(f"All {part} labels are the same for {named(constant)}.")
        if one_class:
            warnings.append(
                f"All {part} labels are of one class for {named(one_class)}: some scores are "
                "undefined there; a stratified split spreads the classes."
            )
    return [*warnings, *_absent_classes(tasks, labels, split)]


def _absent_classes(tasks: TaskSet, labels: Mapping[str, TaskLabels], split: Array) -> list[str]:
    """Declared classes that no training row has."""
    found = []
    for task in tasks:
        if len(task.classes) < 2 or task.kind == "binary":
            continue
        own = labels[task.name]
        have = np.unique(own.values[split[own.rows] == 0])
        absent = [name for code, name in enumerate(task.classes) if code not in have]
        if absent:
            found.append(
                f"Classes of {task.name} without a training label: {named(absent)}; they cannot "
                "be learnt."
            )
    return found
