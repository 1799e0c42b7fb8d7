"""The user's own corpus: a CSV, TSV or JSON-lines table whose columns are named as the fields of the manifest."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from wavfusion.corpora.reading import Exclusion, Reading, mark_missing, open_lines
from wavfusion.emotions import EMOTIONS, LABEL_SETS
from wavfusion.errors import CorpusError, nearest
from wavfusion.manifest import CHANNELS, SPLITS, AudioSpan, Channel, Utterance, VideoSpan

SUFFIXES = (".csv", ".tsv", ".jsonl")
STYLES = ("improvised", "scripted")
COLUMNS = (
    *("id", "audio", "video", "text", "emotion", "split", "speaker", "session", "dialogue", "index"),
    *("start", "end", "channel", "crop", "language", "style"),
)


class Row(NamedTuple):
    """A row of the table: the number of its line and its non-empty cells as text."""

    line: int
    cells: dict[str, str]


def read_table(root: Path, labels: str | None, down_mix: Channel) -> Reading:
    """Read a table.

    Args:
        root: the folder that the table's paths start from, with the table in it, or the table itself.
        labels: a table has one label set, so this is None.
        down_mix: for rows without a `channel`.

    Raises:
        CorpusError: no table is found, or a row is not as expected; names file and line.
    """
    path = _find_table(root)
    folder = path.parent
    utterances: list[Utterance] = []
    stripped: list[Exclusion] = []
    lines: dict[str, int] = {}
    defaults = _default_ids(path)
    for number, row in enumerate(_read_rows(path)):
        try:
            key = row.cells.get("id") if defaults is None else defaults[number]
            if key is None:
                raise ValueError("expected an id in every row or in none, found an empty one")
            if key in lines:
                raise ValueError(f"expected unique ids, found {key!r} again, first on line {lines[key]}")
            utterance = _to_utterance(key, row.cells, folder, down_mix)
        except ValueError as error:
            raise CorpusError(f"{path}:{row.line}: {error}") from error
        lines[key] = row.line
        utterances.append(utterance)
        absent = [name for name in ("audio", "video") if name in row.cells and name in utterance.missing]
        stripped += [Exclusion(key, f"{name}: no such file: {row.cells[name]}") for name in absent]
    if not utterances:
        raise CorpusError(f"expected at least one row, found none in {path}")
    return Reading(len(utterances), _classes(utterances), utterances, stripped=stripped)


def _find_table(root: Path) -> Path:
    if root.is_file():
        if root.suffix.lower() in SUFFIXES:
            return root
        raise CorpusError(f"expected a table ({', '.join(SUFFIXES)}), found {root}")
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    tables = [path for path in tables if not path.name.startswith(".")]
    if len(tables) > 1:
        tables = [path for path in tables if path.stem == "table"] or tables
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(f"expected one table ({', '.join(SUFFIXES)}) in {root}, found {found}; name the file instead")
    return tables[0]


def _default_ids(path: Path) -> list[str] | None:
    """Return an id for each row of a table without ids: the stems of the files if all differ, else the row numbers."""
    stems = []
    for row in _read_rows(path):
        if "id" in row.cells:
            return None
        stems.append(PurePosixPath(row.cells.get("audio") or row.cells.get("video") or "").stem)
    unique = len(set(stems)) == len(stems) and all(stems)
    return stems if unique else [str(number) for number in range(1, len(stems) + 1)]


def _read_rows(path: Path) -> Iterator[Row]:
    return _read_json(path) if path.suffix.lower() == ".jsonl" else _read_csv(path)


def _read_csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(open_lines(path), "excel-tab" if path.suffix.lower() == ".tsv" else "excel", strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_columns(header)
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(f"expected {len(header)} cells, found {len(cells)}")
            if any(cells):
                yield Row(
                    reader.line_num, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
                )
    except (ValueError, csv.Error) as error:
        raise error if isinstance(error, CorpusError) else CorpusError(f"{path}:{reader.line_num}: {error}") from error


def _read_json(path: Path) -> Iterator[Row]:
    for number, line in enumerate(open_lines(path), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
            if not isinstance(cells, dict):
                raise ValueError(f"expected an object, found {line.strip()[:80]!r}")
            _check_columns(list(cells))
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}:{number}: {error}") from error
        yield Row(number, {name: _cell(value) for name, value in cells.items() if value not in (None, "", [])})


def _cell(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_columns(columns: list[str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            raise ValueError(f"unknown column {name!r}: {nearest(name, COLUMNS)}")
        if columns.count(name) > 1:
            raise ValueError(f"expected each column once, found {name!r} twice")
    if not {"audio", "video", "text"} & set(columns):
        raise ValueError(f"expected a column audio, text or video, found {', '.join(columns) or 'nothing'}")


def _to_utterance(key: str, cells: dict[str, str], folder: Path, down_mix: Channel) -> Utterance:
    start, end = _number(cells, "start"), _number(cells, "end")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"expected end after start, found start {cells.get('start')}, end {cells['end']}")
    audio, video = _find(folder, cells.get("audio")), _find(folder, cells.get("video"))
    channel = cast(Channel, _choice(cells, "channel", CHANNELS) or down_mix)
    emotion = cells.get("emotion", "").strip().lower() or None
    return mark_missing(
        Utterance(
            id=key,
            corpus="table",
            split=_choice(cells, "split", SPLITS),
            session=cells.get("session"),
            dialogue=cells.get("dialogue"),
            index=_index(cells),
            speaker=cells.get("speaker"),
            audio=AudioSpan(audio, start, end, channel) if audio else None,
            video=VideoSpan(video, start, end, _crop(cells)) if video else None,
            text=cells.get("text"),
            text_source="gold" if "text" in cells else None,
            language=cells.get("language"),
            style=_choice(cells, "style", STYLES),
            emotion=emotion,
            raw_label=cells.get("emotion"),
        )
    )


def _find(folder: Path, name: str | None) -> str | None:
    """Return a file's path relative to the folder, None where there is no such file.

    Raises:
        ValueError: the path leads outside the folder; a link within it may lead anywhere, as the user put it there.
    """
    if name is None:
        return None
    path = PurePosixPath(name)
    if path.is_absolute():
        inside = [base for base in (folder.absolute(), folder.resolve()) if path.is_relative_to(base.as_posix())]
        path = path.relative_to(inside[0].as_posix()) if inside else path
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"expected a path inside {folder}, found {name!r}")
    return path.as_posix() if os.path.isfile(folder / path) else None


def _choice(cells: dict[str, str], column: str, choices: Iterable[str]) -> str | None:
    if column in cells and cells[column] not in choices:
        raise ValueError(f"unknown {column} {cells[column]!r}: {nearest(cells[column], choices)}")
    return cells.get(column)


def _number(cells: dict[str, str], column: str) -> float | None:
    if column not in cells:
        return None
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"expected {column} in seconds >= 0, found {cells[column]!r}")
    return value


def _index(cells: dict[str, str]) -> int | None:
    index = cells.get("index")
    if index is not None and not index.strip().isdecimal():
        raise ValueError(f"expected index as an integer >= 0, found {index!r}")
    return None if index is None else int(index)


def _crop(cells: dict[str, str]) -> list[int] | None:
    if "crop" not in cells:
        return None
    words = cells["crop"].replace(",", " ").split()
    edges = [int(word) for word in words if word.isdecimal()]
    if not len(words) == len(edges) == 4 or edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise ValueError(f"expected crop as `left top right bottom` in pixels, found {cells['crop']!r}")
    return edges


def _classes(utterances: list[Utterance]) -> list[str]:
    """Return the class order of the known set that has exactly these emotions, else the alphabet's."""
    found = {utterance.emotion for utterance in utterances if utterance.emotion}
    known = [*EMOTIONS.values(), *(classes for sets in LABEL_SETS.values() for classes in sets.values())]
    return next((classes for classes in known if set(classes) == found), sorted(found))
