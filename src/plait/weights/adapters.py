"""LoRA adapters of peft as models: each is the base with B·A added, exactly and lazily.

    δ = s · B A   (Conv: over the flattened kernel; embeddings and ``fan_in_fan_out``: transposed)

with A [r, n], B [o, r] and s = α/r, or α/√r for rsLoRA; ranks and alphas may differ by module
(``rank_pattern``, ``alpha_pattern``). Averaging A and B is not averaging B·A, so a merge sees the
product. Whole tensors saved beside (biases, ``modules_to_save``) replace the base's. What is not
LoRA, DoRA included, is refused: its weights are no sum.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from plait.weights.checkpoints import Checkpoint, inside
from plait.weights.files import DamagedError
from plait.weights.peft_config import PREFIX, WEIGHTS, read_config, scale_of
from plait.weights.sites import Site
from plait.weights.sources import Array, Source
from plait.weights.states import read_header

_PART = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B)(?:\.default)?(?:\.weight)?")


@dataclass(frozen=True)
class _Product:
    """The factors of one module's difference, by their names in the file."""

    down: str
    up: str
    scale: float
    transposed: bool


class Adapter(Source):
    """A peft folder with a LoRA adapter; its values are differences to the base's.

    Raises :class:`DamagedError` naming what is missing, damaged or no LoRA.
    """

    partial = True

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        config = read_config(folder)
        _refuse(folder, config)
        path = folder / WEIGHTS
        inside(folder, path)
        self.checkpoint = Checkpoint(folder, {path: read_header(path)})
        self._products, whole = _sorted(folder, self.checkpoint, config)
        self._whole = {_own_name(name): name for name in whole}
        sites = [
            *(self._site(name, product) for name, product in self._products.items()),
            *(
                Site(name=own, shape=site.shape, kind=site.kind)
                for own, name in self._whole.items()
                for site in (self.checkpoint.names[name],)
            ),
        ]
        super().__init__(sites)

    def stored(self, name: str, start: int, stop: int) -> Array:
        """Values of a whole tensor that the adapter saved."""
        return self.checkpoint.stored(self._whole[name], start, stop)

    def relative(self, name: str) -> bool:
        """Whether the tensor is a product."""
        return name in self._products

    def read(self, name: str, start: int, stop: int, out: Array) -> None:
        """Values of B·A, only the rows that are asked for being multiplied."""
        if name not in self._products:
            super().read(name, start, stop, out)
            return
        product = self._products[name]
        down, up = (self._factor(part, out.dtype) for part in (product.down, product.up))
        left, right = (down.T, up.T) if product.transposed else (up, down)
        width = right.shape[1]
        first, last = start // width, -(-stop // width)
        rows = (left[first:last] @ right).reshape(-1)
        rows *= out.dtype.type(product.scale)
        out[...] = rows[start - first * width : stop - first * width]

    def _factor(self, name: str, dtype: np.dtype[Any]) -> Array:
        site = self.checkpoint.names[name]
        values = np.empty(site.size, dtype)
        self.checkpoint.read(name, 0, site.size, values)
        return values.reshape(site.shape[0], -1)

    def _site(self, name: str, product: _Product) -> Site:
        down, up = (self.checkpoint.names[part].shape for part in (product.down, product.up))
        shape = (down[1], up[0]) if product.transposed else (up[0], *down[1:])
        return Site(name=name, shape=shape, kind="F32")


def _refuse(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise DamagedError(f"{folder}: a {kind} adapter; only LoRA adapters merge as differences")
    for key, words in (("use_dora", "DoRA rescales whole columns, so it is no sum"),
                       ("use_qalora", "QALoRA's factors belong to a quantised base")):  # fmt: skip
        if config.get(key):
            raise DamagedError(f"{folder}: {words}; fold it into its base with peft first")


def _sorted(
    folder: Path, checkpoint: Checkpoint, config: Mapping[str, Any]
) -> tuple[dict[str, _Product], list[str]]:
    """The products by the name of their tensor, and the names of whole tensors."""
    parts: dict[str, dict[str, str]] = {}
    whole = []
    for name in checkpoint.names:
        found = _PART.fullmatch(name)
        if found is not None:
            parts.setdefault(found[1], {})[found[2]] = name
        elif ".lora_" in name:
            raise DamagedError(f"{folder}: {name!r} is no factor that plait knows")
        else:
            whole.append(name)
    products = {}
    for module, named in parts.items():
        embedding = set(named) == {"embedding_A", "embedding_B"}
        if not embedding and set(named) != {"A", "B"}:
            raise DamagedError(f"{folder}: {module!r} has {', '.join(sorted(named))} and not both")
        down, up = (named[f"embedding_{side}" if embedding else side] for side in "AB")
        a, b = checkpoint.names[down].shape, checkpoint.names[up].shape
        if len(a) < 2 or len(b) < 2 or a[0] != b[1] or prod(b[2:]) != 1:
            raise DamagedError(f"{folder}: {module!r} has factors {list(a)} and {list(b)}")
        own = _own_name(module)
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        products[f"{own}.weight"] = _Product(down, up, scale_of(config, own, a[0]), transposed)
    return products, whole


def _own_name(name: str) -> str:
    """A name of the file as the base has it."""
    name = name.removeprefix(PREFIX)
    return (
        name.replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
        .replace(".base_layer.", ".")
    )
