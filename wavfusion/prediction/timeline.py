"""Predictions written for a terminal, programs, subtitles, Praat, ELAN and a browser: one function a format."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from wavfusion.manifest import MODALITIES
from wavfusion.pages.fill import fill_page, script
from wavfusion.prediction.coverage import PAUSE, LeftOut
from wavfusion.prediction.recognizer import Prediction, RecordingPredictions
from wavfusion.runs.card import Card
from wavfusion.transcripts.markup import escape, without_tags

UNSURE = "?"  # written for an abstention
MODEL_COLUMNS = ("model", "trained_on", "generated", "uar", "uar_low", "uar_high", "chance")
SCRIPTS = ("timeline_formats.js", "timeline_view.js", "timeline.js")
# What a warning holds -> what it means.
PLAIN_WORDS = {
    "out of distribution": "This voice is unlike the training data: the label may mean little here.",
    "is silent": "There is hardly any voice in it to judge by.",
    "clipped": "It is overdriven: its loud parts are distorted.",
    "very quiet": "It is recorded so quietly that much of the voice is lost.",
    "telephone": "It sounds like a telephone: the upper part of the voice is missing.",
}
COLOURS = (33, 34, 32, 31, 35, 36, 95, 96, 94)  # of a terminal, for the emotions in class order


def abstained(predictions: Sequence[Prediction], least: float) -> RecordingPredictions:
    """Withhold the emotion of predictions for a recording that are less probable than `least`."""
    rows = (each if each.probability >= least else replace(each, emotion=None) for each in predictions)
    peaks = predictions.peaks if isinstance(predictions, RecordingPredictions) else ()
    return RecordingPredictions(rows, _left_out(predictions), peaks)


def _left_out(predictions: Sequence[Prediction]) -> list[LeftOut]:
    return predictions.left_out if isinstance(predictions, RecordingPredictions) else []


def to_json(predictions: Sequence[Prediction]) -> str:
    """Write predictions as a list of objects."""
    return json.dumps([asdict(each) for each in predictions], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    """Write predictions as a table with a column for each emotion's probability and each modality's contribution."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fields = ["file", "start", "end", "speaker", "text", "emotion", "probability", "modalities", "text_share"]
    columns = [*fields, *(f"p_{name}" for name in classes), *(f"contribution_{name}" for name in MODALITIES)]
    writer.writerow([*columns, "warnings", *MODEL_COLUMNS, "language"])
    for each in predictions:
        words = {name: value and _legal(value) for name, value in (("speaker", each.speaker), ("text", each.text))}
        about = {**vars(each), **words, "modalities": "+".join(each.modalities)}
        contributions = [(each.contribution or {}).get(name) for name in MODALITIES]
        model = _model_cells(each.model) if each.model else [None] * len(MODEL_COLUMNS)
        cells = [*map(about.get, fields), *map(each.probabilities.get, classes), *contributions]
        writer.writerow([*cells, "; ".join(each.warnings), *model, each.language])
    return file.getvalue()


def _model_cells(card: Card) -> list[Any]:
    low, high = card.uar_interval or (None, None)
    return [card.name, card.trained_on, card.generated, card.uar, low, high, card.chance]


def _card(predictions: Sequence[Prediction]) -> Card | None:
    return next((each.model for each in predictions), None)


def to_table(predictions: Sequence[Prediction], width: int | None = None, colour: bool = False) -> str:
    """Lay predictions out for a terminal of `width` columns, to which they are cut, below each recording's name.

    The last line is about the model.
    """
    lines = []
    for file, group in groupby(predictions, lambda each: each.file):
        rows = list(group)
        lines.append(file if file.isprintable() else file.encode("unicode_escape").decode())
        longest = max(len(each.emotion or UNSURE) for each in rows)
        for each in rows:
            order = sorted(each.probabilities.items(), key=lambda item: -item[1])
            number = list(each.probabilities).index(order[0][0])
            emotion = (each.emotion or UNSURE).ljust(longest)
            others = "  ".join(f"{name} {p:.0%}" for name, p in order[1:3])
            text = ": ".join(" ".join(part.split()) for part in (each.speaker, each.text) if part)
            times, used = f"{_short(each.start)} - {_short(each.end)}", "+".join(each.modalities)
            plain = f"  {times:>19}  {emotion} {each.probability:>4.0%}  ({others})  {used}  {text}".rstrip()
            if width is not None and len(plain) > width:
                plain = plain[: max(0, width - 1)] + "…"
            if colour and each.emotion:
                tinted = f"\x1b[{COLOURS[number % len(COLOURS)]}m{emotion}\x1b[0m"
                plain = plain.replace(emotion, tinted, 1)
            lines.append(plain)
    if card := _card(predictions):
        lines.append(_line(str(card)))
    return "\n".join(lines) + "\n"


