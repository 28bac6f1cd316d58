from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import bert, filled, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.awaker_moe import AwakerMoe
from plait.networks import Network

pytest.importorskip("transformers")
MODEL = "encoder.stems.text.model"
SMALL = {"experts": 3, "rank": 2, "alpha": 6.0, "temperature": 0.5}


def staged(**settings):
    """The network of the first stage, and that of the second on it."""
    settings = {**SMALL, **settings}
    first = bert(AwakerMoe(stage=1, **settings)).double().eval()
    return first, build_adapted(first, AwakerMoe(**settings), 0).double().eval()


def banks_of(network):
    """The banks by their path in the transformer; the gates under no name."""
    found = {p.replace("%2E", "."): b for p, b in trunk_of(network).banks.items()}
    return {p.removeprefix(MODEL).lstrip("."): b for p, b in found.items()}


def gate_of(path):
    """The number of the gate of a site: of attention's output and of the feed-forward part."""
    block = int(path.split(".")[2])
    if "attention.output" in path:
        return 2 * block
    return None if "attention" in path else 2 * block + 1


def test_the_second_stage_starts_where_the_first_ended_whatever_the_gates_say():
    first, second = staged()
    banks_of(second)[""].gate.data.normal_()
    value = texts(5, 2, 4)
    found, wanted = states(second, value, [2, 0, 1]), states(first, value, [2, 0, 1])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_each_text_opens_its_best_expert_and_gives_the_rest_to_the_general_one():
    _, second = staged()
    filled(trunk_of(second).banks)
    banks = banks_of(second)
    value, seen = texts(5, 2, 4, 3), set()
    found = states(second, value, [0, 0, 1, 2])
    words = model_of(bert()).double().get_input_embeddings()
    for row, text in enumerate(value):
        mask = text > 0
        e = words(text[mask] - 1).mean(0)
        plain = copy.deepcopy(model_of(bert()).double().eval())
        for path, bank in banks.items():
            if not path:
                continue
            change = [3.0 * up @ down for up, down in zip(bank.up, bank.down, strict=True)]
            whole = change[0]
            if (gate := gate_of(path)) is not None:
                p = (banks[""].gate[gate] @ e / 0.5).softmax(0)
                best = int(p.detach().argmax())
                seen.add((gate, best))
                whole = p[best] * change[best] + (1 - p[best]) * change[3]
            plain.get_submodule(path).weight.data += whole.detach()
        ids = (text[mask] - 1).unsqueeze(0)
        wanted = plain(input_ids=ids, attention_mask=torch.ones_like(ids))[0].mean(1)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)
    assert len(seen) > 4  # not always the same expert


def test_a_single_expert_leaves_nothing_to_the_general_one():
    _, second = staged(experts=1)
    filled(trunk_of(second).banks)
    value = texts(4, 3)
    before = states(second, value, [0, 1])
    for path, bank in banks_of(second).items():
        if path and gate_of(path) is not None:
            bank.up.data[1].fill_(100.0)
    assert torch.equal(states(second, value, [0, 1]), before)


def test_one_lora_serves_all_tasks_in_the_first_stage():
    first, _ = staged()
    value = texts(4, 4)
    value[1] = value[0]
    found = states(first, value, [0, 2])
    assert torch.equal(found[0], found[1])
    plain = copy.deepcopy(model_of(bert()).double().eval())
    for path, bank in banks_of(first).items():
        plain.get_submodule(path).weight.data += 3.0 * (bank.up[0] @ bank.down[0]).detach()
    mask = value > 0
    wanted = pooled(plain(input_ids=value - 1, attention_mask=mask.long())[0], mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_gates_draw_noise_in_training_and_are_frozen_once_settled():
    _, second = staged(noise=1.0, settled=10)
    gates = banks_of(second)[""]
    text = torch.randn(4, 16, dtype=torch.float64)
    assert torch.equal(gates.gates(text), gates.gates(text))
    gates.train()
    assert not torch.equal(gates.gates(text), gates.gates(text))
    assert gates.gates(text).requires_grad
    trunk_of(second).advance(10)
    assert torch.equal(gates.gates(text), gates.gates(text))
    assert not gates.gates(text).requires_grad


def test_parameters_are_the_formulas():
    _, second = staged()
    plain = 2 * 3 * 2 * (16 + 16)  # queries, keys and values of two blocks
    mixed = 2 * 4 * 2 * ((16 + 16) + (16 + 32) + (32 + 16))
    found = sum(p.numel() for p in trunk_of(second).banks.parameters())
    assert found == plain + mixed + 4 * 3 * 16


def test_the_second_stage_comes_back_from_a_folder(tmp_path):
    _, second = staged()
    second = second.float()
    filled(trunk_of(second).banks)
    second.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()
    value = texts(5, 3)
    assert torch.equal(states(second, value, [2, 0]), states(again, value, [2, 0]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stage": 3}, "stage must be 1 or 2"),
        ({"experts": 0}, "experts must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        AwakerMoe(**settings)
