import errno
import json
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.files import (
    Constraint,
    Count,
    NonEmpty,
    PathText,
    choice_of,
    parse_yaml,
    read_bytes,
    read_json,
    read_text_lines,
    read_yaml,
    validated,
    write_atomic,
    write_json,
)


@dataclass(frozen=True, slots=True)
class Span:
    path: NonEmpty
    start: float | None = None


@dataclass(frozen=True)
class Place:
    path: PathText


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
        ("a: !!set {b}", ":1: expected YAML; found the tag 'tag:yaml.org,2002:set'"),
        ("a: !!python/object:os.system b", ":1: expected YAML; found the tag 'tag:yaml.org,2002:python/object:os.s"),
        ("[" * 60 + "]" * 60, ":1: expected YAML; found more than 50 levels"),
        ("a: 1\n2: 3", ": expected YAML, found the key 2, which is no string"),
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


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!null x", "! x"])
def test_a_tag_in_yaml_is_refused_before_its_constructor_fails_on_the_value(value):
    """They raised IndexError, KeyError and AttributeError."""
    with pytest.raises(ConfigError, match=r"^own\.yaml:2: expected YAML; found the tag '"):
        parse_yaml(f"a: 1\nb: {value}", "own.yaml")


def test_a_list_of_megabytes_in_yaml_is_refused_before_it_is_built():
    """16 MB of `- a` in a bundle of 18 kB took 1.1 GB and more than a minute."""
    tracemalloc.start()
    for content in ("- a\n" * 4_000_000, "- a\n" * 250_000, "[" * 1_000_000, "a:\n" + " b: 1\n" * 100_000):
        with pytest.raises(ConfigError, match=r"own\.yaml.*(more than (1048576|10000|50) |for the second time)"):
            parse_yaml(content, "own.yaml")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_number_to_base_60_of_a_megabyte_is_a_string_and_no_minute_of_arithmetic():
    assert parse_yaml(f"a: {'1:' * 100_000}1\nb: 1:30", "f") == {"a": f"{'1:' * 100_000}1", "b": 90}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[NaN]", "nan, a number that is not finite"),
        ("[1e999]", "inf, a number that is not finite"),
        (f"[1{'0' * 400}]", "an integer of more than 64 bits"),
        (f"[1{'0' * 5000}]", "Exceeds the limit"),
        (f"[{'[],' * 4_000_000}0]", "more than 4000000 values"),
    ],
    ids=["nan", "infinite", "large", "larger", "many"],
)
def test_numbers_that_no_type_holds_and_too_many_values_are_refused_in_json(tmp_path, content, found):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"^.*a\.json: expected JSON, found {found}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_what_no_system_can_open_is_no_path(path):
    with pytest.raises(ConfigError, match="f: field 'path': expected the path of a file or folder, found"):
        validated(Place, {"path": path}, "f")


@pytest.mark.parametrize("read", [read_json, read_yaml, read_bytes, lambda path: list(read_text_lines(path))])
def test_a_pipe_or_device_is_refused_where_a_file_is_expected(tmp_path, read):
    """A reader of a pipe waits without end, and one of /dev/zero takes all memory."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises((ConfigError, CorpusError), match="expected a file, found a folder, pipe or device"):
            read(path)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wavfusion.files.LINE", 10)
    (tmp_path / "a").write_text("1234567890\n" + "1" * 11)
    with pytest.raises(CorpusError, match="expected lines of at most 10 characters"):
        list(read_text_lines(tmp_path / "a", newline=""))
    (tmp_path / "a").write_text("123456789\n\n1")
    assert list(read_text_lines(tmp_path / "a")) == ["123456789\n", "\n", "1"]


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    """It said "a file"."""

    def full():
        yield b"a"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "metrics.json", full())
    assert (caught.value.filename, caught.value.strerror) == (str(tmp_path / "metrics.json"), "No space left on device")


@pytest.mark.parametrize("kind", [ConfigError, CorpusError, MediaError])
def test_a_message_quotes_no_more_than_200_characters_of_a_value(kind):
    """Cells and names of megabytes stood whole in messages."""
    found = str(kind(f"t.csv:3: unknown split {'a b' * 10**6!r}: did you mean 'train'? valid: train, valid, test"))
    assert found == f"t.csv:3: unknown split '{('a b' * 66)[:195]}...': did you mean 'train'? valid: train, valid, test"
    assert len(str(kind("x" * 10**6))) == 2000


def test_a_message_of_usual_length_is_left_whole():
    message = "the model's settings: expected 'a' " + ", ".join(f"model.setting_{i}" for i in range(50)) + " or 'b'"
    assert str(ConfigError(message)) == message
