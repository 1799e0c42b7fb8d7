"""The README's examples run as they stand, on a RUN that is made here."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    fenced = [block.partition("\n") for block in README.split("```")[1::2]]
    return [body for kind, _, body in fenced if kind == language]


def test_the_readme_fits_on_a_few_screens():
    assert README.count("\n") <= 200


def test_every_file_of_the_tree_exists():
    tree = next(block for block in blocks("") if block.startswith("wavfusion/"))
    names = re.findall(r"(?:^  |\s{2,})(\w+(?:\.py|/))", tree)
    assert [name for name in names if not (ROOT / "wavfusion" / name).exists()] == []


def test_every_module_is_in_the_tree():
    names = [path.name for path in (ROOT / "wavfusion").glob("*.py") if not path.name.startswith("__")]
    assert [name for name in names if name not in README] == []


def test_every_linked_file_exists():
    names = re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(r"`(docs/[\w.]+)`", README)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_shell_line_names_a_real_verb_and_real_flags():
    from wavfusion.cli.app import flags

    wrong = []
    for line in "\n".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["wavfusion"]:
            wrong += [word for word in words[2:] if word.startswith("--") and word not in flags(words[1])]
    assert wrong == []


@pytest.mark.slow
def test_the_python_example_runs_on_the_demo(tmp_path, monkeypatch):
    from wavfusion.cli import demo

    monkeypatch.chdir(tmp_path)
    demo.run_demo(Path("runs/demo"), clips=110)
    Path("runs/demo/work/clip.mp4").rename("clip.mp4")
    names: dict[str, object] = {}
    exec(blocks("python")[0], names)
    assert names["predictions"][0].modalities == ["audio", "text", "video"]
