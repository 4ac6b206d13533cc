"""HTML as a tree: text and attributes are escaped when it is written, so that no name of a model can be markup."""

from __future__ import annotations

import unicodedata
from xml.etree.ElementTree import Element, tostring

SHOWN_LENGTH = 300  # characters of a name that are shown
Content = Element | str | None


def tag(kind: str, /, *children: Content, **attributes: str | int | None) -> Element:
    """An element. `class_` is class, `data_x` data-x; an attribute that is None is left out, and so is such a child."""
    stated = {key.rstrip("_").replace("_", "-"): seen(str(v)) for key, v in attributes.items() if v is not None}
    made = Element(kind, stated)
    for child in children:
        append_child(made, child)
    return made


def append_child(parent: Element, child: Content) -> None:
    """Text goes after what is there, with what cannot be seen spelled out; scripts and styles are our own."""
    if isinstance(child, Element):
        parent.append(child)
        return
    if parent.tag not in ("script", "style"):
        child = seen(child or "")
    if child and len(parent):
        parent[-1].tail = (parent[-1].tail or "") + child
    elif child:
        parent.text = (parent.text or "") + child


def shown(text: str, longest: int = SHOWN_LENGTH) -> str:
    """A name, or a sentence with names in it, with what cannot be seen spelled out, and not too long."""
    return seen(text if len(text) <= longest else f"{text[: longest // 2]} … {text[-(longest // 2) :]}")


def seen(text: str) -> str:
    """Text with what cannot be seen spelled out, as the scripts of the page spell it."""
    if text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in INVISIBLE else c for c in text)


INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def name_tag(text: str, kind: str = "code") -> Element:
    """A name as its own piece of text, whichever direction its letters run in."""
    return tag(kind, shown(text), dir="auto", class_="name")


def prose(text: str) -> Element:
    """A sentence that may hold names."""
    return tag("bdi", shown(text, 4 * SHOWN_LENGTH))


def anchor(to: str, *children: Content) -> Element:
    return tag("a", *children, href=f"#{to}")


def table(columns: list[Content], rows: list[list[Content]], caption: str, **attributes: str) -> Element:
    """A table with a caption for those who do not see it, in a frame that scrolls by itself."""
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    made = tag("table", tag("caption", caption, class_="unseen"), head, body, **attributes)
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)


def written(tree: Element) -> str:
    """The tree as text, with a document type."""
    return "<!doctype html>\n" + tostring(tree, encoding="unicode", method="html") + "\n"
