"""What balancing costs: one step against one step on the plain sum of the losses.

Every case is one process, in which the ways take turns on the same network and batch: the plain
sum, plait's exact Gramian and Jacobian, its gradients at the features, and torchjd's Jacobian (all
tasks in one batched pass, and one by one) and Gramian. All weigh the tasks alike, so that what
differs is how gradients are obtained. Printed are medians over rounds of the ratio to the plain
sums around each turn, each the best of three steps; at 40 tasks also the growth of the process's
memory beyond the plain step, in a process of its own; and methods alone on a Gramian that is at
hand. Where there is a GPU, a column has the ratios there.

    python benchmarks/balancing.py [--threads 1] [--rounds 8] [--only mlp,cnn,solvers]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import plait
from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.famo import Famo
from plait.method import Card
from plait.training import Engine

TASKS = (2, 8, 40)
SEEN = {"mlp": 128, "cnn": 64, "transformer": 32}
TARGETS = {  # what PEERS.md says plait must reach, by case, way and tasks
    ("mlp", "plait", 40): 20.0,
    ("mlp", "features", 40): 1.8,
    ("cnn", "features", 40): 1.3,
    ("disjoint", "plait", 2): 2.3,
    ("disjoint", "plait", 8): 2.3,
    ("disjoint", "plait", 40): 3.5,
    ("mlp", "famo", 40): 1.4,
}
BOUNDS = {"mlp": 110, "cnn": 130, "disjoint": 90}  # MB; for the MLP 1.3 times T·P floats
WAYS = {
    "mlp": ("plait", "jacobian", "features", "torchjd", "torchjd chunk=1", "torchjd autogram"),
    "cnn": ("plait", "jacobian", "features", "torchjd", "torchjd chunk=1", "torchjd autogram"),
    "transformer": ("plait", "jacobian", "features", "torchjd", "torchjd chunk=1"),
    "disjoint": ("plait", "jacobian", "torchjd", "torchjd chunk=1"),
    "famo": ("famo", "torchjd famo"),
}


class Alike(Balancer):
    """Looks at the Gramian and weighs every task the same."""

    card = Card(family="balancing", name="alike", summary="For measuring what gradients cost.")
    rung = Rung.GRAM

    def forward(self, s: Signals) -> Tensor:
        return torch.full_like(s.losses, 1 / len(s.tasks))


class Mean(Balancer):
    """Looks at the Jacobian and takes the mean of its rows."""

    card = Card(family="balancing", name="mean", summary="For measuring what gradients cost.")
    rung = Rung.JACOBIAN
    weights_heads = False

    def forward(self, s: Signals) -> Tensor:
        assert s.jacobian is not None
        return s.jacobian.mean(0)


class Encoder(nn.Module):
    """Token ids → the mean of two transformer layers' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.table(ids)).mean(1)


@dataclass
class Work:
    """A trunk, heads, one batch, and the losses by task; ``own`` rows belong to one task each."""

    trunk: nn.Module
    heads: nn.ModuleList
    inputs: Tensor
    targets: Tensor
    own: bool

    def run(self) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(self.inputs)
        tasks, rows = len(self.heads), len(self.inputs)
        per = rows // tasks
        losses = []
        for i, head in enumerate(self.heads):
            mine = features[i * per : (i + 1) * per] if self.own else features
            losses.append((head(mine) - self.targets[i]).square().mean())
        return features, losses

    @property
    def shared(self) -> list[nn.Parameter]:
        return list(self.trunk.parameters())

    def clear(self) -> None:
        for parameter in [*self.trunk.parameters(), *self.heads.parameters()]:
            parameter.grad = None


def make(case: str, tasks: int) -> Work:
    torch.manual_seed(0)
    kind = {"disjoint": "mlp", "famo": "mlp"}.get(case, case)
    rows = 16 * tasks if case == "disjoint" else SEEN[kind]
    if kind == "cnn":
        early, late = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        trunk: nn.Module = nn.Sequential(
            early,
            nn.ReLU(),
            nn.MaxPool2d(2),
            late,
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        width, inputs = 64, torch.randn(rows, 3, 32, 32)
    elif kind == "transformer":
        trunk, width, inputs = Encoder(), 64, torch.randint(0, 1000, (rows, 32))
    else:
        sizes = [256, 512, 512, 256]
        pairs = pairwise(sizes)
        trunk = nn.Sequential(*(part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())))
        width, inputs = 256, torch.randn(rows, 256)
    heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(tasks))
    targets = torch.randn(tasks, 16 if case == "disjoint" else rows, 10)
    return Work(trunk, heads, inputs, targets, case == "disjoint")


