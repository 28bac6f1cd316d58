"""What a procedure promises: a changed step that leaves everything but the gradients as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Signals
from plait.balancing.equal import Equal
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.batch import Batch
from plait.method import Law
from plait.networks import Network
from plait.task import TaskSet
from plait.testing.laws import Subject, Suite
from plait.testing.toys import toy_batch, toy_tasks
from plait.testing.updates import StoppedError, ToyFeed, gradients, toy_network, trained
from plait.training.engine import NotFiniteError
from plait.training.procedures.base import Ground, Problem, Procedure
from plait.training.procedures.plain import Plain

suite = Suite()

BALANCERS: tuple[Callable[[], Balancer], ...] = (Equal, Uncertainty, PCGrad, GradDrop)
# Settings whose zero means: the plain step.
STRENGTHS = ("rho", "strength", "alpha", "mu")


def _double(tasks: TaskSet, **more: Any) -> Batch:
    return toy_batch(tasks, dtype=torch.float64, **more)


def filled(
    procedure: Procedure,
    network: Network,
    batch: Batch,
    balancer: Balancer | None = None,
    *,
    pieces: int = 1,
    step: int = 0,
    autocast: bool = False,
) -> tuple[Signals, dict[str, Tensor]]:
    """One step of the procedure: what it told, and every gradient, banks by slice."""
    network = procedure.prepare(network)
    network.zero_grad()
    balancer = balancer or Equal()
    balancer.bind(network.tasks.names)
    ground = Ground(network, 3, pieces, autocast, memory=procedure.memory(network))
    if procedure.needs_validation or balancer.needs_validation:
        ground.validation = ToyFeed(network.tasks, ground.parameters[0].dtype)
    signals = procedure.gradients(Problem(ground, batch, step), balancer)
    return signals, gradients(network)


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float, why: str) -> None:
    """Fail unless the gradients under the names of ``one`` agree, relative to their size."""
    for name, value in one.items():
        size = max(1.0, float(value.abs().max()))
        gap = float((value - two[name]).abs().max()) / size
        assert gap <= tolerance, f"{why}: {name} differs by {gap:.3g}, {tolerance:g} is allowed"


def _strength(subject: Subject) -> str | None:
    return next((name for name in STRENGTHS if name in subject.cls.accepted()), None)


def _has_strength(subject: Subject) -> bool:
    return _strength(subject) is not None


def _promises(law: Law) -> Callable[[Subject], bool]:
    return lambda subject: law in subject.cls.card.laws


@suite.law("at strength zero it is the plain step", _has_strength)
def zero_strength_is_plain(subject: Subject) -> None:
    tasks = toy_tasks()
    mild = subject.make(**{str(_strength(subject)): 0.0})
    for make in BALANCERS:
        _, found = filled(mild, toy_network(tasks), _double(tasks), make())
        _, plain = filled(Plain(), toy_network(tasks), _double(tasks), make())
        close(plain, found, 1e-12, f"strength 0 around {make().card.name}")


@suite.law("at its default strength it is not the plain step", _has_strength)
def strength_matters(subject: Subject) -> None:
    tasks = toy_tasks()
    _, found = filled(subject.make(), toy_network(tasks), _double(tasks))
    _, plain = filled(Plain(), toy_network(tasks), _double(tasks))
    assert any(not torch.equal(found[name], plain[name]) for name in plain), "no difference"


@suite.law("parameters and buffers come back exactly")
def network_is_restored(subject: Subject) -> None:
    tasks = toy_tasks()
    network = subject.make().prepare(toy_network(tasks))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for make in BALANCERS:
        filled(subject.make(), network, _double(tasks), make())
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} moved under {make().card.name}"
    assert all(p.requires_grad for p in network.parameters()), "a parameter was frozen"


@suite.law("it works around balancers of every rung, and fills finite gradients")
def every_rung_works(subject: Subject) -> None:
    tasks = toy_tasks()
    for make in BALANCERS:
        signals, found = filled(subject.make(), toy_network(tasks), _double(tasks), make())
        assert set(signals.tasks) == set(tasks.names), f"told of {signals.tasks}"
        for name, gradient in found.items():
            assert gradient.isfinite().all(), f"{name} under {make().card.name}: {gradient}"
            assert gradient.any(), f"{name} got nothing under {make().card.name}"


@suite.law("the losses it tells are those at the point where the step began")
def losses_are_those_of_the_start(subject: Subject) -> None:
    tasks = toy_tasks()
    told, _ = filled(subject.make(), toy_network(tasks), _double(tasks))
    plain, _ = filled(Plain(), toy_network(tasks), _double(tasks))
    gap = float((told.losses - plain.losses).abs().max())
    assert told.tasks == plain.tasks, f"{told.tasks} against {plain.tasks}"
    assert gap <= 1e-12, f"the losses are off by {gap:.3g}"


@suite.law("gradients may lie in memory in any order")
def memory_order_is_free(subject: Subject) -> None:
    """Products of stacked weights often leave them turned over."""
    tasks = toy_tasks()
    for make in BALANCERS:
        network = toy_network(tasks)
        _, plain = filled(subject.make(), network, _double(tasks), make())
        network = subject.make().prepare(toy_network(tasks))
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.register_hook(lambda grad: grad.mT.contiguous().mT)
        _, turned = filled(subject.make(), network, _double(tasks), make())
        close(plain, turned, 1e-12, f"turned gradients under {make().card.name}")


@suite.law("the same step twice gives the same gradients, and the batch stays as it was")
def runs_repeat(subject: Subject) -> None:
    tasks = toy_tasks()
    method, batch, twin = subject.make(), _double(tasks), _double(tasks)
    for make in BALANCERS:
        _, one = filled(method, toy_network(tasks), batch, make())
        _, two = filled(method, toy_network(tasks), batch, make())
        close(one, two, 0.0, f"twice under {make().card.name}")
    assert torch.equal(batch.parts["table"]["numeric"], twin.parts["table"]["numeric"])
    for key, labels in batch.labels.items():
        assert torch.equal(labels.target, twin.labels[key].target), f"targets of {key} changed"


@suite.law("gradients are added to those that are there")
def gradients_accumulate(subject: Subject) -> None:
    tasks = toy_tasks()
    _, once = filled(subject.make(), toy_network(tasks), _double(tasks))
    procedure = subject.make()
    network = procedure.prepare(toy_network(tasks))
    filled(procedure, network, _double(tasks))
    balancer = Equal()
    balancer.bind(tasks.names)
    ground = Ground(network, seed=3, validation=ToyFeed(tasks, torch.float64))
    ground.memory = procedure.memory(network)
    procedure.gradients(Problem(ground, _double(tasks), 0), balancer)
    close({n: 2 * g for n, g in once.items()}, gradients(network), 1e-12, "two passes")


@suite.law("micro-batches give the whole batch's gradients", _promises(Law.ROWS))
def micro_batches_are_exact(subject: Subject) -> None:
    tasks = toy_tasks()
    for make in BALANCERS:
        _, whole = filled(subject.make(), toy_network(tasks), _double(tasks), make())
        for pieces in (2, 4, 8):
            network = toy_network(tasks)
            _, cut = filled(subject.make(), network, _double(tasks), make(), pieces=pieces)
            close(whole, cut, 1e-10, f"{pieces} micro-batches under {make().card.name}")


@suite.law("a row without a label changes nothing", _promises(Law.ROWS))
def unlabelled_row_is_as_if_removed(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks, missing=0.6).only({"binary.0", "real.1"})
    rows = torch.unique(torch.cat([batch.task(name).rows for name in batch.present]))
    assert len(rows) < len(batch), "the toy has no row without a label"
    for make in BALANCERS:
        _, one = filled(subject.make(), toy_network(tasks), batch, make())
        _, two = filled(subject.make(), toy_network(tasks), batch.rows(rows), make())
        close(one, two, 1e-12, f"rows removed, under {make().card.name}")


@suite.law("permuting the tasks permutes the gradients", _promises(Law.PERMUTATION))
def permutation(subject: Subject) -> None:
    tasks = toy_tasks()
    turned = TaskSet(reversed(list(tasks)))
    for make in BALANCERS:
        _, one = filled(subject.make(), toy_network(tasks), _double(tasks), make())
        _, two = filled(subject.make(), toy_network(turned), _double(turned), make())
        close(one, two, 1e-9, f"tasks reversed under {make().card.name}")


@suite.law(
    "an absent task's head gets nothing, the others what they get without it", _promises(Law.ABSENT)
)
def absent_task_is_left_alone(subject: Subject) -> None:
    tasks = toy_tasks()
    present = [name for name in tasks.names if name != "binary.2"]
    fewer = tasks.subset(present)
    for make in BALANCERS:
        batch = _double(tasks).only(set(present))
        _, found = filled(subject.make(), toy_network(tasks), batch, make())
        touched = [n for n, g in found.items() if n.endswith("/binary.2") and g.any()]
        assert not touched, f"binary.2 is absent, and {touched} got a gradient"
        _, small = filled(subject.make(), toy_network(fewer), _double(fewer), make())
        close(small, found, 1e-12, f"binary.2 absent against unknown, under {make().card.name}")


@suite.law("a batch with labels of one task only trains that task")
def one_task_works(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = _double(tasks).only({"real.1"})
    for make in BALANCERS:
        signals, found = filled(subject.make(), toy_network(tasks), batch, make())
        assert signals.tasks == ("real.1",), f"told of {signals.tasks}"
        moved = {name.rpartition("/")[2] for name, g in found.items() if "/" in name and g.any()}
        assert moved == {"real.1"}, f"heads of {sorted(moved)} got gradients"


@suite.law("a network of one task is trained")
def only_task_works(subject: Subject) -> None:
    tasks = toy_tasks(("real",))
    for make in BALANCERS:
        signals, found = filled(subject.make(), toy_network(tasks), _double(tasks), make())
        assert signals.tasks == ("real.0",), f"told of {signals.tasks}"
        for name, gradient in found.items():
            assert gradient.isfinite().all(), f"{name} under {make().card.name}: {gradient}"
            assert gradient.any(), f"{name} got nothing under {make().card.name}"


@suite.law("a task that has no gradient, and tasks that are the same, give finite gradients")
def degenerate_tasks_are_finite(subject: Subject) -> None:
    tasks = toy_tasks(("real", "real", "real"))
    batch = _double(tasks, missing=0.0)
    labels = batch.labels["real"]
    first, last = (labels.target[labels.task == place] for place in (0, 2))
    for make in BALANCERS:
        network = subject.make().prepare(toy_network(tasks))
        with torch.no_grad():
            for parameter in network.specific_parameters():
                parameter[1] = parameter[0]
                parameter[2] = 0.0  # nothing of its loss reaches what is shared
        targets = torch.cat([first, first, last])
        twins = replace(batch, labels={"real": replace(labels, target=targets)})
        _, found = filled(subject.make(), network, twins, make())
        for name, gradient in found.items():
            assert gradient.isfinite().all(), f"{name} under {make().card.name}: {gradient}"


@suite.law("two hundred tasks give finite gradients")
def many_tasks_work(subject: Subject) -> None:
    tasks = toy_tasks(("real",) * 200)
    batch = toy_batch(tasks, rows=8)
    _, found = filled(subject.make(), toy_network(tasks).float(), batch)
    for name, gradient in found.items():
        assert gradient.isfinite().all(), f"{name}: {gradient}"


@suite.law("forwards in bfloat16 give nearly the gradients of the whole precision")
def lower_precision_is_near(subject: Subject) -> None:
    tasks = toy_tasks()
    batch = toy_batch(tasks)
    network = toy_network(tasks).float()
    _, wide = filled(subject.make(), network, batch)
    _, narrow = filled(subject.make(), network, batch, autocast=True)
    one, two = (torch.cat([g.flatten() for g in found.values()]) for found in (wide, narrow))
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert two.dtype == torch.float32, f"gradients are {two.dtype}"
    assert cosine > 0.98, f"cosine {cosine:.3f} to the gradients of the whole precision"


@suite.law("a loss that is not finite is reported by task, before an update is made of it")
def broken_loss_is_reported(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = toy_network(tasks), _double(tasks)
    labels = batch.labels["real"]
    labels.target[0] = torch.nan
    said: Sequence[str] = ()
    try:
        filled(subject.make(), network, batch)
    except NotFiniteError as error:
        said = error.tasks
    assert tuple(said) == ("real.1",), f"a NaN target of real.1 was reported as {said}"


@suite.law("the network it prepares has the same tasks")
def prepared_network_keeps_tasks(subject: Subject) -> None:
    network = toy_network(toy_tasks())
    assert subject.make().prepare(network).tasks == network.tasks


@suite.law("small steps along its gradients lower the sum of the losses")
def descends(subject: Subject) -> None:
    tasks = toy_tasks()
    network, batch = subject.make().prepare(toy_network(tasks)), _double(tasks, rows=48)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for step in range(40):
        signals, _ = filled(subject.make(), network, batch, step=step)
        losses.append(float(signals.losses.sum()))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0], f"loss {losses[0]:.3g} → {losses[-1]:.3g}"


@suite.law("a training stopped and resumed equals the uninterrupted one, bit for bit")
def training_resumes_exactly(subject: Subject) -> None:
    tasks = toy_tasks()
    with tempfile.TemporaryDirectory() as folder:
        for make in (Equal, GradDrop):
            whole = trained(tasks, make(), procedure=subject.make())
            kept = Path(folder) / make().card.name
            with suppress(StoppedError):
                trained(tasks, make(), kept, procedure=subject.make(), terminate=4)
            found = trained(tasks, make(), kept, procedure=subject.make())
            close(whole, found, 0.0, f"stopped after step 4 under {make().card.name}")


def golden(subject: Subject) -> dict[str, list[float]]:
    """The size of every gradient under each balancer, and its first entries."""
    tasks = toy_tasks()
    found = {}
    for make in BALANCERS:
        _, gradients_ = filled(subject.make(), toy_network(tasks), _double(tasks), make())
        for name, gradient in gradients_.items():
            entries = gradient.flatten()[:3].tolist()
            found[f"{make().card.name} {name}"] = [float(gradient.norm()), *entries]
    return found
