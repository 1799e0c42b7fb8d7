"""What an answer's reader must know of the model that gave it: its training data, its UAR and what a guess reaches."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavfusion.runs.folder import Run
from wavfusion.runs.origin import training_data_of
from wavfusion.runs.results import chance_of, describe_uar, near_chance, read_metrics, uar_interval

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A model in brief, as it stands beside its predictions.

    Attributes:
        name: of its folder, or its hub id.
        trained_on: corpus, utterances and speakers of its training part, in words.
        generated: they were generated voices and faces; None where that is not known.
        tested_on: the utterances of `uar`, in words; None without figures.
        uar: its mean recall, from 0 to 1, with all of its modalities.
        uar_interval: of 95 %, for utterances like those of the test part.
        chance: the UAR of a guess.
        warnings: why its answers are not to be relied on.
    """

    name: str
    trained_on: str
    generated: bool | None
    chance: float
    tested_on: str | None = None
    uar: float | None = None
    uar_interval: list[float] | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self) -> None:
        """Log its warnings."""
        for each in self.warnings:
            log.warning(each)

    def __str__(self) -> str:
        """Describe the model in one line."""
        reached = "unknown"
        if self.uar is not None:
            reached = f"{describe_uar(self.uar, self.uar_interval)} on {self.tested_on}"
        return f"model {self.name}: trained on {self.trained_on}; UAR {reached}, chance {self.chance:.1%}"


def make_card(trained: Run) -> Card:
    """Make the card of a RUN from its own files; what one from an older version does not tell is unknown."""
    data = training_data_of(trained.folder)
    name = trained.name or trained.folder.resolve().name
    try:
        metrics = read_metrics(trained.folder)
        figures: dict[str, Any] = {
            "chance": chance_of(metrics),
            "tested_on": f"{metrics['n']} utterances of part {metrics.get('part', 'test')}",
            "uar": float(metrics["uar"]),
            "uar_interval": uar_interval(metrics),
        }
    except Exception:  # a damaged file shows in many ways, and a model is of use without its figures
        return Card(name, str(data), data.generated, 1 / len(trained.classes), warnings=_warnings(name, data.generated))
    return Card(name, str(data), data.generated, **figures, warnings=_warnings(name, data.generated, metrics))


def _warnings(name: str, generated: bool | None, metrics: Mapping[str, Any] | None = None) -> list[str]:
    found = []
    if generated:
        found.append(f"model {name}: trained on generated voices and faces: its labels of real people mean nothing")
    if metrics is not None and (doubt := near_chance(metrics)):
        found.append(f"model {name}: {doubt}")
    return found
