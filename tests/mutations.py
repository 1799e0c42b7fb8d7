"""Mutations of every input format, from a random generator: structure first, then lines, numbers and bytes."""

import csv
import io
import json
import os
import random
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import yaml

Random: TypeAlias = random.Random

# ---------------------------------------------------------------------- values and bytes
NUMBERS = ["0", "-1", "1e999", "-1e999", "NaN", "1e-320", "1" + "0" * 400, "9" * 5000, "99999999999999999999", "0.5"]
JSON_VALUES = [
    *NUMBERS, "null", "true", "[]", "{}", '""', '"nan"', '"\\u0000"', '"\\ud800"', '"../../evil"', '"/etc/passwd"',
    '"' + "x" * 300_000 + '"', "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, "[[1, null]]", '{"a": {}}',
]  # fmt: skip
YAML_VALUES = [
    *JSON_VALUES, "*a", "&b [*b]", "!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}",
    "!!python/object/apply:os.system [touch evil]", ".inf", "0x", "1_000", "2020-01-01", "? [a]", "- a", "<<: *a", "~",
]  # fmt: skip
CELLS = [
    *NUMBERS, "NA", "NaN", "None", "null", "", " ", '"', 'a"b', "a\nb", "a\0b", "=1+1", "x" * 200_000, "..\\..\\evil",
    "../evil", "/etc/passwd", "file:///etc/passwd", "clips\\00.mp4", "CLIPS/00.MP4", "clips/", "/dev/zero", "CON", "é",
    "e\u0301", "\u202e", "\ud800", "1,5", "1:02:03", "left", "[1,2,3,4]",
]  # fmt: skip
INTEGERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]


def mutate_bytes(rng: Random, content: bytes, other: bytes = b"") -> bytes:
    """Flip bits, cut, drop, repeat, overwrite or join stretches, whatever the format."""
    data, at = bytearray(content), rng.randrange(len(content) + 1)
    until = min(len(data), at + rng.choice([1, 4, 64, 1000]))
    match rng.randrange(7):
        case 0:
            for place in [rng.randrange(len(data)) for _ in range(rng.choice([1, 3, 30]) * bool(data))]:
                data[place] ^= 1 << rng.randrange(8)
        case 1:
            del data[at:]
        case 2:
            del data[at:until]
        case 3:
            data[at:at] = data[at:until] * rng.choice([1, 2, 100])
        case 4:
            data[at:until] = rng.randbytes(until - at)
        case 5:
            data[at:at] = rng.choice([bytes(100), b"\xff" * 100, b"\xff\xfe", b"\xef\xbb\xbf", b"\n\r\n", b"\x1a"])
        case 6:
            data += other or content
    return bytes(data)


def encode(rng: Random, text: str) -> bytes:
    """Write text as other systems do: their encodings, marks and line ends."""
    if rng.random() < 0.15:
        text = text.replace("\n", rng.choice(["\r\n", "\r", "\r\r\n", "\n\n", "\n\r", "\u2028", "\x0b"]))
    usual = ["utf-8"] * 24
    name = rng.choice([*usual, "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-7"])
    content = text.encode(name, "surrogatepass" if name.startswith("utf-8") else "replace")
    return mutate_bytes(rng, content) if rng.random() < 0.1 else content


def mutate_values(rng: Random, values: Any, hostile: list[str]) -> str:
    """Replace, remove, repeat or add values of a JSON or YAML document; returns its text."""
    tokens: list[str] = []

    def mark() -> str:
        tokens.append(rng.choice(hostile))
        return f"@@{len(tokens) - 1}@@"

    values = json.loads(json.dumps(values))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        holder, key = rng.choice(list(_places(values)) or [(None, None)])
        what = rng.randrange(8)
        if holder is None or what == 0 and rng.random() < 0.1:
            values = mark()
        elif what == 1:
            del holder[key]
        elif what == 2:
            holder[key] = [holder[key]]
        elif what == 3 and isinstance(holder, dict):
            holder[rng.choice(["extra", "", "\0", "__class__", str(key).upper(), f"{key}x"])] = holder.pop(key)
        elif what == 4 and isinstance(holder, list):
            holder.extend(rng.choice([1, 3, 300]) * [holder[key]])
        elif what == 5:
            holder[key] = rng.choice(list(_places(values)))[0]
            values = json.loads(json.dumps(values)) if not _is_circular(values) else mark()
        else:
            holder[key] = mark()
    text = json.dumps(values, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)
    return re.sub(r'"@@(\d+)@@"', lambda found: tokens[int(found[1])], text)


