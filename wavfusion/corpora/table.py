"""The user's own corpus: a table whose columns are named as the fields of the manifest, or mapped to them."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import EMOTIONS, LABEL_SETS
from wavfusion.corpora.reading import ReaderInput, Reading, Rows
from wavfusion.errors import ConfigError, CorpusError, nearest
from wavfusion.manifest import CHANNELS, SPLITS, AudioSpan, Channel, Exclusion, Utterance, VideoSpan

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
OURS = ("manifest.jsonl", "media.jsonl")  # written by `prepare`, perhaps into the same folder
STYLES = ("improvised", "scripted")
COLUMNS = tuple(
    "id audio video text emotion split speaker session dialogue index start end channel crop language style".split()
)
Cells: TypeAlias = dict[str, str]  # the non-empty cells of a row as text, by field of the manifest


def read_table(source: ReaderInput) -> Reading:
    """Read a table in the root, or that is the root; its rows are checked once and read again at every use.

    The down-mix is for rows without a `channel`.
    """
    path = _find_table(source.root)
    naming = _naming(path, source.columns)
    stripped: list[Exclusion] = []
    lines: dict[str, int] = {}
    emotions: set[str] = set()
    for line, cells, utterance in _read_utterances(path, source, naming):
        key = utterance.id
        if key in lines:
            raise CorpusError(f"{path}:{line}: expected unique ids, found {key!r} again, first on line {lines[key]}")
        lines[key] = line
        emotions |= {utterance.emotion} if utterance.emotion else set()
        absent = [name for name in ("audio", "video") if name in cells and name in utterance.missing]
        stripped += [Exclusion(key, f"{name}: no such file: {cells[name]}") for name in absent]
    if not lines:
        raise CorpusError(f"expected at least one row, found none in {path}")
    # The class order of the known set that has exactly these emotions, else the alphabetical one.
    known = [*EMOTIONS.values(), *(classes for sets in LABEL_SETS.values() for classes in sets.values())]
    classes = next((classes for classes in known if set(classes) == emotions), sorted(emotions))
    utterances = Rows(lambda: (each for *_, each in _read_utterances(path, source, naming)), len(lines))
    differences = reading.compare_encodings(path.parent, [path.name] * (path.suffix.lower() != ".parquet"))
    return Reading(rows=len(lines), classes=classes, utterances=utterances, stripped=stripped, differences=differences)


def _find_table(root: Path) -> Path:
    if root.is_file():
        if root.suffix.lower() in SUFFIXES:
            return root
        raise CorpusError(f"expected a table ({', '.join(SUFFIXES)}), found {root}")
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    # Written by `prepare` where it is to write into the corpus's own folder.
    tables = [path for path in tables if not path.name.startswith(".") and path.name not in OURS]
    if len(tables) > 1:
        tables = [path for path in tables if path.stem == "table"] or tables
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(f"expected one table ({', '.join(SUFFIXES)}) in {root}, found {found}; name the file instead")
    return tables[0]


def _naming(path: Path, columns: Mapping[str, str]) -> str:
    """Choose the ids of the rows: given ones, else the stems of their files if all differ, else their numbers."""
    stems: set[str] = set()
    unique = True
    for _, cells in _read_rows(path, columns):
        if "id" in cells:
            return "id"
        stem = _stem(cells)
        unique = unique and bool(stem) and stem.isprintable() and stem not in stems
        stems |= {stem} if unique else set()
    return "stem" if unique else "number"


def _stem(cells: Cells) -> str:
    return PurePosixPath(cells.get("audio") or cells.get("video") or "").stem


def _read_utterances(path: Path, source: ReaderInput, naming: str) -> Iterator[tuple[int, Cells, Utterance]]:
    """Yield the number of each row's line, its cells and its utterance."""
    for number, (line, cells) in enumerate(_read_rows(path, source.columns), start=1):
        try:
            key = cells.get("id") if naming == "id" else _stem(cells) if naming == "stem" else str(number)
            if key is None:
                raise ValueError("expected an id in every row or in none, found an empty one")
            if not key.isprintable():
                raise ValueError(f"expected an id of one printable line, found {_short(key)}")
            utterance = _to_utterance(key, cells, path.parent, source.down_mix)
        except ValueError as error:
            raise CorpusError(f"{path}:{line}: {error}") from error
        yield line, cells, utterance


def _read_rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    return {".jsonl": _read_json, ".parquet": _read_parquet}.get(path.suffix.lower(), _read_csv)(path, columns)


