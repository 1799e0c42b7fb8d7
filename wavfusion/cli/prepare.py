"""`prepare`, `check` and `lookalike`: from a corpus's raw folders to a manifest that can be trusted."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wavfusion.cli import options as opt
from wavfusion.cli.output import DONE, PARTLY, show
from wavfusion.errors import ConfigError, counted
from wavfusion.files import require_free
from wavfusion.manifest import GENERATED

if TYPE_CHECKING:
    from wavfusion.corpora.scan import MediaFacts
    from wavfusion.manifest import Utterance

Columns = Annotated[
    Mapping[str, str] | None,
    opt.option("columns with other names", "audio=wav_path,...", opt.pairs("audio=wav_path,...", "field")),
]


def prepare(
    corpus: Annotated[str, opt.argument("iemocap, meld, ravdess, cremad or table", "CORPUS")],
    source: Annotated[Path, opt.argument("its folder; for `table` also the table itself", "ROOT", opt.path)],
    out: Annotated[Path, opt.option("where manifest.jsonl is written", "DIR", opt.path)],
    labels: Annotated[str | None, opt.option("for IEMOCAP six, six-dialoguernn, four or raw", "SET")] = None,
    down_mix: Annotated[str | None, opt.option("mix, left, right or centre (default mix)", "POLICY")] = None,
    columns: Columns = None,
    root: Annotated[Path | None, opt.option("what a table's paths start from", "DIR", opt.folder)] = None,
    no_scan: Annotated[bool, opt.flag("--no-scan", "open no media; `extract` finds what cannot be decoded")] = False,
    force: opt.Force = False,
    json: opt.Json = False,
) -> None:
    """Turn a corpus's raw folders into a manifest."""
    from wavfusion import corpora

    require_free([out / "manifest.jsonl"], force)
    scan = None if no_scan else out / "media.jsonl"
    chosen: dict[str, Any] = opt.supplied(labels=labels, down_mix=down_mix, columns=columns, media_root=root)
    prepared = corpora.prepare(corpus, source, scan=scan, progress=sys.stderr.isatty(), **chosen)
    counts, without = corpora.write_prepared(prepared, out)
    rows, excluded, stripped = map(len, (prepared.utterances, prepared.excluded, prepared.stripped))
    lines = [f"{counted(rows, 'row')}, {excluded:,} excluded: {out}"]
    for modality, number in without.items():
        example = corpora.lost_modality(modality, prepared.stripped)
        why = f", such as {example.id}: {example.reason}" if example else ""
        lines += [f"without {modality}: {counted(number, 'row')}{why}"] if number else []
    for split, emotions in counts.items():
        lines.append(f"{split:>6}  " + "  ".join(f"{emotion} {count}" for emotion, count in sorted(emotions.items())))
    lines += [f"differs: {line}" for line in prepared.differences]
    result = {"rows": rows, "excluded": excluded, "stripped": stripped, "without": without, "counts": counts}
    show({**result, "differences": prepared.differences}, "\n".join(lines), json)


def check(
    manifest: Annotated[Path, opt.argument("what `prepare` wrote", "MANIFEST", opt.path)],
    protocol: opt.ProtocolName = None,
    against: Annotated[Path | None, opt.option("compare with what a RUN was trained on", "RUN", opt.path)] = None,
    root: opt.MovedRoot = None,
    where: opt.Where = None,
    json: opt.Json = False,
) -> int:
    """Check that a corpus is valid and free of leakage."""
    from wavfusion.evaluation import check
    from wavfusion.manifest import read, read_corpus

    rows, corpus = read(manifest, where), read_corpus(manifest)
    place = root or Path(corpus.root)
    if against:
        from wavfusion.runs.folder import read_run

        if protocol:
            raise ConfigError("check: expected --protocol or --against (a RUN has its own division), found both")
        found = check.check_against(read_run(against), rows, place)
    else:
        from wavfusion.corpora.protocol import divide_parts

        unsplit = protocol is None and not any(row.split for row in rows) and corpus.corpus == "table"
        folds = [] if unsplit or not corpus.classes else divide_parts(protocol, rows, corpus.classes, where=where)
        found = check.check(rows, corpus, media_facts(manifest, place, rows), place, folds)
    problems = [each._asdict() for each in found.problems]
    text = "\n".join([*check.to_lines(found), f"{counted(len(rows), 'row')}, {counted(len(problems), 'problem')}"])
    show({"problems": problems, "notes": found.notes}, text, json)
    return PARTLY if problems else DONE


