"""What eGeMAPS and MFCC with linear classifiers reach where the voice model is judged (needs `wavfusion[egemaps]`).

    python models/voice/baselines.py MANIFEST FOLDS WORK OUT

Trains every comparator on each fold of `left_out.csv`, and writes its predictions of the left-out corpus to OUT (a CSV
file). What it computes of the recordings is kept in WORK for the next call.
"""

import sys
from pathlib import Path

from wavfusion import manifest
from wavfusion.comparators.acoustic import describe_audio
from wavfusion.comparators.linear import COMPARATORS
from wavfusion.corpora.protocol import resolve
from wavfusion.features.clips import Media
from wavfusion.features.store import Store
from wavfusion.runs.results import CsvRow, encode_csv
from wavfusion.study.comparing import predict_fold


def main(manifest_path: Path, folds: Path, work: Path, out: Path) -> None:
    """Write the predictions of every comparator on every fold."""
    utterances, corpus = manifest.read(manifest_path), manifest.read_corpus(manifest_path)
    media = Media(Store(work / "store", create=True), corpus.root, corpus.root)
    written: list[CsvRow] = []
    for name, (features, classifier) in COMPARATORS.items():
        vectors = describe_audio(utterances, media, features, work, progress=True)
        for number in range(1, len({row.corpus for row in utterances}) + 1):
            fold = resolve(str(folds), utterances, corpus.classes, number)
            rows, _ = predict_fold(classifier, vectors, utterances, fold, balanced=False)
            left_out = next(row.corpus for row in utterances if row.id == rows[0]["id"])
            written += [{"comparator": name, "left_out": left_out, **row} for row in rows]
    out.write_bytes(encode_csv(written))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
