"""Logistic regression on mean and deviation over time of stored features of one modality, fold by fold.

    python scripts/pooled_regression.py MANIFEST STORE PROTOCOL [--preset P] [--modality M] [--with-valid | --choose]

Of audio (the default) the preset has one stored layer. `--with-valid` trains on the valid part, too; `--choose` takes
the strength of the regularisation that is best there. Prints accuracy and weighted F1 of each fold in percent, and the
mean accuracy.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from wavfusion import manifest
from wavfusion.comparators import baselines
from wavfusion.comparators.linear import predict_linear
from wavfusion.corpora.protocol import divide_parts
from wavfusion.features.clips import Media
from wavfusion.features.dataset import Features, choose_features, model_config
from wavfusion.features.store import Store
from wavfusion.manifest import SPLITS
from wavfusion.metrics.scores import confusion_matrix, figures
from wavfusion.model.config import Switches


def main() -> None:
    """Read the arguments, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("folds")
    parser.add_argument("--preset")
    parser.add_argument("--modality", default="audio")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--with-valid", action="store_true")
    given = parser.parse_args()
    rows, corpus = manifest.read(given.manifest), manifest.read_corpus(given.manifest)
    store = Store(given.store)
    features = choose_features(store, given.preset)
    switches = Switches(modalities=[given.modality], pooling="mean_deviation")
    config = model_config(switches, features, corpus.classes)
    if (
        given.modality == "audio" and config.input_layer not in features.audio_layers
    ):  # trained layers begin behind the layer that is stored
        config = replace(config, trainable_layers=config.num_layers - features.audio_layers[-1])
    samples = Features(rows, store, Media(store, corpus.root, corpus.root), features, config)
    ids, pooled = baselines.pool(samples, [given.modality])
    vectors = dict(zip(ids, pooled[given.modality], strict=True))
    label = {row.id: corpus.classes.index(str(row.emotion)) for row in rows if row.emotion}
    found, size = [], len(corpus.classes)
    for fold in divide_parts(given.folds, rows, corpus.classes):
        parts = {part: fold.ids(part) for part in SPLITS}
        if given.choose:
            shares = predict_linear("logistic", vectors, label, parts, size, False).probabilities
        else:
            learned = parts["train"] + (parts["valid"] if given.with_valid else [])
            train, test = ({"x": np.stack([vectors[key] for key in part])} for part in (learned, parts["test"]))
            every = baselines.predict_baselines(train, [label[key] for key in learned], test, size, False)
            shares = every["logistic regression x"]
        truth = np.array([label[key] for key in parts["test"]])
        scores = figures(confusion_matrix(truth, shares.argmax(1), size))
        found.append([100 * float(scores[name]) for name in ("accuracy", "weighted_f1")])
    print(", ".join(f"{a:.1f} / {f:.1f}" for a, f in found), f"mean {np.mean(found, axis=0)[0]:.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
