"""What an adapter promises beside the laws of :mod:`~plait.testing.networks`.

The frozen network stays as it is, and every row follows its task.
"""

from __future__ import annotations

import torch

from plait.adapting import AdaptedTrunk, build_adapted
from plait.batch import Batch
from plait.networks import Network, task_slices
from plait.task import Task, TaskSet
from plait.testing.laws import Subject, Suite, refusal
from plait.testing.networks import by_task, close, falls, loss_sum, slices_of, state_of
from plait.testing.toy_networks import adapted, banks_of, double_batch, network_of, start_of
from plait.testing.toys import toy_tasks

suite = Suite()


def _trunk(network: Network) -> AdaptedTrunk:
    trunk = network.trunk
    assert isinstance(trunk, AdaptedTrunk)
    return trunk


def _train(network: Network, batch: Batch, steps: int = 3, rate: float = 0.1) -> None:
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=rate / len(batch))
    network.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_sum(network, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()


@suite.law("with fresh adapters the network says what it said without them")
def fresh_adapter_changes_nothing(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = start_of(subject, tasks), double_batch(tasks)
    close(by_task(network, batch), by_task(adapted(subject, tasks), batch), 1e-12, "fresh adapters")


@suite.law("only adapters and heads can be trained, and slices by task are those of the set")
def only_banks_train(subject: Subject) -> None:
    tasks = toy_tasks()
    network = adapted(subject, tasks)
    banks = banks_of(network)
    assert banks, "there is no adapter"
    for name, parameter in banks.items():
        slices = task_slices(parameter)
        assert slices in (None, tasks.names), f"{name} has slices {slices}"
    for name, parameter in network.named_parameters():
        wanted = name in banks or name.startswith("heads.")
        assert parameter.requires_grad == wanted, f"{name}: requires_grad {parameter.requires_grad}"


@suite.law("training leaves every frozen tensor as it was, bit for bit, and moves every bank")
def frozen_stays_frozen(subject: Subject) -> None:
    tasks = toy_tasks()
    network = network_of(subject, tasks)
    before = state_of(network)
    _train(network, double_batch(tasks))
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    kept = {name for name, _ in network.named_buffers() if name.startswith("trunk.banks.")}
    for name, value in network.state_dict().items():
        if name in kept:
            continue  # what banks keep beside their parameters is their own
        same = torch.equal(value, before[name])
        assert same == (name not in trained), f"{name} {'stood still' if same else 'moved'}"


@suite.law("the network that was given is not touched")
def start_is_untouched(subject: Subject) -> None:
    tasks = toy_tasks()
    network = start_of(subject, tasks)
    before, trains = state_of(network), [p.requires_grad for p in network.parameters()]
    made = build_adapted(network, subject.make(), 0)
    _train(made, double_batch(tasks))
    assert network.state_dict().keys() == before.keys(), "its modules were replaced"
    close(before, state_of(network), 0.0, "the start")
    assert trains == [p.requires_grad for p in network.parameters()], "some were frozen"


@suite.law("a row goes through the adapter of its own task")
def routing_follows_the_record(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    before = {name: raw.detach() for name, raw in by_task(network, batch).items()}
    if not any(task_slices(parameter) for parameter in banks_of(network).values()):
        return  # all tasks share the adapter, and the input decides
    for task in ("binary.0", "classes.3"):
        kept = state_of(network)
        with torch.no_grad():
            for parameter in banks_of(network).values():
                if task_slices(parameter):
                    own = parameter[tasks.position[task]]
                    own += torch.linspace(-0.5, 0.7, own.numel()).to(own).view(own.shape)
        after = by_task(network, batch)
        others = {name: raw for name, raw in before.items() if name != task}
        close(others, after, 0.0, f"the adapter of {task} was changed")
        assert not torch.allclose(before[task], after[task]), f"{task} does not hear its adapter"
        network.load_state_dict(kept)


@suite.law("training one task leaves the adapters and heads of the others, bit for bit")
def other_tasks_are_untouched(subject: Subject) -> None:
    tasks = toy_tasks()
    network = network_of(subject, tasks)
    before = state_of(network)
    _train(network, double_batch(tasks).only({"real.1"}))
    after = state_of(network)
    for task in tasks.names:
        one, two = slices_of(before, network, task), slices_of(after, network, task)
        same = all(torch.equal(value, two[name]) for name, value in one.items())
        assert same == (task != "real.1"), f"{task} {'stood still' if same else 'moved'}"


@suite.law("each further task costs the same")
def cost_is_per_task(subject: Subject) -> None:
    if subject.make().trained_on is not None:
        return  # what combines the tasks' adapters grows with their number
    sizes = {}
    for count in (1, 3, 6):
        tasks = TaskSet(Task(name=f"t{i}") for i in range(count))
        sizes[count] = sum(p.numel() for p in banks_of(adapted(subject, tasks)).values())
    two, five = sizes[3] - sizes[1], sizes[6] - sizes[1]
    assert 2 * five == 5 * two, f"2 more tasks cost {two}, 5 more cost {five}"


@suite.law("a task folded into the weights says the same, and unfolding restores them exactly")
def folding_is_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    before, trunk = state_of(network), _trunk(network)
    for task in ("binary.0", "classes.3"):
        alone = batch.only({task})
        routed = {n: raw.detach() for n, raw in by_task(network, alone).items()}
        try:
            with trunk.folded(task):
                close(by_task(network, alone), routed, 1e-10, f"{task} folded in")
        except ValueError:
            return  # an adapter that reads its input cannot be written as weights, and says so
        close(before, state_of(network), 0.0, f"after unfolding {task}")


@suite.law("sites that match nothing are refused", lambda s: "sites" in s.cls.accepted())
def unknown_sites_are_refused(subject: Subject) -> None:
    network, nowhere = start_of(subject, toy_tasks()), subject.make(sites=("no_such_layer",))
    said = refusal(lambda: build_adapted(network, nowhere, 0))
    assert "no_such_layer" in said, f"it was said: {said!r}"


@suite.law("an adapter run outside of its network says what is missing")
def unrouted_call_is_refused(subject: Subject) -> None:
    tasks = toy_tasks()
    trunk, batch = _trunk(adapted(subject, tasks)), double_batch(tasks)
    said = refusal(lambda: trunk.base(batch.parts, batch.labels), RuntimeError)
    assert "task" in said, f"it was said: {said!r}"


@suite.law("the frozen part stays in evaluation mode")
def frozen_part_evaluates(subject: Subject) -> None:
    trunk = _trunk(adapted(subject, toy_tasks()).train())
    assert not trunk.base.training, "the frozen part is in training mode"
    assert trunk.training, "the adapters are not in training mode"


@suite.law("every task's loss falls when its adapter alone is trained")
def learns(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = adapted(subject, tasks), double_batch(tasks, rows=64, missing=0.2)
    falls(network, batch, banks_of(network).values(), steps=60, below=0.95)


def golden(subject: Subject) -> dict[str, list[float]]:
    """The first outputs of every task after three steps of training."""
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    _train(network, batch, rate=0.01)
    found = by_task(network, batch)
    return {name: raw.detach().flatten()[:6].tolist() for name, raw in found.items()}
