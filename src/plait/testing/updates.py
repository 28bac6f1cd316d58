"""What a balancer promises together with the engine: exact rows, exact pieces, absent tasks."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.batch import Batch
from plait.method import Law
from plait.networks import Network, build_network, task_slices
from plait.sharing.hard import Hard
from plait.task import TaskSet
from plait.testing.laws import Subject, Suite
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks
from plait.training import Losses, backward, fit, losses_of
from plait.training.engine import NotFiniteError
from plait.training.measuring import Layout
from plait.training.procedures.base import Ground, Problem, Procedure
from plait.training.procedures.plain import Plain

suite = Suite()

_ENCODER = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
_SEED = 3


def toy_network(tasks: TaskSet) -> Network:
    """A small hard-shared network in float64."""
    return build_network(
        inputs=toy_inputs(), tasks=tasks, encoder=_ENCODER, sharing=Hard(), seed=0
    ).double()


def step_on(balancer: Balancer, network: Network, batch: Batch) -> Signals:
    """One balanced backward pass over the batch; fills ``.grad``.

    A balancer that compares parts of a batch gets them from ``fit``'s own step.
    """
    if balancer.samples > 1:
        signals = step_in_pieces(balancer, network, batch, 1)
        balancer.advance(signals)
        return signals
    network.zero_grad()
    return update(balancer, network, losses_of(network, batch)[0])


def step_in_pieces(balancer: Balancer, network: Network, batch: Batch, pieces: int) -> Signals:
    """The same step as ``fit`` takes it, the batch cut into micro-batches."""
    network.zero_grad()
    balancer.bind(network.tasks.names)
    ground = Ground(network, seed=_SEED, micro_batches=pieces)
    if balancer.needs_validation:
        ground.validation = ToyFeed(network.tasks, torch.float64)
    return Plain().gradients(Problem(ground, batch, 0), balancer)


def update(balancer: Balancer, network: Network, losses: Losses) -> Signals:
    """The engine on losses at hand."""
    return backward(
        losses,
        network.shared_parameters(),
        balancer,
        specific=network.specific_parameters(),
        validation=held_out(network) if balancer.needs_validation else None,
        seed=_SEED,
    )


@torch.no_grad()
def held_out(network: Network) -> dict[str, Tensor]:
    """The losses of the toy tasks on rows that are in no batch."""
    batch = ToyFeed(network.tasks, torch.float64).batch(0)
    losses, _ = losses_of(network, batch)
    return dict(zip(losses.tasks, losses.value, strict=True))


def gradients(network: Network) -> dict[str, Tensor]:
    """Every parameter's gradient, banks by slice (``name/task``); absent ones as zeros."""
    return by_slice({n: _gradient(p) for n, p in network.named_parameters()}, network)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def _compare(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float, why: str) -> None:
    for name, value in one.items():
        gap = float((value - two[name]).abs().max())
        assert gap <= tolerance, f"{why}: {name} differs by {gap:.3g}, {tolerance:g} is allowed"


def _fresh(subject: Subject, tasks: TaskSet) -> tuple[Balancer, Network]:
    balancer: Balancer = subject.make()
    return balancer, toy_network(tasks)


def _double(tasks: TaskSet, missing: float = 0.3) -> Batch:
    return toy_batch(tasks, missing=missing, dtype=torch.float64)


def _rows(subject: Subject) -> bool:
    return Law.ROWS in subject.cls.card.laws


def _in_one(subject: Subject) -> bool:
    return bool(subject.make().samples == 1)


def _absent(subject: Subject) -> bool:
    return Law.ABSENT in subject.cls.card.laws


@suite.law("the engine fills every gradient with finite numbers, and tells what it did")
def engine_fills_gradients(subject: Subject) -> None:
    tasks = toy_tasks()
    balancer, network = _fresh(subject, tasks)
    signals = step_on(balancer, network, _double(tasks))
    assert signals.tasks, "no task was told"
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), f"{name} got {parameter.grad}"
        assert parameter.grad.dtype == parameter.dtype, f"{name}: {parameter.grad.dtype}"


