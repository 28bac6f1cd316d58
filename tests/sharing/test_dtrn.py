from __future__ import annotations

import pytest
import torch
from written_out import DIRECT, assert_features, batch_for, network, size, some_tasks

from plait.batch import Input
from plait.networks import build_network
from plait.sharing import Dtrn, Hard
from plait.testing.toys import toy_inputs

INPUTS = {
    **toy_inputs(),
    "categorical": Input(key="categorical", type="categorical", shape=(2,), sizes=(5, 30)),
    "sequence.seen": Input(key="sequence.seen", type="sequence", shape=(-1,), sizes=(9,)),
    "sequence.bought": Input(key="sequence.bought", type="sequence", shape=(-1,), sizes=(7,)),
}
ENCODER = {
    "sequence": {"attention": {"width": 4, "heads": 2, "depth": 2}},
    "trunk": {"mlp": {"width": 6, "depth": 1}},
}
NUMBERS, WIDTHS = 4, [4, 8]  # the toy's numbers; the tables of 5 and of 30 codes


def made(sharing, tasks, seed=0):
    return build_network(
        inputs=INPUTS, tasks=tasks, encoder=ENCODER, sharing=sharing, seed=seed
    ).double()


def batch_of(tasks, length=6, **more):
    """Histories of up to four items, one of none, in ``length`` columns."""
    batch, generator = batch_for(tasks, **more), torch.Generator().manual_seed(2)
    part, rows = batch.parts["table"], len(batch)
    part["categorical"] = torch.randint(5, (rows, 2), generator=generator)
    for key in ("sequence.seen", "sequence.bought"):
        items = torch.randint(1, 7, (rows, 4), generator=generator)
        many = torch.randint(5, (rows,), generator=generator)
        many[0] = 0
        items = items.where(torch.arange(4) < many[:, None], 0)
        part[key] = torch.nn.functional.pad(items, (0, length - 4))
    return batch


def stirred(tasks):
    net, generator = made(Dtrn(size=3), tasks), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.trunk.interest.maps.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def plain_for(net, tasks, name):
    """A plain encoder whose norms are scaled and shifted as those of a task."""
    plain, interest = made(Hard(), tasks), net.trunk.interest
    paths = [p for p, m in plain.encoder.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    e_t = interest.tasks.vector[tasks.position[name]]
    with torch.no_grad():
        for path, bank in zip(paths, interest.maps, strict=True):
            sequence = int(path.split(".")[3])
            both = torch.cat([e_t, interest.kinds.vector[sequence]])
            gamma, beta = (bank.weight[0] @ both + bank.bias[0]).chunk(2)
            norm = plain.encoder.get_submodule(path)
            # (1 + γ)(x̂ w + b) + β, written as one affine map
            norm.bias.copy_((1 + gamma) * norm.bias + beta)
            norm.weight.mul_(1 + gamma)
    return plain.encoder


def weighed(bank, t, fields):
    """z'_f = σ(B ReLU(A m))_f z_f."""
    m = torch.stack([field.mean() for field in fields])
    share = torch.sigmoid(bank.excite[t] @ torch.relu(bank.squeeze[t] @ m))
    return torch.cat([s * field for s, field in zip(share, fields, strict=True)])


@pytest.mark.parametrize("count", [1, 3])
def test_features_are_the_rebuilt_formulas(count):
    tasks = some_tasks(count)
    net, batch = stirred(tasks), batch_of(tasks, missing=0.3, rows=4)
    rows = {}
    for t, name in enumerate(tasks.names):
        encoder = plain_for(net, tasks, name)
        trunk, encoder.trunk = encoder.trunk, torch.nn.Identity()
        side_by_side = encoder(batch.parts)
        widths = [1] * NUMBERS + WIDTHS + [4, 4]
        for row, z in enumerate(side_by_side):
            fields = z.split(widths)
            whole = weighed(net.trunk.encoder.trunk.layers.bank, t, fields)
            rows[name, row] = torch.relu(trunk.layers[0].weight @ whole + trunk.layers[0].bias)
    assert_features(net, batch, lambda task, row: rows[task, row])


def test_all_tasks_start_with_one_extractor():
    tasks = some_tasks(3)
    net = made(Dtrn(), tasks)
    with torch.no_grad():
        for parameter in net.trunk.encoder.trunk.layers.bank.parameters():
            parameter.copy_(parameter[:1].clone().expand_as(parameter))
    batch = batch_of(tasks, missing=0.0)
    features = net(batch.parts, batch.labels).features
    one, three = features["binary"].records.chunk(2)
    torch.testing.assert_close(one, three)
    torch.testing.assert_close(one, features["real"].records)


def test_the_length_of_the_padding_changes_nothing_and_empty_histories_are_finite():
    tasks = some_tasks(3)
    net = stirred(tasks)
    short, long = batch_of(tasks, missing=0.0), batch_of(tasks, length=11, missing=0.0)
    one, two = (net(batch.parts, batch.labels).raw for batch in (short, long))
    for key in one:
        assert one[key].isfinite().all()
        torch.testing.assert_close(one[key], two[key])


def test_a_task_trains_its_vector_and_its_weights_of_fields():
    tasks = some_tasks(3)
    net = stirred(tasks)
    batch = batch_of(tasks, rows=12).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    bank = net.trunk.encoder.trunk.layers.bank
    for parameter in (net.trunk.interest.tasks.vector, bank.squeeze, bank.excite):
        assert parameter.grad.flatten(1).any(1).tolist() == [False, True, False]
    for each in net.trunk.interest.maps:
        assert each.weight.grad.any()


def test_parameters_are_the_formulas():
    count, tasks = 5, some_tasks(5)
    fields = NUMBERS + 2 + 2
    more = size(made(Dtrn(size=3, reduction=3), tasks)) - size(made(Hard(), tasks))
    norms = 2 * 2 * 2  # sequences, blocks, norms of a block
    expected = count * 2 * fields * 3 + norms * 2 * 4 * (2 * 3 + 1) + (count + 2) * 3
    assert more == expected
    bare = size(network(Dtrn(), tasks, encoder=DIRECT))
    assert bare == count * 2 * 4 * 2  # no sequence: the fields alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 0}, "size must be at least 1"), ({"reduction": 0}, "reduction must be at least 1")],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Dtrn(**settings)
