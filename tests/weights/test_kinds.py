from __future__ import annotations

import numpy as np
import torch

from plait.weights.kinds import narrow, widen
from plait.weights.sites import Site


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    edges = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | np.array(
        [0x7FFF, 0x8000, 0x8001], np.uint32
    )
    values = np.concatenate([bits, edges.ravel()]).view(np.float32)
    mine = narrow(values, "BF16")
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    nothing = np.isnan(values)
    np.testing.assert_array_equal(mine[~nothing], theirs.view(torch.uint16).numpy()[~nothing])
    back = np.empty(len(values), np.float32)
    widen(mine, "BF16", back)
    assert np.isnan(back[nothing]).all()
    np.testing.assert_array_equal(back[~nothing], theirs.float().numpy()[~nothing])


def test_a_sites_depth_is_its_first_number() -> None:
    names = {"model.layers.11.mlp.experts.3.up.weight": 11, "embed.weight": None, "0.weight": 0}
    for name, depth in names.items():
        assert Site(name=name, shape=(2, 3), kind="F32").depth == depth
