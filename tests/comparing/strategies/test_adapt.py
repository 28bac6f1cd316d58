from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plait.comparing.cells import make, ordered
from plait.comparing.strategies.adapt import Adapt
from plait.testing.strategies import toy_plan

PLAN = replace(toy_plan(), training=replace(toy_plan().training, passes=8))
LORA = {"lora": {"rank": 2}}
FUSED = {"adapter_fusion": {"sources": {"bottleneck": {"reduction": 4}}}}


def test_a_first_stage_is_a_cell_of_its_own_and_both_share_the_passes():
    scaled = {"scalearn": {"sources": {"bottleneck": {"reduction": 4}}}}
    cells = [make(PLAN, Adapt(method=method), 0) for method in (LORA, FUSED, scaled)]
    low, fused, other = cells
    assert fused.parts["start"].key == other.parts["start"].key
    assert fused.parts["start"].strategy.words().startswith("bottleneck adapters")
    first = fused.parts["start"].strategy
    assert low.strategy.passes(PLAN) == 6
    assert first.passes(PLAN) + fused.strategy.passes(PLAN) == 6
    assert "over bottleneck adapters" in fused.strategy.words()


def test_the_second_stage_goes_on_from_the_trained_first(tmp_path):
    done = {}
    for number, cell in enumerate(ordered([make(PLAN, Adapt(method=FUSED), 0)])):
        parts = {name: done[part.key] for name, part in cell.parts.items()}
        folder = tmp_path / str(number)
        done[cell.key] = cell.strategy.run(cell.plan, parts, cell.seed, folder)
    warm, first, second = done.values()
    assert warm.evidence["passes"] == 2
    assert first.evidence["passes"] == 5
    assert second.evidence["passes"] == 8
    trained = dict(second.network.trunk.trained.named_parameters())
    for name, parameter in first.network.trunk.banks.named_parameters():
        assert torch.equal(trained[name], parameter)


def test_a_network_that_trains_as_a_whole_has_no_adapters(tmp_path):
    done = {}
    for number, cell in enumerate(ordered([make(PLAN, Adapt(method="full"), 0)])):
        parts = {name: done[part.key] for name, part in cell.parts.items()}
        done[cell.key] = cell.strategy.run(cell.plan, parts, 0, tmp_path / str(number))
    warm, whole = (model.network for model in done.values())
    assert "every weight" in cell.strategy.words()
    trained = whole.trunk.base.state_dict()
    for name, value in warm.trunk.state_dict().items():
        if name.endswith("weight"):
            assert not torch.equal(trained[name], value), name


def test_what_cannot_work_is_told_before_anything_runs():
    with pytest.raises(ValueError, match="prompt adapts transformers, and the encoder has none"):
        Adapt(method="prompt").check(PLAN)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        Adapt(share=0.0)
