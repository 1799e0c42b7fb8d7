"""What helps on a corpus that took no part in training, by logistic regression on pooled features of one layer.

    python models/voice/probes.py MANIFEST STORE FOLDS VARIANTS

Prints, for each fold of a protocol of `corpora.py` and each measure, the mean recall (UAR) of the test part, over the
emotions that it has; other emotions are not predicted. It takes minutes where trainings take hours.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wavfusion import manifest
from wavfusion.experiments.experiment import read_experiment
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.store import Store

Table: TypeAlias = np.ndarray
SOLVER_STEPS = 500


class Rows(NamedTuple):
    """Some utterances: vectors (N, variants + 1, 2 D), and emotion, corpus and speaker of each."""

    vectors: Table
    emotion: Table
    corpus: Table
    speaker: Table

    def __getitem__(self, chosen: Table) -> "Rows":  # type: ignore[override]
        """Select utterances."""
        return Rows(*(each[chosen] for each in (self.vectors, self.emotion, self.corpus, self.speaker)))


def read_rows(manifest_path: Path, folder: Path, count: int) -> tuple[list[str], Rows]:
    """Read ids, and mean and standard deviation over time of each utterance and of its variants."""
    utterances, corpus, store = manifest.read(manifest_path), manifest.read_corpus(manifest_path), Store(folder)
    switches = replace(read_experiment("small").model, audio_stride=1)
    features = choose_features(store, None)
    config = model_config(switches, features, corpus.classes)
    media = Media(store, corpus.root, corpus.root)
    samples = Features(utterances, store, media, features, config, first_window=True, variants=count)
    size = len(samples)

    def pooled(number: int) -> Table:
        audio = samples[number].audio
        assert audio is not None
        return np.concatenate([audio.float().mean(0).numpy(), audio.float().std(0, correction=0).numpy()])

    vectors = [[pooled(number + size * variant) for variant in range(count + 1)] for number in range(size)]
    rows = {row.id: row for row in utterances}
    ids = [samples[number].row.id for number in range(size)]
    columns = ([getattr(rows[key], name) for key in ids] for name in ("emotion", "corpus", "speaker"))
    return ids, Rows(np.array(vectors), *map(np.array, columns))


def standardised(rows: Rows, by: Table) -> Rows:
    """Standardise the vectors by the utterances of each group."""
    vectors = rows.vectors.copy()
    for group in np.unique(by):
        own = rows.vectors[by == group, :1]
        vectors[by == group] = (vectors[by == group] - own.mean(0)) / (own.std(0) + 1e-6)
    return rows._replace(vectors=vectors)


def score(
    rows: Rows,
    train: Table,
    test: Table,
    variants: bool = False,
    equal: bool = False,
    balanced: bool = False,
    c: float = 1.0,
) -> float:
    """Train on a part and return the UAR of another; `equal` weighs corpora alike, `balanced` emotions."""
    known, tested = rows[train], rows[test]
    copies = known.vectors.shape[1] if variants else 1
    x = known.vectors[:, :copies].reshape(-1, known.vectors.shape[-1])
    y, corpus = np.repeat(known.emotion, copies), np.repeat(known.corpus, copies)
    weights = np.ones(len(y))
    if equal:
        names, counts = np.unique(corpus, return_counts=True)
        weights = (len(y) / len(names) / counts)[np.searchsorted(names, corpus)]
    classifier = LogisticRegression(C=c, max_iter=SOLVER_STEPS, class_weight="balanced" if balanced else None)
    model = make_pipeline(StandardScaler(), classifier).fit(x, y, logisticregression__sample_weight=weights)
    shared = np.isin(model.classes_, tested.emotion)
    found = model.classes_[shared][model.predict_proba(tested.vectors[:, 0])[:, shared].argmax(1)]
    return float(balanced_accuracy_score(tested.emotion, found))


MEASURES: dict[str, Callable[[Rows, Table, Table], float]] = {
    "plain": score,
    "C 0.01": lambda *each: score(*each, c=0.01),
    "variants": lambda *each: score(*each, variants=True),
    "variants, C 0.01": lambda *each: score(*each, variants=True, c=0.01),
    "corpora weighed alike": lambda *each: score(*each, equal=True),
    "emotions weighed alike": lambda *each: score(*each, balanced=True),
    "standardised by corpus": lambda rows, *each: score(standardised(rows, rows.corpus), *each),
    "standardised by speaker": lambda rows, *each: score(standardised(rows, rows.speaker), *each),
}


def main(manifest_path: Path, store: Path, folds: Path, variants: int) -> None:
    """Print a line for each measure: the UAR of every fold."""
    ids, rows = read_rows(manifest_path, store, variants)
    place = {key: number for number, key in enumerate(ids)}
    parts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(folds.read_text("utf-8").splitlines()):
        parts[row.get("fold", "1")][row["split"]].append(place[row["id"]])
    names = {fold: "+".join(np.unique(rows.corpus[part["test"]])) for fold, part in parts.items()}
    sys.stdout.write("\t".join(["measure", *names.values()]) + "\n")
    for measure, run in MEASURES.items():
        scores = [run(rows, np.array(part["train"]), np.array(part["test"])) for part in parts.values()]
        sys.stdout.write("\t".join([measure, *(f"{100 * each:.1f}" for each in scores)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