def to_srt(predictions: Sequence[Prediction]) -> str:
    """Write SubRip: speaker and, in brackets and italics, the emotion on the first line, then the text."""
    cues = []
    for number, each in enumerate(predictions, 1):
        title = f"{_plain(_line(each.speaker))}: {_label(each)}" if each.speaker else _label(each)
        cues.append(
            f"{number}\n{_clock(each.start, ',')} --> {_clock(each.end, ',')}\n{title}\n{_plain(_lines(each.text))}"
        )
    return "\n".join(cues)


def _plain(text: str) -> str:
    """Escape a text for SubRip only where a part of it would be taken for markup, as many players know no entities."""
    return escape(text) if without_tags(text) != text or "->" in text else text


def to_vtt(predictions: Sequence[Prediction]) -> str:
    """Write WebVTT: the speaker as its voice, the emotion in a span of the class `emotion`, a note about the model."""
    cues = ["WEBVTT\n"]
    if card := _card(predictions):
        cues.append(f"NOTE {_lines(_line(str(card)))}")
    for each in predictions:
        voice = f"<v {escape(_line(each.speaker))}>" if each.speaker else ""
        title = f"<c.emotion>{escape(_share(each))}</c>"
        times = f"{_clock(each.start, '.')} --> {_clock(each.end, '.')}"
        cues.append(f"{times}\n{voice}{title}\n{escape(_lines(each.text))}")
    return "\n".join(cues)


def to_textgrid(predictions: Sequence[Prediction]) -> str:
    """Write Praat's long form: for each speaker a tier of emotions and, where there is text, one of text."""
    end = max([each.end for each in predictions], default=0.0)
    tiers = _tiers(predictions)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, rows) in enumerate(tiers, 1):
        filled = _filled(rows, end)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(filled)}"]
        for i, (start, stop, text) in enumerate(filled, 1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start:.3f}", f"            xmax = {stop:.3f}"]
            lines += [f"            text = {_quoted(text)}"]
    return "\n".join([*lines, ""])


