"""What every network that a method makes promises, whether it is shared or adapted.

The laws of sharing and of adapting stand in :mod:`~plait.testing.sharings` and
:mod:`~plait.testing.adapters`; these hold for both, on small networks in float64.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plait.batch import Batch, Records
from plait.losses import LOSSES
from plait.method import Law
from plait.networks import Network, Outputs, bank_slices, task_slices
from plait.task import Task, TaskSet
from plait.testing.laws import Subject, Suite, declares
from plait.testing.toy_networks import double_batch, dressed, network_of
from plait.testing.toys import toy_batch, toy_tasks

suite = Suite()


def by_task(network: Network, batch: Batch) -> dict[str, Tensor]:
    """Raw outputs [n, outputs] of every present task, in the order of its records.

    What is drawn at random is drawn alike in every call.
    """
    return _split(_run(network, batch).raw, batch)


def _run(network: Network, batch: Batch) -> Outputs:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found: Outputs = network(batch.parts, batch.labels)
    return found


def _split(raw: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    found = {}
    for name in batch.present:
        key = batch.tasks[name].group
        place = batch.tasks.groups[key].position[name]
        found[name] = raw[key][batch.labels[key].task == place]
    return found


def loss_sum(network: Network, batch: Batch, only: Sequence[str] | None = None) -> Tensor:
    """The sum of all losses of the batch (of the named tasks)."""
    return _added(by_task(network, batch), batch, only)


def _added(found: Mapping[str, Tensor], batch: Batch, only: Sequence[str] | None = None) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for name, raw in found.items():
        if only is None or name in only:
            task = batch.tasks[name]
            total = total + LOSSES[task.loss].per_row(raw, batch.task(name).target).sum()
    return total


def gradients(network: Network, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the sum of losses on every parameter; zeros where there is none."""
    network.zero_grad()
    loss_sum(network, batch).backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
    }


def state_of(network: Network) -> dict[str, Tensor]:
    """A copy of the network's state."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def slices_of(state: Mapping[str, Tensor], network: Network, task: str) -> dict[str, Tensor]:
    """The slices of a state that have one task's name."""
    return {
        f"{name}[{about}, {number}]": state[name][place]
        for name, parameter in network.named_parameters()
        for place, (owner, about, number) in enumerate(bank_slices(parameter) or ())
        if owner == task
    }


def close(one: Mapping[str, Tensor], two: Mapping[str, Tensor], tolerance: float, why: str) -> None:
    """Fail unless the tensors under the names of ``one`` agree."""
    for name, value in one.items():
        other = two[name].detach().double()
        gap = float((value.detach().double() - other).abs().max()) if value.numel() else 0.0
        assert value.shape == other.shape, f"{why}: {name} has shape {tuple(value.shape)}"
        assert gap <= tolerance, f"{why}: {name} differs by {gap:.3g}, {tolerance:g} is allowed"


