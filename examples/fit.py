"""``plait.fit``, the visible loop: a data set, a network, a balancer, and what became of them."""

import plait
from plait.balancing import Signals
from plait.data import DataSpec, Rows, TableSpec, TaskSpec, load
from plait.networks import build_network, priors_of
from plait.testing.toys import toy_frame
from plait.training.procedures.base import Problem

table = toy_frame(rows=300).drop("grade", "sold")
dataset = load(
    DataSpec(tables={"fruit": TableSpec(source=table)}, id="id"),
    {"ripe": TaskSpec(kind="binary"), "price": TaskSpec(kind="real"), "stars": TaskSpec()},
)
print(dataset.tasks)
print("; ".join(dataset.facts))

network = build_network(
    inputs=dataset.inputs,
    tasks=dataset.tasks,
    encoder={"trunk": {"mlp": {"width": 32, "depth": 1}}},
    sharing=plait.resolve("sharing", {"mmoe": {"experts": 4, "width": 16}}),
    seed=0,
    priors=priors_of(dataset),
)
feed = Rows(dataset, batch=32, seed=0)
balancer = plait.resolve("balancing", "uncertainty")
seen: list[dict[str, float]] = []


def watch(problem: Problem, signals: Signals) -> None:  # noqa: ARG001
    """Called after every step with the step's problem and what the balancer saw."""
    seen.append(dict(zip(signals.tasks, signals.losses.tolist(), strict=True)))


run = plait.fit(network, feed, balancer, steps=6 * feed.steps, clip=1.0, observers=[watch])
print(f"{run.step} steps in {run.seconds:.1f} s, stopped by {run.stopped}")
for task in dataset.tasks.names:
    print(f"{task}: loss {seen[0][task]:.3f} → {seen[-1][task]:.3f}")
