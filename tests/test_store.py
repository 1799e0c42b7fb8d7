import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from wavfusion.errors import CorpusError
from wavfusion.features.store import Store
from wavfusion.files import append_line, read_lines, require_free, write_atomic

KILLS = int(os.environ.get("WAVFUSION_KILLS", "3"))
WRITER = """
import sys, torch
from wavfusion.features.store import Store
store = Store(sys.argv[1], create=True)
for i in range(int(sys.argv[2])):
    store.write({f"audio-{8 * i + j}": torch.full((50, 64), float(8 * i + j)).half() for j in range(8)})
"""


def writer(folder, shards):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(shards)])


def features(number, steps=4):
    return torch.full((steps, 8), float(number)).half()


@pytest.fixture
def store(tmp_path):
    """Two shards of two tensors each."""
    store = Store(tmp_path / "store", create=True)
    store.write({"audio-0": features(0), "audio-1": features(1)})
    store.write({"audio-2": features(2), "audio-3": features(3)})
    return store


def shard_of(store, key):
    return next(path for path in store.shards.glob("*.safetensors") if key in load_file(path))


# ---------------------------------------------------------------------- reading and writing


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text("abcdef0123456789-", min_size=1, max_size=12), st.lists(st.integers(0, 5), max_size=3), max_size=4
    ),
    seed=st.integers(0, 9),
)
def test_what_is_written_is_read(shapes, seed):
    torch.manual_seed(seed)
    written = {key: torch.randn(shape).half() for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        Store(folder, create=True).write(written)
        store = Store(folder)
        assert set(store.keys()) == set(written)
        assert all(torch.equal(store.read(key), x) for key, x in written.items())


def test_a_tensor_that_is_no_block_of_memory_is_stored_as_it_looks(tmp_path):
    store = Store(tmp_path, create=True)
    store.write({"a": torch.arange(12.0).half().reshape(3, 4).T})
    assert torch.equal(Store(tmp_path).read("a"), torch.arange(12.0).half().reshape(3, 4).T)


def test_a_key_that_is_there_is_not_written_again(store):
    assert store.write({"audio-0": features(9), "audio-4": features(4)}) == ["audio-4"]


def test_writing_what_is_there_makes_no_shard(store):
    store.write({"audio-0": features(0)})
    assert len(list(store.shards.iterdir())) == 2


def test_what_another_writer_adds_is_found_on_refresh(store):
    Store(store.folder).write({"audio-9": features(9)})
    store.refresh()
    assert torch.equal(store.read("audio-9"), features(9))


def test_a_key_that_is_not_there_says_to_extract(store):
    with pytest.raises(CorpusError, match="expected features audio-7, found none; run extract"):
        store.read("audio-7")


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="expected a feature store"):
        Store(tmp_path)


