import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from wavfusion import corpora
from wavfusion.corpora.meld import LONGEST, PUBLISHED
from wavfusion.encoders.text import normalized
from wavfusion.errors import CorpusError
from wavfusion.features.clips import WINDOW
from wavfusion.media import write_video

TEST = "output_repeated_splits_test"
DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "meld_csv"
HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"


def row(dialogue=0, number=0, text="Hey!", emotion="joy", start='"00:16:16,059"', end='"0:16:21,731"'):
    return f'1,"{text}",Chandler,{emotion},neutral,{dialogue},{number},8,21,{start},{end}'


def plant(root, rows=None, table="train_sent_emo.csv", clips=(), encoding="utf-8", end="\r\n"):
    root.mkdir(parents=True, exist_ok=True)
    (root / table).write_bytes("".join(line + end for line in (HEADER, *(rows or [row()]))).encode(encoding))
    for clip in clips:
        (root / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / clip).touch()
    return root


def prepare(*args, **settings):
    return corpora.prepare("meld", plant(*args, **settings))


def video_of(prepared):
    return [each.video and each.video.path for each in prepared.utterances]


def test_a_row_becomes_an_utterance(tmp_path):
    (found,) = prepare(tmp_path, clips=["train_splits/dia0_utt0.mp4"]).utterances
    assert (found.id, found.split, found.dialogue, found.speaker, found.session, found.text, found.emotion) == (
        "train_dia0_utt0",
        "train",
        "train_dia0",
        "Chandler",
        "s08e21",
        "Hey!",
        "joy",
    )


def test_the_development_part_is_called_valid(tmp_path):
    (found,) = prepare(tmp_path, table="dev_sent_emo.csv").utterances
    assert (found.id, found.split) == ("valid_dia0_utt0", "valid")


def test_one_key_in_several_splits_stays_apart(tmp_path):
    plant(tmp_path, table="test_sent_emo.csv", clips=["test/dia0_utt0.mp4"])
    prepared = prepare(tmp_path, clips=["train/dia0_utt0.mp4"])
    assert video_of(prepared) == ["train/dia0_utt0.mp4", "test/dia0_utt0.mp4"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_endings_change_nothing(tmp_path, end):
    assert (
        prepare(tmp_path / "x", [row(), row(number=1)], end=end).utterances
        == prepare(tmp_path / "y", [row(), row(number=1)]).utterances
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_typographic_characters_are_kept_in_every_encoding(tmp_path, encoding):
    (found,) = prepare(tmp_path, [row(text="You’ll … café")], encoding=encoding).utterances
    assert found.text == "You’ll … café"


def test_control_characters_of_an_older_release_become_the_quotation_marks_they_were(tmp_path):
    (found,) = prepare(tmp_path, [row(text="You\x92ll")]).utterances
    assert found.text == "You’ll"


def test_tables_and_clips_are_found_at_any_depth(tmp_path):
    plant(tmp_path / "MELD.Raw" / "annotations")
    prepared = prepare(tmp_path / "other", clips=["a/train_splits/x/dia0_utt0.mp4"])
    assert video_of(prepared) == ["a/train_splits/x/dia0_utt0.mp4"]


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("train_sent_emo.csv", "train_splits"),
        ("train_sent_emo.csv", "Train"),
        ("dev_sent_emo.csv", "dev_splits_complete"),
        ("dev_sent_emo.csv", "valid"),
        ("dev_sent_emo.csv", "MELD-val"),
        ("test_sent_emo.csv", "output_repeated_splits_test"),
        ("test_sent_emo.csv", "test videos"),
    ],
)
def test_clips_are_found_in_published_and_renamed_folders(tmp_path, table, folder):
    assert video_of(prepare(tmp_path, table=table, clips=[f"{folder}/dia0_utt0.mp4"])) == [f"{folder}/dia0_utt0.mp4"]


def test_clips_in_folders_without_a_split_are_counted_and_not_used(tmp_path):
    prepared = prepare(tmp_path, clips=["clips/dia0_utt0.mp4"])
    assert video_of(prepared) == [None]
    assert any(line.startswith("1 clip not used, in folders that name no split") for line in prepared.differences)


def test_an_absent_clip_keeps_its_row(tmp_path):
    prepared = prepare(tmp_path, [row(), row(number=1)], clips=["train_splits/dia0_utt1.mp4"])
    assert [each.missing for each in prepared.utterances] == [["audio", "video"], []]
    assert prepared.stripped == [("train_dia0_utt0", "audio, video: not found below the root")]


