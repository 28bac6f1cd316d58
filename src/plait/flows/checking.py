"""Perplexity of language models on a text: does a merge still speak as well as its parents?

    exp( −(1/N) Σ_t log p(x_t | x_{<t} of its window) )

over windows of tokens that do not overlap, the first token of each being given. Models are read by
transformers; none of their own code is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plait.weights.peft_config import CONFIG as ADAPTER

WINDOW = 1024  # tokens


def perplexities(
    models: Mapping[str, Path], text: str, base: Path | None = None
) -> dict[str, float]:
    """The perplexity of each model by name; an adapter stands on the base.

    Raises ``ImportError`` without transformers, and ``ValueError`` for a text of a single token.
    """
    return {name: perplexity(path, text, base) for name, path in models.items()}


def perplexity(model: Path, text: str, base: Path | None = None) -> float:
    """The perplexity of one model on a text, in windows of at most 1,024 tokens."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    network, tokenizer = _opened(model, base)
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    window = min(WINDOW, int(getattr(network.config, "max_position_embeddings", WINDOW)))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(tokens), window):
            part = tokens[start : start + window]
            if len(part) > 1:
                logits = network(part[None]).logits[0, :-1].float()
                total += float(F.cross_entropy(logits, part[1:], reduction="sum"))
                count += len(part) - 1
    if not count:
        raise ValueError("a text of at least two tokens is needed to measure perplexity")
    return math.exp(total / count)


def _opened(model: Path, base: Path | None) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ImportError("perplexity needs transformers: pip install 'plait[text]'") from error
    adapter = (model / ADAPTER).is_file()
    home = base if adapter and base is not None else model
    given: dict[str, Any] = {"local_files_only": True}
    network = AutoModelForCausalLM.from_pretrained(home, dtype="auto", **given)
    if adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, model)
    own = model if (model / "tokenizer_config.json").is_file() else home
    return network.eval(), AutoTokenizer.from_pretrained(own, **given)
