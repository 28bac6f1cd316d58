"""How many operations a computation asks of torch: what a loop over tasks costs, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


def operations(run: Callable[[], object]) -> int:
    """The operations of one call, those of its backward pass included.

    >>> import torch
    >>> x = torch.ones(3)
    >>> operations(lambda: x + x * 2)
    2
    """
    counter = _Counter()
    with counter:
        run()
    return counter.count


class _Counter(TorchDispatchMode):
    count: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))
