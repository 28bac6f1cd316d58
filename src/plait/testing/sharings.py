"""What a way of sharing promises beside the laws of :mod:`~plait.testing.networks`."""

from __future__ import annotations

from plait.networks import task_slices
from plait.testing.laws import Subject, Suite
from plait.testing.networks import by_task, falls, gradients, state_of
from plait.testing.toy_networks import double_batch, network_of
from plait.testing.toys import toy_tasks

suite = Suite()


@suite.law("another seed gives another start")
def seeds_differ(subject: Subject) -> None:
    one, two = (state_of(network_of(subject, toy_tasks(), seed)) for seed in (1, 2))
    assert any(not two[name].equal(value) for name, value in one.items()), "no seed seen"


@suite.law("every parameter of the network has the tasks that train it")
def reach_is_complete(subject: Subject) -> None:
    network = network_of(subject, toy_tasks())
    names = dict(network.named_parameters()).keys()
    assert network.reach().keys() == names, f"reach() differs: {network.reach().keys() ^ names}"


@suite.law("shared parameters are those that two tasks train, and the last of them are named")
def shared_is_what_two_reach(subject: Subject) -> None:
    network = network_of(subject, toy_tasks())
    named = {id(parameter): name for name, parameter in network.named_parameters()}
    reach = network.reach()
    shared = {named[id(p)] for p in network.shared_parameters()}
    own = {named[id(p)] for p in network.specific_parameters()}
    assert not shared & own, f"both shared and specific: {sorted(shared & own)}"
    assert shared | own == set(reach), f"in neither: {sorted(set(reach) - shared - own)}"
    for name, parameter in network.named_parameters():
        common = task_slices(parameter) is None and len(reach[name]) > 1
        assert (name in shared) == common, f"{name} is {'' if common else 'not '}shared"
    last = {named[id(p)] for p in network.last_shared()}
    assert last <= shared, f"last_shared() names {sorted(last - shared)}"
    assert bool(last) == bool(shared), "shared parameters, and no last layer"


@suite.law("every task's loss falls when it is trained")
def learns(subject: Subject) -> None:
    tasks, rows = toy_tasks(), 64 if subject.make().place == "row" else 24
    network, batch = network_of(subject, tasks), double_batch(tasks, rows=rows, missing=0.2)
    falls(network, batch, network.parameters(), steps=80, below=0.8)


def golden(subject: Subject) -> dict[str, list[float]]:
    """The first outputs of every task, and the size of the gradient on every parameter."""
    tasks = toy_tasks()
    network, batch = network_of(subject, tasks), double_batch(tasks)
    outputs = by_task(network, batch).items()
    found = {f"raw {name}": raw.detach().flatten()[:6].tolist() for name, raw in outputs}
    sizes = {f"gradient {n}": [float(g.norm())] for n, g in gradients(network, batch).items()}
    return found | sizes
