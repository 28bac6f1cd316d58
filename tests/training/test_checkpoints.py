"""A training taken up again equals one that was never cut off."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_toys import BALANCERS, Deck, furthest, make_network, slices

from plait.balancing.base import Balancer
from plait.balancing.equal import Equal
from plait.balancing.famo import Famo
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.networks import Network
from plait.task import TaskSet
from plait.training import RowwiseAdamW, Run, fit
from plait.training.optim import decay_groups
from plait.training.procedures.plain import Plain
from plait.training.procedures.task_sam import TaskSam
from plait.training.schedules import cosine

STEPS = 40
CASES = [(make, Plain()) for make in BALANCERS] + [(PCGrad, TaskSam()), (Famo, TaskSam())]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("plait.weights.files.flush", lambda _: None)


class Cut(Exception):  # noqa: N818
    """The process dies here."""


class Meeting:
    """A run over a deck with absent tasks, dropout and validation; it can be cut off at a step."""

    def __init__(self, tasks: TaskSet, make, procedure, folder: Path | None = None) -> None:
        self.deck = Deck(tasks, steps=10, rows=12, missing=lambda step: ["real.1"][: step % 3 == 1])
        self.network = make_network(tasks, dropout=0.2)
        self.balancer: Balancer = make()
        groups = decay_groups(self.network.parameters(), 0.1)
        self.optimizer = RowwiseAdamW(groups, lr=0.01)
        self.folder = folder
        self.procedure = procedure

    def run(self, cut: int | None = None) -> dict[str, torch.Tensor]:
        def watch(problem, signals):
            if problem.step == cut:
                raise Cut

        def validate(network: Network) -> dict[str, float]:
            weight = dict(network.named_parameters())["heads.banks.real.weight"]
            return {"real.1": float(weight.detach().square().sum() % 0.1)}

        try:
            fit(
                self.network, self.deck, self.balancer, self.optimizer, steps=STEPS, seed=3,
                clip=1.0, procedure=self.procedure, schedule=cosine(STEPS, 0.1),
                validate=validate, checkpoint=self.folder, checkpoint_every=1, observers=[watch],
                patience=50,
            )  # fmt: skip
        except Cut:
            assert cut is not None
        return self.state()

    def state(self) -> dict[str, torch.Tensor]:
        found = slices(self.network)
        for name, parameter in self.network.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{slot} of {name}"] = value.clone().double()
        return {**found, **self.balancer.state_dict()}


@pytest.mark.parametrize(("make", "procedure"), CASES)
def test_resumed_at_any_step_it_is_the_same_bit_for_bit(tasks, make, procedure, tmp_path):
    """Cut at every step in turn: 40 processes, each of which takes one step and dies."""
    whole = Meeting(tasks, make, procedure).run()
    for step in range(1, STEPS):
        Meeting(tasks, make, procedure, tmp_path).run(cut=step)
    again = Meeting(tasks, make, procedure, tmp_path).run()
    assert furthest(whole, again) == 0


@pytest.mark.parametrize(("make", "procedure"), CASES)
def test_it_is_the_same_when_the_data_come_with_tasks_in_another_order(
    tasks, make, procedure, tmp_path
):
    """Cut at every step, the tasks of the data loaded now in one order, now in another."""
    turned = TaskSet([tasks[i] for i in (2, 4, 0, 3, 1)])
    whole = Meeting(tasks, make, procedure).run()
    for step in range(1, STEPS + 1):
        part = Meeting(tasks, make, procedure, tmp_path)
        part.deck.tasks = turned if step % 2 else tasks
        again = part.run(cut=step)
    assert furthest(whole, again) == 0


@pytest.mark.parametrize(("make", "procedure"), CASES[1:6])
def test_a_network_made_with_tasks_in_another_order_goes_on_to_rounding(
    tasks, make, procedure, tmp_path
):
    """Equal to rounding: a sum over tasks in another order rounds elsewhere."""
    turned = TaskSet([tasks[i] for i in (2, 4, 0, 3, 1)])
    Meeting(tasks, make, procedure, tmp_path).run(cut=17)
    late, whole = Meeting(turned, make, procedure, tmp_path), Meeting(tasks, make, procedure)
    late.run()
    whole.run()
    assert furthest(slices(late.network), slices(whole.network)) < 1e-11


def test_the_state_itself_loads_in_another_order_bit_for_bit(tasks, tmp_path):
    turned = TaskSet([tasks[i] for i in (2, 4, 0, 3, 1)])
    early = Meeting(tasks, Famo, Plain(), tmp_path)
    early.run(cut=9)
    kept = Meeting(tasks, Famo, Plain(), tmp_path)
    late = Meeting(turned, Famo, Plain(), tmp_path)
    for one in (kept, late):
        one.deck.batch = _stop
        one.run(cut=-1)
    assert furthest(slices(late.network), slices(kept.network)) == 0
    for name, value in kept.balancer.state_dict().items():
        assert torch.equal(value, late.balancer.state_dict()[name]), name
    for task in tasks.names:
        for one, two in zip(_moments(kept, task), _moments(late, task), strict=True):
            assert torch.equal(one, two)


def _stop(step: int) -> None:
    raise Cut


def _moments(run: Meeting, task: str) -> list[torch.Tensor]:
    found = []
    for parameter in run.network.parameters():
        names, state = getattr(parameter, "plait_tasks", ()), run.optimizer.state[parameter]
        if task in names:
            place = names.index(task)
            steps = state["step"].double().expand(len(names))
            found += [state["exp_avg"][place], state["exp_avg_sq"][place], steps[place]]
    return found


def test_best_weights_patience_and_history_are_taken_up(tasks, tmp_path):
    scores = {4: 5.0, 8: 1.0, 12: 4.0, 16: 3.0, 20: 2.0, 24: 0.0}

    def run(folder: Path, cut: int | None) -> tuple[Network, Run | None]:
        network, clock = make_network(tasks), []

        def watch(problem, signals):
            clock.append(problem.step + 1)
            if problem.step == cut:
                raise Cut

        def validate(_: Network) -> dict[str, float]:
            return {"real.1": scores[clock[-1]]}

        given = {"patience": 3, "checkpoint_every": 1, "observers": [watch], "validate": validate}
        with suppress(Cut):
            return network, fit(network, Deck(tasks, steps=4), steps=40, checkpoint=folder, **given)
        return network, None

    one, whole = run(tmp_path / "whole", None)
    run(tmp_path / "cut", 10)
    two, again = run(tmp_path / "cut", None)
    assert (again.step, again.stopped, again.best_step) == (20, "patience", 8)
    assert again.history == whole.history
    assert furthest(slices(one), slices(two)) == 0


def test_a_finished_training_is_not_done_again(tasks, tmp_path):
    meeting = Meeting(tasks, Equal, Plain(), tmp_path)
    whole = meeting.run()
    again = Meeting(tasks, Equal, Plain(), tmp_path)
    again.deck.batch = _stop
    assert furthest(again.run(), whole) == 0


def test_another_training_is_refused(tasks, tmp_path):
    Meeting(tasks, Uncertainty, Plain(), tmp_path).run(cut=3)
    with pytest.raises(ValueError, match=r"of another training: balancer is .*uncertainty.*equal"):
        Meeting(tasks, Equal, Plain(), tmp_path).run()
    fewer = tasks.subset(tasks.names[:3])
    with pytest.raises(ValueError, match="of another training: tasks"):
        Meeting(fewer, Uncertainty, Plain(), tmp_path).run()


def test_only_the_last_state_lies_in_the_folder_and_it_is_plain(tasks, tmp_path):
    Meeting(tasks, GradDrop, Plain(), tmp_path).run(cut=5)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["checkpoint.json", "state-5.safetensors"]
    record = json.loads((tmp_path / "checkpoint.json").read_text())
    assert record["progress"]["step"] == 5
    assert record["slices"]["heads.banks.real.weight"] == ["real.1"]


def test_a_crash_between_the_two_files_leaves_the_old_state(tasks, tmp_path, monkeypatch):
    Meeting(tasks, Equal, Plain(), tmp_path).run(cut=4)

    def torn(*_):
        raise Cut

    monkeypatch.setattr("plait.training.checkpoints.write_json", torn)
    Meeting(tasks, Equal, Plain(), tmp_path).run(cut=39)
    monkeypatch.undo()
    again = Meeting(tasks, Equal, Plain(), tmp_path).run()
    assert furthest(again, Meeting(tasks, Equal, Plain()).run()) == 0


def test_a_users_own_optimizer_is_taken_up_too(tasks, tmp_path):
    def run(folder: Path | None, cut: int | None = None) -> dict[str, torch.Tensor]:
        network = make_network(tasks)
        optimizer = torch.optim.NAdam(network.parameters(), lr=0.01)

        def watch(problem, signals):
            if problem.step == cut:
                raise Cut

        given = {"checkpoint": folder, "checkpoint_every": 1, "observers": [watch]}
        with suppress(Cut):
            fit(network, Deck(tasks), optimizer=optimizer, steps=9, **given)
        return slices(network)

    run(tmp_path, cut=4)
    assert furthest(run(tmp_path), run(None)) == 0


def test_frozen_parameters_are_not_stored_and_stay(tasks, tmp_path):
    def run(folder: Path | None, cut: int | None = None) -> dict[str, torch.Tensor]:
        network = make_network(tasks)
        network.trunk.requires_grad_(requires_grad=False)

        def watch(problem, signals):
            if problem.step == cut:
                raise Cut

        given = {"checkpoint": folder, "checkpoint_every": 1, "observers": [watch]}
        with suppress(Cut):
            fit(network, Deck(tasks), steps=8, validate=lambda _: {"real.1": 1.0}, **given)
        return slices(network)

    run(tmp_path, cut=6)
    (stored,) = tmp_path.glob("state-*.safetensors")
    assert not [name for name in load_file(stored) if "trunk" in name]
    assert furthest(run(tmp_path), run(None)) == 0


def test_a_network_of_another_shape_is_refused(tasks, tmp_path):
    Meeting(tasks, Equal, Plain(), tmp_path).run(cut=3)
    other = Meeting(tasks, Equal, Plain(), tmp_path)
    other.network.trunk.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"of another network.*trunk.extra.bias"):
        other.run()
