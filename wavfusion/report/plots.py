"""Plots of a page as SVG by matplotlib, in the page's colours and font, so that they follow light and dark mode."""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import StringIO
from itertools import cycle
from typing import Any

import numpy as np
from markupsafe import Markup, escape

INK, SOFT, LINE = "#010101", "#020202", "#030303"  # stand-ins that no plot has otherwise; see COLOURS
SERIES = ("#040404", "#050505", "#060606", "#070707")
COLOURS = dict(zip((INK, SOFT, LINE, *SERIES), ("ink", "soft", "line", "fill", "mark", "third", "fourth"), strict=True))
SHAPES = ("o", "s", "D", "^")  # with the dashes they tell series apart where colours do not
DASHES = ("-", "--", ":", "-.")
WIDTH = 5.0  # inches of 72 units, which a phone shows at nearly full size
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # an emotion may be called $
    "font.size": 11,
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), LINE),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}

Point = tuple[float, float, float]  # value, and the ends of its interval


def lines(
    title: str,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    labels: tuple[str, str],
    mark: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Markup:
    """Draw y over x, a line a series, with a vertical line at `mark`; labels are those of x and y, limits of y."""
    with _drawing(title) as (axes, drawn):
        for (name, (x, y)), colour, dash, shape in zip(
            series.items(), *map(cycle, (SERIES, DASHES, SHAPES)), strict=False
        ):
            axes.plot(x, y, dash, color=colour, label=name, marker=shape if len(x) < 40 else None, markersize=3)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.set(xlabel=labels[0], ylabel=labels[1], ylim=limits)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes, list(series))
    return drawn[0]


def dots(
    title: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[Point | float | None]],
    label: str,
    limits: tuple[float, float] | None = None,
    mark: float | None = None,
) -> Markup:
    """Draw values, with their intervals where they have one, a row of dots for each name; None leaves a place empty."""
    step = 0.7 / len(series)
    with _drawing(title, 0.8 + max(0.34, 0.17 * len(series)) * len(rows) + 0.2 * len(series)) as (axes, drawn):
        for i, (name, points) in enumerate(series.items()):
            present = [(row, point) for row, point in enumerate(points) if point is not None]
            places = [row + (i - (len(series) - 1) / 2) * step for row, _ in present]
            values, low, high = np.array([np.broadcast_to(point, 3) for _, point in present]).reshape(-1, 3).T
            style: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "fmt": SHAPES[i % len(SHAPES)], "markersize": 5}
            axes.errorbar(values, places, xerr=np.array([values - low, high - values]), label=name, **style)
        axes.set(xlabel=label, yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5), xlim=limits)
        axes.grid(visible=False, axis="y")
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1)
        _legend(axes, list(series))
    return drawn[0]


def reliability(title: str, bins: Sequence[Mapping[str, float]]) -> Markup:
    """Draw the accuracy at each confidence; the larger the dot, the more predictions."""
    with _drawing(title, 3.6) as (axes, drawn):
        axes.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1)
        confidence, right, count = (
            np.array([each[name] for each in bins]) for name in ("confidence", "right", "count")
        )
        axes.vlines(confidence, confidence, right, color=SERIES[1], linewidth=1)
        axes.scatter(confidence, right, 20 + 300 * count / count.sum(), color=SERIES[0], alpha=0.8)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    return drawn[0]


def _legend(axes: Any, names: Sequence[str]) -> None:
    if len(names) > 1:
        width = max(map(len, names)) + 6  # of a name with its sign, in letters of which 50 go into a row
        columns = max(1, min(len(names), 50 // width))
        axes.figure.legend(loc="outside upper left", ncols=columns, fontsize=10)


@contextmanager
def _drawing(title: str, height: float = 3.0) -> Iterator[tuple[Any, list[Markup]]]:
    """Open axes; when they are drawn, the SVG is in the list."""
    matplotlib, drawn = _matplotlib(), list[Markup]()
    with (
        matplotlib.rc_context({**STYLE, "svg.hashsalt": title}),  # names within a page must differ
        warnings.catch_warnings(action="ignore", category=UserWarning),  # its font lacks a letter that the page's has
    ):
        figure = matplotlib.figure.Figure((WIDTH, height), layout="constrained")
        yield figure.add_subplot(), drawn
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn.append(_inline(file.getvalue(), title))


@cache
def _matplotlib() -> Any:
    """Import matplotlib without leaving its folders in the home, where it keeps a list of fonts for the next time."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where making the list takes long
    own = os.environ.get("MPLCONFIGDIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = own or folder
        import matplotlib.figure
        from matplotlib.backends import backend_svg  # noqa: F401  that the list is made now
    if own is None:
        del os.environ["MPLCONFIGDIR"]
    return matplotlib


def _inline(svg: str, title: str) -> Markup:
    """Keep of an SVG file what a page needs: one named image, in the page's colours."""
    left_out = r'<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->|(?<=<g) id="[^"]*"|font-family: [^;]*; '
    body = re.sub(left_out, "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"#(0[1-7])\1\1\b", lambda found: f"var(--{COLOURS[found[0]]})", body)
    size = re.search(r'viewBox="[^"]*"', body)
    assert size is not None
    named = f'<svg class="plot" {size[0]} role="img" aria-label="{escape(title)}">'
    return Markup(re.sub(r"<svg [^>]*>", lambda _: named, body, count=1))