def media_facts(manifest: Path, root: Path, rows: Sequence["Utterance"]) -> Mapping[str, "MediaFacts"]:
    """Probe the files that rows name, or take what the scan of `prepare` wrote beside the manifest."""
    from wavfusion.corpora.scan import Scan

    paths = (span.path for row in rows for span in (row.audio, row.video) if span)
    return Scan(root, manifest.with_name("media.jsonl"), sys.stderr.isatty()).probe(paths)


Clips = Annotated[int | None, opt.option("of all parts together (default 1100: 800,100,200)", "N", opt.count(6))]
Parts = Annotated[
    Sequence[int] | None,
    opt.option("clips of each part, instead of --clips", "TRAIN,VALID,TEST", opt.numbers("800,100,200", 3)),
]
Null = Annotated[bool, opt.flag("--null", "the matched null: audio, text and video carry no information")]
Micro = Annotated[bool, opt.flag("--micro", "expressions show in two frames only, at a random time")]
CONTEXTS = {"alone": "the turn alone", "past": "earlier turns", "whole": "whole dialogue"}
Dialogues = Annotated[bool, opt.flag("--dialogues", "plant emotions that stay with a speaker or jump to the next")]
Faults = Annotated[bool, opt.flag("--faults", "with the corpus's known defects (default 48 clips of 10 speakers)")]
Priors = Annotated[str | None, opt.choice("of classes: the corpus's or their roots (default true)", "true", "sqrt")]


def lookalike(
    corpus: Annotated[str, opt.argument("whose files and classes", "iemocap|meld", opt.one_of("iemocap", "meld"))],
    out: Annotated[Path, opt.option("an empty or absent folder", "DIR", opt.path)],
    clips: Clips = None,
    parts: Parts = None,
    speakers: Annotated[int | None, opt.option("of all parts together (default 30)", "N", opt.count(3))] = None,
    null: Null = False,
    micro: Micro = False,
    faults: Faults = False,
    dialogues: Dialogues = False,
    priors: Priors = None,
    seed: Annotated[int | None, opt.option("of every draw (default 0)", "N", opt.seed)] = None,
    force: Annotated[bool, opt.flag("--force", "remove an earlier tree first")] = False,
    json: opt.Json = False,
) -> None:
    """Generate a corpus whose Bayes-optimal accuracy is known."""
    from wavfusion.lookalike import make_lookalike

    if clips and parts:
        raise ConfigError("lookalike: --parts: not allowed with argument --clips")
    require_free([out / GENERATED], force)
    chosen: dict[str, Any] = opt.supplied(clips=clips, speakers=speakers, priors=priors, parts=parts, seed=seed)
    kinds: dict[str, Any] = {"null": null, "micro": micro, "faults": faults, "dialogues": dialogues}
    world = make_lookalike(corpus, out, force=force, **kinds, **chosen)  # type: ignore[arg-type]
    people = {part: counted(number, "speaker") for part, number in world["speakers"].items()}
    sizes = [f"{part} {counted(number, 'clip')} of {people[part]}" for part, number in world["clips"].items()]
    best = {"majority": world["majority"], **world["bayes"]["speaker_independent"]}
    lines = [f"{out}: {', '.join(sizes)}", "Bayes-optimal accuracy on new speakers:"]
    rows = [f"{name:>16}  {share:.3f}" for name, share in best.items()]
    if dialogues:
        found = world["conversation"]["all"]
        rows += ["on its clips, of all modalities:"]
        rows += [f"{name:>16}  {found[key]:.3f}" for key, name in CONTEXTS.items()]
    show(world, "\n".join(lines + rows), json)
