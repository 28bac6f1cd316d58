"""The tables of a report for text, for papers and for sheets."""

from __future__ import annotations

import csv as sheets
import io
from collections.abc import Iterator, Sequence

from plait.comparing import escaping, words
from plait.comparing.report import numbers
from plait.comparing.report.clean import cleaned
from plait.comparing.report.experts import wrong
from plait.comparing.report.glossary import metric
from plait.comparing.report.mixtures import kept
from plait.comparing.report.tables import SHOWN, WORDS, Tables, failures, some, told
from plait.comparing.report.whiskers import verdict
from plait.comparing.results import Interval, Results, Standing

Table = list[list[str]]
REASON = 80  # letters of a failure in a table; the list of failures has more
_WORDS_OF_MARKS = "▲ helped and ▼ harmed beyond noise"


def markdown(results: Results) -> str:
    """The answer and the tables in GitHub's Markdown; names are escaped."""
    results = cleaned(results)
    tables = Tables(results)
    answer = results.answer
    title, headline = escaping.markdown(results.title), escaping.markdown(answer.headline)
    parts = [f"# {title}", f"**{headline}**", escaping.paragraph(answer.use)]
    parts.append(_bullets(answer.reasons))
    if answer.separate:
        parts.append(_bullets([
            f"Share: {some(answer.share, SHOWN)}", f"Keep separate: {some(answer.separate, SHOWN)}",
        ]))  # fmt: skip
    parts += ["## Leaderboard", _md_table(_board(results), right=2)]
    parts.append("= tied with the best; ★ use this; 95 % intervals in brackets.")
    if results.failures:
        parts.append("### Cells that did not finish")
        parts.append(_bullets([
            f"{way}, seeds {seeds}: {error[:300]}"
            for way, seeds, error in failures(results)[:SHOWN]
        ]))  # fmt: skip
    tasks, left_out = _shown(tables)
    parts += ["## Gain of each task, %", _md_table(_gains(tables, tasks), right=1)]
    parts.append(f"{_WORDS_OF_MARKS}; 95 % intervals in brackets.{left_out}")
    parts += ["## Each task in its own metric", _md_table(_figures(tables, tasks), right=2)]
    for title, lines in (
        ("Experts", wrong(results)),
        ("Merges", kept(results)),
        ("Data", [f"Warning: {warning}" for warning in results.warnings] + [*results.facts]),
        ("Notes", results.notes),
        ("Environment", [f"{key}: {told(value)}" for key, value in results.environment.items()]),
    ):
        if lines:
            parts += [f"## {title}", _bullets(lines)]
    if results.recipe:
        parts += ["## Recipe", _fenced(results.recipe)]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(results: Results) -> str:
    """The leaderboard and the gains of each task as booktabs tables; names are escaped."""
    results = cleaned(results)
    tables = Tables(results)
    head = [
        "% Needs \\usepackage{amssymb,booktabs,longtable}; for names in other scripts XeLaTeX.",
        "% " + " ".join(results.title.split()),
    ]
    caption = (
        "Mean gain $\\Delta m$ over separate models in per cent, 95\\,\\% intervals in brackets. "
        "=: tied with the best; $\\star$: chosen."
    )
    gains = (
        "Gain of each task over its separate model in per cent, 95\\,\\% intervals in brackets; "
        "$\\blacktriangle$ helped and $\\blacktriangledown$ harmed beyond noise."
    )
    figures = "Each task in its own metric, 95\\,\\% intervals in brackets."
    everything = tables.tasks
    return "\n".join([
        *head, "", _tex_table(_board(results), caption, "leaderboard", right=2),
        "", _tex_long(_gains(tables, everything), gains, "gains", right=1),
        "", _tex_long(_figures(tables, everything), figures, "tasks", right=2), "",
    ])  # fmt: skip


def csv(results: Results) -> str:
    """One row for every strategy, task and metric with value, low and high; gains are a metric.

    Undefined figures are empty with their reason beside them; a strategy that failed has one row.
    Texts that a spreadsheet would run (``=``, ``+``, ``-``, ``@``, tab, CR first) get a ``'``.
    """
    text = io.StringIO()
    out = sheets.writer(text, lineterminator="\r\n")  # with "\n" alone, "\r" would go unquoted
    out.writerow(["strategy", "task", "metric", "value", "low", "high", "verdict", "reason"])
    for score in results.scores:
        names = [escaping.cell(score.strategy), escaping.cell(score.task)]
        for name, figure in score.metrics.items():
            reason = "" if figure.defined else escaping.cell(score.reason or "undefined")
            out.writerow([*names, escaping.cell(name), *_ends(figure), "", reason])
        reason = "" if score.gain.defined else escaping.cell(score.reason or "undefined")
        word = WORDS[verdict(score.gain)]
        out.writerow([*names, "gain (Δm), %", *_ends(score.gain), word, reason])
    for standing in results.standings:
        if standing.failed:
            reason = escaping.cell(f"failed: {standing.failed}")
            out.writerow([escaping.cell(standing.strategy), "", "", "", "", "", "", reason])
    return text.getvalue()


