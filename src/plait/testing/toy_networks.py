"""The small networks that the laws of sharing and adapting run on, and their batches.

A method that is shared stands in a network of its own; one that adapts stands in a wide network, or
in a small transformer where it needs one, its first stage made and moved before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from plait.adapting import AdaptedTrunk, build_adapted
from plait.batch import Batch, Input
from plait.kinds import Place
from plait.method import Need
from plait.networks import Network, build_network, task_slices
from plait.networks.base import Sharing
from plait.sharing.hard import Hard
from plait.task import TaskSet
from plait.testing.laws import Subject
from plait.testing.toys import toy_batch, toy_inputs


def network_of(subject: Subject, tasks: TaskSet, seed: int = 0) -> Network:
    """A small network with the subject in it, in float64.

    Adapters are away from their start, where they say nothing: every slice is moved by noise that
    is keyed by its task's name.
    """
    if subject.family == "adapting":
        network = adapted(subject, tasks, seed)
        _move(network)
        return network
    sharing = subject.make()
    if Need.ORDERED in sharing.card.needs:
        tasks = in_chain(tasks)
    inputs, encoder = GROUNDS[sharing.place]
    return _network(tasks, sharing, inputs, encoder, seed)


def in_chain(tasks: TaskSet) -> TaskSet:
    """The same tasks, the toys' binary ones each after the one before."""
    names = sorted(name for name in tasks.names if name.startswith("binary."))
    for earlier, name in pairwise(names):
        tasks = tasks.replace(name, after=earlier)
    return tasks


def adapted(subject: Subject, tasks: TaskSet, seed: int = 0) -> Network:
    """A frozen network with fresh adapters of the subject, in evaluation mode: some draw noise.

    Adapters that say nothing before they saw labelled rows see a batch of them.
    """
    adapter = subject.make()
    network = build_adapted(start_of(subject, tasks), adapter, seed).double().eval()
    if Need.LABELLED in adapter.card.needs:
        adapter.begin(network.trunk, [double_batch(tasks)])
    return network


def start_of(subject: Subject, tasks: TaskSet) -> Network:
    """The network to be adapted; for a second stage, with adapters of the first, moved."""
    adapter = subject.make()
    if adapter.transformers_only:
        network = _network(tasks, Hard(), TEXTS, BERT, 0)
    else:
        encoder = {"trunk": {"mlp": {"width": WIDE, "depth": 2}}}
        network = _network(tasks, Hard(), VECTORS, encoder, 0)
    if adapter.trained_on is not None:
        network = build_adapted(network, adapter.trained_on, 0).double()
        _move(network)
    return network


# A small transformer, and a network wide enough for the default ranks; `dressed` has both inputs.
WIDE = 64
VECTORS = {"vector.wide": Input(key="vector.wide", type="vector", shape=(WIDE,))}
TEXTS = {"text.words": Input(key="text.words", type="text", shape=(-1,), sizes=(18,))}
TINY = {
    "model_type": "bert", "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40,
    "initializer_range": 0.3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
BERT = {
    "text": {"transformer": {"config": TINY, "max_length": 8, "frozen": False}},
    "trunk": {"mlp": {"depth": 0}},
}

SEQUENCES = {
    "sequence.items": Input(key="sequence.items", type="sequence", shape=(-1,), sizes=(18,))
}
IMAGES = {"image.small": Input(key="image.small", type="image", shape=(1, 6, 6))}
# What a way of sharing is tried on, by what its encoder must have vectors for.
GROUNDS: Mapping[Place, tuple[Mapping[str, Input], Mapping[str, Any]]] = {
    "row": (toy_inputs(), {"trunk": {"mlp": {"width": 8, "depth": 1}}}),
    "token": (
        SEQUENCES,
        {
            "sequence": {"attention": {"width": 8, "depth": 2, "heads": 2}},
            "trunk": {"mlp": {"width": 8, "depth": 1}},
        },
    ),
    "pixel": (
        IMAGES,
        {
            "image": {"pyramid": {"channels": 4, "depth": 2, "width": 8, "stride": 1}},
            "trunk": {"mlp": {"width": 8, "depth": 1}},
        },
    ),
}


def _network(
    tasks: TaskSet,
    sharing: Sharing,
    inputs: Mapping[str, Input],
    encoder: Mapping[str, Any],
    seed: int,
) -> Network:
    found = build_network(inputs=inputs, tasks=tasks, encoder=encoder, sharing=sharing, seed=seed)
    return found.double()


def banks_of(network: Network) -> dict[str, nn.Parameter]:
    """The adapters' parameters."""
    trunk = network.trunk
    assert isinstance(trunk, AdaptedTrunk)
    return {f"trunk.banks.{n}": p for n, p in trunk.banks.named_parameters()}


@torch.no_grad()
def _move(network: Network) -> None:
    for name, parameter in banks_of(network).items():
        slices = task_slices(parameter)
        pieces = [("", parameter)] if slices is None else zip(slices, parameter, strict=True)
        for task, piece in pieces:
            generator = torch.Generator().manual_seed(sum(map(ord, name + task)))
            noise = torch.randn(piece.shape, generator=generator, dtype=piece.dtype)
            piece += 0.3 * min(1.0, (8 / max(piece.shape, default=1)) ** 0.5) * noise


def double_batch(tasks: TaskSet, **more: Any) -> Batch:
    """A toy batch in float64, dressed."""
    return dressed(toy_batch(tasks, dtype=torch.float64, **more))


def dressed(batch: Batch) -> Batch:
    """A toy batch whose numbers are there as other inputs, too.

    As a wide vector, as a text of four words, as a sequence of two to four items and as an image.
    """
    numeric = batch.parts["table"]["numeric"]
    draw = torch.Generator().manual_seed(5)
    wide, small = (
        (numeric.double() @ torch.randn(4, size, generator=draw, dtype=torch.float64) / 4)
        for size in (WIDE, 36)
    )
    edges = torch.tensor([-0.7, 0.0, 0.7], dtype=numeric.dtype)
    words = 1 + torch.bucketize(numeric, edges) + 4 * torch.arange(4)
    short = torch.arange(4) >= 2 + (numeric[:, :1] > -0.5).long() + (numeric[:, :1] > 0.5).long()
    own = {
        "numeric": numeric,
        "vector.wide": wide.to(numeric.dtype),
        "text.words": words,
        "sequence.items": words.masked_fill(short, 0),
        "image.small": small.to(numeric.dtype).view(-1, 1, 6, 6),
    }
    return replace(batch, parts={"table": own})
