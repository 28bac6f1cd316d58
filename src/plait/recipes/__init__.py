"""Studies as YAML files: read with every mistake located, written back exactly."""

from plait.recipes.document import RecipeError
from plait.recipes.study import StudySpec, loads, read, write

__all__ = ["RecipeError", "StudySpec", "loads", "read", "write"]
