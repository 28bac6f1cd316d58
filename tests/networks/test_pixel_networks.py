from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from plait.batch import Batch, Input, Labels, Records
from plait.data.mirroring import mirrored
from plait.method import MethodError, resolve
from plait.networks import build_network
from plait.networks.maps import Pyramid, Vit
from plait.task import Task, TaskSet
from plait.training import losses_of
from plait.training.measuring import Layout

TASKS = TaskSet(
    [
        Task(name="mask", kind="segmentation", classes=("a", "b", "c")),
        Task(name="normal", kind="normals"),
        Task(name="edge", kind="boundaries"),
        Task(name="count"),
    ]
)
INPUTS = {"image.i": Input(key="image.i", type="image", shape=(1, 9, 12))}
PYRAMID = {"pyramid": {"channels": 4, "depth": 2, "width": 8, "stride": 2}}
VIT = {"vit": {"patch": 4, "width": 8, "depth": 1, "heads": 2}}
TRUNK = {"mlp": {"width": 6, "depth": 1}}


def made(image=PYRAMID, sharing="hard"):
    network = build_network(
        inputs=INPUTS, tasks=TASKS, encoder={"image": image, "trunk": TRUNK},
        sharing=resolve("sharing", sharing), seed=0,
    )  # fmt: skip
    return network.double().eval()


def batch(rows=4):
    random = torch.Generator().manual_seed(0)
    shape = (rows, 9, 12)
    valid = torch.rand(shape, generator=random) < 0.6
    task, every = torch.zeros(rows).long(), torch.arange(rows)

    def labels(target):
        return Labels(task, every, target, valid=valid)

    return Batch(
        {"t": {"image.i": torch.randn(rows, 1, 9, 12, generator=random).double()}},
        {
            "segmentation-3": labels(torch.randint(0, 3, shape, generator=random)),
            "normals": labels(F.normalize(torch.randn(*shape, 3, generator=random), dim=3)),
            "boundaries": labels((torch.rand(shape, generator=random) < 0.2).long()),
            "binary": Labels(task, every, torch.ones(rows)),
        },
        TASKS,
        every,
    )


@torch.no_grad()
@pytest.mark.parametrize("image", [PYRAMID, VIT])
def test_a_head_decodes_the_map_of_its_image(image):
    network, given = made(image), batch()
    raw = network(given.parts, given.labels).raw["segmentation-3"]
    stem = next(iter(network.encoder.stems.values()))
    fine = stem.map_of("image.i", given.parts["t"]["image.i"], torch.float64)
    bank = network.heads.bank("segmentation-3")
    mixed = network.encoder.trunk(fine.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    around = F.conv2d(mixed, bank.mix[0], bank.mix_bias[0], padding=1).relu()
    flat = torch.einsum("nchw,oc->nohw", around, bank.weight[0]) + bank.bias[0][:, None, None]
    whole = F.interpolate(flat, size=(9, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(raw, whole.permute(0, 2, 3, 1))


@pytest.mark.parametrize("sharing", ["hard", {"mmoe": {"experts": 2, "width": 5}}])
def test_micro_batches_add_up(sharing):
    network, given = made(sharing=sharing), batch()
    units = Layout(TASKS).units(given)
    whole = losses_of(network, given, units)[0].value
    pieces = [losses_of(network, piece, units)[0].value for piece in given.split(3)]
    torch.testing.assert_close(sum(pieces), whole)
    whole.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_ignored_pixels_change_no_loss_and_boundaries_are_balanced():
    network, given = made(), batch()
    losses, outputs = losses_of(network, given)
    changed = {
        key: own if own.valid is None else replace(
            own,
            target=torch.where(
                own.valid.view(*own.valid.shape, *[1] * (own.target.ndim - 3)),
                own.target, torch.ones_like(own.target),
            ),
        )
        for key, own in given.labels.items()
    }  # fmt: skip
    other, _ = losses_of(network, replace(given, labels=changed))
    torch.testing.assert_close(losses.value, other.value)
    own, total, count = given.labels["boundaries"], 0.0, 0
    for row in range(4):
        there = own.valid[row]
        y, raw = own.target[row][there], outputs.raw["boundaries"][row, ..., 0][there]
        share = raw.sigmoid()
        positive, negative = -share[y == 1].log().mean(), -(1 - share[y == 0]).log().mean()
        total += there.sum() * (positive + negative) / 2
        count += int(there.sum())
    found = dict(zip(losses.tasks, losses.value.tolist(), strict=True))
    assert found["edge"] == pytest.approx(float(total / count))


def test_the_encoder_sees_at_its_stride_and_a_row_is_the_mean_of_its_map():
    images = batch().parts["t"]["image.i"]
    for cls, settings in ((Pyramid, PYRAMID["pyramid"]), (Vit, VIT["vit"])):
        stem = cls(list(INPUTS.values()), **settings).double()
        fine = stem.map_of("image.i", images, torch.float64)
        assert tuple(fine.shape[2:]) == tuple(stem.grid("image.i", images).shape[1:])
        found = stem.encode("image.i", images, torch.float64)
        torch.testing.assert_close(found, fine.mean((2, 3)))
        assert len(stem.maps("image.i", images, torch.float64)) > 0


def test_mirroring_turns_images_labels_and_the_x_of_normals():
    given = batch()
    turned = torch.tensor([True, False, True, False])
    found = mirrored(given, turned)
    for row, flip in enumerate(turned.tolist()):
        for x in range(12):
            other = 11 - x if flip else x
            image = found.parts["t"]["image.i"][row, ..., x]
            torch.testing.assert_close(image, given.parts["t"]["image.i"][row, ..., other])
            for key, own in given.labels.items():
                if own.valid is None:
                    continue
                mine = found.labels[key]
                expected = own.target[row, :, other].clone()
                if key == "normals" and flip:
                    expected[:, 0] = -expected[:, 0]
                torch.testing.assert_close(mine.target[row, :, x], expected)
                assert torch.equal(mine.valid[row, :, x], own.valid[row, :, other])
    twice = mirrored(found, turned)
    assert torch.equal(twice.parts["t"]["image.i"], given.parts["t"]["image.i"])


def test_predictions_are_as_large_as_the_images():
    network, given = made(), batch()
    asked = {key: Records(own.task, own.rows) for key, own in given.labels.items()}
    found = network.predict(given.parts, asked)
    assert found["segmentation-3"].shape == (4, 9, 12, 3)
    assert found["normals"].shape == (4, 9, 12, 3)
    assert found["boundaries"].shape == (4, 9, 12)
    torch.testing.assert_close(found["normals"].norm(dim=3), torch.ones(4, 9, 12).double())


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("cnn", "task 'mask' has a label for each pixel"),
        ({"pyramid": {"depth": 2, "stride": 4}}, "strides 1, 2, not 4"),
        ({"pyramid": {"depth": 6}}, "too small"),
        ({"vit": {"width": 10, "heads": 4}}, "4 heads cannot share"),
    ],
)
def test_what_cannot_be_is_refused(image, said):
    with pytest.raises(MethodError, match=said):
        made(image)
