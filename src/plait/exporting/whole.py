"""A network as one module that gives every task on every row, and as a graph of any batch size.

Networks answer records: pairs of task and row. A deployed file is asked for all tasks on all rows,
so the heads become one product for each group, and nothing depends on which tasks are present.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from plait.batch import Part, Records
from plait.exporting.check import ExportError
from plait.losses import LOSSES
from plait.networks.base import Features, escape
from plait.networks.network import Network
from plait.networks.routing import following
from plait.networks.side_by_side import SideBySideTrunk
from plait.networks.stems import Bag
from plait.networks.transformer import Transformer
from plait.task import HeadGroup

TRACED = 3  # rows of the example that a network is followed with


class Whole(nn.Module):
    """``forward(part)``: the inputs of some rows → predictions of each named task, float32.

    [batch] for binary, real and counts, [batch, classes] for classes and ordinal.
    """

    def __init__(self, network: Network, tasks: Sequence[str]) -> None:
        super().__init__()
        network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, Bag):
                module.encode = MethodType(_bag, module)  # type: ignore[method-assign]
            if isinstance(module, Transformer):
                module.encode = MethodType(_pooled, module)  # type: ignore[method-assign]
        self.trunk = network.trunk
        self.heads = network.heads
        self.tasks = network.tasks
        self.named = [name for name in network.tasks.names if name in set(tasks)]
        before = {} if self.trunk.chain is None else self.trunk.chain.before
        needed = {link for name in self.named for link in (name, *before.get(name, ()))}
        self.wanted = {
            key: [name for name in group.tasks if name in needed]
            for key, group in network.tasks.groups.items()
        }

    def forward(self, part: Part) -> dict[str, Tensor]:
        """(inputs by key) → predictions by task."""
        rows = next(iter(part.values())).shape[0]
        asked = {
            key: _every(self.tasks.groups[key], names, rows)
            for key, names in self.wanted.items()
            if names
        }
        found: dict[str, Tensor] = {}
        features = self._features(part, asked)
        for key, records in asked.items():
            group, names = self.tasks.groups[key], self.wanted[key]
            raw = self._raw(group, names, features[key], records, rows)
            found |= {name: raw[place] for place, name in enumerate(names)}
        return {
            name: self._decoded(self.tasks.groups[self.tasks[name].group], name, raw)
            for name, raw in self._chained(found).items()
        }

    def _chained(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the named tasks, of the raw ones of those before them too."""
        chain = self.trunk.chain
        if chain is None:
            return {name: raw[name] for name in self.named}
        found = {}
        for name in self.named:
            links = (name, *reversed(chain.before[name]))
            found[name] = raw[name]
            if len(links) > 1:
                steps = torch.stack([raw[link][:, 0] for link in links], 1)
                found[name] = chain.outputs(steps).unsqueeze(1)
        return found

    def _features(self, part: Part, asked: Mapping[str, Records]) -> Mapping[str, Features]:
        if isinstance(self.trunk, SideBySideTrunk):
            return _side_by_side(self.trunk, part, self.wanted)
        found: Mapping[str, Features] = self.trunk({"rows": part}, asked)[0]
        return found

    def _raw(
        self,
        group: HeadGroup,
        names: Sequence[str],
        features: Features,
        records: Records,
        rows: int,
    ) -> Tensor:
        """[tasks, batch, outputs]."""
        bank = self.heads.banks[escape(group.key)]
        own = [group.position[name] for name in names]
        weight, bias = bank.get_parameter("weight")[own], bank.get_parameter("bias")[own]
        if features.rows is records.rows:  # the same features for every task
            flat = F.linear(features.values, weight.flatten(0, 1), bias.flatten())
            return flat.view(rows, len(names), group.outputs).transpose(0, 1)
        each = features.records.view(len(names), rows, features.values.shape[-1])
        return torch.baddbmm(bias.unsqueeze(1), each, weight.transpose(1, 2))

    def _decoded(self, group: HeadGroup, name: str, raw: Tensor) -> Tensor:
        task = self.tasks[name]
        if group.loss == "cumulative":
            return _ordinal(raw)
        found = LOSSES[group.loss].predict(raw)
        if group.kind == "real":
            return (found.double() * task.scale + task.center).float()
        return found


def _every(group: HeadGroup, names: Sequence[str], rows: int) -> Records:
    """The named tasks of a group on all rows, task by task."""
    task = torch.tensor([group.position[name] for name in names])
    each = torch.arange(rows)
    return Records(
        task[:, None].expand(-1, rows).reshape(-1),
        each[None].expand(len(names), -1).reshape(-1),
    )


