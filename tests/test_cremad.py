import pytest

from wavfusion import corpora
from wavfusion.corpora.cremad import ACTORS, PUBLISHED, SENTENCES
from wavfusion.corpora.emotions import CREMAD_CODES
from wavfusion.errors import CorpusError
from wavfusion.manifest import AudioSpan, VideoSpan

CLIP = "1001_DFA_ANG_XX"
# The columns of the published table, to the last of those that are read.
VOTES = '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote","meanEmoResp"\n'
MAJORITIES = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'


def votes(number, clip, *counts):
    return f'"{number}",{",".join(map(str, counts))},"{clip}",{sum(counts)},0.5,"A:D",50.5\n'


def prepare(root, *clips, **tables):
    for clip in clips:
        (root / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / clip).touch()
    for name, text in tables.items():
        (root / "processedResults").mkdir(exist_ok=True)
        (root / "processedResults" / f"{name}.csv").write_text(text)
    return corpora.prepare("cremad", root)


def test_sound_and_picture_of_one_clip_are_one_utterance(tmp_path):
    (found,) = prepare(tmp_path, f"AudioWAV/{CLIP}.wav", f"VideoFlash/{CLIP}.flv").utterances
    assert (found.audio, found.video) == (AudioSpan(f"AudioWAV/{CLIP}.wav"), VideoSpan(f"VideoFlash/{CLIP}.flv"))


def test_the_name_of_a_clip_says_emotion_speaker_and_words(tmp_path):
    (found,) = prepare(tmp_path, f"AudioWAV/{CLIP}.wav").utterances
    assert (found.id, found.emotion, found.raw_label, found.speaker, found.text) == (
        CLIP,
        "angry",
        "ANG",
        "actor1001",
        "Don't forget a jacket",
    )


def test_the_wav_is_taken_before_the_mp3(tmp_path):
    (found,) = prepare(tmp_path, f"AudioMP3/{CLIP}.mp3", f"AudioWAV/{CLIP}.wav").utterances
    assert found.audio.path == f"AudioWAV/{CLIP}.wav"


def test_votes_are_the_shares_of_those_who_heard_and_saw(tmp_path):
    table = VOTES + votes(100001, CLIP, 9, 0, 0, 0, 0, 0) + votes(300001, CLIP, 3, 0, 0, 0, 1, 0)
    assert prepare(tmp_path, tabulatedVotes=table).utterances[0].votes == {"angry": 0.75, "neutral": 0.25}


def test_the_majority_is_taken_where_the_votes_are_not_tabulated(tmp_path):
    table = MAJORITIES + f'"1","{CLIP}","N","69.1","N","92.22","A:D","64.78:50.00"\n'
    prepared = prepare(tmp_path, summaryTable=table)
    assert prepared.utterances[0].votes == {"angry": 0.5, "disgust": 0.5}
    assert prepared.differences[-1] == "tabulatedVotes.csv was not found: votes are those of the majority"


def test_without_tables_there_are_no_votes_and_that_is_said(tmp_path):
    prepared = prepare(tmp_path, f"AudioWAV/{CLIP}.wav")
    assert prepared.utterances[0].votes is None
    assert prepared.differences[-1] == "tabulatedVotes.csv was not found: votes are left out"


def test_a_clip_of_the_table_without_files_keeps_its_row(tmp_path):
    prepared = prepare(tmp_path, tabulatedVotes=VOTES + votes(300001, CLIP, 3, 0, 0, 0, 1, 0))
    assert prepared.stripped == [(CLIP, "audio, video: not found below the root")]


def test_the_name_that_lacks_a_letter_is_joined_with_its_votes(tmp_path):
    table = VOTES + votes(300001, "1040_ITH_SAD_XX", 0, 0, 0, 0, 0, 4)
    (found,) = prepare(tmp_path, "AudioWAV/1040_ITH_SAD_X.wav", tabulatedVotes=table).utterances
    assert (found.id, found.audio.path, found.votes) == ("1040_ITH_SAD_XX", "AudioWAV/1040_ITH_SAD_X.wav", {"sad": 1.0})


def test_the_clip_without_sound_has_none(tmp_path):
    prepared = prepare(tmp_path, "AudioWAV/1076_MTI_SAD_XX.wav", "VideoFlash/1076_MTI_SAD_XX.flv")
    assert prepared.utterances[0].missing == ["audio"]
    assert prepared.stripped[0].reason.startswith("audio: no audio in the published recording")


