from collections import Counter

import numpy as np
import pytest

from wavfusion import corpora, manifest
from wavfusion.corpora.emotions import DIALOGUERNN_HAPPY, IEMOCAP_CODES
from wavfusion.corpora.iemocap import PUBLISHED
from wavfusion.corpora.protocol import divide_parts
from wavfusion.errors import CorpusError
from wavfusion.lookalike import faults
from wavfusion.manifest import AudioSpan, VideoSpan
from wavfusion.media import decode_audio, decode_frames

CODES = {emotion: code for code, emotion in IEMOCAP_CODES.items()}

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
DIALOGUE = "Ses01F_impro01"


def block(key, label="neu", start=6.2901, end=8.2357, dimensions="2.5000, 2.5000, 2.5000", votes=()):
    lines = [f"[{start:.4f} - {end:.4f}]\t{key}\t{label}\t[{dimensions}]", *votes, "A-E3:\tval 3; act 2; dom  2;\t()"]
    return "\n".join(lines) + "\n\n"


def plant(root, *blocks, dialogue=DIALOGUE, end="\n", folder="EmoEvaluation"):
    path = root / f"Session{dialogue[4]}" / "dialog" / folder / f"{dialogue}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((HEADER + "".join(blocks or [block(f"{dialogue}_F000")])).replace("\n", end).encode())
    return root


def add(root, path, text=""):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def only(root, **settings):
    (utterance,) = corpora.prepare("iemocap", root, **settings).utterances
    return utterance


def test_a_block_becomes_an_utterance(tmp_path):
    found = only(plant(tmp_path))
    assert (found.id, found.session, found.dialogue, found.speaker, found.emotion, found.raw_label, found.style) == (
        "Ses01F_impro01_F000",
        "Ses01",
        DIALOGUE,
        "Ses01F",
        "neutral",
        "neu",
        "improvised",
    )


def test_the_ratings_are_valence_arousal_and_dominance(tmp_path):
    found = only(plant(tmp_path, block(f"{DIALOGUE}_F000", dimensions="2.0000, 3.5000, 4.0000")))
    assert found.dimensions == {"valence": 2.0, "arousal": 3.5, "dominance": 4.0}


def test_votes_are_shares_of_the_external_annotators(tmp_path):
    votes = ["C-E2:\tAnger; Frustration;\t()", "C-E3:\tAnger;\t()", "C-F1:\tHappiness;\t(self)"]
    assert only(plant(tmp_path, block(f"{DIALOGUE}_F000", votes=votes))).votes == {"angry": 0.75, "frustrated": 0.25}


@pytest.mark.parametrize("dialogue", ["Ses03M_impro05a", "Ses05M_script01_1b"])
def test_a_dialogue_name_may_end_in_a_letter(tmp_path, dialogue):
    found = only(plant(tmp_path, block(f"{dialogue}_F011"), dialogue=dialogue))
    assert (found.dialogue, found.speaker) == (dialogue, f"{dialogue[:5]}F")


def test_files_of_single_annotators_are_not_read(tmp_path):
    plant(tmp_path, block(f"{DIALOGUE}_F009", "ang"), folder="EmoEvaluation/Categorical")
    assert only(plant(tmp_path)).id == f"{DIALOGUE}_F000"


def test_twins_that_macos_left_are_not_read(tmp_path):
    add(plant(tmp_path), f"Session1/dialog/EmoEvaluation/._{DIALOGUE}.txt", "[rubbish")
    add(tmp_path, f"Session1/dialog/avi/DivX/._{DIALOGUE}.avi")
    assert only(tmp_path).video is None


def test_windows_line_ends_change_nothing(tmp_path):
    assert only(plant(tmp_path / "dos", end="\r\n")) == only(plant(tmp_path / "unix"))


def test_a_text_keeps_its_colons_and_marks(tmp_path):
    line = f"{DIALOGUE}_F000 [006.2901-008.2357]: Note: [LAUGHTER] it's 5:30.\n"
    add(plant(tmp_path), f"Session1/dialog/transcriptions/{DIALOGUE}.txt", line)
    assert only(tmp_path).text == "Note: [LAUGHTER] it's 5:30."


