"""Many recordings: found in folders, each with its transcript, labelled once, in turn or in several processes."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from wavfusion import media
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError
from wavfusion.files import read_bytes, read_json, require_file, require_free, write_atomic, write_json
from wavfusion.processes.pool import Lost, spread
from wavfusion.transcripts import Segment
from wavfusion.transcripts.reading import READERS, is_timed, read, read_plain_text

log = logging.getLogger(__name__)

Found = TypeVar("Found")

# Of the files taken from a folder; a file that is named itself may have any.
ENDINGS = (
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".amr"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts", ".m2ts"),
)
SETTINGS = "predict.json"  # in a folder of results: the model and settings that they come from
TRANSCRIPTS = (*READERS, ".txt")  # endings, in order of preference

Transcript = str | list[Segment] | None  # text, segments with times, or nothing


@dataclass(frozen=True)
class Recording:
    """A file to label, its transcript, and its own file of results where each has one."""

    file: str
    transcript: Transcript = None
    out: Path | None = None

    @property
    def words(self) -> dict[str, Any]:
        """The transcript as an argument of `EmotionRecognizer.predict`."""
        return {"segments" if isinstance(self.transcript, list) else "transcript": self.transcript}


@dataclass(frozen=True)
class Labelled(Generic[Found]):
    """The results of a recording, and the warnings logged meanwhile."""

    rows: list[Found]
    warnings: list[str]


Work = Callable[[Recording], list[Found]]


def find_recordings(names: Sequence[str], bad: list[str]) -> dict[str, Path]:
    """List the given files, and the recordings in the given folders, each once and in order.

    Returns the name of the results of each, which begins with the name of the given folder. `bad` collects a message
    for each folder without a recording.
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
    """Find the transcript of each recording and the path of its results, where there is a folder for them.

    `transcript` is text, a file for one recording, or a folder with a file named like each recording.

    Raises:
        ConfigError: two recordings whose results would have one name; a transcript for several recordings.
    """
    found = _find_transcripts(transcript, files)
    named: dict[Path, str] = {}
    for file, name in files.items():
        if folder is not None and named.setdefault(name, file) != file:
            raise ConfigError(f"--out {folder}: expected recordings of different names, found {named[name]} and {file}")
    places = [folder and folder / name.with_name(f"{name.name}.{ending}") for name in files.values()]
    return [
        Recording(file, transcript=words, out=place) for file, words, place in zip(files, found, places, strict=True)
    ]


def existing(recordings: Sequence[Recording], bad: list[str]) -> list[Recording]:
    """Leave out recordings that are no files and have no results either; `bad` collects a message for each."""
    kept = []
    for each in recordings:
        try:
            if not os.path.isfile(each.file) and (each.out is None or not each.out.exists()):
                media.probe(each.file)
            kept.append(each)
        except MediaError as error:
            bad.append(str(error))
    return kept


def _find_transcripts(transcript: str | None, files: Mapping[str, Path]) -> list[Transcript]:
    if transcript is None:
        return [None] * len(files)
    if os.path.isdir(transcript):
        paths = _search_folder(Path(transcript), list(files.values()))
        if lacking := [file for file, path in zip(files, paths, strict=True) if path is None]:
            few = ", ".join(lacking[:3]) + (", ..." if lacking[3:] else "")
            log.warning("%s: no transcript for %d of %d recordings: %s", transcript, len(lacking), len(files), few)
        return [None if path is None else _read(path) for path in paths]
    if len(files) > 1:
        found = f"{len(files)} recordings"
        raise ConfigError(f"--transcript: expected one FILE with it, or a folder of transcripts, found {found}")
    try:
        if Path(transcript).exists():  # a pipe or device, too, is no words
            return [_read(Path(transcript))]
    except OSError:
        return [transcript]  # too long for a file's name, so it is the text itself
    if is_timed(transcript) and len(transcript.split()) == 1:
        raise ConfigError(f"--transcript: expected a file or the text itself, found no file {transcript!r}")
    if re.fullmatch(r"\S*/\S*|\S+\.[A-Za-z]{1,4}", transcript):
        log.warning("--transcript: found no file %r, so this is taken for the text itself", transcript)
    return [transcript]


