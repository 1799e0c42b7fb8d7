"""The documentation: its links, its names, its command lines, and every block of tutorials and how-to pages run."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from wavfusion import manifest, media
from wavfusion.experiments import experiment

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES]
RUN = sorted((DOCS / "tutorial").glob("*.md")) + sorted((DOCS / "howto").glob("*.md"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# No part but the last spans lines: a `.+` that did swallowed whatever lay between the first and the last such block.
BLOCK = re.compile(
    r'(<!-- not run: [^\n]+ -->\n)?^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL
)
PLAIN = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "TYPER_USE_RICH": "0"}
VERBS = (
    "demo prepare check encoders models extract train tune evaluate cross predict embed reproduce report serve export "
    "bundle push bench lookalike"
)
OLD_WORDS = (
    r"the plain way|half the digits|whole or not at all|begins? anew|design [A-Z]\.\d|best possible|"
    r"what is said|who speaks when there|quicken|at commit [0-9a-f]{7}"
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[bool, str, str, str]]:
    """For each fenced block whether it runs here, its language, the file that it is, and its text."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [(not marker, language, title, text) for marker, language, title, text in found]


def command_lines(page: Path) -> list[list[str]]:
    """Every `wavfusion VERB ...` of a page's shell blocks, in words."""
    shell = "\n".join(text for _, language, _, text in blocks(page) if language == "sh").replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in shell.splitlines()]
    starts = [(line, line.index("wavfusion")) for line in lines if "wavfusion" in line]
    return [line[start + 1 :] for line, start in starts if line[start - 1 : start] != ["install"]]


@cache
def help_of(verb: str) -> str:
    command = [sys.executable, "-m", "wavfusion", *([verb] if verb else []), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **PLAIN}, timeout=60, check=True)
    return done.stdout


