"""The figures of ``metrics.json``, all from one confusion matrix (rows = truth) and, where given, probabilities."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64, Int64, Integer, Real

from wavfusion.errors import ConfigError, nearest
from wavfusion.metrics.clusters import ALONE, MIN_CLUSTERS, Clusters
from wavfusion.metrics.intervals import cluster_interval, cluster_t

NUM_BINS = 15  # of the expected calibration error, as in Guo et al. 2017
_LARGEST_NLL = float(-np.log(np.finfo(np.float64).eps))  # of an utterance whose p is held above 2.2e-16
_SUM_TOLERANCE = 1e-3  # float16 and rounded CSV columns stay inside, logits do not

_Ids: TypeAlias = Int64[np.ndarray, " N"]  # number of each utterance's class or group


def confusion_matrix(
    truth: Integer[np.ndarray, " N"], predicted: Integer[np.ndarray, " N"], num_classes: int
) -> Int64[np.ndarray, "C C"]:
    """Count how often each true class (row) was predicted as each class (column)."""
    cells = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_figures(confusion: Real[np.ndarray, "*B C C"]) -> dict[str, Float64[np.ndarray, "*B C"]]:
    """Precision, recall and F1 of every class; 0 for a class without prediction or support."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, support = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return {
        "precision": _share(hits, predicted),
        "recall": _share(hits, support),
        "f1": _share(2 * hits, predicted + support),
    }


def figures(confusion: Real[np.ndarray, "*B C C"]) -> dict[str, Float64[np.ndarray, "*B"]]:
    """Accuracy, weighted F1, macro F1 and UAR of one confusion matrix or of any stack of them.

    F1 as scikit-learn's with ``labels=classes, zero_division=0``: macro F1 counts a class without support as 0. UAR is
    the mean recall over the classes *with* support, so it equals scikit-learn's ``balanced_accuracy_score``, and not
    ``recall_score(average="macro")``, which counts an absent class that was predicted as 0.
    """
    per_class, support = class_figures(confusion), confusion.sum(axis=-1)
    n = support.sum(axis=-1)
    return {
        "accuracy": _share(np.trace(confusion, axis1=-2, axis2=-1), n),
        "weighted_f1": _share((per_class["f1"] * support).sum(axis=-1), n),
        "macro_f1": np.asarray(per_class["f1"].mean(axis=-1)),
        "uar": _share(per_class["recall"].sum(axis=-1), (support > 0).sum(axis=-1)),
    }


def score(
    truth: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    probabilities: Real[np.ndarray, "N C"] | None = None,
    seed: int = 0,
    speakers: Sequence[Hashable] | None = None,
    unit: str = "group",
) -> dict[str, Any]:
    """Score predicted emotions against the true ones: the figures of ``metrics.json``, in plain Python numbers.

    Args:
        truth: emotion of each utterance, by name.
        predicted: the predicted emotions, in the same order.
        classes: all emotions, in the order of `confusion` (rows = truth) and of the columns of `probabilities`.
        groups: cluster of each utterance (its dialogue, its speaker: `clusters.choose_clusters`), resampled whole for
            the intervals; without one (None) it is its own group.
        probabilities: adds `nll`, mean -log p(truth) in nats with p held above 2.2e-16, and `ece`, the expected
            calibration error of the predicted class over 15 bins of equal width.
        seed: of the bootstrap.
        speakers: of each utterance, for the interval of new speakers; there is none where one is unknown (None).
        unit: what a group is, a name of `clusters.UNITS`.

    Returns:
        The figures. Of `interval` (95 %), `this_test_set` holds for other groups like these, [0, 1] with a single one,
        and `new_speakers` for other speakers, None below `MIN_CLUSTERS` independent ones (see `independent_speakers`).
        `ece` has no interval: resampling adds to its upward bias. `clusters` counts groups and independent speakers.
        `num_tested_classes` and `macro_f1_tested` follow the rule of `uar`: only classes with support count.

    Raises:
        ConfigError: nothing to score, lengths that differ, a name outside `classes`, or no probabilities.
    """
    _require_lengths(len(truth), classes, {"prediction": predicted, "group": groups, "speaker": speakers})
    rows, columns = _ids("truth", truth, classes), _ids("predicted", predicted, classes)
    confusion = confusion_matrix(rows, columns, len(classes))
    figures_of_classes = {name: values.tolist() for name, values in class_figures(confusion).items()}
    losses, of_probabilities = None, dict[str, float]()
    if probabilities is not None:
        losses, of_probabilities = _of_probabilities(rows, columns, probabilities, len(classes))
    per_class = {
        emotion: {name: values[i] for name, values in figures_of_classes.items()} | {"support": int(confusion[i].sum())}
        for i, emotion in enumerate(classes)
    }
    bounds = intervals(lambda each: _by_group(rows, columns, len(classes), each), groups, speakers, seed=seed)
    if losses is not None:
        apart = _new_speakers(groups, speakers)
        new = None if apart is None else _nll_interval(losses, apart)
        bounds["nll"] = {"this_test_set": _nll_interval(losses, groups), "new_speakers": new}
    return {
        "n": len(truth),
        **{name: float(value) for name, value in figures(confusion).items()},
        **of_probabilities,
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "interval": bounds,
        "clusters": count_clusters(groups, speakers, len(truth), unit),
        **tested_classes(per_class),
    }


