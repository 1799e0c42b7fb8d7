"""Publishing a RUN: what goes along, what the model card says, and hubs that cannot be reached."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from wavfusion.cli.app import main
from wavfusion.encoders.presets import PRESETS
from wavfusion.errors import ConfigError
from wavfusion.evaluation import provenance
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs import hub

pytest_plugins = ("corpus_fixture",)

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def pushed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `push RUN FOLDER` writes."""
    out = tmp_path_factory.mktemp("pushed") / "model"
    assert main(["push", str(trained), str(out)]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A RUN that may be changed."""
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))


@pytest.fixture
def card(run: Path, tmp_path: Path) -> Callable[..., str]:
    """The model card, once values of metrics.json were changed."""

    def write(**values: Any) -> str:
        figures = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps({**figures, **values}))
        hub.write_hub_folder(run, tmp_path / "out", "somebody/model")
        return (tmp_path / "out/README.md").read_text()

    return write


# ------------------------------------------------------------------ what goes along


def test_what_was_pushed_predicts_as_the_run_does(pushed, trained, made):
    clip = made.root / "clips/test00.mp4"
    first, second = (EmotionRecognizer.from_pretrained(each).predict(clip)[0] for each in (trained, pushed))
    assert first.probabilities == second.probabilities


def test_these_files_are_published_and_no_other(pushed):
    files = {str(path.relative_to(pushed)).partition("encoders/")[0] for path in pushed.rglob("*") if path.is_file()}
    wanted = {"README.md", "model.safetensors", "familiarity.safetensors", "experiment.yaml"}
    assert files - {""} == wanted | {f"{name}.json" for name in ("config", "protocol", "metrics", "environment")}


def test_no_utterance_and_no_path_of_the_user_is_published(pushed, made):
    texts = "".join(path.read_text() for path in pushed.glob("*") if path.suffix in (".json", ".md", ".yaml"))
    ids = [row.id for row in made.data.utterances]
    assert [each for each in [*ids, str(made.root.parent), "clips/"] if each in texts] == []


def test_an_encoder_that_only_the_user_has_is_refused_and_nothing_written(run, tmp_path):
    """Others could load the model no more, and its path told of the user's machine."""
    config = json.loads((run / "config.json").read_text())
    config["features"]["text"]["name"] = str(shutil.move(run / "encoders/text", tmp_path / "roberta"))
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"encoders that others can have, found text in .*copy it to .*/encoders/text"
    ):
        hub.push(run, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_encoder_copied_into_the_run_is_published_under_its_last_name(run, tmp_path, made):
    config = json.loads((run / "config.json").read_text())
    config["features"]["text"]["name"] = "/home/somebody/roberta"
    (run / "config.json").write_text(json.dumps(config))
    hub.push(run, str(tmp_path / "out"))
    recognizer = EmotionRecognizer.from_pretrained(tmp_path / "out")
    assert recognizer.trained.features.text["name"] == "roberta"


def test_a_folder_with_files_is_left_alone(pushed, trained, capsys):
    before = (pushed / "README.md").stat().st_mtime_ns
    status = main(["push", str(trained), str(pushed)])
    assert (status, (pushed / "README.md").stat().st_mtime_ns == before) == (2, True)


def test_force_writes_over_an_earlier_push(pushed, trained, tmp_path):
    out = shutil.copytree(pushed, tmp_path / "out")
    (out / "README.md").write_text("old")
    (out / "encoders" / "audio").mkdir(parents=True, exist_ok=True)
    (out / "encoders" / "audio" / "of_an_earlier_model.json").write_text("{}")
    hub.push(trained, str(out), force=True)
    assert (out / "README.md").read_text().startswith("---\n")
    assert not list(out.rglob("of_an_earlier_model.json"))


def test_a_run_is_not_pushed_onto_itself(run, capsys):
    before = (run / "metrics.json").read_bytes()
    assert (main(["push", str(run), str(run), "--force"]), (run / "metrics.json").read_bytes()) == (2, before)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"classes": []}'])
def test_a_run_with_damaged_figures_is_refused_in_one_line(run, tmp_path, capsys, content):
    (run / "metrics.json").write_bytes(content)
    status = main(["push", str(run), str(tmp_path / "out")])
    assert (status, capsys.readouterr().err.count("\n"), (tmp_path / "out").exists()) == (2, 1, False)


def test_a_refused_push_leaves_an_earlier_one_as_it_was(run, trained, tmp_path):
    """The configuration was the new one's and the weights the old one's, when the new one lacked a file."""
    place = tmp_path / "out"
    assert main(["push", str(trained), str(place)]) == 0
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    (run / "experiment.yaml").unlink()
    (run / "environment.json").write_text('{"other": 1}')
    assert main(["push", str(run), str(place), "--force"]) == 2
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


# ------------------------------------------------------------------ a hub


def test_a_hub_that_cannot_be_reached_is_one_line(trained, capsys):
    """The tests run with the hub's own offline mode (conftest)."""
    status = main(["push", str(trained), "somebody/model"])
    said = capsys.readouterr().err
    assert (status, said.count("\n"), "'somebody/model'" in said, "offline" in said) == (2, 1, True, True)


def test_an_absent_folder_with_a_dot_is_no_hub_id(trained, tmp_path, monkeypatch):
    """`./model` was taken for a hub id, by `from_pretrained` too."""
    monkeypatch.chdir(tmp_path)
    hub.push(trained, "./model")
    assert (tmp_path / "model/model.safetensors").is_file()


