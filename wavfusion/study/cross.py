"""Models x corpora: how well each RUN does on the test part of its own corpus, and on others."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wavfusion import manifest
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError, counted, nearest
from wavfusion.evaluation import evaluate
from wavfusion.evaluation.check import check_against
from wavfusion.files import shortest_names, write_atomic, write_json
from wavfusion.pages.fill import write_page
from wavfusion.runs.folder import Run, read_run
from wavfusion.runs.origin import SPLIT, training_data_of
from wavfusion.runs.results import chance_of, describe_absent, near_chance

log = logging.getLogger(__name__)

SAME = ("speaker", "recording", "bytes")  # findings of `check` whose rows the training has met
FIGURES = ("uar", "weighted_f1", "accuracy")
COLUMNS = (
    *("model", "corpus", "rows", "figure", "value", "low", "high", "low_new_speakers", "high_new_speakers"),
    *("chance", "n", "unit", "clusters", "emotions", "unknown", "unlabelled", "in_training", "failed"),
)


@dataclass(frozen=True)
class MeasuredCorpus:
    """A corpus that models are measured on."""

    name: str
    manifest: Path
    store: Path
    emotions: frozenset[str]  # of its rows


def read_corpora(manifests: Sequence[Path], stores: Sequence[Path]) -> list[MeasuredCorpus]:
    """Read which emotions some corpora have; their stores come in the same order, or one holds the features of all.

    Raises:
        ConfigError: neither one store nor one for each manifest.
        CorpusError: a manifest is missing or damaged.
    """
    if len(stores) not in (1, len(manifests)):
        wanted = f"one store, or one for each of {counted(len(manifests), 'manifest')}"
        raise ConfigError(f"--stores: expected {wanted}, found {len(stores)}")
    stores = stores if len(stores) > 1 else list(stores) * len(manifests)
    names = shortest_names([path.absolute().parent for path in manifests], "--manifests: expected each corpus once")
    return [
        MeasuredCorpus(name, path, store, frozenset(row.emotion for row in manifest.read(path) if row.emotion))
        for name, path, store in zip(names, manifests, stores, strict=True)
    ]


def cross_evaluate(
    folders: Sequence[Path],
    corpora: Sequence[MeasuredCorpus],
    renamed: Mapping[str, str],
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Score every RUN on every corpus; a pair that fails says why, and does not stop the others.

    A RUN's own corpus is scored on its test part. Another is scored whole, but for the rows that the training has met:
    of its speakers where the corpora are the same, and recordings. `renamed` is that of an `EmotionMap`; here it holds
    for several models, of which each may lack some of the emotions.

    Returns:
        The content of cross.json.

    Raises:
        ConfigError: a RUN that cannot be read, or a rename to an emotion that no model knows.
    """
    names = shortest_names(folders, "expected each RUN once")
    known = {folder: read_run(folder).classes for folder in folders}  # read again below: they need not all fit memory
    _require_known(renamed, list(known.values()), corpora)
    pairs = []
    with closing(tqdm(total=len(names) * len(corpora), desc="cross", unit="pair", disable=not progress)) as bar:
        for name, folder in zip(names, folders, strict=True):
            trained = read_run(folder)
            for corpus in corpora:
                pairs.append({"model": name, "corpus": corpus.name, **_score_pair(trained, corpus, renamed, device)})
                bar.update()
    models = [
        {"name": name, "run": str(folder), "classes": classes, "trained_on": str(training_data_of(folder))}
        for name, (folder, classes) in zip(names, known.items(), strict=True)
    ]
    tested = [{**asdict(each), "emotions": sorted(each.emotions)} for each in corpora]
    places = [{**each, "manifest": str(each["manifest"]), "store": str(each["store"])} for each in tested]
    return {"map": dict(renamed), "models": models, "corpora": places, "pairs": pairs}


def _require_known(
    renamed: Mapping[str, str], classes: Sequence[Sequence[str]], corpora: Sequence[MeasuredCorpus]
) -> None:
    """Refuse renames to what no model knows, and warn of those of what neither model nor corpus has."""
    targets = list(dict.fromkeys(renamed.get(name, name) for known in classes for name in known))
    for emotion in renamed.values():
        if emotion not in targets:
            raise ConfigError(f"--map: {emotion!r} is no class of any model; {nearest(emotion, targets)}")
    for emotion in renamed.keys() - {name for known in classes for name in known}:
        if not any(emotion in each.emotions for each in corpora):
            log.warning("--map: neither model nor corpus has the emotion %r", emotion)


