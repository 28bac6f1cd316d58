"""Reading a folder for ``transformers`` and ``peft`` back, with those libraries alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from plait.exporting.check import Array
from plait.exporting.whole import quiet
from plait.losses import LOSSES

ROWS = 64  # run at once


@torch.no_grad()
def predictions(folder: Path, tokens: Tensor) -> dict[str, Array]:
    """Every task's predictions; ``tokens`` [n, longest] as plait numbers them, 0 for padding."""
    from transformers import AutoModel

    told = json.loads((folder / "heads.json").read_text("utf-8"))
    tensors = load_file(folder / "heads.safetensors")
    with still():
        model: Any = AutoModel.from_pretrained(folder).eval()
    ids, mask = (tokens - 1).clamp(min=0), (tokens != 0).long()
    shared = None
    if any(task["adapter"] is None for task in told["tasks"]):
        shared = _features(model, ids, mask, told, tensors)
    found, adapted = {}, None
    for number, task in enumerate(told["tasks"]):
        features = shared
        if task["adapter"] is not None:
            adapted = _with(model, adapted, folder / task["adapter"], str(number))
            features = _features(adapted, ids, mask, told, tensors)
        assert features is not None
        head = task["head"]
        raw = F.linear(features, tensors[f"{head}.weight"], tensors[f"{head}.bias"])
        value = LOSSES[task["loss"]].predict(raw)
        if task["kind"] == "real":
            value = value.double() * task["scale"] + task["center"]
        found[task["name"]] = value.numpy()
    return found


@contextmanager
def still() -> Iterator[None]:
    """Reports and progress bars of transformers are kept off the terminal."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _with(model: Any, adapted: Any, folder: Path, name: str) -> Any:
    """The model with one more adapter, which is the one in use."""
    from peft import PeftModel

    with still():
        if adapted is None:
            return PeftModel.from_pretrained(model, folder, adapter_name=name).eval()
        adapted.load_adapter(folder, adapter_name=name)
        adapted.set_adapter(name)
    return adapted.eval()


def _features(
    model: Any, ids: Tensor, mask: Tensor, told: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Tensor:
    pieces = [
        _pooled(model(input_ids=i, attention_mask=m)[0], m, told["pooling"])
        for i, m in zip(torch.split(ids, ROWS), torch.split(mask, ROWS), strict=True)
    ]
    x = torch.cat(pieces)
    for layer in told["layers"]:
        if "linear" in layer:
            name = layer["linear"]
            x = F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        elif "layer_norm" in layer:
            name = layer["layer_norm"]
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            x = F.layer_norm(x, x.shape[-1:], weight, bias, layer["eps"])
        else:
            x = x.relu()
    return x


def _pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    if pooling == "cls":
        return states[:, 0]
    share = mask.to(states.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(share.unsqueeze(1), states).squeeze(1)
