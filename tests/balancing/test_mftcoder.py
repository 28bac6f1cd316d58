from __future__ import annotations

import pytest
import torch

from plait.balancing.base import Signals
from plait.balancing.mftcoder import MFTCoder

# Two tasks; each row is the losses of its tokens.
ROWS = {
    "code": [[0.5, 1.0, 1.5], [2.0]],
    "test": [[4.0, 2.0], [1.0, 3.0], [6.0, 1.0, 2.0, 3.0, 5.0]],
}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cases(rows: dict[str, list[list[float]]]) -> list[float]:
    """The paper's four, token by token."""
    tokens = {name: [x for row in found for x in row] for name, found in rows.items()}
    means = {name: [mean(row) for row in found] for name, found in rows.items()}
    return [
        mean([x for found in tokens.values() for x in found]),
        mean([x for found in means.values() for x in found]),
        mean([mean(found) for found in tokens.values()]),
        mean([mean(found) for found in means.values()]),
    ]


def total(rows: dict[str, list[list[float]]], per: str, *, tokens: bool) -> float:
    """Σ α_i L_i where a record weighs its number of tokens, or one."""
    losses, counts = {}, []
    for name, found in rows.items():
        weights = [float(len(row)) if tokens else 1.0 for row in found]
        terms = [w * mean(row) for w, row in zip(weights, found, strict=True)]
        losses[name] = sum(terms) / sum(weights)
        counts.append(sum(weights))
    s = Signals.of(losses, counts=torch.tensor(counts))
    return float(MFTCoder(per=per)(s) @ s.losses)


def test_equals_the_papers_four_cases():
    found = [
        total(ROWS, "label", tokens=True),
        total(ROWS, "label", tokens=False),
        total(ROWS, "task", tokens=True),
        total(ROWS, "task", tokens=False),
    ]
    assert found == pytest.approx(cases(ROWS))
    assert len({round(value, 6) for value in found}) == 4


def test_more_rows_of_one_task_change_the_mean_over_labels_only():
    more = {**ROWS, "code": ROWS["code"] * 3}
    for tokens in (True, False):
        per_task = total(more, "task", tokens=tokens)
        assert per_task == pytest.approx(total(ROWS, "task", tokens=tokens))
        per_label = total(more, "label", tokens=tokens)
        assert per_label != pytest.approx(total(ROWS, "label", tokens=tokens))


def test_preferences_weigh_the_mean():
    preferences = torch.tensor([3.0, 1.0])
    s = Signals.of({"a": 1.0, "b": 2.0}, preferences=preferences, counts=torch.tensor([5.0, 10.0]))
    assert (MFTCoder()(s) * preferences).tolist() == pytest.approx([0.75, 0.25])
    assert (MFTCoder(per="label")(s) * preferences).tolist() == pytest.approx([0.6, 0.4])


def test_per_is_checked():
    with pytest.raises(ValueError, match="'task' or 'label'"):
        MFTCoder(per="row")