def test_an_unknown_sentence_is_an_exclusion(tmp_path):
    prepared = prepare(tmp_path, f"AudioWAV/{CLIP}.wav", "AudioWAV/1001_XYZ_ANG_XX.wav")
    assert prepared.excluded[0].id == "1001_XYZ_ANG_XX" and prepared.excluded[0].reason.startswith("sentence code XYZ")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("tabulatedVotes", VOTES + '"300001",1,x,0,0,0,0,"1001_DFA_ANG_XX"\n'),
        ("tabulatedVotes", VOTES + votes(300001, CLIP, 2, -1, 0, 0, 0, 0)),
        ("tabulatedVotes", VOTES + votes(300001, CLIP, 1, -1, 0, 0, 0, 0)),
        ("tabulatedVotes", VOTES + votes(300001, "hello", 1, 0, 0, 0, 0, 0)),
        ("summaryTable", MAJORITIES + f'"1","{CLIP}","N","1","N","1","Q","1"\n'),
    ],
)
def test_a_broken_table_is_named_with_file_and_line(tmp_path, name, table):
    with pytest.raises(CorpusError, match=rf"{name}\.csv:2: expected a row as published"):
        prepare(tmp_path, **{name: table})


def test_a_corpus_as_published_differs_in_nothing(tmp_path):
    counts, codes = dict(PUBLISHED), {emotion: code for code, emotion in CREMAD_CODES.items()}
    every = ((actor, text, level) for level in ("XX", "LO", "HI") for text in SENTENCES for actor in range(1001, 1092))
    lines = []
    for actor, text, level in every:
        for emotion in [emotion for emotion, left in counts.items() if left]:
            counts[emotion] -= 1
            lines.append(votes(300000, f"{actor}_{text}_{codes[emotion]}_{level}", 1, 0, 0, 0, 0, 0))
    prepared = prepare(tmp_path, tabulatedVotes=VOTES + "".join(lines))
    assert (len(prepared.utterances), prepared.differences) == (7442, [])
    assert len({each.speaker for each in prepared.utterances}) == ACTORS == 91


@pytest.mark.parametrize("text", ["", '"","A"\n"300001",1\n', "name,mood\nx,sad\n"])
def test_a_table_of_other_columns_is_refused(tmp_path, text):
    """An empty table counted as one that was found: no votes, and not a word about it."""
    with pytest.raises(CorpusError, match=r"tabulatedVotes\.csv:1: expected the column 'fileName', found"):
        prepare(tmp_path, f"AudioWAV/{CLIP}.wav", tabulatedVotes=text)


def test_a_table_without_rows_is_said(tmp_path):
    prepared = prepare(tmp_path, f"AudioWAV/{CLIP}.wav", tabulatedVotes=VOTES)
    assert prepared.differences[-1] == "processedResults/tabulatedVotes.csv has no rows rated by both"


def test_a_clip_that_nobody_rated_has_no_votes_and_that_is_said(tmp_path):
    prepared = prepare(tmp_path, tabulatedVotes=VOTES + votes(300001, CLIP, 0, 0, 0, 0, 0, 0))
    assert prepared.utterances[0].votes is None
    assert prepared.differences[-1] == f"processedResults/tabulatedVotes.csv: 1 clip without votes: {CLIP}"


def test_a_clip_that_is_listed_twice_is_said(tmp_path):
    """The second row replaced the first silently."""
    table = VOTES + votes(300001, CLIP, 1, 0, 0, 0, 0, 0) + votes(300002, CLIP, 0, 1, 0, 0, 0, 0)
    prepared = prepare(tmp_path, tabulatedVotes=table)
    assert prepared.differences[-1].endswith(f"1 clip listed again, the last row counts: {CLIP}")


def test_a_cell_over_the_limit_says_what_was_expected(tmp_path):
    with pytest.raises(CorpusError, match=r"Votes\.csv:2: expected cells of at most 131,072 characters.*found: field"):
        prepare(tmp_path, tabulatedVotes=VOTES + votes(300001, "x" * 140_000, 1, 0, 0, 0, 0, 0))


def test_two_tables_that_differ_are_refused(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "tabulatedVotes.csv").write_text(VOTES + votes(300001, CLIP, 1, 0, 0, 0, 0, 0))
    with pytest.raises(CorpusError, match="found several that differ: old/tab.*, processedResults/tab"):
        prepare(tmp_path, tabulatedVotes=VOTES + votes(300001, CLIP, 0, 1, 0, 0, 0, 0))


def test_recordings_in_another_ending_or_case_are_found(tmp_path):
    (found,) = prepare(tmp_path, f"AudioWAV/{CLIP.lower()}.flac", f"VideoFlash/{CLIP}.MKV").utterances
    assert (found.id, found.audio.path, found.video.path) == (
        CLIP,
        f"AudioWAV/{CLIP.lower()}.flac",
        f"VideoFlash/{CLIP}.MKV",
    )
