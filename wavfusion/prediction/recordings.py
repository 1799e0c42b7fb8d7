"""Many recordings: found in folders, each with its transcript, labelled one after the other, nothing done twice."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from wavfusion import media
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError
from wavfusion.files import read_json, require_free, write_atomic, write_json
from wavfusion.processes.pool import Lost, spread
from wavfusion.transcripts import Segment
from wavfusion.transcripts.reading import READERS, is_timed, read, read_plain_text

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# Taken out of a folder; a file that is named itself may be called as it likes.
ENDINGS = (
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".amr"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".m2ts"),
)
SETTINGS = "predict.json"  # in a folder of results: of what they are
WORDS = (*READERS, ".txt")  # endings of transcripts, in the order in which they are looked for


@dataclass(frozen=True)
class Recording:
    """A file to label.

    Attributes:
        said: words, segments with times, or nothing.
        out: its own file of results, where each has one.
    """

    file: str
    said: str | list[Segment] | None = None
    out: Path | None = None

    @property
    def words(self) -> str | None:
        """What is said, without times."""
        return self.said if isinstance(self.said, str) else None

    @property
    def segments(self) -> list[Segment] | None:
        """Who says what, and when."""
        return self.said if isinstance(self.said, list) else None


def find_recordings(names: Sequence[str], bad: list[str]) -> dict[str, Path]:
    """Take files as they are, and of folders the recordings below them, in order.

    Args:
        names: files and folders.
        bad: takes the folders without a recording, which do not stop the others.

    Returns:
        Each recording once, with the name of its results: its own below the name of the folder that was given.
    """
    found: dict[str, Path] = {}
    for name in names:
        if not os.path.isdir(name):
            found.setdefault(name, Path(Path(name).name))
            continue
        folder = Path(os.path.abspath(name))
        within = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in ENDINGS)
        if not within:
            bad.append(f"{name}: expected recordings ({', '.join(ENDINGS)}), found none in this folder")
        for path in within:
            found.setdefault(str(path), Path(os.path.abspath(path)).relative_to(folder.parent))
    return found


def plan_recordings(
    files: Mapping[str, Path], transcript: str | None, folder: Path | None, ending: str
) -> list[Recording]:
    """Find the transcript of each recording and the place of its results.

    Args:
        files: what `find` found.
        transcript: words, a file of them for one recording, or a folder with a file named like each.
        folder: of results, a file for each recording; None = all in one place.
        ending: of their names.

    Raises:
        ConfigError: two recordings whose results would have one name; a transcript for several recordings.
    """
    said = _said(transcript, files)
    named: dict[Path, str] = {}
    for file, name in files.items():
        if folder is not None and named.setdefault(name, file) != file:
            raise ConfigError(f"--out {folder}: expected recordings of different names, found {named[name]} and {file}")
    places = [folder and folder / name.with_name(f"{name.name}.{ending}") for name in files.values()]
    return [Recording(*each) for each in zip(files, said, places, strict=True)]


def there(recordings: Sequence[Recording], bad: list[str]) -> list[Recording]:
    """Leave out what is no file and has no results either; `bad` takes what is said of it."""
    kept = []
    for each in recordings:
        try:
            if not os.path.isfile(each.file) and (each.out is None or not each.out.exists()):
                media.probe(each.file)
            kept.append(each)
        except MediaError as error:
            bad.append(str(error))
    return kept


def _said(transcript: str | None, files: Mapping[str, Path]) -> list[str | list[Segment] | None]:
    if transcript is None:
        return [None] * len(files)
    if os.path.isdir(transcript):
        names = Counter(name.name.lower() for name in files.values())
        paths = [_beside(Path(transcript), name, names[name.name.lower()] == 1) for name in files.values()]
        if lacking := [file for file, path in zip(files, paths, strict=True) if path is None]:
            few = ", ".join(lacking[:3]) + (", ..." if lacking[3:] else "")
            log.warning("%s: no transcript for %d of %d recordings: %s", transcript, len(lacking), len(files), few)
        return [None if path is None else _read(path) for path in paths]
    if len(files) > 1:
        raise ConfigError(
            f"--transcript: expected one FILE with it, or a folder of transcripts, found {len(files)} recordings"
        )
    try:
        if Path(transcript).is_file():
            return [_read(Path(transcript))]
    except OSError:
        return [transcript]  # too long for a file's name, so it is what is said
    if is_timed(transcript) and len(transcript.split()) == 1:
        raise ConfigError(f"--transcript: expected a file of words or what is said, found no file {transcript!r}")
    if re.fullmatch(r"\S*/\S*|\S+\.[A-Za-z]{1,4}", transcript):
        log.warning("--transcript: found no file %r, so these are taken for the words that are said", transcript)
    return [transcript]


def _beside(folder: Path, name: Path, alone: bool) -> Path | None:
    """The transcript of a recording, `talk.mp4.srt` or `talk.srt`.

    It lies as the recording does below the folder that was given, with that folder's name or without; or, of a name
    that no other recording has, at once in the folder of transcripts.
    """
    within = name.parent.parts
    for place in dict.fromkeys((folder.joinpath(*within), folder.joinpath(*within[1:]), folder)):
        if place == folder and not alone:
            continue
        known = {path.name.lower(): path for path in sorted(place.iterdir())} if place.is_dir() else {}
        for ending in WORDS:
            for title in (f"{name.name}{ending}", f"{name.stem}{ending}"):
                if title.lower() in known:
                    return known[title.lower()]
    return None


def _read(path: Path) -> str | list[Segment]:
    if is_timed(path):
        return read(path)
    try:
        return read_plain_text(path.read_bytes())
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None


def noted(folder: Path) -> dict[str, Any]:
    """The settings of the results that a folder holds; none where it holds no results, or they cannot be read."""
    try:
        found = read_json(folder / SETTINGS)
    except (OSError, ValueError, RecursionError, CorpusError):
        return {}
    return found if isinstance(found, dict) else {}


def begin(folder: Path, settings: dict[str, Any], force: bool) -> None:
    """Open a folder of results, to which only results of the same model and settings may be added.

    Raises:
        CorpusError: it holds others, and `force` is not given.
    """
    path = folder / SETTINGS
    if not force and path.exists():
        before = noted(folder)
        for name, value in settings.items():
            if before.get(name) != value:
                raise CorpusError(
                    f"{folder}: expected results of the same model and settings, found {name} {before.get(name)!r}, "
                    f"not {value!r}; name another folder, or --force"
                )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


@dataclass(frozen=True)
class Labelled(Generic[Found]):
    """What was found in a recording, and what was warned of meanwhile."""

    rows: list[Found]
    warnings: list[str]


Done = Iterable[tuple[int, Labelled[Found] | MediaError]]  # numbers of recordings with what was found, as they come


def in_turn(work: Callable[[Recording], list[Found]]) -> Callable[[Sequence[Recording]], Done[Found]]:
    """Work in this process on one recording after the other."""

    def run(todo: Sequence[Recording]) -> Done[Found]:
        for number, each in enumerate(todo):
            yield number, _found(work, each)

    return run


def side_by_side(
    build: Callable[[], Callable[[Recording], list[Found]]], workers: int, engine: str, device: str
) -> Callable[[Sequence[Recording]], Done[Found]]:
    """Work in processes of their own, which `build` makes ready, on recordings side by side; see `cluster.spread`."""

    def run(todo: Sequence[Recording]) -> Done[Found]:
        for number, found in spread(partial(_ready, build), todo, workers, engine, device):
            yield number, MediaError(f"{todo[number].file!r}: {found.reason}") if isinstance(found, Lost) else found

    return run


def _ready(
    build: Callable[[], Callable[[Recording], list[Found]]],
) -> Callable[[Recording], Labelled[Found] | MediaError]:
    return partial(_found, build())


def _found(work: Callable[[Recording], list[Found]], each: Recording) -> Labelled[Found] | MediaError:
    with CollectedWarnings() as warned:
        try:
            return Labelled(work(each), warned.said)
        except MediaError as error:
            return error


def label(
    recordings: Sequence[Recording],
    run: Callable[[Sequence[Recording]], Done[Found]],
    bad: list[str],
    write: Callable[[Labelled[Found], Path], bytes] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Iterator[Labelled[Found]]:
    """Work on recordings and write the results of those that have a place; gives each one's, as they come.

    A place that is filled is passed over, unless `force` is given.

    Args:
        recordings: what to work on.
        run: works on those that are left: `in_turn` or `side_by_side`.
        bad: takes what was wrong with those that could not be used, which does not stop the others.
        write: makes a file's content of results, given its folder; for recordings that have a place.
        force: do again what is done.
        progress: show a bar with the time left on stderr.
    """
    todo = [each for each in recordings if force or each.out is None or not each.out.exists()]
    if len(todo) < len(recordings):
        log.warning("%d of %d recordings are done already", len(recordings) - len(todo), len(recordings))
    with tqdm(total=len(todo), unit="file", disable=not progress or len(todo) < 2) as bar:
        for number, found in run(todo):
            out = todo[number].out
            if isinstance(found, MediaError):
                bad.append(str(found))
            else:
                if out is not None and write is not None:
                    require_free([out], force)
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(out, write(found, out.parent))
                yield found
            bar.update()
