"""How a network is trained: the ``training:`` block of a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training; every strategy of a study gets the same.

    ``passes`` over each task's labelled rows. ``batch`` rows in a step, or ``"auto"``: at least
    sixteen steps a pass with 16 to 256 rows each. ``patience`` passes without a better validation
    loss end the training (None: never); the best weights are kept either way. ``mixing`` draws rows
    ``proportional`` (every labelled row once a pass, with all its labels), or tasks ``uniform``,
    ``round_robin`` or with p ∝ n^(1/temperature). ``time_limit`` in seconds.
    """

    passes: int = 30
    batch: int | Literal["auto"] = "auto"
    rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05
    clip: float | None = 1.0
    patience: int | None = 8
    micro_batches: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    mixing: Literal["proportional", "uniform", "round_robin", "temperature"] = "proportional"
    temperature: float = 2.0
    bad_steps: int = 10
    device: str = "auto"
    time_limit: float | None = None
