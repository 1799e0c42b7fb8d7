"""How well are speakers told apart? Mixtures of RAVDESS actors with known turns, single actors and a real conversation.

    python scripts/speakers.py RAVDESS [--actors 11-20] [--conversation sample.wav] [--one-voice FILE ...] [--seed 0]

RAVDESS is a folder of Actor_NN folders of audio (odd actors are men). A mixture has four turns a voice, each of one or
two sentences of any emotion with pauses of 0.2 to 0.6 s, at the level of the clips, with noise at -80 dBFS; a single
actor says one sentence of each emotion. A sentence is what lies between the first and last 10 ms above -30 dB of its
loudest. The conversation has its annotation (RTTM) beside it. For `auto`, and on real recordings with the number given,
it prints how many recordings have the right number of voices, how many changes of speaker are found within 0.5 s, and
the diarization error rate: missed, false and confused speech over all speech, 0.25 s around every edge left out, voices
paired best. Then false and missed speech of activity detection alone, on the conversation and on the clips as they are.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from wavfusion import media, transcripts
from wavfusion.media import SAMPLE_RATE
from wavfusion.speech.segmentation import RecordingAudio, Speakers
from wavfusion.transcripts import Segment

FRAME = SAMPLE_RATE // 100
SPOKEN = 10 ** (-30 / 20)
COLLAR, NEAR = 0.25, 0.5  # seconds
MIXTURES = ((2, 4), (3, 3), (4, 3))  # voices, mixtures of one sex and as many of both


def spoken(samples: np.ndarray) -> tuple[int, int]:
    """First and last sample of a sentence."""
    levels = np.sqrt(np.square(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)).mean(1))
    loud = np.flatnonzero(levels > SPOKEN * levels.max())
    return int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME


def mixture(
    turns: Sequence[tuple[int, Sequence[Path]]], chance: np.random.Generator
) -> tuple[np.ndarray, list[Segment]]:
    """Samples and truth of turns: actors and their clips."""
    parts, truth, at = list[np.ndarray](), list[Segment](), 0
    for actor, clips in turns:
        for clip in clips:
            pause = np.zeros(int(chance.uniform(0.2, 0.6) * SAMPLE_RATE), np.float32)
            samples = media.decode_audio(clip).samples
            sentence = samples[slice(*spoken(samples))]
            at += len(pause)
            truth.append(Segment(at / SAMPLE_RATE, (at + len(sentence)) / SAMPLE_RATE, str(actor)))
            at += len(sentence)
            parts += [pause, sentence]
    mixed = np.concatenate(parts)
    return mixed + chance.normal(0, 1e-4, len(mixed)).astype(np.float32), truth


def mixed_turns(
    files: dict[int, list[Path]], actors: Sequence[int], chance: np.random.Generator
) -> Iterator[tuple[int, list[Path]]]:
    """Four turns an actor, nobody twice in succession."""
    left = {actor: list(chance.permutation(np.array(files[actor]))) for actor in actors}
    order = [int(each) for each in chance.permutation(actors)]
    while len(order) < 4 * len(actors):
        order.append(int(chance.choice([actor for actor in actors if actor != order[-1]])))
    for actor in order:
        yield actor, [left[actor].pop() for _ in range(chance.integers(1, 3))]


def recordings(files: dict[int, list[Path]], seed: int) -> Iterator[tuple[str, np.ndarray, list[Segment]]]:
    """Kind, samples and truth of every single actor and mixture."""
    chance = np.random.default_rng(seed)
    for actor, clips in files.items():
        emotions = defaultdict(list)
        for clip in clips:
            emotions[clip.name.split("-")[2]].append(clip)
        chosen = [same[chance.integers(len(same))] for same in emotions.values()]
        yield "1", *mixture([(actor, [clip]) for clip in chosen], chance)
    sexes = [[actor for actor in files if actor % 2 == odd] for odd in (0, 1)]
    for voices, number in MIXTURES:
        for i in range(number):
            one = chance.choice(sexes[i % 2], voices, replace=False)
            yield f"{voices}, one sex", *mixture(list(mixed_turns(files, one, chance)), chance)
            half = (voices + i % 2) // 2
            both = np.concatenate([chance.choice(sexes[0], half, False), chance.choice(sexes[1], voices - half, False)])
            yield f"{voices}, both sexes", *mixture(list(mixed_turns(files, both, chance)), chance)


def marks(turns: Sequence[Segment], frames: int) -> np.ndarray:
    """True where each speaker speaks, every 10 ms; [speakers, frames]."""
    names = list(dict.fromkeys(turn.speaker for turn in turns))
    found = np.zeros((len(names), frames), bool)
    for turn in turns:
        found[names.index(turn.speaker), round(100 * turn.start) : round(100 * turn.end)] = True
    return found


def error_rate(truth: Sequence[Segment], found: Sequence[Segment], frames: int) -> float:
    """Diarization error rate; NaN where the truth has no times."""
    scored = np.ones(frames, bool)
    for edge in chain.from_iterable((turn.start, turn.end) for turn in truth):
        scored[max(0, round(100 * (edge - COLLAR))) : round(100 * (edge + COLLAR))] = False
    true, ours = marks(truth, frames)[:, scored].astype(int), marks(found, frames)[:, scored].astype(int)
    shared = true @ ours.T
    right = shared[linear_sum_assignment(-shared)].sum()
    wrong = np.maximum(true.sum(0), ours.sum(0)).sum() - right
    return float(wrong / true.sum()) if true.any() else float("nan")


def changes(turns: Sequence[Segment]) -> list[tuple[float, float]]:
    """The end of a turn and the start of the next, where the speaker changes."""
    ordered = sorted(turns, key=lambda turn: turn.start)
    return [(one.end, two.start) for one, two in pairwise(ordered) if one.speaker != two.speaker]


def bounded(truth: Sequence[Segment], found: Sequence[Segment]) -> tuple[int, int]:
    """How many true changes, their middle, lie within NEAR of a change that was found; and how many there are."""
    middles, ours = [(end + start) / 2 for end, start in changes(truth)], changes(found)
    near = [any(min(one) - NEAR <= at <= max(one) + NEAR for one in ours) for at in middles]
    return sum(near), len(near)


def judge(audio: RecordingAudio, truth: Sequence[Segment], count: Speakers) -> dict[str, float]:
    """Figures of one recording."""
    start = time.perf_counter()
    found = audio.turns(audio.detect_speech().spans, count)
    seconds = time.perf_counter() - start
    near, of = bounded(truth, found)
    length = len(audio.decode(0.0, 1e6)) / SAMPLE_RATE
    right = len({turn.speaker for turn in found}) == len({turn.speaker for turn in truth})
    error = error_rate(truth, found, round(100 * length) + 1)
    return {"right": right, "near": near, "changes": of, "error": error, "seconds": seconds, "length": length}


def activity(clips: Sequence[tuple[RecordingAudio, Sequence[Segment]]]) -> str:
    """Shares of false and missed speech."""
    false, silent, missed, speech = 0, 0, 0, 0
    for audio, truth in clips:
        frames = len(audio.decode(0.0, 1e6)) // FRAME
        true = marks(truth, frames).any(0)
        ours = marks([Segment(*span) for span in audio.detect_speech().spans], frames).any(0)
        false, silent = false + int((ours & ~true).sum()), silent + int((~true).sum())
        missed, speech = missed + int((true & ~ours).sum()), speech + int(true.sum())
    return f"false speech {false / silent:.1%} of what is none, missed speech {missed / speech:.2%} of speech\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of recording, as they are done, and the figures of activity detection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ravdess", type=Path)
    parser.add_argument("--actors", default="11-20")
    parser.add_argument("--conversation", type=Path)
    parser.add_argument("--one-voice", type=Path, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    first, last = map(int, options.actors.split("-"))
    files = {actor: sorted(options.ravdess.glob(f"Actor_{actor:02d}/*.wav")) for actor in range(first, last + 1)}
    real: list[tuple[str, RecordingAudio, Sequence[Segment]]] = []
    if options.conversation:
        truth = transcripts.read(options.conversation.with_suffix(".rttm"))
        real.append(("conversation", RecordingAudio(str(options.conversation)), truth))
    real += [(each.name, RecordingAudio(str(each)), [Segment(0.0, 0.0, "1")]) for each in options.one_voice]
    rows: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for kind, audio, truth in real:
        rows[kind, "given"].append(judge(audio, truth, len({turn.speaker for turn in truth})))
    made = ((kind, RecordingAudio("", samples), truth) for kind, samples, truth in recordings(files, options.seed))
    for kind, audio, truth in chain(real, made):
        rows[kind, "auto"].append(judge(audio, truth, "auto"))
        sys.stderr.write(f"{kind}: {rows[kind, 'auto'][-1]}\n")
    sys.stdout.write("| voices | number | recordings | number right | changes found | error rate |\n")
    for (kind, name), row in rows.items():
        total = {key: sum(each[key] for each in row) for key in row[0]}
        found = f"{total['near']:.0f} of {total['changes']:.0f}" if total["changes"] else ""
        error = "" if np.isnan(total["error"]) else f"{total['error'] / len(row):.1%}"
        sys.stdout.write(f"| {kind} | {name} | {len(row)} | {total['right']:.0f} | {found} | {error} |\n")
    every = [each for row in rows.values() for each in row]
    seconds = sum(each["seconds"] for each in every) / sum(each["length"] for each in every)
    sys.stdout.write(f"{600 * seconds:.0f} s for 10 minutes\n")
    for kind, audio, truth in real[: bool(options.conversation)]:
        sys.stdout.write(f"{kind}: {activity([(audio, truth)])}")
    clips = [(actor, media.decode_audio(clip).samples) for actor, some in files.items() for clip in some[::12]]
    sys.stdout.write(f"{len(clips)} clips: ")
    truths = [(RecordingAudio("", s), [Segment(*(at / SAMPLE_RATE for at in spoken(s)), str(who))]) for who, s in clips]
    sys.stdout.write(activity(truths))


if __name__ == "__main__":
    main()