def _is_circular(values: Any) -> bool:
    try:
        return not json.dumps(values)
    except ValueError:
        return True


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()):
        yield values, key
        yield from _places(values[key])


def mutate_json(rng: Random, content: bytes) -> bytes:
    """Mutate a JSON file, or one line of JSON lines."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, content)
    lines = content.decode().splitlines()
    try:
        number, values = None, json.loads(content)
    except ValueError:
        number = rng.randrange(len(lines))
        values = json.loads(lines[number])
    text = mutate_values(rng, values, JSON_VALUES)
    if number is not None:
        lines[number : number + rng.choice([0, 1, 1, 1])] = [text.replace("\n", "")]
    return encode(rng, text if number is None else "\n".join(lines) + "\n")


_PAIRS = zip("abcdefgh", "bcdefghi", strict=True)
LAUGHS = "a: &a [x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(9 * [f'*{a}'])}]\n" for a, b in _PAIRS)


def mutate_yaml(rng: Random, content: bytes) -> bytes:
    """Mutate a YAML file: values, aliases, tags, indents."""
    if rng.random() < 0.2:
        return mutate_lines(rng, content.decode(), YAML_VALUES)
    text = mutate_values(rng, yaml.safe_load(content), YAML_VALUES)
    if rng.random() < 0.2:
        text = LAUGHS + "\n".join(f"{key}: {json.dumps(value)}" for key, value in yaml.safe_load(content).items())
        text += rng.choice(["\nextra: *i", "\n", "\ntitle: *h"])
    return encode(rng, text)


def mutate_lines(rng: Random, text: str, hostile: list[str]) -> bytes:
    """Mutate a text of lines: their order, number, numbers and tokens."""
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        lines, tokens = text.split("\n"), re.split(r"(\d+|[^\W\d]+|\s+)", text)
        at, place = rng.randrange(len(lines)), rng.randrange(len(tokens))
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines[at:at] = rng.choice([1, 2, 200]) * [lines[at]]
            case 2:
                rng.shuffle(lines)
            case 3:
                lines.insert(at, rng.choice(hostile))
            case 4:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            case 5:
                numbers = [number for number, each in enumerate(tokens) if each.isdecimal()]
                tokens[rng.choice(numbers or [place])] = rng.choice([*NUMBERS, "99", "60", ""])
                lines = "".join(tokens).split("\n")
            case 6:
                tokens.insert(place, rng.choice(hostile))
                lines = "".join(tokens).split("\n")
            case 7:
                del tokens[place]
                lines = "".join(tokens).split("\n")
        text = "\n".join(lines)
    return encode(rng, text)


def mutate_table(rng: Random, content: bytes, delimiter: str) -> bytes:
    """Mutate cells, columns, delimiters and quotes of a table."""
    rows = list(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter))
    for _ in range(rng.choice([1, 1, 2, 4])):
        row, column = rng.choice(rows), rng.randrange(len(rows[0]) + 1)
        match rng.randrange(8):
            case 0 | 1 | 2 if column < len(row):
                row[column] = rng.choice(CELLS)
            case 3:
                for each in rows:
                    del each[column : column + 1]
            case 4:
                for each in rows:
                    each.append(each[column] if column < len(each) else "")
            case 5:
                rows.append(list(row))
            case 6:
                rows[0][column : column + 1] = [rng.choice(CELLS)]
            case 7:
                del row[column:]
    file = io.StringIO()
    delimiter = rng.choice([*8 * [delimiter], ";", "|", "\t", ","])
    csv.writer(file, delimiter=delimiter, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows(rows)
    text = file.getvalue()
    if rng.random() < 0.2:
        return mutate_lines(rng, text, ['"', delimiter, "\0", '""', "#", "\ufeff"])
    return encode(rng, text)


def mutate_safetensors(rng: Random, content: bytes) -> bytes:
    """Mutate the header of a safetensors file: its length, names, types, shapes and offsets; or the tensors."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    if rng.random() < 0.2:
        return mutate_bytes(rng, content)
    if rng.random() < 0.2:
        return content[: 8 + size] + rng.choice([rest[:-4], b"\xff" * len(rest), bytes(len(rest)), rest * 2, b""])
    for name in rng.sample(list(header), min(len(header), 200)):
        header[name].pop("format", None)
    places = ['"F16"', '"F64"', '"I64"', '"X"', "[0, 1]", "[0, 99999999999]", "[8, 0]", "[1, 1]", "[0, 1, 0]"]
    text = mutate_values(rng, header, [*JSON_VALUES, *places]).encode("utf-8", "surrogatepass")
    length = rng.choice([*6 * [len(text)], 0, 7, len(text) - 1, 1 << 31, (1 << 64) - 1, 100 << 20])
    return length.to_bytes(8, "little") + text + rest