def _read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.reader(reading.open_lines(path), dialect, strict=True)
    try:
        header = next(reader, [])
        places = {field: header.index(name) for field, name in _fields(header, columns).items()}
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(f"expected {len(header)} cells, found {len(cells)}")
            if any(cells):
                yield reader.line_num, {field: cells[at] for field, at in places.items() if cells[at].strip()}
    except (ValueError, csv.Error) as error:
        raise reading.broken_row(path, reader.line_num, error) from error


def _read_json(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    not_found = set(columns.values())
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(reading.open_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = _parse_object(line)
            if (keys := tuple(values)) not in known:
                not_found -= values.keys()
                # An object may leave out what is empty.
                known[keys] = _fields(list(dict.fromkeys([*keys, *columns.values()])), columns)
            cells = _cells(values, known[keys])
        except ValueError as error:
            raise reading.broken_row(path, number, error) from error
        yield number, cells
    if not_found:
        raise CorpusError(f"{path}: expected the column {min(not_found)!r} in some row, found it in none")


def _parse_object(line: str) -> dict[str, Any]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected an object of JSON, found {_short(line.strip())}: {error}") from error
    if not isinstance(cells, dict):
        raise ValueError(f"expected an object, found {_short(line.strip())}")
    return cells


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"expected pyarrow to read {path}, found none: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            fields = _fields(file.schema_arrow.names, columns)
            batches = file.iter_batches(batch_size=1024, columns=list(fields.values()))
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from ((number, _cells(row, fields)) for number, row in enumerate(rows, start=1))
    except (ValueError, OSError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error


def _cells(values: Mapping[str, Any], fields: Mapping[str, str]) -> Cells:
    return {field: text for field, name in fields.items() if (text := _cell(values.get(name)))}


def _cell(value: Any) -> str:
    """Write a value as a cell of a CSV; null and NaN as an empty one."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value)):
        raise ValueError("expected a text, a number or a list of them in each cell, found one within another")
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    if value is None or value != value:
        return ""
    # Programs write integers as floats in a column with an empty cell.
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return text if text.strip() else ""


def _fields(header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Map the fields of the manifest that a table has to its columns."""
    names: dict[str, str] = {}
    for column in header:
        name = column.strip().lower()
        if names.setdefault(name, column) != column or header.count(column) > 1:
            raise ValueError(f"expected each column once, found {name!r} twice")
        if not columns and name not in COLUMNS:
            raise ValueError(f"unknown column {name!r}: {nearest(name, COLUMNS)}; or map yours with --columns")
    for field, name in columns.items():
        if name not in header:
            raise ValueError(f"expected the column {name!r} for {field!r}, found none: {nearest(name, header)}")
    found = {field: names[field] for field in COLUMNS if field in names} | dict(columns)
    if not {"audio", "video", "text"} & found.keys():
        raise ValueError(f"expected a column audio, text or video, found {', '.join(header) or 'nothing'}")
    return found


def _to_utterance(key: str, cells: Cells, folder: Path, down_mix: Channel) -> Utterance:
    start, end = _number(cells, "start"), _number(cells, "end")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"expected end after start, found start {cells.get('start')}, end {cells['end']}")
    audio, video = _find(folder, cells.get("audio")), _find(folder, cells.get("video"))
    channel = cast(Channel, _choice(cells, "channel", CHANNELS) or down_mix)
    return reading.mark_missing(
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
            emotion=cells.get("emotion", "").strip().lower() or None,
            raw_label=cells.get("emotion"),
        )
    )


def _find(folder: Path, name: str | None) -> str | None:
    """Return a file's path relative to the folder, None where there is no such file."""
    if name is None:
        return None
    path = reading.path_below(name, folder, folder.absolute(), folder.resolve())
    return path if os.path.isfile(folder / path) else None


def _choice(cells: Cells, column: str, choices: Iterable[str]) -> str | None:
    if column in cells and cells[column] not in choices:
        raise ValueError(f"unknown {column} {cells[column]!r}: {nearest(cells[column], choices)}")
    return cells.get(column)


def _number(cells: Cells, column: str) -> float | None:
    if column not in cells:
        return None
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"expected {column} in seconds >= 0, found {cells[column]!r}")
    return value


def _index(cells: Cells) -> int | None:
    if "index" in cells and not reading.is_count(cells["index"]):
        raise ValueError(f"expected index as an integer >= 0, found {_short(cells['index'])}")
    return int(cells["index"]) if "index" in cells else None


def _crop(cells: Cells) -> list[int] | None:
    if "crop" not in cells:
        return None
    words = cells["crop"].replace(",", " ").split()
    edges = [int(word) for word in words if reading.is_count(word)]
    if not len(words) == len(edges) == 4 or edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise ValueError(f"expected crop as `left top right bottom` in pixels, found {_short(cells['crop'])}")
    return edges
