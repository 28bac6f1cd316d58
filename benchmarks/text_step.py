"""What running texts by length saves in a training step of a pretrained transformer.

Both sides run in one process, in turns, on the same batches of the eight mixed text tasks: as plait
does it, and with every batch padded to its longest text in one piece. Printed are processor
seconds, which other work on the machine disturbs least, the median over rounds of the ratio of two
turns that follow each other, and how many tokens each side computes.

    PLAIT_ENCODER=FOLDER python benchmarks/text_step.py [--sample 0.03] [--steps 4] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from plait import Batch, fit
from plait.adapting import Lora, build_adapted
from plait.cli.compare import prepare
from plait.comparing.building import encoder_frozen, make_network
from plait.comparing.plan import Plan
from plait.data.mixing import Feed, feed_for
from plait.networks import Network
from plait.networks.lengths import by_length

RECIPE = Path(__file__).parents[1] / "recipes" / "text.yaml"
Pieces = list[tuple[Tensor, int]]


def padded(tokens: Tensor) -> Pieces:
    """All texts in one piece."""
    return [(torch.arange(len(tokens)), tokens.shape[1])]


SIDES: dict[str, Callable[[Tensor], Pieces]] = {"padded": padded, "by length": by_length}
NETWORKS: dict[str, Callable[[Plan], Network]] = {
    "lora": lambda plan: build_adapted(make_network(plan, 0), Lora(rank=8), 0),
    "full": lambda plan: make_network(encoder_frozen(plan, frozen=False), 0),
}


@contextmanager
def running(side: str) -> Iterator[None]:
    with mock.patch("plait.networks.transformer.by_length", SIDES[side]):
        yield


def measure(network: Network, feed: Feed, steps: int, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side in list(SIDES) if number % 2 else reversed(SIDES):
            start = time.process_time()
            with running(side):
                fit(network, feed, steps=steps, keep_best=False)
            if number:  # the first round warms up
                seconds[side].append((time.process_time() - start) / steps)
    return seconds


def tokens(batches: list[Batch], side: str) -> float:
    """The mean number of tokens that a side computes for a batch."""
    texts = [text for batch in batches for part in batch.parts.values() for text in part.values()]
    pieces = [piece for text in texts for piece in SIDES[side](text)]
    return sum(len(rows) * longest for rows, longest in pieces) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=float, default=0.03)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        (plan,) = prepare(RECIPE, Path(folder), given.sample).plans
    feed = feed_for(plan.dataset, plan.training, 0)
    batches = [feed.batch(step) for step in range(given.steps)]
    real = sum(int((t != 0).sum()) for b in batches for p in b.parts.values() for t in p.values())
    told = ", ".join(f"{side} {tokens(batches, side):,.0f}" for side in SIDES)
    print(f"tokens a step: {told}, real {real / len(batches):,.0f}")
    for name, make in NETWORKS.items():
        seconds = measure(make(plan), feed, given.steps, given.rounds)
        turns = zip(*seconds.values(), strict=True)
        ratio = statistics.median(before / after for before, after in turns)
        each = ", ".join(f"{side} {statistics.median(s):5.2f} s" for side, s in seconds.items())
        print(f"{name}: {each} a step, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
