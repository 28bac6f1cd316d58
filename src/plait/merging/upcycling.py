"""A mixture of experts out of dense models: each model's MLPs become experts of one Mixtral.

At every layer of a Llama or Mistral, with d the width and E the models,

    y = Σ_{e in the ``chosen`` largest of g} softmax(g)_e · MLP_e(x),   g = W x,   W [E, d]

where MLP_e is model e's, the softmax is over the chosen, W is new, and all other tensors are the
base's (without a base the first model's). Models with one and the same MLP give that model back
exactly, whatever W. W is drawn anew and is to be trained: what tells experts apart is in no
checkpoint.

>>> import numpy as np
>>> from plait.weights.sinks import Memory
>>> parts = ("gate_proj", "down_proj", "up_proj")
>>> one = {f"layers.0.mlp.{part}.weight": np.ones((2, 2)) for part in parts}
>>> config, sink = {"model_type": "llama", "hidden_size": 2}, Memory()
>>> upcycle(Pool({"a": one, "b": one}), config, sink)["num_local_experts"]
2
>>> sorted(sink.tensors)[0]
'layers.0.block_sparse_moe.experts.0.w1.weight'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from plait.merging.draws import Draws
from plait.merging.engine import BLOCK
from plait.merging.pool import Array, Pool, PoolError
from plait.merging.results import copy, stored, write
from plait.weights.sinks import Sink
from plait.weights.sites import Site

PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
MODELS = ("llama", "mistral")
_MLP = re.compile(r"(.*layers\.\d+)\.mlp\.(gate_proj|down_proj|up_proj)\.weight")


def upcycle(
    pool: Pool,
    config: Mapping[str, Any],
    sink: Sink,
    *,
    chosen: int = 2,
    seed: int = 0,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the mixture's tensors into a sink; its configuration, from the models' ``config``.

    Every row takes ``chosen`` experts. The routers' weights are uniform within ±1/√d, by the seed
    and the layer's name. Raises :class:`PoolError` for models of another architecture, with biases
    in their MLPs, or fewer than ``chosen``.
    """
    kind = str(config.get("model_type"))
    if kind not in MODELS:
        raise PoolError(f"a {kind} becomes no mixture; {' and '.join(MODELS)} models do")
    if not 1 <= chosen <= len(pool):
        raise PoolError(f"{chosen} experts cannot be chosen among {len(pool)} models")
    names = (site.name for site in pool.sites)
    biased = next((name for name in names if re.search(r"\.mlp\..*\.bias$", name)), None)
    if biased is not None:
        raise PoolError(f"{biased!r}: Mixtral's experts have no biases")
    laid = dict(_laid(pool, int(config["hidden_size"])))
    if not laid:
        raise PoolError("the models have no layers.N.mlp.gate_proj, and so no experts")
    experts = [Pool({name: pool.models[name]}, pool.base) for name in pool.names]

    def place(site: Site) -> None:
        number, source = laid.get(site, (None, site))
        if source is None:
            sink.write(site, 0, stored(_router(site, seed), site))
        elif number is None:
            copy(pool, sink, site)
        else:
            for start in range(0, site.size, BLOCK):
                stop = min(start + BLOCK, site.size)
                values, _ = experts[number].block(source, start, stop, against_base=False)
                sink.write(site, start, stored(values[0], site))

    rest = (site for site in pool.sites if not _MLP.fullmatch(site.name))
    write(pool, sink, place, sites=[*rest, *laid], workers=workers)
    dense = {name: value for name, value in config.items() if name != "mlp_bias"}
    return {
        **dense,
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": len(pool),
        "num_experts_per_tok": chosen,
    }


def _laid(pool: Pool, width: int) -> Iterator[tuple[Site, tuple[int | None, Site | None]]]:
    """The new sites: an expert's with its number and where it comes from; a router's with none."""
    for site in pool.sites:
        found = _MLP.fullmatch(site.name)
        if found is None:
            continue
        moe = f"{found[1]}.block_sparse_moe"
        for number in range(len(pool)):
            name = f"{moe}.experts.{number}.{PARTS[found[2]]}.weight"
            yield replace(site, name=name, aliases=()), (number, site)
        if found[2] == "gate_proj":
            router = Site(name=f"{moe}.gate.weight", shape=(len(pool), width), kind=site.kind)
            yield router, (None, None)


def _router(site: Site, seed: int) -> Array:
    """Values [E·d], uniform within ±1/√d."""
    numbers = Draws(seed=seed, words=("router", site.name)).integers(0, site.size)
    even = (numbers.astype(site.working) + 0.5) / (1 << 15) - 1
    return np.asarray(even / np.sqrt(site.shape[1]), site.working)
