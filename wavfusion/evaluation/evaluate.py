"""Evaluation of a trained model on a part of a corpus."""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import nn

from wavfusion import manifest
from wavfusion.encoders.live import LiveWavFusion
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.evaluation.context import add_context
from wavfusion.evaluation.explain import (
    contributions,
    gate_statistics,
    margin_statistics,
    mean_contributions,
    shifted_accuracy,
    window_parts,
)
from wavfusion.evaluation.inference import Utterances, classify_subsets, subsets
from wavfusion.evaluation.provenance import trained_on
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features
from wavfusion.features.store import FeatureSet, Store, made_by, read_feature_sets
from wavfusion.manifest import SPLITS, Utterance
from wavfusion.metrics import scores
from wavfusion.metrics.calibration import tempered
from wavfusion.runs.folder import Run
from wavfusion.runs.origin import SPLIT, read_origin
from wavfusion.runs.results import clusters_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmotionMap:
    """Emotions renamed on both sides, in a corpus's labels and in a model's predictions; several may become one.

    Of another corpus only the emotions count that both have. Rows of the others are left out, so the truth is known to
    be one of these: the model is told as much, and its probabilities are divided by their sum over these emotions. Else
    a difference of labels would be measured as errors, and a guess would be right less often than 1 in their number.

    Attributes:
        known: the model's own classes.
        renamed: new name of an emotion of the corpus or of the model.
        absent: emotions, by their new names, that the corpus cannot have.
    """

    known: Sequence[str]
    renamed: Mapping[str, str] = field(default_factory=dict)
    absent: Collection[str] = ()

    def __post_init__(self) -> None:
        for emotion in self.renamed.values():
            if emotion not in self.merged:
                found = f"--map: {emotion!r} is no class of the model"
                raise ConfigError(f"{found}; {nearest(emotion, self.merged)}")

    @property
    def merged(self) -> list[str]:
        """The model's classes by their new names, in its order."""
        return list(dict.fromkeys(self.renamed.get(name, name) for name in self.known))

    @property
    def classes(self) -> list[str]:
        """The classes that are evaluated: those of `merged` that the corpus can have."""
        return [name for name in self.merged if name not in self.absent]

    @property
    def merges(self) -> bool:
        """Whether a class of the model itself is renamed."""
        return self.merged != list(self.known)

    def restricted(self, emotions: Collection[str | None]) -> "EmotionMap":
        """Return the map for a corpus with some emotions, which are renamed already.

        Raises:
            CorpusError: they share fewer than two with the model's.
        """
        absent = tuple(name for name in self.merged if name not in emotions)
        shared = [name for name in self.merged if name in emotions]
        if len(shared) < 2:
            others = ", ".join(sorted({name for name in emotions if name} - set(shared)))
            raise CorpusError(
                f"expected two emotions or more that another corpus shares with the model ({', '.join(self.merged)}), "
                f"found {', '.join(shared) or 'none'}{f' (it has {others})' if others else ''}; --map renames emotions"
            )
        return replace(self, absent=absent)

    def mapped(self, probabilities: Float64[np.ndarray, "*N C"]) -> Float64[np.ndarray, "*N D"]:
        """Add the probabilities of classes that become one; those of classes that are left make up 1 again."""
        if self.classes == list(self.known):
            return probabilities
        number = {name: i for i, name in enumerate(self.classes)}
        found = np.zeros((*probabilities.shape[:-1], len(number)))
        for i, name in enumerate(self.known):
            if (name := self.renamed.get(name, name)) in number:
                found[..., number[name]] += probabilities[..., i]
        if not self.absent:
            return found
        total = found.sum(-1, keepdims=True)
        return np.divide(found, total, out=np.full(found.shape, 1 / len(number)), where=total > 0)

    def count_absent(self, probabilities: Float64[np.ndarray, "N C"]) -> dict[str, int]:
        """Count for each absent class the utterances of which it is the most probable one."""
        best = replace(self, absent=()).mapped(probabilities).argmax(1)
        return {name: int((best == i).sum()) for i, name in enumerate(self.merged) if name in self.absent}


