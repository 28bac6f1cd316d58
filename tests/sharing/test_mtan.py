from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from on_images import PYRAMID, TASKS, VIT, batch, features_by_task, network
from torch.nn import functional as F  # noqa: N812
from written_out import network as on_numbers
from written_out import some_tasks

from plait.sharing import Hard, Mtan
from plait.task import Task, TaskSet


def moved(net):
    """Every parameter away from its start, so that no scale is 1 and no shift 0."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
    return net


def channel_norm(x, scale, shift):
    """The norm of one image [C, h, w] over 8, 4, 2 or 1 groups of channels."""
    groups = next(n for n in (8, 4, 2, 1) if len(x) % n == 0)
    found = torch.empty_like(x)
    for piece in range(groups):
        some = slice(piece * len(x) // groups, (piece + 1) * len(x) // groups)
        one = x[some]
        found[some] = (one - one.mean()) / torch.sqrt(one.var(correction=0) + 1e-5)
    return found * scale[:, None, None] + shift[:, None, None]


def stream(net, image, task):
    """One image through the shared pyramid and one task's masks, as the paper writes them."""
    pyramid = net.encoder.stems["image"].nets[0].net
    last = None

    def stage(module, u):
        nonlocal last
        p = module.block(u[None])[0]
        seen = u
        if last is not None:
            if last.shape[1] > u.shape[1]:
                last = F.max_pool2d(last, 2)
            elif last.shape[1] < u.shape[1]:
                last = F.interpolate(last[None], scale_factor=2.0, mode="bilinear")[0]
            seen = torch.cat([u, last])
        m = module.mask
        for number in (1, 2):
            weight, bias, scale, shift = (
                getattr(m, f"{name}{number}")[task] for name in ("weight", "bias", "scale", "shift")
            )
            seen = torch.einsum("oc,chw->ohw", weight, seen) + bias[:, None, None]
            seen = channel_norm(seen, scale, shift)
            seen = torch.relu(seen) if number == 1 else 1 / (1 + torch.exp(-seen))
        masked = seen * p
        last = None if module.share is None else module.share(masked[None])[0]
        return p, masked

    levels, x = [], image
    for scale in pyramid.down:
        x, _ = stage(scale[1], scale[0](x[None])[0])
        levels.append(x)
    above = None
    for number in reversed(range(len(levels))):
        level = pyramid.across[number](levels[number][None])[0]
        if above is not None:
            level = level + F.interpolate(above[None], size=level.shape[1:])[0]
        above = level
        _, masked = stage(pyramid.smooth[number], level)
    return masked


@torch.no_grad()
def test_features_are_the_papers_one_image_at_a_time():
    net, given = moved(network(Mtan())), batch()
    found = features_by_task(net, given)
    for name in TASKS.names:
        for row, image in enumerate(given.parts["t"]["image.i"]):
            expected = stream(net, image, TASKS.position[name])
            if TASKS[name].place == "pixel":
                mine = found[name].view(3, 6, 8, -1)[row].permute(2, 0, 1)
            else:
                mine, expected = found[name][row], expected.mean((1, 2))
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_open_masks_leave_the_shared_network():
    net, plain, given = network(Mtan()), network(Hard()), batch()
    for name, parameter in net.named_parameters():
        if ".mask.weight2" in name or ".mask.scale2" in name:
            parameter.zero_()
        if ".mask.shift2" in name:
            parameter.fill_(1e3)
    ours, hard = features_by_task(net, given), features_by_task(plain, given)
    for name in TASKS.names:
        torch.testing.assert_close(ours[name], hard[name], rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_shared_network_runs_once_for_an_image_whatever_tasks_ask():
    net, given, seen = network(Mtan()), batch(), []
    net.encoder.stems["image"].nets[0].net.register_forward_hook(
        lambda _, images, __: seen.append(len(images[0]))
    )
    net(given.parts, given.labels)
    assert seen == [3, 3]  # once for the rows, once for the pixels


@torch.no_grad()
def test_a_further_task_changes_no_other():
    more = TaskSet([Task(name="new", kind="normals"), *TASKS, Task(name="late")])
    few, many, given = network(Mtan()), network(Mtan(), more), batch()
    one = features_by_task(few, given)
    two = features_by_task(many, replace(batch(more), parts=given.parts))
    for name in TASKS.names:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-12)


def test_parameters_are_the_formulas():
    plain = sum(p.numel() for p in network(Hard()).trunk.parameters())
    found = sum(p.numel() for p in network(Mtan()).trunk.parameters())
    stages = [(4, 4), (8, 8), (8, 8), (8, 8)]  # channels before and after, down and up
    extra, before = 0, 0
    for number, (inside, outside) in enumerate(stages):
        middle = outside // 4
        own = (inside + before) * middle + 3 * middle + middle * outside + 3 * outside
        extra += len(TASKS) * own
        if number < 3:
            before = stages[number + 1][0]
            extra += (9 * outside + 3) * before
    assert found - plain == extra


@pytest.mark.parametrize("image", [VIT, "cnn"])
def test_encoders_without_stages_are_refused(image):
    rows = TaskSet([Task(name="a"), Task(name="b")])
    with pytest.raises(ValueError, match=r"take encoder: \{image: pyramid\}"):
        network(Mtan(), rows, image=image)


def test_an_encoder_without_images_is_refused():
    with pytest.raises(ValueError, match="gives no feature maps"):
        on_numbers(Mtan(), some_tasks(2))
    with pytest.raises(ValueError, match="reduction must be at least 1"):
        Mtan(reduction=0)


def test_masks_are_trained_by_their_own_task_only():
    net = network(Mtan(), image=PYRAMID).train()
    given = batch()
    net(given.parts, {"real": given.labels["real"]}).raw["real"].sum().backward()
    mask = net.encoder.stems["image"].nets[0].net.smooth[0].mask
    moved_by = {n for n, g in zip(mask.names, mask.weight2.grad, strict=True) if g.any()}
    assert moved_by == {"count"}
