"""Faults of the data told with the line of the study that is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plait.data.errors import DataError
from plait.recipes.document import RecipeError, Where, read_document, spell_path


@contextmanager
def placed(study: Path) -> Iterator[None]:
    """Say in which line of a study stands what a :class:`DataError` raised inside speaks of."""
    try:
        yield
    except DataError as error:
        if not error.declared:
            raise
        try:
            document = read_document(study)
        except RecipeError:
            raise error from None
        where: Where = error.declared
        while where and where not in document.lines:
            where = where[:-1]
        place = f"{study}:{document.line(where)}: " if where else ""
        path = f"{spell_path(where)}: " if where else ""
        raise DataError(f"{place}{path}{error}", error.declared) from error
