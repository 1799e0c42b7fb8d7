"""How far apart are probabilities in bf16 and fp32? Clips of a manifest's test part, file to probabilities, in both.

    python scripts/half_precision.py MANIFEST RUN [--clips 50]
    python scripts/half_precision.py MANIFEST base        # random weights of base's sizes

Takes utterances that have a file of their own, as in MELD. Prints the largest difference of a probability and the share
of clips whose emotion stays the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from wavfusion import manifest
from wavfusion.bench.data import encoders_of
from wavfusion.experiments import experiment
from wavfusion.features.dataset import model_config
from wavfusion.features.encode import describe_features
from wavfusion.features.extract import shipped_layers
from wavfusion.model.wavfusion import WavFusion
from wavfusion.prediction.recognizer import PRECISIONS, EmotionRecognizer
from wavfusion.runs.folder import Run


def both(name: str, classes: Sequence[str]) -> list[EmotionRecognizer]:
    """A model in every precision: a RUN's, or one of base's sizes with random weights."""
    if name != "base":
        return [EmotionRecognizer.from_pretrained(name, precision=each) for each in PRECISIONS]
    encoders = encoders_of("base")
    features = describe_features(encoders, shipped_layers(encoders), ["last"])
    model = WavFusion(model_config(experiment.read_experiment("paper").model, features, classes)).eval()
    # Logits that spread over about 2, as those of a trained model do; its own start makes all emotions equal.
    torch.nn.init.normal_(model.head.weight, std=2 / model.head.in_features**0.5)
    trained = Run(Path("base"), model, features, "cached", [1 / len(classes)] * len(classes), {}, 1.0)
    return [EmotionRecognizer(trained, encoders, precision=each) for each in PRECISIONS]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model", metavar="RUN|base")
    parser.add_argument("--clips", type=int, default=50)
    options = parser.parse_args(arguments)
    corpus = manifest.read_corpus(options.manifest)
    rows = [row for row in manifest.read(options.manifest) if row.split == "test" and row.video and not row.video.start]
    apart, same = [], 0
    rows = rows[:: max(1, len(rows) // options.clips)][: options.clips]
    precise, half = both(options.model, corpus.classes)
    for row in rows:
        assert row.video is not None
        file = Path(corpus.root) / row.video.path
        one, other = (each.predict(file, row.text)[0] for each in (precise, half))
        apart.append(max(abs(one.probabilities[name] - other.probabilities[name]) for name in one.probabilities))
        same += one.emotion == other.emotion
    sys.stdout.write(
        f"{len(rows)} clips: probabilities up to {max(apart):.4f} apart, the same emotion in {same / len(rows):.1%}\n"
    )


if __name__ == "__main__":
    main()
