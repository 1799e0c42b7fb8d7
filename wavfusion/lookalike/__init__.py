"""The look-alike corpus: a generated corpus whose Bayes-optimal accuracies are known.

Given its size and a seed, gives media and annotations in the raw layouts of IEMOCAP and MELD, so that whatever reads
those can be tested without them. May import `corpora`, `manifest`, `media`, `processes`, `files` and `errors`.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import write_json, write_lines
from wavfusion.lookalike import trees
from wavfusion.lookalike.conversation import Conversation
from wavfusion.lookalike.faults import SMALL_TREE, add_irregular_names, insert_faults
from wavfusion.lookalike.plan import Dialogue, plan_dialogues
from wavfusion.lookalike.trees import FOLDERS, TABLES, annotate_iemocap, annotate_meld, render
from wavfusion.lookalike.voice import measure_pitch
from wavfusion.lookalike.world import (
    EMOTION_CUES,
    Corpus,
    Priors,
    World,
    additive_accuracy,
    bayes_accuracy,
    bayes_accuracy_on,
)
from wavfusion.manifest import GENERATED
from wavfusion.processes.pool import require_result, spread

CLIPS, SPEAKERS = 1100, 30
MOST_CLIPS, MOST_SPEAKERS = 1_000_000, 10_000
PARTS = ("train", "valid", "test")

logger = logging.getLogger(__name__)


def make_lookalike(
    corpus: Corpus,
    out: Path,
    clips: int | None = None,
    speakers: int | None = None,
    null: bool = False,
    micro: bool = False,
    priors: Priors = "true",
    parts: tuple[int, int, int] | None = None,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
    faults: bool = False,
    dialogues: bool = False,
) -> dict[str, Any]:
    """Write a raw tree, `truth.jsonl`, `split.csv` (speakers disjoint) and `world.json`; return what the last holds.

    The files depend on the seed, not on the number of workers. With IEMOCAP's own ten speakers or fewer their arousal
    offsets are smaller (0.35 for 0.60 levels), as a fold then has few of them to learn from.

    Args:
        corpus: whose layout and classes.
        out: a folder that is empty or absent.
        clips: of all parts together, default 1100; 8/11 train, 1/11 validate, 2/11 test.
        speakers: default 30; for IEMOCAP even, and beyond ten the sessions go on.
        null: the matched null, where the flags carry no information.
        micro: expressions show for two frames only, at a random time.
        priors: of the classes, as in the real corpus or their square roots.
        parts: clips to train, validate and test, in place of `clips`.
        seed: of every draw.
        workers: processes; default one for each processor.
        force: first remove an earlier tree, complete or not.
        dialogues: plant a conversation (`Conversation`), whose Bayes-optimal accuracies stand beside the others; its
            null is the corpus without.
        faults: insert the corpus's known defects and list them in `faults.json`; the default is then a small tree.

    Raises:
        ConfigError: an unknown corpus, speakers or clips that are too few, too many or odd, a folder with files, or the
            `[demo]` extra is missing.
    """
    if corpus not in EMOTION_CUES:
        raise ConfigError(f"expected a corpus to look like, found {corpus!r}: {nearest(corpus, EMOTION_CUES)}")
    usual_clips, usual_speakers = SMALL_TREE if faults else (CLIPS, SPEAKERS)
    sizes = _sizes(usual_clips if clips is None else clips, parts)
    people = _people(corpus, usual_speakers if speakers is None else speakers)
    _make_room(out, force)
    small = corpus == "iemocap" and sum(people.values()) <= 10
    world = World(corpus, priors, null, micro, offset_sd=0.35 if small else 0.60)
    conversation = Conversation() if dialogues else None
    planned = plan_dialogues(world, sizes, people, seed, conversation)
    if faults:
        planned = add_irregular_names(planned)
    planned = _render(planned, out, micro, workers or os.cpu_count() or 1)
    _annotate(corpus, planned, out, faults)
    summary = _describe(world, planned) | {"clips": sizes, "speakers": people, "seed": seed}
    if conversation is not None:
        summary["conversation"] = _describe_conversation(world, conversation, planned)
    write_json(out / GENERATED, summary)  # last: a tree without it is incomplete
    return summary


def _describe(world: World, dialogues: list[Dialogue]) -> dict[str, Any]:
    """Settings, Bayes-optimal accuracies, share of the majority class, best additive rule."""
    tested = [(turn.clip, turn.speaker.offset) for each in dialogues if each.part == "test" for turn in each.turns]
    return {
        "corpus": world.corpus,
        "majority": float(world.prior.max()),
        "bayes": {
            "speaker_independent": bayes_accuracy(world),
            "speakers_shared": bayes_accuracy(world, speakers_shared=True),
            "test_clips": bayes_accuracy_on(world, tested),
        },
        "additive": additive_accuracy(world),
        "settings": asdict(world),
    }


def _describe_conversation(world: World, conversation: Conversation, dialogues: list[Dialogue]) -> dict[str, Any]:
    """The chances, and the Bayes-optimal accuracy on all clips and on those of the test part."""
    planted = {
        name: [
            [(turn.speaker.name, turn.clip, turn.speaker.offset) for turn in each.turns]
            for each in dialogues
            if each.part in parts
        ]
        for name, parts in (("all", PARTS), ("test", ("test",)))
    }
    return asdict(conversation) | {name: conversation.bayes_accuracy(world, each) for name, each in planted.items()}


def _sizes(clips: int, parts: tuple[int, int, int] | None) -> dict[str, int]:
    sizes = parts or (clips - round(clips / 11) - round(2 * clips / 11), round(clips / 11), round(2 * clips / 11))
    if len(sizes) != len(PARTS) or min(sizes) < 1:
        raise ConfigError(f"--parts: expected at least one clip to train, validate and test, found {list(sizes)}")
    if sum(sizes) > MOST_CLIPS:
        raise ConfigError(f"--clips, --parts: expected {MOST_CLIPS:,} clips at most, found {sum(sizes):.3g}")
    return dict(zip(PARTS, sizes, strict=True))


def _people(corpus: Corpus, speakers: int) -> dict[str, int]:
    """Divide the speakers among the parts: 20, 4 and 6 of 30."""
    step = 2 if corpus == "iemocap" else 1
    if speakers < 3 * step or speakers % step:
        even = "an even number of " if step == 2 else ""
        raise ConfigError(f"--speakers: expected {even}{3 * step} or more, found {speakers}")
    if speakers > MOST_SPEAKERS:
        raise ConfigError(f"--speakers: expected {MOST_SPEAKERS:,} at most, found {speakers}")
    valid, test = (step * max(1, round(speakers * share / 30 / step)) for share in (4, 6))
    return {"train": speakers - valid - test, "valid": valid, "test": test}


def _make_room(out: Path, force: bool) -> None:
    """Refuse a folder with files; with `force` first remove what `make_lookalike` writes, and nothing else."""
    if force:
        for name in (GENERATED, "truth.jsonl", "split.csv", "faults.json", *TABLES.values()):
            (out / name).unlink(missing_ok=True)
        for path in [*out.glob("Session[1-9]*"), *(out / name for name in FOLDERS.values())]:
            shutil.rmtree(path, ignore_errors=True)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = f"found files in {out}; choose another, or give --force where an interrupted lookalike left them"
        raise ConfigError(f"expected an empty or absent folder for the corpus, {found}")


def _render(dialogues: list[Dialogue], out: Path, micro: bool, workers: int) -> list[Dialogue]:
    """Render every dialogue in a process of its own: espeak-ng repeats its samples only in a fresh one."""
    ((_, measured),) = spread(_pitch_worker, [None], 1, preload=trees.__name__, fresh=True)
    pitches = require_result(measured, "espeak-ng")
    rendered = list(dialogues)
    worker = partial(_render_worker, out, pitches, micro)
    with closing(spread(worker, dialogues, workers, preload=trees.__name__, fresh=True)) as outcomes:
        for done, (number, outcome) in enumerate(outcomes, start=1):
            rendered[number] = require_result(outcome, dialogues[number].name)
            logger.info("look-alike: %d of %d dialogues", done, len(dialogues))
    return rendered


def _pitch_worker() -> Callable[[None], dict[str, list[float]]]:
    return lambda _: measure_pitch()


def _render_worker(out: Path, pitches: dict[str, list[float]], micro: bool) -> Callable[[Dialogue], Dialogue]:
    return lambda dialogue: render(dialogue, out, pitches, micro)


def _annotate(corpus: Corpus, dialogues: list[Dialogue], out: Path, faults: bool) -> None:
    """Write the annotations of the corpus, and the truth; insert faults if they are wanted."""
    if corpus == "iemocap":
        for dialogue in dialogues:
            annotate_iemocap(dialogue, out)
    else:
        annotate_meld(dialogues, out)
    _write_truth(dialogues, out)
    if faults:
        insert_faults(dialogues, out)


def _write_truth(dialogues: list[Dialogue], out: Path) -> None:
    truth, split = [], ["id,split"]
    for dialogue in dialogues:
        for turn in dialogue.turns:
            planted = asdict(turn.clip) | {"offset": turn.speaker.offset, "voice": turn.speaker.timbre.voice}
            head = {"id": turn.id, "split": dialogue.part, "dialogue": dialogue.name, "speaker": turn.speaker.name}
            tail = {"start": turn.start, "end": turn.end, "text": turn.text}
            truth.append(json.dumps(head | planted | tail))
            split.append(f"{turn.id},{dialogue.part}")
    write_lines(out / "truth.jsonl", truth)
    write_lines(out / "split.csv", split)