def count_clusters(
    groups: Sequence[Hashable] | None, speakers: Sequence[Hashable] | None, num_rows: int, unit: str = "group"
) -> dict[str, Any]:
    """Count what intervals are over: groups, with their `unit`, and independent speakers, None where unknown."""
    apart = None if speakers is None else independent_speakers(groups, speakers)
    clusters = Clusters(unit, [None] * num_rows if groups is None else groups)
    speaking = None if apart is None else len(set(apart))
    return {"unit": unit if set(clusters.names) != {None} else ALONE, "n": clusters.n, "independent_speakers": speaking}


def tested_classes(per_class: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Count the classes with support, and average F1 over them as `uar` does recall."""
    tested = [each["f1"] for each in per_class.values() if each["support"]]
    return {"num_tested_classes": len(tested), "macro_f1_tested": sum(tested) / len(tested)}


def calibration(
    truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str], probabilities: Real[np.ndarray, "N C"]
) -> dict[str, float]:
    """Compute `nll` and `ece` alone, as `score` does, without the intervals that take its time."""
    rows, columns = _ids("truth", truth, classes), _ids("predicted", predicted, classes)
    return _of_probabilities(rows, columns, probabilities, len(classes))[1]


def independent_speakers(groups: Sequence[Hashable] | None, speakers: Sequence[Hashable]) -> list[Hashable] | None:
    """Assign each utterance to an independent speaker: those who talk with each other count as one.

    IEMOCAP's become its sessions. Where more than half of all speakers are connected through their dialogues (MELD's
    friends), each counts alone, for want of better. None where a speaker is not known.
    """
    if None in speakers:
        return None
    connected = {speaker: {speaker} for speaker in speakers}
    first: dict[Hashable, Hashable] = {}
    for group, speaker in zip([None] * len(speakers) if groups is None else groups, speakers, strict=True):
        other = connected[speaker if group is None else first.setdefault(group, speaker)]
        if other is not connected[speaker]:
            other |= connected[speaker]
            connected.update(dict.fromkeys(other, other))
    if 2 * max(len(each) for each in connected.values()) > len(connected):
        return list(speakers)
    return [min(connected[speaker], key=str) for speaker in speakers]


def confusions_by_group(
    truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str], groups: Sequence[Hashable] | None
) -> Int64[np.ndarray, "G C C"]:
    """Count one confusion matrix a group, in the order in which they come; an utterance without one is its own."""
    return _by_group(_ids("truth", truth, classes), _ids("predicted", predicted, classes), len(classes), groups)


def intervals(
    confusions: Callable[[Sequence[Hashable] | None], Real[np.ndarray, "G C C"]],
    groups: Sequence[Hashable] | None,
    speakers: Sequence[Hashable] | None,
    seed: int = 0,
) -> dict[str, dict[str, list[float] | None]]:
    """95 % intervals of figures for other groups like these, and for other speakers, as `score` gives them.

    `confusions` counts a matrix for each group that it is given.
    """

    def ordered(groups: Sequence[Hashable] | None) -> Real[np.ndarray, "G C C"]:
        """Sort, so that the order of utterances does not change the last digit of a sum."""
        counts = confusions(groups)
        return counts[np.lexsort(counts.reshape(len(counts), -1).T)]

    counts, apart = ordered(groups), _new_speakers(groups, speakers)
    here, new = cluster_interval(counts, figures, counts.sum((1, 2)), seed), dict[str, list[float]]()
    if apart is not None:
        counts = ordered(apart)
        new = cluster_t(counts, figures, counts.sum((1, 2)))
    return {name: {"this_test_set": here[name], "new_speakers": new.get(name)} for name in here}


def class_intervals(
    confusions: Callable[[Sequence[Hashable] | None], Real[np.ndarray, "G C C"]],
    groups: Sequence[Hashable] | None,
    speakers: Sequence[Hashable] | None,
    classes: Sequence[str],
) -> dict[str, dict[str, list[float] | None]]:
    """95 % intervals of the F1 of every class, as `intervals` gives them; [0, 1] for a class that nothing is told of.

    F1 is 2 J / (1 + J) with J the share of hits among the utterances that are of the class or predicted as it. So its
    interval is that of J over the groups that hold such an utterance, and 0 hits of 16 remain as uncertain as 16 trials
    without success, whatever else was tested.
    """

    def over(groups: Sequence[Hashable] | None) -> list[list[float]]:
        counts = confusions(groups)
        hits = np.diagonal(counts, axis1=-2, axis2=-1)
        all_of = counts.sum(axis=-1) + counts.sum(axis=-2) - hits
        return [_f1_interval(np.stack([hits[:, i], all_of[:, i]], axis=1)) for i in range(len(classes))]

    apart = _new_speakers(groups, speakers)
    here, new = over(groups), over(apart) if apart is not None else [None] * len(classes)
    return {name: {"this_test_set": here[i], "new_speakers": new[i]} for i, name in enumerate(classes)}


def _f1_interval(counts: Real[np.ndarray, "G 2"]) -> list[float]:
    """Interval of F1 from hits, and utterances that a class concerns, of each group."""
    counts = counts[counts[:, 1] > 0]
    if not len(counts):
        return [0.0, 1.0]
    counts = counts[np.lexsort(counts.T)]
    bounds = cluster_interval(counts, lambda sums: {"j": _share(sums[..., 0], sums[..., 1])}, counts[:, 1])
    return [2 * end / (1 + end) for end in bounds["j"]]


def _new_speakers(groups: Sequence[Hashable] | None, speakers: Sequence[Hashable] | None) -> Sequence[Hashable] | None:
    """Return the independent speakers, None where they are unknown or too few for an interval."""
    apart = None if speakers is None else independent_speakers(groups, speakers)
    return apart if apart is not None and len(set(apart)) >= MIN_CLUSTERS else None


def _share(part: Any, whole: Any) -> Float64[np.ndarray, "..."]:
    """Part / whole, 0 where the whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _by_group(
    rows: _Ids, columns: _Ids, num_classes: int, groups: Sequence[Hashable] | None
) -> Int64[np.ndarray, "G C C"]:
    number = _group_numbers(groups, len(rows))
    confusions = np.zeros((number.max() + 1, num_classes, num_classes), dtype=np.int64)
    np.add.at(confusions, (number, rows, columns), 1)
    return confusions


