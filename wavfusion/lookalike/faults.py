"""The known defects of IEMOCAP and MELD, inserted into a look-alike and listed in its `faults.json`.

Each entry maps a defect to the utterances or files that have it; `missing` holds the modalities that a reader cannot
find, by utterance, and `excluded` the utterances without a majority label.
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from wavfusion.errors import ConfigError
from wavfusion.lookalike.face import FRAME_RATE
from wavfusion.lookalike.plan import Dialogue
from wavfusion.lookalike.trees import FOLDERS, TABLES, Audio, Frame
from wavfusion.media import decode_audio, decode_frames, probe, write_audio, write_video

SMALL_TREE = 48, 10  # clips and speakers, enough for every defect
TEXT = 'You’ll say: “no” at 5:30… "then", too.'
LONG = 300  # seconds
APPLE_DOUBLE = bytes.fromhex("00051607 00020000") + b"Mac OS X        "
LEFT, RIGHT = (60, 220.0), (200, 880.0)  # grey level and Hz of the actors of `write_two_actors`


def add_irregular_names(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Give some dialogues irregular names and some utterances typographic characters; a ConfigError where too few."""
    heads = _heads(dialogues)
    sizes = [sum(len(each.turns) for each in dialogues if each.part == part) for part in FOLDERS]
    if heads[0].name.startswith("Ses"):
        enough = len(heads) >= 5
        names = [f"{heads[0].name}a", f"{heads[1].name[:6]}_script01_1b"]
        changed = {each.name: _changed(each, name, 0) for each, name in zip(heads, names, strict=False)}
    else:
        enough = sizes[1] >= 1 and sizes[2] >= 7
        changed = {heads[0].name: _changed(heads[0], heads[0].name, len(heads[0].turns) - 1)}
    if not enough or len(heads[0].turns) < 3:
        found = f"found {sizes} to train, validate and test in {len(heads)} sessions or parts"
        clips, speakers = SMALL_TREE
        raise ConfigError(f"--faults: expected clips for all, as {clips} of {speakers} speakers are, {found}")
    return [changed.get(each.name, each) for each in dialogues]


