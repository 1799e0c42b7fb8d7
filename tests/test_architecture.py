"""The house: public names, leaves, lazy imports, shipped files (the import floors are `lint-imports`)."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wavfusion
from wavfusion import manifest
from wavfusion.cli.app import main
from wavfusion.comparators.systems import SYSTEMS
from wavfusion.experiments import experiment
from wavfusion.model import config

PACKAGE = Path(wavfusion.__file__).parent
VERBS = ["demo", "prepare", "extract", "train", "evaluate", "predict", "export", "lookalike"]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_package_has_just_its_public_names():
    assert wavfusion.__all__ == ["EmotionRecognizer", "Prediction", "__version__"]


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'EmotionRecogniser'"):
        wavfusion.EmotionRecogniser  # noqa: B018


def test_rooms_of_the_contract_are_imported_when_first_used():
    """`import wavfusion; wavfusion.transcripts.read(path)` needed an import of its own."""
    done = run_python("import sys, wavfusion; assert 'wavfusion.media' not in sys.modules; wavfusion.transcripts.read")
    assert done.returncode == 0, done.stderr


def test_the_model_offers_the_papers_nouns():
    names = ["WavFusion", "WavFusionConfig", "AGRU", "LVC", "AGRULVC", "CrossModalAttention", "Gate", "DeepLayer"]
    model = importlib.import_module("wavfusion.model")
    assert [getattr(model, name).__name__ for name in names] == names


def test_importing_the_package_imports_nothing_heavy():
    done = run_python("import sys, wavfusion, wavfusion.cli; print({'torch', 'transformers', 'av'} & set(sys.modules))")
    assert done.stdout == "set()\n"


def test_the_rest_works_without_its_leaves():
    leaves = [
        "wavfusion.cli.demo",
        "wavfusion.report",
        "wavfusion.runs.bundle",
        "wavfusion.runs.hub",
        "wavfusion.lookalike",
    ]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({leaves!r}))\n"
    done = run_python(
        blocked + "from wavfusion.training import train; from wavfusion.evaluation import evaluate; "
        "from wavfusion.prediction import recognizer; from wavfusion.features import extract; "
        "from wavfusion import corpora; print('here')"
    )
    assert done.stdout == "here\n"


def test_the_model_s_modalities_are_those_of_the_manifest():
    """`model/` may not import the manifest, so it names them itself."""
    assert tuple(config.MODALITIES) == manifest.MODALITIES


def test_help_of_the_whole_names_every_verb():
    done = subprocess.run([sys.executable, "-m", "wavfusion", "--help"], capture_output=True, text=True, timeout=60)
    assert [verb for verb in VERBS if verb in done.stdout] == VERBS


def test_every_shipped_experiment_parses():
    found = {name: experiment.read_experiment(name) for name in experiment.shipped_experiments()}
    fusion = {name: each.train.epochs for name, each in found.items() if each.system is None}
    assert fusion == {"paper": 30, "recommended": 30, "small": 10}
    assert {each.system.name: name for name, each in found.items() if each.system} == {name: name for name in SYSTEMS}


def test_shipped_assets_stay_under_a_megabyte():
    assert sum(path.stat().st_size for path in (PACKAGE / "tiny_assets").iterdir()) < 1 << 20


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_no_module_sets_threads_or_seeds_when_it_is_imported():
    code = (
        "import torch; torch.manual_seed(7); before = torch.get_num_threads(), torch.initial_seed()\n"
        "from wavfusion import cli, lookalike\n"
        "from wavfusion.cli import demo\nfrom wavfusion.training import train\n"
        "from wavfusion.prediction import recognizer\n"
        "print((torch.get_num_threads(), torch.initial_seed()) == before)"
    )
    assert run_python(code).stdout == "True\n"


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{wavfusion.__version__}\n"


# ------------------------------------------------------------------ rooms

TOP = {"__init__.py", "__main__.py", "errors.py", "files.py", "manifest.py", "version.py", "py.typed"}
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
# A verb of the command line is called as the function that does its work.
VERB = "the function of the command line's verb, in cli/, and the function that it calls"
SHARED_NAMES = {
    **dict.fromkeys(("check", "embed", "evaluate", "extract", "prepare", "push", "serve", "train", "tune"), VERB),
    "read": "names that users rely on: wavfusion.manifest.read and wavfusion.transcripts.read",
}
OTHER_SIZES = {
    "experiments": "one reader; the other files are the shipped experiments and tables in YAML",
    "pages": "one file that fills pages; the other files are the pages and their scripts",
}


def public_names(path: Path) -> set[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.parse(path.read_text("utf-8")).body
    return {node.name for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")}


def test_nothing_but_these_files_lies_at_the_top_of_the_package():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == TOP


def test_no_public_class_or_function_has_the_name_of_another_in_another_room():
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in public_names(path):
            rooms.setdefault(name, set()).add(path.relative_to(PACKAGE).parts[0])
    assert {name for name, places in rooms.items() if len(places) > 1} == set(SHARED_NAMES)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_opens_with_a_paragraph_on_what_it_does(room: Path):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
    assert len(re.findall(r"[.!?](?=\s|$)", text)) >= 2


def test_a_room_holds_three_to_twelve_files():
    sizes = {room.name: len({path.name for path in room.glob("*.py")} - {"__init__.py"}) for room in ROOMS}
    assert {name for name, size in sizes.items() if not 3 <= size <= 12} == set(OTHER_SIZES)


def test_the_order_of_the_rooms_fits_on_25_lines():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    assert [len(each["layers"]) <= 25 for each in contracts if each["type"] == "layers"] == [True]


def test_the_package_imports_without_what_only_unix_has():
    """`fcntl` was imported unconditionally: on Windows nothing could be imported."""
    code = (
        "import builtins, importlib, pkgutil, wavfusion\n"
        "real = builtins.__import__\n"
        "def without(name, globals=None, *rest, **named):\n"
        "    ours = str((globals or {}).get('__name__')).startswith('wavfusion')\n"
        "    if ours and name in {'fcntl', 'resource', 'pwd', 'grp', 'termios'}:\n"
        "        raise ModuleNotFoundError(name)\n"
        "    return real(name, globals, *rest, **named)\n"
        "builtins.__import__ = without\n"
        "for each in pkgutil.walk_packages(wavfusion.__path__, 'wavfusion.'):\n"
        "    if not each.name.endswith('__main__'):\n"
        "        importlib.import_module(each.name)\n"
        "print('imported')"
    )
    done = run_python(code)
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.slow
def test_the_demo_beats_the_majority_and_writes_its_report(tmp_path):
    out = tmp_path / "demo"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "wavfusion", "demo", "--out", str(out), "--json"],
        capture_output=True, text=True, timeout=900, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    accuracy = {name: row["accuracy"] for name, row in summary["subsets"].items()}
    singles = max(accuracy[name] for name in ("audio", "text", "video"))
    assert {
        "subsets": len(accuracy),
        "all three beat every single one": accuracy["audio+text+video"] > singles + 0.05,
        "every subset beats the majority": min(accuracy.values()) > summary["majority"],
        "report": "<h1>" in (out / "report.html").read_text("utf-8"),
    } == {
        "subsets": 7,
        "all three beat every single one": True,
        "every subset beats the majority": True,
        "report": True,
    }
