import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from wavfusion import corpora, manifest, media
from wavfusion.cli.app import main
from wavfusion.encoders import tiny
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.encoders.text import MAX_TOKENS
from wavfusion.encoders.video import EfficientNetEncoder
from wavfusion.errors import ConfigError
from wavfusion.features.batches import batched
from wavfusion.features.clips import Media, plan_windows
from wavfusion.features.encode import Chunk, audio_batches, decode
from wavfusion.features.extract import _reported, extract
from wavfusion.features.store import FeatureSet, Store, merge_feature_sets, read_feature_sets
from wavfusion.manifest import AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.runs.folder import read_run

KILLS = int(os.environ.get("WAVFUSION_KILLS", "3"))
TEXTS = ["Kids are talking by the door.", "Dogs are sitting by the door.", "Oh, “really”?"]


def sound(seconds=0.5, pitch=200, rate=16_000):
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype("f4")


def pictures(count=6, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8))


def write_wav(path, samples, rate=16_000):
    media.write_audio(path, samples, rate)


def write_float_wav(path, samples):
    """A wav of 32-bit floats, which can hold what is no number."""
    data = np.asarray(samples, "<f4").tobytes()
    head = b"fmt " + (16).to_bytes(4, "little") + (3).to_bytes(2, "little") + (1).to_bytes(2, "little")
    head += (16_000).to_bytes(4, "little") + (64_000).to_bytes(4, "little") + b"\x04\x00\x20\x00"
    body = b"WAVE" + head + b"data" + len(data).to_bytes(4, "little") + data
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)


@pytest.fixture(scope="module")
def encoders():
    return load_encoders("tiny", PRESETS["tiny"])


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    return root


@pytest.fixture
def small(root):
    """Two wavs, an mp4 with sound and a row of text alone."""
    write_wav(root / "a.wav", sound(0.5))
    write_wav(root / "b.wav", sound(0.3, 300))
    media.write_video(root / "c.mp4", pictures(), 6, sound(1.0, 250), 16_000)
    return [
        Utterance("a", "table", audio=AudioSpan("a.wav"), text=TEXTS[0]),
        Utterance("b", "table", audio=AudioSpan("b.wav"), text=TEXTS[1]),
        Utterance("c", "table", audio=AudioSpan("c.mp4"), video=VideoSpan("c.mp4"), text=TEXTS[2]),
        Utterance("d", "table", text=TEXTS[0]),
    ]


def run(rows, said_root, encoders, **settings):
    store = Store(said_root.parent / "store", create=True)
    about = Corpus("table", str(said_root), None, ["happy", "sad"], "0")
    return store, extract(rows, about, store, encoders, workers=1, **settings)


def of(store, root, rows, **settings):
    """The clips of utterances, with the keys that the store's notes give them."""
    wanted = dataclasses.replace(read_feature_sets(store)["tiny"], **settings)
    known = Media(store, root, str(root), note=True)
    return [clip for row in rows for clip in plan_windows(row, known, wanted)]


def tensors(folder):
    """Every tensor of a store, read with safetensors alone; a key that occurs twice is an error."""
    found = {}
    for path in sorted((Path(folder) / "shards").glob("*.safetensors")):
        shard = load_file(path)
        assert not found.keys() & shard.keys()
        found |= {key: x.clone() for key, x in shard.items()}  # no longer mapped: a test may cut the file short
    return found


def features_of(**values):
    return FeatureSet("tiny", frame_rate=5.0, pretrained_rate=1e-4, new_rate=1e-4, **values)


def units_apart(one, other):
    """How many half-precision units two features differ by at most; a unit is taken at 1/16 of their spread or above.

    Below that a feature near zero would be asked for more digits than its encoder's single precision has.
    """
    one, other = one.float().numpy(), other.float().numpy()
    scale = np.maximum(np.maximum(np.abs(one), np.abs(other)), one.std() / 16)
    return float((np.abs(one - other) / np.spacing(scale.astype(np.float16)).astype("f4")).max())


def content(folder, without=()):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name not in without
    }


# ---------------------------------------------------------------------- a corpus of good files


def test_every_modality_of_every_row_is_stored(small, root, encoders):
    store, summary = run(small, root, encoders)
    assert summary.made == {"audio": 3, "text": 3, "video": 1} and summary.bad == [] and len(store) == summary.wanted


