"""Evaluation of a trained model on a part of a corpus."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wavfusion import manifest
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.evaluation.explain import contributions, explain_parts, mean_contributions
from wavfusion.evaluation.inference import Samples, Utterances, classify_subsets, subsets
from wavfusion.evaluation.provenance import trained_on
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features
from wavfusion.features.store import Store
from wavfusion.manifest import SPLITS, Utterance
from wavfusion.metrics import scores
from wavfusion.metrics.calibration import tempered
from wavfusion.runs.folder import Run
from wavfusion.runs.origin import has_split, read_origin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Labelled utterances to evaluate on, and how they were chosen.

    Attributes:
        utterances: all with an emotion that is a class of the model.
        unknown: number of rows left out because their emotion is no class of the model, by emotion.
        unlabelled: number of rows left out because they have no label.
        in_domain: they are rows of the corpus that the model was trained on, divided as then.
        training: the labelled rows of the training part, where these are not the chosen ones.
    """

    utterances: list[Utterance]
    unknown: dict[str, int]
    unlabelled: int
    in_domain: bool = True
    training: list[Utterance] = field(default_factory=list)


def choose_part(
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    split: str,
    parts: Mapping[str, str],
    renamed: Mapping[str, str] | None = None,
) -> Part:
    """Choose the rows of one part whose emotion is a class of the model.

    Args:
        utterances: of a manifest.
        classes: the emotions of the model.
        split: train, valid, test or all.
        parts: utterance -> part in the training of the model; if it has none of the rows, the manifest's split counts.
        renamed: emotion of the corpus -> emotion of the model.

    Raises:
        ConfigError: a rename to an unknown emotion, or an unknown split.
        CorpusError: no row is left.
    """
    for emotion in (renamed or {}).values():
        if emotion not in classes:
            raise ConfigError(f"--map: {emotion!r} is no class of the model; {nearest(emotion, classes)}")
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"--split: found {split!r}; {nearest(split, (*SPLITS, 'all'))}")
    for emotion in set(renamed or {}) - {row.emotion for row in utterances}:
        log.warning("--map: no row of the manifest has the emotion %r", emotion)
    in_domain = any(row.id in parts for row in utterances)
    pairs = [(row, parts.get(row.id) if in_domain else row.split) for row in utterances]
    if split != "all" and not any(part for _, part in pairs):
        log.warning("the manifest has no split and the model was not trained on its rows: all of them are taken")
        split = "all"
    pairs = [(replace(row, emotion=(renamed or {}).get(row.emotion or "", row.emotion)), part) for row, part in pairs]
    chosen = [row for row, part in pairs if split == "all" or part == split]
    unknown = Counter(row.emotion for row in chosen if row.emotion is not None and row.emotion not in classes)
    known = [row for row in chosen if row.emotion in classes]
    if not known:
        raise CorpusError(f"expected rows of part {split!r} with an emotion of {', '.join(classes)}, found none")
    training = [row for row, part in pairs if part == "train" and row.emotion in classes]
    if split in ("train", "all"):
        training = []
    return Part(known, dict(unknown), sum(row.emotion is None for row in chosen), in_domain, training)


def open_part(
    trained: Run, manifest_path: Path | None, store: Path | None, split: str, renamed: Mapping[str, str] | None = None
) -> tuple[Part, Store, Media]:
    """Open the corpus that a RUN was trained on, or another, and choose one part of it.

    Raises:
        CorpusError: manifest or store is missing; without arguments those that the RUN names are opened.
        ConfigError: an incomplete RUN; see also `choose_part`.
    """
    origin = read_origin(trained.folder) if has_split(trained.folder) else None
    if origin is None:
        if manifest_path is None or store is None:
            raise ConfigError(
                f"{trained.folder}: expected --manifest and --store with a published model, which has no utterance of "
                "its corpus, found none"
            )
        log.warning("%s was published without its split: it may have been trained on these rows", trained.folder)
    path = manifest_path or (None if origin is None else origin.manifest)
    store = store or (None if origin is None else origin.store)
    assert path is not None and store is not None
    utterances, corpus = manifest.read(path), manifest.read_corpus(path)
    parts = origin.parts_of(utterances) if origin else {}
    if origin and parts and (others := sum(row.id in origin.parts and row.id not in parts for row in utterances)):
        log.warning("%d rows are left out: they have ids of the RUN's rows and other contents", others)
    features = Store(store)
    part = choose_part(utterances, trained.classes, split, parts, renamed)
    return part, features, Media(features, corpus.root, corpus.root)


