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
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError, counted
from wavfusion.files import read_json, require_free, write_atomic, write_json
from wavfusion.processes.pool import Lost, spread
from wavfusion.transcripts import Segment
from wavfusion.transcripts.reading import ENDINGS as TRANSCRIPTS
from wavfusion.transcripts.reading import read_transcript, require_plain

log = logging.getLogger(__name__)

Found = TypeVar("Found")

SETTINGS = "predict.json"  # in a folder of results: the model and settings that they come from
# What names a file, although it has blanks: an ending of a transcript, or of a program that writes documents.
NAMES = (*TRANSCRIPTS, ".doc", ".docx", ".odt", ".rtf", ".pdf", ".xls", ".xlsx", ".xml", ".html", ".htm", ".md")

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

    In a folder a recording is what has one of `media.endings()` and is not hidden; what else lies there is counted in a
    warning. Returns the name of the results of each, which begins with the name of the given folder. `bad` collects a
    message for each folder without a recording.
    """
    found: dict[str, Path] = {}
    passed_over: Counter[str] = Counter()
    for name in names:
        if not os.path.isdir(name):
            found.setdefault(name, Path(Path(name).name))
            continue
        folder = Path(os.path.abspath(name))
        files = sorted(path for path in Path(name).rglob("*") if not path.is_dir())
        hidden = {path for path in files if any(part.startswith(".") for part in path.relative_to(name).parts)}
        kinds = ["hidden" if path in hidden else path.suffix.lower() for path in files]
        within = [path for path, kind in zip(files, kinds, strict=True) if kind in media.endings()]
        passed_over.update(kind or "without an ending" for kind in kinds if kind not in media.endings())
        if not within:
            bad.append(
                f"{name}: expected recordings (.wav, .mp4, ...), found none in this folder of {len(files)} files"
            )
        for path in within:
            found.setdefault(str(path), Path(os.path.abspath(path)).relative_to(folder.parent))
    if passed_over:
        listed = ", ".join(f"{count} {kind}" for kind, count in passed_over.most_common(5))
        log.warning("passed over %s that are no recordings: %s", counted(passed_over.total(), "file"), listed)
    return found


def plan_recordings(
    files: Mapping[str, Path], transcript: str | None, folder: Path | None, ending: str, bad: list[str] | None = None
) -> list[Recording]:
    """Find the transcript of each recording and the path of its results, where there is a folder for them.

    `transcript` is text, a file for one recording, or a folder with a file named like each recording. `bad` collects a
    message for each recording whose transcript in a folder cannot be used, and which is left out; None raises it.

    Raises:
        ConfigError: two recordings whose results would have one name; a transcript for several recordings, or no such
            file.
        CorpusError: a transcript cannot be used.
    """
    found = _find_transcripts(transcript, files, bad)
    named: dict[Path, str] = {}
    for file, name in files.items():
        if folder is not None and named.setdefault(name, file) != file:
            raise ConfigError(f"--out {folder}: expected recordings of different names, found {named[name]} and {file}")
    places = [folder and folder / name.with_name(f"{name.name}.{ending}") for name in files.values()]
    return [
        Recording(file, transcript=found[file], out=place)
        for file, place in zip(files, places, strict=True)
        if file in found
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


def _find_transcripts(
    transcript: str | None, files: Mapping[str, Path], bad: list[str] | None
) -> dict[str, Transcript]:
    """Return the transcript of each recording that is to be labelled."""
    if transcript is None:
        return dict.fromkeys(files)
    if os.path.isdir(transcript):
        return _read_folder(Path(transcript), files, bad)
    if len(files) > 1:
        found = f"{len(files)} recordings"
        raise ConfigError(f"--transcript: expected one FILE with it, or a folder of transcripts, found {found}")
    try:
        exists = Path(transcript).exists()
    except (OSError, ValueError):
        exists = False  # too long for a file's name, so it is the text itself
    if exists:
        return {file: read_transcript(transcript, file) for file in files}
    if _looks_like_a_name(transcript):
        found = f"no file {transcript[:200]!r}"
        raise ConfigError(f"--transcript: expected a file, a folder or the text itself, found {found}")
    try:
        require_plain(transcript)
    except CorpusError as error:
        raise ConfigError(f"--transcript: {error}") from None
    return dict.fromkeys(files, transcript)


def _looks_like_a_name(transcript: str) -> bool:
    """Tell a path that is missing from words: by a known ending, its folder, or one word with a slash or an ending."""
    if len(transcript.splitlines()) != 1 or len(transcript) > 4096:
        return False
    folder, slash, _ = transcript.rpartition("/")
    if Path(transcript).suffix.lower() in NAMES or transcript.endswith("/") or (slash and os.path.isdir(folder)):
        return True
    return re.fullmatch(r"\S*[/\\]\S*|\S+\.[A-Za-z]\w{0,4}", transcript) is not None


def _read_folder(folder: Path, files: Mapping[str, Path], bad: list[str] | None) -> dict[str, Transcript]:
    paths = dict(zip(files, _search_folder(folder, list(files.values())), strict=True))
    if lacking := [file for file, path in paths.items() if path is None]:
        few = ", ".join(lacking[:3]) + (", ..." if lacking[3:] else "")
        log.warning("%s: no transcript for %d of %d recordings: %s", folder, len(lacking), len(files), few)
    found: dict[str, Transcript] = {}
    for file, path in paths.items():
        try:
            found[file] = None if path is None else read_transcript(path, file)
        except CorpusError as error:
            if bad is None:
                raise
            bad.append(f"{file!r}: {error}")
    return found


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
    write: Callable[[Labelled[Found], Path], bytes] | None = None,
    force: bool = False,
    progress: bool = False,
    several: Mapping[str, Any] | None = None,
) -> Iterator[Labelled[Found]]:
    """Process recordings, write the results of those that have a path for them, and yield each one's results.

    Recordings whose results exist are skipped, unless `force` is given. `build` is called once in every process and
    returns what processes a recording; `several` are `workers`, `engine` and `device` of `pool.spread`, None is this
    process alone. `write` makes the content of a file of results, given these and its path; `bad` collects a
    message for each recording that cannot be used.
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
                    write_atomic(out, write(found, out))
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
