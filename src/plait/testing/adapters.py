"""What an adapter promises: the frozen network stays as it is, and rows follow their task."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import torch
from torch import Tensor

from plait.adapting import AdaptedTrunk, build_adapted
from plait.batch import Batch
from plait.method import Law
from plait.networks import Network, build_network, task_slices
from plait.sharing.hard import Hard
from plait.task import Task, TaskSet
from plait.testing.laws import Subject, Suite
from plait.testing.sharings import by_task, close, gradients, loss_sum
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

suite = Suite()

_ENCODER = {"trunk": {"mlp": {"width": 8, "depth": 2}}}


def start_of(tasks: TaskSet) -> Network:
    """The network to be adapted, in float64."""
    return build_network(
        inputs=toy_inputs(), tasks=tasks, encoder=_ENCODER, sharing=Hard(), seed=0
    ).double()


def adapted(subject: Subject, tasks: TaskSet, seed: int = 0) -> Network:
    """The network with fresh adapters."""
    return build_adapted(start_of(tasks), subject.make(), seed).double()


def moved(subject: Subject, tasks: TaskSet, seed: int = 0) -> Network:
    """The network with adapters away from their start: every slice moved by its task's name."""
    network = adapted(subject, tasks, seed)
    with torch.no_grad():
        for name, parameter in banks_of(network).items():
            for task, slice_ in zip(task_slices(parameter) or (), parameter, strict=True):
                number = sum(map(ord, name + task))
                generator = torch.Generator().manual_seed(number)
                noise = torch.randn(slice_.shape, generator=generator, dtype=slice_.dtype)
                slice_ += 0.3 * noise
    return network


def banks_of(network: Network) -> dict[str, torch.nn.Parameter]:
    """The adapters' parameters."""
    trunk = network.trunk
    assert isinstance(trunk, AdaptedTrunk)
    return {f"trunk.banks.{n}": p for n, p in trunk.banks.named_parameters()}


def _double(tasks: TaskSet, **more: Any) -> Batch:
    return toy_batch(tasks, dtype=torch.float64, **more)


