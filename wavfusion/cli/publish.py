"""`models`, `report`, `bundle`, `export` and `push`: which models are here, and what others get of one."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wavfusion.cli import options as opt
from wavfusion.cli.output import DONE, PARTLY, list_failures, print_text, printable, show, write_file
from wavfusion.cli.prepare import media_facts
from wavfusion.errors import ConfigError
from wavfusion.files import require_free

if TYPE_CHECKING:
    from wavfusion.prediction.models import KnownModel

log = logging.getLogger(__name__)

Page = Annotated[
    Path | None,
    opt.option(
        "the page (default report.html in the RUN or by the manifest, compared.html in the first of several RUNs)",
        "FILE.html",
        opt.path,
    ),
]


def models(
    folder: Annotated[Path | None, opt.argument("list the RUNs in it, too", "FOLDER", opt.path)] = None,
    json: opt.Json = False,
) -> int:
    """List the models that are installed or lie in a folder, with their main figures."""
    from wavfusion.prediction.models import HOW_TO_GET, known_models

    bad = list[str]()
    found = known_models(folder, bad)
    lines = [line for each in found for line in _describe(each)]
    if not any(each.is_default for each in found):
        lines.append(f"no model answers without --model; {HOW_TO_GET}")
    show([asdict(each) for each in found], "\n".join(lines), json)
    return list_failures(bad, bool(found))


def _describe(model: "KnownModel") -> Iterator[str]:
    licence = f"; licence: {model.licence}" if model.licence else ""
    about = [
        f"{model.folder}{' (answers where no --model is given)' if model.is_default else ''}",
        f"{'+'.join(model.modalities)}: {', '.join(model.emotions)}",
        f"{model.size / 1e6:.1f} MB{licence}",
    ]
    yield printable(str(model.card))
    yield from (f"  {printable(each)}" for each in [*about, *model.card.warnings])


def report(
    places: Annotated[list[Path], opt.argument("RUN folders, or what `prepare` wrote", "RUN_OR_MANIFEST", opt.path)],
    out: Page = None,
    root: opt.MovedRoot = None,
    where: opt.Where = None,
    force: opt.Force = False,
) -> None:
    """Write a page about a RUN, several RUNs compared, or a corpus."""
    first = places[0]
    runs = [place for place in places if place.is_dir() and not (place / "manifest.jsonl").is_file()]
    if len(places) > 1 and len(runs) < len(places):
        other = next(place for place in places if place not in runs)
        raise ConfigError(f"report: expected one manifest or only RUN folders, found {str(other)!r} among others")
    title = "report.html" if len(places) == 1 else "compared.html"
    out = out or (first / title if runs else first.with_name(title))
    require_free([out], force)
    if runs:
        if where:
            raise ConfigError("report: --where chooses rows of a manifest, found a RUN folder")
        from wavfusion.report.runs import write_run_page

        write_run_page(runs, out, root)
    else:
        from wavfusion.manifest import read, read_corpus
        from wavfusion.report.corpus import write_corpus_page

        write_corpus_page(first, out, media_facts(first, root or Path(read_corpus(first).root), read(first)), where)
    print_text(str(out))


def bundle(
    trained: opt.RunFolder,
    out: Annotated[Path, opt.option("the bundle", "FILE.zip", opt.path)],
    with_truth: Annotated[bool, opt.flag("--with-truth", "include labels, where the licence permits")] = False,
    force: opt.Force = False,
    json: opt.Json = False,
) -> None:
    """Pack a RUN's results for others to recompute."""
    from wavfusion.runs.bundle import make_bundle

    require_free([out], force)
    content, truth = make_bundle(trained, with_truth)
    write_file(out, content)
    labels = "with the labels" if truth else "without the labels: `evaluate` takes them from --manifest"
    result = {"out": str(out), "bytes": len(content), "truth": truth}
    show(result, f"{out}: {len(content)} bytes, {labels}", json)


def export(
    trained: opt.RunFolder,
    out: Annotated[Path, opt.option("`predict --runtime onnx` uses RUN/model.onnx", "FILE.onnx", opt.path)],
    force: opt.Force = False,
    json: opt.Json = False,
) -> int:
    """Write the model as an ONNX file, compared with torch."""
    from wavfusion.prediction.export import TOLERANCE, export_run

    if out.suffix != ".onnx":
        raise ConfigError(f"--out: expected a name that ends in .onnx, found {str(out)!r}")
    require_free([out], force)
    content, difference = export_run(trained)
    if not difference <= TOLERANCE:
        log.error("%s: not written, since onnxruntime differs from torch by %.1e", out, difference)
        return PARTLY
    write_file(out, content)
    result = {"out": str(out), "bytes": len(content), "difference": difference}
    show(result, f"{out}: {len(content)} bytes, at most {difference:.1e} from torch's logits and text share", json)
    return DONE


def push(
    trained: opt.RunFolder,
    place: Annotated[str, opt.argument("name/model, or ./FOLDER to look at it first", "HUB_ID", opt.name)],
    public: Annotated[bool, opt.flag("--public", "let everybody read it (default: only you)")] = False,
    force: Annotated[bool, opt.flag("--force", "overwrite a model that is there")] = False,
    json: opt.Json = False,
) -> None:
    """Upload a RUN with its model card to a hub."""
    from wavfusion.runs import hub

    written = hub.push(trained, place, public, force)
    show({"place": written}, written, json)
