from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.dora import Dora
from plait.adapting.lora import Lora
from plait.adapting.x_lora import XLora

pytest.importorskip("transformers")


def mixed(adapter):
    """A network of both stages, each moved, and its first stage's banks by block and matrix."""
    first = bert(adapter.trained_on).double()
    found = build_adapted(first, adapter, 0).double().eval()
    filled(trunk_of(found).banks)
    pairs = {p.partition("layer%2E")[2]: b for p, b in trunk_of(first).banks.items()}
    return first, found, pairs


def classifier_of(network):
    (found,) = [b for b in trunk_of(network).banks.values() if list(b.parameters())]
    return found


@pytest.mark.parametrize("layerwise", [False, True])
def test_equals_two_runs_as_written(layerwise):
    adapter = XLora(sources=Lora(rank=2, alpha=6.0), temperature=0.7, layerwise=layerwise)
    _, network, pairs = mixed(adapter)
    plain, score = model_of(bert()).double(), classifier_of(network).experts.score
    value, task = texts(5, 5, 5), [2, 0, 1]
    found = states(network, value, task)
    for row in range(3):
        hidden = plain(input_ids=value[[row]] - 1)[0][0]
        hooks, place = [], 0
        for number, layer in enumerate(plain.encoder.layer):
            for name in ("query", "value"):
                bank = pairs[f"{number}%2Eattention%2Eself%2E{name}"]
                rows = score[:, place if layerwise else 0]

                def follow(_, inputs, said, bank=bank, rows=rows, hidden=hidden):
                    gates = torch.stack([(rows @ h / 0.7).softmax(0) for h in hidden])
                    x = inputs[0]
                    for e in range(3):
                        share = gates[:, e].view(1, -1, 1)
                        said = said + 6.0 / 2 * share * (x @ bank.down[e].T @ bank.up[e].T)
                    return said

                hooks.append(getattr(layer.attention.self, name).register_forward_hook(follow))
                place += 1
        x = plain(input_ids=value[[row]] - 1)[0]
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(found[[row]], pooled(x, value[[row]] > 0), rtol=0, atol=1e-10)


def test_a_gate_that_is_always_open_is_that_tasks_adapter():
    first, network, _ = mixed(XLora(temperature=1e-9))
    classifier = classifier_of(network)
    classifier.experts.score.data.zero_()
    gates = torch.tensor([0.0, 1.0, 0.0]).double()
    classifier.gates = lambda hidden: gates.expand(*hidden.shape[:2], 1, 3)
    value = texts(4, 6, 5)
    one, two = states(network, value, [0, 1, 2]), states(first.eval(), value, [1, 1, 1])
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_only_the_classifier_trains_and_its_gradient_is_of_the_second_run():
    _, network, _ = mixed(XLora(depth=2, hidden=7))
    trains = {n for n, p in trunk_of(network).named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in trains} == {"weight", "score"}
    assert len(trains) == 2
    states(network, texts(4, 6), [0, 1]).sum().backward()
    assert all(p.grad is not None for n, p in trunk_of(network).named_parameters() if n in trains)


def test_settings_and_stages_are_checked():
    for settings, said in (({"depth": 0}, "depth and hidden"), ({"temperature": 0.0}, "positive")):
        with pytest.raises(ValueError, match=said):
            XLora(**settings)
    with pytest.raises(ValueError, match="x_lora mixes plain pairs"):
        mixed(XLora(sources=Dora(rank=2)))