def _train(network: Network, batch: Batch, steps: int = 3, rate: float = 0.1) -> None:
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_sum(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _slice(state: dict[str, Tensor], network: Network, task: str) -> dict[str, Tensor]:
    found = {}
    for name, parameter in network.named_parameters():
        slices = task_slices(parameter) or ()
        if task in slices:
            found[name] = state[name][slices.index(task)]
    return found


@suite.law("with fresh adapters the network says what it said without them")
def fresh_adapter_changes_nothing(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = start_of(tasks), _double(tasks)
    close(by_task(network, batch), by_task(adapted(subject, tasks), batch), 1e-12, "fresh adapters")


@suite.law("only adapters and heads can be trained, and every adapter slice has its task")
def only_banks_train(subject: Subject) -> None:
    tasks = toy_tasks()
    network = adapted(subject, tasks)
    banks = banks_of(network)
    assert banks, "there is no adapter"
    for name, parameter in banks.items():
        assert task_slices(parameter) == tasks.names, f"{name} has slices {task_slices(parameter)}"
    for name, parameter in network.named_parameters():
        wanted = name in banks or name.startswith("heads.")
        assert parameter.requires_grad == wanted, f"{name}: requires_grad {parameter.requires_grad}"


@suite.law("training leaves every frozen tensor as it was, bit for bit, and moves every bank")
def frozen_stays_frozen(subject: Subject) -> None:
    tasks = toy_tasks()
    network = moved(subject, tasks)
    before = _copy(network)
    _train(network, _double(tasks))
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    for name, value in network.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == (name not in trained), f"{name} {'stood still' if same else 'moved'}"


@suite.law("the network that was given is not touched")
def start_is_untouched(subject: Subject) -> None:
    tasks = toy_tasks()
    network = start_of(tasks)
    before = _copy(network)
    made = build_adapted(network, subject.make(), 0)
    _train(made, _double(tasks))
    assert network.state_dict().keys() == before.keys(), "its modules were replaced"
    close(before, _copy(network), 0.0, "the start")
    assert all(p.requires_grad for p in network.parameters()), "its parameters were frozen"


@suite.law("a row goes through the adapter of its own task")
def routing_follows_the_record(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    before = {name: raw.detach() for name, raw in by_task(network, batch).items()}
    for task in ("binary.0", "classes.3"):
        kept = _copy(network)
        with torch.no_grad():
            for parameter in banks_of(network).values():
                parameter[tasks.position[task]] += 0.5
        after = by_task(network, batch)
        others = {name: raw for name, raw in before.items() if name != task}
        close(others, after, 0.0, f"the adapter of {task} was changed")
        assert not torch.allclose(before[task], after[task]), f"{task} does not hear its adapter"
        network.load_state_dict(kept)


@suite.law("a batch of mixed tasks gives what each task gives alone")
def mixed_batches_equal_single_ones(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    whole = by_task(network, batch)
    for task in tasks.names:
        close(by_task(network, batch.only({task})), whole, 1e-12, f"{task} alone")


@suite.law("training one task leaves the adapters and heads of the others, bit for bit")
def other_tasks_are_untouched(subject: Subject) -> None:
    tasks = toy_tasks()
    network = moved(subject, tasks)
    before = _copy(network)
    _train(network, _double(tasks).only({"real.1"}))
    after = _copy(network)
    for task in tasks.names:
        one, two = _slice(before, network, task), _slice(after, network, task)
        same = all(torch.equal(value, two[name]) for name, value in one.items())
        assert same == (task != "real.1"), f"{task} {'stood still' if same else 'moved'}"


@suite.law("a broken adapter of an absent task reaches nobody else")
def absent_task_cannot_harm(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks).only({"binary.0", "real.1"})
    before = {name: raw.detach() for name, raw in by_task(network, batch).items()}
    with torch.no_grad():
        for parameter in banks_of(network).values():
            parameter[tasks.position["counts.4"]] = torch.nan
    close(before, by_task(network, batch), 0.0, "the adapter of an absent task set to NaN")
    network.zero_grad()
    loss_sum(network, batch).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), f"NaN came back in {name}"


@suite.law("permuting the tasks permutes the outputs", lambda s: Law.PERMUTATION in s.cls.card.laws)
def permutation(subject: Subject) -> None:
    tasks = toy_tasks()
    turned = TaskSet(reversed(list(tasks)))
    one = by_task(moved(subject, tasks), _double(tasks))
    two = by_task(moved(subject, turned), _double(turned))
    close(one, two, 1e-12, "tasks in another order")


@suite.law("one more task changes no other task's start")
def more_tasks_change_no_start(subject: Subject) -> None:
    tasks = toy_tasks()
    more = TaskSet([Task(name="new"), *tasks])
    few, many = adapted(subject, tasks), adapted(subject, more)
    for task in tasks.names:
        one = _slice(_copy(few), few, task)
        close(one, _slice(_copy(many), many, task), 0.0, f"{task} with one more task in the set")


@suite.law("a start is keyed by the seed, and torch's own random state is left alone")
def starts_are_keyed(subject: Subject) -> None:
    tasks = toy_tasks()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = torch.get_rng_state()
        one = _copy(adapted(subject, tasks, seed=1))
        assert torch.equal(state, torch.get_rng_state()), "the global generator moved"
        torch.manual_seed(6)
        close(one, _copy(adapted(subject, tasks, seed=1)), 0.0, "two starts of one seed")


@suite.law("rows do not depend on each other, nor on their order")
def rows_are_separable(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    whole = by_task(network, batch)
    pieces = [by_task(network, piece) for piece in batch.split(5)]
    for name, raw in whole.items():
        cut = torch.cat([piece[name] for piece in pieces if name in piece])
        close({name: raw}, {name: cut}, 1e-12, "rows in five pieces")


@suite.law("micro-batches add up to the whole batch's gradient")
def micro_batches_are_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    whole = gradients(network, batch)
    parts = [gradients(network, piece) for piece in batch.split(4)]
    total = {name: sum((part[name] for part in parts), torch.zeros(())) for name in whole}
    close(whole, total, 1e-10, "4 micro-batches")


@suite.law("gradients reach what reach() says, slice by slice")
def reach_is_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks, rows=48)
    reach = network.reach()
    for task in tasks.names:
        found = gradients(network, batch.only({task}))
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                hit = bool(found[name].any())
                assert hit == (task in reach[name]), f"{name}: reached by {task}: {hit}"
                slices = task_slices(parameter) or ()
                own = [t for t, part in zip(slices, found[name], strict=True) if part.any()]
                assert own in ([], [task]), f"{name}: {task} trains the slices of {own}"


@suite.law("adapters cost the same for every task")
def cost_is_per_task(subject: Subject) -> None:
    sizes = {}
    for count in (1, 3, 6):
        tasks = TaskSet(Task(name=f"t{i}") for i in range(count))
        sizes[count] = sum(p.numel() for p in banks_of(adapted(subject, tasks)).values())
    assert sizes[3] == 3 * sizes[1], f"3 tasks cost {sizes[3]}, one costs {sizes[1]}"
    assert sizes[6] == 6 * sizes[1], f"6 tasks cost {sizes[6]}, one costs {sizes[1]}"


@suite.law("a network saved to a folder comes back exactly, its words plain data")
def folder_round_trips(subject: Subject) -> None:
    tasks = TaskSet([*toy_tasks(), Task(name="type"), Task(name="NR.AR", kind="real")])
    network, batch = moved(subject, tasks).float(), toy_batch(tasks)
    words = json.loads(json.dumps(network.config, allow_nan=False))
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        again = Network.from_pretrained(folder)
    assert json.loads(json.dumps(again.config)) == words, "the words of the network changed"
    close(by_task(network, batch), by_task(again, batch), 0.0, "after saving and loading")


@suite.law("a task folded into the weights says the same, and unfolding restores them exactly")
def folding_is_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    before, trunk = _copy(network), network.trunk
    assert isinstance(trunk, AdaptedTrunk)
    for task in ("binary.0", "classes.3"):
        alone = batch.only({task})
        routed = {n: raw.detach() for n, raw in by_task(network, alone).items()}
        try:
            with trunk.folded(task):
                close(by_task(network, alone), routed, 1e-10, f"{task} folded in")
        except ValueError:
            return  # an adapter that reads its input cannot be written as weights, and says so
        close(before, _copy(network), 0.0, f"after unfolding {task}")


@suite.law("sites that match nothing are refused", lambda s: "sites" in s.cls.accepted())
def unknown_sites_are_refused(subject: Subject) -> None:
    said = ""
    try:
        build_adapted(start_of(toy_tasks()), subject.make(sites=("no_such_layer",)), 0)
    except ValueError as error:
        said = str(error)
    assert "no_such_layer" in said, f"it was said: {said!r}"


@suite.law("an adapter run outside of its network says what is missing")
def unrouted_call_is_refused(subject: Subject) -> None:
    tasks = toy_tasks()
    trunk, batch = adapted(subject, tasks).trunk, _double(tasks)
    assert isinstance(trunk, AdaptedTrunk)
    said = ""
    try:
        trunk.base(batch.parts, batch.labels)
    except RuntimeError as error:
        said = str(error)
    assert "task" in said, f"it was said: {said!r}"


@suite.law("the frozen part stays in evaluation mode")
def frozen_part_evaluates(subject: Subject) -> None:
    network = adapted(subject, toy_tasks()).train()
    trunk = network.trunk
    assert isinstance(trunk, AdaptedTrunk)
    assert not trunk.base.training, "the frozen part is in training mode"
    assert trunk.training, "the adapters are not in training mode"


@suite.law("every task's loss falls when its adapter is trained")
def learns(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = adapted(subject, tasks), _double(tasks, rows=64, missing=0.2)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in banks_of(network))
    before = {n: float(loss_sum(network, batch, [n]).detach()) for n in tasks.names}
    optimizer = torch.optim.Adam(banks_of(network).values(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss_sum(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, was in before.items():
        now = float(loss_sum(network, batch, [name]).detach())
        assert now < 0.95 * was, f"{name}: loss {was:.3g} → {now:.3g} by adapters alone"


def golden(subject: Subject) -> dict[str, list[float]]:
    """The first outputs of every task after three steps of training."""
    tasks = toy_tasks()
    network, batch = moved(subject, tasks), _double(tasks)
    _train(network, batch, rate=0.01)
    found = by_task(network, batch)
    return {name: raw.detach().flatten()[:6].tolist() for name, raw in found.items()}
