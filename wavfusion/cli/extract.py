"""`extract` and `encoders`: frozen features of a manifest into a store, and what can make them."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import DONE, LISTED, PARTLY, first_three, printable, show
from wavfusion.errors import ConfigError, CorpusError, counted
from wavfusion.files import require_writable

if TYPE_CHECKING:
    from wavfusion.encoders.bundle import Encoders
    from wavfusion.features.extract import Summary

log = logging.getLogger(__name__)

Layers = Annotated[
    Sequence[int] | None,
    opt.option(
        "audio layers, such as 8,9,10 (default: the one below the deep layers)", "9", opt.numbers("9 or 8,9,10")
    ),
]
TextLayers = Annotated[str | None, opt.choice("of the text encoder (default last)", "last", "all")]
View = Annotated[str | None, opt.choice("encode whole frames, or the speaker's face (default frame)", "frame", "face")]
Variants = Annotated[
    int | None, opt.option("augmented variants of each utterance's audio, for training (default 0)", "N", opt.count(0))
]
Augment = Annotated[
    Sequence[str] | None,
    opt.option("changes that variants are drawn from, such as noise,codec (default all)", "KIND,...", opt.kinds),
]
Workers = Annotated[int | None, opt.option("decoding threads, or processes (default: one a core)", "N", opt.count(1))]
Engine = Annotated[
    str | None,
    opt.choice(
        "where they work: in this process, on this machine, or on a cluster (extra [ray]; default threads)",
        *("threads", "processes", "ray"),
    ),
]


def extract(
    manifest: Annotated[Path, opt.argument("what `prepare` wrote", "MANIFEST", opt.path)],
    store: Annotated[Path, opt.option("the feature store, made if absent", "DIR", opt.path)],
    root: opt.MovedRoot = None,
    where: opt.Where = None,
    preset: Annotated[
        str | None,
        opt.option("the three encoders, see `encoders` (default base)", "base|tiny|whisper|light|FILE", opt.name),
    ] = None,
    start: Annotated[
        str | None,
        opt.option("encoders and layers of a model, for `train --from` and `evaluate`", "RUN", opt.name, "--from"),
    ] = None,
    layers: Layers = None,
    text_layers: TextLayers = None,
    view: View = None,
    variants: Variants = None,
    augment: Augment = None,
    workers: Workers = None,
    engine: Engine = None,
    plain: opt.Plain = False,
    device: opt.Device = "auto",
    seed: opt.Seed = None,
    json: opt.Json = False,
) -> int:
    """Store a corpus's frozen features; resumable."""
    from wavfusion.evaluation.inference import pick_device
    from wavfusion.features import extract
    from wavfusion.features.store import Store
    from wavfusion.manifest import MODALITIES, read, read_corpus

    utterances, corpus = read(manifest, where), read_corpus(manifest)
    _require_media(utterances, root or Path(corpus.root), store)
    require_writable(store)
    device = pick_device(device)
    needed = [each for each in MODALITIES if any(getattr(row, each) is not None for row in utterances)]
    if start is None:
        loaded, chosen = _load_preset(preset or "base", needed, view), dict[str, Any]()
    elif preset is None and view is None:
        loaded, chosen = _load_encoders_of(start, needed)
    else:
        raise ConfigError("--from: expected neither --preset nor --view, which are the model's own, found one of them")
    loaded = loaded.to(device)
    chosen |= opt.supplied(audio_layers=layers, text_layers=text_layers, workers=workers, engine=engine)
    chosen |= opt.supplied(variants=variants, augment=augment)
    chosen |= {"root": root, "fast": not plain, "progress": sys.stderr.isatty()}
    summary = extract.extract(utterances, corpus, Store(store, create=True), loaded, **chosen)
    _log_failures(summary)
    result, text = _describe(summary, loaded, chosen, layers is None)
    show(result, text, json)
    return PARTLY if summary.bad else DONE


