from __future__ import annotations

import pytest
import torch
from adapter_nets import TASKS, bert, model_of, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.editing import add_task, drop_task
from plait.adapting.ltv import Ltv
from plait.batch import Batch, Labels
from plait.networks import Network
from plait.task import Task

pytest.importorskip("transformers")


def batch_of(value, task):
    rows, task = torch.arange(len(value)), torch.tensor(task)
    labels = Labels(task=task, rows=rows, target=torch.zeros(len(value)))
    return Batch(
        tasks=TASKS, parts={"a": {"text.review": value}}, labels={"binary": labels}, ids=rows
    )


def begun(*batches):
    adapter = Ltv()
    made = build_adapted(bert(), adapter, 0).double().eval()
    adapter.begin(trunk_of(made), [batch_of(*batch) for batch in batches])
    return made


def vectors(made):
    """The banks that follow blocks, in order."""
    return [bank for bank in trunk_of(made).banks.values() if list(bank.parameters())]


def run(plain, text, added):
    """One text through a plain model; ``added(block, h)`` after each block; what heads said."""
    h, said = plain.embeddings(input_ids=text[text > 0][None] - 1), []
    for number, layer in enumerate(plain.encoder.layer):
        hook = layer.attention.output.dense.register_forward_pre_hook(
            lambda _, inputs: said.append(inputs[0][0, -1].detach()), with_kwargs=False
        )
        found = layer(h)
        hook.remove()
        h = added(number, found[0] if isinstance(found, tuple) else found)
    return h[0].mean(0), said


def test_means_are_what_heads_say_at_the_last_token_of_a_tasks_texts():
    one, two = texts(5, 2, 4), texts(3, 6)
    made = begun((one, [0, 0, 2]), (two, [0, 2]))
    plain = model_of(bert()).double().eval()
    own = {0: [one[0], one[1], two[0]], 2: [one[2], two[1]]}
    for number, bank in enumerate(vectors(made)):
        projection = plain.encoder.layer[number].attention.output.dense
        for t, mine in own.items():
            for head in range(2):
                each = []
                for text in mine:
                    z = run(plain, text, lambda _, h: h)[1][number].clone()
                    z[: 8 * head] = 0
                    z[8 * head + 8 :] = 0
                    each.append(projection(z))
                wanted = torch.stack(each).mean(0)
                torch.testing.assert_close(bank.means[t, head], wanted, rtol=0, atol=1e-12)
        assert not bank.means[1].any()  # no text of that task was seen


def test_each_blocks_vector_is_added_where_the_text_ends():
    made = begun((texts(5, 2, 4), [0, 1, 2]))
    plain = model_of(bert()).double().eval()
    value, task = texts(3, 6, 4), [2, 0, 1]
    found = states(made, value, task)
    for row, t in enumerate(task):

        def added(number, h, t=t):
            bank = vectors(made)[number]
            h = h.clone()
            h[0, -1] += sum(bank.weights[t, head] * bank.means[t, head] for head in range(2))
            return h

        wanted = run(plain, value[row], added)[0]
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=1e-10)


def test_without_weights_or_before_any_text_it_is_the_base():
    value = texts(4, 2)
    plain = states(bert().double().eval(), value, [0, 1])
    made = begun((texts(5, 2, 4), [0, 1, 2]))
    assert not torch.allclose(states(made, value, [0, 1]), plain)
    for bank in vectors(made):
        bank.weights.data.zero_()
    assert torch.equal(states(made, value, [0, 1]), plain)
    fresh = build_adapted(bert(), Ltv(), 0).double().eval()
    assert torch.equal(states(fresh, value, [0, 1]), plain)


def test_means_are_saved_and_follow_their_tasks(tmp_path):
    made = begun((texts(5, 2, 4), [0, 1, 2])).float()
    value = texts(4, 2)
    before = states(made, value, [0, 2])
    made.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path).eval()
    assert torch.equal(states(again, value, [0, 2]), before)
    add_task(made, Task(name="new"))
    assert torch.equal(states(made, value, [0, 2]), before)
    drop_task(made, "NR.AR")
    assert torch.equal(states(made, value, [0, 1]), before)


def test_parameters_are_one_weight_for_each_head():
    made = begun((texts(5, 2, 4), [0, 1, 2]))
    assert sum(p.numel() for p in trunk_of(made).banks.parameters()) == 3 * 2 * 2


def test_sites_without_attention_are_refused():
    with pytest.raises(ValueError, match="blocks with attention inside"):
        build_adapted(bert(), Ltv(sites=["embeddings"]), 0)
