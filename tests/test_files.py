import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from wavfusion.errors import ConfigError, CorpusError
from wavfusion.files import (
    Constraint,
    Count,
    NonEmpty,
    choice_of,
    parse_yaml,
    read_json,
    validated,
    write_atomic,
    write_json,
)


@dataclass(frozen=True, slots=True)
class Span:
    path: NonEmpty
    start: float | None = None


@dataclass(frozen=True)
class Clip:
    id: NonEmpty
    index: Count | None
    span: Span | None = None
    split: Annotated[str, choice_of("train", "test")] | None = None
    shares: dict[str, float] | None = None
    spans: list[Span] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    mix: Literal["left", "right"] = "left"
    even: Annotated[int, Constraint("an even number", lambda value: value % 2 == 0)] = 0

    def __post_init__(self) -> None:
        if self.id == "none":
            raise ConfigError("id: expected another name than none")


CLIP = {"id": "a", "index": 0}


def test_plain_values_become_nested_dataclasses():
    values = {**CLIP, "span": {"path": "a.wav", "start": 1}, "spans": [{"path": "b.wav"}]}
    assert validated(Clip, values, "f") == Clip("a", 0, Span("a.wav", 1.0), spans=[Span("b.wav")])


def test_an_undecodable_byte_of_a_file_name_is_a_string():
    assert validated(Span, {"path": "caf\udce9"}, "f").path == "caf\udce9"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indx": 1}, "unknown field 'indx': did you mean 'index'? valid: id, index, span"),
        ({"span": {"pth": "a"}}, "unknown field 'span.pth': did you mean 'span.path'? valid: span.path, span.start"),
        ({"id": ""}, "field 'id': expected a non-empty string, found ''"),
        ({"index": -1}, "field 'index': expected an integer >= 0 or null, found -1"),
        ({"index": True}, "field 'index': expected an integer >= 0 or null, found True"),
        ({"index": "1"}, "field 'index': expected an integer >= 0 or null, found '1'"),
        ({"index": 1.0}, "field 'index': expected an integer >= 0 or null, found 1.0"),
        ({"even": 3}, "field 'even': expected an even number, found 3"),
        ({"split": "tain"}, "field 'split': expected train | test or null, found 'tain'"),
        ({"mix": "rigth"}, "field 'mix': expected left | right (did you mean 'right'?), found 'rigth'"),
        ({"span": 3}, "field 'span': expected an object with path, start or null, found 3"),
        ({"span": {"start": 1}}, "field 'span.path' is missing"),
        (
            {"span": {"path": "a", "start": float("nan")}},
            "field 'span.start': expected a finite number or null, found nan",
        ),
        ({"shares": {"happy": "1"}}, "field 'shares.happy': expected a number, found '1'"),
        ({"spans": [{"path": "a"}, {"path": ""}]}, "field 'spans.1.path': expected a non-empty string, found ''"),
        ({"names": "ab"}, "field 'names': expected a list of strings, found 'ab'"),
        ({"id": "none"}, "id: expected another name than none"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_found_and_where(changes, message):
    with pytest.raises(CorpusError) as caught:
        validated(Clip, CLIP | changes, "rows.jsonl:3", refuse=CorpusError)
    assert str(caught.value).startswith(f"rows.jsonl:3: {message}")


def test_a_long_value_is_cut_in_a_message():
    with pytest.raises(ConfigError) as caught:
        validated(Clip, CLIP | {"names": "a" * 10_000}, "f")
    assert len(str(caught.value)) < 300


def test_fields_with_a_default_may_be_required():
    with pytest.raises(ConfigError, match="f: field 'span' is missing"):
        validated(Clip, CLIP, "f", complete=True)


def test_equal_values_give_equal_bytes_of_json(tmp_path):
    write_json(tmp_path / "a.json", {"café": [1, None]})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "café": [\n    1,\n    null\n  ]\n}\n'.encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b"[" * 60 + b"]" * 60],
    ids=["empty", "cut", "bytes", "cut deep", "deep"],
)
def test_what_is_no_json_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^.*a\.json: expected JSON, found .*$"):
        read_json(tmp_path / "a.json")


def test_a_file_beyond_all_bounds_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr("wavfusion.files.BYTES", 10)
    (tmp_path / "a.json").write_text(json.dumps("a" * 10))
    with pytest.raises(ConfigError, match="expected at most 10 bytes"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: &x [1]\nb: *x", ":2: expected YAML; found an alias"),
        ("a: 1\na: 2", ":2: expected YAML; found 'a' for the second time"),
        ("a: !!set {b}", ": expected YAML, found a value of type set"),
        ("a: !!python/object:os.system b", ":1: expected YAML; could not determine a constructor"),
        ("[" * 60 + "]" * 60, ": expected YAML, found more than 50 levels"),
    ],
)
def test_yaml_that_is_not_plain_is_refused_with_its_line(text, found):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "own.yaml")
    assert str(caught.value).startswith(f"own.yaml{found}")


def test_1e_4_in_yaml_is_a_number_and_a_date_is_a_string():
    """YAML 1.1 reads 1e-4 as a word."""
    assert parse_yaml("a: 1e-4\nb: 2020-01-01\nc: -2E+3", "f") == {"a": 1e-4, "b": "2020-01-01", "c": -2000.0}


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path):
    def cut():
        yield b"new"
        raise RuntimeError

    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "a", cut())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
