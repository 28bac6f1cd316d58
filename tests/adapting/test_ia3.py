from __future__ import annotations

import pytest
import torch
from adapter_nets import (
    TINY,
    attached,
    bert,
    filled,
    model_of,
    net,
    pooled,
    states,
    texts,
    trunk_of,
)

from plait.adapting.ia3 import Ia3
from plait.task import Task, TaskSet


def test_outputs_are_scaled_with_their_bias():
    base, x = net(), torch.randn(3, 5, dtype=torch.float64)
    before = base[0](x)
    banks, routing = attached(Ia3(), base)
    filled(banks)
    with routing.to(torch.tensor([2, 0, 2])):
        found = base[0](x)
    torch.testing.assert_close(found, banks["0"].scales[[2, 0, 2]] * before, rtol=0, atol=1e-15)


def test_stands_at_keys_values_and_before_the_last_matrix():
    pytest.importorskip("transformers")
    trunk = trunk_of(bert(Ia3()))
    widths = {
        path.partition("layer%2E")[2].replace("%2E", "."): bank.scales.shape[1]
        for path, bank in trunk.banks.items()
    }
    layer = {"attention.self.key": 16, "attention.self.value": 16, "output.dense": 32}
    assert widths == {f"{i}.{name}": width for i in (0, 1) for name, width in layer.items()}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_equals_pefts_for_one_task():
    peft = pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModel

    network = bert(Ia3(), TaskSet([Task(name="one")]))
    theirs = AutoModel.from_config(AutoConfig.for_model(**TINY)).eval()
    theirs.load_state_dict(model_of(bert()).state_dict(), strict=False)
    config = peft.IA3Config(
        target_modules=["key", "value", r"output.dense"], feedforward_modules=["output.dense"]
    )
    config.target_modules = r".*\d\.output\.dense|.*key|.*value"
    config.feedforward_modules = r".*\d\.output\.dense"
    theirs = peft.get_peft_model(theirs, config).eval()
    banks = {path.replace("%2E", "."): bank for path, bank in trunk_of(network).banks.items()}
    for path, bank in banks.items():
        layer = theirs.base_model.model.get_submodule(path.partition("model.")[2])
        layer.ia3_l["default"].data.copy_(bank.scales[0].view_as(layer.ia3_l["default"]))
    value = texts(5, 5, 5)
    hidden = theirs(input_ids=value - 1, attention_mask=torch.ones_like(value))[0]
    ours = states(network.eval(), value, [0, 0, 0])
    torch.testing.assert_close(ours, pooled(hidden, value > 0), rtol=0, atol=1e-6)
