from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.files import save_adapter
from plait.adapting.mvlpt import Mvlpt
from plait.networks.base import slice_trainers
from plait.weights.adapter_folders import read_adapter

pytest.importorskip("transformers")

SOURCE = Mvlpt(length=2, stage="source")
PAIRED = Mvlpt(length=2, groups=[["a/b", "type"]])


def both(adapter=PAIRED):
    """The first stage, moved, and the second at its start."""
    first = bert(adapter.trained_on).double().eval()
    return first, build_adapted(first, adapter, 0).double().eval()


def prompt_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank.bank.prompt


def test_one_prompt_of_real_tokens_is_those_tokens_in_every_tasks_text():
    network, plain = bert(SOURCE).eval(), model_of(bert())
    prompt_of(network).data[0] = plain.embeddings.word_embeddings.weight[[7, 11]]
    value = texts(5, 5, 5)
    longer = torch.cat([torch.tensor([[7, 11]] * 3), value - 1], 1)
    hidden = plain(input_ids=longer)[0][:, 2:]
    found = states(network, value, [2, 0, 1])
    torch.testing.assert_close(found, pooled(hidden, value > 0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "count"), [([], 3), ([["a/b", "type"]], 2), ([["type", "NR.AR", "a/b"]], 1)]
)
def test_groups_start_from_what_all_tasks_learnt(groups, count):
    first, second = both(Mvlpt(length=2, groups=groups))
    value = texts(5, 3, 4)
    assert torch.equal(states(second, value, [0, 1, 2]), states(first, value, [2, 0, 1]))
    assert len(prompt_of(second)) == count


def test_tasks_of_a_group_share_its_prompt_and_others_have_their_own():
    _, network = both()
    filled(trunk_of(network).banks)
    prompt = prompt_of(network)
    assert slice_trainers(prompt) == (frozenset({"type", "a/b"}), frozenset({"NR.AR"}))
    value = texts(5, 5)
    assert torch.equal(states(network, value, [0, 0]), states(network, value, [2, 2]))
    assert not torch.allclose(states(network, value, [0, 0]), states(network, value, [1, 1]))
    states(network, value, [1, 1]).square().sum().backward()
    assert (prompt.grad[0] == 0).all()
    assert (prompt.grad[1] != 0).any()


def test_the_first_stage_is_the_same_for_all_groupings():
    assert PAIRED.trained_on == Mvlpt(length=2).trained_on == SOURCE


def test_a_task_exports_its_groups_prompt(tmp_path):
    _, network = both()
    filled(trunk_of(network).banks)
    save_adapter(network.float(), "a/b", tmp_path)
    given = torch.from_numpy(read_adapter(tmp_path).modules[""]["prompt_embeddings"])
    assert torch.equal(given, prompt_of(network)[0])


def test_both_stages_come_back_from_a_folder(tmp_path):
    _, network = both()
    filled(trunk_of(network).banks)
    network.float().save_pretrained(tmp_path)
    again = type(network).from_pretrained(tmp_path)
    value = texts(4, 6)
    assert torch.equal(states(again, value, [0, 1]), states(network, value, [0, 1]))


def test_groups_and_settings_are_checked():
    with pytest.raises(ValueError, match="task 'type' is in several groups"):
        Mvlpt(groups=[["type", "a/b"], ["type"]])
    with pytest.raises(ValueError, match="no stage 'sorce'"):
        Mvlpt(stage="sorce")
    first = bert(SOURCE)
    with pytest.raises(ValueError, match="groups name no task 'typo'"):
        build_adapted(first, Mvlpt(length=2, groups=[["typo"]]), 0)
    with pytest.raises(ValueError, match="needs a network with trained mvlpt adapters"):
        build_adapted(bert(), PAIRED, 0)
