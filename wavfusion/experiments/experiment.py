"""One experiment: a strict, typed YAML file, or the name of one that ships with the package."""

import importlib.resources
import io
import math
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from wavfusion.errors import ConfigError, nearest
from wavfusion.model.config import Switches


@dataclass(frozen=True)
class Training:
    """How a model is trained (design G.2).

    Attributes:
        batch_size: utterances to a step.
        epochs: at most.
        patience: epochs without a better validation weighted F1 before training stops.
        pretrained_rate: learning rate of tensors that a checkpoint filled; None takes the preset's.
        new_rate: learning rate of all others; None takes the preset's.
        weight_decay: of AdamW; none on biases, norms and codewords.
        warmup: share of the steps in which the rates rise from 0; they fall linearly to 0 afterwards.
        clip: largest norm of the gradient.
        precision: `auto` = bf16 where the device has it, else fp32.
        mode: `cached` = audio features from the store; `live` = the frozen audio encoder runs at every step;
            `scratch` = audio encoder and all layers learn from random weights.
        fast: false = the plain way (docs/performance.md), which draws its random masks otherwise.
        resident: hold the stored features of the training part in the device's memory; None = on a GPU where they fit.
    """

    batch_size: int = 32
    epochs: int = 30
    patience: int = 8
    pretrained_rate: float | None = None
    new_rate: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    mode: Literal["cached", "live", "scratch"] = "cached"
    fast: bool = True
    resident: bool | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}: expected 1 or more, found {getattr(self, name)}")
        for name in ("pretrained_rate", "new_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"train.{name}: expected 0 or more, found {value}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"train.warmup: expected a share from 0 to below 1, found {self.warmup}")
        if not self.clip > 0:
            raise ConfigError(f"train.clip: expected more than 0, found {self.clip}")
        if self.resident and (self.mode != "cached" or not self.fast):
            found = f"train.mode {self.mode} and train.fast {str(self.fast).lower()}"
            raise ConfigError(f"train.resident: expected train.mode cached and train.fast true, found {found}")


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a training but its data.

    Attributes:
        preset: whose features of the store are used; None where the store holds one preset's.
        seed: of initialisation, order, dropout.
        model: the switches of section K.
        train: optimiser and schedule.
    """

    preset: str | None = None
    seed: int = 0
    model: Switches = field(default_factory=Switches)
    train: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: expected 0 to {2**32 - 1}, found {self.seed}")

    def to_yaml(self) -> str:
        """Write every value out, in the form that `read` reads."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def shipped_experiments() -> list[str]:
    """Names of the experiments in the package."""
    folder = importlib.resources.files("wavfusion") / "experiments"
    names = [entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted(name for name in names if not name.startswith("table"))


def read_experiment(name: str, overrides: dict[str, str] | None = None) -> Experiment:
    """Read an experiment.

    Args:
        name: a file, or a shipped name such as `paper`.
        overrides: values by dotted key (`model.margin.weight`), as typed in a shell.

    Raises:
        ConfigError: no such file or name, an unknown key (the nearest is named), or a value of the wrong kind.
    """
    path: Path | Traversable = Path(name)
    if name in shipped_experiments():
        path = importlib.resources.files("wavfusion") / "experiments" / f"{name}.yaml"
    elif not path.is_file():
        raise ConfigError(
            f"experiment {name!r}: expected a file or a shipped name; {nearest(name, shipped_experiments())}"
        )
    values = without_retired(read_yaml(path))
    _check_keys(values, Experiment, name)
    known = dict(_leaves(Experiment))
    typed: dict[str, str] = {}
    for key, value in (overrides or {}).items():
        if key not in known:
            raise ConfigError(f"--{key}: no such setting; {nearest(key, sorted(known))}")
        if known[key] in (bool, bool | None):
            valid = ["true", "false"] if known[key] is bool else ["true", "false", "null"]
            if value.lower() not in valid:
                raise ConfigError(f"--{key}: found {value!r}; {nearest(value, valid)}")
        bare = known[key] == list[str] and not value.startswith("[")
        typed[key] = f"[{value.replace('+', ',')}]" if bare else value
    return _parse(values, typed, name)


class _OneOfEach(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"found {name!r} for the second time", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | Traversable) -> dict[Any, Any]:
    """Read a file of keys and values; an empty one has none.

    Raises:
        ConfigError: no YAML, something else than keys and values, or a key twice; one line that names the place.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _OneOfEach)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigError(f"{path}{line}: expected YAML; {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected YAML, found {' '.join(str(error).split())[:200]}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    return values or {}


def without_retired(values: dict[Any, Any]) -> dict[Any, Any]:
    """Drop the settings that an older version wrote into RUNs and that changed nothing in what is learned."""
    found = dict(values)
    if isinstance(found.get("train"), dict):
        found["train"] = {key: value for key, value in found["train"].items() if key != "recorded"}
    return found


def _leaves(kind: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names of all settings, with their types."""
    found: list[tuple[str, Any]] = []
    for entry in fields(kind):
        default = entry.default_factory() if callable(entry.default_factory) else None
        if is_dataclass(default):
            found += _leaves(type(default), f"{prefix}{entry.name}.")
        else:
            found.append((prefix + entry.name, entry.type))
    return found


def settings() -> list[str]:
    """Dotted names of everything that an experiment can set."""
    return [key for key, _ in _leaves(Experiment)]


def _check_keys(values: dict[Any, Any], kind: Any, where: str, prefix: str = "") -> None:
    entries = {entry.name: entry for entry in fields(kind)}
    for key, value in values.items():
        if key not in entries:
            names = [prefix + name for name in entries]
            raise ConfigError(f"{where}: {prefix}{key} is no setting; {nearest(f'{prefix}{key}', names)}")
        factory = entries[key].default_factory
        default = factory() if callable(factory) else None
        if is_dataclass(default):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {prefix}{key}: expected settings below it, found {value!r}")
            _check_keys(value, type(default), where, f"{prefix}{key}.")


def _parse(values: dict[str, Any], overrides: dict[str, str], where: str) -> Experiment:
    """Let jsonargparse check every value against its type and build the dataclasses."""
    import jsonargparse  # slow, and absent on machines that are given an Experiment

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Experiment, "experiment")
    flags = [f"--experiment.{key}={value}" for key, value in overrides.items()]
    try:
        with redirect_stderr(io.StringIO()):
            parsed = parser.parse_object({"experiment": values})
            parsed = parser.parse_args(flags, namespace=parsed)
    except ConfigError:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).replace("experiment.", "").replace("--", "")
        raise ConfigError(f"{where}: {reason[:300]}") from None
    experiment: Experiment = _build(Experiment, parsed.as_dict()["experiment"])
    return experiment


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """Make a dataclass and those within it (jsonargparse's own way changes its name from 4 to 5)."""
    made = dict(values)
    for entry in fields(kind):
        default = entry.default_factory() if callable(entry.default_factory) else None
        if is_dataclass(default):
            made[entry.name] = _build(type(default), values[entry.name])
    return kind(**made)
