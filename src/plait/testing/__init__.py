"""What plait's own tests use, for authors of methods: the contract, toy problems, faults.

from plait.testing import check_method
check_method(MyMethod)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait.testing.contract import check_method, properties, registered, unchecked
    from plait.testing.laws import BrokenLawError, Property, Subject

__all__ = [
    "BrokenLawError",
    "Property",
    "Subject",
    "check_method",
    "properties",
    "registered",
    "unchecked",
]

_LAWS = ("BrokenLawError", "Property", "Subject")


# Fetched when used: the generators (`python -m plait.testing.index`) start without the contract.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'plait.testing' has no attribute {name!r}")
    return getattr(import_module(f"plait.testing.{'laws' if name in _LAWS else 'contract'}"), name)
