"""Virtual tokens in the transformers of the ``text`` extra: prompts, and prefixes in attention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank
from plait.adapting.base import SiteBank
from plait.adapting.routing import Routing
from plait.networks.base import Start
from plait.networks.transformer import Transformer
from plait.sites import ModuleSite


def transformer_sites(network: nn.Module, who: str, named: Sequence[str] = ()) -> list[ModuleSite]:
    """The whole transformers of a network; ``ValueError`` where it has none, or sites are named."""
    stems = [path for path, m in network.named_modules() if isinstance(m, Transformer)]
    if named:
        raise ValueError(
            f"{who} adapts whole transformers ({', '.join(stems) or 'here are none'}); no module "
            f"matches {named[0]!r} among them, so leave sites out"
        )
    if not stems:
        raise ValueError(f"{who} adapts transformers, and the network has none")
    return [ModuleSite(network, f"{path}.model") for path in stems]


def check_room(site: ModuleSite, length: int, who: str, needs: str = "inputs_embeds") -> None:
    """``ValueError`` where a transformer cannot take ``length`` more tokens, or none at all."""
    stem = site.root.get_submodule(site.path.rpartition(".")[0])
    assert isinstance(stem, Transformer)
    config: Any = site.module.config
    if needs not in inspect.signature(site.module.forward).parameters:
        raise ValueError(f"{who} cannot adapt {type(site.module).__name__}: it takes no {needs}")
    if needs == "past_key_values" and stem.checkpointing:
        raise ValueError(f"{who}: checkpointed blocks drop past keys; set checkpointing: false")
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and stem.max_length + length > most:
        raise ValueError(
            f"{who}: {length} virtual tokens beside texts of {stem.max_length} are more than the "
            f"{most} that {type(site.module).__name__} knows; give length: "
            f"{max(most - stem.max_length, 0)} or a lower max_length"
        )


def mask_with(own: Tensor, length: Tensor | None, attention_mask: Tensor) -> Tensor:
    """The mask [B, n + longest] of texts after n virtual tokens, of which length [B] are read."""
    read = torch.ones(own.shape[:2], dtype=torch.bool, device=own.device)
    if length is not None:
        read = torch.arange(own.shape[1], device=own.device) < length.unsqueeze(1)
    return torch.cat([read.to(attention_mask.dtype), attention_mask], dim=1)


def with_prompt(
    base: nn.Module,
    own: Tensor,
    length: Tensor | None,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    **named: Any,
) -> tuple[Tensor]:
    """The states of the texts [B, longest, d] with prompts [B, n, d] before them."""
    words = base.get_input_embeddings()(input_ids)  # type: ignore[operator]
    states: Tensor = base(
        inputs_embeds=torch.cat([own.to(words.dtype), words], dim=1),
        attention_mask=mask_with(own, length, attention_mask),
        **named,
    )[0]
    return (states[:, own.shape[1] :],)


def with_prefix(
    base: nn.Module,
    own: Tensor,
    length: Tensor,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    **named: Any,
) -> tuple[Tensor]:
    """The states of the texts, whose attention also reads [B, n, layers, 2, heads, d / heads]."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(own.shape[2]):
        keys, values = own[:, :, layer].permute(2, 0, 3, 1, 4).unbind(0)
        cache.update(keys, values, layer)
    states: Tensor = base(
        input_ids=input_ids,
        attention_mask=mask_with(own, length, attention_mask),
        past_key_values=cache,
        use_cache=False,
        **named,
    )[0]
    return (states,)


def attention_shape(model: nn.Module) -> tuple[int, int, int]:
    """(layers, heads of keys and values, width of a head) of a transformer."""
    config: Any = model.config
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return int(config.num_hidden_layers), int(groups), int(width)


class PromptBank(OwnBank):
    """P [T, n, d] before a transformer, and how many a task has (files may bring fewer)."""

    def __init__(self, names: Sequence[str], length: int, width: int, start: Start) -> None:
        super().__init__(names)
        self.add("prompt", length, width, start=start)
        self.note("length", float(length))

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:  # noqa: ARG002
        """The states of the texts, with their tasks' prompts before them."""
        task = routing.task
        own = self.stack("prompt").index_select(0, task)
        length = self.get_buffer("length").index_select(0, task)
        return with_prompt(base, own, length, **named)

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """The prompt under peft's name."""
        length = int(self.get_buffer("length")[task])
        return {"prompt_embeddings": self.stack("prompt")[task, :length]}

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:  # noqa: ARG002
        """A prompt of at most this length; the vectors it lacks are not read."""
        own, given = self.stack("prompt")[task], tensors["prompt_embeddings"]
        if given.shape[1] != own.shape[1] or len(given) > len(own):
            raise ValueError(f"the file has {tuple(given.shape)}, the network {tuple(own.shape)}")
        own.zero_()
        own[: len(given)] = given
        self.get_buffer("length")[task] = len(given)


def words_of(model: nn.Module) -> Tensor:
    """The embeddings of a transformer's vocabulary [V, d]."""
    table: Tensor = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    return table


def drawn(table: Tensor) -> Start:
    """Start from drawn rows of a table of embeddings [V, d]."""

    def start(slice_: Tensor, generator: torch.Generator) -> None:
        rows = torch.randint(len(table), (len(slice_),), generator=generator)
        slice_.copy_(table[rows.to(table.device)])

    return start


def prompt_config(banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
    """Peft's configuration of prompt tuning for the only bank there is."""
    (bank,) = banks.values()
    length, width = bank.exported(task)["prompt_embeddings"].shape
    return {
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": length, "token_dim": width,
        "num_transformer_submodules": 1, "prompt_tuning_init": "RANDOM",
    }  # fmt: skip