def falls(
    network: Network, batch: Batch, parameters: Iterable[nn.Parameter], *, steps: int, below: float
) -> None:
    """Fail unless training the parameters brings every task's loss below a share of its start."""
    trained = set(parameters)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in trained)
    optimizer = torch.optim.Adam(trained, lr=0.03)

    def each() -> dict[str, float]:
        found = by_task(network, batch)
        return {n: float(_added(found, batch, [n]).detach()) for n in batch.tasks.names}

    before = each()
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = _run(network, batch)
        loss = _added(_split(outputs.raw, batch), batch)
        loss = loss + sum(outputs.penalties.values(), torch.zeros(()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, now in each().items():
        assert now < below * before[name], f"{name}: loss {before[name]:.3g} → {now:.3g}"


@suite.law("a network has one output per record, of the width of its task's head")
def outputs_are_aligned(subject: Subject) -> None:
    tasks = toy_tasks(("binary", "real", "classes", "counts", "ordinal", "binary"))
    network, batch = network_of(subject, tasks), double_batch(tasks)
    found = network(batch.parts, batch.labels)
    for key, labels in batch.labels.items():
        wanted = (len(labels), tasks.groups[key].outputs)
        assert tuple(found.raw[key].shape) == wanted, f"{key}: {tuple(found.raw[key].shape)}"
        assert found.raw[key].dtype == torch.float64, f"{key}: {found.raw[key].dtype}"
        width = found.features[key].records.shape
        assert tuple(width) == (len(labels), network.trunk.width), f"features {tuple(width)}"
    for name, penalty in found.penalties.items():
        assert penalty.ndim == 0, f"penalty {name!r} is no scalar"
        assert penalty.isfinite(), f"penalty {name!r} is {penalty}"


@suite.law("one task, one row and no record at all work, and keep their dimensions")
def small_cases_keep_their_form(subject: Subject) -> None:
    alone = TaskSet([Task(name="only", kind="real")])
    batch = double_batch(alone, rows=1, missing=0.0)
    found = network_of(subject, alone)(batch.parts, batch.labels)
    assert tuple(found.raw["real"].shape) == (1, 1)
    tasks = toy_tasks()
    batch = double_batch(tasks, missing=0.0)
    nothing = Records(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    raw = network_of(subject, tasks)(batch.parts, {"binary": nothing}).raw
    assert tuple(raw["binary"].shape) == (0, 1)


@suite.law("asking for some tasks gives what asking for all gives them", declares(Law.ROWS))
def any_subset_can_be_asked(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    whole = by_task(network, batch)
    several = ({"binary.0", "counts.4"}, {"binary.2", "classes.3"})
    for names in (*({name} for name in tasks.names), *several):
        part = by_task(network, batch.only(names))
        assert set(part) == names, f"asked for {sorted(names)}, got {sorted(part)}"
        close(part, whole, 1e-12, f"asked for {sorted(names)} only")


@suite.law("a broken slice of an absent task reaches nobody else")
def absent_task_cannot_harm(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks).only({"binary.0", "real.1"})
    before = {name: raw.detach() for name, raw in by_task(network, batch).items()}
    with torch.no_grad():
        for parameter in (p for p in network.parameters() if p.requires_grad):
            for place, name in enumerate(task_slices(parameter) or ()):
                if name not in before:
                    parameter[place] = torch.nan
    close(before, by_task(network, batch), 0.0, "absent tasks' slices set to NaN")
    for name, gradient in gradients(network, batch).items():
        assert gradient.isfinite().all(), f"NaN came back in the gradient of {name}"


@suite.law("permuting the tasks permutes the outputs", declares(Law.PERMUTATION))
def permutation(subject: Subject) -> None:
    tasks = toy_tasks()
    turned = TaskSet(reversed(list(tasks)))
    one = by_task(network_of(subject, tasks), double_batch(tasks))
    two = by_task(network_of(subject, turned), double_batch(turned))
    close(one, two, 1e-12, "tasks in another order")


@suite.law("one more task changes no other task's start")
def more_tasks_change_no_start(subject: Subject) -> None:
    tasks = toy_tasks()
    more = TaskSet([Task(name="new"), *tasks, Task(name="last", kind="real")])
    few, many = network_of(subject, tasks), network_of(subject, more)
    for task in tasks.names:
        own = slices_of(state_of(few), few, task)
        close(own, slices_of(state_of(many), many, task), 0.0, f"{task} beside two more tasks")


@suite.law("one more task changes no other task's outputs")
def more_tasks_change_no_output(subject: Subject) -> None:
    tasks = toy_tasks()
    more = TaskSet([Task(name="new"), *tasks, Task(name="last", kind="real")])
    few, many = network_of(subject, tasks), network_of(subject, more)
    one, two = by_task(few, double_batch(tasks)), by_task(many, double_batch(more))
    close(one, two, 1e-12, "with two more tasks in the set")


@suite.law("the order of rows is free", declares(Law.ROWS))
def row_order_is_free(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    parts = {
        schema: {name: tensor[order] for name, tensor in part.items()}
        for schema, part in batch.parts.items()
    }
    labels = {key: replace(found, rows=place[found.rows]) for key, found in batch.labels.items()}
    shuffled = replace(batch, parts=parts, labels=labels, ids=batch.ids[order])
    close(by_task(network, batch), by_task(network, shuffled), 1e-12, "rows shuffled")


@suite.law("a row's outputs do not depend on the other rows", declares(Law.ROWS))
def rows_are_separable(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    whole = by_task(network, batch)
    pieces = [by_task(network, piece) for piece in batch.split(5)]
    for name, raw in whole.items():
        cut = torch.cat([piece[name] for piece in pieces if name in piece])
        close({name: raw}, {name: cut}, 1e-12, "rows in five pieces")


@suite.law("a row without a label for any task changes no gradient", declares(Law.ROWS))
def unlabelled_row_is_as_if_removed(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks, rows=20, missing=0.5)
    names = {"binary.0", "classes.3"}
    batch = batch.only(names)
    rows = torch.unique(torch.cat([batch.task(name).rows for name in names]))
    assert len(rows) < len(batch), "the toy has no row without a label"
    close(gradients(network, batch), gradients(network, batch.rows(rows)), 1e-12, "rows removed")


@suite.law("micro-batches add up to the whole batch's gradient", declares(Law.ROWS))
def micro_batches_are_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    whole = gradients(network, batch)
    for pieces in (2, 4, 8):
        parts = [gradients(network, piece) for piece in batch.split(pieces)]
        total = {name: sum((part[name] for part in parts), torch.zeros(())) for name in whole}
        close(whole, total, 1e-10, f"{pieces} micro-batches")


@suite.law("gradients reach what reach() says, slice by slice, and nothing else")
def reach_is_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks, rows=48)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    reach = network.reach()
    assert trained.keys() <= reach.keys(), f"reach() misses {sorted(trained.keys() - reach.keys())}"
    for task in tasks.names:
        found = gradients(network, batch.only({task}))
        for name, parameter in trained.items():
            reached, said = bool(found[name].any()), task in reach[name]
            assert reached == said, f"{name}: reached by {task}: {reached}; reach() says {said}"
            slices = task_slices(parameter)
            if slices and reached:
                hit = {t for t, part in zip(slices, found[name], strict=True) if part.any()}
                assert hit == {task}, f"{name}: {task} trains the slices of {hit}"


@suite.law("a start is keyed by the seed, and torch's own random state is left alone")
def starts_are_keyed(subject: Subject) -> None:
    tasks = toy_tasks()
    with torch.random.fork_rng():
        torch.manual_seed(11)
        state = torch.get_rng_state()
        one = state_of(network_of(subject, tasks, seed=1))
        assert torch.equal(state, torch.get_rng_state()), "the global generator moved"
        torch.manual_seed(12)
        close(one, state_of(network_of(subject, tasks, seed=1)), 0.0, "two starts of one seed")


@suite.law("a state loads into another start and gives the same outputs")
def state_round_trips(subject: Subject) -> None:
    tasks = toy_tasks()
    one, two = network_of(subject, tasks, seed=1), network_of(subject, tasks, seed=2)
    two.load_state_dict(one.state_dict())
    batch = double_batch(tasks)
    close(by_task(one, batch), by_task(two, batch), 0.0, "after loading the state")


@suite.law("a network saved to a folder comes back exactly, its words plain data")
def folder_round_trips(subject: Subject) -> None:
    tasks = TaskSet([*toy_tasks(), Task(name="type"), Task(name="NR.AR", kind="real")])
    network, batch = network_of(subject, tasks).float(), dressed(toy_batch(tasks))
    words = json.loads(json.dumps(network.config, allow_nan=False))
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        again = Network.from_pretrained(folder).train(network.training)
    assert json.loads(json.dumps(again.config)) == words, "the words of the network changed"
    close(by_task(network, batch), by_task(again, batch), 0.0, "after saving and loading")


@suite.law("a forward leaves its inputs and its parameters as they were")
def inputs_are_unmutated(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch, twin = network_of(subject, tasks), double_batch(tasks), double_batch(tasks)
    before = state_of(network)
    network.eval()
    network(batch.parts, batch.labels)
    close(batch.parts["table"], twin.parts["table"], 0.0, "inputs")
    close(before, network.state_dict(), 0.0, "parameters and buffers")


@suite.law("training mode and evaluation mode repeat, and evaluation has no chance in it")
def runs_repeat(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)

    def run(seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return dict(network(batch.parts, batch.labels).raw)

    network.eval()
    close(run(1), run(2), 0.0, "evaluated twice")
    network.train()
    close(run(3), run(3), 0.0, "the same seed twice")


@suite.law("float32 and float64 agree to float32's precision")
def precisions_agree(subject: Subject) -> None:
    tasks = toy_tasks()
    wide = by_task(network_of(subject, tasks), double_batch(tasks))
    narrow = by_task(network_of(subject, tasks).float(), dressed(toy_batch(tasks)))
    for name, raw in narrow.items():
        assert raw.dtype == torch.float32, f"{name} is {raw.dtype} in a float32 network"
    close({n: r.double() for n, r in narrow.items()}, wide, 1e-4, "float32 against float64")