def insert_faults(dialogues: Sequence[Dialogue], root: Path) -> None:
    """Damage a complete tree, and write `faults.json`."""
    planted = _damage_iemocap(dialogues, root) if dialogues[0].name.startswith("Ses") else _damage_meld(dialogues, root)
    (root / "faults.json").write_text(json.dumps(planted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _heads(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Return the first dialogue of each session, or of each part of MELD."""
    return [next(same) for _, same in groupby(dialogues, key=lambda each: each.name[:5])]


def _changed(dialogue: Dialogue, name: str, index: int) -> Dialogue:
    """Rename a dialogue, and set the text of one turn to TEXT."""
    turns = [replace(turn, id=name + turn.id.removeprefix(dialogue.name)) for turn in dialogue.turns]
    turns[index] = replace(turns[index], text=TEXT)
    return replace(dialogue, name=name, turns=tuple(turns))


def _damage_iemocap(dialogues: Sequence[Dialogue], root: Path) -> dict[str, Any]:
    first, second, third, fourth, fifth = heads = _heads(dialogues)[:5]
    labels, transcripts, videos = (
        [root / f"Session{int(each.name[3:5])}" / "dialog" / folder / f"{each.name}{suffix}" for each in heads]
        for folder, suffix in (("EmoEvaluation", ".txt"), ("transcriptions", ".txt"), ("avi/DivX", ".avi"))
    )
    label, transcript, unlabelled, ids = labels[0], transcripts[1], labels[3], [turn.id for turn in first.turns]
    text = label.read_text(encoding="utf-8")
    (label.parent / "Categorical").mkdir()
    (label.parent / "Categorical" / label.name).write_text(text.replace(ids[0], f"{first.name}_F999"))
    text = re.sub(rf"\[(\S+) - \S+\]\t{ids[2]}\t", rf"[\1 - \1]\t{ids[2]}\t", text)
    label.write_bytes(text.replace("\n", "\r\n").encode())
    wav = label.parents[2] / "sentences" / "wav" / first.name / f"{ids[1]}.wav"
    wav.unlink()
    remarks = f"M: Okay.\n{second.name}_FXX0 [000.0000-000.2500]: Mm-hm.\n"
    transcript.write_bytes((remarks + transcript.read_text(encoding="utf-8")).encode("cp1252"))
    divx = videos[1].parent.rename(videos[1].parent.with_name("Divx"))
    videos[2].write_bytes(videos[2].read_bytes()[:1000])
    videos[3].unlink()
    unlabelled.write_text(re.sub(rf"(\t{fourth.turns[0].id}\t)\w+", r"\1xxx", unlabelled.read_text()), newline="")
    transcripts[4].unlink()
    pairs = [*write_two_actors(root, "Ses01F_impro31", 4), *write_two_actors(root, "Ses01M_impro31", LONG)]
    return {
        "suffix dialogues": [first.name, second.name],
        "equal start and end": [ids[2]],
        "sentence wav absent": [ids[1]],
        "typographic, colons": [ids[0], second.turns[0].id],
        "cp1252": [_below(root, transcript)],
        "CRLF": [_below(root, label)],
        "Divx": [_below(root, divx)],
        "hidden": _hide(root, [label, wav, videos[0]]),
        "corrupt": [_below(root, videos[2])],
        "both actors": pairs,
        "long": pairs[2:],
        "excluded": [fourth.turns[0].id],
        "missing": {ids[2]: ["video"]}
        | {turn.id: ["video"] for each in (third, fourth) for turn in each.turns}
        | {turn.id: ["text"] for turn in fifth.turns},
    }


def write_two_actors(root: Path, name: str, seconds: int) -> list[str]:
    """Write a dialogue in which both actors speak throughout: the left dark and low, the right bright and high."""
    dialog, ids = root / "Session1" / "dialog", [f"{name}_{letter}000" for letter in "FM"]
    for folder in ("avi/DivX", "wav", "EmoEvaluation", "transcriptions"):
        (dialog / folder).mkdir(parents=True, exist_ok=True)
    frame: Frame = np.zeros((480, 720, 3), dtype=np.uint8)
    frame[112:368, :360], frame[112:368, 360:] = LEFT[0], RIGHT[0]
    write_video(dialog / "avi" / "DivX" / f"{name}.avi", (frame for _ in range(seconds + 1)), 1)
    times = np.arange(8000 * (seconds + 1)) / 8000
    tones = np.stack([0.3 * np.sin(2 * np.pi * pitch * times) for _, pitch in (LEFT, RIGHT)])
    write_audio(dialog / "wav" / f"{name}.wav", tones.astype(np.float32), 8000)
    rows = "".join(f"[0.5000 - {seconds + 0.5:.4f}]\t{key}\tneu\t[2.5000, 2.5000, 2.5000]\n\n" for key in ids)
    lines = "".join(f"{key} [000.5000-{seconds + 0.5:08.4f}]: Hm.\n" for key in ids)
    (dialog / "EmoEvaluation" / f"{name}.txt").write_text("% [START - END] NAME EMOTION [V, A, D]\n\n" + rows)
    (dialog / "transcriptions" / f"{name}.txt").write_text(lines)
    return ids


def _damage_meld(dialogues: Sequence[Dialogue], root: Path) -> dict[str, Any]:
    ids = {part: [turn.id for each in dialogues if each.part == part for turn in each.turns] for part in FOLDERS}
    clip = {key: root / FOLDERS[part] / f"{key.partition('_')[2]}.mp4" for part in ids for key in ids[part]}
    train, valid, test = ids.values()
    surround, prefixed, plain, unread, both, instant, long = test[:7]
    clip[train[0]].write_bytes(clip[train[0]].read_bytes()[:2000])
    clip[valid[0]].unlink()
    without_row = root / FOLDERS["valid"] / "dia99_utt9.mp4"
    shutil.copy(clip[train[1]], without_row)
    _to_surround(clip[surround])
    twin = {key: clip[key].with_name(f"final_videos_test{clip[key].name}") for key in (prefixed, plain, unread, both)}
    shutil.copy(clip[both], twin[both])
    twin[unread].touch()
    clip[prefixed].rename(twin[prefixed])
    for good, wrong in ((twin[prefixed], clip[prefixed]), (clip[plain], twin[plain])):
        _write_still(wrong, round(probe(good).audio or 0.0) + 3)
    _write_still(clip[long], LONG)
    ten = {"StartTime": "00:10:00,000"}
    _edit(root / TABLES["train"], {clip[train[1]].stem: ten | {"EndTime": "00:10:09,500"}}, "cp1252", "\r\n")
    _edit(root / TABLES["valid"], {}, "utf-8", "\n")
    edits = {clip[instant].stem: ten | {"EndTime": "00:10:00,000"}, clip[long].stem: ten | {"EndTime": "0:15:00,000"}}
    _edit(root / TABLES["test"], edits, "utf-8-sig", "\r\n")
    return {
        "corrupt": [train[0]],
        "absent": [valid[0]],
        "id in several splits": ["dia0_utt0"],
        "5.1 sound": [surround],
        "twin right": [prefixed],
        "plain right": [plain],
        "twin unreadable": [unread],
        "both right": [both],
        "equal start and end": [instant],
        "long": [long],
        "length contradicts": [train[1]],
        "typographic, colons": [dialogues[0].turns[-1].id],
        "no row": [_below(root, without_row)],
        "cp1252": [TABLES["train"]],
        "hidden": _hide(root, [clip[train[1]], root / TABLES["test"]]),
        "excluded": [],
        "missing": {key: ["audio", "video"] for key in (train[0], valid[0])},
    }


def _to_surround(path: Path) -> None:
    """Move the audio of a clip to the front centre, with tones in the other channels."""
    frames, voice = decode_frames(path, FRAME_RATE, (240, 320)).pixels, decode_audio(path, sample_rate=48_000).samples
    tone: Audio = (0.3 * np.sin(2 * np.pi * LEFT[1] * np.arange(len(voice)) / 48_000)).astype(np.float32)
    write_video(path, list(frames), FRAME_RATE, np.stack([tone, tone, voice, tone, tone, tone]), 48_000)


def _write_still(path: Path, seconds: int) -> None:
    """Write a clip of one grey frame and a hum."""
    frame: Frame = np.full((240, 320, 3), 128, dtype=np.uint8)
    hum: Audio = (0.1 * np.sin(2 * np.pi * LEFT[1] * np.arange(16_000 * seconds) / 16_000)).astype(np.float32)
    write_video(path, (frame for _ in range(seconds)), 1, hum, 16_000)


def _edit(path: Path, edits: dict[str, dict[str, str]], encoding: str, end: str) -> None:
    """Change cells of a MELD table by the stem of the row's clip, and its encoding and line ends."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=end)
    writer.writeheader()
    writer.writerows(row | edits.get(f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}", {}) for row in rows)
    path.write_bytes(text.getvalue().encode(encoding))


def _hide(root: Path, paths: list[Path]) -> list[str]:
    """Write the files that macOS leaves beside others on foreign disks."""
    twins = [path.with_name(f"._{path.name}") for path in paths]
    for twin in twins:
        twin.write_bytes(APPLE_DOUBLE)
    return [_below(root, twin) for twin in twins]


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