def test_the_hub_gets_the_files_of_the_folder_and_is_private(trained, pushed, monkeypatch):
    """The hub's client is recorded, as no hub is at hand."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, Any] = {}

    def upload(self: Any, *, repo_id: str, folder_path: str, commit_message: str, delete_patterns: list[str]) -> None:
        asked["delete"] = delete_patterns
        asked["id"], asked["files"] = repo_id, sorted(path.name for path in Path(folder_path).iterdir())

    def create(self: Any, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        asked["private"], asked["exist_ok"] = private, exist_ok
        return "there"

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, repo_id: SimpleNamespace(private=True))
    assert (hub.push(trained, "somebody/model"), asked) == (
        "there",
        {
            "id": "somebody/model",
            "files": sorted(path.name for path in pushed.iterdir()),
            "private": True,
            "exist_ok": False,
            "delete": ["encoders/*", "familiarity.safetensors"],
        },
    )


@pytest.mark.parametrize("public", [False, True])
def test_only_public_pushes_onto_a_public_repository(trained, monkeypatch, public):
    """`--force` pushed a model onto a public repository of that id, though a push is private without `--public`."""
    from huggingface_hub import HfApi

    uploads: list[str] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **rest: repo_id)
    monkeypatch.setattr(HfApi, "repo_info", lambda self, repo_id: SimpleNamespace(private=False))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, repo_id, **rest: uploads.append(repo_id))
    if public:
        hub.push(trained, "somebody/model", public=True, force=True)
    else:
        with pytest.raises(ConfigError, match=r"somebody/model: expected a private repository, found a public one"):
            hub.push(trained, "somebody/model", force=True)
    assert uploads == ["somebody/model"] * public


def test_the_hubs_client_takes_what_it_is_called_with():
    import inspect

    from huggingface_hub import HfApi

    create, upload = (inspect.signature(each).parameters for each in (HfApi.create_repo, HfApi.upload_folder))
    assert {"repo_id", "private", "exist_ok"} <= set(create) and {"repo_id", "folder_path", "commit_message"} <= set(
        upload
    )


# ------------------------------------------------------------------ the model card


def test_the_card_has_every_figure_with_its_interval(pushed):
    figures = json.loads((pushed / "metrics.json").read_text())
    text, wanted = (pushed / "README.md").read_text(), []
    for name, bounds in figures["interval"].items():
        low, high = bounds["this_test_set"]
        wanted.append(f"| {name} | {figures[name]:.4f} | {low:.4f} to {high:.4f} |")
    assert [line for line in wanted if line not in text] == []


def test_the_card_names_the_protocol_by_its_hash(pushed):
    assert json.loads((pushed / "protocol.json").read_text())["hash"] in (pushed / "README.md").read_text()


def test_the_head_of_the_card_is_yaml(pushed):
    head = yaml.safe_load((pushed / "README.md").read_text().split("---\n")[1])
    assert (head["library_name"], head["license"]) == ("wavfusion", "other")


def test_the_card_says_what_was_contaminated_and_selected_on_test(card):
    protocol = {"name": "p", "fold": 1, "folds": 1, "hash": "0", "speakers_shared": ["train+test"]}
    protocol |= {"speakers_disjoint": False, "selected_on": "test"}
    text = card(contaminated=["audio"], protocol=protocol)
    assert [
        word
        for word in ("CONTAMINATED: the audio", "SELECTED ON TEST", "shared between train and test")
        if word in text
    ] == [
        "CONTAMINATED: the audio",
        "SELECTED ON TEST",
        "shared between train and test",
    ]


def test_a_clean_card_cries_no_wolf(pushed):
    assert re.findall("CONTAMINATED|SELECTED ON TEST", (pushed / "README.md").read_text()) == []


def test_no_name_breaks_out_of_the_cards_tables(card):
    each = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 3}
    text = card(per_class={"a|b\n<script>": each})
    assert "| a\\|b &lt;script> | 0.5000 |" in text


def test_the_card_forbids_what_the_page_on_responsible_use_forbids(pushed):
    page, card = (DOCS / "responsible_use.md").read_text(), (pushed / "README.md").read_text()
    items = [" ".join(item.split()) for item in re.findall(r"^- Do not .*(?:\n  .*)*", page, re.MULTILINE)]
    assert len(items) == 3 and [item for item in items if item not in " ".join(card.split())] == []


def test_the_cards_licences_are_those_of_the_page_on_responsible_use():
    template = (Path(hub.__file__).parents[1] / "pages/model_card.md").read_text()
    page = (DOCS / "responsible_use.md").read_text()
    terms = [
        "GPL-3.0",
        "CC BY-NC-SA 4.0",
        "Open Database License 1.0",
        "University of Southern California",
        "Apache-2.0",
    ]
    assert [each for each in terms if each not in template or each not in page] == []


def test_every_encoder_with_a_licence_in_the_card_is_one_of_a_preset_or_of_known_provenance():
    template = (Path(hub.__file__).parents[1] / "pages/model_card.md").read_text()
    names = re.findall(r'^  "([^"]+)": "', template, re.MULTILINE)
    known = {*provenance.CHECKPOINTS, *(name for preset in PRESETS.values() for name in (preset.audio, preset.text))}
    assert len(names) > 3 and [name for name in names if not {name, name.lower()} & known] == []