def test_malformed_lines_of_a_transcript_are_passed_over(tmp_path):
    lines = [
        "M: Okay.",
        f"{DIALOGUE}_FXX0 [001.0-002.0]: Not labelled.",
        f"{DIALOGUE}_F000: no time",
        f"{DIALOGUE}_F000 [006.2901-008.2357]: Excuse me.",
    ]
    add(plant(tmp_path), f"Session1/dialog/transcriptions/{DIALOGUE}.txt", "\n".join(lines))
    assert only(tmp_path).text == "Excuse me."


def test_a_labelled_xx_id_is_an_utterance(tmp_path):
    assert only(plant(tmp_path, block(f"{DIALOGUE}_FXX0"))).speaker == "Ses01F"


def test_the_wav_of_a_sentence_is_read_whole(tmp_path):
    path = f"Session1/sentences/wav/{DIALOGUE}/{DIALOGUE}_F000.wav"
    add(plant(tmp_path), path)
    add(tmp_path, f"Session1/dialog/wav/{DIALOGUE}.wav")
    assert only(tmp_path).audio == AudioSpan(path)


@pytest.mark.parametrize(
    ("dialogue", "speaker", "side"),
    [
        ("Ses01F_impro01", "F", "left"),
        ("Ses01F_impro01", "M", "right"),
        ("Ses01M_impro01", "M", "left"),
        ("Ses01M_impro01", "F", "right"),
    ],
)
def test_the_actor_of_the_session_name_is_left_in_sound_and_picture(tmp_path, dialogue, speaker, side):
    plant(tmp_path, block(f"{dialogue}_{speaker}000"), dialogue=dialogue)
    sound, picture = f"Session1/dialog/wav/{dialogue}.wav", f"Session1/dialog/avi/DivX/{dialogue}.avi"
    add(tmp_path, sound)
    add(tmp_path, picture)
    found = only(tmp_path)
    crop = [52, 112, 308, 368] if side == "left" else [412, 112, 668, 368]
    assert found.audio == AudioSpan(sound, 6.2901, 8.2357, side)
    assert found.video == VideoSpan(picture, 6.2901, 8.2357, crop)


@pytest.mark.parametrize("folder", ["DivX", "Divx", "DIVX"])
def test_the_case_of_the_video_folder_does_not_matter(tmp_path, folder):
    path = f"Session1/dialog/avi/{folder}/{DIALOGUE}.avi"
    add(plant(tmp_path), path)
    assert only(tmp_path).video.path == path


def test_a_tree_of_labels_alone_keeps_its_rows(tmp_path):
    prepared = corpora.prepare("iemocap", plant(tmp_path))
    assert prepared.stripped == [(f"{DIALOGUE}_F000", "audio, text, video: not found below the root")]


def test_the_position_follows_time(tmp_path):
    blocks = [block(f"{DIALOGUE}_M000", start=9, end=10), block(f"{DIALOGUE}_F000", start=1, end=2)]
    found = corpora.prepare("iemocap", plant(tmp_path, *blocks)).utterances
    assert [(each.id[-4:], each.index) for each in found] == [("F000", 0), ("M000", 1)]


@pytest.mark.parametrize(
    ("labels", "emotions"),
    [
        ("six", ["happy", "excited"]),
        ("six-dialoguernn", ["happy", "excited", "happy"]),
        ("four", ["happy", "happy"]),
        ("raw", ["happy", "excited", None, "surprised"]),
    ],
)
def test_a_label_set_decides_what_is_kept_and_what_it_is_called(tmp_path, labels, emotions):
    codes = {"F000": "hap", "F001": "exc", "F007": "xxx", "M001": "sur"}
    blocks = [
        block(f"Ses01F_impro03_{part}", code, start, start + 1) for start, (part, code) in enumerate(codes.items())
    ]
    prepared = corpora.prepare("iemocap", plant(tmp_path, *blocks, dialogue="Ses01F_impro03"), labels=labels)
    assert [each.emotion for each in prepared.utterances] == emotions
    assert len(prepared.utterances) + len(prepared.excluded) == 4


