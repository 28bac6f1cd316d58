"""Every property of the contract on every registered method."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from plait.adapting.lora import Lora
from plait.balancing.base import Signals
from plait.balancing.equal import Equal
from plait.balancing.pcgrad import PCGrad
from plait.merging.average import Average
from plait.merging.base import Merged, Merger
from plait.method import Card, Law
from plait.sharing.mmoe import Mmoe
from plait.testing import (
    BrokenLawError,
    Property,
    Subject,
    check_method,
    golden,
    properties,
    registered,
    unchecked,
)
from plait.testing.contract import golden as numbers
from plait.testing.laws import hold

GOLDEN = Path(__file__).with_name("golden")
SUBJECTS = [Subject(cls) for _, cls in sorted(registered().items())]
CASES = [
    pytest.param(subject, one, id=f"{subject.name}-{one.name}")
    for subject in SUBJECTS
    for one in properties(subject)
]


@pytest.mark.parametrize(("subject", "one"), CASES)
def test_the_contract_holds(subject: Subject, one: Property):
    hold(subject, one)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_golden_numbers(subject: Subject):
    difference = golden.compare(golden.read(GOLDEN, subject.name), numbers(subject))
    assert not difference, f"{subject.name}: {difference}"


def test_every_registered_class_was_checked():
    assert unchecked(case.values[0].cls for case in CASES) == []


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {s.name for s in SUBJECTS}


def test_every_family_promises_enough():
    count = {subject.family: len(properties(subject)) for subject in SUBJECTS}
    assert min(count.values()) >= 20, count
    assert count["balancing"] >= 25


def toy(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> type[Average]:
    """A fresh merger class, an average unless something is broken in it."""

    @dataclass(frozen=True, kw_only=True)
    class Toy(Average):
        """The mean, θ = Σ θ_m / M."""

        card: ClassVar[Card] = replace(Average.card, name=name)

    for key, value in changes.items():
        setattr(Toy, key, value)
    # A class that can be written down as module:Class, as one in somebody's file can.
    Toy.__qualname__ = Toy.__name__ = name
    monkeypatch.setitem(globals(), name, Toy)
    return Toy


def test_a_class_the_contract_was_not_run_on_is_noticed(monkeypatch):
    newcomer = toy(monkeypatch, "newcomer")
    newcomer.__module__ = "plait.merging.newcomer"
    assert unchecked(subject.cls for subject in SUBJECTS) == ["merging.newcomer"]
    assert unchecked([*(subject.cls for subject in SUBJECTS), newcomer]) == []


def test_a_family_without_properties_is_noticed(monkeypatch):
    stray = toy(
        monkeypatch, "stray", card=Card(family="unheard", name="stray", summary="A stray method.")
    )
    with pytest.raises(LookupError, match="no contract for the family 'unheard'"):
        properties(Subject(stray))


def test_a_good_method_of_somebody_else_passes(monkeypatch):
    found = check_method(toy(monkeypatch, "somebodys"))
    assert set(found.values()) == {"held"}


def broken_merge(spoil: Any) -> Any:
    def merge(self: Merger, pool: Any, have: Any = None, **how: Any) -> Merged:
        found = Average.merge(Average(weights=self.weights), pool, have)
        tensors = {name: value.copy() for name, value in found.tensors.items()}
        spoil(tensors, pool)
        return Merged(tensors=tensors)

    return merge


def first_counts_twice(self: Merger, pool: Any) -> Any:
    weights = {name: 2.0 if name == pool.names[0] else 1.0 for name in pool.names}
    return Average.pipeline(Average(weights=weights), pool)


def prefers_the_first(tensors: dict, pool: Any) -> None:
    tensors["trunk.bias"] = next(iter(pool.models.values()))["trunk.bias"].copy()


def counts_up(tensors: dict, pool: Any) -> None:
    tensors["trunk.steps"] = tensors["trunk.steps"] + 1


def widens(tensors: dict, pool: Any) -> None:
    tensors["trunk.bias"] = tensors["trunk.bias"].astype("float64")


def peeks_at_the_base(tensors: dict, pool: Any) -> None:
    tensors["trunk.bias"] = 0 * pool.base["trunk.bias"] + tensors["trunk.bias"]


def writes_into_the_pool(tensors: dict, pool: Any) -> None:
    for state in pool.models.values():
        state["trunk.bias"][...] += 0.5


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (prefers_the_first, "order_of_models_is_free"),
        (counts_up, "integers_are_copied"),
        (widens, "form_is_kept"),
        (peeks_at_the_base, "base_need_is_honest"),
        (writes_into_the_pool, "inputs_are_unmutated"),
    ],
)
def test_a_broken_method_is_told_which_law_it_breaks(spoil, law, monkeypatch):
    with pytest.raises(BrokenLawError, match=f"merging.spoilt breaks '{law}'"):
        check_method(toy(monkeypatch, "spoilt", merge=broken_merge(spoil)))


def by_position(signals: Signals) -> np.ndarray:
    """PCGrad's order of tasks as many codes have it: by position, not by name."""
    count = len(signals.tasks)
    return np.array([[j for j in range(count) if j != i] for i in range(count)])


