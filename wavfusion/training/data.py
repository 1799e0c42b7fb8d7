"""What a training is given: utterances, their protocol and their stored features; settings that the features decide."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wavfusion import manifest
from wavfusion.corpora.protocol import Protocol, resolve
from wavfusion.errors import ConfigError
from wavfusion.experiments.experiment import Experiment, Training
from wavfusion.features.augment import read_kinds
from wavfusion.features.clips import Media
from wavfusion.features.dataset import choose_layers
from wavfusion.features.store import FeatureSet, Store
from wavfusion.manifest import Utterance


@dataclass(frozen=True)
class Data:
    """Utterances, their protocol and their stored features."""

    utterances: Sequence[Utterance]
    protocol: Protocol
    store: Store
    media: Media
    manifest_path: str = ""

    def part(self, name: str) -> list[Utterance]:
        """Return the utterances of `train`, `valid` or `test`."""
        chosen = set(self.protocol.ids(name))
        return [row for row in self.utterances if row.id in chosen]


def read_data(
    manifest_path: Path,
    store: Path,
    protocol: str | Protocol | None = None,
    fold: int = 1,
    selected_on: str = "valid",
    where: str | None = None,
) -> Data:
    """Read a manifest, resolve one fold of its protocol, unless one is given, and open the store.

    `where` divides only the rows of which it holds (`manifest.parse_where`).

    Raises:
        CorpusError: one of them is missing or damaged.
        ConfigError: no such protocol.
    """
    utterances, features = manifest.read(manifest_path, where), Store(store)
    corpus = manifest.read_corpus(manifest_path)
    if not isinstance(protocol, Protocol):
        protocol = resolve(protocol, utterances, corpus.classes, fold, selected_on, where)
    return Data(utterances, protocol, features, Media(features, corpus.root, corpus.root), str(manifest_path))


def resolved(experiment: Experiment, features: FeatureSet) -> Experiment:
    """Fill in the preset of the stored features, and its layers and learning rates where the experiment has none."""
    names = ("pretrained_rate", "new_rate")
    rates = {name: getattr(features, name) for name in names if getattr(experiment.train, name) is None}
    model, training = choose_layers(experiment.model, features), choose_augment(experiment.train, features)
    return replace(experiment, preset=features.preset, model=model, train=replace(training, **rates))


def choose_augment(training: Training, features: FeatureSet) -> Training:
    """Fill in the changes of the stored variants where variants are wanted; raises ConfigError if there are none."""
    if not training.variants:
        return training
    augment = features.augment if training.augment is None else read_kinds(training.augment)
    if not augment:
        raise ConfigError(
            f"train.variants: expected variants among the features of preset {features.preset!r}, found none; "
            f"extract --variants {training.variants}"
        )
    return replace(training, augment=augment)
