"""What noise, a telephone and lossy formats cost the shipped model, on the kept speakers of its own corpora.

    python models/voice/judge.py MODEL MANIFEST KEPT OUT

Labels the test part of `kept.csv`, as it is and changed, and writes a row for each clip and change to OUT (a CSV file):
id, change, truth, predicted, and the seconds that the answer took.
"""

import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import wavfusion
from wavfusion import manifest, media
from wavfusion.features import augment
from wavfusion.manifest import Utterance
from wavfusion.media import SAMPLE_RATE

NOISES_DB = (20, 15, 10, 5, 0)
Change = Callable[[np.ndarray], np.ndarray]


def changes(identity: str) -> dict[str, Change]:
    """The changes of a clip, whose noise its name decides."""
    rng = np.random.default_rng(list(identity.encode()))
    noisy = {f"noise {db} dB": partial(augment.add_noise, snr_db=db, rng=rng, colour="pink") for db in NOISES_DB}
    return {
        "none": lambda samples: samples,
        **noisy,
        "telephone": augment.telephone,
        "mp3 64 kbit/s": partial(augment.through_codec, name="mp3", bit_rate=64_000),
        "opus 24 kbit/s": partial(augment.through_codec, name="opus", bit_rate=24_000),
        "aac 48 kbit/s": partial(augment.through_codec, name="aac", bit_rate=48_000),
    }


def tested(manifest_path: Path, kept: Path) -> list[Utterance]:
    """Return the clips."""
    parts = csv.DictReader(kept.read_text("utf-8").splitlines())
    chosen = {row["id"] for row in parts if row["split"] == "test"}
    return [row for row in manifest.read(manifest_path) if row.id in chosen]


def main(model: Path, manifest_path: Path, kept: Path, out: Path) -> None:
    """Label every clip under every change."""
    recognizer = wavfusion.EmotionRecognizer.from_pretrained(model)
    root = Path(manifest.read_corpus(manifest_path).root)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "change", "truth", "predicted", "seconds"])
        for row in tested(manifest_path, kept):
            assert row.audio is not None
            samples = media.decode_audio(root / row.audio.path).samples
            for name, change in changes(row.id).items():
                changed = change(samples)
                start = time.perf_counter()
                (found,) = recognizer.predict(changed, sample_rate=SAMPLE_RATE, contributions=False)
                seconds = time.perf_counter() - start
                writer.writerow([row.id, name, row.emotion, found.emotion, f"{seconds:.3f}"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