def plain(work: Work) -> Callable[[], None]:
    def step() -> None:
        work.clear()
        _, losses = work.run()
        torch.stack(losses).sum().backward()

    return step


def way(name: str, work: Work) -> Callable[[], None]:
    """One step, with gradients obtained in the named way."""
    if name.endswith("famo"):
        return _famo(name, work)
    if name.startswith("torchjd"):
        return _torchjd(name, work)
    balancer = Mean() if name == "jacobian" else Alike()
    engine = Engine(at="features" if name == "features" else None)

    def step() -> None:
        work.clear()
        features, losses = work.run()
        given = {f"task {i}": loss for i, loss in enumerate(losses)}
        plait.backward(given, work.shared, balancer, engine=engine, features=features)

    return step


def _torchjd(name: str, work: Work) -> Callable[[], None]:
    from torchjd import aggregation, autogram, autojac

    if name == "torchjd autogram":
        engine = autogram.Engine(work.trunk, batch_dim=None)

        def by_gram() -> None:
            work.clear()
            _, losses = work.run()
            stacked = torch.stack(losses)
            gram = engine.compute_gramian(stacked)
            stacked.backward(torch.full_like(gram[0], 1 / len(losses)))

        return by_gram
    mean = aggregation.Mean()
    chunk: dict[str, Any] = {"parallel_chunk_size": 1} if name.endswith("chunk=1") else {}

    def step() -> None:
        work.clear()
        features, losses = work.run()
        autojac.mtl_backward(losses, features=features, **chunk)
        autojac.jac_to_grad(work.shared, mean)

    return step


def _famo(name: str, work: Work) -> Callable[[], None]:
    from torchjd.scalarization import FAMO

    ours, theirs = Famo(), FAMO(len(work.heads))

    def plaits() -> None:
        work.clear()
        _, losses = work.run()
        given = {f"task {i}": loss for i, loss in enumerate(losses)}
        signals = plait.backward(given, work.shared, ours)
        with torch.no_grad():
            ours.advance(signals, torch.stack(work.run()[1]))

    def torchjds() -> None:
        work.clear()
        theirs(torch.stack(work.run()[1])).backward()
        with torch.no_grad():
            again = torch.stack(work.run()[1])
        theirs.update(again)

    return plaits if name == "famo" else torchjds


def compare(case: str, tasks: int, rounds: int) -> dict[str, Any]:
    """Ratios to the plain step, the ways taking turns."""
    work = make(case, tasks)
    base = plain(work)
    ways = {name: way(name, make(case, tasks)) for name in WAYS[case]}  # each its own: some hook it
    for step in (base, *ways.values()):
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    plains = []
    for _ in range(rounds):
        for name, step in ways.items():
            before = _best(base, 3)
            took = _best(step, 3)
            plains.append(before)
            seconds[name].append(took / min(before, _best(base, 3)))
    found = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    return {"plain_ms": round(statistics.median(plains) * 1e3, 2), "ratio": found}


def _best(step: Callable[[], None], times: int) -> float:
    """Seconds of the fastest of some calls.

    On one thread they are the process's own, so that others on the machine count less.
    """
    cuda = torch.get_default_device().type == "cuda"
    one = torch.get_num_threads() == 1 and not cuda
    clock = time.process_time if one else time.perf_counter
    taken = []
    for _ in range(times):
        start = clock()
        step()
        if cuda:
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return min(taken)


def memory(case: str, tasks: int, name: str) -> float:
    """MB that the process grows by in its first steps, beyond the plain step."""
    work = make(case, tasks)
    if name.startswith("torchjd"):
        import torchjd.aggregation
        import torchjd.autogram
        import torchjd.autojac  # noqa: F401
    plain(work)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = way(name, work)
    step()
    step()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1)


