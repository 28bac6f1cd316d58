"""Texts by a pretrained transformer (extra ``text``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from plait.batch import Input, Part
from plait.method import MethodError, did_you_mean
from plait.networks.lengths import by_length
from plait.networks.positions import padded
from plait.networks.stems import Stem

POOLINGS = ("mean", "cls")


class Transformer(Stem):
    """A transformer's hidden states, pooled to one vector per text; one model reads every text.

    ``pretrained``: a local folder or a hub name; or ``config``: a configuration as plain data, for
    random weights. ``pooling``: ``mean`` over the real tokens, or ``cls``, the first one's.
    ``frozen`` models never train and stay in evaluation mode; their output is read from
    ``features.<role>`` where a part has it. ``max_length`` is the tokeniser's. ``checkpointing``
    trades time for memory. Token numbers arrive shifted by one, 0 being padding; texts of similar
    length run together.

    Raises :class:`MethodError` for a missing extra, an unknown setting, a model that cannot be
    loaded, or one with fewer tokens than its inputs.
    """

    name = "transformer"

    def __init__(
        self,
        inputs: Sequence[Input],
        *,
        pretrained: str | None = None,
        config: Mapping[str, Any] | None = None,
        pooling: Literal["mean", "cls"] = "mean",
        frozen: bool = True,
        max_length: int = 128,
        checkpointing: bool = False,
    ) -> None:
        if pooling not in POOLINGS:
            hint = did_you_mean(pooling, POOLINGS)
            raise MethodError(f"no pooling {pooling!r}{hint}", ("pooling",))
        model = _load(pretrained, config)
        for found in inputs:
            if found.sizes[0] - 1 > model.config.vocab_size:
                raise MethodError(
                    f"{found.key} has {found.sizes[0] - 1} tokens but the model knows "
                    f"{model.config.vocab_size}; was another tokeniser used?",
                    ("pretrained",),
                )
        super().__init__(inputs, [int(model.config.hidden_size)] * len(inputs))
        self.pooling, self.frozen, self.max_length = pooling, frozen, max_length
        self.checkpointing = checkpointing
        self.reads_features = frozen
        self.model = model
        if frozen:
            self.model.requires_grad_(False)
            self.model.eval()
        elif checkpointing:
            self.checkpoint()

    def train(self, mode: bool = True) -> Transformer:
        """Set training mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def checkpoint(self, **settings: Any) -> None:
        """Recompute blocks in the backward pass; settings are ``torch.utils.checkpoint``'s."""
        model: Any = self.model
        try:
            enable = model.activation_checkpointing_enable
        except AttributeError:  # its name until transformers 5
            enable = model.gradient_checkpointing_enable
        enable({"use_reentrant": False, **settings})

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        if not len(value):
            return torch.zeros(0, self.widths[0], dtype=dtype, device=value.device)
        pieces = by_length(value)
        if len(pieces) == 1:
            return self._pooled(value[:, : pieces[0][1]])
        found = []
        for rows, longest in pieces:
            with self.among(rows):
                found.append(self._pooled(value.index_select(0, rows)[:, :longest]))
        back = torch.argsort(torch.cat([rows for rows, _ in pieces]))
        return torch.cat(found).index_select(0, back)

    def _pooled(self, value: Tensor) -> Tensor:
        """Texts of similar length [n, longest] → [n, width]."""
        real = value != 0
        tokens = (value - 1).clamp(min=0)
        with padded(real):
            states: Tensor = self.model(input_ids=tokens, attention_mask=real.long())[0]
        if self.pooling == "cls":
            return states[:, 0]
        share = real.to(states.dtype)
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        return torch.bmm(share.unsqueeze(1), states).squeeze(1)

    def find(self, key: str, part: Part, dtype: torch.dtype) -> Tensor | None:
        features = features_key(key)
        if features not in part:
            return super().find(key, part, dtype)
        if self.reads_features:
            return part[features].to(dtype)
        if key in part:
            return super().find(key, part, dtype)
        raise ValueError(
            f"a part has {features} but no {key}: cached features serve frozen encoders only, and "
            "this one trains or is adapted inside"
        )

    def spec(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.model.config.to_json_string(use_diff=True)),
            "pooling": self.pooling,
            "frozen": self.frozen,
            "max_length": self.max_length,
            "checkpointing": self.checkpointing,
        }


def features_key(key: str) -> str:
    """The key of a text's cached features.

    >>> features_key("text.review")
    'features.review'
    """
    return "features." + key.removeprefix("text.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars and reports of transformers are kept off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(pretrained: str | None, config: Mapping[str, Any] | None) -> Any:
    if (pretrained is None) == (config is None):
        message = "a transformer needs pretrained: a local folder or a hub name"
        raise MethodError(message, ("pretrained",))
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise MethodError(
            "the transformer encoder needs the extra 'text': pip install 'plait[text]'"
        ) from error
    if pretrained is not None:
        try:
            with _quiet():
                model, told = AutoModel.from_pretrained(pretrained, output_loading_info=True)
        except (OSError, ValueError) as error:
            kind = "folder" if Path(pretrained).exists() else "local folder or hub name"
            raise MethodError(
                f"no transformer could be loaded from the {kind} {pretrained!r}: "
                f"{str(error).splitlines()[0]}",
                ("pretrained",),
            ) from error
        lacking = sorted(name for name in told["missing_keys"] if "pooler" not in name)
        if lacking:
            raise MethodError(
                f"{pretrained!r} lacks weights of the transformer: {', '.join(lacking[:3])}",
                ("pretrained",),
            )
    else:
        plain = dict(config or {})
        kind = plain.pop("model_type", "bert")
        try:
            model = AutoModel.from_config(AutoConfig.for_model(kind, **plain))
        except (KeyError, TypeError, ValueError) as error:
            raise MethodError(f"not a transformer's configuration: {error}", ("config",)) from error
    if getattr(model, "pooler", None) is not None:
        model.register_module(
            "pooler", None
        )  # plait pools by itself; an unused layer would count as shared
    return model.float()