def _search_folder(folder: Path, names: Sequence[Path]) -> list[Path | None]:
    """Find the transcript of each recording, `talk.mp4.srt` or `talk.srt`.

    It lies as the recording does below the folder that was given, with that folder's name or without; or, where no
    other recording has this name, directly in the folder of transcripts.
    """
    counts = Counter(name.name.lower() for name in names)

    @cache
    def by_name(place: Path) -> dict[str, Path]:
        return {path.name.lower(): path for path in sorted(place.iterdir())} if place.is_dir() else {}

    def find(name: Path) -> Path | None:
        parts = name.parent.parts
        places = folder.joinpath(*parts), folder.joinpath(*parts[1:]), folder
        known = [by_name(place) for place in places if place != folder or counts[name.name.lower()] == 1]
        titles = [f"{title}{ending}".lower() for ending in TRANSCRIPTS for title in (name.name, name.stem)]
        return next((paths[title] for paths in known for title in titles if title in paths), None)

    return [find(name) for name in names]


def _read(path: Path) -> Transcript:
    require_file(path)
    if is_timed(path):
        return read(path)
    try:
        return read_plain_text(read_bytes(path))
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None


def open_results(folder: Path, settings: dict[str, Any], force: bool) -> None:
    """Open a folder of results, or raise a CorpusError if it holds some of another model or other settings."""
    path = folder / SETTINGS
    if not force and path.exists():
        try:
            found = read_json(path)
        except (OSError, ValueError):
            found = None
        before = found if isinstance(found, dict) else {}
        for name, value in settings.items():
            if before.get(name) != value:
                raise CorpusError(
                    f"{folder}: expected results of the same model and settings, found {name} {before.get(name)!r}, "
                    f"not {value!r}; name another folder, or --force"
                )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def label(
    recordings: Sequence[Recording],
    build: Callable[[], Work[Found]],
    bad: list[str],
    write: Callable[..., bytes] | None = None,
    force: bool = False,
    progress: bool = False,
    several: Mapping[str, Any] | None = None,
) -> Iterator[Labelled[Found]]:
    """Process recordings, write the results of those that have a path for them, and yield each one's results.

    Recordings whose results exist are skipped, unless `force` is given. `build` is called once in every process and
    returns what processes a recording; `several` are `workers`, `engine` and `device` of `pool.spread`, None is this
    process alone. `write` makes the content of a file of results, given the rows, its `folder` and the `warnings`;
    `bad` collects a message for each recording that cannot be used.
    """
    todo = [each for each in recordings if force or each.out is None or not each.out.exists()]
    if len(todo) < len(recordings):
        log.warning("%d of %d recordings are done already", len(recordings) - len(todo), len(recordings))
    outcomes: Iterable[tuple[int, Labelled[Found] | MediaError | Lost]]
    outcomes = (
        enumerate(map(_ready(build), todo)) if several is None else spread(partial(_ready, build), todo, **several)
    )
    with tqdm(total=len(todo), unit="file", disable=not progress or len(todo) < 2) as bar:
        for number, found in outcomes:
            out = todo[number].out
            if isinstance(found, Labelled):
                if out is not None and write is not None:
                    require_free([out], force)  # another process may have written it meanwhile
                    out.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(out, write(found.rows, folder=out.parent, warnings=found.warnings))
                yield found
            else:
                bad.append(f"{todo[number].file!r}: {found.reason}" if isinstance(found, Lost) else str(found))
            bar.update()


def _ready(build: Callable[[], Work[Found]]) -> Callable[[Recording], Labelled[Found] | MediaError]:
    return partial(_process, build())


def _process(work: Work[Found], each: Recording) -> Labelled[Found] | MediaError:
    with CollectedWarnings() as warned:
        try:
            return Labelled(work(each), warned.messages)
        except MediaError as error:
            return error
