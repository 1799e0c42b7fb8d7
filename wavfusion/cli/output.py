"""What verbs print: results to stdout, messages to stderr."""

import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavfusion.errors import counted, shortened
from wavfusion.files import naming, write_atomic

DONE, PARTLY, BAD_INPUT = 0, 1, 2
LISTED = 20  # lines about bad rows before the rest is counted


def show(result: Any, text: str, as_json: bool) -> None:
    """Print a result, as one JSON object or as text."""
    print_text(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)


def print_text(text: str) -> None:
    """Print text with a line end; bytes of a file's name that are no text are escaped, which is valid JSON too."""
    with naming("standard output"):
        sys.stdout.buffer.write((text + "\n").encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()


def write_file(out: Path, content: bytes) -> None:
    """Write a result atomically, with its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, content)


def printable(message: str) -> str:
    """One line that any terminal can show, whatever a file is called."""
    shown = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", " ".join(message.split()))
    return shown.encode("utf-8", "backslashreplace").decode()


def complain(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"wavfusion: {printable(shortened(message))}\n")


class ShortLines(logging.Formatter):
    """Formats messages of the log with their values cut, as those of errors are."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a record without its trace."""
        return shortened(super().formatMessage(record))


def first_three(names: Sequence[str]) -> str:
    """The first three of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def list_failures(bad: Sequence[str], partly: bool) -> int:
    """Name what could not be used, and return the exit status; `partly`: something else could be."""
    for message in bad:
        complain(message)
    return DONE if not bad else PARTLY if partly else BAD_INPUT


def figures_to_text(result: dict[str, Any], where: Path) -> str:
    """Lay out what `metrics.json` holds, one line for each subset of modalities."""
    from wavfusion.corpora.protocol import describe_protocol
    from wavfusion.runs.results import chance_of, describe_absent, majority_of

    unit, number, known = result["clusters"]["unit"], result["clusters"]["n"], result["num_tested_classes"]
    within = "" if unit == "utterance" else f" in {counted(number, unit)}"
    within += f" of part {result['part']}" if "part" in result else ""
    about = f"{counted(result['n'], 'utterance')}{within}"
    lines = [f"{where}: {about}; protocol {printable(describe_protocol(result['protocol']))}"]
    lines += [f"{f'fold {name}':>16}  {_four(figures)}" for name, figures in result.get("folds", {}).items()]
    lines += [
        printable(f"CONTAMINATED: the {name} encoder {result['encoders'][name]['name']} was trained on this corpus")
        for name in result["contaminated"]
    ]
    if absent := result.get("not_in_corpus"):
        lines.append(printable(describe_absent(absent)))
    for name, figures in (result["subsets"] or {"+".join(result["modalities"]): result}).items():
        bounds = figures["interval"] and figures["interval"]["accuracy"]["this_test_set"]
        between = f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
        lines.append(f"{name:>16}  {_four(figures, between)}")
        if without := figures.get("answered_by_prior"):
            lines[-1] += f"  ({without} of {figures['n']} without it: the answer of the prior)"
    name, share = majority_of(result)
    lines.append(f"{'chance':>16}  accuracy {share:.4f} (always {printable(name)})  UAR {chance_of(result):.4f}")
    if known < (every := len(result["classes"])):
        about = f"UAR is over the {known} tested of {every} emotions, macro F1 over all {every}"
        lines.append(f"{about}; over the tested ones it is {result['macro_f1_tested']:.4f}")
    return "\n".join(lines)


def _four(figures: dict[str, Any], between: str = "") -> str:
    """Write the four figures of a line, the accuracy with its interval."""
    accuracy, uar = f"accuracy {figures['accuracy']:.4f}{between}", f"UAR {figures['uar']:.4f}"
    return f"{accuracy}  weighted F1 {figures['weighted_f1']:.4f}  macro F1 {figures['macro_f1']:.4f}  {uar}"