def test_threads_that_encode_side_by_side_store_what_one_does(root, encoders, monkeypatch):
    """Encoders keep their outputs in hooks: two threads on one of them would have taken each other's."""
    monkeypatch.setattr("wavfusion.features.extract.CLIPS_AT_ONCE", 1)
    for number in range(12):
        write_wav(root / f"{number}.wav", sound(0.2 + 0.1 * number, 200 + 20 * number))
    rows = [Utterance(str(n), "table", audio=AudioSpan(f"{n}.wav"), text=TEXTS[n % 3]) for n in range(12)]
    about = Corpus("table", str(root), None, ["happy", "sad"], "0")
    folders = [root.parent / name for name in ("one", "four")]
    for folder, workers in zip(folders, (1, 4), strict=True):
        extract(rows, about, Store(folder, create=True), encoders, workers=workers, audio_layers=[9])
    one, four = (tensors(folder) for folder in folders)
    assert one.keys() == four.keys() and max(units_apart(one[key], four[key]) for key in one) <= 1


def test_the_plain_way_stores_the_same(small, root, encoders):
    folders = [root.parent / name for name in ("fast", "plain")]
    about = Corpus("table", str(root), None, ["happy", "sad"], "0")
    for folder, fast in zip(folders, (True, False), strict=True):
        extract(small, about, Store(folder, create=True), encoders, audio_layers=[9], fast=fast)
    one, other = (tensors(folder) for folder in folders)
    assert one.keys() == other.keys() and max(units_apart(one[key], other[key]) for key in one) <= 1


def test_stored_features_are_in_half_precision(small, root, encoders):
    store, _ = run(small, root, encoders)
    assert {x.dtype for x in tensors(store.folder).values()} == {torch.float16}


def test_stored_features_are_those_of_direct_encoding(small, root, encoders):
    store, _ = run(small, root, encoders)
    differences = []
    for clip, row in zip(of(store, root, small), small, strict=True):
        if clip.audio:
            heard = media.decode_audio(root / clip.audio.path, clip.audio.start, clip.audio.end).samples
            direct = encoders.audio.encode([heard], [9])[0][9]
            differences.append(units_apart(store.read(clip.audio.keys[9]), direct.half()))
        if clip.video:
            frames = media.decode_frames(root / clip.video.path, 5.0, encoders.video.size).pixels
            direct = encoders.video.encode(frames)
            differences.append(units_apart(store.read(clip.video.keys["frames"]), direct.half()))
        direct = encoders.text.encode([row.text])[0]
        differences.append(units_apart(store.read(clip.text.keys["last"]), direct.half()))
    assert len(differences) == 8 and max(differences) <= 1


def test_features_are_the_same_bits_whatever_the_store_holds_already(root, encoders):
    """Short utterances were padded to batches of those that the store lacked, so that a rerun differed by rounding."""
    rows = []
    for i in range(8):
        write_wav(root / f"{i}.wav", sound(0.2 + 0.13 * i, 150 + 20 * i))
        rows.append(Utterance(f"u{i}", "table", audio=AudioSpan(f"{i}.wav"), text=" ".join(TEXTS[: 1 + i % 3])))
    at_once = tensors(run(rows, root, encoders)[0].folder)
    shutil.rmtree(root.parent / "store")
    for some in (rows[2:3], rows[5:7], rows):
        store, _ = run(some, root, encoders)
    in_turn = tensors(store.folder)
    assert in_turn.keys() == at_once.keys()
    assert [key for key, x in at_once.items() if not torch.equal(x, in_turn[key])] == []


def test_a_second_run_does_nothing(small, root, encoders):
    store, _ = run(small, root, encoders)
    before = content(store.folder)
    _, summary = run(small, root, encoders)
    assert set(summary.made.values()) == {0} and content(store.folder) == before


def test_a_changed_file_is_encoded_again(small, root, encoders):
    run(small, root, encoders)
    write_wav(root / "b.wav", sound(0.3, 310))
    store, summary = run(small, root, encoders)
    assert summary.made == {"audio": 1, "text": 0, "video": 0}
    direct = encoders.audio.encode([media.decode_audio(root / "b.wav").samples], [9])[0][9]
    assert units_apart(store.read(of(store, root, small)[1].audio.keys[9]), direct.half()) <= 1