@suite.law("heads get weighted or raw gradients, as the class says")
def heads_get_what_is_said(subject: Subject) -> None:
    tasks = toy_tasks()
    balancer, network = _fresh(subject, tasks)
    batch = _double(tasks)
    signals = step_on(balancer, network, batch)
    found = gradients(network)
    network.zero_grad()
    losses, _ = losses_of(network, batch)
    losses.value.sum().backward()  # type: ignore[no-untyped-call]
    raw = gradients(network)
    for place, task in enumerate(signals.tasks):
        factor = 1.0
        if balancer.weights_heads:
            assert signals.weights is not None, "weighted heads, and no weights told"
            factor = float(signals.weights[place])
        mine = [name for name in raw if name.endswith(f"/{task}")]
        assert mine, f"{task} has no slice"
        for name in mine:
            _compare({name: raw[name] * factor}, found, 1e-10, f"head of {task}, factor {factor}")


@suite.law("a row without a label changes nothing", _rows)
def unlabelled_row_is_as_if_removed(subject: Subject) -> None:
    tasks = toy_tasks()
    whole = _double(tasks, missing=0.6)
    rows = torch.unique(torch.cat([labels.rows for labels in whole.labels.values()]))
    named = torch.unique(torch.cat([whole.task(name).rows for name in ("binary.0", "real.1")]))
    for batch, kept in ((whole, rows), (whole.only({"binary.0", "real.1"}), named)):
        balancer, network = _fresh(subject, tasks)
        step_on(balancer, network, batch)
        with_them = gradients(network)
        balancer, network = _fresh(subject, tasks)
        step_on(balancer, network, batch.rows(kept))
        without = gradients(network)
        _compare(with_them, without, 1e-12, f"{len(batch) - len(kept)} rows without a label")
    assert len(named) < len(whole), "the toy has no row without a label"


@suite.law("a label missing for one task is the same as that row removed for that task", _rows)
def missing_label_is_row_removed(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks, missing=0.0)
    gone = torch.tensor([2, 3, 11])
    key = tasks["real.1"].group
    place = tasks.groups[key].position["real.1"]
    labels = batch.labels[key]
    missing = (labels.task == place) & torch.isin(labels.rows, gone)
    holed = replace(batch, labels={**batch.labels, key: labels.select(~missing)})
    balancer, network = _fresh(subject, tasks)
    step_on(balancer, network, holed)
    found = gradients(network)
    # Each task on rows of its own, as if every task had its own table: no other row exists for it.
    balancer, network = _fresh(subject, tasks)
    network.zero_grad()
    units = Layout(tasks).units(holed)
    every = torch.arange(len(batch))
    kept = every[~torch.isin(every, gone)]
    others = holed.only(set(tasks.names) - {"real.1"})
    alone = holed.only({"real.1"}).rows(kept)
    value = losses_of(network, others, units)[0].value + losses_of(network, alone, units)[0].value
    told = losses_of(network, holed)[0]
    update(balancer, network, replace(told, value=value))
    _compare(found, gradients(network), 1e-12, "three labels missing against three rows removed")


@suite.law("micro-batches give the whole batch's update", _rows)
def micro_batches_are_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks)
    balancer, network = _fresh(subject, tasks)
    step_on(balancer, network, batch)
    whole = gradients(network)
    for pieces in (1, 2, 4, 8):
        balancer, network = _fresh(subject, tasks)
        step_in_pieces(balancer, network, batch, pieces)
        _compare(whole, gradients(network), 1e-10, f"{pieces} micro-batches")


@suite.law("an absent task's head gets nothing, the others what they get without it", _absent)
def absent_task_is_left_alone(subject: Subject) -> None:
    tasks = toy_tasks()
    present = [name for name in tasks.names if name != "binary.2"]
    batch = _double(tasks)
    balancer, network = _fresh(subject, tasks)
    balancer.bind(tasks.names)
    step_on(balancer, network, batch.only(set(present)))
    found = gradients(network)
    touched = [n for n, g in found.items() if n.endswith("/binary.2") and g.any()]
    assert not touched, f"binary.2 is absent, and {touched} got a gradient"
    fewer = tasks.subset(present)
    balancer, small = _fresh(subject, fewer)
    step_on(balancer, small, _double(fewer))
    _compare(gradients(small), found, 1e-12, "binary.2 absent against binary.2 unknown")