def out_of_domain_protocol(trained: Run) -> dict[str, Any]:
    """Return the protocol field of metrics on another corpus: trained under the RUN's protocol, not tested under it."""
    where = "another corpus" if has_split(trained.folder) else "rows that may have trained it"
    return {**trained.protocol, "speakers_disjoint": None, "speakers_shared": [], "tested_on": where}


def samples_of(trained: Run, utterances: Sequence[Utterance], store: Store, media: Media) -> Features:
    """Load the stored features that a RUN needs.

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
    """Explain missing features by stored ones of another encoder or precision, if that is the reason."""
    from wavfusion.features.store import made_by, read_feature_sets

    wanted, sets = trained.features, read_feature_sets(store)
    found = sets.get(wanted.preset)
    same = [each for each in sets.values() if each.precision == wanted.precision]
    if not same or (found is not None and found.precision != wanted.precision):
        stored = ", ".join(f"{name} ({each.precision})" for name, each in sets.items())
        return ConfigError(
            f"{store.folder}: expected features of preset {wanted.preset!r} in precision {wanted.precision}, which "
            f"{trained.folder} was trained on, found {stored}; extract with a preset of that precision"
        )
    for name in trained.model.config.modalities if found is not None else ():
        expected, other = getattr(wanted, name), getattr(found, name)
        if expected and other and made_by(expected) != made_by(other):
            return ConfigError(
                f"{store.folder}: expected features of the {name} encoder {made_by(expected)} that "
                f"{trained.folder} was trained on, found {made_by(other)}; extract with the RUN's encoder"
            )
    return None


def network(trained: Run) -> nn.Module:
    """Return the RUN's model, behind its audio encoder where it was not trained on stored features."""
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
    """Score every modality set, the last one as the headline; return the metrics and its predictions.

    Where all subsets are scored, the metrics hold the mean contribution of each modality by predicted emotion.
    """
    every = classify_subsets(model, samples, modality_sets, prior, device, temperature)
    metrics = {
        "+".join(names): _score(predicted, utterances, classes)
        for names, predicted in zip(modality_sets, every, strict=True)
    }
    chosen, predicted = modality_sets[-1], every[-1]
    result = {**metrics["+".join(chosen)], "classes": list(classes), "modalities": list(chosen)}
    result["subsets"] = metrics if len(modality_sets) > 1 else {}
    parts = contributions(modality_sets, every, prior) if len(metrics) == len(subsets(chosen)) > 1 else []
    result["contributions"] = mean_contributions(parts, predicted_names(predicted, classes), classes) if parts else {}
    return result, predicted


def _score(predicted: Utterances, utterances: Sequence[Utterance], classes: Sequence[str]) -> dict[str, Any]:
    truth = [str(row.emotion) for row in utterances]
    groups = [row.dialogue for row in utterances]
    speakers = [row.speaker for row in utterances]
    names = predicted_names(predicted, classes)
    return scores.score(truth, names, list(classes), groups, predicted.probabilities, speakers=speakers)


def predicted_names(predicted: Utterances, classes: Sequence[str]) -> list[str]:
    """Return the most probable emotion of each utterance."""
    return [classes[i] for i in predicted.probabilities.argmax(1)]