def test_a_file_that_changes_during_extraction_is_not_stored_as_the_old_one(small, root, encoders):
    """What was decoded got the key of what had been hashed before."""
    store, _ = run(small[:1], root, encoders)
    known = Media(store, root, str(root), note=True)
    (clip,) = plan_windows(small[1], known, read_feature_sets(store)["tiny"])
    write_wav(root / "b.wav", sound(0.3, 310))
    decoded = decode(clip, store, known, encoders)
    assert decoded.waveforms == [] and "changed while it was read" in decoded.errors["audio"]


def test_a_file_of_several_utterances_is_hashed_once(root, encoders):
    write_wav(root / "a.wav", sound(2.0))
    rows = [Utterance(str(i), "table", audio=AudioSpan("a.wav", i / 10, i / 10 + 0.2)) for i in range(12)]
    store, summary = run(rows, root, encoders)
    assert (summary.made["audio"], len(list(store.files()))) == (12, 1)


def test_a_renamed_file_is_not_encoded_again(small, root, encoders):
    run(small, root, encoders)
    (root / "a.wav").rename(root / "z.wav")
    small[0] = dataclasses.replace(small[0], audio=AudioSpan("z.wav"))
    assert run(small, root, encoders)[1].made["audio"] == 0


def test_one_more_layer_is_all_that_is_made(small, root, encoders):
    """The count held the layers that were there already."""
    run(small, root, encoders, audio_layers=[9])
    store, summary = run(small, root, encoders, audio_layers=[8, 9, 10])
    assert summary.made["audio"] == 6 and read_feature_sets(store)["tiny"].audio_layers == [8, 9, 10]


def test_several_layers_are_stored_under_keys_of_their_own(small, root, encoders):
    store, _ = run(small, root, encoders, audio_layers=[3, 9])
    keys = of(store, root, small)[0].audio.keys
    direct = encoders.audio.encode([media.decode_audio(root / "a.wav").samples], [3, 9])[0]
    assert max(units_apart(store.read(keys[layer]), direct[layer].half()) for layer in (3, 9)) <= 1


def test_all_layers_of_the_text_are_stored(small, root, encoders):
    store, _ = run(small, root, encoders, text_layers="all")
    key = of(store, root, small)[0].text.keys["all"]
    assert units_apart(store.read(key), encoders.text.encode([TEXTS[0]], "all")[0].half()) <= 1


def test_a_long_utterance_is_stored_in_windows(root, encoders):
    write_wav(root / "long.wav", sound(20.5))
    rows = [Utterance("long", "table", audio=AudioSpan("long.wav"), text="word " * 300)]
    store, summary = run(rows, root, encoders)
    shapes = [len(store.read(clip.audio.keys[9])) for clip in of(store, root, rows)]
    assert shapes == [749, 274] and summary.made == {"audio": 2, "text": 1, "video": 0}
    assert len(store.read(of(store, root, rows)[0].text.keys["last"])) == MAX_TOKENS


def test_silence_is_sound(root, encoders):
    """An untrained encoder makes zeros of it, which were taken for an encoder that tells nothing."""
    write_wav(root / "silent.wav", np.zeros(8000, "f4"))
    store, summary = run([Utterance("s", "table", audio=AudioSpan("silent.wav"))], root, encoders)
    assert summary.made["audio"] == 1 and summary.bad == []


def test_the_index_names_the_keys_of_every_utterance(small, root, encoders):
    store, _ = run(small, root, encoders)
    (path,) = store.folder.glob("index-*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {row["id"]: {name: row[name] for name in ("audio", "text", "video") if name in row} for row in rows}
    expected = {}
    for clip in of(store, root, small):
        parts = {"audio": clip.audio, "text": clip.text, "video": clip.video}
        expected[clip.utterance] = {
            name: {str(layer): key for layer, key in part.keys.items()} for name, part in parts.items() if part
        }
    assert found == expected


def test_the_documented_lines_read_a_store(small, root, encoders, monkeypatch):
    run(small, root, encoders)
    monkeypatch.chdir(root.parent)
    text = (Path(__file__).parents[1] / "docs" / "reference" / "store.md").read_text(encoding="utf-8")
    names = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.S)[0], names)
    assert names["features"].shape == (24, 64) and names["features"].dtype == np.float16