def test_a_store_is_readable_with_safetensors_alone(store):
    found = {}
    for path in store.shards.glob("*.safetensors"):
        with safe_open(path, "np") as shard:
            found |= {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
    assert {key: float(x.mean()) for key, x in found.items()} == {f"audio-{i}": i for i in range(4)}


def test_a_store_that_has_been_read_can_be_sent_to_a_worker(store):
    store.read("audio-1")
    assert torch.equal(pickle.loads(pickle.dumps(store)).read("audio-3"), features(3))


class Features(torch.utils.data.Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return self.store.read(f"audio-{number}")


@pytest.mark.slow
def test_workers_of_a_data_loader_read_a_store(store):
    store.read("audio-0")
    loader = torch.utils.data.DataLoader(Features(store), num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat(list(loader)), torch.stack([features(i) for i in range(4)]))


# ---------------------------------------------------------------------- concurrent writers and kills


def test_writers_of_the_same_keys_lose_nothing_and_double_nothing(tmp_path):
    stores = [Store(tmp_path, create=True) for _ in range(3)]

    def work(store, order):
        for i in order:
            store.write({f"audio-{i}": features(i), f"audio-{i + 1}": features(i + 1)})

    threads = [
        threading.Thread(target=work, args=(store, random.Random(i).sample(range(12), 12)))
        for i, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = [key for path in stores[0].shards.glob("*.safetensors") for key in load_file(path)]
    assert sorted(keys) == sorted(f"audio-{i}" for i in range(13))


@pytest.mark.slow
def test_two_processes_that_write_the_same_keys_lose_nothing_and_double_nothing(tmp_path):
    processes = [writer(tmp_path, 60) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    keys = [key for path in (tmp_path / "shards").glob("*.safetensors") for key in load_file(path)]
    assert sorted(keys) == sorted(f"audio-{i}" for i in range(480))


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_writer_leaves_only_whole_shards(tmp_path, kill):
    process = writer(tmp_path, 100_000)
    while not list(tmp_path.glob("shards/*.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(kill).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store(tmp_path)
    assert len(store) > 0 and store.discard_damaged() == []
    assert all(torch.equal(store.read(key), torch.full((50, 64), float(key[6:])).half()) for key in store.keys())


@pytest.mark.parametrize("name", ["shards/shard-1.safetensors.1.tmp", "encoders.json.1.tmp"])
def test_an_unfinished_file_of_a_killed_writer_is_removed(store, name):
    (store.folder / name).write_bytes(b"half")
    store.discard_damaged()
    assert list(store.folder.rglob("*.tmp")) == []


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "a", "no bytes")
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


# ---------------------------------------------------------------------- damage


def truncate(content):
    return content[:-3]


def flip_a_bit_of_the_data(content):
    return content[:-5] + bytes([content[-5] ^ 4]) + content[-4:]


def flip_a_bit_of_a_key(content):
    return content.replace(b'audio-2"', b'audio-3"', 1)


def spoil_the_header(content):
    return content[:8] + b"\xff" * 20 + content[28:]


def claim_four_gigabytes(content):
    return struct.pack("<Q", 4 << 30) + content[8:]


def without_checksums(content):
    return content.replace(b"crc32", b"crc33", 1)


def a_list(content):
    return struct.pack("<Q", 2) + b"[]"


def deep(content):
    return struct.pack("<Q", 60_000) + b"[" * 60_000


def another_metadata(content):
    header = json.dumps({"__metadata__": 1}).encode()
    return struct.pack("<Q", len(header)) + header


def with_checksums(content, changed):
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    sums = json.loads(header["__metadata__"]["crc32"])
    header["__metadata__"]["crc32"] = json.dumps({key: changed(each) for key, each in sums.items()})
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + length :]


def checksums_of_more_bits(content):
    return with_checksums(content, lambda checksum: checksum + (1 << 40))


def checksums_below_zero(content):
    return with_checksums(content, lambda checksum: -checksum - 1)


def checksums_in_words(content):
    return with_checksums(content, str)


def emptied(content):
    return b""


DAMAGE = [
    truncate,
    flip_a_bit_of_the_data,
    flip_a_bit_of_a_key,
    spoil_the_header,
    claim_four_gigabytes,
    without_checksums,
    a_list,
    deep,
    another_metadata,
    checksums_of_more_bits,
    checksums_below_zero,
    checksums_in_words,
    emptied,
]


def spoil(store, damage):
    path = shard_of(store, "audio-2")
    path.write_bytes(damage(path.read_bytes()))
    return path


@pytest.mark.parametrize("damage", DAMAGE)
def test_reading_from_a_damaged_shard_names_it(store, damage):
    path = spoil(store, damage)
    with pytest.raises(CorpusError, match=path.name):
        spoiled = Store(store.folder)
        [spoiled.read(key) for key in ("audio-2", "audio-3")]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_set_aside_and_the_others_are_unharmed(store, damage):
    path = spoil(store, damage)
    spoiled = Store(store.folder)
    assert spoiled.discard_damaged() == [path] and path.with_suffix(".damaged").exists()
    assert {key: float(spoiled.read(key).mean()) for key in spoiled.keys()} == {"audio-0": 0.0, "audio-1": 1.0}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_features_of_a_damaged_shard_can_be_written_again(store, damage):
    spoil(store, damage)
    spoiled = Store(store.folder)
    spoiled.discard_damaged()
    spoiled.write({"audio-2": features(2), "audio-3": features(3)})
    assert [float(Store(store.folder).read(f"audio-{i}").mean()) for i in range(4)] == [0, 1, 2, 3]


def test_a_shard_spoiled_after_the_store_was_opened_is_named(store):
    path = spoil(store, truncate)
    with pytest.raises(CorpusError, match=path.name):
        store.read("audio-2")


def test_a_shard_cut_short_after_it_was_mapped_is_named(store):
    """Reading on was a bus error, which no Python can catch."""
    store.read("audio-2")
    path = shard_of(store, "audio-2")
    os.truncate(path, 0)
    with pytest.raises(CorpusError, match=path.name):
        store.read("audio-3")


def test_two_that_find_the_same_damage_set_it_aside_once(store):
    path = spoil(store, truncate)
    one, other = Store(store.folder), Store(store.folder)
    one.discard_damaged()
    one.write({"audio-2": features(2), "audio-3": features(3)})
    other.discard_damaged()
    assert other.write({"audio-2": features(2), "audio-3": features(3)}) == []
    assert [x.name for x in store.shards.glob("*.damaged")] == [path.with_suffix(".damaged").name]


def test_a_pipe_in_place_of_a_shard_is_set_aside(store):
    """It was waited for without end, as were pipes in place of every other file."""
    os.mkfifo(store.shards / "pipe.safetensors")
    assert [path.name for path in Store(store.folder).discard_damaged()] == ["pipe.safetensors"]


@pytest.mark.parametrize(
    ("name", "use"), [(".lock", Store.discard_damaged), ("failures.jsonl", lambda store: store.failures)]
)
def test_a_pipe_in_place_of_a_file_is_refused(store, name, use):
    (store.folder / name).unlink(missing_ok=True)
    os.mkfifo(store.folder / name)
    with pytest.raises(CorpusError, match="pipe or device"):
        use(Store(store.folder))


def test_a_header_that_claims_four_gigabytes_costs_no_memory(store):
    spoil(store, claim_four_gigabytes)
    tracemalloc.start()
    Store(store.folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# ---------------------------------------------------------------------- lines


@pytest.mark.parametrize("name", ["a b", "quote'\"", "line\nbreak", "🙂\u2028", os.fsdecode(b"\xff"), "\ud83d"])
def test_any_name_in_a_line_is_read_back(tmp_path, name):
    """Half of a surrogate pair in a JSON manifest could not be encoded."""
    append_line(tmp_path / "x.jsonl", {"id": name})
    assert list(read_lines(tmp_path / "x.jsonl")) == [{"id": name}]


@pytest.mark.parametrize("rest", ['{"key": "a", "rea', "[1]\n", "[" * 60_000 + "\n", "\n", "\x00\x00\n", '"\ufffd'])
def test_a_line_cut_short_is_passed_over(tmp_path, rest):
    append_line(tmp_path / "x.jsonl", {"key": "one"})
    with open(tmp_path / "x.jsonl", "a") as file:
        file.write(rest)
    append_line(tmp_path / "x.jsonl", {"key": "two"})
    assert [row["key"] for row in read_lines(tmp_path / "x.jsonl")] == ["one", "two"]


def test_a_failure_is_known_to_the_next_that_opens_the_store(store):
    store.fail("audio-9", "x", "0 bytes")
    assert Store(store.folder).failures == {"audio-9": "0 bytes"}


def test_a_failure_line_without_its_fields_is_passed_over(store):
    append_line(store.folder / "failures.jsonl", {"id": "x"})
    assert Store(store.folder).failures == {}


def test_the_same_failure_is_noted_once(store):
    for _ in range(2):
        Store(store.folder).fail("audio-9", "x", "0 bytes")
    assert len((store.folder / "failures.jsonl").read_text().splitlines()) == 1


def test_results_are_overwritten_only_by_force(tmp_path):
    (tmp_path / "a").touch()
    require_free([tmp_path / "a"], force=True)
    with pytest.raises(CorpusError, match="--force"):
        require_free([tmp_path / "a"], force=False)
