"""Lay out the corpora of the voice model, and write the table that `wavfusion prepare table` reads.

    python models/voice/corpora.py CLONES OUT

CLONES holds clones (bare ones too) of the repositories in `CORPORA`, each in a folder of the repository's name. OUT
gets the recordings in `OUT/CORPUS/`, `OUT/table.csv`, and two protocols: `OUT/kept.csv` tests kept speakers of every
corpus, and each fold of `OUT/left_out.csv` a whole corpus that took no part in training (leave-one-corpus-out).
"""

import csv
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple


class Clip(NamedTuple):
    """A recording of one utterance: where it lies, who speaks, and how, in the words of the seven emotions."""

    file: PurePosixPath
    speaker: str
    emotion: str
    text: str = ""


@dataclass(frozen=True)
class Corpus:
    """A corpus in public repositories.

    Attributes:
        repositories: in order; a file whose name an earlier one has is the same recording, and is left out.
        paths: what is taken of each.
        clip: reads a file's name, and the texts of the corpus; None for what is left out.
        language: ISO 639-1.
        licence: of the recordings.
        men: the speakers who are men, by the corpus's own word; all others are women.
        valid, test: speakers of these parts of `kept.csv`.
    """

    repositories: tuple[str, ...]
    paths: tuple[str, ...]
    clip: Callable[[PurePosixPath, dict[str, str]], Clip | None]
    language: str
    licence: str
    men: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


NON_COMMERCIAL = "CC BY-NC-SA 4.0"
RAVDESS_ACTORS = 20  # 21 to 24 are kept for judging the model
RAVDESS = ("neutral", "neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")  # calm is neutral
RAVDESS_TEXTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
NEMO_KEPT = ("KD0", "KS0")  # speakers kept for judging
NEMO = {
    "anger": "angry",
    "fear": "fearful",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprised": "surprised",
}
MOST = 60  # clips of a speaker who validates or tests, so that none outweighs the others
EMODB = {"W": "angry", "E": "disgusted", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}  # L = boredom
KOREAN = ("neutral", "happy", "sad", "angry")  # of each hundred sentences; the corpus's README swaps the last two


def ravdess_clip(file: PurePosixPath, texts: dict[str, str]) -> Clip | None:
    """Read `03-01-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR.wav`."""
    _, _, emotion, _, statement, _, actor = map(int, file.stem.split("-"))
    if actor > RAVDESS_ACTORS:
        return None
    return Clip(file, f"{actor:02d}", RAVDESS[emotion - 1], RAVDESS_TEXTS[statement - 1])


def nemo_clip(file: PurePosixPath, texts: dict[str, str]) -> Clip | None:
    """Read `SPEAKER_EMOTION_SENTENCE.wav`."""
    speaker, emotion, _ = file.stem.split("_")
    return None if speaker in NEMO_KEPT else Clip(file, speaker, NEMO[emotion], texts.get(file.name, ""))


def emodb_clip(file: PurePosixPath, texts: dict[str, str]) -> Clip | None:
    """Read speaker (two digits), sentence (three characters), emotion and version."""
    emotion = EMODB.get(file.stem[5])
    return None if emotion is None else Clip(file, file.stem[:2], emotion)


