"""Out of memory: told apart from every other way to fail."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

# What allocators say that raise nothing of their own kind: torch on the CPU and on Apple's GPUs,
# cuBLAS and cuDNN, C++ libraries.
MARKS = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory ran out.

    >>> out_of_memory(MemoryError()), out_of_memory(ValueError("out of range"))
    (True, False)
    """
    return any(_says(each) for each in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _says(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    plain = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in plain for mark in MARKS)


def kernel_kills() -> int:
    """How many processes of this machine its kernel has killed for memory; 0 if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
