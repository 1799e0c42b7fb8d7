"""The user's own corpus: a table whose columns are named as the fields of the manifest, or mapped to them."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import EMOTIONS, LABEL_SETS
from wavfusion.corpora.lookup import Lookup
from wavfusion.corpora.reading import ReaderInput, Reading, Rows
from wavfusion.errors import ConfigError, CorpusError, counted, nearest
from wavfusion.files import parse_json, validated
from wavfusion.manifest import (
    CHANNELS,
    MODALITIES,
    MOST,
    SPLIT_NAMES,
    AudioSpan,
    Channel,
    Exclusion,
    Utterance,
    VideoSpan,
    split_names,
)

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
OURS = ("manifest.jsonl", "media.jsonl")  # written by `prepare`, perhaps into the same folder
STYLES = ("improvised", "scripted")
COLUMNS = tuple(
    "id audio video text emotion split speaker corpus session dialogue index start end channel crop language "
    "style".split()
)
# Whole cells that R, pandas and spreadsheets write for a missing value: the strings that pandas itself reads as such.
NOTHING = set("NA N/A #N/A #NA <NA> n/a NaN nan -NaN -nan None null NULL 1.#IND 1.#QNAN -1.#IND -1.#QNAN".split())
HEAD = 20  # lines from which the separator is told: a quoted name may hold line ends
AS_WRITTEN = ("text", "emotion", "audio", "video")  # cells that keep the blanks around them
Cells: TypeAlias = dict[str, str]  # the non-empty cells of a row as text, by field of the manifest


@dataclass(frozen=True)
class _Table:
    """A table, and what a first look at its rows has shown.

    Attributes:
        names: what the ids are: `id`, `stem` or `number`.
        splits: the table's names of the splits -> those of the manifest.
        fields: those that any row has.
        empty: how many cells hold a word for nothing, by field.
    """

    path: Path
    source: ReaderInput
    media: Lookup
    names: str
    splits: Mapping[str, str]
    fields: set[str]
    empty: Counter[str]


def read_table(source: ReaderInput) -> Reading:
    """Read a table in the root, or that is the root; its rows are checked once and read again at every use.

    The down-mix is for rows without a `channel`.
    """
    path = _find_table(source.root)
    table = _survey(path, source)
    stripped: list[Exclusion] = []
    lines: dict[str, int] = {}
    emotions: set[str] = set()
    absent: Counter[str] = Counter()  # cells whose file was not found, by modality
    first: dict[str, str] = {}  # of those, and of the paths in another spelling
    moved = 0
    for line, cells, utterance in _read_utterances(table):
        key = utterance.id
        if key in lines:
            raise CorpusError(f"{path}:{line}: expected unique ids, found {key!r} again, first on line {lines[key]}")
        lines[key] = line
        emotions |= {utterance.emotion} if utterance.emotion else set()
        for name, span in (("audio", utterance.audio), ("video", utterance.video)):
            if name in cells and span is None:
                absent[name] += 1
                first.setdefault(name, cells[name])
                stripped.append(Exclusion(key, f"{name}: {table.media.find(cells[name], name)[1]}"))
            elif span is not None and span.path != table.media.written(cells[name]):
                moved += 1
                first.setdefault("moved", f"{cells[name]!r} as {span.path!r}")
    if not lines:
        raise CorpusError(f"expected at least one row, found none in {path}")
    # The class order of the known set that has exactly these emotions, else the alphabetical one.
    known = [*EMOTIONS.values(), *(classes for sets in LABEL_SETS.values() for classes in sets.values())]
    classes = next((classes for classes in known if set(classes) == emotions), sorted(emotions))
    return Reading(
        rows=len(lines),
        classes=classes,
        utterances=Rows(lambda: (each for *_, each in _read_utterances(table)), len(lines)),
        stripped=stripped,
        differences=_differences(table, moved, first.get("moved")),
        modalities=[name for name in MODALITIES if name in table.fields],
        hints={name: table.media.place_of(first[name], name) for name in absent if 2 * absent[name] > len(lines)},
    )


def _survey(path: Path, source: ReaderInput) -> _Table:
    """Read a table once for what can only be known of all rows.

    The ids of the rows are given ones, else the stems of their files if all differ, else their numbers.
    """
    stems: set[str] = set()
    fields: set[str] = set()
    splits: set[str] = set()
    empty: Counter[str] = Counter()
    unique = True
    for _, cells in _read_rows(path, source.columns, empty):
        fields |= cells.keys()
        splits |= {cells["split"]} if "split" in cells else set()
        stem = _stem(cells)
        unique = unique and bool(stem) and stem.isprintable() and stem not in stems
        stems |= {stem} if unique else set()
    names = "id" if "id" in fields else "stem" if unique else "number"
    media = Lookup(source.media_root or path.parent)
    return _Table(path, source, media, names, split_names(splits), fields, empty)


def _differences(table: _Table, moved: int, example: str | None) -> list[str]:
    """Say what of a table was not taken as it is written."""
    lines = [f"split {name!r} is read as {split}" for name, split in sorted(table.splits.items()) if name != split]
    if table.empty:
        counts = ", ".join(f"{field} {number:,}" for field, number in sorted(table.empty.items()))
        lines.append(f"{counted(table.empty.total(), 'cell')} with NA, None, null or the like count as empty: {counts}")
    lines += [f"{counted(moved, 'path')} found under another spelling, such as {example}"] if moved else []
    path = table.path
    return lines + reading.compare_encodings(path.parent, [path.name] * (path.suffix.lower() != ".parquet"))


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


def _stem(cells: Cells) -> str:
    return PurePosixPath((cells.get("audio") or cells.get("video") or "").replace("\\", "/")).stem


def _read_utterances(table: _Table) -> Iterator[tuple[int, Cells, Utterance]]:
    """Yield the number of each row's line, its cells and its utterance."""
    names = table.names
    for number, (line, cells) in enumerate(_read_rows(table.path, table.source.columns, Counter()), start=1):
        try:
            key = cells.get("id") if names == "id" else _stem(cells) if names == "stem" else str(number)
            if key is None:
                raise ValueError("expected an id in every row or in none, found an empty one")
            if not key.isprintable():
                raise ValueError(f"expected an id of one printable line, found {_short(key)}")
            utterance = _to_utterance(key, cells, table)
        except ValueError as error:
            raise CorpusError(f"{table.path}:{line}: {error}") from error
        yield line, cells, utterance


