from __future__ import annotations

import pytest
import torch
from adapter_nets import TASKS, bert, filled, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.lofit import LoFit
from plait.batch import Records
from plait.networks import Network

pytest.importorskip("transformers")
PROJECTION = "encoder.layer.{}.attention.output.dense"


def staged(share=0.5):
    """The network of the scales, and the one of the offsets on it."""
    first = bert(LoFit(part="scales", share=share)).double().eval()
    return first, build_adapted(first, LoFit(share=share), 0).double().eval()


def by_hand(value, change):
    """Texts through a plain model; ``change(block, z)`` before each output projection."""
    plain = model_of(bert()).double().eval()
    for block in range(2):
        layer = plain.get_submodule(PROJECTION.format(block))
        layer.register_forward_pre_hook(
            lambda _, inputs, block=block: (change(block, inputs[0]),), with_kwargs=False
        )
    mask = value > 0
    ids = (value - 1).clamp(min=0)
    return pooled(plain(input_ids=ids, attention_mask=mask.long())[0], mask)


def test_the_first_stage_scales_every_head():
    first, _ = staged()
    banks = list(trunk_of(first).banks.values())
    value, task = texts(4, 2, 3), [2, 0, 1]
    found = states(first, value, task)
    for row, t in enumerate(task):

        def scaled(block, z, t=t):
            z = z.clone()
            for head in range(2):
                z[..., 8 * head : 8 * head + 8] *= 1 + banks[block].scales[t, head]
            return z

        wanted = by_hand(value[[row]], scaled)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)


def test_the_second_stage_moves_the_heads_with_the_largest_scales_only():
    first, second = staged()
    scales = [bank.scales.detach() for bank in trunk_of(first).banks.values()]
    offsets = trunk_of(second).banks["offsets"]
    filled(offsets)
    value, task = texts(4, 2, 3), [2, 0, 1]
    found = states(second, value, task)
    for row, t in enumerate(task):
        heads = [(block, head) for block in range(2) for head in range(2)]
        heads.sort(key=lambda at: -scales[at[0]][t, at[1]].square().sum())
        chosen = dict(zip(heads[:2], offsets.offsets[t], strict=True))

        def moved(block, z, chosen=chosen):
            z = z.clone()
            for head in range(2):
                if (block, head) in chosen:
                    z[..., 8 * head : 8 * head + 8] += chosen[block, head]
            return z

        wanted = by_hand(value[[row]], moved)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)


def test_a_head_that_a_task_needs_is_ranked_first():
    torch.manual_seed(0)
    first = build_adapted(bert(), LoFit(part="scales", sparsity=0.01), 0).eval()
    trunk = trunk_of(first)
    value = torch.randint(1, 41, (24, 5))
    planted = {"type": (0, 1), "NR.AR": (1, 0), "a/b": (1, 1)}
    wanted = {}
    for t, at in enumerate(planted.values()):

        def scaled(block, z, at=at):
            z = z.clone()
            if block == at[0]:
                z[..., 8 * at[1] : 8 * at[1] + 8] *= 2.0
            return z

        plain = by_hand(value, scaled).detach()
        wanted[t] = plain.float()
    optimizer = torch.optim.Adam(trunk.banks.parameters(), lr=0.05)
    for _ in range(25):
        optimizer.zero_grad()
        loss = sum(
            (states(first, value, [t] * 24) - want).square().mean() for t, want in wanted.items()
        )
        penalty = sum(bank.penalty(torch.ones(3).bool()) for bank in trunk.banks.values())
        (10 * loss + penalty).backward()
        optimizer.step()
    second = build_adapted(first, LoFit(share=0.25), 0)
    heads = trunk_of(second).banks["offsets"].heads
    assert heads.flatten().tolist() == [2 * block + head for block, head in planted.values()]


def test_a_task_folds_into_the_bias_of_the_projection():
    _, second = staged()
    trunk = trunk_of(second)
    filled(trunk.banks)
    value = texts(4, 3)
    routed = states(second, value, [1, 1])
    projection = trunk.base.get_submodule("encoder.stems.text.model." + PROJECTION.format(0))
    before = projection.frozen.bias.clone()
    with trunk.folded("NR.AR"):
        folded = states(second, value, [1, 1])
        assert not torch.equal(projection.frozen.bias, before)
    torch.testing.assert_close(folded, routed, rtol=0, atol=1e-12)
    assert torch.equal(projection.frozen.bias, before)


def test_the_penalty_is_the_sum_over_present_tasks():
    first, _ = staged()
    trunk = trunk_of(first)
    asked = {"binary": Records(torch.tensor([1]), torch.tensor([0]))}
    penalty = first({"a": {"text.review": texts(4)}}, asked).penalties["lofit"]
    wanted = 0.001 * sum(bank.scales[1].abs().sum() for bank in trunk.banks.values())
    torch.testing.assert_close(penalty, wanted)


def test_parameters_are_those_of_the_chosen_heads():
    _, second = staged(share=0.03)
    trunk = trunk_of(second)
    assert sum(p.numel() for p in trunk.banks.parameters()) == len(TASKS) * 1 * 8
    assert trunk.banks["offsets"].stored("type") == 8


def test_the_chosen_heads_come_back_from_a_folder(tmp_path):
    _, second = staged()
    second = second.float()
    filled(trunk_of(second).banks)
    second.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()
    value = texts(5, 3)
    assert torch.equal(states(second, value, [2, 0]), states(again, value, [2, 0]))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="no part 'offset'; did you mean 'offsets'"):
        LoFit(part="offset")
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        LoFit(share=0.0)