def evaluate(
    trained: Run,
    utterances: Sequence[Utterance],
    store: Store,
    media: Media,
    modality_sets: Sequence[Sequence[str]] | None = None,
    device: str = "cpu",
) -> tuple[dict[str, Any], Utterances]:
    """Score a RUN on labelled utterances; by default on every subset of its modalities.

    Returns:
        The metrics of metrics.json, and the predictions from the last set of modalities.

    Raises:
        ConfigError, CorpusError: the features do not fit or are missing.
    """
    samples = samples_of(trained, utterances, store, media)
    model = network(trained).to(device)
    sets = modality_sets or subsets(trained.model.config.modalities)
    prior, temperature = trained.prior, trained.temperature
    result, predicted = score_all(model, samples, utterances, trained.classes, prior, sets, device, temperature)
    result["calibration"] = _calibration(predicted, utterances, trained, result)
    result["styles"] = by_style(predicted, utterances, trained.classes)
    result["protocol"] = trained.protocol
    result |= encoder_provenance(trained, {row.corpus for row in utterances})
    return result, predicted


def explain(
    trained: Run,
    utterances: Sequence[Utterance],
    store: Store,
    media: Media,
    training: Sequence[Utterance] = (),
    device: str = "cpu",
) -> dict[str, Any]:
    """Explain the parts of a RUN on labelled utterances (docs/howto/explain.md).

    Args:
        trained: the RUN.
        utterances: to explain.
        store: their features.
        media: their files.
        training: utterances on which a shared space is fitted post hoc, if their features are stored.
        device: where to compute.

    Raises:
        ConfigError, CorpusError: the features do not fit or are missing.
    """

    def read(rows: Sequence[Utterance]) -> tuple[Features, dict[str, str]]:
        return samples_of(trained, rows, store, media), {row.id: str(row.emotion) for row in rows}

    samples, truth = read(utterances)
    try:
        learned = read(training) if training else None
    except CorpusError as error:
        log.warning("no shared space is fitted post hoc: %s", error)
        learned = None
    model = network(trained).to(device)
    config, prior = trained.model.config, trained.prior
    return explain_parts(model, samples, truth, config, prior, learned, device, trained.temperature)


def _calibration(
    predicted: Utterances, utterances: Sequence[Utterance], trained: Run, after: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare negative log-likelihood and calibration error before the temperature with those `after` it."""
    classified = np.array([bool(names) for names in predicted.modalities])
    raw = predicted.probabilities.copy()
    raw[classified] = tempered(raw[classified], 1 / trained.temperature)
    truth, names = [str(row.emotion) for row in utterances], predicted_names(predicted, trained.classes)
    before = scores.calibration(truth, names, trained.classes, raw)
    metrics = {name: {"before": value, "after": after[name]} for name, value in before.items()}
    return {"temperature": trained.temperature, **metrics}


def by_style(predicted: Utterances, utterances: Sequence[Utterance], classes: Sequence[str]) -> dict[str, Any]:
    """Score improvised and scripted utterances separately; empty with one style only."""
    styles = sorted({row.style for row in utterances if row.style})
    chosen = {style: [i for i, row in enumerate(utterances) if row.style == style] for style in styles}
    return {
        style: _score(predicted.rows(rows), [utterances[i] for i in rows], classes)
        for style, rows in chosen.items()
        if len(styles) > 1
    }


def encoder_provenance(trained: Run, corpora: set[str]) -> dict[str, Any]:
    """Tell for each encoder whether it was trained on the corpus of the test (`encoders`, `contaminated`)."""
    names = {name: getattr(trained.features, name)["name"] for name in trained.model.config.modalities}
    known = {
        name: {"name": checkpoint, "saw_corpus": trained_on(checkpoint, corpora)} for name, checkpoint in names.items()
    }
    return {"encoders": known, "contaminated": [name for name, each in known.items() if each["saw_corpus"] == "yes"]}