def _group_numbers(groups: Sequence[Hashable] | None, num_rows: int) -> _Ids:
    # a group's name is tagged, so that a dialogue named 3 is not the fourth utterance
    names: Sequence[Hashable] = [None] * num_rows if groups is None else groups
    keys = [("alone", i) if name is None else ("group", name) for i, name in enumerate(names)]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], dtype=np.int64)


def _of_probabilities(
    rows: _Ids, columns: _Ids, probabilities: Real[np.ndarray, "..."], num_classes: int
) -> tuple[Float64[np.ndarray, " N"], dict[str, float]]:
    """Losses of the utterances, and `nll` and `ece`, whose bins are those of Guo et al., ICML 2017, eq. 3."""
    checked, each = _require_probabilities(probabilities, len(rows), num_classes), np.arange(len(rows))
    losses = -np.log(np.maximum(checked[each, rows], np.finfo(np.float64).eps))
    confidence = checked[each, columns]
    gaps = np.bincount(bins(confidence), weights=(rows == columns) - confidence, minlength=NUM_BINS)
    return losses, {"nll": float(losses.mean()), "ece": float(np.abs(gaps).sum() / len(rows))}


def bins(confidence: Float64[np.ndarray, " N"]) -> _Ids:
    """Number the bins of the calibration error, which include their upper ends, in which probabilities lie."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def _nll_interval(losses: Float64[np.ndarray, " N"], groups: Sequence[Hashable] | None) -> list[float]:
    """Interval of `nll` by `cluster_t` as a share of the largest."""
    number = _group_numbers(groups, len(losses))
    counts = np.stack([np.bincount(number, losses), np.bincount(number)], axis=1)
    if len(counts) < 2:
        return [0.0, _LARGEST_NLL]
    share = cluster_t(counts, lambda sums: {"nll": sums[:, 0] / sums[:, 1] / _LARGEST_NLL}, counts[:, 1])["nll"]
    return [_LARGEST_NLL * end for end in share]


def _ids(what: str, names: Sequence[str], classes: Sequence[str]) -> _Ids:
    number = {emotion: i for i, emotion in enumerate(classes)}
    for position, name in enumerate(names):
        if name not in number:
            raise ConfigError(f"{what}[{position}]: expected an emotion, found {name!r}; {nearest(str(name), classes)}")
    return np.array([number[name] for name in names], dtype=np.int64)


def _require_lengths(length: int, classes: Sequence[str], given: Mapping[str, Sequence[Hashable] | None]) -> None:
    if length == 0:
        raise ConfigError("score: expected at least one utterance, found none")
    for what, values in given.items():
        if values is not None and len(values) != length:
            raise ConfigError(f"score: expected one {what} per truth, found {len(values)} for {length}")
    if len(set(classes)) != len(classes):
        raise ConfigError(f"score: expected each class once, found {', '.join(classes)}")


def _require_probabilities(
    probabilities: Real[np.ndarray, "..."], num_rows: int, num_classes: int
) -> Float64[np.ndarray, "N C"]:
    if probabilities.shape != (num_rows, num_classes):
        raise ConfigError(f"probabilities: expected shape ({num_rows}, {num_classes}), found {probabilities.shape}")
    probabilities = probabilities.astype(np.float64)
    good = np.isfinite(probabilities) & (probabilities >= 0)
    bad = ~good.all(axis=1) | (np.abs(np.nansum(probabilities, axis=1) - 1) > _SUM_TOLERANCE)
    if bad.any():
        row = int(bad.argmax())
        found = ", ".join(f"{p:.4g}" for p in probabilities[row])
        raise ConfigError(f"probabilities[{row}]: expected finite values >= 0 that sum to 1, found {found}")
    return probabilities