def _score_pair(trained: Run, corpus: MeasuredCorpus, renamed: Mapping[str, str], device: str) -> dict[str, Any]:
    """Figures of one RUN on one corpus, or why there are none."""
    here = set(trained.classes) | corpus.emotions
    targets = {renamed.get(name, name) for name in trained.classes}
    chosen = {old: new for old, new in renamed.items() if old in here and new in targets}
    try:
        with CollectedWarnings() as collected:
            part, store, media = evaluate.open_part(trained, corpus.manifest, corpus.store, None, chosen)
            part, met, notes = (part, {}, []) if part.in_domain else _without_training(trained, part, media.root)
            sets = [trained.model.config.modalities]
            found, _ = evaluate.evaluate(trained, part.utterances, store, media, sets, device, part.mapping)
    except (ConfigError, CorpusError, MediaError, OSError) as error:
        return {"failed": str(error)}
    figures = {name: {"value": found[name], **found["interval"][name]} for name in FIGURES}
    absent, doubt = found.get("not_in_corpus", {}), near_chance(found)
    about = [f"CONTAMINATED: the {name} encoder was trained on this corpus" for name in found["contaminated"]]
    about += [doubt] if doubt else []
    about += [describe_absent(absent)] if absent else []
    about += [f"{counted(each, 'row')} left out: the model does not know {name}" for name, each in part.unknown.items()]
    about += [f"{counted(each, 'row')} left out: the training has met the {kind}" for kind, each in met.items()]
    left_out = {"unknown": part.unknown, "unlabelled": part.unlabelled, "in_training": met}
    return {
        "failed": None,
        "rows": "its test part" if part.in_domain else "all",
        "n": found["n"],
        "classes": found["classes"],
        "modalities": found["modalities"],
        "figures": figures,
        "chance": chance_of(found),
        "per_class": found["per_class"],
        "confusion": found["confusion"],
        "clusters": found["clusters"],
        "left_out": left_out,
        "not_in_corpus": absent,
        "notes": [*about, *notes, *collected.messages],
    }


def _without_training(trained: Run, part: evaluate.Part, root: Path) -> tuple[evaluate.Part, dict[str, int], list[str]]:
    """Leave out the rows of another corpus that a training has met; also what they are, and what could not be told."""
    if not (trained.folder / SPLIT).exists():
        return part, {}, []  # `open_part` warns of it
    checked = check_against(trained, part.utterances, root)
    kinds: dict[str, str] = {}
    for finding in checked.problems:
        kinds |= {key: finding.kind for key in finding.ids if finding.kind in SAME and key not in kinds}
    kept = [row for row in part.utterances if row.id not in kinds]
    if not kept:
        raise CorpusError(f"expected rows that {trained.folder} was not trained on, found none of {len(kinds)}")
    met = Counter(kinds[row.id] for row in part.utterances if row.id in kinds)
    others = [finding.text for finding in checked.problems if finding.kind == "text"]
    return replace(part, utterances=kept), dict(met), [*others, *checked.notes]


def write_cross_folder(out: Path, content: Mapping[str, Any]) -> None:
    """Write cross.json, cross.csv and cross.html."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "cross.json", dict(content))
    write_atomic(out / "cross.csv", cross_to_csv(content).encode("utf-8", "surrogatepass"))
    pairs = {(pair["model"], pair["corpus"]): pair for pair in content["pairs"]}
    write_page(out / "cross.html", "cross.html", **{**content, "pairs": pairs})


def cross_to_csv(content: Mapping[str, Any]) -> str:
    """One line a pair and figure, in percent; one line for a pair that failed."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for pair in content["pairs"]:
        about = {name: pair[name] for name in ("model", "corpus", "failed")}
        if pair["failed"]:
            writer.writerow(about)
            continue
        about |= {"rows": pair["rows"], "n": pair["n"], "emotions": " ".join(pair["classes"])}
        about |= {"unit": pair["clusters"]["unit"], "clusters": pair["clusters"]["n"]}
        left_out = pair["left_out"]
        about |= {name: sum(left_out[name].values()) for name in ("unknown", "in_training")}
        for name, figure in pair["figures"].items():
            here, new = figure["this_test_set"], figure["new_speakers"] or (None, None)
            numbers = {"value": figure["value"], "low": here[0], "high": here[1]}
            numbers |= {"low_new_speakers": new[0], "high_new_speakers": new[1]}
            numbers |= {"chance": pair["chance"] if name == "uar" else None}
            percent = {key: None if value is None else round(100 * value, 2) for key, value in numbers.items()}
            writer.writerow({**about, "figure": name, **percent, "unlabelled": left_out["unlabelled"]})
    return file.getvalue()


def cross_to_text(content: Mapping[str, Any]) -> str:
    """Lay the matrix out for a terminal, one line a pair, and what is to be known of each below."""
    head = ("model", "corpus", "UAR", "[95 %]", "chance", "weighted F1", "[95 %]", "n", "emotions", "rows")
    rows: list[tuple[str, ...]] = [head]
    for pair in content["pairs"]:
        if pair["failed"]:
            rows.append((pair["model"], pair["corpus"], "-", "", "", "-", "", "", "", "failed"))
            continue
        uar, f1 = (_percent(pair["figures"][name]) for name in ("uar", "weighted_f1"))
        counts = (str(pair["n"]), str(len(pair["classes"])), pair["rows"])
        rows.append((pair["model"], pair["corpus"], *uar, f"{100 * pair['chance']:.1f}", *f1, *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    for pair in content["pairs"]:
        about = [f"failed: {pair['failed']}"] if pair["failed"] else pair["notes"]
        lines += [f"{pair['model']} on {pair['corpus']}: {each}" for each in about]
    return "\n".join(lines)


def _percent(figure: Mapping[str, Any]) -> tuple[str, str]:
    low, high = figure["this_test_set"]
    return f"{100 * figure['value']:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]"