def test_a_corpus_carried_elsewhere_needs_no_new_features(small, root, encoders):
    store, _ = run(small, root, encoders)
    root.rename(root.with_name("moved"))
    _, summary = run(small, root, encoders, root=root.with_name("moved"))
    assert set(summary.made.values()) == {0}


@pytest.mark.parametrize("bar", [False, True])
def test_without_a_bar_a_line_tells_how_far_it_is(small, root, encoders, caplog, bar):
    """Without a terminal hours passed in silence."""
    with caplog.at_level("INFO"):
        run(small, root, encoders, progress=bar)
    assert ("extract: 4 of 4 utterances" in caplog.messages) != bar


def test_a_line_is_logged_every_tenth_of_the_utterances(caplog):
    with caplog.at_level("INFO"):
        list(_reported([Chunk([], 1)] * 100, lambda each: each.utterances, 100, False))
    assert len(caplog.messages) == 10


# ---------------------------------------------------------------------- encoders


def test_a_random_efficientnet_is_refused(small, root, encoders):
    """Drawn from its config alone it gives exact zeros (trap T1)."""
    torch.manual_seed(0)
    model = transformers.EfficientNetModel(tiny.video_config()).eval()
    dead = dataclasses.replace(encoders, video=EfficientNetEncoder(model, tiny.video_preprocessor(), "dead"))
    with pytest.raises(ConfigError, match="video encoder of 'tiny': expected features that differ, found a spread of"):
        run(small, root, dead)


def test_another_encoder_s_features_are_never_taken(small, root, encoders):
    run(small, root, encoders)
    other = load_encoders("tiny", PRESETS["tiny"], ["text"]).text
    with torch.no_grad():
        other.model.encoder.layer[0].output.dense.bias += 1
    changed = type(other)(other.model, other.tokenizer, "tiny")
    store, summary = run(small, root, dataclasses.replace(encoders, text=changed))
    assert summary.made == {"audio": 0, "text": 3, "video": 0}
    assert read_feature_sets(store)["tiny"].text["fingerprint"] == changed.fingerprint


def test_damaged_notes_on_encoders_are_written_anew(small, root, encoders):
    """The refusal said to run extract, which refused too."""
    store, _ = run(small, root, encoders)
    before = (store.folder / "encoders.json").read_bytes()
    (store.folder / "encoders.json").write_bytes(b"")
    run(small, root, encoders)
    assert (store.folder / "encoders.json").read_bytes() == before


def test_layers_of_the_same_encoder_are_joined_and_of_another_forgotten():
    old = features_of(audio={"fingerprint": "one"}, audio_layers=[8])
    same = features_of(audio={"fingerprint": "one"}, audio_layers=[9])
    other = features_of(audio={"fingerprint": "two"}, audio_layers=[9])
    assert [merge_feature_sets(old, new).audio_layers for new in (same, other)] == [[8, 9], [9]]


def test_a_preset_without_sound_keeps_what_is_known_of_sound():
    old = features_of(audio={"fingerprint": "one"}, audio_layers=[8])
    joined = merge_feature_sets(old, features_of(text={"fingerprint": "two"}, text_layers=["last"]))
    assert (joined.audio, joined.audio_layers, joined.text_layers) == ({"fingerprint": "one"}, [8], ["last"])


def test_one_name_holds_one_precision():
    with pytest.raises(ConfigError, match="features of precision 'fp32' under it where precision 'bf16' is wanted"):
        merge_feature_sets(features_of(), features_of(precision="bf16"))


# ---------------------------------------------------------------------- damaged stores


@pytest.mark.parametrize("size", [0, 4, 100, -3], ids=["0 bytes", "4 bytes", "100 bytes", "3 bytes short"])
def test_a_truncated_shard_is_made_anew(small, root, encoders, size):
    store, _ = run(small, root, encoders)
    before = tensors(store.folder)
    path = max(store.shards.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    again, _ = run(small, root, encoders)
    after = tensors(again.folder)
    assert path.with_suffix(".damaged").exists() and set(after) == set(before)
    assert max(units_apart(before[key], after[key]) for key in before) <= 1


def test_a_flipped_bit_is_made_good(small, root, encoders):
    store, _ = run(small, root, encoders)
    before = tensors(store.folder)
    for path in store.shards.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-7] ^= 1
        path.write_bytes(content)
    again, summary = run(small, root, encoders)
    after = tensors(again.folder)
    assert sum(summary.made.values()) == len(before)
    assert max(units_apart(before[key], after[key]) for key in before) <= 1