def solvers(rounds: int) -> list[tuple[str, float, float | None, float | None]]:
    """Milliseconds of methods alone on a random Gramian of 40 tasks: plait's and torchjd's."""
    from torchjd import aggregation

    torch.manual_seed(0)
    rows = torch.randn(40, 60, dtype=torch.float64) * torch.logspace(-1, 1, 40)[:, None]
    gram = rows @ rows.T
    signals = Signals.of({f"task {i}": 1.0 for i in range(40)}, gram=gram)
    pairs: dict[str, tuple[Callable[[], Any] | None, float | None]] = {
        "pcgrad": (aggregation.PCGradWeighting, 1.0),
        "cagrad": (partial(aggregation.CAGradWeighting, c=0.4), 2.0),
        "upgrad": (aggregation.UPGradWeighting, 2.0),
        "nash_mtl": (None, 3.0),
        "mgda": (aggregation.MGDAWeighting, None),
    }
    found = []
    for name, (theirs, target) in pairs.items():
        balancer = plait.resolve("balancing", name)
        balancer.bind(signals.tasks)
        ours = _milliseconds(partial(balancer, signals), rounds)
        other = None if theirs is None else _milliseconds(partial(theirs(), gram), rounds)
        found.append((name, ours, other, target))
    return found


def _milliseconds(call: Callable[[], Any], rounds: int) -> float:
    return 1e3 * statistics.median(_best(call, 3) for _ in range(rounds))


def child(*words: str, given: argparse.Namespace, device: str = "cpu") -> Any:
    command = [sys.executable, __file__, "--threads", str(given.threads)]
    command += ["--rounds", str(given.rounds), "--device", device, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(given: argparse.Namespace) -> None:
    """Print everything, as Markdown."""
    gpu = torch.cuda.is_available()
    name = f", {torch.cuda.get_device_name()}" if gpu else ""
    print(f"torch {torch.__version__}, {given.threads} threads, {given.rounds} rounds{name}\n")
    print("| work | T | way | ratio |" + (" GPU |" if gpu else "") + " MB | must reach |")
    print("|---|---|---|---|" + ("---|" if gpu else "") + "---|---|")
    chosen = given.only.split(",") if given.only else [*WAYS, "solvers"]
    for case in [one for one in chosen if one in WAYS]:
        for tasks in TASKS:
            _rows(case, tasks, given, gpu=gpu)
    if "solvers" in chosen:
        print(
            "\n| method alone, T = 40 | plait, ms | torchjd, ms | must reach |\n|---|---|---|---|"
        )
        for row in child("--solvers", given=given):
            print("| " + " | ".join("–" if v is None else _short(v) for v in row) + " |")


def _rows(case: str, tasks: int, given: argparse.Namespace, *, gpu: bool) -> None:
    words = ("--case", case, "--tasks", str(tasks))
    found = child(*words, given=given)
    there = child(*words, given=given, device="cuda") if gpu else {"ratio": {}, "plain_ms": 0.0}
    middle = f" {there['plain_ms']} ms |" if gpu else ""
    print(f"| {case} | {tasks} | plain sum | {found['plain_ms']} ms |{middle} | |")
    for way_name, ratio in found["ratio"].items():
        grown, wanted = "", _short(TARGETS.get((case, way_name, tasks), ""))
        if tasks == max(TASKS):
            grown = f"{child(*words, '--memory', way_name, given=given):.0f}"
            if way_name == "plait" and case in BOUNDS:
                wanted = f"{wanted}, {BOUNDS[case]} MB".removeprefix(", ")
        middle = f" {there['ratio'].get(way_name, '')} |" if gpu else ""
        print(f"| | | {way_name} | {ratio:.2f} |{middle} {grown} | {wanted} |", flush=True)


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--solvers", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_default_device(given.device)
    warnings.filterwarnings("ignore")
    if given.memory:
        print(json.dumps(memory(given.case, given.tasks, given.memory)))
    elif given.case:
        print(json.dumps(compare(given.case, given.tasks, given.rounds)))
    elif given.solvers:
        print(json.dumps(solvers(given.rounds)))
    else:
        table(given)


if __name__ == "__main__":
    main()