# -- the tables, once for all formats --------------------------------------------------------------


def _board(results: Results) -> Table:
    scored = next((s.metric for s in results.standings if s.metric), "")
    head = ["", "Strategy", "Gain (Δm), %", "Over all metrics, %"]
    head += [f"Mean {metric(scored)}"] if scored else []
    rows = [[*head, "Helped", "Harmed", "Size", "Training", "Latency"]]
    for standing in results.standings:
        mark = _mark(standing)
        name = standing.strategy + (" (plain baseline)" if standing.baseline else "")
        if standing.failed:
            failed = f"failed: {standing.failed[:REASON]}"
            rows.append([mark, name, failed, *[""] * (len(rows[0]) - 3)])
            continue
        cost = standing.cost
        figures = [standing.gain, standing.gain_metrics]
        row = [mark, name, *(numbers.both(figure, signed=True) for figure in figures)]
        row += [numbers.both(standing.score)] if scored else []
        row += [some(standing.helped), some(standing.harmed), words.count(cost.parameters)]
        rows.append([*row, words.duration(cost.seconds), words.duration(cost.latency)])
    return rows


def _mark(standing: Standing) -> str:
    return "★" if standing.chosen else "=" if standing.tied else ""


def _shown(tables: Tables) -> tuple[list[str], str]:
    if len(tables.tasks) <= SHOWN:
        return tables.tasks, ""
    wanted = set(tables.changed[:SHOWN])
    return [task for task in tables.tasks if task in wanted], (
        f" The {SHOWN} of {len(tables.tasks)} tasks helped and harmed most; the CSV has all."
    )


def _gains(tables: Tables, tasks: Sequence[str]) -> Table:
    ways = [s.strategy for s in tables.measured if s.strategy != "separate"]
    rows = [["Task", *ways]]
    marks = {"help": " ▲", "harm": " ▼", "noise": "", "none": ""}
    for task in tasks:
        gains = [tables.gain(way, task) for way in ways]
        cells = [numbers.both(gain, signed=True) + marks[verdict(gain)] for gain in gains]
        rows.append([task, *cells])
    return rows


def _figures(tables: Tables, tasks: Sequence[str]) -> Table:
    ways = [s.strategy for s in tables.measured]
    rows = [["Task", "Metric", *ways]]
    for task in tasks:
        figures = [numbers.both(tables.figure(way, task)) for way in ways]
        rows.append([task, metric(tables.ranking(task)), *figures])
    return rows


# -- Markdown --------------------------------------------------------------------------------------


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaping.paragraph(line)}" for line in lines)


def _md_table(table: Table, right: int) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = [":---" if place < right else "---:" for place in range(len(table[0]))]
    rows = [line([escaping.markdown(cell) for cell in row]) for row in table]
    return "\n".join([rows[0], line(rule), *rows[1:]])


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


# -- LaTeX -----------------------------------------------------------------------------------------


def _tex_rows(table: Table) -> tuple[str, list[str]]:
    head, *rows = [" & ".join(escaping.latex(cell) for cell in row) + r" \\" for row in table]
    return head, rows


def _tex_table(table: Table, caption: str, label: str, right: int) -> str:
    head, rows = _tex_rows(table)
    columns = "l" * right + "r" * (len(table[0]) - right)
    return "\n".join([
        r"\begin{table}", r"  \centering", rf"  \caption{{{caption}}}", rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule", f"    {head}", r"    \midrule",
        *(f"    {row}" for row in rows), r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ])  # fmt: skip


def _tex_long(table: Table, caption: str, label: str, right: int) -> str:
    """A table that may run over pages; short ones stay in one piece."""
    if len(table) <= SHOWN:
        return _tex_table(table, caption, label, right)
    head, rows = _tex_rows(table)
    columns = "l" * right + "r" * (len(table[0]) - right)
    return "\n".join([
        rf"\begin{{longtable}}{{{columns}}}", rf"  \caption{{{caption}}}\label{{tab:{label}}} \\",
        r"  \toprule", f"  {head}", r"  \midrule", r"  \endhead", r"  \bottomrule",
        r"  \endlastfoot", *(f"  {row}" for row in rows), r"\end{longtable}",
    ])  # fmt: skip


# -- CSV -------------------------------------------------------------------------------------------


def _ends(figure: Interval) -> Iterator[float | str]:
    for end in (numbers.finite(figure).value, figure.low, figure.high):
        yield "" if end is None else float(end)