# ---------------------------------------------------------------------- hostile files and names


def plant_hostile(root):
    """Files that are good beside files that are not; returns id -> the modalities that can be had."""
    write_wav(root / "good.wav", sound())
    media.write_video(root / "good.mp4", pictures(), 6, sound(1.0), 16_000)
    (root / "empty.wav").touch()
    (root / "text.mp4").write_text("once upon a time\n" * 100)
    (root / "noise.wav").write_bytes(random.Random(0).randbytes(5000))
    (root / "cut.mp4").write_bytes((root / "good.mp4").read_bytes()[:300])
    media.write_video(root / "mute.mp4", pictures(), 6)
    media.write_video(root / "frame.mp4", pictures(1), 6)
    write_wav(root / "one.wav", sound()[:1])
    write_float_wav(root / "nan.wav", np.where(np.arange(8000) < 9, np.nan, sound()))
    write_float_wav(root / "all nan.wav", np.full(8000, np.nan))
    write_float_wav(root / "huge.wav", sound() * 3e38)
    return {
        "good.wav": {"audio"},
        "good.mp4": {"audio", "video"},
        "empty.wav": set(),
        "text.mp4": set(),
        "noise.wav": set(),
        "cut.mp4": set(),
        "gone.wav": set(),
        "mute.mp4": {"video"},
        "frame.mp4": {"video"},
        "one.wav": {"audio"},
        "nan.wav": {"audio"},
        "all nan.wav": set(),
    }


def hostile_rows(names):
    return [
        Utterance(
            name, "table", audio=AudioSpan(name), video=VideoSpan(name) if name.endswith("mp4") else None, text="Hi."
        )
        for name in names
    ]


def test_good_files_are_stored_and_the_bad_have_a_reason(root, encoders):
    expected = plant_hostile(root)
    store, summary = run(hostile_rows(expected), root, encoders)
    stored = {
        clip.utterance: {
            name
            for name in ("audio", "video")
            if (part := getattr(clip, name)) and all(key in store for key in part.keys.values())
        }
        for clip in of(store, root, hostile_rows(expected))
    }
    assert stored == expected
    bad = {"empty.wav", "text.mp4", "noise.wav", "cut.mp4", "gone.wav", "all nan.wav"}
    assert {name for name, _, _ in summary.bad} == bad and all(name in reason for name, _, reason in summary.bad)
    assert summary.absent == 2


def test_nothing_stored_is_no_number(root, encoders):
    names = [*plant_hostile(root), "huge.wav"]
    store, _ = run(hostile_rows(names), root, encoders)
    assert all(torch.isfinite(x).all() for x in tensors(store.folder).values())


def test_absurd_samples_cost_only_their_own_file(root, encoders):
    """Their square is beyond single precision; one such file stopped the extraction."""
    plant_hostile(root)
    _, summary = run(hostile_rows(["huge.wav", "good.wav"]), root, encoders)
    assert summary.made["audio"] >= 1 and {name for name, _, _ in summary.bad} <= {"huge.wav"}


def test_bad_packets_of_all_windows_of_an_utterance_are_counted(root, encoders):
    """Those of a later window overwrote those of the earlier ones."""
    samples = sound(20.0)
    samples[[16_000, 17 * 16_000]] = np.nan
    write_float_wav(root / "long.wav", samples)
    _, summary = run([Utterance("long", "table", audio=AudioSpan("long.wav"))], root, encoders)
    assert summary.made["audio"] == 2 and summary.bad_packets == {"long": 2}


def test_why_features_are_missing_is_kept_in_the_store(root, encoders):
    plant_hostile(root)
    rows = hostile_rows(["empty.wav", "mute.mp4"])
    store, _ = run(rows, root, encoders)
    failures = Store(store.folder).failures
    reasons = [failures[clip.audio.keys[9]] for clip in of(store, root, rows)]
    assert "0 bytes" in reasons[0] and reasons[1] == "no audio track"


