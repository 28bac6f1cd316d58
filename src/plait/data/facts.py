"""What there is to know about the data before anything is trained, in plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from plait.data.columns import Column
from plait.data.records import TaskLabels
from plait.data.stores import Array
from plait.task import TaskSet

FEW_LABELS = 20
SHOWN = 6


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
    counts = {
        name: np.bincount(split[found.rows], minlength=3).tolist() for name, found in labels.items()
    }
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
        train = sorted(each[0] for each in counts.values())
        facts.append(
            f"Training labels a task: {train[0]:,} to {train[-1]:,}, "
            f"{train[len(train) // 2]:,} in the middle."
        )
    return facts, _label_warnings(labels, split, counts)


def _kinds(tasks: TaskSet) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for task in tasks:
        words = f"{len(task.classes)} classes" if task.kind == "classes" else task.kind
        kinds.setdefault(words, []).append(task.name)
    return ["Kinds: " + "; ".join(f"{kind}: {named(names)}" for kind, names in kinds.items()) + "."]


def _label_warnings(
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
    for number, part in ((0, "training"), (2, "test")):
        constant = []
        for name, found in labels.items():
            values = found.values[split[found.rows] == number]
            if len(values) > 1 and (values == values[0]).all():
                constant.append(name)
        if constant:
            warnings.append(f"All {part} labels are the same for {named(constant)}.")
    return warnings


def duplicate_facts(
    hashes: Array, labels: Mapping[str, TaskLabels], split: Array
) -> tuple[list[str], list[str]]:
    """Valid and test rows with exactly the inputs of a training row of the same task."""
    kinds, codes = np.unique(hashes, return_inverse=True)
    repeated = np.zeros(len(split), dtype=bool)
    labelled = np.zeros(len(split), dtype=bool)
    for found in labels.values():
        own, parts = codes[found.rows], split[found.rows]
        held = parts > 0
        trained = np.zeros(len(kinds), dtype=bool)
        trained[own[parts == 0]] = True
        repeated[found.rows[held]] |= trained[own[held]]
        labelled[found.rows] = True
    facts, warnings = [], []
    for number, part in ((1, "valid"), (2, "test")):
        rows = labelled & (split == number)
        twice = int(repeated[rows].sum())
        share = twice / max(int(rows.sum()), 1)
        said = (
            f"{twice:,} {part} rows ({share:.1%}) have exactly the inputs of a training row of the "
            "same task"
        )
        if share >= 0.01:
            warnings.append(f"{said}; if they are copies, a grouped split keeps them together.")
        elif twice:
            facts.append(f"{said}.")
    return facts, warnings
