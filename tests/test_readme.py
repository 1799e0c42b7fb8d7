"""The README: short, and its map is that of the folders. `test_docs.py` checks its commands and links."""

import re
from pathlib import Path

from wavfusion import media

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    fenced = [block.partition("\n") for block in README.split("```")[1::2]]
    return [body for kind, _, body in fenced if kind == language]


def test_the_readme_fits_on_a_few_screens():
    assert README.count("\n") < 120


def test_the_map_has_one_line_for_each_folder_of_the_package():
    tree = next(block for block in blocks("") if block.startswith("wavfusion/"))
    rooms = [path.name for path in (ROOT / "wavfusion").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(re.findall(r"^  (\w+)/ +\S", tree, re.MULTILINE)) == sorted(rooms)


def test_the_python_example_runs_on_a_real_conversation(tmp_path, monkeypatch):
    """By the voice model, which no line of it names."""
    monkeypatch.chdir(tmp_path)
    conversation = media.decode_audio(ROOT / "wavfusion/examples/conversation.ogg")
    media.write_audio(tmp_path / "talk.wav", conversation.samples[: 10 * media.SAMPLE_RATE], media.SAMPLE_RATE)
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert [each.modalities for each in names["predictions"]] == [["audio"]]