# ---------------------------------------------------------------------- media
CODECS = {  # ending -> codecs of audio and video
    "wav": ("pcm_s16le", ""), "mp3": ("libmp3lame", ""), "flac": ("flac", ""), "ogg": ("libopus", ""),
    "m4a": ("aac", ""), "wma": ("wmav2", ""), "mp4": ("aac", "libx264"), "mov": ("aac", "mpeg4"),
    "mkv": ("libopus", "libx264"), "webm": ("libopus", "libvpx"), "avi": ("libmp3lame", "mpeg4"),
    "ts": ("mp2", "mpeg2video"), "flv": ("aac", "flv"), "3gp": ("aac", "h263"), "mpg": ("mp2", "mpeg1video"),
}  # fmt: skip
# Where a part of a container begins: its chunks, boxes, elements, pages, packets or tags.
MARKS = {
    "riff": rb"RIFF|LIST|fmt |data|avih|strh|strf|movi|idx1|\d\d(?:wb|dc)",
    "boxes": rb"ftyp|moov|mvhd|trak|tkhd|elst|mdhd|hdlr|stsd|stts|ctts|stsc|stsz|stco|co64|mdat|moof|mp4a|avc1",
    "elements": rb"\x1aE\xdf\xa3|\x18S\x80g|\x15I\xa9f|\x16T\xaek|\x1fC\xb6u|D\x89|\xa3|\xe7",
    "pages": rb"OggS",
    "packets": rb"\x47[\x00-\x5f].[\x10-\x3f]|\x00\x00\x01[\xba\xbd-\xef]",
    "tags": rb"[\x08\x09\x12]\x00..\x00|FLV",
    "frames": rb"\xff[\xf8-\xfb]|ID3|fLaC|\x82\x00\x00|\xa1\xdc\xab\x8c|\x91\x07\xdc\xb7",
}
MARKED = {
    "wav": "riff", "avi": "riff", "mp4": "boxes", "m4a": "boxes", "mov": "boxes", "3gp": "boxes", "mkv": "elements",
    "webm": "elements", "ogg": "pages", "ts": "packets", "mpg": "packets", "flv": "tags",
}  # fmt: skip