def flags_of(verb: str) -> set[str]:
    return set(re.findall(r"--[\w-]+", help_of(verb)))


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_shell_line_names_a_real_verb_and_real_flags(page):
    settings = {f"--{name}" for name in experiment.settings()}
    wrong = []
    for verb, *words in command_lines(page):
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [f"{verb} {flag}" for flag in sorted(given - flags_of(verb) - settings)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_parses_and_every_yaml_block_too(page):
    for _, language, _, text in blocks(page):
        if language == "python":
            ast.parse(text)
        elif language == "yaml":
            yaml.safe_load(text)


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_linked_file_exists(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_that_the_package_names_exists():
    """Docstrings and messages once named pages that had moved, and a document that was never in the repository."""
    files = [path for folder in ("wavfusion", "scripts", "tests") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text("utf-8") for path in files if path.suffix in (".py", ".yaml", ".html", ".md")}
    named = {(name_of(path), page) for path, text in texts.items() for page in re.findall(r"docs/[\w/]+\.md", text)}
    assert sorted((path, page) for path, page in named if not (ROOT / page).exists()) == []


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert sorted(re.findall(r"[\w/]+\.md", text)) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_dotted_name_and_file_of_the_package_exists(page):
    text = page.read_text("utf-8")
    wrong = [name for name in set(re.findall(r"\bwavfusion(?:\.\w+)+\b", text)) if not exists(name)]
    wrong += [path for path in set(re.findall(r"`((?:wavfusion|tests|scripts)/[\w/.]+)`", text)) if absent(path)]
    assert wrong == []


def absent(path: str) -> bool:
    placeholders = {"wavfusion/corpora/NAME.py", "wavfusion/corpora/tess.py"}  # files that a reader is told to write
    return path not in placeholders and not (ROOT / path).exists()


def exists(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", WRITTEN[1:], ids=name_of)
def test_prose_wraps_at_a_hundred_characters(page):
    limit = 100 if page in PAGES else 130
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("|")]
    assert [line for line in lines if len(line) > limit] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_the_words_of_the_glossary_are_used(page):
    """The documentation once called a baseline "the plain way" and bfloat16 "half the digits"."""
    assert re.findall(OLD_WORDS, page.read_text("utf-8")) == []


def test_every_verb_has_a_section_of_the_command_line_reference():
    shown = re.findall(r"^<!-- help: (\w+) -->$", (DOCS / "reference/cli.md").read_text("utf-8"), re.MULTILINE)
    assert shown == VERBS.split() and [verb for verb in shown if verb not in help_of("")] == []


def test_every_setting_is_in_the_configuration_reference():
    page = (DOCS / "reference/configuration.md").read_text("utf-8")
    names = {part for name in experiment.settings() for part in name.split(".")}
    assert sorted(name for name in names if f"`{name}`" not in page and f"{name}:" not in page) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_are_stored_without_outputs(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]] == []


# ---------------------------------------------------------------------- what runs


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages assume: the demo's model and corpus, and recordings with transcripts."""
    folder = tmp_path_factory.mktemp("desk")
    demo = os.environ.get("WAVFUSION_DEMO")  # a small demo made before, to save minutes
    if demo:
        shutil.copytree(demo, folder / "runs/demo")
    else:
        run([sys.executable, "-m", "wavfusion", "demo", "--out", "runs/demo", "--clips", "110"], folder)
    work = folder / "runs/demo/work"
    for name, made in (("corpus", "corpus"), ("prepared", "manifest"), ("features", "store")):
        (folder / name).symlink_to(work / made)
    rows = [row for row in manifest.read(work / "manifest/manifest.jsonl") if row.video]
    rows = [row for row in rows if row.dialogue == rows[0].dialogue]
    source = work / "corpus" / rows[0].video.path
    frames, audio = media.decode_frames(source, 10, (120, 180)), media.decode_audio(source)
    media.write_video(folder / "talk.mp4", frames.pixels, 10, audio.samples, media.SAMPLE_RATE)
    shutil.copy(work / "clip.mp4", folder / "clip.mp4")
    call = np.stack([audio.samples, audio.samples[::-1]])
    media.write_audio(folder / "call.wav", call, media.SAMPLE_RATE)
    cues = [f"{i}\n{clock(row.video.start)} --> {clock(row.video.end)}\n{row.text}\n" for i, row in enumerate(rows, 1)]
    (folder / "talk.srt").write_text("\n".join(cues))
    for place, file, name in (("interviews", "clip.mp4", "first.mp4"), ("interviews", "talk.mp4", "deep/second.mp4"),
                              ("subtitles", "talk.srt", "deep/second.srt"), ("mine/clips", "clip.mp4", "a1.mp4"),
                              ("mine/clips", "talk.mp4", "a2.mp4")):  # fmt: skip
        (folder / place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file, folder / place / name)
    (folder / "bin").mkdir()
    for name, module in (("wavfusion", "wavfusion"), ("torchrun", "torch.distributed.run")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return folder


def clock(seconds: float) -> str:
    """Seconds as SubRip writes them."""
    return f"00:{int(seconds // 60):02d}:{seconds % 60:06.3f}".replace(".", ",")


def run(command: list[str], folder: Path) -> None:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_every_block_of_the_page_runs(page, desk, tmp_path):
    """Blocks run in order, in a folder of the page's own that begins with what the pages assume."""
    for each in desk.iterdir():
        (tmp_path / each.name).symlink_to(each)
    for name in ("runs", "features", "interviews", "mine"):  # what pages write into
        (tmp_path / name).unlink()
        shutil.copytree(desk / name, tmp_path / name)
    written_here = {"train.md": ["corpus", "prepared", "features"], "reproduce.md": ["corpus", "prepared", "features"],
                    "label.md": ["talk.mp4"], "own_corpus.md": ["prepared", "features"]}  # fmt: skip
    for name in written_here.get(page.name, []):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for runs, language, title, text in blocks(page):
        if title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(text)
        elif runs and language == "sh":
            run(["bash", "-euo", "pipefail", "-c", text], tmp_path)
        elif runs and language == "python":
            run([sys.executable, "-c", text], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_the_notebook_runs(path, desk, tmp_path, monkeypatch):
    """By nbclient, beside the demo's model."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{desk / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "runs").symlink_to(desk / "runs")
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [cell.id for cell in book.cells if cell.cell_type == "code" and not cell.execution_count] == []
