"""What is said when data cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """The data or their declaration cannot be used; names the place, the fault and the fix.

    ``declared`` are the keys in a study that lead to what is at fault, where one is known:
    ``("tasks", "price", "where")``.
    """

    def __init__(self, message: str, declared: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.declared = declared
