from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.batch import Batch, Input, Labels, Records
from plait.method import MethodError, resolve
from plait.networks import Features, build_network
from plait.networks.routing import routed_linear
from plait.task import Task, TaskSet
from plait.training import losses_of

TASKS = TaskSet(
    [
        Task(name="pos", kind="tokens", classes=("a", "b", "c")),
        Task(name="mood"),
        Task(name="ner", kind="tokens", classes=("x", "y", "z")),
    ]
)
INPUTS = {
    "sequence.s": Input(key="sequence.s", type="sequence", shape=(-1,), sizes=(12,)),
    "numeric": Input(key="numeric", type="numeric", shape=(2,)),
}
ENCODER = {"sequence": {"attention": {"width": 8, "heads": 2}}, "trunk": {"mlp": {"width": 10}}}
LENGTHS = (3, 5, 0, 2)


def made(sharing="hard", tasks=TASKS):
    torch.manual_seed(0)
    network = build_network(
        inputs=INPUTS, tasks=tasks, encoder=ENCODER, sharing=resolve("sharing", sharing), seed=0
    )
    return network.double().eval()


def batch(longest=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    words = torch.zeros(4, longest, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        words[row, :length] = torch.randint(1, 12, (length,), generator=random)
    numbers = torch.randn(4, 2, generator=random, dtype=torch.float64)
    target = torch.randint(0, 3, (5, 5), generator=random)
    valid = torch.tensor(
        [[1, 0, 1, 0, 0], [1] * 5, [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    )
    tokens = Labels(
        torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 3]), target,
        torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5]), valid=valid.bool(),
    )  # fmt: skip
    mood = Labels(torch.zeros(4).long(), torch.arange(4), torch.tensor([0.0, 1, 1, 0]))
    parts = {"t": {"sequence.s": words, "numeric": numbers}}
    return Batch(parts, {"tokens-3": tokens, "binary": mood}, TASKS, torch.arange(4))


class Given(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, parts):
        return self.rows


@torch.no_grad()
@pytest.mark.parametrize("sharing", ["hard", {"mmoe": {"experts": 3, "width": 7, "tower": 4}}])
def test_a_token_is_served_as_a_row_of_its_own_would_be(sharing):
    network, given = made(sharing), batch()
    raw = network(given.parts, given.labels).raw["tokens-3"]
    encoder = network.encoder
    words, numbers = given.parts["t"].values()
    states = encoder.stems["sequence"].states("sequence.s", words, torch.float64)
    for record, (task, row) in enumerate(zip([0, 0, 1, 1, 1], [0, 1, 0, 1, 3], strict=True)):
        for position in range(LENGTHS[row]):
            beside = torch.cat([numbers[row], states[row, position]])
            found = encoder.trunk(beside)
            network.trunk.encoder = Given(found[None])
            asked = {"tokens-3": Records(torch.tensor([task]), torch.tensor([0]))}
            features, _ = network.trunk(given.parts, asked)
            bank = network.heads.bank("tokens-3")
            expected = routed_linear(
                Features(features["tokens-3"].records), torch.tensor([task]),
                bank.stack("weight"), bank.stack("bias"),
            )  # fmt: skip
            torch.testing.assert_close(raw[record, position], expected[0])
        assert raw[record, LENGTHS[row] :].isnan().all()


def test_row_tasks_are_what_they_are_without_token_tasks_beside_them():
    network, given = made(), batch()
    both = network(given.parts, given.labels).raw["binary"]
    alone = network(given.parts, {"binary": given.labels["binary"]}).raw["binary"]
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-12)


def test_padding_changes_nothing():
    network = made()
    short, long = (network(b.parts, b.labels).raw for b in (batch(5), _padded(batch(5), 9)))
    torch.testing.assert_close(short["tokens-3"], long["tokens-3"][:, :5], equal_nan=True)
    torch.testing.assert_close(short["binary"], long["binary"])


def _padded(given, longest):
    part = dict(given.parts["t"])
    words = torch.zeros(4, longest, dtype=torch.long)
    words[:, :5] = part["sequence.s"]
    return replace(given, parts={"t": {**part, "sequence.s": words}})


@torch.no_grad()
def test_the_loss_is_the_weighted_mean_over_labelled_tokens():
    network, given = made(), batch()
    losses, outputs = losses_of(network, given)
    labels = given.labels["tokens-3"]
    total, weight = np.zeros(2), np.zeros(2)
    for record, task in enumerate(labels.task.tolist()):
        for position in range(5):
            if labels.valid[record, position]:
                log = outputs.raw["tokens-3"][record, position].log_softmax(0)
                own = float(labels.weight[record])
                total[task] -= own * float(log[labels.target[record, position]])
                weight[task] += own
    found = dict(zip(losses.tasks, losses.value.tolist(), strict=True))
    assert [found["pos"], found["ner"]] == pytest.approx((total / weight).tolist())
    assert dict(zip(losses.tasks, losses.units.tolist(), strict=True))["pos"] == weight[0]


def test_micro_batches_add_up_and_gradients_are_finite():
    from plait.training.measuring import Layout

    network, given = made(), batch()
    units = Layout(network.tasks).units(given)
    whole = losses_of(network, given, units)[0].value
    pieces = [losses_of(network, piece, units)[0].value for piece in given.split(3)]
    torch.testing.assert_close(sum(pieces), whole)
    whole.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_predictions_are_shares_for_each_token_and_nothing_beyond():
    network, given = made(), batch()
    asked = {key: Records(own.task, own.rows) for key, own in given.labels.items()}
    found = network.predict(given.parts, asked)["tokens-3"]
    there = torch.arange(5) < torch.tensor(LENGTHS)[given.labels["tokens-3"].rows][:, None]
    torch.testing.assert_close(found.sum(-1)[there], torch.ones(int(there.sum())).double())
    assert found[~there].isnan().all()


def test_an_encoder_without_vectors_for_tokens_is_refused_before_it_is_made():
    inputs = {"text.t": Input(key="text.t", type="text", shape=(-1,), sizes=(9,)), **INPUTS}
    del inputs["sequence.s"]
    with pytest.raises(MethodError, match="task 'pos' has a label for each token"):
        build_network(
            inputs=inputs, tasks=TASKS, encoder={}, sharing=resolve("sharing", "hard"), seed=0
        )