def test_a_still_picture_is_no_recording(root, encoders):
    import PIL.Image

    PIL.Image.fromarray(pictures(1)[0]).save(root / "face.png")
    rows = [Utterance("p", "table", video=VideoSpan("face.png")), Utterance("t", "table", text="Hi.")]
    _, summary = run(rows, root, encoders)
    assert [name for name, _, _ in summary.bad] == ["p"] and summary.made["text"] == 1


@pytest.mark.parametrize(
    "name", ["a b", 'it\'s "quoted"', "🙂", "line\nbreak", "-o", "a:b", "%d", os.fsdecode(b"\xff")]
)
def test_any_name_of_a_file_is_read_once(root, encoders, name):
    write_wav(root / "plain.wav", sound())
    (root / "plain.wav").rename(root / f"{name}.wav")
    rows = [Utterance(name, "table", audio=AudioSpan(f"{name}.wav"), text=name)]
    assert [run(rows, root, encoders)[1].made["audio"] for _ in range(2)] == [1, 0]


def test_a_name_that_is_half_a_surrogate_pair_has_its_reason(root, encoders):
    name = "\ud83d.wav"
    _, summary = run([Utterance(name, "table", audio=AudioSpan(name), text=name)], root, encoders)
    assert [modality for _, modality, _ in summary.bad] == ["audio"] and summary.made["text"] == 1


# ---------------------------------------------------------------------- order and batches


def test_batches_hold_every_waveform_once():
    waveforms = [np.zeros(16_000 * seconds, "f4") for seconds in (1, 70, 3, 15, 15, 15, 15, 2)]
    found = list(audio_batches(waveforms, 60.0))
    assert sorted(i for batch in found for i in batch) == list(range(8))
    assert all(len(batch) == 1 or max(len(waveforms[i]) for i in batch) * len(batch) <= 60 * 16_000 for batch in found)


def test_a_sequence_is_cut_into_lists():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]


# ---------------------------------------------------------------------- the command


def table(root, count, films=0):
    """A table corpus of short clips, prepared; returns its manifest."""
    root.mkdir(exist_ok=True)
    lines = ["id,audio,video,text,emotion"]
    for i in range(count):
        write_wav(root / f"{i}.wav", sound(0.2 + 0.002 * i, 150 + i))
        lines.append(f"u{i},{i}.wav,,sentence number {i},happy")
    for i in range(films):
        media.write_video(root / f"{i}.mp4", pictures(4, i), 4, sound(1.0, 200 + i), 16_000)
        lines.append(f"v{i},{i}.mp4,{i}.mp4,film number {i},sad")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    corpora.write_prepared(corpora.prepare("table", root), root.parent / "prepared")
    return root.parent / "prepared" / "manifest.jsonl"


def command(manifest, store):
    return ["extract", str(manifest), "--store", str(store), "--preset", "tiny", "--device", "cpu", "--workers", "1"]


def test_the_command_fills_a_store(tmp_path, capsysbinary):
    manifest = table(tmp_path / "corpus", 2, 1)
    assert main([*command(manifest, tmp_path / "store"), "--layers", "8,9", "--json"]) == 0
    result = json.loads(capsysbinary.readouterr().out)
    assert result == {"features": 10, "made": {"audio": 6, "text": 3, "video": 1}, "absent": 0, "bad": []}


def test_the_command_exits_1_where_files_are_bad(tmp_path, capsys):
    manifest = table(tmp_path / "corpus", 2)
    (tmp_path / "corpus" / "1.wav").write_bytes(b"")
    assert main(command(manifest, tmp_path / "store")) == 1
    assert "u1: no audio features" in capsys.readouterr().err and len(Store(tmp_path / "store")) == 3


