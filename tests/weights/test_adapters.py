from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from plait.merging.average import Average
from plait.merging.pool import Pool, PoolError
from plait.merging.task_arithmetic import TaskArithmetic
from plait.weights.adapters import Adapter
from plait.weights.files import DamagedError
from plait.weights.sources import Arrays


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.up = nn.Linear(6, 10)
        self.conv = nn.Conv1d(10, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.up(self.embed(x)).transpose(1, 2)).mean(2))


@pytest.fixture(scope="module")
def peft():
    return pytest.importorskip("peft")


def adapted(peft, folder: Path, **settings: object) -> tuple[dict, dict]:
    """The base's tensors, and those after peft has folded a trained adapter in."""
    torch.manual_seed(3)
    model = Toy()
    base = {name: value.clone().numpy() for name, value in model.state_dict().items()}
    config = peft.LoraConfig(**{"target_modules": ["up", "conv", "embed"], "r": 3, "lora_alpha": 5,
                                **settings})  # fmt: skip
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    wrapped.save_pretrained(folder)
    folded = wrapped.merge_and_unload().state_dict()
    return base, {name: value.detach().numpy() for name, value in folded.items()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"up": 2}, "alpha_pattern": {"up": 7}},
        {"modules_to_save": ["head"]},
        {"bias": "lora_only"},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_what_peft_folds_it_to(peft, tmp_path, settings):
    base, folded = adapted(peft, tmp_path, **settings)
    pool = Pool({"a": Adapter(tmp_path)}, Arrays(base))
    for merger in (TaskArithmetic(scale=1.0), Average()):
        merged = merger.merge(pool).tensors
        assert merged.keys() == folded.keys()
        for name, value in folded.items():
            np.testing.assert_allclose(merged[name], value, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore")
def test_any_run_of_a_product_is_read(peft, tmp_path):
    base, folded = adapted(peft, tmp_path)
    adapter = Adapter(tmp_path)
    for name in ("up.weight", "conv.weight", "embed.weight"):
        wanted = (folded[name] - base[name]).reshape(-1)
        for start, stop in ((0, wanted.size), (1, 2), (5, wanted.size - 1)):
            out = np.empty(stop - start, np.float32)
            adapter.read(name, start, stop, out)
            np.testing.assert_allclose(out, wanted[start:stop], atol=2e-5)


def write(folder: Path, tensors: dict, **config: object) -> Path:
    given = {"peft_type": "LORA", "lora_alpha": 4, "r": 2, **config}
    (folder / "adapter_config.json").write_text(json.dumps(given), "utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_the_products_are_merged_not_the_factors(tmp_path):
    draw = torch.Generator().manual_seed(0)
    pool, wanted = {}, np.zeros((4, 3), np.float32)
    for name in ("x", "y"):
        a, b = torch.randn(2, 3, generator=draw), torch.randn(4, 2, generator=draw)
        (tmp_path / name).mkdir()
        tensors = {"base_model.model.l.lora_A.weight": a, "base_model.model.l.lora_B.weight": b}
        pool[name] = Adapter(write(tmp_path / name, tensors))
        wanted += (2 * b @ a).numpy()
    merged = TaskArithmetic(scale=1.0).merge(Pool(pool, {"l.weight": np.ones((4, 3), np.float32)}))
    np.testing.assert_allclose(merged.tensors["l.weight"], 1 + wanted, rtol=1e-5)


def test_what_is_no_sum_is_refused(tmp_path):
    a, b = torch.ones(2, 3), torch.ones(4, 2)
    both = {"base_model.model.l.lora_A.weight": a, "base_model.model.l.lora_B.weight": b}
    for tensors, config, said in (
        (both, {"use_dora": True}, "DoRA rescales whole columns"),
        (both, {"peft_type": "IA3"}, "a IA3 adapter; only LoRA"),
        ({"base_model.model.l.lora_A.weight": a}, {}, "'base_model.model.l' has A and not both"),
        (
            both | {"base_model.model.l.lora_magnitude_vector": a + 1},
            {},
            "no factor that plait knows",
        ),
        (both | {"base_model.model.l.lora_B.weight": a + 1}, {}, r"factors \[2, 3\] and \[2, 3\]"),
    ):
        with pytest.raises(DamagedError, match=said):
            Adapter(write(tmp_path, tensors, **config))
    whole = Adapter(write(tmp_path, both))
    with pytest.raises(PoolError, match="'a' holds differences to a base, and there is no base"):
        Pool({"a": whole})
    with pytest.raises(PoolError, match=r"'a' has 'l.weight' that the base lacks"):
        Pool({"a": whole}, {"k.weight": np.ones((4, 3), np.float32)})
    with pytest.raises(PoolError, match=r"'l.weight' is \[4, 3\] in 'a' and \[3, 4\] in the base"):
        Pool({"a": whole}, {"l.weight": np.ones((3, 4), np.float32)})