def test_the_twin_of_a_test_clip_is_preferred_and_counted(tmp_path):
    folder = "output_repeated_splits_test"
    clips = [f"{folder}/dia0_utt0.mp4", f"{folder}/final_videos_testdia0_utt0.mp4", f"{folder}/dia0_utt1.mp4"]
    prepared = prepare(tmp_path, [row(), row(number=1)], "test_sent_emo.csv", clips)
    assert video_of(prepared) == clips[1:]
    assert "1 test clip in two files: the final_videos_test file is taken" in prepared.differences


def write_clip(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    hum = np.full(8000 * seconds, 0.1, dtype=np.float32)
    write_video(path, (np.zeros((16, 16, 3), np.uint8) for _ in range(seconds)), 1, hum, 8000)


@pytest.mark.parametrize(
    ("twin", "plain", "taken", "verdict"),
    [
        (6, 2, "final_videos_testdia0_utt0", "only the final_videos_test file 1"),
        (2, 6, "dia0_utt0", "only the file without that prefix 1"),
        (6, 6, "final_videos_testdia0_utt0", "both 1"),
        (2, 3, "final_videos_testdia0_utt0", "neither 1"),
        (None, 2, "dia0_utt0", "neither 1"),
        (2, None, "final_videos_testdia0_utt0", "neither 1"),
        (None, None, "final_videos_testdia0_utt0", "neither 1"),
    ],
)
def test_of_two_clips_the_one_is_taken_that_agrees_with_the_table(tmp_path, twin, plain, taken, verdict):
    """The row lasts 5.67 s; None is a file that cannot be read."""
    root = plant(tmp_path, table="test_sent_emo.csv")
    for prefix, seconds in (("final_videos_test", twin), ("", plain)):
        path = root / TEST / f"{prefix}dia0_utt0.mp4"
        if seconds is None:
            plant(root, table="test_sent_emo.csv", clips=[path])
        else:
            write_clip(path, seconds)
    prepared = corpora.prepare("meld", root, scan=tmp_path / "notes" / "media.jsonl")
    (line,) = [line for line in prepared.differences if "in two files" in line]
    if twin or plain:
        assert video_of(prepared) == [f"{TEST}/{taken}.mp4"]
    assert line.endswith(f"within 0.5 s of the table: {verdict}")


def test_a_clip_that_contradicts_the_table_is_named_and_kept(tmp_path):
    write_clip(tmp_path / "train" / "dia0_utt0.mp4", 2)
    prepared = corpora.prepare("meld", plant(tmp_path), scan=tmp_path / "media.jsonl")
    assert prepared.utterances[0].missing == []
    assert prepared.differences[-1] == (
        "1 clip more than 0.5 s off the length in the table: train_dia0_utt0 (2.0 s for 5.7)"
    )


def test_an_outlier_is_named_and_kept(tmp_path):
    prepared = prepare(tmp_path, [row(end='"00:21:21,000"')], "test_sent_emo.csv")
    assert len(prepared.utterances) == 1
    assert prepared.differences[-1].startswith(
        "1 utterance longer than 15 s; training takes the first 15 s, evaluation"
    )


def test_the_stated_length_is_the_window_of_training():
    assert LONGEST == WINDOW


def test_the_text_encoder_meets_plain_characters_and_the_manifest_keeps_the_original(tmp_path):
    (found,) = prepare(tmp_path, [row(text="You’ll… ‘so’ – “no” — café")]).utterances
    assert found.text == "You’ll… ‘so’ – “no” — café"
    assert normalized(found.text) == "You'll... 'so' - \"no\" - café"


@pytest.mark.parametrize("key", ["71_utt0", "523_utt10"])
def test_clips_with_a_foreign_sound_are_named(tmp_path, key):
    dialogue, number = key.split("_utt")
    prepared = prepare(tmp_path, [row(dialogue, number)], clips=[f"train/dia{key}.mp4"])
    assert f"1 clip with other audio than the row: train_dia{key}" in prepared.differences


def test_hidden_and_doubled_names_are_no_clips(tmp_path):
    prepared = prepare(tmp_path, clips=["train/._dia0_utt0.mp4", "train/dia0_utt0.x.mp4", "train/dia0_utt0.mp4.part"])
    assert video_of(prepared) == [None]


def test_a_clip_without_a_row_is_counted(tmp_path):
    prepared = prepare(tmp_path, clips=["train/dia9_utt9.mp4"])
    assert "1 clip without a row in the tables" in prepared.differences


def test_the_position_counts_utterances_and_not_their_numbers(tmp_path):
    prepared = prepare(tmp_path, [row(number=7), row(number=2), row(number=3), row(1, 5)])
    assert [each.index for each in prepared.utterances] == [2, 0, 1, 0]


def test_a_clip_is_read_whole(tmp_path):
    (found,) = prepare(tmp_path, clips=["train/dia0_utt0.mp4"]).utterances
    assert (found.audio.start, found.audio.end, found.video.start, found.video.end) == (None,) * 4


def test_milliseconds_without_leading_zeros_are_read(tmp_path):
    assert len(prepare(tmp_path, [row(end='"00:16:21,82"')]).utterances) == 1


def test_equal_start_and_end_keep_their_row(tmp_path):
    prepared = prepare(tmp_path, [row(start='"00:16:16,059"', end='"0:16:16,059"')])
    assert len(prepared.utterances) == 1
    assert "1 row without a duration by the table: train_dia0_utt0" in prepared.differences


def test_an_end_before_its_start_is_not_called_an_equal_one(tmp_path):
    prepared = prepare(tmp_path, [row(start='"00:16:17,000"', end='"0:16:16,059"')])
    assert [line for line in prepared.differences if "train_dia0_utt0" in line] == [
        "1 row with an end before the start by the table: train_dia0_utt0"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(emotion="jooy"), r":3: unknown emotion 'jooy': did you mean 'joy'"),
        (row(), r":3: .*dialogue 0.* utterance 0"),
        (row(1, "x"), r":3: expected a number in 'Utterance_ID', found 'x'"),
        (row(1, end="noon"), r":3: expected H:MM:SS,mmm in 'EndTime', found 'noon'"),
        ("1,2", r":3: expected 11 cells"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(tmp_path, line, message):
    with pytest.raises(CorpusError, match=r"train_sent_emo\.csv" + message):
        prepare(tmp_path, [row(), line])


def test_a_table_without_a_needed_column_is_refused(tmp_path):
    (tmp_path / "test_sent_emo.csv").write_text("Utterance,Speaker\n")
    with pytest.raises(CorpusError, match="expected the column 'Emotion', found Utterance, Speaker"):
        corpora.prepare("meld", tmp_path)


def test_two_tables_of_one_name_that_differ_are_refused(tmp_path):
    plant(tmp_path / "a")
    plant(tmp_path / "b", [row(emotion="fear")])
    with pytest.raises(CorpusError, match="a/train_sent_emo.csv, b/train_sent_emo.csv"):
        corpora.prepare("meld", tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/meld_csv")
def test_the_real_tables_have_the_published_rows_and_emotions():
    started = time.perf_counter()
    prepared = corpora.prepare("meld", DATA)
    assert time.perf_counter() - started < 30
    counts = Counter((each.split, each.emotion) for each in prepared.utterances)
    assert counts == {(split, name): count for split, each in PUBLISHED.items() for name, count in each.items()}
    assert Counter(each.split for each in prepared.utterances) == {"train": 9989, "valid": 1109, "test": 2610}


def test_a_table_with_only_its_header_is_refused(tmp_path):
    """A manifest of no rows was written, which nothing can read."""
    (tmp_path / "train_sent_emo.csv").write_text(HEADER + "\n")
    with pytest.raises(CorpusError, match=r"train_sent_emo\.csv:1: expected at least one row, found none"):
        corpora.prepare("meld", tmp_path)


def test_a_number_of_5000_digits_is_one_line(tmp_path):
    with pytest.raises(CorpusError, match=r"\.csv:2: expected a number in 'Dialogue_ID'"):
        prepare(tmp_path, [row(dialogue="1" * 5000)])


def test_a_table_in_another_encoding_is_said(tmp_path):
    differences = prepare(tmp_path, [row(text="café")], encoding="cp1252").differences
    assert differences[-1] == "1 file not in UTF-8, read as cp1252: train_sent_emo.csv"


def test_a_quote_that_is_not_closed_says_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"\.csv:2: expected cells of at most .* every quote closed, found: unexp"):
        prepare(tmp_path, ['1,"Hey'])


def test_clips_that_were_converted_to_audio_are_found_and_said(tmp_path):
    """Clips as `.wav` for `.mp4`: every row lost its audio."""
    prepared = prepare(tmp_path, [row()], clips=["train_splits/dia0_utt0.WAV"])
    (found,) = prepared.utterances
    assert (found.audio.path, found.video, found.missing) == ("train_splits/dia0_utt0.WAV", None, ["video"])
    assert "1 clip with another ending than .mp4: train_splits/dia0_utt0.WAV" in prepared.differences
    assert prepared.stripped == [("train_dia0_utt0", "video: not found below the root")]


def test_the_clip_is_taken_before_the_audio_that_was_cut_out_of_it(tmp_path):
    clips = ["train_splits/dia0_utt0.mp4", "a_train/dia0_utt0.wav"]
    (found,) = prepare(tmp_path, [row()], clips=clips).utterances
    assert found.audio.path == found.video.path == clips[0]
