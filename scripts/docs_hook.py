"""What the documentation takes from the program itself: `--help` of every verb, and what each room is for.

MkDocs calls this file. A page asks for a part by a comment on a line of its own: `<!-- help: predict -->`, or
`<!-- rooms -->`.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLAIN = {"COLUMNS": "96", "TERM": "dumb", "NO_COLOR": "1", "TYPER_USE_RICH": "0"}


def help_of(verb: str) -> str:
    """Return what `wavfusion VERB --help` prints."""
    command = [sys.executable, "-m", "wavfusion", verb, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **PLAIN}, check=True)
    return f"```text\n{done.stdout.strip()}\n```"


def rooms() -> str:
    """Return one section for each folder of the package: its docstring and its files."""
    sections = []
    for path in sorted((ROOT / "wavfusion").glob("*/__init__.py")):
        files = [each.stem for each in sorted(path.parent.glob("*.py")) if each != path]
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        listed = "\n\nFiles: " + ", ".join(f"`{name}`" for name in files) + "." if files else ""
        sections.append(f"## `{path.parent.name}/`\n\n{text}{listed}")
    return "\n\n".join(sections)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments of a page by what they ask for."""
    markdown = re.sub(r"^<!-- help: (\w+) -->$", lambda found: help_of(found[1]), markdown, flags=re.MULTILINE)
    return re.sub(r"^<!-- rooms -->$", lambda _: rooms(), markdown, flags=re.MULTILINE)
