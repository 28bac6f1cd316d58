"""How a network is trained: the ``training:`` block of a study, and the trackers of ``track:``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

LEAST: Mapping[str, float] = {
    "passes": 1, "batch": 1, "patience": 1, "micro_batches": 1, "bad_steps": 1, "weight_decay": 0,
    "warmup": 0, "meter": 1, "mirror": 0,
}  # fmt: skip
ABOVE: Mapping[str, float] = {"learning_rate": 0, "clip": 0, "temperature": 0, "time_limit": 0}
TRACKERS: Mapping[str, str] = {
    "tensorboard": "plait.training.trackers.tensorboard:TensorBoard",
    "mlflow": "plait.training.trackers.mlflow:MLflow",
    "trackio": "plait.training.trackers.trackio:Trackio",
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training; every strategy of a study gets the same.

    ``passes`` over each task's labelled rows. ``batch`` rows in a step, or ``"auto"``: at least
    sixteen steps a pass with 16 to 256 rows each. ``patience`` passes without a better validation
    loss end the training (None: never); the best weights are kept either way. ``mixing`` draws rows
    ``proportional`` (every labelled row once a pass, with all its labels), or tasks ``uniform``,
    ``round_robin`` or with p ∝ n^(1/temperature). ``time_limit`` in seconds.
    ``meter`` measures the gradients of all tasks every so many steps, whatever the balancer, at a
    step's price in task gradients (None: where the balancer has them, and a few rows once a pass);
    it changes no result.
    ``mirror``: the chance that an image is mirrored left to right in a step, with the labels of its
    pixels. Raises ``ValueError`` for a value out of its range.
    """

    passes: int = 30
    batch: int | Literal["auto"] = "auto"
    learning_rate: float = 2e-3
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
    meter: int | None = None
    mirror: float = 0.0

    def __post_init__(self) -> None:
        hints = get_type_hints(Training)
        for field in fields(self):
            problem = _problem(field.name, getattr(self, field.name), hints[field.name])
            if problem:
                raise ValueError(f"training: {field.name} must be {problem}")


def _problem(name: str, value: object, hint: object) -> str:
    """What the value must be and is not, as the end of a message; empty where it fits."""
    options = get_args(hint) or (hint,)
    words = [word for option in options for word in get_args(option)]
    words += [word for word in options if isinstance(word, str)]
    if value is None and type(None) in options:
        return ""
    if isinstance(value, str):
        known = f"one of {', '.join(words)}" if words else "a number"
        return "" if value in words or hint is str else f"{known}; got {value!r}"
    whole = int in options
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"a {'whole ' if whole else ''}number; got {value!r}"
    if name in ABOVE and not ABOVE[name] < value < float("inf"):
        return f"a number above {ABOVE[name]}; got {value}"
    if name in LEAST and not LEAST[name] <= value < float("inf"):
        return f"at least {LEAST[name]}; got {value}"
    return f"at most 1; got {value}" if name in ("warmup", "mirror") and value > 1 else ""
