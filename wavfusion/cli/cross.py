"""`cross`: how well RUNs do on several corpora."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from wavfusion.cli import options as opt
from wavfusion.cli.evaluate import Emotions
from wavfusion.cli.output import DONE, PARTLY, show
from wavfusion.files import require_free

Runs = Annotated[list[Path], opt.argument("RUN folders", "RUN", opt.path)]
Manifests = Annotated[
    list[Path], typer.Option(help="what `prepare` wrote of each corpus", metavar="M...", parser=opt.path)
]
Stores = Annotated[
    list[Path],
    typer.Option(help="their features in the same order, or one store of all", metavar="S...", parser=opt.path),
]


def cross(
    runs: Runs,
    manifests: Manifests,
    stores: Stores,
    out: Annotated[Path, opt.option("cross.html, cross.csv and cross.json", "DIR", opt.path)],
    map: Emotions = None,
    force: opt.Force = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> int:
    """Score several RUNs on several corpora: a matrix."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.study.cross import cross_evaluate, cross_to_text, read_corpora, write_cross_folder

    require_free([out / f"cross.{ending}" for ending in ("json", "csv", "html")], force)
    corpora, device = read_corpora(manifests, stores), pick_device(device)
    content = cross_evaluate(runs, corpora, map or {}, device, sys.stderr.isatty())
    write_cross_folder(out, content)
    show(content, f"{cross_to_text(content)}\npage: {out / 'cross.html'}", json)
    return PARTLY if any(pair["failed"] for pair in content["pairs"]) else DONE