def korean_clip(file: PurePosixPath, texts: dict[str, str]) -> Clip | None:
    """Read speaker (three letters) and sentence (1 to 400)."""
    return Clip(file, file.stem[:3], KOREAN[(int(file.stem[3:]) - 1) // 100], texts.get(file.stem, ""))


CORPORA = {
    "ravdess": Corpus(
        ("simiya/Projet-Son-Jedha",),
        ("Speech_Emotion_Recogntion_from_audio/data/RAVDESS/Audio_Speech_Actors_01-24",),
        ravdess_clip,
        "en",
        NON_COMMERCIAL,
        men=tuple(f"{actor:02d}" for actor in range(1, 24, 2)),
        valid=("15", "16"),
        test=("17", "18", "19", "20"),
    ),
    "nemo": Corpus(
        ("amu-cai/nEMO",),
        ("samples", "data.tsv"),
        nemo_clip,
        "pl",
        NON_COMMERCIAL,
        men=("MP0", "SM0", "TP0", "WR0"),
        valid=("MP0",),
        test=("EB0", "TP0"),
    ),
    "emodb": Corpus(
        ("hkveeranki/speech-emotion-recognition", "sylaschacko/voice-emotion-analysis"),
        ("dataset", "wav"),
        emodb_clip,
        "de",
        "CC0",
        men=("03", "10", "11", "12", "15"),
        valid=("11", "13"),
        test=("03", "08"),
    ),
    "emotiontts": Corpus(
        ("emotiontts/emotiontts_open_db",),
        ("Dataset/SpeechCorpus/Emotional",),
        korean_clip,
        "ko",
        NON_COMMERCIAL,
        men=("emf", "emg", "emh", "nek", "nel", "nem", "nen", "neo"),
        valid=("nea", "nek"),
        test=("ema", "emf", "neb"),
    ),
}


def sex_of(speaker: str) -> str:
    """Return `male` or `female` for a speaker of the table."""
    corpus, name = speaker.split("-")
    return "male" if name in CORPORA[corpus].men else "female"


def files_of(clone: Path, paths: tuple[str, ...]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Read the files below some paths of a clone's newest commit; a work tree is not needed."""
    listing = subprocess.run(
        ["git", "-C", clone, "ls-tree", "-r", "--format=%(objectname) %(path)", "HEAD", *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    files = [line.split(" ", 1) for line in listing.stdout.splitlines()]
    if not files:
        raise SystemExit(f"{clone}: expected a repository with {', '.join(paths)}, found no such files")
    with subprocess.Popen(
        ["git", "-C", clone, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as git:
        assert git.stdin is not None and git.stdout is not None
        for digest, path in files:
            git.stdin.write(f"{digest}\n".encode())
            git.stdin.flush()
            size = int(git.stdout.readline().split()[2])
            content = git.stdout.read(size + 1)[:size]
            yield PurePosixPath(path), content


def lay_out(name: str, corpus: Corpus, clones: Path, out: Path) -> list[Clip]:
    """Write a corpus's recordings to a folder, and return its clips in order of their names."""
    recordings: dict[str, PurePosixPath] = {}
    texts: dict[str, str] = {}
    (out / name).mkdir(parents=True, exist_ok=True)
    for repository in corpus.repositories:
        for path, content in files_of(clones / repository.split("/")[1], corpus.paths):
            if path.name == "data.tsv":
                rows = csv.DictReader(io.StringIO(content.decode("utf-8")), delimiter="\t")
                texts |= {row["file_id"]: row["raw_text"] for row in rows}
            elif path.parent.name == "transcript":
                texts[path.stem] = content.decode("utf-8-sig").strip()
            elif path.suffix == ".wav" and path.name not in recordings:
                recordings[path.name] = path
                if corpus.clip(path, {}) is not None:
                    (out / name / path.name).write_bytes(content)
    clips = (corpus.clip(path, texts) for _, path in sorted(recordings.items()))
    return [each for each in clips if each is not None]


def part_of(corpus: Corpus, speaker: str) -> str:
    """Return the part of a speaker in `kept.csv`."""
    return "test" if speaker in corpus.test else "valid" if speaker in corpus.valid else "train"


def judged(clips: list[Clip]) -> list[Clip]:
    """Choose at most `MOST` clips of each speaker, evenly over their names, which begin with the emotion."""
    chosen = []
    for speaker in sorted({clip.speaker for clip in clips}):
        own = [clip for clip in clips if clip.speaker == speaker]
        chosen += own[:: max(1, -(-len(own) // MOST))]
    return chosen


def write_tables(found: dict[str, list[Clip]], table: IO[str], kept: IO[str], left_out: IO[str]) -> None:
    """Write the table and the two protocols; a corpus stands in the column of that name."""
    rows, parts, folds = (csv.writer(file, lineterminator="\n") for file in (table, kept, left_out))
    rows.writerow(["id", "audio", "text", "emotion", "speaker", "corpus", "language"])
    parts.writerow(["id", "split"])
    folds.writerow(["id", "split", "fold"])
    for name, clips in found.items():
        some = {clip.file for clip in judged(clips)}
        for clip in clips:
            key, part = f"{name}-{clip.file.stem}", part_of(CORPORA[name], clip.speaker)
            speaker = f"{name}-{clip.speaker}"
            rows.writerow(
                [key, f"{name}/{clip.file.name}", clip.text, clip.emotion, speaker, name, CORPORA[name].language]
            )
            if part == "train" or clip.file in some:
                parts.writerow([key, part])
            for fold, other in enumerate(found, start=1):
                if name == other:
                    folds.writerow([key, "test", fold])
                elif part == "train":
                    folds.writerow([key, part, fold])
                elif (
                    clip.file in some
                ):  # kept speakers choose the epoch, too, where their corpus takes part in training
                    folds.writerow([key, "valid", fold])


def main(clones: Path, out: Path) -> None:
    """Lay out all corpora, and print the clips of each emotion."""
    found = {name: lay_out(name, corpus, clones, out) for name, corpus in CORPORA.items()}
    with (
        open(out / "table.csv", "w", encoding="utf-8", newline="") as table,
        open(out / "kept.csv", "w", encoding="utf-8", newline="") as kept,
        open(out / "left_out.csv", "w", encoding="utf-8", newline="") as left_out,
    ):
        write_tables(found, table, kept, left_out)
    for name, clips in found.items():
        emotions = sorted({each.emotion for each in clips})
        counts = ", ".join(f"{emotion} {sum(each.emotion == emotion for each in clips)}" for emotion in emotions)
        speakers = len({each.speaker for each in clips})
        sys.stdout.write(f"{name}: {len(clips)} clips of {speakers} speakers: {counts}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