def share_of_all(self: Equal, signals: Signals) -> torch.Tensor:
    """Weights that count absent tasks too."""
    return torch.ones_like(signals.losses) / max(len(self.tasks), 1)


def first_gate(self: Any, features: Any, task: torch.Tensor, kept: Any = None) -> torch.Tensor:
    """Every record through the gate of the first task."""
    return (features.records @ self.bank.stack("weight")[: self.experts].T).softmax(1)


def first_adapter(self: Any, x: torch.Tensor, y: torch.Tensor, _: Any) -> torch.Tensor:
    """Every row through the adapter of the first task."""
    return y + self.scale[0] * x @ self.down[0].T @ self.up[0].T


@pytest.mark.parametrize(
    ("cls", "where", "name", "broken", "laws"),
    [
        (PCGrad, "plait.balancing.pcgrad", "others_in_random_order", by_position, {"permutation"}),
        (Equal, "plait.balancing.equal.Equal", "forward", share_of_all,
         {"absent_task_is_as_if_never_there", "absent_task_is_left_alone"}),
        (Mmoe, "plait.sharing.base.Gates", "forward", first_gate,
         {"reach_is_exact", "permutation"}),
        (Lora, "plait.adapting.banks.LowRankBank", "adapt", first_adapter,
         {"reach_is_exact", "permutation", "routing_follows_the_record", "folding_is_exact"}),
    ],
)  # fmt: skip
def test_real_methods_broken_on_purpose_are_found_out(cls, where, name, broken, laws, monkeypatch):
    monkeypatch.setattr(f"{where}.{name}", broken)
    subject, found = Subject(cls), set()
    for one in properties(subject):
        try:
            hold(subject, one)
        except BrokenLawError:
            found.add(one.name)
    assert laws <= found, f"only {sorted(found)}"


def test_exceptions_are_expected_strictly(monkeypatch):
    reason = "the first model is preferred on purpose"
    law = "order_of_models_is_free"
    excused = replace(Average.card, name="excused", exceptions={law: reason})
    spoilt = toy(monkeypatch, "excused", pipeline=first_counts_twice, card=excused)
    found = check_method(spoilt)
    assert found[law] == f"excused: {reason}"
    with pytest.raises(BrokenLawError, match=f"keeps '{law}', which its card excuses"):
        check_method(toy(monkeypatch, "excused", card=excused))
    wrong = replace(excused, exceptions={"no_such_law": reason})
    with pytest.raises(BrokenLawError, match="'no_such_law' is no property"):
        check_method(toy(monkeypatch, "excused", card=wrong))


def test_an_undeclared_law_is_not_asked_for(monkeypatch):
    silent = replace(Average.card, name="silent", laws=frozenset())
    names = {one.name for one in properties(Subject(toy(monkeypatch, "silent", card=silent)))}
    assert "order_of_models_is_free" not in names
    assert Law.PERMUTATION in Average.card.laws


def test_golden_numbers_notice_a_change(tmp_path):
    golden.write(tmp_path, "merging.average")
    stored = golden.read(tmp_path, "merging.average")
    assert json.loads((tmp_path / "merging.average.json").read_text("utf-8")) == stored
    changed = {**stored, "trunk.bias": [stored["trunk.bias"][0] + 1e-4, *stored["trunk.bias"][1:]]}
    assert "trunk.bias[0] is" in golden.compare(stored, changed)
    assert "numbers, were" in golden.compare(stored, {**stored, "trunk.bias": [1.0]})
    assert "other names" in golden.compare(stored, {})
    with pytest.raises(FileNotFoundError, match=r"plait\.testing\.golden"):
        golden.read(tmp_path, "merging.nothing")
