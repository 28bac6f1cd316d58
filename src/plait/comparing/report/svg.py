"""Small matplotlib panels as inline SVG that takes its colours and fonts from the page.

Panels are drawn in marker colours, one for each name in ``TOKENS``; the drawing is then rewritten:
colours become classes (``fill-ink``, ``line-c1``), styles become attributes, so that the page needs
no inline style, and ids are made unique on the page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 340, 224
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 24, 38
FONT = 11.0
LETTER = 0.56 * FONT  # the mean width of a letter, for labels that must not overlap

_NAMES = ("ink", "muted", "grid", "paper", "help", "harm", "c1", "c2", "c3", "c4", "c5", "c6")
TOKENS = {name: f"#0a00{place + 1:02x}" for place, name in enumerate(_NAMES)}
_CLASSES = {colour: name for name, colour in TOKENS.items()}
SERIES = tuple(TOKENS[f"c{i}"] for i in range(1, 7))
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (3, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "plait", "text.parse_math": False,
    "font.family": "sans-serif", "font.size": FONT, "axes.unicode_minus": True,
    "text.color": TOKENS["ink"], "axes.labelcolor": TOKENS["muted"],
    "axes.edgecolor": TOKENS["muted"], "xtick.color": TOKENS["muted"],
    "ytick.color": TOKENS["muted"], "xtick.labelcolor": TOKENS["muted"],
    "ytick.labelcolor": TOKENS["muted"], "xtick.labelsize": FONT, "ytick.labelsize": FONT,
    "axes.labelsize": FONT, "axes.titlesize": FONT, "axes.titlecolor": TOKENS["muted"],
    "axes.titlelocation": "left", "axes.titlepad": 9.0, "axes.labelpad": 5.0,
    "xtick.major.size": 0.0, "ytick.major.size": 0.0, "xtick.minor.size": 0.0,
    "xtick.major.pad": 5.0, "ytick.major.pad": 5.0, "ytick.minor.size": 0.0,
    "grid.color": TOKENS["grid"], "grid.linewidth": 1.0, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.spines.bottom": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "axes.xmargin": 0.02, "axes.ymargin": 0.08, "lines.linewidth": 1.8, "path.simplify": True,
    "axes.formatter.useoffset": False,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing with its title, and a note on what it leaves out."""

    title: str
    svg: Markup
    note: str = ""


def panel(title: str, words: str, draw: Callable[[Axes], None], *, right: float = RIGHT) -> Panel:
    """Draw one panel.

    ``words`` say what it shows to those who cannot see it; ``right`` is the room for labels beside
    the axes, in pixels.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names in any script: the reader's fonts draw them, not matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        FigureCanvasSVG(figure)
        box = (LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - right) / WIDTH,
               (HEIGHT - TOP - BOTTOM) / HEIGHT)  # fmt: skip
        draw(figure.add_axes(box))
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Panel(title, _rewritten(text.getvalue(), words))


def shorten(name: str, letters: int = 14) -> str:
    """A name that fits beside a line."""
    return name if len(name) <= letters else name[: letters - 1] + "…"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as can be so that neighbours keep ``gap`` between them."""
    from scipy.optimize import isotonic_regression

    if not places:
        return []
    order = sorted(range(len(places)), key=lambda i: places[i])
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    # Less its share of the gaps, a feasible place only has to be monotone.
    free = isotonic_regression([places[i] - gap * rank for rank, i in enumerate(order)]).x
    free = free.clip(low, max(low, high - gap * (len(places) - 1)))
    moved = list(places)
    for rank, i in enumerate(order):
        moved[i] = float(free[rank]) + gap * rank
    return moved


_count = iter(range(1 << 62))


def _rewritten(source: str, words: str) -> Markup:
    root = ET.fromstring(source)  # noqa: S314 — matplotlib wrote it, names escaped
    parents = {child: parent for parent in root.iter() for child in parent}
    used = set(re.findall(r"#([A-Za-z0-9]+)", " ".join(_references(root))))
    prefix = f"p{next(_count)}"
    defined: list[Markup] = []
    shown: list[Markup] = []
    for node in root.iter():
        tag = node.tag.rpartition("}")[2]
        inside = parents[node].tag.rpartition("}")[2] if node in parents else ""
        if tag == "clipPath" and node.get("id") in used:
            defined.append(
                Markup('<clipPath id="{}-{}">{}</clipPath>').format(
                    prefix, node.get("id"), Markup("").join(_element(n, prefix) for n in node)
                )
            )
        elif tag in ("path", "use", "text") and not (tag == "path" and inside == "defs"):
            drawn = _element(node, prefix)
            clip = parents[node].get("clip-path") if inside == "g" else None
            if clip:  # on the element itself it would be moved by its x and y
                drawn = Markup('<g clip-path="{}">{}</g>').format(_own(clip, prefix), drawn)
            shown.append(drawn)
        elif tag == "path" and node.get("id") in used:
            defined.append(_element(node, prefix))
    return Markup(
        '<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {} {}"><defs>{}</defs>{}</svg>'
    ).format(words, WIDTH, HEIGHT, Markup("").join(defined), Markup("").join(s for s in shown if s))


def _references(root: ET.Element) -> Iterator[str]:
    for node in root.iter():
        for name, value in node.attrib.items():
            if name.endswith("href") or name == "clip-path":
                yield value


def _own(reference: str, prefix: str) -> str:
    return reference.replace("#", f"#{prefix}-")


def _element(node: ET.Element, prefix: str) -> Markup:
    """One element with its style as attributes; empty for a shape that would paint nothing."""
    tag = node.tag.rpartition("}")[2]
    kept: dict[str, str] = {}
    for name in ("x", "y", "width", "height", "d"):
        if node.get(name):
            kept[name] = _short(node.get(name, ""))
    if node.get("id") and tag == "path":
        kept["id"] = f"{prefix}-{node.get('id')}"
    for name, value in node.attrib.items():
        if name.endswith("href"):
            kept["href"] = _own(value, prefix)
    if node.get("clip-path"):
        kept["clip-path"] = _own(node.get("clip-path", ""), prefix)
    turn = node.get("transform", "")
    if turn and not turn.startswith("rotate(-0"):
        kept["transform"] = _short(turn)
    kept.update(_painted(node.get("style", "")))
    if tag == "path" and "id" not in kept and not {"class", "clip-path"} & kept.keys():
        return Markup("")
    body = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in kept.items())
    if tag == "text":
        return Markup("<text{}>{}</text>").format(body, escape(node.text or ""))
    return Markup("<{}{}/>").format(tag, body)


def _painted(style: str) -> dict[str, str]:
    """The declarations of a style as attributes; the page's own fonts and colours win."""
    found: dict[str, str] = {}
    classes = []
    for declaration in filter(None, style.split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("fill", "stroke") and value in _CLASSES:
            classes.append(("fill-" if name == "fill" else "line-") + _CLASSES[value])
        elif name != "font-family" and (name, value) != ("stroke-dashoffset", "0"):
            found[name] = _short(value.removesuffix("px"))
    return {"class": " ".join(classes), **found} if classes else found


def _short(numbers: str) -> str:
    """Coordinates to a tenth of a pixel, which is all that a screen shows."""
    short = re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), numbers)
    return re.sub(r"\s*\n\s*", "", re.sub(r" ?([A-Za-z]) ", r"\1", short)).strip()
