"""RAVDESS: 24 actors speak and sing two sentences in eight emotions; the file name has every field."""

import re
from pathlib import PurePosixPath

from wavfusion.corpora import reading
from wavfusion.corpora.emotions import EMOTIONS, RAVDESS_CODES
from wavfusion.corpora.reading import AUDIO_ENDINGS, VIDEO_ENDINGS, ReaderInput, Reading
from wavfusion.errors import CorpusError, counted
from wavfusion.manifest import AudioSpan, Channel, Exclusion, Utterance, VideoSpan

# Modality, channel, emotion, intensity, statement, repetition, actor.
NAME = re.compile(r"(\d\d)-(\d\d-\d\d-\d\d-\d\d-\d\d-\d\d)(\.\w+)")
ENDINGS = (*VIDEO_ENDINGS, *AUDIO_ENDINGS)  # copies hold others than the published .mp4 and .wav
AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY = "01", "02", "03"
CHANNELS = {"01": "speech", "02": "song"}
ACTORS = [f"{number:02d}" for number in range(1, 25)]
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}

# All 24 actors; actor 18 does not sing (doi 10.1371/journal.pone.0196391).
PUBLISHED: dict[str, dict[str, int]] = {
    "speech": {"neutral": 96} | dict.fromkeys(EMOTIONS["ravdess"][1:], 192),
    "song": {"neutral": 92} | dict.fromkeys(("calm", "happy", "sad", "angry", "fearful"), 184),
}


def read_ravdess(source: ReaderInput) -> Reading:
    """Read RAVDESS from the recordings anywhere below the root; one trial in several files is one utterance."""
    paths = reading.list_files(source.root)
    named = ((NAME.fullmatch(PurePosixPath(path).name), path) for path in paths)
    found = [(match, path) for match, path in named if match and match[3].lower() in ENDINGS]
    if not found:
        raise CorpusError(f"expected recordings named like 03-01-06-01-02-01-12.wav below {source.root}, found none")
    files = reading.first_of_each((((match[2], match[1]), path) for match, path in found), ENDINGS)
    trials = sorted({trial for trial, _ in files})
    excluded = [Exclusion(trial, reason) for trial in trials if (reason := _unknown_code(trial))]
    utterances = [_to_utterance(trial, files, source.down_mix) for trial in trials if not _unknown_code(trial)]
    differences = []
    for code, channel in CHANNELS.items():
        counts = reading.count_emotions(each for each in utterances if each.id.startswith(code))
        differences += reading.compare_counts(channel, counts, PUBLISHED[channel])
    if len(found) > len(files):
        differences.append(f"{counted(len(found) - len(files), 'file')} not used, a second copy of one name")
    stripped = reading.list_stripped(utterances)
    return Reading(
        rows=len(trials),
        classes=EMOTIONS["ravdess"],
        utterances=utterances,
        excluded=excluded,
        stripped=stripped,
        differences=differences,
    )


def _unknown_code(trial: str) -> str | None:
    channel, emotion, _, statement, _, actor = trial.split("-")
    known = {"channel": CHANNELS, "emotion": RAVDESS_CODES, "statement": STATEMENTS, "actor": ACTORS}
    return reading.unknown_code(known, (channel, emotion, statement, actor))


def _to_utterance(trial: str, files: dict[tuple[str, str], str], down_mix: Channel) -> Utterance:
    _, emotion, _, statement, _, actor = trial.split("-")
    # The wav is the uncompressed audio of the same take as the mp4.
    audio = files.get((trial, AUDIO_ONLY), files.get((trial, AUDIO_VIDEO)))
    video = files.get((trial, AUDIO_VIDEO), files.get((trial, VIDEO_ONLY)))
    return reading.acted_utterance(
        Utterance(trial, "ravdess", text=STATEMENTS[statement], emotion=RAVDESS_CODES[emotion], raw_label=emotion),
        actor,
        AudioSpan(audio, channel=down_mix) if audio else None,
        VideoSpan(video) if video and reading.is_video(video) else None,
    )