@suite.law(
    "a task whose loss is not finite is dropped: the others move as if it were absent", _in_one
)
def broken_task_is_dropped(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks)
    balancer, network = _fresh(subject, tasks)
    balancer.bind(tasks.names)
    network.zero_grad()
    losses = {name: losses_of(network, batch.only({name}))[0].value[0] for name in batch.present}
    losses["real.1"] = losses["real.1"] * torch.nan
    valid = held_out(network) if balancer.needs_validation else None
    shared = network.shared_parameters()
    signals = backward(losses, shared, balancer, seed=_SEED, validation=valid)
    assert signals.dropped == ("real.1",), f"dropped {signals.dropped}"
    found = gradients(network)
    balancer, network = _fresh(subject, tasks)
    balancer.bind(tasks.names)
    step_on(balancer, network, batch.only(set(tasks.names) - {"real.1"}))
    _compare(gradients(network), found, 1e-12, "real.1 broken against real.1 absent")


@suite.law(
    "where parts of a batch are compared, a loss that is not finite is told by its task",
    lambda s: not _in_one(s),
)
def broken_part_is_told(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks)
    batch.labels["real"].target[0] = torch.nan
    balancer, network = _fresh(subject, tasks)
    said: tuple[str, ...] = ()
    try:
        step_in_pieces(balancer, network, batch, 1)
    except NotFiniteError as error:
        said = tuple(error.tasks)
    assert said == ("real.1",), f"a NaN target of real.1 was told as {said}"


@suite.law("two steps move every task's head and the shared part")
def everything_moves(subject: Subject) -> None:
    tasks = toy_tasks(("binary", "real", "counts"))
    balancer, network = _fresh(subject, tasks)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(2):
        signals = step_on(balancer, network, _double(tasks))
        optimizer.step()
        if balancer.second_look:
            with torch.no_grad():
                balancer.advance(signals, losses_of(network, _double(tasks))[0].value)
    still = [n for n, v in network.state_dict().items() if torch.equal(v, before[n])]
    assert not still, f"nothing moved {still}"


@suite.law("a training stopped and resumed equals the uninterrupted one, bit for bit")
def training_resumes_exactly(subject: Subject) -> None:
    tasks = toy_tasks()
    turned = TaskSet(reversed(list(tasks)))
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(tasks, subject.make())
        for stop, order in ((1, tasks), (4, tasks), (5, turned)):
            kept = Path(folder) / str(stop)
            with suppress(StoppedError):
                trained(tasks, subject.make(), kept, terminate=stop)
            found = trained(order, subject.make(), kept)
            tolerance = 0.0 if order is tasks else 1e-5
            _compare(whole, found, tolerance, f"stopped after step {stop}")


class StoppedError(Exception):
    """Ends a training in the middle, as a crash does."""


@dataclass
class ToyFeed:
    """Toy batches by step: with missing labels, and one task absent in every third."""

    tasks: TaskSet
    dtype: torch.dtype = torch.float32
    steps: int = 4

    def batch(self, step: int) -> Batch:
        """The batch of a step; the records of a task do not depend on the other tasks."""
        names = set(self.tasks.names) - ({"binary.2"} if step % 3 == 1 else set())
        return toy_batch(self.tasks, seed=step, dtype=self.dtype).only(names)


def trained(
    tasks: TaskSet,
    balancer: Balancer,
    folder: Path | None = None,
    *,
    procedure: Procedure | None = None,
    terminate: int | None = None,
) -> dict[str, Tensor]:
    """Every parameter after eight steps of ``fit``, banks by slice; it may be stopped early."""
    procedure = procedure or Plain()
    network = procedure.prepare(toy_network(tasks).float())

    def stop(problem: Problem, signals: Signals) -> None:  # noqa: ARG001
        if problem.step == terminate:
            raise StoppedError

    fit(
        network,
        ToyFeed(tasks),
        balancer,
        steps=8,
        seed=_SEED,
        procedure=procedure,
        checkpoint=folder,
        checkpoint_every=1,
        observers=[stop],
        validation=ToyFeed(tasks),
    )
    return by_slice({n: p.detach() for n, p in network.named_parameters()}, network)


def by_slice(tensors: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Tensors of a network by parameter name, those of banks by ``name/task``."""
    found = {}
    for name, tensor in tensors.items():
        slices = task_slices(network.get_parameter(name))
        if slices is None:
            found[name] = tensor
            continue
        for task, part in zip(slices, tensor, strict=True):
            found[f"{name}/{task}"] = part
    return found
