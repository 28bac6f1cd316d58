"""One LoRA for each task on a frozen transformer, rows of all tasks in one batch: plait and peft.

Both sides run in one process, in turns, on the same batch with the same weights: a small BERT with
LoRA of rank 8 at queries and values, 64 texts of 32 tokens that take turns over T tasks.

- forward: plait's routing; peft's mixed batches (``adapter_names``, which only predict); peft's
  loop, which sets one adapter after the other for its rows;
- training: forward, backward and AdamW, plait's in one batch, peft's by the loop;
- memory: what a training step adds to a process, each side in a process of its own.

Printed are processor milliseconds, which other work on the machine disturbs least, medians over
rounds, ratios of turns that follow each other, ratios of the best rounds, which hardly any other
work has met, and how far the outputs of both sides are apart.

    python benchmarks/adapting.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from plait.adapting import Lora, Routing
from plait.networks.base import escape
from plait.sites import role_sites
from plait.task import Task, TaskSet
from plait.training import RowwiseAdamW

ROWS, TOKENS, RANK = 64, 32, 8
SHAPE = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 512, "vocab_size": 1000,
}  # fmt: skip
Run = Callable[[], object]


class Batch:
    """The texts, what is wanted of each, and its task."""

    def __init__(self, tasks: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1000, (ROWS, TOKENS), generator=generator)
        self.target = torch.randn(ROWS, SHAPE["hidden_size"], generator=generator)
        self.task = torch.arange(ROWS) % tasks
        self.count = tasks


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(**SHAPE), add_pooling_layer=False).eval()


class Ours:
    """The transformer with a bank for all tasks at each site."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.model, self.routing = batch, bert(), Routing()
        self.model.requires_grad_(False)
        tasks = TaskSet(Task(name=f"t{i}") for i in range(batch.count))
        sites = role_sites(self.model, "query", "value")
        self.banks = Lora(rank=RANK, alpha=16).attach(sites, tasks, self.routing)
        self.optimizer = RowwiseAdamW(self.banks.parameters(), lr=1e-3)
        self.names = tasks.names

    def forward(self) -> Tensor:
        with self.routing.to(self.batch.task):
            return self.model(input_ids=self.batch.ids)[0].mean(1)

    def train(self) -> None:
        self.optimizer.zero_grad()
        (self.forward() - self.batch.target).square().mean().backward()
        self.optimizer.step(present=self.names)


class Theirs:
    """The same with peft, an adapter of its own for each task."""

    def __init__(self, batch: Batch) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value"])
        self.batch, self.names = batch, [f"t{i}" for i in range(batch.count)]
        self.model = get_peft_model(bert(), config, adapter_name="t0")
        for name in self.names[1:]:
            self.model.add_adapter(name, config)
        self.model.eval()
        adapters = [p for n, p in self.model.named_parameters() if "lora_" in n]
        self.optimizer = torch.optim.AdamW(adapters, lr=1e-3)
        self.rows = [torch.nonzero(batch.task == t).flatten() for t in range(batch.count)]

    def mixed(self) -> Tensor:
        names = [self.names[t] for t in self.batch.task.tolist()]
        return self.model(input_ids=self.batch.ids, adapter_names=names)[0].mean(1)

    def looped(self) -> Tensor:
        found = torch.empty_like(self.batch.target)
        for name, rows in zip(self.names, self.rows, strict=True):
            self.model.set_adapter(name)
            found[rows] = self.model(input_ids=self.batch.ids[rows])[0].mean(1)
        return found

    def train(self) -> None:
        self.optimizer.zero_grad()
        for name, rows in zip(self.names, self.rows, strict=True):
            self.model.set_adapter(name)
            found = self.model(input_ids=self.batch.ids[rows])[0].mean(1)
            (found - self.batch.target[rows]).square().sum().div(found.shape[1] * ROWS).backward()
        self.optimizer.step()


@torch.no_grad()
def fill(ours: Ours, theirs: Theirs) -> None:
    """Give both sides the same adapters, away from their start."""
    generator = torch.Generator().manual_seed(1)
    for path, layer in theirs.model.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            bank = ours.banks[escape(path)]
            for t, name in enumerate(theirs.names):
                for mine, own in ((bank.down, layer.lora_A), (bank.up, layer.lora_B)):
                    mine[t] = 0.1 * torch.randn(mine[t].shape, generator=generator)
                    own[name].weight.copy_(mine[t])


def turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Processor milliseconds of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                found[name].append(1e3 * (time.process_time() - start))
    return found


def ratio(one: list[float], two: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, two, strict=True))


def resident(key: str) -> float:
    told = Path("/proc/self/status").read_text("ascii")
    return int(told.partition(f"{key}:")[2].split()[0]) / 1024


def memory(side: str, tasks: int) -> None:
    """Print what three steps add to this process, in megabytes."""
    made = {"ours": Ours, "theirs": Theirs}[side](Batch(tasks))
    before = resident("VmRSS")
    for _ in range(3):
        made.train()
    print(resident("VmHWM") - before)


def added(side: str, tasks: int) -> float:
    words = [sys.executable, __file__, "--memory", side, "--tasks", str(tasks)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", choices=("ours", "theirs"))
    parser.add_argument("--tasks", type=int, default=32)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if given.memory:
        memory(given.memory, given.tasks)
        return
    print(f"torch {torch.__version__}, 1 thread; {ROWS} texts of {TOKENS} tokens")
    sides = {}
    for tasks in (1, 4, 32):
        batch = Batch(tasks)
        ours, theirs = Ours(batch), Theirs(batch)
        fill(ours, theirs)
        with torch.no_grad():
            one, two, three = ours.forward(), theirs.looped(), theirs.mixed()
            with ours.routing.to(batch.task), ours.routing.off():
                frozen = ours.model(input_ids=batch.ids)[0].mean(1)
        apart = [float((one - other).abs().max()) for other in (two, three, frozen)]
        print(f"T={tasks}: apart by {apart[0]:.1e} from the loop, {apart[1]:.1e} from mixed rows, "
              f"{apart[2]:.1e} from the frozen network")  # fmt: skip
        sides[tasks] = ours, theirs
    runs: dict[str, Run] = {}
    for tasks in (4, 32):
        ours, theirs = sides[tasks]
        runs |= {f"plait {tasks}": ours.forward, f"mixed {tasks}": theirs.mixed}
        runs |= {f"loop {tasks}": theirs.looped}
    with torch.no_grad():
        ms = turns(runs, given.rounds)
    for side in ("plait", "mixed", "loop"):
        few, many = ms[f"{side} 4"], ms[f"{side} 32"]
        print(f"forward, {side}: {statistics.median(few):.1f} → {statistics.median(many):.1f} ms, "
              f"{ratio(many, few):.2f} times from 4 to 32 tasks, {min(many) / min(few):.2f} of "
              f"the best ({min(few):.1f} → {min(many):.1f})")  # fmt: skip
    for tasks in (4, 32):
        ours, theirs = sides[tasks]
        ms = turns({"plait": ours.train, "loop": theirs.train}, given.rounds)
        held = [added(side, tasks) for side in ("ours", "theirs")]
        median = {side: statistics.median(each) for side, each in ms.items()}
        print(f"training, T={tasks}: plait {median['plait']:.1f} ms, loop {median['loop']:.1f} ms, "
              f"{ratio(ms['loop'], ms['plait']):.1f} times, "
              f"{min(ms['loop']) / min(ms['plait']):.1f} of the best "
              f"({min(ms['plait']):.1f} and {min(ms['loop']):.1f}); "
              f"memory {held[0]:.0f} and {held[1]:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
