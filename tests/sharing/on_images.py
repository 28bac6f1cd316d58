"""Networks on small images, for architectures that look at feature maps."""

from __future__ import annotations

import torch

from plait.batch import Batch, Input, Labels
from plait.networks import build_network
from plait.task import Task, TaskSet

INPUTS = {"image.i": Input(key="image.i", type="image", shape=(1, 6, 8))}
PYRAMID = {"pyramid": {"channels": 4, "depth": 2, "width": 8, "stride": 1}}
VIT = {"vit": {"patch": 2, "width": 8, "depth": 2, "heads": 2}}
TASKS = TaskSet(
    [
        Task(name="mask", kind="segmentation", classes=("a", "b", "c")),
        Task(name="count", kind="real"),
        Task(name="edge", kind="boundaries"),
        Task(name="day"),
    ]
)


def network(sharing, tasks=TASKS, image=PYRAMID, seed=0):
    encoder = {"image": image, "trunk": {"mlp": {"depth": 0}}}
    net = build_network(inputs=INPUTS, tasks=tasks, encoder=encoder, sharing=sharing, seed=seed)
    return net.double().eval()


def batch(tasks=TASKS, rows=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = {}
    for key, group in tasks.groups.items():
        task = torch.arange(len(group.tasks)).repeat_interleave(rows)
        row = torch.arange(rows).repeat(len(group.tasks))
        shape = (len(task), 6, 8) if group.place == "pixel" else (len(task),)
        target = torch.randint(0, 2, shape, generator=draw)
        valid = torch.rand(shape, generator=draw) < 0.7 if group.place == "pixel" else None
        labels[key] = Labels(task, row, target.double(), valid=valid)
    images = torch.randn(rows, 1, 6, 8, generator=draw, dtype=torch.float64)
    return Batch({"t": {"image.i": images}}, labels, tasks, torch.arange(rows))


def features_by_task(net, given):
    """Task → the features of its records, in the order of the batch."""
    found = net(given.parts, given.labels).features
    names = {}
    for key, own in given.labels.items():
        records, rows = found[key].records, len(given)
        each = len(records) // len(own)
        pieces = records.view(-1, rows * each, records.shape[1])
        names |= dict(zip(net.tasks.groups[key].tasks, pieces, strict=True))
    return names
