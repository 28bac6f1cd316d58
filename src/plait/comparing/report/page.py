"""The report as one offline HTML file: jinja2 with autoescape, one style, one script, one CSP."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from plait.comparing.report import curves, numbers, plots
from plait.comparing.report.adapters import adapters
from plait.comparing.report.clean import cleaned
from plait.comparing.report.experts import experts, wrong
from plait.comparing.report.fronts import fronts
from plait.comparing.report.glance import glance
from plait.comparing.report.glossary import Glossary, lower, metric
from plait.comparing.report.mixtures import kept, mixtures
from plait.comparing.report.tables import (
    MARKS,
    SHOWN,
    WORDS,
    Tables,
    failures,
    first_rows,
    heat,
    leaderboard,
    some,
    task_data,
    told,
)
from plait.comparing.report.whiskers import axis
from plait.comparing.results import Results, Standing

PICTURES = 500_000  # bytes of pictures in the page
TEXT = 100_000  # letters of a recipe in the page
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")


def html(results: Results) -> str:
    """The report as one HTML file that needs nothing else.

    Names are escaped, no script but the report's own may run (CSP), and nothing is fetched.
    """
    results = cleaned(results)
    tables = Tables(results)
    style, script = (_asset(name) for name in ("style.css", "script.js"))
    pictures, unseen = _pictures(results.pictures)
    rows, scale = leaderboard(results)
    data, left_out = task_data(tables)
    charted = tables.changed[: plots.MOST]
    charted = [task for task in tables.tasks if task in charted]
    many = len(tables.tasks) > SHOWN
    weights, constant = curves.weights(results)
    page = _templates().get_template("report.html.j2")
    return page.render(
        results=results, answer=results.answer, tables=tables,
        style=Markup(style), script=Markup(script), policy=_policy(style, script),  # noqa: S704
        rows=rows, failures=failures(results), axis=axis(scale),
        over_metrics=any(s.gain_metrics.defined for s in results.standings),
        scored=next((s.metric for s in results.standings if s.metric), ""),
        seeds=max((s.seeds for s in results.standings), default=0),
        warn=_harm(results.standings), glance=glance(tables),
        heat=heat(tables), first=first_rows(tables), data=data, left_out=left_out,
        task_axis=axis(tables.task_scale), many=many,
        costs=plots.costs(results),
        sorted_gains=plots.sorted_gains(results, tables.by_strategy) if many else [],
        learning=curves.learning(results, charted),
        weights=weights, constant=constant, conflict=curves.conflict(results),
        norms=curves.norms(results), agreement=curves.agreement(results),
        contrasts=results.contrasts,
        fronts=fronts(results),
        adapters=adapters(results),
        experts=experts(results), wrong=wrong(results),
        mixtures=mixtures(results), kept=kept(results),
        charted=charted, glossary=Glossary(results), pictures=pictures, unseen=unseen,
        recipe=results.recipe[:TEXT], cut=len(results.recipe) > TEXT,
        environment=[(key, told(value)) for key, value in results.environment.items()],
    )  # fmt: skip


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("plait.comparing.report"),
        autoescape=True,  # jinja2 does not by default, and every name here comes from data
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    found.globals.update(
        bounds=numbers.bounds, figure=numbers.figure, metric=metric, lower=lower, some=some,
        signed=numbers.signed,
        MARKS=MARKS, WORDS=WORDS, MOST=plots.MOST,
    )  # fmt: skip
    return found


def _asset(name: str) -> str:
    text = files("plait.comparing.report").joinpath("templates", name).read_text("utf-8")
    return "\n" + text.replace("\r\n", "\n").strip() + "\n"


def _policy(style: str, script: str) -> str:
    """Nothing loads and nothing runs but the two inline texts with these hashes."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest(script)}'; "
        f"style-src 'sha256-{digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _pictures(given: Sequence[str]) -> tuple[list[str], int]:
    """Pictures as data URIs, in which nothing runs, and the number of those left out."""
    found, size = [], 0
    for picture in given:
        text = picture.strip()
        if text.startswith("<svg"):
            packed = base64.b64encode(text.encode("utf-8", "replace")).decode()
            text = f"data:image/svg+xml;base64,{packed}"
        elif not _IMAGE.fullmatch(text):
            continue
        size += len(text)
        if size <= PICTURES:
            found.append(text)
    return found, len(given) - len(found)


def _harm(standings: Sequence[Standing]) -> Standing | None:
    """The chosen strategy, where it harms a task."""
    return next((s for s in standings if s.chosen and s.harmed), None)
