"""Networks on short sequences, and what goes into and comes out of their feed-forward parts."""

from __future__ import annotations

import torch

from plait.batch import Batch, Input, Labels, Records
from plait.networks import build_network
from plait.task import Task, TaskSet

INPUTS = {"sequence.s": Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(12,))}
LENGTHS = (3, 5, 1, 2)
TASKS = TaskSet(
    [
        Task(name="mood"),
        Task(name="pos", kind="tokens", classes=("a", "b", "c")),
        Task(name="price", kind="real"),
        Task(name="ner", kind="tokens", classes=("x", "y", "z")),
    ]
)


def many(count):
    return TaskSet(Task(name=f"t{i}", kind=("binary", "real")[i % 2]) for i in range(count))


def network(sharing, tasks=TASKS, depth=2, seed=0):
    encoder = {
        "sequence": {"attention": {"width": 8, "heads": 2, "depth": depth}},
        "trunk": {"mlp": {"depth": 0}},
    }
    net = build_network(inputs=INPUTS, tasks=tasks, encoder=encoder, sharing=sharing, seed=seed)
    return net.double().eval()


def batch(tasks=TASKS, longest=5):
    draw = torch.Generator().manual_seed(0)
    words = torch.zeros(4, longest, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        words[row, :length] = torch.randint(1, 12, (length,), generator=draw)
    labels = {}
    for key, group in tasks.groups.items():
        task = torch.arange(len(group.tasks)).repeat_interleave(4)
        row = torch.arange(4).repeat(len(group.tasks))
        tokens = group.place == "token"
        shape = (len(task), longest) if tokens else (len(task),)
        target = torch.randint(0, 2, shape, generator=draw)
        labels[key] = Labels(task, row, target if tokens else target.double())
    return Batch({"t": {"sequence.s": words}}, labels, tasks, torch.arange(4))


def by_task(net, given, only=None):
    """Task → its raw outputs, in the order of the rows; of one task alone where ``only`` is it."""
    asked = dict(given.labels)
    if only is not None:
        group = net.tasks.groups[net.tasks[only].group]
        rows = torch.arange(4)
        asked = {group.key: Records(torch.full_like(rows, group.position[only]), rows)}
    raw, found = net(given.parts, asked).raw, {}
    for key, own in raw.items():
        names = [only] if only is not None else net.tasks.groups[key].tasks
        found |= dict(zip(names, own.unflatten(0, (len(names), 4)), strict=True))
    return found


def moved(net, by=0.3):
    """Every parameter away from its start."""
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += by * torch.randn(parameter.shape, generator=draw).to(parameter)
    return net


def parts_of(net):
    """The feed-forward parts of the network's blocks."""
    return [block.mlp for block in net.encoder.stems["sequence"].layers[0]]


def watched(net, given, first, last):
    """What goes into one module and comes out of another: for each run (task [rows], in, out)."""
    runs, handles = [], []

    def enter(_, inputs):
        runs.append([net.trunk.rows.task.clone(), inputs[0].detach()])

    handles.append(first.register_forward_pre_hook(enter))
    handles.append(last.register_forward_hook(lambda _, __, out: runs[-1].append(out.detach())))
    outputs = net(given.parts, given.labels)
    for handle in handles:
        handle.remove()
    return runs, outputs


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2