def test_an_excluded_label_is_named_with_its_set(tmp_path):
    prepared = corpora.prepare("iemocap", plant(tmp_path, block(f"{DIALOGUE}_F000", "xxx")))
    assert prepared.excluded == [(f"{DIALOGUE}_F000", "label xxx is outside the label set six")]


def test_the_relabelled_utterances_are_53():
    assert len(DIALOGUERNN_HAPPY) == 53


# Totals of the six emotions and utterance lines without one of them, by session.
SESSIONS = {
    "Ses01": (1365, 454),
    "Ses02": (1348, 463),
    "Ses03": (1533, 625),
    "Ses04": (1512, 591),
    "Ses05": (1622, 574),
}
RARE = {"sur": 107, "fea": 40, "oth": 3, "dis": 2}
UNLABELLED = 48  # utterances with a transcript alone


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Labels and transcripts of the whole release, with its numbers of rows and labels by session."""
    root = tmp_path_factory.mktemp("release")
    rare = [code for code, count in RARE.items() for _ in range(count)]
    for number, (session, (_, others)) in enumerate(SESSIONS.items()):
        silent = UNLABELLED // 5 + (number < UNLABELLED % 5)
        happy = sorted(key for key in DIALOGUERNN_HAPPY if key.startswith(session))
        odd, rare = rare[:31], rare[31:]
        codes = [CODES[emotion] for emotion, count in PUBLISHED[session].items() for _ in range(count)]
        codes += odd + ["xxx"] * (others - silent - len(odd) - len(happy))
        names = [
            f"{session}{side}_{kind}" for side in "FM" for kind in ("impro01", "impro08a", "script01_1b", "script03_2")
        ]
        rows = {f"{names[k % 8]}_{'FM'[k // 8 % 2]}{100 + k // 16:03d}": code for k, code in enumerate(codes)}
        rows |= dict.fromkeys(happy, "xxx")
        said = [*rows, *(f"{names[0]}_MXX{k}" for k in range(silent))]
        for dialogue in dict.fromkeys(key.rpartition("_")[0] for key in said):
            inside = {key: code for key, code in rows.items() if key.startswith(f"{dialogue}_")}
            times = enumerate(inside.items())
            plant(root, *(block(key, code, k, k + 0.9) for k, (key, code) in times), dialogue=dialogue)
            lines = [f"{key} [000.0000-001.0000]: Yes.\n" for key in said if key.startswith(f"{dialogue}_")]
            add(root, f"Session{session[-1]}/dialog/transcriptions/{dialogue}.txt", "".join(lines))
    return root


def test_the_published_counts_are_those_of_the_label_files():
    assert {session: sum(counts.values()) for session, counts in PUBLISHED.items()} == {
        session: labelled for session, (labelled, _) in SESSIONS.items()
    }
    totals = {emotion: sum(counts[emotion] for counts in PUBLISHED.values()) for emotion in PUBLISHED["Ses01"]}
    assert totals == {"happy": 595, "sad": 1084, "neutral": 1708, "angry": 1103, "excited": 1041, "frustrated": 1849}


@pytest.mark.parametrize(
    ("labels", "total"), [("six", 7380), ("six-dialoguernn", 7433), ("four", 5531), ("raw", 10039)]
)
def test_a_tree_with_the_published_labels_differs_in_nothing(release, labels, total):
    prepared = corpora.prepare("iemocap", release, labels=labels)
    assert (len(prepared.utterances), prepared.differences) == (total, [])
    assert len(prepared.utterances) + len(prepared.excluded) == 10039


def test_the_relabelled_utterances_are_happy_by_session(release):
    found = Counter(each.session for each in corpora.prepare("iemocap", release, "six-dialoguernn").utterances)
    assert list(found.values()) == [1373, 1356, 1569, 1512, 1623]


def test_every_row_of_the_release_has_its_text_and_nothing_else(release):
    prepared = corpora.prepare("iemocap", release, "raw")
    assert {tuple(each.missing) for each in prepared.utterances} == {("audio", "video")}
    assert len(prepared.stripped) == 10039


def test_a_row_without_emotion_is_in_no_part(release):
    """`raw` keeps what the annotators did not agree on; nothing may be trained on it."""
    prepared = corpora.prepare("iemocap", release, "raw")
    unlabelled = {each.id for each in prepared.utterances if each.emotion is None}
    folds = divide_parts("loso5", prepared.utterances, prepared.corpus.classes)
    assert len(unlabelled) == 2507 and all(unlabelled.isdisjoint(fold.parts) for fold in folds)


def test_equal_start_and_end_keep_the_row_and_name_it(tmp_path):
    """A window of no length breaks the rules of the manifest: what needs it is missing."""
    plant(tmp_path, block(f"{DIALOGUE}_F000", start=5, end=5))
    add(tmp_path, f"Session1/dialog/wav/{DIALOGUE}.wav")
    add(tmp_path, f"Session1/dialog/avi/DivX/{DIALOGUE}.avi")
    prepared = corpora.prepare("iemocap", tmp_path)
    corpora.write_prepared(prepared, tmp_path / "out")
    (found,) = manifest.read(tmp_path / "out" / "manifest.jsonl")
    assert found.missing == ["audio", "text", "video"]
    assert prepared.differences[-1] == f"1 row without a duration by the labels: {DIALOGUE}_F000"


def test_a_transcript_in_cp1252_keeps_its_typography(tmp_path):
    path = plant(tmp_path) / f"Session1/dialog/transcriptions/{DIALOGUE}.txt"
    add(tmp_path, path.relative_to(tmp_path))
    path.write_bytes(f"{DIALOGUE}_F000 [006.2901-008.2357]: You’ll see… café".encode("cp1252"))
    assert only(tmp_path).text == "You’ll see… café"


@pytest.mark.parametrize("dialogue", ["Ses01F_impro31", "Ses01M_impro31"])
def test_the_channel_and_the_half_are_the_speaker_s(tmp_path, dialogue):
    """Both speak all the time in one picture: left dark and low, right bright and high."""
    for each in faults.write_two_actors(tmp_path, dialogue, 3):
        utterance = next(row for row in corpora.prepare("iemocap", tmp_path).utterances if row.id == each)
        sound, picture = utterance.audio, utterance.video
        samples = decode_audio(tmp_path / sound.path, sound.start, sound.end, sound.channel).samples
        frames = decode_frames(tmp_path / picture.path, 5, (64, 64), picture.start, picture.end, picture.crop)
        pitch = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
        grey, hertz = faults.LEFT if each[5] == each[-4] else faults.RIGHT
        assert (pitch, frames.pixels.mean()) == pytest.approx((hertz, grey), abs=4)


def test_sessions_beyond_the_fifth_are_read_and_said(tmp_path):
    prepared = corpora.prepare("iemocap", plant(tmp_path, dialogue="Ses06M_impro01"))
    assert prepared.utterances[0].speaker == "Ses06F"
    assert prepared.differences[-1] == "Ses06 to Ses06: 1 row in sessions that are not in the published corpus"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block(f"{DIALOGUE}_F000", "angr"), "unknown label 'angr' of Ses01F_impro01_F000: did you mean 'ang'"),
        (block("hello"), "expected an id like Ses01F_impro01_F000, found 'hello'"),
        (block(f"{DIALOGUE}_F000", dimensions="..., ..., ..."), "expected `.*` with tabs, found"),
        (block(f"{DIALOGUE}_F000", dimensions="1.2.3, 2.5, 2.5"), "expected `.*` with tabs, found"),
        (block(f"{DIALOGUE}_F000", dimensions="9" * 400 + ", 2.5, 2.5"), "expected `.*` with tabs, found"),
        ("[6.2901 - 8.2357] no tabs\n", "expected `.*` with tabs, found"),
    ],
)
def test_a_broken_label_line_is_named_with_file_and_line(tmp_path, text, message):
    with pytest.raises(CorpusError, match=rf"{DIALOGUE}\.txt:3: {message}"):
        corpora.prepare("iemocap", plant(tmp_path, text))


def test_an_utterance_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="Ses01F_impro01_F000 twice"):
        corpora.prepare("iemocap", plant(tmp_path, block(f"{DIALOGUE}_F000"), block(f"{DIALOGUE}_F000")))


@pytest.mark.parametrize("folder", ["EmoEvaluation", "transcriptions"])
def test_two_files_of_one_dialogue_that_differ_are_refused(tmp_path, folder):
    """The one in fewer folders won, so labels depended on where an old copy lay."""
    plant(tmp_path)
    plant(tmp_path, folder=folder)
    plant(tmp_path / "old", block(f"{DIALOGUE}_F000", "ang"), folder=folder)
    with pytest.raises(CorpusError, match=f"{DIALOGUE} .* differ: Session1/.*{folder}/.*, old/Session1/.*{folder}/"):
        corpora.prepare("iemocap", tmp_path)


def test_equal_copies_of_a_label_file_count_once(tmp_path):
    plant(plant(tmp_path) / "copy")
    assert only(tmp_path).id == f"{DIALOGUE}_F000"


def test_a_label_file_in_utf16_is_read_and_said(tmp_path):
    """It was decoded as cp1252 and had no row."""
    root = plant(tmp_path)
    path = root / "Session1" / "dialog" / "EmoEvaluation" / f"{DIALOGUE}.txt"
    before = corpora.prepare("iemocap", root).utterances
    path.write_bytes(path.read_text().encode("utf-16"))
    found = corpora.prepare("iemocap", root)
    assert found.utterances == before
    assert any("not in UTF-8, read as utf-16" in line for line in found.differences)


@pytest.mark.parametrize("text", [b"", HEADER.encode()])
def test_a_label_file_without_rows_is_refused_by_name(tmp_path, text):
    """A manifest of no rows was written, which nothing can read."""
    path = plant(tmp_path) / "Session1" / "dialog" / "EmoEvaluation" / f"{DIALOGUE}.txt"
    path.write_bytes(text)
    with pytest.raises(CorpusError, match=rf"expected at least one row .*found none in .*{DIALOGUE}\.txt"):
        corpora.prepare("iemocap", tmp_path)


def test_an_end_before_the_start_is_not_called_equal(tmp_path):
    prepared = corpora.prepare("iemocap", plant(tmp_path, block(f"{DIALOGUE}_F000", start=5, end=4)))
    assert prepared.differences[-1] == f"1 row with an end before the start by the labels: {DIALOGUE}_F000"
    assert "the end is before the start in the labels" in prepared.stripped[0].reason


def test_a_label_file_in_another_encoding_is_said(tmp_path):
    plant(tmp_path)
    path = f"Session1/dialog/EmoEvaluation/{DIALOGUE}.txt"
    with (tmp_path / path).open("ab") as file:
        file.write(b"C-E1:\tAnger;\t(caf\xe9)\n")
    prepared = corpora.prepare("iemocap", tmp_path)
    assert prepared.differences[-1] == f"1 file not in UTF-8, read as cp1252: {path}"


@pytest.mark.parametrize("name", [f"{DIALOGUE}_F000.flac", f"{DIALOGUE.lower()}_f000.WAV"])
def test_a_sentence_in_another_ending_or_case_is_found(tmp_path, name):
    """A release converted to `.flac` lost the audio of every row."""
    add(plant(tmp_path), f"Session1/sentences/wav/{DIALOGUE}/{name}")
    add(tmp_path, f"Session1/dialog/avi/DivX/{DIALOGUE}.mp4")
    found = only(tmp_path)
    assert found.audio == AudioSpan(f"Session1/sentences/wav/{DIALOGUE}/{name}")
    assert found.video.path == f"Session1/dialog/avi/DivX/{DIALOGUE}.mp4"
