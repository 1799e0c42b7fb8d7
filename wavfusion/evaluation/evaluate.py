"""Figures of a trained model on a part of a corpus: metrics.json and predictions.csv."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wavfusion import manifest
from wavfusion.corpora.protocol import row_digest
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.evaluation.explain import contributions, explain_parts, mean_contributions
from wavfusion.evaluation.inference import Samples, Utterances, classify_subsets, subsets
from wavfusion.evaluation.provenance import trained_on
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features
from wavfusion.features.store import Store
from wavfusion.files import read_json, require_file, write_atomic, write_json
from wavfusion.manifest import SPLITS, Utterance
from wavfusion.metrics import scores
from wavfusion.metrics.calibration import tempered
from wavfusion.runs.folder import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Utterances with a truth that a model knows, and how they were chosen.

    Attributes:
        unknown: rows left out because the model does not know their emotion, by emotion.
        unlabelled: rows left out because nobody labelled them.
        met: whether they are rows of the corpus that the model was trained on, divided as it was.
        training: rows of the training part whose emotion the model knows, where they are not those chosen.
    """

    utterances: list[Utterance]
    unknown: dict[str, int]
    unlabelled: int
    met: bool = True
    training: list[Utterance] = field(default_factory=list)


def choose_part(
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    split: str,
    parts: Mapping[str, str],
    renamed: Mapping[str, str] | None = None,
) -> Part:
    """Take the rows of one part whose emotion a model knows.

    Args:
        utterances: of a manifest.
        classes: the model's emotions.
        split: train, valid, test or all.
        parts: utterance -> part as the model was trained; where it names none of the rows, theirs is the manifest's.
        renamed: the corpus's emotions under the model's names.

    Raises:
        ConfigError: a rename to an emotion that the model does not have, or a split that does not exist.
        CorpusError: no row is left.
    """
    for emotion in (renamed or {}).values():
        if emotion not in classes:
            raise ConfigError(f"--map: {emotion!r} is no emotion of the model; {nearest(emotion, classes)}")
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"--split: found {split!r}; {nearest(split, (*SPLITS, 'all'))}")
    for emotion in set(renamed or {}) - {row.emotion for row in utterances}:
        log.warning("--map: no row of the manifest is %r", emotion)
    met = any(row.id in parts for row in utterances)
    own = [(row, parts.get(row.id) if met else row.split) for row in utterances]
    if split != "all" and not any(part for _, part in own):
        log.warning("the manifest has no split and the model has not met its rows: all of them are taken")
        split = "all"
    own = [(replace(row, emotion=(renamed or {}).get(row.emotion or "", row.emotion)), part) for row, part in own]
    named = [row for row, part in own if split == "all" or part == split]
    unknown: dict[str, int] = {}
    for row in named:
        if row.emotion is not None and row.emotion not in classes:
            unknown[row.emotion] = unknown.get(row.emotion, 0) + 1
    known = [row for row in named if row.emotion in classes]
    if not known:
        raise CorpusError(f"expected rows of part {split!r} with an emotion of {', '.join(classes)}, found none")
    rest = [row for row, part in own if part == "train" and row.emotion in classes]
    training = [] if split in ("train", "all") else rest
    return Part(known, unknown, sum(row.emotion is None for row in named), met, training)


def open_part(
    trained: Run, manifest_path: Path | None, store: Path | None, split: str, renamed: Mapping[str, str] | None = None
) -> tuple[Part, Store, Media]:
    """Open the corpus that a RUN was trained on, or another, and take one part of it.

    Raises:
        CorpusError: manifest or store is not there; they are named in the RUN unless given.
        ConfigError: the RUN is not whole; see also `choose`.
    """
    places, told = dict[str, Path](), dict[str, tuple[str, str]]()
    if has_split(trained.folder):
        places, told = read_origin(trained.folder)
    elif manifest_path is None or store is None:
        raise ConfigError(
            f"{trained.folder}: expected --manifest and --store with a model that somebody published, since no "
            "utterance of its corpus went along, found none"
        )
    else:
        log.warning("%s was published without its split: some of these rows may have trained it", trained.folder)
    path = manifest_path or places["manifest"]
    utterances, corpus = manifest.read(path), manifest.read_corpus(path)
    features = Store(store or places["store"])
    parts = own_parts(utterances, told)
    if parts and (others := sum(row.id in told and row.id not in parts for row in utterances)):
        log.warning("%d rows are left out: under ids of the RUN's rows they hold something else", others)
    return (
        choose_part(utterances, trained.classes, split, parts, renamed),
        features,
        Media(features, corpus.root, corpus.root),
    )


def has_split(folder: Path) -> bool:
    """Whether a RUN says what was trained on; a published one does not."""
    return (folder / "split.csv").exists()