def write_media(path: Path) -> None:
    """Write 0.8 s of a hum, with moving stripes where the format has pictures."""
    sound, pictures = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        rate = 48000 if sound == "libopus" else 32000
        audio: Any = container.add_stream(sound, rate=rate)
        audio.layout, audio.bit_rate = "mono", 64_000
        video: Any = container.add_stream(pictures, rate=25) if pictures else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
            for number in range(20):
                stripes = np.roll(np.tile(np.arange(128, dtype=np.uint8), (96, 1)), 3 * number, 1)
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.stack(3 * [stripes], -1), "rgb24")))
        hum = (8000 * np.sin(np.arange(int(0.8 * rate)) * 1400 / rate)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(hum, "s16", "mono")
        frame.sample_rate = rate
        container.mux(audio.encode(frame))
        for stream in (audio, video) if video is not None else (audio,):
            container.mux(stream.encode(None))


def mutate_media(rng: Random, content: bytes, ending: str, other: bytes) -> bytes:
    """Mutate a container: cut, move and repeat its parts, rewrite sizes and times in their heads, join two files."""
    pattern = MARKS[MARKED.get(ending, "frames")]
    for _ in range(rng.choice([1, 1, 2, 4])):
        marks = [0, *(found.start() for found in re.finditer(pattern, content, re.DOTALL)), len(content)]
        number = rng.randrange(len(marks) - 1)
        # Parts near the beginning are headers, which are few among many packets.
        number = rng.randrange(min(number + 1, 24)) if rng.random() < 0.6 else number
        begin, end = marks[number], marks[number + 1]
        match rng.randrange(8):
            case 0 | 1 | 2:
                size = rng.choice([1, 2, 4, 8])
                at = max(0, begin + rng.choice([-4, 4, rng.randrange(40)]))
                value = rng.choice([rng.choice(INTEGERS), rng.getrandbits(64)]) % (1 << 8 * size)
                number_bytes = value.to_bytes(size, rng.choice(["little", "big"]))
                content = content[:at] + number_bytes + content[at + size :]
            case 3:
                content = content[:begin] + content[end:]
            case 4:
                content = content[:end] + content[begin:end] * rng.choice([1, 5, 200]) + content[end:]
            case 5:
                to = rng.choice(marks)
                content = content[:begin] + content[end:to] + content[begin:end] + content[max(to, end) :]
            case 6:
                content = content[: rng.choice([begin, rng.randrange(len(content) + 1)])]
            case 7:
                content = mutate_bytes(rng, content, rng.choice([content, other]))
    return content


# ---------------------------------------------------------------------- transcripts
TRANSCRIPTS: dict[str, str] = yaml.safe_load(
    Path(__file__).with_name("transcripts.yaml").read_text("utf-8")
)  # by ending
PIECES = [
    "<v Bob>", "</v>", "<v ", "<", ">", "{\\an8}", "{", "}", "-->", "->", "&amp;", "&#0;", "&#x110000;", "]]>", "<!--",
    "00:00:00,500 --> 00:00:00,200", "00:00:00.100 --> 99999999:00:00.000", "1\n00:00:00,100 --> 00:00:00,400",
    '<!DOCTYPE a [<!ENTITY a "xxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>', '<!ENTITY x SYSTEM "/etc/passwd">',
    '"', '""', "\0", "\ud800", "\u2028", "\x1c", "\t", "[", "]", "(", "\x15", "NOTE", "STYLE", "WEBVTT", "WEBVTT FILE",
    "X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000", "-0.1", "nan", "inf", "1e400", "00:60:61,1000", "٣", "x" * 9000,
    "<" * 400_000, "<v " * 200_000, "{\\" * 300_000, "[" * 800_000, "(" * 400_000, '"' * 200_001, "-" * 150_000 + ">",
    " " * 400_000, "\n" * 150_000, "1\n" * 90_000, "&" * 150_000, "0" * 150_000 + ":00", "00:" * 60_000, "\\" * 150_000,
]  # fmt: skip


def mutate_transcript(rng: Random, ending: str) -> bytes:
    """Mutate a transcript of one of the formats."""
    text = TRANSCRIPTS[ending]
    if ending == "json" and rng.random() < 0.6:
        return mutate_json(rng, text.encode())
    if ending in ("tsv", "csv") and rng.random() < 0.4:
        return mutate_table(rng, text.encode(), "\t" if ending == "tsv" else ",")
    return mutate_lines(rng, text, PIECES)


# ---------------------------------------------------------------------- files and archives
def mutate(rng: Random, path: Path) -> bytes:
    """Mutate a file by its format."""
    content, ending = path.read_bytes(), path.suffix[1:]
    if ending in ("csv", "tsv"):
        return mutate_table(rng, content, "\t" if ending == "tsv" else ",")
    if ending == "txt":
        return mutate_lines(rng, content.decode(), PIECES)
    known = {"json": mutate_json, "jsonl": mutate_json, "yaml": mutate_yaml, "safetensors": mutate_safetensors}
    return known.get(ending, mutate_bytes)(rng, content)


def replace_file(rng: Random, path: Path) -> None:
    """Put a mutated file in a file's place, at times a thing that is no file, which must not be waited for."""
    content = mutate(rng, path)
    path.unlink()
    match rng.randrange(24):
        case 0:
            path.mkdir()
        case 1:
            os.mkfifo(path)
        case 2:
            path.symlink_to(rng.choice(["/dev/zero", path.name, "/nowhere", "/proc/self/mem"]))
        case 3:
            path.touch()
        case 4:
            pass
        case _:
            path.write_bytes(content)


def mutate_bundle(rng: Random, source: Path) -> bytes:
    """Mutate a bundle of results: one of its members, the names and sizes of its archive, or its bytes."""
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with tempfile.TemporaryDirectory() as folder:
        for name in rng.sample(list(files), rng.choice([0, 1, 1, 2])):
            path = Path(folder, name)
            path.write_bytes(files[name])
            files[name] = mutate(rng, path)
    if rng.random() < 0.1:
        files[rng.choice(["../evil", "/tmp/evil", "a/../../evil", "C:\\evil", *files])] = bytes(20 << 20)
    if rng.random() < 0.1:
        files[rng.choice(list(files))] = rng.choice([b"- a\n" * (4 << 20), b"\n" * (16 << 20), b"[" * (1 << 20)])
    if rng.random() < 0.1:
        files.pop(rng.choice(list(files)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = rng.choice([8, 8, 8, 8, 8, 8, 8, 0, 12])
            info.external_attr = rng.choice([0, 0, 0, 0xA1FF0000])  # a symbolic link
            archive.writestr(info, content)
    content = packed.getvalue()
    if rng.random() < 0.2:
        head = rng.choice([found.start() for found in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)])
        at, value = head + 4 + rng.randrange(26), rng.choice(INTEGERS) % (1 << 32)
        content = content[:at] + value.to_bytes(4, "little") + content[at + 4 :]
    return mutate_bytes(rng, content) if rng.random() < 0.15 else content


# ---- HTTP
ABOUTS = [
    b'name=""', b"", b'name="file"; filename="../../evil"', b"name*=UTF-8''file", b'name="x"', b'name="file\0"',
    b'name="file"; filename="' + b"x" * 70_000 + b'"', b'name="file"; filename="a\xff.wav"', b'name="transcript"',
]  # fmt: skip
PATHS = [
    *8 * ["/predict", "/jobs"], "/predict?format=csv", "/predict?format=x", "/predict?min_probability=nan", "/jobs/x",
    "/jobs/x/result", "/", "/../etc", "/%00", "/jobs/" + "x" * 60_000,
]  # fmt: skip
HEADERS = [
    "Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue", "Upgrade: websocket", "X: \0", ":",
    "Host: evil.example", "Content-Type: text/plain", "X: " + "y" * 70_000, "Authorization: Bearer \xff", "é: é",
    "Origin: null", "Connection: close, upgrade", "Content-Encoding: gzip", "Content-Type: multipart/form-data",
]  # fmt: skip


def make_form(rng: Random, recording: bytes) -> tuple[bytes, bytes]:
    """A form with a recording, a transcript and a number of speakers, mutated; and its boundary."""
    ending, mark = rng.choice(list(TRANSCRIPTS)), rng.choice([*30 * [b"XX"], b"", b"x" * 200, b'"', b"\xff"])
    sent = mutate_media(rng, recording, "wav", recording)
    words = rng.choice([b"I am sad", mutate_transcript(rng, ending), rng.choice(PIECES).encode("utf-8", "replace")])
    named = rng.choice(['name="transcript"', f'name="transcript"; filename="t.{ending}"']).encode()
    fields = [
        (b'name="file"; filename="a.wav"', rng.choice([sent, sent, recording, b"", recording[:99]])),
        (named, words),
        (b'name="speakers"', rng.choice([*12 * ["2", ""], "auto", *NUMBERS, "x" * 100_000]).encode()),
    ]
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at = rng.randrange(len(fields))
        about, content = fields[at]
        more = rng.choice([[], [(rng.choice(ABOUTS), content)], 50 * [(about, b"1")]])
        fields = [*fields[:at], *more, *fields[at + rng.choice([0, 1]) :]] or fields
    body = b"".join(b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (mark, *each) for each in fields)
    body += rng.choice([*20 * [b"--" + mark + b"--\r\n"], b"", b"--" + mark, b"\r\n" * 1000])
    return mutate_bytes(rng, body) if rng.random() < 0.15 else body, mark


def chunk(rng: Random, body: bytes) -> bytes:
    """Divide a body into chunks, some of wrong sizes, with trailers or without an end."""
    step, chunked = rng.choice([1 << 20, 1000, 97]), b""
    for at in range(0, len(body), step):
        size = b"%x" % len(body[at : at + step])
        if rng.random() < 0.01:
            size = rng.choice([b"-1", b"zz", b"f" * 17, b"", b"5;ext=" + b"x" * 9000])
        chunked += size + b"\r\n" + body[at : at + step] + b"\r\n"
    trailers = b"".join(b"x%d: y\r\n" % each for each in range(rng.choice([0, 1, 3000])))
    return chunked + rng.choice([b"0\r\n" + trailers + b"\r\n", b"0\r\n", b""])


def make_request(rng: Random, recording: bytes) -> bytes:
    """A request to the server whose line, headers, form, fields or chunks are mutated."""
    body, mark = make_form(rng, recording)
    headers = [
        "Host: 127.0.0.1",
        "Connection: close",
        f"Content-Type: multipart/form-data; boundary={mark.decode('latin-1')}",
    ]
    if rng.random() < 0.25:
        body = chunk(rng, body)
        headers.append("Transfer-Encoding: chunked")
    else:
        length = rng.choice([*30 * [len(body)], 0, len(body) - 1, -1, 1 << 62, "x", f"{len(body)}, {len(body)}"])
        headers.append(f"Content-Length: {length}")
    headers += rng.choice([*6 * [[]], [rng.choice(HEADERS)], 300 * ["X: y"]])
    method = rng.choice([*40 * ["POST"], "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PRI", "x" * 5000, "\0"])
    line = f"{method} {rng.choice(PATHS)} HTTP/{rng.choice([*40 * ['1.1'], '1.0', '2.0', '9'])}"
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1", "replace") + body
