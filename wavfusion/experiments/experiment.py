"""One experiment: a strict, typed YAML file, or the name of one that ships with the package (paper, section 4)."""

import importlib.resources
import math
from copy import deepcopy
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import parse_yaml, read_yaml, validated
from wavfusion.model.config import Switches, require_setting

UNSAID = {"system": None, "context": "off"}  # keys that are not written with these values
OF_SYSTEM = "system.options."  # dotted keys below are named by the system's own class
FOLDER = importlib.resources.files("wavfusion") / "experiments"


@dataclass(frozen=True)
class Training:
    """How a model is trained (paper, section 4.2).

    Attributes:
        batch_size: utterances to a step.
        epochs: at most.
        patience: epochs without a better validation weighted F1 before training stops.
        pretrained_rate: learning rate of tensors that a checkpoint filled; None takes the preset's.
        new_rate: learning rate of all others; None takes the preset's.
        layer_decay: factor of the pretrained rate from each trained audio layer to the one below it.
        average: the model is the exponential moving average of the weights over the steps, with this decay (such as
            0.99); 0 = the last weights themselves.
        weight_decay: of AdamW; none on biases, norms and codewords.
        warmup: share of the steps in which the rates rise from 0; they fall linearly to 0 afterwards.
        clip: largest norm of the gradient.
        precision: `auto` = bf16 where the device has it, else fp32.
        mode: `cached` = audio features from the store; `live` = the frozen audio encoder runs at every step;
            `scratch` = audio encoder and all layers learn from random weights.
        fast: false = the baseline (docs/measurements/performance.md), which draws its random masks in another order.
        class_weights: factors of emotions in the task loss in place of inverse frequencies (`model.task_loss:
            balanced`); 1 for one that is not named, and only ratios count.
        resident: hold the stored features of the training part in the device's memory; None = on a GPU where they fit.
        variants: how many augmented variants of an utterance's audio the store holds for training, which draws one of
            them or the utterance itself in every epoch (`extract --variants`).
        augment: the kinds of changes in them (`features.augment.KINDS`); None = those that were stored last.
    """

    batch_size: int = 32
    epochs: int = 30
    patience: int = 8
    pretrained_rate: float | None = None
    new_rate: float | None = None
    layer_decay: float = 1.0
    average: float = 0.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    mode: Literal["cached", "live", "scratch"] = "cached"
    fast: bool = True
    resident: bool | None = None
    class_weights: dict[str, float] | None = None
    variants: int = 0
    augment: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            require_setting(getattr(self, name) >= 1, f"train.{name}", "1 or more", getattr(self, name))
        for name in ("pretrained_rate", "new_rate", "weight_decay"):
            value = getattr(self, name)
            require_setting(value is None or 0 <= value < math.inf, f"train.{name}", "0 or more", value)
        for name in ("warmup", "average"):
            value = getattr(self, name)
            require_setting(0 <= value < 1, f"train.{name}", "a share from 0 to below 1", value)
        require_setting(0 < self.layer_decay <= 1, "train.layer_decay", "a factor above 0, up to 1", self.layer_decay)
        require_setting(self.clip > 0, "train.clip", "more than 0", self.clip)
        weights = self.class_weights or {}
        positive = all(0 <= value < math.inf for value in weights.values())
        require_setting(positive, "train.class_weights", "numbers of 0 or more", weights)
        fits = not self.resident or (self.mode == "cached" and self.fast)
        found = f"train.mode {self.mode} and train.fast {str(self.fast).lower()}"
        require_setting(fits, "train.resident", "train.mode cached and train.fast true", found)
        require_setting(self.variants >= 0, "train.variants", "0 or more", self.variants)
        stored = not self.variants or self.mode == "cached"
        require_setting(stored, "train.variants", "train.mode cached, which takes them from the store", self.mode)
        meant = self.augment is None or self.variants > 0
        require_setting(meant, "train.augment", "train.variants of 1 or more, which it describes", self.variants)


