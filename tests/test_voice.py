"""The recipe of the voice model: its corpora, in small repositories with the true names of files."""

import csv
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from wavfusion import corpora

RECIPE = Path(__file__).parents[1] / "models" / "voice"
RAVDESS = "Speech_Emotion_Recogntion_from_audio/data/RAVDESS/Audio_Speech_Actors_01-24"
KOREAN = "Dataset/SpeechCorpus/Emotional"
FILES = {
    "Projet-Son-Jedha": {
        f"{RAVDESS}/Actor_{actor:02d}/03-01-{emotion:02d}-01-02-01-{actor:02d}.wav": b"x"
        for actor in (1, 15, 17, 20, 21)
        for emotion in range(1, 9)
    },
    "nEMO": {
        "data.tsv": b"file_id\temotion\traw_text\nEB0_fear_1.wav\tfear\tDzie\xc5\x84 dobry.\n",
        **{f"samples/{speaker}_fear_1.wav": b"x" for speaker in ("EB0", "MP0", "WR0", "KD0", "KS0")},
    },
    "speech-emotion-recognition": {"dataset/Angry/03a01Wa.wav": b"whole", "dataset/Sad/09a02Ta.wav": b"whole"},
    "voice-emotion-analysis": {f"wav/{name}.wav": b"cut" for name in ("03a01Wa", "03a01La", "11a02Ea")},
    "emotiontts_open_db": {
        f"{KOREAN}/plain-to-emotional/ema/{kind}/ema{number:05d}.{ending}": content
        for number in (1, 101, 201, 301)
        for kind, ending, content in (("wav", "wav", b"x"), ("transcript", "txt", b"annyeong"))
    },
}


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("voice_corpora", RECIPE / "corpora.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clones, out = tmp_path_factory.mktemp("clones"), tmp_path_factory.mktemp("out")
    for name, files in FILES.items():
        for path, content in files.items():
            (clones / name / path).parent.mkdir(parents=True, exist_ok=True)
            (clones / name / path).write_bytes(content)
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "all"]):
            subprocess.run(["git", "-C", clones / name, *command], check=True)
    recipe().main(clones, out)
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_names_become_the_seven_emotions(laid_out: Path) -> None:
    """The Korean corpus's README swaps sadness and anger; calm is neutral; boredom has no place."""
    found = {row["id"]: row["emotion"] for row in rows_of(laid_out / "table.csv")}
    calm_first = ["neutral", "neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"]
    assert [found[f"ravdess-03-01-{number:02d}-01-02-01-01"] for number in range(1, 9)] == calm_first
    korean = [found[f"emotiontts-ema{number:05d}"] for number in (1, 101, 201, 301)]
    assert korean == ["neutral", "happy", "sad", "angry"] and found["nemo-EB0_fear_1"] == "fearful"
    german = {key: emotion for key, emotion in found.items() if key.startswith("emodb")}
    assert german == {"emodb-03a01Wa": "angry", "emodb-09a02Ta": "sad", "emodb-11a02Ea": "disgusted"}


def test_speakers_that_judge_the_model_are_left_out(laid_out: Path) -> None:
    speakers = {row["speaker"] for row in rows_of(laid_out / "table.csv")}
    assert not speakers & {"ravdess-21", "nemo-KD0", "nemo-KS0"} and {"ravdess-20", "nemo-WR0"} <= speakers
    assert not [*laid_out.rglob("*-21.wav"), *laid_out.rglob("K?0_*.wav")]


def test_a_recording_in_two_repositories_is_the_whole_one(laid_out: Path) -> None:
    assert (laid_out / "emodb/03a01Wa.wav").read_bytes() == b"whole"
    assert (laid_out / "emodb/11a02Ea.wav").read_bytes() == b"cut"


def test_each_fold_parts_speakers_and_leaves_a_corpus_out(laid_out: Path) -> None:
    about = {row["id"]: row for row in rows_of(laid_out / "table.csv")}
    parts: dict[str, dict[str, set[str]]] = {}
    for row in [*rows_of(laid_out / "kept.csv"), *rows_of(laid_out / "left_out.csv")]:
        parts.setdefault(row.get("fold", "kept"), {}).setdefault(row["split"], set()).add(row["id"])
    for fold, each in parts.items():
        assert set().union(*each.values()) == set(about)
        speakers = [{about[key]["speaker"] for key in keys} for keys in each.values()]
        assert sum(map(len, speakers)) == len(set().union(*speakers)), fold
    tested = [{about[key]["corpus"] for key in each["test"]} for each in parts.values()]
    assert tested[1:] == [{"ravdess"}, {"nemo"}, {"emodb"}, {"emotiontts"}] and len(tested[0]) == 4


def test_the_table_is_one_that_prepare_reads(laid_out: Path) -> None:
    prepared = corpora.prepare("table", laid_out)
    texts = {each.id: each.text for each in prepared.utterances}
    assert texts["nemo-EB0_fear_1"] == "Dzień dobry." and texts["emotiontts-ema00001"] == "annyeong"
    languages = {each.corpus: each.language for each in prepared.utterances}
    assert languages == {"ravdess": "en", "nemo": "pl", "emodb": "de", "emotiontts": "ko"}