def _describe(
    summary: "Summary", loaded: "Encoders", chosen: Mapping[str, Any], default_layers: bool
) -> tuple[dict[str, Any], str]:
    """Say what was stored, as a JSON object and as a line; layers are named where the user has not named them."""
    from wavfusion.features.augment import KINDS
    from wavfusion.features.extract import shipped_layers

    result: dict[str, Any] = {"features": summary.wanted, "made": summary.made}
    result |= {"absent": summary.absent, "bad": summary.bad}
    made = ", ".join(f"{number} {modality}" for modality, number in summary.made.items())
    absent = counted(summary.absent, "absent track")
    text = f"{counted(summary.wanted, 'feature')}; made now: {made}; {absent}, {len(summary.bad)} bad"
    if default_layers and loaded.audio is not None:
        stored = list(chosen.get("audio_layers", shipped_layers(loaded)))
        result["audio_layers"] = stored
        text += f"; audio layer {', '.join(map(str, stored))} (of {loaded.audio.num_layers}; others by --layers)"
    if variants := chosen.get("variants"):
        result |= {"variants": variants, "augment": [*(chosen.get("augment") or KINDS)]}
        text += f"; {counted(variants, 'variant')} of each audio: {', '.join(result['augment'])}"
    if "text_layers" not in chosen and loaded.text is not None:
        text += "; text: the last layer (`--config recommended` weights all, with --text-layers all)"
    if loaded.view == "face":
        result["faces"] = _faces(summary.faces)
        text += f"; a face in {result['faces']['share']:.1%} of the frames"
    return result, text


def _log_failures(summary: "Summary") -> None:
    for utterance, modality, reason in summary.bad[:LISTED]:
        log.error("%s", printable(f"{utterance}: no {modality} features: {reason}"))
    if len(summary.bad) > LISTED:
        log.error("... and %d more; failures.jsonl in the store has all", len(summary.bad) - LISTED)
    if damaged := summary.bad_packets:
        log.warning("%d damaged packets skipped in %s", sum(damaged.values()), first_three(list(damaged)))


def _faces(found: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """Sum up in how much of the video the speaker's face was found; warn where the whole frame is encoded instead."""
    from wavfusion.media.faces import LEAST

    whole = [each for each, _, share in found if share < LEAST]
    if whole:
        windows, names = f"{len(whole)} of {len(found)} windows", printable(first_three(list(dict.fromkeys(whole))))
        log.warning("%s have no face, so their whole frames are encoded: %s", windows, names)
    seconds = sum(length for _, length, _ in found)
    share = sum(length * part for _, length, part in found) / seconds if seconds else 0.0
    return {"share": round(share, 4), "windows": len(found), "whole": whole}


def _load_preset(preset: str, modalities: Sequence[str], view: str | None) -> "Encoders":
    from wavfusion.encoders.bundle import load_encoders
    from wavfusion.encoders.presets import read_preset

    return load_encoders(Path(preset).stem, read_preset(preset), modalities, **opt.supplied(view=view))


def _load_encoders_of(name: str, modalities: Sequence[str]) -> "tuple[Encoders, dict[str, Any]]":
    """Load a model's own encoders, and tell which of their layers it takes."""
    from wavfusion.prediction.models import find_run

    trained = find_run(name)
    config = trained.model.config
    text = "all" if config.num_text_layers > 1 else "last"
    loaded = trained.encoders([each for each in config.modalities if each in modalities])
    return loaded, {"audio_layers": config.input_layers, "text_layers": text}


def _require_media(utterances: Sequence[Any], root: Path, store: Path) -> None:
    """Refuse a root that holds none of the corpus's files; else every row would be listed as bad."""
    paths = list(dict.fromkeys(span.path for row in utterances for span in (row.audio, row.video) if span))
    if not root.is_dir() and paths and not (store / "media.jsonl").exists():
        raise CorpusError(f"--root: expected the folder of the corpus, found none at {str(root)!r}")
    if root.is_dir() and paths and not any((root / each).exists() for each in paths):
        found = f"none of its {len(paths)} files ({first_three(paths)})"
        raise CorpusError(f"--root: expected the folder of the corpus, found {found} below {str(root)!r}")


def encoders(json: opt.Json = False) -> None:
    """List the families of encoders that load, and the presets."""
    from wavfusion.encoders.families import FAMILIES
    from wavfusion.encoders.presets import PRESETS

    rows = [("", "model_type", "models", "example", "verified with")]
    rows += [(each.modality, each.type, each.models, each.example, each.verified) for each in FAMILIES]
    names = [("preset", "audio", "text", "video")]
    names += [(name, each.audio, each.text, each.video) for name, each in PRESETS.items()]
    lines = [*_columns(rows), "", *_columns(names)]
    lines += ["", "`verified with`: weights whose features were compared with Hugging Face's own hidden states (1e-5)"]
    lines += ["Use: `audio: ID or FOLDER` in a file, and extract --preset FILE; see docs/howto/add_encoder.md"]
    families, presets = list(map(asdict, FAMILIES)), {name: asdict(each) for name, each in PRESETS.items()}
    show({"families": families, "presets": presets}, "\n".join(lines), json)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
