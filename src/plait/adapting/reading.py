"""What is read of a text before its adapters run: its transformer, its words, their mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plait.networks.transformer import Transformer
from plait.sites import ModuleSite


def transformer_of(site: ModuleSite, who: str) -> nn.Module:
    """The transformer that a site stands in; ``ValueError`` where there is none."""
    for path, module in site.root.named_modules():
        if isinstance(module, Transformer) and site.path.startswith(f"{path}."):
            found: nn.Module = module.model
            return found
    raise ValueError(f"{who} adapts transformers, and {site!r} stands in none")


def word_width(site: ModuleSite) -> int:
    """The width of the word embeddings of the transformer at a site."""
    words: nn.Embedding = site.module.get_input_embeddings()  # type: ignore[operator]
    return int(words.embedding_dim)


def words_mean(base: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean [B, d] of the embedded words of texts [B, n]."""
    return mean_of(base.get_input_embeddings()(input_ids), attention_mask)  # type: ignore[operator]


def mean_of(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean [B, d] of states [B, n, d] over the real tokens."""
    share = attention_mask.to(states.dtype)
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(share.unsqueeze(1), states).squeeze(1)


def last_of(attention_mask: Tensor) -> Tensor:
    """Where the last real token of each text stands: bool [B, n]."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return places == (places * (attention_mask > 0)).argmax(1, keepdim=True)
