from __future__ import annotations

import pytest
import torch
from on_images import PYRAMID, TASKS, VIT, batch, features_by_task, network
from torch.nn import functional as F  # noqa: N812
from written_out import network as on_numbers
from written_out import some_tasks

from plait.sharing import Hard, Medusa


def conv(x, weight, bias):
    return torch.einsum("oc,chw->ohw", weight, x) + bias[:, None, None]


def look(maps, own, task):
    """The maps of one image [C, h_s, w_s] → the features of a task, as the paper tells them."""
    seen = []
    for scale, level in enumerate(maps):
        mask = conv(level, own.masks[task, scale], own.mask_biases[task, scale])
        value = conv(level, own.values[task, scale], own.value_biases[task, scale])
        found = value / (1 + torch.exp(-mask))
        seen.append(F.interpolate(found[None], size=maps[0].shape[1:], mode="bilinear")[0])
    logits = conv(torch.cat(seen), own.among[task], own.among_bias[task])
    shares = torch.exp(logits - logits.max(0).values)
    shares = shares / shares.sum(0)
    return sum(share * each for share, each in zip(shares, seen, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("image", [PYRAMID, VIT])
def test_features_are_the_papers_one_image_at_a_time(image):
    net, given = network(Medusa(), image=image), batch()
    found = features_by_task(net, given)
    heads = net.encoder.stems["image"].nets[0]
    for row, picture in enumerate(given.parts["t"]["image.i"]):
        maps = [level[0] for level in heads.net(picture[None])]
        assert len(maps) > 1
        for name in TASKS.names:
            expected = look(maps, heads.own, TASKS.position[name])
            if TASKS[name].place == "pixel":
                high, wide = expected.shape[1:]
                mine = found[name].view(3, high, wide, -1)[row].permute(2, 0, 1)
            else:
                mine, expected = found[name][row], expected.mean((1, 2))
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_masks_that_see_nothing_leave_the_mean_over_scales():
    net, given = network(Medusa()), batch()
    own = net.encoder.stems["image"].nets[0].own
    own.among.zero_()
    own.among_bias.zero_()
    own.masks.zero_()
    own.mask_biases.fill_(1e3)
    own.values.copy_(torch.eye(8).expand_as(own.values))
    own.value_biases.zero_()
    maps = net.encoder.stems["image"].nets[0].net(given.parts["t"]["image.i"])
    large = [F.interpolate(m, size=(6, 8), mode="bilinear") for m in maps]
    expected = (sum(large) / len(large)).permute(0, 2, 3, 1)
    mine = features_by_task(net, given)["mask"].view(3, 6, 8, 8)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_parameters_are_the_formulas():
    plain = sum(p.numel() for p in network(Hard()).trunk.parameters())
    found = sum(p.numel() for p in network(Medusa()).trunk.parameters())
    assert found - plain == len(TASKS) * (2 * 2 * (8 * 8 + 8) + 2 * 2 * 8 + 2)


def test_an_encoder_without_images_is_refused():
    with pytest.raises(ValueError, match="gives no feature maps"):
        on_numbers(Medusa(), some_tasks(2))
