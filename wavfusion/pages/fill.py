"""Static HTML pages about RUNs, corpora and reproductions; nothing in them asks a network."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wavfusion.files import write_atomic


def fill_page(template: str, finalize: Callable[[Any], Any] | None = None, **values: Any) -> str:
    """Fill a template of `pages/`; values are escaped for HTML, and what is printed goes through `finalize`."""
    pages = Environment(
        loader=PackageLoader("wavfusion", "pages"),
        autoescape=template.endswith(".html"),
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return pages.get_template(template).render(**values)


def script(*names: str) -> dict[str, Any]:
    """Scripts of `pages/` as one, and the hash by which a page's security policy allows it alone."""
    pages = resources.files("wavfusion").joinpath("pages")
    text = "".join(pages.joinpath(name).read_text("utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": digest}


def write_page(out: Path, template: str, **values: Any) -> None:
    """Fill a template and write it."""
    page = fill_page(template, **values)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page.encode("utf-8", "surrogatepass"))


def write_tables(out: Path, found: Mapping[str, Any]) -> None:
    """Write the page of a reproduction: `found` is what `reproduce` writes as JSON, and its protocol `described`."""
    test = found["protocol"]["selected_on"] == "test"
    warnings = {"SELECTED ON TEST:": "these figures are not comparable with honest ones."} if test else {}
    write_page(out, "tables.html", **{**found, "protocol": {**found["protocol"], "warnings": warnings}})