def to_eaf(predictions: Sequence[Prediction]) -> str:
    """Write ELAN's annotations (EAF 3.0): the tiers of `to_textgrid`, with the recording linked by its name."""
    root = Element("ANNOTATION_DOCUMENT", AUTHOR="", DATE="1970-01-01T00:00:00+00:00", FORMAT="3.0", VERSION="3.0")
    schema = "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"
    root.set(schema, "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=_legal(_file(predictions)), MIME_TYPE="unknown")
    if card := _card(predictions):
        SubElement(header, "PROPERTY", NAME="model").text = _legal(_line(str(card)))
    slots, count = SubElement(root, "TIME_ORDER"), 0
    for name, rows in _tiers(predictions):
        tier = SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID=_legal(name))
        for start, stop, text in rows:
            count += 1
            about = {"ANNOTATION_ID": f"a{count}"}
            for number, seconds in enumerate((start, stop), 1):
                about[f"TIME_SLOT_REF{number}"] = slot = f"ts{2 * count - 2 + number}"
                SubElement(slots, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(1000 * seconds)))
            annotation = SubElement(SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", about)
            SubElement(annotation, "ANNOTATION_VALUE").text = _legal(text)
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"}
    SubElement(root, "LINGUISTIC_TYPE", kind)
    indent(root)
    return tostring(root, "utf-8", xml_declaration=True).decode() + "\n"


def to_html(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    media: str | None,
    warnings: Sequence[str] = (),
    template: str = "timeline.html",
) -> str:
    """Write a page with one recording, its timeline and what it can be saved as.

    `RecordingPredictions` show what was left out and their waveform, too.

    `media` is the URL of the recording, empty where a script sets it, None where there is none; the template
    `timeline_body.html` is a part for inclusion in another page.
    """
    path = _file(predictions)
    file, card = Path(path).name, _card(predictions)
    values: dict[str, Any] = dict(
        name=file,
        kind="video" if any("video" in each.modalities for each in predictions) else "audio",
        model=card,
        warnings=dict.fromkeys([*(card.warnings if card else []), *(each.replace(path, file) for each in warnings)]),
        **script(*SCRIPTS),
    )
    data = _page_data(predictions, classes, card)
    if template != "timeline.html":  # saved from there, it is a page of its own
        data["page"] = fill_page("timeline.html", media=quote(file), data=None, listed=[], **values)
        return fill_page(template, media=media, data=data, listed=[], **values)
    listed = [
        (_short(each.start), _line(each.speaker), each.emotion or UNSURE, _line(each.text)) for each in predictions
    ]
    return fill_page(template, media=media, data=data, listed=listed, **values)


def _page_data(predictions: Sequence[Prediction], classes: Sequence[str], card: Card | None) -> dict[str, Any]:
    """Return what the scripts of a page draw and write."""
    left_out = _left_out(predictions)
    unusual = dict.fromkeys(warning for each in predictions for warning in each.warnings)
    return {
        "file": Path(_file(predictions)).name,
        "classes": list(classes),
        "length": max([each.end for each in predictions] + [each.end for each in left_out], default=0.0),
        "peaks": predictions.peaks if isinstance(predictions, RecordingPredictions) else [],
        "rows": [{name: value for name, value in vars(each).items() if name != "model"} for each in predictions],
        "leftOut": [each._asdict() for each in left_out],
        "pause": PAUSE,
        "unusual": {warning: in_plain_words(warning) for warning in unusual},
        "chance": card.chance if card else 1 / max(1, len(classes)),
        "model": card and asdict(card),
        "about": card and str(card),
        "columns": MODEL_COLUMNS,
        "cells": ["" if each is None else str(each) for each in _model_cells(card)] if card else [],
    }


def in_plain_words(warning: str) -> str:
    """Say what a warning of an utterance means to somebody who knows people better than signals."""
    return next((words for part, words in PLAIN_WORDS.items() if part in warning), warning)


def _file(predictions: Sequence[Prediction]) -> str:
    return next((each.file for each in predictions), "")


Writer = Callable[[Sequence[Prediction]], str]
SUBTITLES: dict[str, Writer] = {"srt": to_srt, "vtt": to_vtt, "textgrid": to_textgrid, "eaf": to_eaf}
Format = Literal["table", "json", "csv", "srt", "vtt", "textgrid", "eaf", "html"]
FORMATS: tuple[str, ...] = get_args(Format)
EXPLAINED = frozenset(("json", "csv", "html"))  # formats that show contributions
SINGLE = (*SUBTITLES, "html")  # formats of one recording
BARE = ("srt", "textgrid")  # formats that have no place for a note about the model


def ending(kind: str) -> str:
    """Return the file name's ending of a format."""
    return {"table": "txt", "textgrid": "TextGrid"}.get(kind, kind)


def format_of(path: Path) -> str | None:
    """Return the format that a file's name ends in."""
    return next((kind for kind in FORMATS if path.suffix.lower() == f".{ending(kind)}".lower()), None)


def write_predictions(
    kind: str, rows: Sequence[Prediction], classes: Sequence[str], folder: Path | None, warnings: Sequence[str] = ()
) -> bytes:
    """Write predictions in one of `FORMATS`; `SINGLE` ones describe one recording.

    A page links the recording relative to `folder`, where it will lie (None: beside the recording), and has `warnings`.
    """
    if kind == "html":
        file = _file(rows)
        url = quote(os.fsencode(os.path.relpath(file, folder))) if folder and file and Path(file).is_file() else None
        text = to_html(rows, classes, quote(file) if folder is None else url, warnings)
    elif kind == "csv":
        text = to_csv(rows, classes)
    else:
        text = {**SUBTITLES, "json": to_json, "table": to_table}[kind](rows)
    return text.encode("utf-8", "replace" if kind in SINGLE else "surrogateescape")


Row = tuple[float, float, str]


def _tiers(predictions: Sequence[Prediction]) -> list[tuple[str, list[Row]]]:
    """Return tiers of emotions and text by speaker; overlapping utterances of one speaker go into further tiers."""
    lanes: dict[tuple[str, int], list[Prediction]] = {}
    for each in sorted(predictions, key=lambda each: (each.start, each.end)):
        lane = 0
        speaker = _line(each.speaker)
        while (rows := lanes.get((speaker, lane))) and rows[-1].end > each.start:
            lane += 1
        lanes.setdefault((speaker, lane), []).append(each)
    tiers: list[tuple[str, list[Row]]] = []
    for (speaker, lane), rows in lanes.items():
        of = (f" {lane + 1}" if lane else "") + (f" of {speaker}" if speaker else "")
        tiers.append((f"emotion{of}", [(each.start, each.end, each.emotion or UNSURE) for each in rows]))
        texts = [(each.start, each.end, _legal(each.text)) for each in rows if each.text and _line(each.text)]
        if texts:
            tiers.append((f"words{of}", texts))
    return tiers


def _filled(rows: Sequence[Row], end: float) -> list[Row]:
    """Fill the gaps between intervals by empty ones, as Praat needs it."""
    filled: list[Row] = []
    at = 0.0
    for row in (*rows, (end, end, "")):
        if round(row[0], 3) > round(at, 3):
            filled.append((at, row[0], ""))
        filled.append(row)
        at = row[1]
    return filled[:-1]


def _clock(seconds: float, point: str) -> str:
    """Format hours, minutes, seconds and thousandths; hours may have more than two digits."""
    rest, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{point}{thousandths:03d}"


def _short(seconds: float) -> str:
    """Format minutes and seconds, with hours where there are any."""
    tenths = round(10 * seconds)
    hours, minutes = tenths // 36_000, tenths // 600 % 60
    rest = f"{tenths // 10 % 60:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def _label(each: Prediction) -> str:
    return f"<i>[{_share(each)}]</i>"


def _share(each: Prediction) -> str:
    return f"{each.emotion} {each.probability:.0%}" if each.emotion else UNSURE


def _line(text: str | None) -> str:
    return " ".join(_legal(text or "").split())


def _lines(text: str | None) -> str:
    """Keep the lines of a text; an empty one would end a cue."""
    return "".join(line + "\n" for line in _legal(text or "").splitlines() if line.strip())


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _legal(text: str) -> str:
    """Leave out characters that XML forbids and no other format needs: controls, halves of surrogate pairs."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text)
