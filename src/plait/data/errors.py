"""What is said when data cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """The data or their declaration cannot be used; names the place, the fault and the fix."""
