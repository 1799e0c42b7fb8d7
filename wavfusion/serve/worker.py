"""The process in which a server labels recordings: one that breaks a decoder costs this process and nothing else."""

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wavfusion import media
from wavfusion.errors import CollectedWarnings, ConfigError, CorpusError, MediaError
from wavfusion.prediction.recognizer import EmotionRecognizer, RecordingPredictions
from wavfusion.runs.card import Card
from wavfusion.serve.uploads import Form
from wavfusion.speech.segmentation import read_count, read_track
from wavfusion.transcripts.reading import read_transcript

OVERLAPPING = 4  # times a recording's length that segments may last together: that many speak at once


class Task(NamedTuple):
    """A recording to label, in a folder below that for uploads."""

    folder: str
    form: Form
    longest: float  # seconds that it may last


class Answer(NamedTuple):
    """The predictions for a recording with warnings, and what the model is; or one line of error."""

    classes: Sequence[str] = ()
    modalities: Sequence[str] = ()
    rows: RecordingPredictions = RecordingPredictions()
    warnings: Sequence[str] = ()
    error: str | None = None
    card: Card | None = None


def build_labeller(settings: Mapping[str, Any], folder: Path, progress: Any) -> Callable[[Task | None], Answer]:
    """Load a model and return the function that labels with it; called in the process.

    Messages name recordings against the folder for uploads. `progress` is shared memory of a float, the share of the
    recording that is labelled.
    """
    try:
        recognizer = EmotionRecognizer.from_pretrained(**settings)
    except (ConfigError, CorpusError, OSError) as error:
        failed = Answer(error=str(error))
        return lambda task: failed
    os.chdir(folder)
    about = Answer(recognizer.classes, recognizer.modalities, card=recognizer.card)
    return lambda task: about if task is None else _label(recognizer, task, progress)


def _label(recognizer: EmotionRecognizer, task: Task, progress: Any) -> Answer:
    try:
        with CollectedWarnings() as warned:
            file, form = f"{task.folder}/recording", task.form
            length = max((end for end in media.probe(file) if end is not None), default=0.0)
            if length > task.longest:
                raise MediaError(f"expected at most {task.longest / 60:g} minutes, found {length / 60:.1f}")
            text, segments = form.text, None
            if form.segments:
                found = read_transcript(f"{task.folder}/{form.segments}", form.name)
                text, segments = (found, None) if isinstance(found, str) else (None, found)
            together = sum(min(each.end, each.start + max(length, 60.0)) - each.start for each in segments or ())
            if together > OVERLAPPING * max(length, 60.0):
                raise MediaError(f"expected segments of {OVERLAPPING} times its length at most, found {together:.0f} s")

            def note(seconds: float) -> None:
                progress.value = min(1.0, seconds / length) if length else 0.0

            rows = recognizer.predict(
                file,
                text,
                segments=segments,
                speakers=read_count(form.speakers),
                track=read_track(form.track),
                channel=form.channel,
                progress=note,
            )
            return Answer(recognizer.classes, recognizer.modalities, rows, warned.messages)
    except (ConfigError, CorpusError, MediaError) as error:
        return Answer(error=str(error))
    except Exception:  # the server's log has the details, which are not for the client
        traceback.print_exc()
        return Answer(error="the server failed on this recording; its log says how")
