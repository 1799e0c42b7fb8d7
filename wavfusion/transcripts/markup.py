"""Tags and entities within a text, and documents of XML."""

import html
import re
from xml.etree import ElementTree

from wavfusion.errors import CorpusError

# No part of a pattern runs beyond the next bracket, so that a text full of open ones is read in linear time.
_TAG = re.compile(
    r"</?(?:[bius]|em|strong|ruby|rt|br)(?:\.[^\s<>]*)?\s*/?>"
    r"|</?(?:font|span|lang|c|v)(?:[.\s][^<>]*)?>"
    r"|<(?:\d{1,5}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}>"
    r"|\{\\[a-zA-Z0-9][^{}]*\}",
    re.IGNORECASE,
)


def without_tags(text: str) -> str:
    """Remove the tags that subtitles know and resolve entities; other brackets are text, as in `I <3 you`."""
    text = _TAG.sub(lambda found: " " if found[0].startswith(("<br", "<BR")) else "", text)
    try:
        return html.unescape(text)
    except ValueError:  # a number of thousands of digits
        return text


def escape(text: str) -> str:
    """Write a text so that `without_tags` returns it."""
    return html.escape(text, quote=False).replace("{\\", "&#123;\\")


class _TreeWithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE: nested entities could fill the memory."""

    def doctype(self, name: str, *_: object) -> None:
        raise CorpusError(f"expected no DOCTYPE, as ELAN writes none, found one of {name[:40]!r}")


def parse_xml(text: str) -> ElementTree.Element:
    """Parse a document, whatever encoding it claims to have had, or raise a SyntaxError."""
    parser = ElementTree.XMLParser(target=_TreeWithoutDoctype(), encoding="utf-8")
    return ElementTree.fromstring(text.encode(), parser)


def local(name: str) -> str:
    """Return the name of a tag or attribute without its namespace."""
    return name.rpartition("}")[2]