def _ordinal(raw: Tensor) -> Tensor:
    """The cumulative loss's prediction without ``cummin``, which ONNX does not have."""
    above = [torch.sigmoid(raw[:, :1])]
    for place in range(1, raw.shape[1]):
        above.append(torch.minimum(above[-1], torch.sigmoid(raw[:, place : place + 1])))
    edges = [torch.ones_like(above[0]), *above, torch.zeros_like(above[0])]
    padded = torch.cat(edges, dim=1)
    return padded[:, :-1] - padded[:, 1:]


def _bag(stem: Bag, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG001
    """``embedding_bag`` as a product: exporters write the former as a loop over rows."""
    table: Any = stem.tables[stem.table_of[key]].weight
    real = (value != 0).to(table.dtype)
    share = real / real.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(share.unsqueeze(1), F.embedding(value, table)).squeeze(1)


def _pooled(stem: Transformer, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG001
    """All texts at once: sorting them by their lengths would fix the lengths."""
    real = value != 0
    tokens = (value - 1).clamp(min=0)
    states: Tensor = stem.model(input_ids=tokens, attention_mask=real.long())[0]
    if stem.pooling == "cls":
        return states[:, 0]
    share = real.to(states.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(share.unsqueeze(1), states).squeeze(1)


def _side_by_side(
    trunk: SideBySideTrunk, part: Part, wanted: Mapping[str, Sequence[str]]
) -> dict[str, Features]:
    """Every task's own encoder on all rows."""
    weights: dict[str, Tensor] = dict(trunk.bank.encoder.named_parameters())

    def one(own: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(trunk.bank.encoder, dict(own), ({"part": part},))
        return found

    found = {}
    for key, names in wanted.items():
        if names:
            own = [trunk.tasks.position[name] for name in names]
            each = [one({name: w[place] for name, w in weights.items()}) for place in own]
            found[key] = Features(torch.cat(each))
    return found


def traced(
    module: nn.Module, inputs: Mapping[str, Tensor], texts: Mapping[str, str]
) -> ExportedProgram:
    """The module as a graph for any number of rows, and of tokens in the inputs named by ``texts``.

    ``texts`` maps inputs to the text whose tokens they hold: those of one text have one length.
    Raises :class:`ExportError` where its code cannot be followed.
    """
    batch = Dim("batch", min=1)
    shapes: dict[str, dict[int, Any]] = {}
    lengths: dict[str, Any] = {}
    for key in inputs:
        shapes[key] = {0: batch}
        if key in texts:
            length = Dim(f"length_{len(lengths)}", min=1, max=longest_text(module))
            shapes[key][1] = lengths.setdefault(texts[key], length)
    example = several(inputs, texts)
    with quiet(), following(), _symbolic(module):
        try:
            return torch.export.export(
                module, (), {"part": example}, dynamic_shapes={"part": shapes}, strict=False
            )
        except Exception as error:  # whatever the code of a user's own module raises there
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ExportError(
                "PyTorch cannot follow this model's code for batches of any size "
                f"({type(error).__name__}: {lines[0] if lines else ''}); modules of your own must "
                "not branch on values or on the number of rows"
            ) from error


def several(inputs: Mapping[str, Tensor], texts: Mapping[str, str]) -> dict[str, Tensor]:
    """The first rows as an example to follow: one row, or one token, would be taken for always."""
    found = {}
    for key, value in inputs.items():
        while len(value) < TRACED:
            value = torch.cat([value, value])
        if key in texts and value.shape[1] < TRACED:
            value = F.pad(value, (0, TRACED))
        found[key] = value[:TRACED]
    return found


def longest_text(module: nn.Module) -> int | None:
    """The most tokens that the module's transformers have positions for."""
    found = [
        int(config.max_position_embeddings)
        for each in module.modules()
        if isinstance(each, Transformer)
        and getattr(config := each.model.config, "max_position_embeddings", 0) > 0
    ]
    return min(found, default=None)


@contextmanager
def _symbolic(module: nn.Module) -> Iterator[None]:
    """Inside, ``len(tensor)`` in the code of plait and of the module stays open in a graph.

    Python's own ``len`` must give a number, which would fix the batch at the size traced.
    """
    own = {type(each).__module__ for each in module.modules()}
    names = {name for name in sys.modules if name.startswith("plait.")} | own
    places = [vars(sys.modules[name]) for name in names if not name.startswith("torch")]
    changed = [place for place in places if "len" not in place]
    for place in changed:
        place["len"] = _size
    try:
        yield
    finally:
        for place in changed:
            del place["len"]


def _size(sized: Any) -> Any:
    return sized.shape[0] if isinstance(sized, Tensor) else sized.__len__()


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn about their own insides and log them; nothing of it helps a user."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
