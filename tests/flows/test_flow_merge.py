from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import plait
from plait.weights.states import read_state, write_state


def test_modules_in_modules_out():
    base, a, b = (nn.Linear(3, 2).to(torch.bfloat16) for _ in range(3))
    merged = plait.merge(base, {"a": a, "b": b}, {"task_arithmetic": {"scale": 0.5}}).tensors
    assert {name: value.dtype for name, value in merged.items()} == dict.fromkeys(
        ("weight", "bias"), torch.bfloat16
    )
    w = [model.weight.detach().float() for model in (base, a, b)]
    wanted = (w[0] + 0.5 * ((w[1] - w[0]) + (w[2] - w[0]))).to(torch.bfloat16)
    torch.testing.assert_close(merged["weight"], wanted, rtol=2**-7, atol=1e-6)
    nn.Linear(3, 2).to(torch.bfloat16).load_state_dict(merged)


def test_state_dicts_and_arrays_and_files(tmp_path):
    states = [{"w": torch.full((2,), float(value))} for value in (1, 3)]
    assert plait.merge(None, states, "average").tensors["w"].tolist() == [2, 2]
    arrays = [{"w": np.full(2, value)} for value in (1.0, 3.0)]
    assert plait.merge(None, arrays, "average").tensors["w"].tolist() == [2, 2]
    for number, state in enumerate(arrays):
        write_state(tmp_path / f"{number}.safetensors", state)
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    assert plait.merge(None, paths, "average").tensors["w"].tolist() == [2, 2]
    plait.merge(None, paths, "average", out=tmp_path / "out")
    assert read_state(tmp_path / "out" / "model.safetensors")["w"].tolist() == [2, 2]


def test_tied_parameters_stay_tied():
    def tied() -> nn.ModuleDict:
        layer = nn.Linear(2, 2, bias=False)
        return nn.ModuleDict({"embed": layer, "head": layer})

    models = [tied(), tied()]
    merged = plait.merge(None, models, "average").tensors
    assert torch.equal(merged["head.weight"], merged["embed.weight"])


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="ties needs the common base checkpoint"):
        plait.merge(None, [{"w": torch.ones(2)}], "ties")
