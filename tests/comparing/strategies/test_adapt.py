from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import Linear

from plait.comparing.baselines import with_baselines
from plait.comparing.building import make_network
from plait.comparing.cells import make, ordered
from plait.comparing.strategies.adapt import Adapt
from plait.comparing.strategies.equal_lora import EqualLora, trained
from plait.comparing.strategies.merge import Merge
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


def test_what_cannot_work_is_told_before_anything_runs():
    with pytest.raises(ValueError, match="prompt adapts transformers, and the encoder has none"):
        Adapt(method="prompt").check(PLAN)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        Adapt(share=0.0)


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


def run(strategy, folder, plan=PLAN):
    """The models of a strategy's cells by name, the last its own."""
    done, found = {}, {}
    for number, cell in enumerate(ordered([make(plan, strategy, 0)])):
        parts = {name: done[part.key] for name, part in cell.parts.items()}
        model = cell.strategy.run(cell.plan, parts, cell.seed, folder / str(number))
        done[cell.key] = found[cell.strategy.card.name] = model
    return found


def test_adapters_are_merged_as_the_changes_that_they_make(tmp_path):
    merged = Merge(method="average", adapters={"lora": {"rank": 2, "alpha": 4.0}})
    assert "merged from the lora adapters" in merged.words()
    found = run(merged, tmp_path)
    start, adapted, network = (found[n].network for n in ("warm_up", "adapt", "merge"))
    for path, bank in adapted.trunk.banks.items():
        assert bank.up.abs().sum() > 0
        name = f"{path.replace('%2E', '.')}.weight"
        wanted = start.trunk.get_parameter(name) + 2.0 * torch.bmm(bank.up, bank.down).mean(0)
        torch.testing.assert_close(network.trunk.get_parameter(name), wanted)
        apart = 2.0 * bank.up.mean(0) @ bank.down.mean(0)
        assert not torch.allclose(wanted, start.trunk.get_parameter(name) + apart)
    heads = dict(adapted.heads.named_parameters())
    assert all(torch.equal(p, heads[name]) for name, p in network.heads.named_parameters())
    assert found["merge"].evidence["best_pass"] == found["adapt"].evidence["best_pass"]


def test_adapters_that_are_no_weights_cannot_be_merged(tmp_path):
    with pytest.raises(ValueError, match="cannot be folded into weights"):
        run(Merge(adapters={"bottleneck": {"reduction": 4}}), tmp_path)


def test_what_tasks_store_and_take_of_experts_is_told(tmp_path):
    model = run(Adapt(method={"moe_lora": {"rank": 2, "experts": 2, "width": 3}}), tmp_path)[
        "adapt"
    ]
    told, names = model.evidence["adapters"], PLAN.tasks.names
    banks = model.network.trunk.banks
    assert told["stored"] == {name: 3 * len(banks) for name in names}
    assert told["trained"] == told["common"] + 3 * len(banks) * len(names)
    for use, bank in zip(model.evidence["experts"], banks.values(), strict=True):
        logits = bank.own.embedding @ bank.gate.T
        torch.testing.assert_close(torch.tensor(use["load"]), logits.softmax(1), rtol=0, atol=1e-3)
        assert use["experts"] == ["shared expert 1", "shared expert 2"]
        assert use["tasks"] == list(names)


def test_a_lora_of_equal_size_stands_beside_any_adapter():
    start = make_network(PLAN, 0)
    sides = [m.in_features + m.out_features for m in start.trunk.modules() if isinstance(m, Linear)]
    each = len(PLAN.tasks) * sum(sides)
    for method in ({"mtl_lora": {"rank": 4}}, {"moe_lora": {"rank": 2, "experts": 2}}):
        wanted = trained(start, method)
        lora = EqualLora(to=method)._lora(start)["lora"]
        assert abs(lora["rank"] * each - wanted) <= each / 2
        assert lora["alpha"] == 2 * lora["rank"]
    least = min(min(m.weight.shape) for m in start.trunk.modules() if isinstance(m, Linear))
    for method, rank in (("head_only", 1), (FUSED, least)):
        assert EqualLora(to=method)._lora(start)["lora"]["rank"] == rank
    assert trained(start, {"lora": {"rank": 3}}) == 3 * each
    first = trained(start, FUSED["adapter_fusion"]["sources"])
    assert trained(start, FUSED) > first
    assert "as many parameters as mtl_lora" in EqualLora(to="mtl_lora").words()


def test_a_study_adds_the_lora_of_equal_size_to_adapters_that_are_none():
    given = {
        "mixed": Adapt(method={"moe_lora": {"rank": 2, "experts": 2}}, share=0.5),
        "lora": Adapt(method=LORA),
        "heads": Adapt(method="head_only"),
    }
    found = with_baselines(given, PLAN)
    added = {label for label, one in found.items() if one.card.name == "equal_lora"}
    assert added == {"mixed_lora"}
    assert found["mixed_lora"].share == 0.5
    assert found["mixed_lora"].to.experts == 2


def test_the_lora_of_equal_size_is_trained_as_adapters_are(tmp_path):
    found = run(EqualLora(to={"lora": {"rank": 3}}), tmp_path)["equal_lora"]
    assert found.evidence["rank"] == 3
    assert found.evidence["adapters"]["trained"] == found.evidence["wanted"]
    assert found.evidence["passes"] == 8
