"""What `plait.fit` costs beside a loop written by hand, on the same records.

Both sides run in one process, in turns, with the same network, batches, optimizer (RowwiseAdamW),
clipping and semantics: per-task means over the labels present, absent tasks untouched. Printed is
the median over rounds of the ratio of two turns that follow each other; the aim is at most 1.05.

    python benchmarks/fit_overhead.py [--steps 100] [--rounds 25]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from itertools import compress

import torch

from plait import Batch, Labels, Task, TaskSet, fit
from plait.batch import Input
from plait.losses import LOSSES
from plait.networks import Network, build_network
from plait.sharing.hard import Hard
from plait.training import RowwiseAdamW

CASES = {  # tasks: (kinds, rows in a batch, inputs, share of labels present)
    2: (("binary", "binary"), 256, 64, 1.0),
    12: (("binary",) * 12, 256, 128, 0.83),
    139: (("real",) * 139, 256, 32, 1 / 139),
}
ENCODER = {"trunk": {"mlp": {"width": 256, "depth": 2}}}


class Deck:
    """Batches made beforehand; each is new to whoever draws it."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.steps = len(batches)

    def batch(self, step: int) -> Batch:
        return replace(self.batches[step % self.steps])


def make(count: int) -> tuple[TaskSet, Deck, dict[str, Input]]:
    kinds, rows, width, share = CASES[count]
    tasks = TaskSet(Task(name=f"task {i}", kind=kind) for i, kind in enumerate(kinds))
    (group,) = tasks.groups
    batches = []
    for number in range(20):
        generator = torch.Generator().manual_seed(number)
        there = torch.rand(count, rows, generator=generator) < share
        task, row = there.nonzero(as_tuple=True)
        target = torch.randint(0, 2, (len(task),), generator=generator).float()
        inputs = torch.randn(rows, width, generator=generator)
        labels = {group: Labels(task, row, target)}
        batches.append(Batch({"table": {"numeric": inputs}}, labels, tasks, torch.arange(rows)))
    return tasks, Deck(batches), {"numeric": Input(key="numeric", type="numeric", shape=(width,))}


def by_hand(network: Network, deck: Deck, optimizer: RowwiseAdamW, steps: int) -> None:
    parameters = list(network.parameters())
    names = network.tasks.names
    for step in range(steps):
        batch = deck.batch(step)
        outputs = network(batch.parts, batch.labels)
        ((key, labels),) = batch.labels.items()
        counts = torch.bincount(labels.task, minlength=len(batch.tasks))
        value = LOSSES[batch.tasks.groups[key].loss].per_row(outputs.raw[key], labels.target)
        sums = value.new_zeros(len(counts)).index_add(0, labels.task, value)
        loss = (sums / counts.clamp(min=1)).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(present=tuple(compress(names, (counts > 0).tolist())))


def measure(count: int, steps: int, rounds: int) -> tuple[float, float, float]:
    tasks, deck, inputs = make(count)
    sides = {}
    for side in ("hand", "fit"):
        network = build_network(inputs=inputs, tasks=tasks, encoder=ENCODER, sharing=Hard(), seed=0)
        sides[side] = network, RowwiseAdamW(network.parameters()), []
    for number in range(rounds + 1):
        for side in ("hand", "fit") if number % 2 else ("fit", "hand"):
            network, optimizer, seconds = sides[side]
            start = time.perf_counter()
            if side == "hand":
                by_hand(network, deck, optimizer, steps)
            else:
                fit(network, deck, optimizer=optimizer, steps=steps, clip=1.0)
            if number:  # the first round warms up
                seconds.append((time.perf_counter() - start) / steps)
    hand, ours = (sides[side][2] for side in ("hand", "fit"))
    ratio = statistics.median(b / a for a, b in zip(hand, ours, strict=True))
    return statistics.median(hand), statistics.median(ours), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for count in CASES:
        hand, ours, ratio = measure(count, given.steps, given.rounds)
        print(
            f"{count:>4} tasks: by hand {hand * 1e3:6.3f} ms, fit {ours * 1e3:6.3f} ms a step, "
            f"ratio {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
