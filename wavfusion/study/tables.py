"""Tables of trainings: the rows, and what a paper states and claims of them; tables 1 to 6 are shipped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from wavfusion.comparators.linear import COMPARATORS
from wavfusion.errors import ConfigError, nearest
from wavfusion.experiments import experiment
from wavfusion.experiments.experiment import Experiment
from wavfusion.files import Constraint, read_yaml, validated
from wavfusion.model.config import WavFusionConfig

FIGURES = ("accuracy", "weighted_f1")
OF_ALL = ("preset", "train.epochs", "train.patience")  # settings for all rows that other systems take, too

Percent = Annotated[float, Constraint("percent from 0 to 100", lambda value: 0 <= value <= 100)]


@dataclass(frozen=True)
class Stated:
    """Percent by figure."""

    accuracy: Percent | None = None
    weighted_f1: Percent | None = None


@dataclass(frozen=True)
class TableSetting:
    """One row of a table.

    Attributes:
        settings: what differs from the base experiment, by dotted key; None = a comparator, or another system, which is
            not trained.
        comparator: a name of `comparators.linear.COMPARATORS`, trained and tested on the same parts.
        system: a shipped experiment that the row is trained by in place of the base; `settings` differ from it, and
            `published` may stand beside.
        paper: the paper's figures of a row that is trained.
        published: what another system's authors published.
        extra: not in the printed table; trained only on request.
    """

    name: str
    settings: dict[str, Any] | None = None
    comparator: str | None = None
    system: str | None = None
    paper: Stated | None = None
    published: Stated | None = None
    extra: bool = False

    def __post_init__(self) -> None:
        kinds = (self.comparator, self.system or self.settings, None if self.system else self.published)
        if sum(each is not None for each in kinds) != 1:
            wanted = "settings (a row to train), a system, a comparator, or published figures (another system)"
            raise ConfigError(f"{self.name}: expected {wanted}")
        if self.system is not None and self.system not in experiment.shipped_experiments():
            known = experiment.shipped_experiments()
            raise ConfigError(f"{self.name}: no system {self.system!r}; {nearest(self.system, known)}")
        if self.comparator is not None and self.comparator not in COMPARATORS:
            raise ConfigError(
                f"{self.name}: no comparator {self.comparator!r}; {nearest(self.comparator, COMPARATORS)}"
            )
        if self.settings and "seed" in self.settings:
            raise ConfigError(f"{self.name}: expected no seed of its own (--seeds gives all rows the same), found one")

    @property
    def trained(self) -> bool:
        """Whether the row is trained."""
        return self.settings is not None or self.system is not None

    @property
    def stated(self) -> dict[str, float]:
        """The figures that somebody has stated of this row, in percent."""
        figures = asdict(self.paper or self.published or Stated())
        return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class Claim:
    """The claim that one row is better than another."""

    better: str
    than: str

    def __post_init__(self) -> None:
        if self.better == self.than:
            raise ConfigError(f"expected a claim about two rows, found {self.better!r} twice")


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """A table as it is written: trainings on one corpus, and what is claimed of them."""

    title: str
    corpus: str
    rows: list[TableSetting]
    claims: list[Claim] | None = None


@dataclass(frozen=True, kw_only=True)
class Table(TableFile):
    """A table with the name of its file."""

    name: str

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ConfigError(f"{self.name}: expected each row once, found {', '.join(names)}")
        for row in (row for claim in self.claims or () for row in (claim.better, claim.than)):
            if row not in names:
                raise ConfigError(f"{self.name}: a claim about {row!r}, which is no row; {nearest(row, names)}")

    def comparators(self, extra: bool) -> list[str]:
        """The comparators that rows name; `extra` takes rows that are not printed, too."""
        return [row.comparator for row in self.rows if row.comparator and (extra or not row.extra)]

    def experiments(self, base: str, seed: int, common: Mapping[str, str], extra: bool) -> dict[str, Experiment]:
        """The experiment of every row that is trained, by the row's name.

        `common` are settings of all rows, of which systems take `OF_ALL` alone; a row's own come after them. `extra`
        takes rows that are not printed, too.
        """
        found = {}
        for row in self.rows:
            if not row.trained or (row.extra and not extra):
                continue
            given = {key: each for key, each in common.items() if row.system is None or key in OF_ALL}
            try:
                own = {key: _typed(value) for key, value in (row.settings or {}).items()}
                settings = {**given, **own, "seed": str(seed)}
                found[row.name] = experiment.read_experiment(row.system or base, settings)
            except ConfigError as error:
                raise ConfigError(f"{self.name}, row {row.name!r}: {error}") from None
        return found


def shipped_tables() -> list[str]:
    """Names of the tables in the package."""
    names = (entry.name for entry in experiment.FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.startswith("table"))


def closest_row(corpus: str, model: Mapping[str, Any]) -> tuple[list[str], dict[str, float], list[str]] | None:
    """Find the paper's printed row of a corpus that is closest to a model, given its settings as in an experiment file.

    Returns:
        The row's names (one training stands in several tables), its figures in percent, and the model's settings that
        differ, `lvc_pool mean (sum)` with the paper's in brackets; None where the paper has no such corpus.
    """
    found: dict[tuple[str, ...], tuple[list[str], dict[str, float]]] = {}
    values = flat(model)
    for table in (each for each in map(read_table_file, shipped_tables()) if each.corpus == corpus):
        stated = {row.name: row.stated for row in table.rows}
        for name, each in table.experiments("paper", 0, {}, extra=False).items():
            if each.system is not None or each.context != "off":
                continue
            paper = flat(asdict(each.model.with_layers(WavFusionConfig.num_layers, WavFusionConfig.fusion_layers)))
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
    """Read a table: `table3`, `3`, or a file.

    Raises:
        ConfigError: no such table; or a key, row, figure or setting in it that does not exist; names file and place.
    """
    known = f"table{name}" if name.isdecimal() else name
    path: Traversable | Path = Path(name)
    if known in shipped_tables():
        path = experiment.FOLDER / f"{known}.yaml"
    elif not path.is_file():
        raise ConfigError(f"no table and no file {name!r}: {nearest(name, shipped_tables())}")
    values = read_yaml(path)
    for row in values["rows"] if isinstance(values.get("rows"), list) else []:
        if isinstance(row, dict) and row.get("settings", ...) is None:
            row["settings"] = {}  # nothing after `settings:` is no other system
    try:
        table = Table(name=Path(str(path)).stem, **vars(validated(TableFile, values, path)))
        table.experiments("paper", 0, {}, extra=True)  # a setting that does not exist is better found now
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    return table


def _typed(value: Any) -> str:
    """A value as it would be typed behind its dotted key."""
    return f"[{_text(value)}]" if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    """A value in a word."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