@dataclass(frozen=True)
class Part:
    """Labelled utterances to evaluate on, and how they were chosen.

    Attributes:
        utterances: all with an emotion that is a class of the model.
        mapping: names of the emotions; their labels are renamed by it.
        unknown: number of rows left out because their emotion is no class of the model, by emotion.
        unlabelled: number of rows left out because they have no label.
        in_domain: they are rows of the corpus that the model was trained on, divided as then.
        training: the labelled rows of the training part, where they are not among the chosen ones.
    """

    utterances: list[Utterance]
    mapping: EmotionMap
    unknown: dict[str, int]
    unlabelled: int
    in_domain: bool = True
    training: list[Utterance] = field(default_factory=list)


def choose_part(
    utterances: Sequence[Utterance],
    classes: Sequence[str],
    split: str | None,
    parts: Mapping[str, str],
    renamed: Mapping[str, str] | None = None,
    emotions: Collection[str | None] | None = None,
) -> Part:
    """Choose the rows of one part (train, valid, test or all) whose emotion is a class of the model.

    None for a part is the test part of the corpus of the training, and all of another. `parts` has the part of each
    utterance in the training of the model; if it has none of the rows, the manifest's split counts. `renamed` is that
    of an `EmotionMap`. `emotions` are those of the corpus, if these are not all its rows.

    Raises:
        ConfigError: a rename to an unknown emotion, or an unknown split.
        CorpusError: no row is left, or another corpus shares fewer than two emotions with the model.
    """
    mapping, emotions = EmotionMap(classes, renamed or {}), emotions or {row.emotion for row in utterances}
    in_domain = any(row.id in parts for row in utterances)
    split = split or ("test" if in_domain else "all")
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"--split: found {split!r}; {nearest(split, (*SPLITS, 'all'))}")
    for emotion in sorted(mapping.renamed.keys() - emotions - set(classes)):
        log.warning("--map: no row of the manifest has the emotion %r", emotion)
    part_of = {row.id: parts.get(row.id) if in_domain else row.split for row in utterances}
    if split != "all" and not any(part_of.values()):
        log.warning("the manifest has no split and the model was not trained on its rows: all of them are taken")
        split = "all"
    rows = [replace(row, emotion=mapping.renamed.get(row.emotion or "", row.emotion)) for row in utterances]
    chosen = [row for row in rows if split in ("all", part_of[row.id])]
    counts = Counter(row.emotion for row in chosen if row.emotion not in mapping.merged)
    known = [row for row in chosen if row.emotion in mapping.merged]
    if not known:
        wanted = ", ".join(mapping.merged)
        raise CorpusError(f"expected rows of part {split!r} with an emotion of {wanted}, found none")
    if not in_domain:
        mapping = mapping.restricted({mapping.renamed.get(name or "", name) for name in emotions})
    training = [row for row in rows if split not in ("all", "train") and part_of[row.id] == "train"]
    training = [row for row in training if row.emotion in mapping.classes]
    unknown = {emotion: count for emotion, count in counts.items() if emotion is not None}
    return Part(known, mapping, unknown, counts[None], in_domain, training)


