"""A page as its elements, for tests."""

from html.parser import HTMLParser
from typing import NamedTuple

import httpx


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    text: list[str]


class Page(HTMLParser):
    """Every element in order; `text` is what stands directly in it."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "rect", "circle", "path", "polyline", "hr"})

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1].text.append(data)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Elements of this tag with these attributes (`class_` and `hx_get` for class and hx-get; "" means any)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.elements
            if tag in ("", element.tag)
            and all(
                name in element.attributes
                and (not value or value in (element.attributes[name], *element.attributes[name].split()))
                for name, value in wanted.items()
            )
        ]

    def texts(self, tag: str = "", **attributes: str) -> list[str]:
        return ["".join(element.text).strip() for element in self.all(tag, **attributes)]