def test_a_run_of_features_in_half_precision_encodes_so_itself(tmp_path, capsys):
    root = tmp_path / "corpus"
    table(root, 4, 2)
    lines = (root / "table.csv").read_text().splitlines()
    parts = ["split", "train", "train", "train", "valid", "train", "valid"]
    (root / "table.csv").write_text("".join(f"{line},{part}\n" for line, part in zip(lines, parts, strict=True)))
    corpora.write_prepared(corpora.prepare("table", root), tmp_path / "parted")
    manifest = tmp_path / "parted" / "manifest.jsonl"
    (tmp_path / "half.yaml").write_text("{audio: tiny, text: tiny, video: tiny, precision: bf16}")
    line = command(manifest, tmp_path / "store")
    line[line.index("tiny")] = str(tmp_path / "half.yaml")
    assert main(line) == 0 and main(command(manifest, tmp_path / "store")) == 0
    store = Store(tmp_path / "store")
    sets = read_feature_sets(store)
    assert [sets[name].precision for name in ("half", "tiny")] == ["bf16", "fp32"]
    assert len(store) == 6 + 6 + 6 + 6 + 2  # pictures are the same
    given = ["--config", "paper", "--manifest", str(manifest), "--store", str(tmp_path / "store"), "--device", "cpu"]
    small = ["--preset", "half", "--train.epochs", "1", "--out", str(tmp_path / "RUN")]
    assert main(["train", *given, *small]) == 0, capsys.readouterr().err
    capsys.readouterr()
    line[line.index(str(tmp_path / "half.yaml"))], line[line.index("--store") + 1] = "tiny", str(tmp_path / "full")
    assert main(line) == 0
    scored = ["evaluate", str(tmp_path / "RUN"), "--manifest", str(manifest), "--store", str(tmp_path / "full")]
    assert main([*scored, "--out", str(tmp_path / "scores"), "--split", "valid", "--device", "cpu"]) != 0
    assert "in precision bf16, which" in (told := capsys.readouterr().err) and "found tiny (fp32)" in told
    loaded = read_run(tmp_path / "RUN").encoders()
    assert (loaded.audio.precision, loaded.text.precision, loaded.preset.precision) == ("bf16", "bf16", "bf16")
    assert (
        main(["predict", "--model", str(tmp_path / "RUN"), str(tmp_path / "corpus" / "0.mp4"), "--device", "cpu"]) == 0
    )


def launch(manifest, store):
    line = [sys.executable, "-m", "wavfusion", *command(manifest, store)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A corpus of five shards, the store of an undisturbed run, and the seconds that its work took."""
    folder = tmp_path_factory.mktemp("kills")
    manifest = table(folder / "corpus", 250, 10)
    process = launch(manifest, folder / "store")
    start = wait_for_work(process, folder / "store")
    assert process.wait(300) == 0
    return manifest, tensors(folder / "store"), time.monotonic() - start


def wait_for_work(process, store):
    while not (store / "media.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.005)
    return time.monotonic()


def kill_at_random(manifest, folder, seconds):
    """Kill an extraction within its first seconds of work; one that was done before is replaced by another."""
    for attempt in range(20):
        store = folder / f"store {attempt}"
        process = launch(manifest, store)
        wait_for_work(process, store)
        moment = random.uniform(0, seconds)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            return store, moment
        seconds = moment
    raise AssertionError("no extraction could be killed")


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
def test_an_extraction_killed_at_any_moment_and_run_again_gives_the_same_features(whole, tmp_path, kill):
    """WAVFUSION_KILLS=20 pytest -m slow -k killed_at tests/test_extract.py (the count of issue 3)."""
    manifest, expected, seconds = whole
    store, moment = kill_at_random(manifest, tmp_path, seconds)
    survived = len(tensors(store))
    assert main(command(manifest, store)) == 0
    found = tensors(store)
    assert set(found) == set(expected)
    apart = max(units_apart(found[key], expected[key]) for key in expected)
    print(f"killed after {moment:.2f} s, {survived} of {len(found)} features kept, {apart:.2f} units apart")  # noqa: T201
    assert apart <= 1
    assert not [*store.rglob("*.tmp"), *store.rglob("*.damaged")]


@pytest.mark.slow
def test_two_extractions_at_once_lose_nothing_and_double_nothing(whole, tmp_path):
    manifest, expected, _ = whole
    processes = [launch(manifest, tmp_path / "store") for _ in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    found = tensors(tmp_path / "store")
    assert set(found) == set(expected) and max(units_apart(found[key], expected[key]) for key in expected) <= 1


def test_what_is_stored_by_default_is_said(small, root, tmp_path, capsys):
    manifest.write(tmp_path / "manifest.jsonl", small)
    manifest.write_corpus(tmp_path / "manifest.jsonl", Corpus("table", str(root), None, ["happy", "sad"], "0"))
    command = ["extract", str(tmp_path / "manifest.jsonl"), "--store", str(tmp_path / "store"), "--preset", "tiny"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "audio layer 9 (of 12; others by --layers)" in shown
    assert "text: the last layer (`--config recommended` weights all, with --text-layers all)" in shown
