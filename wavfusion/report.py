"""One static HTML page about a RUN; no script, no network."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from wavfusion.store import write_whole


def write(run: Path, summary: dict[str, Any]) -> None:
    """Write `report.html` of a demo's RUN.

    Args:
        run: the RUN folder; its metrics.json gives figures and confusion.
        summary: what `demo.run` returns.
    """
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    pages = Environment(loader=PackageLoader("wavfusion", "pages"), autoescape=True, undefined=StrictUndefined)
    largest = [max(1, *row) for row in metrics["confusion"]]
    page = pages.get_template("demo.html").render(summary=summary, metrics=metrics, largest=largest)
    write_whole(run / "report.html", page.encode("utf-8", "surrogatepass"))