def _read_rows(path: Path, columns: Mapping[str, str], empty: Counter[str]) -> Iterator[tuple[int, Cells]]:
    """Yield line and cells of each row; words for nothing are counted in `empty`, and left out like empty cells."""
    read = {".jsonl": _read_json, ".parquet": _read_parquet}.get(path.suffix.lower(), _read_csv)
    for line, cells in read(path, columns):
        empty.update(field for field, cell in cells.items() if cell.strip() in NOTHING)
        found = {field: cell for field, cell in cells.items() if cell.strip() not in NOTHING}
        yield line, {field: cell if field in AS_WRITTEN else cell.strip() for field, cell in found.items()}


def _read_csv(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    lines = reading.open_lines(path)
    head = list(islice(lines, HEAD))
    reader = csv.reader(chain(head, lines), delimiter=_delimiter(head, path, columns), strict=True)
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


def _delimiter(lines: Sequence[str], path: Path, columns: Mapping[str, str]) -> str:
    """Return what separates the cells: that by which the first line names most columns, else the ending's usual one."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","

    def fit(delimiter: str) -> tuple[int, bool, bool]:
        with suppress(csv.Error):
            header = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
            known = sum(name.strip().lower() in COLUMNS or name in columns.values() for name in header)
            return known, len(header) > 1, delimiter == usual
        return 0, False, delimiter == usual

    return max(",;\t|", key=fit)


def _read_json(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, Cells]]:
    not_found = set(columns.values())
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(reading.open_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = validated(dict, parse_json(line, "row", ValueError, numbers=False), "row")
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
            raise ValueError(
                f"unknown column {column.strip()!r}: {nearest(name, COLUMNS)}; or map yours with --columns"
            )
    for field, name in columns.items():
        if name not in header:
            raise ValueError(f"expected the column {name!r} for {field!r}, found none: {nearest(name, header)}")
    found = {field: names[field] for field in COLUMNS if field in names} | dict(columns)
    if not {"audio", "video", "text"} & found.keys():
        raise ValueError(f"expected a column audio, text or video, found {', '.join(header) or 'nothing'}")
    return found


def _to_utterance(key: str, cells: Cells, table: _Table) -> Utterance:
    start, end = _number(cells, "start"), _number(cells, "end")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"expected end after start, found start {cells.get('start')}, end {cells['end']}")
    audio, video = (table.media.find(cells[name], name)[0] if name in cells else None for name in ("audio", "video"))
    channel = cast(Channel, _choice(cells, "channel", CHANNELS) or table.source.down_mix)
    split = cells.get("split")
    if split is not None and split not in table.splits:
        raise ValueError(f"unknown split {_short(split)}: {nearest(split[:80], [*SPLIT_NAMES, 'eval'])}")
    return reading.mark_missing(
        Utterance(
            id=key,
            corpus=cells.get("corpus", "table"),
            split=table.splits[split] if split else None,
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


def _choice(cells: Cells, column: str, choices: Iterable[str]) -> str | None:
    if column in cells and cells[column] not in choices:
        raise ValueError(f"unknown {column} {_short(cells[column])}: {nearest(cells[column][:80], choices)}")
    return cells.get(column)


def _number(cells: Cells, column: str) -> float | None:
    if column not in cells:
        return None
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST:
        raise ValueError(f"expected {column} in seconds >= 0, such as 1.5, found {_short(cells[column])}")
    return value


def _index(cells: Cells) -> int | None:
    if "index" in cells and not (reading.is_count(cells["index"]) and int(cells["index"]) <= MOST):
        raise ValueError(f"expected index as an integer >= 0, found {_short(cells['index'])}")
    return int(cells["index"]) if "index" in cells else None


def _crop(cells: Cells) -> list[int] | None:
    if "crop" not in cells:
        return None
    words = cells["crop"].replace(",", " ").split()
    edges = [int(word) for word in words if reading.is_count(word)]
    if not len(words) == len(edges) == 4 or not (edges[0] < edges[2] <= MOST and edges[1] < edges[3] <= MOST):
        raise ValueError(f"expected crop as `left top right bottom` in pixels, found {_short(cells['crop'])}")
    return edges
