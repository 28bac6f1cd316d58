"""The loss and the metrics that a task names: they must exist, and fit its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.kinds import LOSSES, Kind, check_loss
from plait.recipes.document import Place, nearest


def loss_and_metrics(
    given: Mapping[str, Place], kind: Kind | None, found: dict[str, Any], *, sound: bool
) -> None:
    """Read what a task says of them; ``sound``: nothing else was wrong with it so far."""
    if "loss" in given and (loss := given["loss"].text()) is not None:
        found["loss"] = loss
        if loss not in LOSSES:
            given["loss"].wrong(f"no loss {loss!r}{nearest(loss, LOSSES)}")
        elif kind is not None:
            try:
                check_loss(loss, kind.name)
            except ValueError as error:
                given["loss"].wrong(str(error))
    if found.get("metrics"):
        from plait.metrics import METRICS

        for i, metric in enumerate(found["metrics"]):
            place = given["metrics"].under(metric, i)
            if metric not in METRICS:
                place.wrong(f"no metric {metric!r}{nearest(metric, METRICS)}")
            elif kind is not None and kind.name not in METRICS[metric].kinds:
                fits = [m.name for m in METRICS.values() if kind.name in m.kinds]
                place.wrong(f"metric {metric!r} does not fit kind {kind.name}{nearest('', fits)}")
            elif METRICS[metric].grouped and not found.get("group") and sound:
                place.wrong(f"metric {metric!r} needs group: the column of whose row it is")
            elif i == 0 and METRICS[metric].higher is None:
                place.wrong(f"metric {metric!r} is best at 1, so that it cannot rank; name another "
                            "one first")  # fmt: skip
