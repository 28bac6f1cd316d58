"""Methods that change the step itself; ``plain`` is the usual one."""

from plait.training.procedures.base import Ground, Problem, Procedure
from plait.training.procedures.plain import Plain

__all__ = ["Ground", "Plain", "Problem", "Procedure"]
