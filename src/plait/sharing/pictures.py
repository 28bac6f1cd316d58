"""Architectures on feature maps: the shared network runs once for an image, whoever asks for it.

What a task adds stands behind the network, or beside its stages, and runs for each image that the
task asks for (:class:`Once`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.networks.base import Encoder
from plait.networks.maps import Maps, channel_groups
from plait.networks.routing import followed
from plait.networks.rows import RowTasks
from plait.sharing.inside import Inside


@dataclass
class Looks:
    """What a forward leaves for modules: ``which`` of the images that run each record reads [N].

    ``last`` is what a task's stream has come to, ``found`` its maps so far.
    """

    which: Tensor | None = None
    last: Tensor | None = None
    found: list[Tensor] = field(default_factory=list)


class Pictures(Inside):
    """An encoder of images in which every task looks at the maps in its own way."""

    def begin(self, task: Tensor) -> Looks:  # noqa: ARG002
        """A fresh record of what was seen."""
        return Looks()


class Once(nn.Module):
    """A network of images that runs once for each image; ``look`` makes maps for every record."""

    def __init__(self, net: nn.Module, rows: RowTasks) -> None:
        super().__init__()
        self.net, self.rows = net, rows

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [N, C, H, W] of records → maps [N, width, h, w], the finest first."""
        looks: Looks = self.rows.made
        which = torch.arange(len(images), device=images.device)
        if not followed():
            order = which
            _, which = torch.unique(self.rows.source, return_inverse=True)
            first = order.new_full((int(which.max()) + 1,), len(images))
            first = first.scatter_reduce(0, which, order, "amin")
            images = images.index_select(0, first)
        looks.which, looks.last, looks.found = which, None, []
        return self.look(self.net(images), looks)

    def look(self, maps: list[Tensor], looks: Looks) -> list[Tensor]:
        """Maps of the images that ran → maps of the records, the finest first."""
        raise NotImplementedError


def maps_in(encoder: Encoder) -> list[Maps]:
    """The parts of an encoder that give feature maps; ``ValueError`` where there is none."""
    found = [module for module in encoder.modules() if isinstance(module, Maps)]
    if not found:
        raise ValueError("the encoder gives no feature maps; take encoder: {image: pyramid}")
    return found


def wrap_nets(encoder: Encoder, make: Callable[[Maps, int], Any]) -> None:
    """Put ``make(stem, number)`` in the place of each network of images."""
    for stem in maps_in(encoder):
        for number in range(len(stem.nets)):
            stem.nets[number] = make(stem, number)


def pointwise(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1×1 convolution for each record: [N, C, h, w] by [N, O, C] and [N, O] → [N, O, h, w]."""
    flat = torch.baddbmm(bias.unsqueeze(2), weight, maps.flatten(2))
    return flat.view(*flat.shape[:2], *maps.shape[2:])


def normalised(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A norm over groups of channels with the records' own scale and shift [N, C]."""
    plain = F.group_norm(maps, channel_groups(maps.shape[1]))
    return plain * scale[:, :, None, None] + shift[:, :, None, None]


def fitted(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps [N, C, h, w] at another size: maxima where it is smaller, straight lines between."""
    if maps.shape[2:] == size:
        return maps
    if maps.shape[2] >= size[0]:
        return F.adaptive_max_pool2d(maps, size)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