def read_origin(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[str, str]]]:
    """Read where a RUN's manifest and store lay, and part and digest of each of its utterances."""
    try:
        about, protocol = read_json(folder / "environment.json"), read_json(folder / "protocol.json")
        places = {name: Path(about[name]) for name in ("manifest", "store")}
        split = require_file(folder / "split.csv")
        with open(split, encoding="utf-8", errors="surrogatepass", newline="") as file:
            told = {row["id"]: (row["split"], row["digest"]) for row in csv.DictReader(file, strict=True)}
        counts = {name: sum(part == name for part, _ in told.values()) for name in SPLITS}
        if counts != protocol["counts"]:
            raise ValueError(f"{counts} utterances in split.csv where protocol.json counts {protocol['counts']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise ConfigError(
            f"{folder}: expected environment.json, protocol.json and split.csv as training writes them, found {error}"
        ) from None
    return places, told


def own_parts(utterances: Sequence[Utterance], told: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The part that a RUN had for each row; ids alone do not show it, as those of tables are often numbers."""
    return {row.id: told[row.id][0] for row in utterances if row.id in told and told[row.id][1] == row_digest(row)}


def elsewhere(trained: Run) -> dict[str, Any]:
    """What figures on another corpus must say: trained under the RUN's protocol, but not tested under it."""
    where = "another corpus" if has_split(trained.folder) else "rows that may have trained it"
    return {**trained.protocol, "speakers_disjoint": None, "speakers_shared": [], "tested_on": where}


def samples_of(trained: Run, utterances: Sequence[Utterance], store: Store, media: Media) -> Features:
    """Read the features that a RUN needs of utterances.

    Raises:
        ConfigError: the store holds features of other encoders only; both fingerprints are named.
        CorpusError: features were never extracted.
    """
    live = trained.mode != "cached"
    try:
        return Features(utterances, store, media, trained.features, trained.model.config, live=live)
    except CorpusError as error:
        raise _other_encoder(trained, store) or error from None


def _other_encoder(trained: Run, store: Store) -> ConfigError | None:
    """Say when the reason for absent features is that those that are there were made otherwise."""
    from wavfusion.features.store import made_by, read_feature_sets

    wanted, sets = trained.features, read_feature_sets(store)
    found = sets.get(wanted.preset)
    same = [each for each in sets.values() if each.precision == wanted.precision]
    if not same or (found is not None and found.precision != wanted.precision):
        told = ", ".join(f"{name} ({each.precision})" for name, each in sets.items())
        return ConfigError(
            f"{store.folder}: expected features of preset {wanted.preset!r} in precision {wanted.precision}, which "
            f"{trained.folder} was trained on, found {told}; extract with a preset of that precision"
        )
    for name in trained.model.config.modalities if found is not None else ():
        own, other = getattr(wanted, name), getattr(found, name)
        if own and other and made_by(own) != made_by(other):
            return ConfigError(
                f"{store.folder}: expected features of the {name} encoder {made_by(own)} that "
                f"{trained.folder} was trained on, found {made_by(other)}; extract with the RUN's encoder"
            )
    return None


def network(trained: Run) -> nn.Module:
    """The RUN's model as its samples want it: with its audio encoder in front where it was not trained on the store."""
    if trained.mode == "cached" or "audio" not in trained.model.config.modalities:
        return trained.model
    encoder = trained.encoders(["audio"]).audio
    assert encoder is not None
    return LiveWavFusion(encoder, trained.model, learn=False)


def score_all(
    model: nn.Module,
    samples: Samples,
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    prior: Sequence[float],
    modality_sets: Sequence[Sequence[str]],
    device: str = "cpu",
    temperature: float = 1.0,
) -> tuple[dict[str, Any], Utterances]:
    """Score every modality set, the last one as the headline; returns the figures and what was said of it.

    Where all subsets are scored, the mean contribution of each modality is told for every emotion that was predicted.
    """
    every = classify_subsets(model, samples, modality_sets, prior, device, temperature)
    figures = {
        "+".join(names): _figures(said, utterances, classes) for names, said in zip(modality_sets, every, strict=True)
    }
    chosen, said = modality_sets[-1], every[-1]
    result = {**figures["+".join(chosen)], "classes": list(classes), "modalities": list(chosen)}
    result["subsets"] = figures if len(modality_sets) > 1 else {}
    parts = contributions(modality_sets, every, prior) if len(figures) == len(subsets(chosen)) > 1 else []
    result["contributions"] = mean_contributions(parts, predicted_names(said, classes), classes) if parts else {}
    return result, said


def _figures(said: Utterances, utterances: Sequence[Utterance], classes: Sequence[str]) -> dict[str, Any]:
    truth = [str(row.emotion) for row in utterances]
    groups = [row.dialogue for row in utterances]
    speakers = [row.speaker for row in utterances]
    names = predicted_names(said, classes)
    return scores.score(truth, names, list(classes), groups, said.probabilities, speakers=speakers)


def predicted_names(said: Utterances, classes: Sequence[str]) -> list[str]:
    """The most probable emotion of each utterance."""
    return [classes[i] for i in said.probabilities.argmax(1)]


def evaluate(
    trained: Run,
    utterances: Sequence[Utterance],
    store: Store,
    media: Media,
    modality_sets: Sequence[Sequence[str]] | None = None,
    device: str = "cpu",
) -> tuple[dict[str, Any], Utterances]:
    """Score a RUN on labelled utterances; by default on all that it has, and on every subset of its modalities.

    Raises:
        ConfigError, CorpusError: the features do not fit or are not there.
    """
    samples = samples_of(trained, utterances, store, media)
    model = network(trained).to(device)
    sets = modality_sets or subsets(trained.model.config.modalities)
    prior, temperature = trained.prior, trained.temperature
    result, said = score_all(model, samples, utterances, trained.classes, prior, sets, device, temperature)
    result["calibration"] = _calibration(said, utterances, trained, result)
    result["styles"] = by_style(said, utterances, trained.classes)
    result["protocol"] = trained.protocol
    result |= encoders_met(trained, {row.corpus for row in utterances})
    return result, said


def explain(
    trained: Run,
    utterances: Sequence[Utterance],
    store: Store,
    media: Media,
    training: Sequence[Utterance] = (),
    device: str = "cpu",
) -> dict[str, Any]:
    """Say what the parts of a RUN do on labelled utterances (docs/explain.md).

    Args:
        trained: the RUN.
        utterances: to look at.
        store: their features.
        media: what is known of their files.
        training: others, on which a shared space is fitted afterwards, where their features are there.
        device: where to compute.

    Raises:
        ConfigError, CorpusError: the features do not fit or are not there.
    """

    def read(rows: Sequence[Utterance]) -> tuple[Features, dict[str, str]]:
        return samples_of(trained, rows, store, media), {row.id: str(row.emotion) for row in rows}

    samples, truth = read(utterances)
    try:
        learned = read(training) if training else None
    except CorpusError as error:
        log.warning("no shared space is fitted afterwards: %s", error)
        learned = None
    model = network(trained).to(device)
    config, prior = trained.model.config, trained.prior
    return explain_parts(model, samples, truth, config, prior, learned, device, trained.temperature)


def _calibration(
    said: Utterances, utterances: Sequence[Utterance], trained: Run, after: Mapping[str, Any]
) -> dict[str, Any]:
    """What the temperature does to the negative log-likelihood and the calibration error, with it in `after`."""
    there = np.array([bool(names) for names in said.modalities])
    plain = said.probabilities.copy()
    plain[there] = tempered(plain[there], 1 / trained.temperature)
    truth, predicted = [str(row.emotion) for row in utterances], predicted_names(said, trained.classes)
    before = scores.calibration(truth, predicted, trained.classes, plain)
    figures = {name: {"before": value, "after": after[name]} for name, value in before.items()}
    return {"temperature": trained.temperature, **figures}


def by_style(said: Utterances, utterances: Sequence[Utterance], classes: Sequence[str]) -> dict[str, Any]:
    """Score improvised and scripted utterances apart; nothing where there is one style only."""
    styles = sorted({row.style for row in utterances if row.style})
    chosen = {style: [i for i, row in enumerate(utterances) if row.style == style] for style in styles}
    return {
        style: _figures(said.rows(rows), [utterances[i] for i in rows], classes)
        for style, rows in chosen.items()
        if len(styles) > 1
    }


def encoders_met(trained: Run, corpora: set[str]) -> dict[str, Any]:
    """Say of each encoder whether it was trained on the corpus that it is tested on."""
    names = {name: getattr(trained.features, name)["name"] for name in trained.model.config.modalities}
    met = {
        name: {"name": checkpoint, "saw_corpus": trained_on(checkpoint, corpora)} for name, checkpoint in names.items()
    }
    return {"encoders": met, "contaminated": [name for name, each in met.items() if each["saw_corpus"] == "yes"]}


def write_results(
    out: Path, result: Mapping[str, Any], said: Utterances, utterances: Sequence[Utterance], classes: Sequence[str]
) -> None:
    """Write metrics.json and predictions.csv; equal figures give equal bytes."""
    out.mkdir(parents=True, exist_ok=True)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    protocol = result["protocol"]["hash"][:16]
    probabilities = [f"p_{name}" for name in classes]
    writer.writerow(["id", "dialogue", "speaker", "truth", "predicted", *probabilities, "protocol"])
    for row, predicted, p in zip(utterances, predicted_names(said, classes), said.probabilities, strict=True):
        about = [row.id, row.dialogue, row.speaker, row.emotion, predicted]
        writer.writerow(["" if x is None else x for x in about] + [f"{x:.6f}" for x in p] + [protocol])
    write_atomic(out / "predictions.csv", file.getvalue().encode("utf-8", "surrogatepass"))
    write_json(out / "metrics.json", dict(result))
