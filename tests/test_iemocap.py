import pytest

from wavfusion import corpora
from wavfusion.corpora.iemocap import PUBLISHED
from wavfusion.emotions import DIALOGUERNN_HAPPY, IEMOCAP_CODES
from wavfusion.errors import CorpusError
from wavfusion.manifest import AudioSpan, VideoSpan

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


@pytest.mark.parametrize(("labels", "total"), [("six", 7380), ("six-dialoguernn", 7433), ("four", 5531)])
def test_a_tree_with_the_published_labels_differs_in_nothing(tmp_path, labels, total):
    codes = {emotion: code for code, emotion in IEMOCAP_CODES.items()}
    for session, counts in PUBLISHED.items():
        each = [codes[emotion] for emotion, count in counts.items() for _ in range(count)]
        dialogue = f"{session}F_script09"
        plant(tmp_path, *(block(f"{dialogue}_F{k:04d}", code) for k, code in enumerate(each)), dialogue=dialogue)
    for dialogue in {key.rpartition("_")[0] for key in DIALOGUERNN_HAPPY}:
        keys = [key for key in sorted(DIALOGUERNN_HAPPY) if key.startswith(f"{dialogue}_")]
        plant(tmp_path, *(block(key, "xxx") for key in keys), dialogue=dialogue)
    prepared = corpora.prepare("iemocap", tmp_path, labels=labels)
    assert (len(prepared.utterances), prepared.differences) == (total, [])


def test_sessions_beyond_the_fifth_are_read_and_said(tmp_path):
    prepared = corpora.prepare("iemocap", plant(tmp_path, dialogue="Ses06M_impro01"))
    assert prepared.utterances[0].speaker == "Ses06F"
    assert prepared.differences[-1] == "Ses06 to Ses06: 1 rows in sessions that the published corpus lacks"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block(f"{DIALOGUE}_F000", "angr"), "unknown label 'angr' of Ses01F_impro01_F000: did you mean 'ang'"),
        (block("hello"), "expected an id like Ses01F_impro01_F000, found 'hello'"),
        ("[6.2901 - 8.2357] no tabs\n", "expected `.*` with tabs, found"),
    ],
)
def test_a_broken_label_line_is_named_with_file_and_line(tmp_path, text, message):
    with pytest.raises(CorpusError, match=rf"{DIALOGUE}\.txt:3: {message}"):
        corpora.prepare("iemocap", plant(tmp_path, text))


def test_an_utterance_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="Ses01F_impro01_F000 twice"):
        corpora.prepare("iemocap", plant(tmp_path, block(f"{DIALOGUE}_F000"), block(f"{DIALOGUE}_F000")))