def open_part(
    trained: Run,
    manifest_path: Path | None,
    store: Path | None,
    split: str | None,
    renamed: Mapping[str, str] | None = None,
    where: str | None = None,
) -> tuple[Part, Store, Media]:
    """Open the corpus that a RUN was trained on, or another, and choose one part of it; see also `choose_part`.

    `where` takes only the rows of which it holds (`manifest.parse_where`).

    Raises:
        CorpusError: manifest or store is missing.
        ConfigError: an incomplete RUN, or a published one without manifest and store.
    """
    origin = read_origin(trained.folder) if (trained.folder / SPLIT).exists() else None
    if origin is not None:
        manifest_path, store = manifest_path or origin.manifest, store or origin.store
    if manifest_path is None or store is None:
        raise ConfigError(
            f"{trained.folder}: expected --manifest and --store with a published model, which has no utterance of its "
            f"corpus, found none"
        )
    if origin is None:
        log.warning("%s was published without its split: it may have been trained on these rows", trained.folder)
    every, corpus = manifest.read(manifest_path), manifest.read_corpus(manifest_path)
    utterances = manifest.select(every, where) if where else every
    parts = origin.parts_of(utterances) if origin else {}
    if origin and parts and (others := sum(row.id in origin.parts and row.id not in parts for row in utterances)):
        log.warning("%d rows are left out: they have ids of the RUN's rows and other contents", others)
    features = Store(store)
    part = choose_part(utterances, trained.classes, split, parts, renamed, {row.emotion for row in every})
    return part, features, Media(features, corpus.root, corpus.root)


def out_of_domain_protocol(trained: Run) -> dict[str, Any]:
    """Return the protocol field of metrics on another corpus: trained under the RUN's protocol, not tested under it."""
    where = "another corpus" if (trained.folder / SPLIT).exists() else "rows that may have trained it"
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
    return LiveWavFusion(trained.encoder("audio"), trained.model, learn=False)


def evaluate(
    trained: Run,
    utterances: Sequence[Utterance],
    store: Store,
    media: Media,
    modality_sets: Sequence[Sequence[str]] | None = None,
    device: str = "cpu",
    mapping: EmotionMap | None = None,
) -> tuple[dict[str, Any], Utterances]:
    """Score a RUN on labelled utterances; by default on every subset of its modalities, the last as the headline.

    `answered_by_prior` counts the utterances without any of the modalities, which get the shares of the training part.
    Where all subsets are scored, the metrics hold the mean contribution of each modality by predicted emotion.
    `mapping` is that of `choose_part`, which has renamed the labels by it; `not_in_corpus` counts the utterances for
    which the model's answer would have been an emotion that it leaves out.

    Returns:
        The metrics of metrics.json, and the predictions from the last set of modalities.
    """
    samples = samples_of(trained, utterances, store, media)
    sets = modality_sets or subsets(trained.model.config.modalities)
    mapping, model = mapping or EmotionMap(trained.classes), network(trained).to(device)
    classes, prior = mapping.classes, mapping.mapped(np.array(trained.prior)).tolist()
    temperature = trained.temperature if trained.context is None else trained.context.temperature
    own = classify_subsets(model, samples, sets, trained.prior, device, trained.own_temperature)
    if trained.context is not None:
        own = [add_context(trained.context, utterances, each, device) for each in own]
    every = [replace(each, probabilities=mapping.mapped(each.probabilities)) for each in own]
    by_set = {
        "+".join(names): score_utterances(predicted.probabilities, utterances, classes)
        | {"answered_by_prior": sum(not present for present in predicted.modalities)}
        for names, predicted in zip(sets, every, strict=True)
    }
    chosen, predicted = sets[-1], every[-1]
    parts = contributions(sets, every, prior) if len(by_set) == len(subsets(chosen)) > 1 else []
    headline = by_set["+".join(chosen)]
    return {
        **headline,
        "classes": classes,
        "modalities": list(chosen),
        "subsets": by_set if len(sets) > 1 else {},
        "contributions": mean_contributions(parts, predicted.emotions(classes), classes) if parts else {},
        "calibration": _calibration(own[-1], utterances, temperature, mapping, headline),
        "styles": by_style(predicted.probabilities, utterances, classes),
        **({"not_in_corpus": mapping.count_absent(own[-1].probabilities)} if mapping.absent else {}),
        "protocol": trained.protocol,
        **encoder_provenance(trained.features, trained.model.config.modalities, {row.corpus for row in utterances}),
    }, predicted


