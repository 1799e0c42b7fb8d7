"""The README: short, and its map is that of the folders. `test_docs.py` checks its commands and links."""

import re
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_python_example_runs_on_the_demo(tmp_path, monkeypatch):
    from wavfusion.cli import demo

    monkeypatch.chdir(tmp_path)
    demo.run_demo(Path("runs/demo"), clips=110)
    Path("runs/demo/work/clip.mp4").rename("clip.mp4")
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert names["predictions"][0].modalities == ["audio", "text", "video"]
