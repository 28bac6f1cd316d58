"""A training step of expert architectures, stacked as plait has them and as loops over modules.

``python benchmarks/sharing.py [REPEATS]`` prints, for T tasks and B rows that all have all labels,
milliseconds of a step (forward, backward, AdamW) side by side in one process, and the operations
that a step dispatches. The loops are written as the usual libraries have them: a module for each
expert, gate and head, run one after another. Sizes are those of the common benchmarks: 64 inputs,
experts of 64, MMoE with 8 experts, PLE with 1 for each task and 2 shared, AdaTT with 1 for each
task, two levels each.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plait.batch import Input, Records
from plait.networks import build_network
from plait.networks.base import Sharing
from plait.sharing import AdaTT, Mmoe, Ple
from plait.task import Task, TaskSet
from plait.training import RowwiseAdamW

WIDTH = 64
Step = Callable[[], object]


class MmoeLoop(nn.Module):
    """Experts, gates and heads, each a module of its own."""

    def __init__(self, tasks: int, experts: int = 8) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, experts, bias=False) for _ in range(tasks))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = torch.stack([expert(x).relu() for expert in self.experts], 1)
        mixed = [torch.bmm(g(x).softmax(1).unsqueeze(1), outputs).squeeze(1) for g in self.gates]
        return [head(h) for head, h in zip(self.heads, mixed, strict=True)]


class LevelsLoop(nn.Module):
    """PLE (``shared`` experts) or AdaTT (none, every gate reads all experts)."""

    def __init__(self, tasks: int, shared: int) -> None:
        super().__init__()
        self.tasks, self.shared = tasks, shared
        total = tasks + shared
        reads = 1 + shared if shared else total
        self.experts, self.gates = nn.ModuleList(), nn.ModuleList()
        for level in range(2):
            self.experts.append(nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(total)))
            gates = [nn.Linear(WIDTH, reads) for _ in range(tasks)]
            gates += [nn.Linear(WIDTH, total)] if shared and not level else []
            self.gates.append(nn.ModuleList(gates))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        state = [x] * (self.tasks + 1)
        for experts, gates in zip(self.experts, self.gates, strict=True):
            units = [*range(self.tasks), *[self.tasks] * self.shared]
            found = [expert(state[u]).relu() for expert, u in zip(experts, units, strict=True)]
            every, following = torch.stack(found, 1), []
            for t, gate in enumerate(gates):
                read = every
                if self.shared and t < self.tasks:
                    read = torch.stack([found[t], *found[self.tasks :]], 1)
                mixed = torch.bmm(gate(state[t]).softmax(1).unsqueeze(1), read).squeeze(1)
                following.append(mixed if self.shared else mixed + found[t])
            state = following
        return [head(h) for head, h in zip(self.heads, state[: self.tasks], strict=True)]


class Counting(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def stacked(sharing: Sharing, tasks: int, x: Tensor, y: Tensor) -> Step:
    """A step of plait's network."""
    named = TaskSet(Task(name=f"t{i}") for i in range(tasks))
    inputs = {"vector.v": Input(key="vector.v", type="vector", shape=(WIDTH,))}
    net = build_network(
        inputs=inputs, tasks=named, encoder={"trunk": {"mlp": {"depth": 0}}}, sharing=sharing,
        seed=0,
    )  # fmt: skip
    optimizer = RowwiseAdamW(net.parameters())
    rows = torch.arange(len(x))
    asked = {"binary": Records(torch.arange(tasks).repeat_interleave(len(x)), rows.repeat(tasks))}
    target = y.T.reshape(-1, 1)
    present = named.names

    def step() -> None:
        optimizer.zero_grad()
        raw = net({"rows": {"vector.v": x}}, asked).raw["binary"]
        nn.functional.binary_cross_entropy_with_logits(raw, target).backward()
        optimizer.step(present=present)

    return step


def looped(net: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A step of the loop."""
    optimizer = torch.optim.AdamW(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        found = net(x)
        losses = [
            nn.functional.binary_cross_entropy_with_logits(raw.squeeze(1), y[:, t])
            for t, raw in enumerate(found)
        ]
        torch.stack(losses).mean().backward()
        optimizer.step()

    return step


def timed(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Milliseconds of each, the median of rounds in turn."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number > 1:
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in found.items()}


def counted(step: Step) -> int:
    """Operations that a step dispatches."""
    with Counting() as counting:
        step()
    return counting.count


def main(repeats: int) -> None:
    """Print the table."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads; ms a step: stacked, loop, ratio; operations")
    for tasks in (8, 32):
        for rows in (64, 512):
            x, y = torch.randn(rows, WIDTH), torch.randint(0, 2, (rows, tasks)).float()
            for name, sharing, loop in (
                ("mmoe", Mmoe(experts=8), MmoeLoop(tasks)),
                ("ple", Ple(experts=1, shared=2), LevelsLoop(tasks, 2)),
                ("adatt", AdaTT(), LevelsLoop(tasks, 0)),
            ):
                steps = {"ours": stacked(sharing, tasks, x, y), "loop": looped(loop, x, y)}
                ms = timed(steps, repeats)
                ratio = ms["loop"] / ms["ours"]
                print(
                    f"{name:6} T={tasks:<3} B={rows:<4} {ms['ours']:8.2f} {ms['loop']:8.2f} "
                    f"{ratio:6.2f}x {counted(steps['ours']):6} {counted(steps['loop']):6}"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
