"""A table of trainings: its rows, and what a paper states and claims of them; shipped for tables 1 to 6, or a file."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError, nearest
from wavfusion.experiments import experiment
from wavfusion.experiments.experiment import Experiment, read_yaml

FIGURES = ("accuracy", "weighted_f1")


@dataclass(frozen=True)
class TableSetting:
    """One row of a table.

    Attributes:
        settings: what differs from the base experiment, by dotted key; None = another system, which is not trained.
        stated: percent by figure: the paper's number of this row, or what another system's authors published.
        extra: not in the printed table; trained only on request.
    """

    name: str
    settings: dict[str, str] | None
    stated: dict[str, float] = field(default_factory=dict)
    extra: bool = False


@dataclass(frozen=True)
class Claim:
    """The claim that one row is better than another."""

    better: str
    than: str


@dataclass(frozen=True)
class Table:
    """A table of trainings on one corpus."""

    name: str
    title: str
    corpus: str
    rows: list[TableSetting]
    claims: list[Claim]

    def experiments(self, base: str, seed: int, common: Mapping[str, str], extra: bool) -> dict[str, Experiment]:
        """The experiment of every row that is trained, by the row's name.

        Args:
            base: a file or a shipped experiment.
            seed: of all rows.
            common: settings of all rows; a row's own come after them.
            extra: the rows that are not printed, too.
        """
        found = {}
        for row in self.rows:
            if row.settings is None or (row.extra and not extra):
                continue
            try:
                found[row.name] = experiment.read_experiment(base, {**common, **row.settings, "seed": str(seed)})
            except ConfigError as error:
                raise ConfigError(f"{self.name}, row {row.name!r}: {error}") from None
        return found


def shipped_tables() -> list[str]:
    """Names of the tables in the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.startswith("table"))


def closest_row(corpus: str, model: Mapping[str, Any]) -> tuple[list[str], dict[str, float], list[str]] | None:
    """Find the paper's printed row that is closest to a model.

    Args:
        corpus: that the model was trained on.
        model: its settings, as an experiment's file has them.

    Returns:
        The row's names (one training stands in several tables), its figures in percent, and the model's settings that
        differ, `lvc_pool mean (sum)` with the paper's in brackets; None where the paper has no such corpus.
    """
    found: dict[tuple[str, ...], tuple[list[str], dict[str, float]]] = {}
    values = flat(model)
    for table in (each for each in map(read_table_file, shipped_tables()) if each.corpus == corpus):
        stated = {row.name: row.stated for row in table.rows if row.settings is not None}
        for name, each in table.experiments("paper", 0, {}, extra=False).items():
            paper = flat(asdict(each.model))
            differs = tuple(f"{key} {values.get(key)} ({paper[key]})" for key in paper if values.get(key) != paper[key])
            found.setdefault(differs, ([], stated[name]))[0].append(f"{table.title}: {name}")
    if not found:
        return None
    least = min(found, key=lambda differs: (any(each.startswith("modalities ") for each in differs), len(differs)))
    return *found[least], list(least)


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Lay settings out by dotted name, as they would be typed."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        below = flat(value) if isinstance(value, Mapping) else {"": _text(value)}
        found |= {f"{key}.{name}" if name else str(key): text for name, text in below.items()}
    return found


def read_table_file(name: str) -> Table:
    """Read a table.

    Args:
        name: `table3`, `3`, or a file.

    Raises:
        ConfigError: no such table; or a key, row, figure or setting in it that does not exist; names file and place.
    """
    known = f"table{name}" if name.isdecimal() else name
    path: Traversable | Path = Path(name)
    if known in shipped_tables():
        path = _folder() / f"{known}.yaml"
    elif not path.is_file():
        raise ConfigError(f"no table and no file {name!r}: {nearest(name, shipped_tables())}")
    try:
        return _parse(Path(str(path)).stem, read_yaml(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise ConfigError(
            f"{path}: expected title, corpus, rows and perhaps claims (docs/reproduce.md), found {found}"
        ) from None


def _folder() -> Traversable:
    return importlib.resources.files("wavfusion") / "experiments"


def _parse(name: str, values: Mapping[str, Any]) -> Table:
    _known(values, ("title", "corpus", "rows", "claims"), name)
    rows = [_row(each) for each in values["rows"]]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"{name}: expected each row once, found {', '.join(names)}")
    claims = [_claim(each, names, name) for each in values.get("claims") or []]
    table = Table(name, str(values["title"]), str(values["corpus"]), rows, claims)
    table.experiments("paper", 0, {}, extra=True)  # a setting that does not exist is better found now
    return table


def _claim(values: Mapping[str, Any], names: list[str], where: str) -> Claim:
    _known(values, ("better", "than"), where)
    claim = Claim(str(values["better"]), str(values["than"]))
    for row in (claim.better, claim.than):
        if row not in names:
            raise ConfigError(f"{where}: a claim about {row!r}, which is no row; {nearest(row, names)}")
    if claim.better == claim.than:
        raise ConfigError(f"{where}: expected a claim about two rows, found {claim.better!r} twice")
    return claim


def _row(values: Mapping[str, Any]) -> TableSetting:
    name = str(values["name"])
    _known(values, ("name", "settings", "paper", "published", "extra"), name)
    if ("settings" in values) == ("published" in values):
        raise ConfigError(f"{name}: expected settings (a row to train) or published figures (another system)")
    stated = values.get("paper") or values.get("published") or {}
    _known(stated, FIGURES, name)
    settings = (values["settings"] or {}) if "settings" in values else None
    if settings and "seed" in settings:
        raise ConfigError(f"{name}: expected no seed of its own (--seeds gives all rows the same), found one")
    extra = values.get("extra", False)
    if not isinstance(extra, bool):
        raise ConfigError(f"{name}: expected extra true or false, found {extra!r}")
    return TableSetting(
        name,
        None if settings is None else {str(key): _text(value) for key, value in settings.items()},
        {figure: _percent(number, f"{name}: {figure}") for figure, number in stated.items()},
        extra,
    )


def _percent(number: Any, where: str) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise ConfigError(f"{where}: expected percent from 0 to 100, found {number!r}")
    return float(number)


def _text(value: Any) -> str:
    """A value as it would be typed in a shell."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _known(values: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}: {nearest(str(key), names)}")
