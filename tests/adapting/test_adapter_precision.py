"""Every adapter in bfloat16: as a training casts, and in a network that is stored so."""

from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, texts, trunk_of

from plait.adapting import build_adapted
from plait.batch import Records
from plait.testing.contract import registered

METHODS = sorted(key for key in registered() if key.startswith("adapting."))
SMALL = {
    "adapting.awaker_moe": {"rank": 2},
    "adapting.lori": {"rank": 2},
    "adapting.smora": {"rank": 4, "active": 2},
}
ASKED = {"binary": Records(torch.tensor([0, 1, 1, 2]), torch.arange(4))}


def adapted(key):
    """A network with the method's adapters, those of its first stage beneath."""
    adapter, network = registered()[key](**SMALL.get(key, {})), bert()
    for stage in (adapter.trained_on, adapter):
        if stage is not None:
            network = build_adapted(network, stage, 0)
            filled(trunk_of(network).banks, std=0.02)
    return network.eval()


def run(network):
    """The raw outputs, and whether gradients reach the banks, all finite."""
    found = network({"a": {"text.review": texts(5, 3, 7, 4)}}, ASKED).raw["binary"]
    network.zero_grad()
    found.float().square().sum().backward()
    grads = [p.grad for p in trunk_of(network).banks.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    return found.detach().float(), len(grads)


@pytest.mark.parametrize("key", METHODS)
def test_bfloat16_says_what_float32_says(key):
    network = adapted(key)
    wanted, trained = run(network)
    with torch.autocast("cpu", torch.bfloat16):
        cast, reached = run(network)
    assert reached == trained
    torch.testing.assert_close(cast, wanted, rtol=0.1, atol=0.1)
    stored, reached = run(network.to(torch.bfloat16))
    assert reached == trained
    torch.testing.assert_close(stored, wanted, rtol=0.1, atol=0.1)