def score_utterances(
    probabilities: Float64[np.ndarray, "N C"], utterances: Sequence[Utterance], classes: list[str]
) -> dict[str, Any]:
    """Score the probabilities of labelled utterances, with the clusters that intervals resample."""
    truth, (unit, groups) = [str(row.emotion) for row in utterances], clusters_of(utterances)
    predicted, speakers = [classes[i] for i in probabilities.argmax(1)], [row.speaker for row in utterances]
    return scores.score(truth, predicted, classes, groups, probabilities, speakers=speakers, unit=unit)


def explain(trained: Run, part: Part, store: Store, media: Media, device: str = "cpu") -> dict[str, Any]:
    """Explain what the parts of a model do: the content of `explain.json` (docs/howto/explain.md).

    A shared space is fitted post hoc on the training utterances, if their features are stored.
    """
    samples, config, prior = samples_of(trained, part.utterances, store, media), trained.model.config, trained.prior
    names, classes, model = config.modalities, config.classes, network(trained).to(device)
    sets, truth = subsets(names), {row.id: str(row.emotion) for row in (*part.utterances, *part.training)}
    by_set = classify_subsets(model, samples, sets, prior, device, trained.temperature)
    shares, every = contributions(sets, by_set, prior), by_set[-1]
    try:
        known = samples_of(trained, part.training, store, media) if part.training else None
    except CorpusError as error:
        log.warning("no shared space is fitted post hoc: %s", error)
        known = None
    windows, learned = (window_parts(model, each, names, device) if each else [] for each in (samples, known))
    return {
        "n": len(every.ids),
        "modalities": names,
        "contributions": mean_contributions(shares, every.emotions(classes), classes),
        "gates": gate_statistics(windows, truth, classes, config.audio_step),
        "margin": margin_statistics(windows, learned, truth, config) if names[1:] else None,
        "shift": shifted_accuracy(model, samples, truth, config, prior, device),
        "utterances": {
            name: {"text_share": weight, "contribution": contribution}
            for name, weight, contribution in zip(every.ids, every.text_share, shares, strict=True)
        },
    }


def _calibration(
    predicted: Utterances,
    utterances: Sequence[Utterance],
    temperature: float,
    mapping: EmotionMap,
    after: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare negative log-likelihood and calibration error before the temperature with those `after` it."""
    classified = np.array([bool(names) for names in predicted.modalities])
    raw = predicted.probabilities.copy()
    raw[classified] = tempered(raw[classified], 1 / temperature)
    raw, truth, classes = mapping.mapped(raw), [str(row.emotion) for row in utterances], mapping.classes
    emotions = [classes[i] for i in mapping.mapped(predicted.probabilities).argmax(1)]
    before = scores.calibration(truth, emotions, classes, raw)
    metrics = {name: {"before": value, "after": after[name]} for name, value in before.items()}
    return {"temperature": temperature, **metrics}


def by_style(
    probabilities: Float64[np.ndarray, "N C"], utterances: Sequence[Utterance], classes: list[str]
) -> dict[str, Any]:
    """Score improvised and scripted utterances separately; empty with one style only."""
    styles = sorted({row.style for row in utterances if row.style})
    found = {}
    for style in styles if len(styles) > 1 else ():
        rows = [i for i, row in enumerate(utterances) if row.style == style]
        found[style] = score_utterances(probabilities[rows], [utterances[i] for i in rows], classes)
    return found


def encoder_provenance(features: FeatureSet, modalities: Sequence[str], corpora: set[str]) -> dict[str, Any]:
    """Tell for each encoder whether it was trained on the corpus of the test (`encoders`, `contaminated`)."""
    names = {name: getattr(features, name)["name"] for name in modalities}
    known = {
        name: {"name": checkpoint, "saw_corpus": trained_on(checkpoint, corpora)} for name, checkpoint in names.items()
    }
    return {"encoders": known, "contaminated": [name for name, each in known.items() if each["saw_corpus"] == "yes"]}
