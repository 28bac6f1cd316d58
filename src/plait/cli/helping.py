"""Help pages: arguments in capitals, no type behind a flag, and examples at the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

# What stands behind an option, by its name in the code; others show their type.
VALUES: Mapping[str, str] = {
    "out": "PATH", "workers": "N", "time": "TIME", "cell_time": "TIME", "shard": "K/N",
    "sample": "SHARE", "on": "CLUSTER", "targets": "NAMES", "strategy": "LABEL", "ids": "NAMES",
    "of": "TABLE", "have": "NEEDS", "family": "FAMILY", "onnx": "FILE", "torch": "FILE",
    "hf": "FOLDER", "rows": "TABLE", "method": "METHOD", "base": "MODEL", "verify": "FOLDER",
    "tokenizer": "WHOSE", "key": "KEY", "memory": "GIB", "outside": "MODEL", "check": "TEXT",
    "rank": "R", "chosen": "N", "seed": "N",
}  # fmt: skip
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "demo": ("plait demo", "plait demo --out digits --workers 2"),
    "init": (
        "plait init fruit.csv",
        "plait init assays.parquet --targets 'NR-*,SR-*' -o study.yaml --yes",
    ),
    "validate": ("plait validate study.yaml", "plait validate study.yaml --json"),
    "compare": (
        "plait compare study.yaml --dry-run",
        "plait compare study.yaml --out run --workers 2",
        "plait compare study.yaml --sample 10% --time 30m",
        "plait compare study.yaml --out /shared/run --shard 3/50",
    ),
    "status": ("plait status run", "plait status run --json"),
    "report": (
        "plait report run",
        "plait report run --md",
        "plait report run --latex -o tables.tex",
    ),
    "train": (
        "plait train run -o model",
        "plait train study.yaml --strategy joint -o model",
    ),
    "predict": ("plait predict model new.csv -o predictions.parquet",),
    "export": ("plait export model --onnx model.onnx",),
    "merge": (
        "plait merge --method ties --base base math code -o merged",
        "plait merge recipe.yaml -o merged --dry-run",
        "plait merge recipe.yaml -o merged --check text.txt",
        "plait merge --verify merged",
    ),
    "convert": (
        "plait convert model/pytorch_model.bin",
        "plait convert model -o converted",
        "plait convert run.pt --key model",
    ),
    "extract": ("plait extract math --base base --rank 32 -o adapter",),
    "stack": ("plait stack math:0:8 code:4:12 -o tall",),
    "upcycle": ("plait upcycle math code --base base -o mixture",),
    "methods": (
        "plait methods",
        "plait methods --family balancing",
        "plait methods --have base,validation",
    ),
    "doctor": ("plait doctor", "plait doctor --json"),
}


def epilog(command: str) -> str | None:
    """The examples of a command as the end of its help page."""
    lines = EXAMPLES.get(command, ())
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else None


class _Plain:
    """Shared by commands and the group of them."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in found:
            if isinstance(one, TyperArgument):
                one.metavar = one.metavar or str(one.name).upper()
            elif getattr(one, "is_flag", False):
                one.metavar = ""
            else:
                one.metavar = one.metavar or VALUES.get(str(one.name))
        return found

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]


class Command(_Plain, TyperCommand):
    """One command."""


class Group(_Plain, TyperGroup):
    """All commands."""


def prose(command: Callable[..., None]) -> str:
    """A docstring with each paragraph in one line, to be wrapped to the width of the terminal."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)