@dataclass(frozen=True)
class System:
    """A system over dialogues that is trained in the place of WavFusion (docs/reference/systems.md).

    Of `model` it takes the modalities and the task loss, of `train` batches (of whole dialogues), epochs, patience, the
    new rate, weight decay and clip.

    Attributes:
        name: which one.
        options: of its network, by the names of its page.
        optimiser: AdamW, or Adam, whose weight decay joins the gradient.
        rate_decay: factor of the learning rate from each epoch to the next.
        turns: the input: turns of a dialogue with one of the emotions, or all its turns.
    """

    name: Literal[
        "dialoguetrm",
        "hitrans",
        "dialogxl",
        "mmgcn",
        "cogmen",
        "mmdfn",
        "m2fnet",
        "unimse",
        "haan",
        "turn_mlp",
        "turn_gru",
    ]
    options: dict[str, Any] = field(default_factory=dict)
    optimiser: Literal["adamw", "adam"] = "adamw"
    rate_decay: float = 1.0
    turns: Literal["labelled", "all"] = "labelled"

    def __post_init__(self) -> None:
        require_setting(0 < self.rate_decay <= 1, "system.rate_decay", "a factor above 0, up to 1", self.rate_decay)


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a training but its data.

    Attributes:
        preset: of the features to use; None where the store holds one preset's.
        seed: of initialisation, order, dropout.
        model: the choices of structure.
        train: optimiser and schedule.
        system: what is trained in the place of WavFusion; None = WavFusion.
        context: which turns around an utterance WavFusion sees: none, those before it, or the whole dialogue.
    """

    preset: str | None = None
    seed: int = 0
    model: Switches = field(default_factory=Switches)
    train: Training = field(default_factory=Training)
    system: System | None = None
    context: Literal["off", "past", "whole"] = "off"

    def __post_init__(self) -> None:
        alone = self.system is None or self.context == "off"
        require_setting(alone, "context", "off beside a system, which has its own", self.context)
        require_setting(0 <= self.seed < 2**32, "seed", f"0 to {2**32 - 1}", self.seed)
        fits = self.train.class_weights is None or self.model.task_loss == "balanced"
        found = f"model.task_loss {self.model.task_loss}"
        require_setting(fits, "train.class_weights", "model.task_loss balanced, whose weights they replace", found)

    def to_plain(self) -> dict[str, Any]:
        """Return the nested values, without `system` and `context` where there are none."""
        return {name: value for name, value in asdict(self).items() if name not in UNSAID or value != UNSAID[name]}

    def to_yaml(self) -> str:
        """Write every value out, in the form that `read_experiment` reads."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False)


def shipped_experiments() -> dict[str, Traversable]:
    """Files of the experiments in the package by their names: those of WavFusion first, then the other systems."""
    return {
        entry.name.removesuffix(".yaml"): entry
        for folder in (FOLDER, FOLDER / "systems")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml") and not entry.name.startswith("table")
    }


def read_experiment(
    name: str | None, overrides: dict[str, str] | None = None, base: dict[str, Any] | None = None
) -> Experiment:
    """Read an experiment from a file or by a shipped name such as `paper`.

    `overrides` are values by dotted key (`model.margin.weight`), as typed in a shell. Of the nested values `base` the
    file says what differs; without a name nothing does.

    Raises:
        ConfigError: no such file or name, an unknown key (the nearest is named), or a value of the wrong kind.
    """
    values = _joined(deepcopy(base or {}), {} if name is None else _values(name))
    for key, text in (overrides or {}).items():
        _override(values, key, text)
    if values.get("context") is False:
        values["context"] = "off"  # which YAML takes for a truth value
    sources = [name or "experiment.yaml", *([", ".join(f"--{key}" for key in overrides)] if overrides else [])]
    return validated(Experiment, values, " and ".join(sources))


def _values(name: str) -> dict[str, Any]:
    """Read the values of a file or of a shipped experiment."""
    path: Path | Traversable = Path(name)
    if name in shipped_experiments():
        path = shipped_experiments()[name]
    elif not path.is_file():
        choices = nearest(name, shipped_experiments())
        raise ConfigError(f"experiment {name!r}: expected a file or a shipped name; {choices}")
    return without_retired(read_yaml(path))


def _joined(base: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Lay nested values over those of a base."""
    both = {
        key: _joined(base[key], value)
        for key, value in others.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **others, **both}


def without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """Drop the settings that an older version wrote into RUNs and that changed nothing in what is learned."""
    found = dict(values)
    if isinstance(found.get("train"), dict):
        found["train"] = {key: value for key, value in found["train"].items() if key != "recorded"}
    return found


def settings(kind: Any = Experiment, prefix: str = "") -> dict[str, Any]:
    """Types of everything that an experiment can set, by dotted name."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        below = next(filter(is_dataclass, (hint, *get_args(hint))), None)
        found |= {prefix + name: hint} if below is None else settings(below, f"{prefix}{name}.")
    return found


def _override(values: dict[str, Any], key: str, text: str) -> None:
    """Set a value by dotted key, as it was typed in a shell."""
    known = settings()
    if key.startswith(OF_SYSTEM):
        known[key] = Any
    if key not in known:
        raise ConfigError(f"--{key}: no such setting; {nearest(key, sorted(known))}")
    value: Any = text
    if known[key] == list[str]:
        names = text.removeprefix("[").removesuffix("]").replace("+", ",").split(",")
        value = [name.strip() for name in names if name.strip()]
    elif get_origin(known[key]) is dict or str not in (known[key], *get_args(known[key])) or text == "null":
        value = parse_yaml(text, f"--{key}")
    *above, last = key.split(".")
    for name in above:
        values = values.setdefault(name, {}) if isinstance(values, dict) else values
    if isinstance(values, dict):  # else a file's own mistake, which validation names
        values[last] = value
