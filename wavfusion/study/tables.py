"""Tables of trainings: the rows, and what a paper states and claims of them; tables 1 to 6 are shipped."""

import importlib.resources
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from wavfusion.errors import ConfigError, nearest
from wavfusion.experiments import experiment
from wavfusion.experiments.experiment import Experiment
from wavfusion.files import Constraint, read_yaml, validated

FIGURES = ("accuracy", "weighted_f1")

Percent = Annotated[float, Constraint("percent from 0 to 100", lambda value: 0 <= value <= 100)]


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

    def __post_init__(self) -> None:
        if self.better == self.than:
            raise ConfigError(f"expected a claim about two rows, found {self.better!r} twice")


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
        corpus: the corpus that the model was trained on.
        model: its settings, as in an experiment file.

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
    values = read_yaml(path)
    for row in values["rows"] if isinstance(values.get("rows"), list) else []:
        if isinstance(row, dict) and row.get("settings", ...) is None:
            row["settings"] = {}  # nothing after `settings:` is no other system
    try:
        return _table(Path(str(path)).stem, validated(_TableFile, values, path))
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _folder() -> Traversable:
    return importlib.resources.files("wavfusion") / "experiments"


@dataclass(frozen=True)
class _Figures:
    accuracy: Percent | None = None
    weighted_f1: Percent | None = None


@dataclass(frozen=True)
class _RowFile:
    """A row as a file has it: one to train, with `settings`, or another system, with `published` figures."""

    name: str
    settings: dict[str, Any] | None = None
    paper: _Figures | None = None
    published: _Figures | None = None
    extra: bool = False

    def __post_init__(self) -> None:
        if (self.settings is None) == (self.published is None):
            raise ConfigError(f"{self.name}: expected settings (a row to train) or published figures (another system)")
        if self.settings and "seed" in self.settings:
            raise ConfigError(f"{self.name}: expected no seed of its own (--seeds gives all rows the same), found one")


@dataclass(frozen=True)
class _TableFile:
    title: str
    corpus: str
    rows: list[_RowFile]
    claims: list[Claim] | None = None


def _table(name: str, file: _TableFile) -> Table:
    names = [row.name for row in file.rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"{name}: expected each row once, found {', '.join(names)}")
    for claim in file.claims or []:
        for row in (claim.better, claim.than):
            if row not in names:
                raise ConfigError(f"{name}: a claim about {row!r}, which is no row; {nearest(row, names)}")
    table = Table(name, file.title, file.corpus, [_row(each) for each in file.rows], file.claims or [])
    table.experiments("paper", 0, {}, extra=True)  # a setting that does not exist is better found now
    return table


def _row(row: _RowFile) -> TableSetting:
    figures = asdict(row.paper or row.published or _Figures())
    stated = {name: value for name, value in figures.items() if value is not None}
    settings = None if row.settings is None else {key: _text(value) for key, value in row.settings.items()}
    return TableSetting(
        row.name, settings, {name: value for name, value in stated.items() if value is not None}, row.extra
    )


def _text(value: Any) -> str:
    """A value as it would be typed in a shell."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
