"""HTML taken apart, for tests of what is in it."""

from html.parser import HTMLParser

VOID = {"img", "input", "meta"}


class Parsed(HTMLParser):
    """HTML as elements `(tag, attributes, text inside)`; every element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self.open:
            texts.append(data)

    def of_class(self, name: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(texts))
            for _, attributes, texts in self.elements
            if name in (attributes.get("class") or "").split()
        ]
