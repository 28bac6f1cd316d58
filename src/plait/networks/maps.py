"""Encoders of images that keep the places of what they see, for tasks that label pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Input
from plait.kinds import Place
from plait.method import MethodError
from plait.networks.attention import blocks, waves
from plait.networks.positions import remembered
from plait.networks.stems import Stem


class Maps(Stem):
    """Feature maps of images; a row's vector is their mean over the image.

    Images of one shape share one network. ``map_of`` gives the finest map, ``maps`` one for each
    scale, the finest first, for architectures that read several.
    """

    place: ClassVar[Place] = "pixel"
    stride: int

    def __init__(self, inputs: Sequence[Input], width: int) -> None:
        super().__init__(inputs, [width] * len(inputs))
        self.shapes = list(dict.fromkeys(found.shape for found in inputs))
        self.nets = nn.ModuleList(self.make(*shape) for shape in self.shapes)
        self.net_of = {found.key: self.shapes.index(found.shape) for found in inputs}

    def make(self, channels: int, height: int, width: int) -> nn.Module:
        """The network of images of one shape."""
        raise NotImplementedError

    def stages(self, number: int) -> list[str]:  # noqa: ARG002
        """The paths in ``nets[number]`` of what ends each scale, in the order in which they run.

        Each is a convolution with its norm and activation; empty for networks that have none.
        """
        return []

    def maps(self, key: str, value: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """Images [rows, C, H, W] → maps [rows, width, h, w], the finest first."""
        found: list[Tensor] = self.nets[self.net_of[key]](value.to(dtype))
        return found

    def map_of(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The finest map, [rows, width, h, w]."""
        return remembered(self, value, lambda images: self.maps(key, images, dtype)[0])

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        return self.map_of(key, value, dtype).mean((2, 3))

    def states(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        return self.map_of(key, value, dtype).flatten(2).transpose(1, 2)

    def grid(self, key: str, value: Tensor) -> Tensor:  # noqa: ARG002
        sizes = [-(-size // self.stride) for size in value.shape[2:]]
        return torch.ones(len(value), *sizes, dtype=torch.bool, device=value.device)


class Pyramid(Maps):
    """A small convolutional network with a map for each of ``depth`` scales, joined from the top.

    Each scale halves the one before: 3×3 convolution, norm over groups of channels, ReLU, twice.
    From the coarsest on, a map is added, twice as large, to the next finer one, down to ``stride``
    pixels apart (Lin et al. 2017, feature pyramid networks).
    """

    name = "pyramid"

    def __init__(
        self,
        inputs: Sequence[Input],
        *,
        channels: int = 16,
        depth: int = 3,
        width: int = 64,
        stride: int = 2,
    ) -> None:
        scales = [2**level for level in range(depth)]
        if stride not in scales:
            shown = ", ".join(map(str, scales))
            raise MethodError(f"a depth of {depth} has strides {shown}, not {stride}", ("stride",))
        self.stride = stride
        self.settings = {"channels": channels, "depth": depth, "width": width, "stride": stride}
        super().__init__(inputs, width)

    def make(self, channels: int, height: int, width: int) -> nn.Module:
        if min(height, width) < 2 ** (self.settings["depth"] - 1):
            raise MethodError(f"images of {height} × {width} are too small to halve", ("depth",))
        return _Pyramid(channels, **self.settings)

    def stages(self, number: int) -> list[str]:
        net = self.nets[number]
        assert isinstance(net, _Pyramid)
        up = [f"smooth.{level}" for level in reversed(range(len(net.smooth)))]
        return [*(f"down.{level}.1" for level in range(len(net.down))), *up]

    def spec(self) -> dict[str, Any]:
        return dict(self.settings)


class _Pyramid(nn.Module):
    def __init__(self, inside: int, channels: int, depth: int, width: int, stride: int) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        for level in range(depth):
            outside = channels * 2**level
            self.down.append(
                nn.Sequential(layer(inside, outside, 2 if level else 1), layer(outside, outside))
            )
            inside = outside
        self.kept = stride.bit_length() - 1
        sizes = [channels * 2**level for level in range(self.kept, depth)]
        self.across = nn.ModuleList(nn.Conv2d(size, width, 1) for size in sizes)
        self.smooth = nn.ModuleList(layer(width, width) for _ in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for scale in self.down:
            x = scale(x)
            levels.append(x)
        above: Tensor | None = None
        found = []
        for number in reversed(range(len(self.across))):
            level = self.across[number](levels[self.kept + number])
            if above is not None:
                level = level + F.interpolate(above, size=level.shape[2:])
            above = level
            found.append(self.smooth[number](level))
        return found[::-1]


def layer(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """A 3×3 convolution, a norm over groups of channels and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1),
        nn.GroupNorm(channel_groups(outside), outside),
        nn.ReLU(),
    )


def channel_groups(channels: int) -> int:
    """Into how many groups norms cut channels; within a row, so that no row changes another."""
    return next(n for n in (8, 4, 2, 1) if channels % n == 0)


class Vit(Maps):
    """A small vision transformer: patches of ``patch`` pixels as tokens, with their places.

    Images are filled up with zeros to whole patches. The coarser scales are means of the map.
    """

    name = "vit"

    def __init__(
        self,
        inputs: Sequence[Input],
        *,
        patch: int = 4,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        if patch < 1:
            raise MethodError(f"patch must be at least 1, got {patch}", ("patch",))
        self.stride = patch
        self.settings = {"patch": patch, "width": width, "depth": depth, "heads": heads}
        super().__init__(inputs, width)

    def make(self, channels: int, height: int, width: int) -> nn.Module:  # noqa: ARG002
        return _Vit(channels, **self.settings)

    def spec(self) -> dict[str, Any]:
        return dict(self.settings)


class _Vit(nn.Module):
    def __init__(self, channels: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.blocks = blocks(width, depth, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> list[Tensor]:
        high, wide = (-size % self.patch for size in images.shape[2:])
        patches = self.embed(F.pad(images, (0, wide, 0, high)))
        rows, width, h, w = patches.shape
        y = waves(h, width // 2, patches)[:, None].expand(h, w, -1)
        x = waves(w, width - width // 2, patches)[None].expand(h, w, -1)
        tokens = patches.flatten(2).transpose(1, 2) + torch.cat([y, x], 2).flatten(0, 1)
        for block in self.blocks:
            tokens = block(tokens)
        fine = self.norm(tokens).transpose(1, 2).reshape(rows, width, h, w)
        found = [fine]
        while min(found[-1].shape[2:]) > 1 and len(found) < 3:
            found.append(F.avg_pool2d(found[-1], 2))
        return found
