"""Draws the diagrams of docs/how-it-works.md as SVG files, readable on light and on dark pages and on a phone.

    python -m scripts.draw_diagrams

Every text stands on a filled shape of its own, so it needs no background of the page.
"""

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 440  # narrow enough that 15 pixels high letters are legible on a phone
# Fill and text of each kind of shape: what the model reads or writes, its parts, regions, what is switched off, notes.
COLORS = {
    "data": ("#dbeafe", "#1e3a5f"),
    "part": ("#3b4f6b", "#ffffff"),
    "region": ("#fde68a", "#5b3a05"),
    "answer": ("#bbf7d0", "#14532d"),
    "off": ("#cbd2d9", "#616e7c"),
    "note": ("#e4e7eb", "#323f4b"),
}
LINE = "#8795a8"


class Drawing:
    """Shapes on a page of `WIDTH` units, collected as SVG elements.

    Args:
        title (`str`): what the drawing shows, for screen readers.
        height (`int`): its height.
    """

    def __init__(self, title: str, height: int):
        self.title, self.height = title, height
        self.elements: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, kind: str, *lines: str, size: int = 15) -> None:
        """Draw a rounded rectangle with lines of text in its middle, the first one bold if there are several.

        Args:
            x, y, width, height (`int`): its place.
            kind (`str`): a key of `COLORS`.
            lines (`str`): its text.
            size (`int`): height of the letters.
        """
        fill, ink = COLORS[kind]
        self.elements.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}"/>')
        step = size + 4
        top = y + height / 2 - step * (len(lines) - 1) / 2 + size * 0.35
        for number, line in enumerate(lines):
            bold = ' font-weight="600"' if number == 0 and len(lines) > 1 else ""
            self.elements.append(
                f'<text x="{x + width / 2:g}" y="{top + number * step:g}" font-size="{size}" fill="{ink}"'
                f' text-anchor="middle"{bold}>{escape(line)}</text>'
            )

    def arrow(self, *points: tuple[int, int]) -> None:
        """Draw a line through points, with a head at the last one.

        Args:
            points (`(x, y)`): at least two.
        """
        path = " L".join(f"{x} {y}" for x, y in points)
        self.elements.append(
            f'<path d="M{path}" fill="none" stroke="{LINE}" stroke-width="2" marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        """Finish the drawing.

        Returns:
            `str`: the SVG file.
        """
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}"'
            f' height="{self.height}" role="img" font-family="system-ui, Segoe UI, Roboto, sans-serif">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
            f' markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>\n'
            f"{body}\n</svg>\n"
        )


def pipeline() -> Drawing:
    """Draw the way from an image to an answer.

    Returns:
        `Drawing`: image, parts of the model, answer.
    """
    drawing = Drawing("From an image to an answer whose phrases are tied to regions", 640)
    drawing.box(110, 0, 220, 44, "data", "image, 448 × 448 pixels")
    drawing.arrow((220, 44), (220, 70))
    drawing.box(90, 72, 260, 58, "part", "vision encoder", "DINOv2: 32 × 32 patches")
    drawing.arrow((130, 130), (130, 160), (80, 160), (80, 306))
    drawing.arrow((280, 130), (280, 160))
    drawing.box(180, 162, 260, 58, "part", "region proposer", "300 scored boxes, no classes")
    drawing.arrow((310, 220), (310, 244))
    drawing.box(180, 246, 260, 40, "note", "score > 0.15, no near-duplicates", size=14)
    drawing.arrow((310, 286), (310, 306))
    drawing.box(0, 308, 160, 58, "part", "2 × 2 merge", "and projector")
    drawing.box(180, 308, 260, 58, "part", "region encoder", "ROIAlign on three maps")
    drawing.arrow((80, 366), (80, 392))
    drawing.arrow((310, 366), (310, 392))
    drawing.box(0, 394, 160, 44, "data", "256 image tokens")
    drawing.box(180, 394, 260, 44, "region", "up to 100 region tokens")
    drawing.arrow((80, 438), (80, 474))
    drawing.arrow((310, 438), (310, 474))
    drawing.box(0, 476, 440, 58, "part", "language model", "reads both together with your question")
    drawing.arrow((220, 534), (220, 560))
    drawing.box(0, 562, 440, 66, "answer", "a red star  →  r7", "text, and the region of each phrase")
    return drawing


def slots() -> Drawing:
    """Draw what the language model reads: image tokens, region slots, question, answer.

    Returns:
        `Drawing`: the sequence from top to bottom.
    """
    drawing = Drawing("The prompt has a fixed number of region slots, and the answer names them", 424)
    drawing.box(0, 0, 440, 40, "data", "Image:  ▪ ▪ ▪ ▪ ▪ ▪ ▪ …  (256 image tokens)")
    drawing.box(0, 52, 90, 40, "data", "Regions:")
    for column, (name, kind) in enumerate([("r0", "answer"), ("r1", "region"), ("r2", "region"), ("r3", "off")]):
        drawing.box(100 + 86 * column, 52, 80, 40, kind, f"<{name}> ▪")
    drawing.arrow((140, 136), (140, 94))
    drawing.box(160, 100, 192, 28, "note", "▪ token of the region", size=13)
    drawing.box(360, 100, 80, 28, "note", "off", size=13)
    drawing.box(0, 138, 440, 44, "data", "USER:  What is right of  <roi><r0></roi> ▪ ?")
    drawing.box(0, 190, 440, 32, "note", "your box is slot 0; its name and token are repeated here", size=13)
    drawing.box(0, 246, 440, 44, "data", "ASSISTANT:  <p>A red star</p> <roi><r2></roi>")
    drawing.box(0, 298, 440, 32, "note", "the answer names a slot behind a phrase", size=13)
    drawing.arrow((220, 330), (220, 356))
    drawing.box(0, 358, 440, 62, "region", "“A red star”  →  box of slot 2", "in pixels of your image")
    return drawing


def user_boxes() -> Drawing:
    """Draw how your boxes and the proposals share the slots.

    Returns:
        `Drawing`: boxes, proposals, slots.
    """
    drawing = Drawing("Your boxes take the first slots; proposals that overlap them give way", 400)
    drawing.box(0, 0, 200, 44, "answer", "your boxes")
    drawing.box(240, 0, 200, 44, "data", "proposals, by score")
    for row, (name, kind, note) in enumerate(
        [("0.93", "data", ""), ("0.90", "off", "over your box"), ("0.71", "data", ""), ("0.08", "off", "too low")]
    ):
        y = 56 + 44 * row
        drawing.box(240, y, 80, 36, kind, name)
        if note:
            drawing.box(326, y + 4, 114, 28, "note", note, size=13)
    drawing.box(0, 56, 200, 36, "answer", "box 0", size=15)
    drawing.box(0, 100, 200, 36, "answer", "box 1", size=15)
    drawing.arrow((50, 136), (50, 272))
    drawing.arrow((150, 136), (150, 272))
    drawing.arrow((280, 230), (280, 250), (250, 250), (250, 272))
    drawing.arrow((310, 230), (310, 272))
    for column, (name, kind) in enumerate(
        [("r0", "answer"), ("r1", "answer"), ("r2", "data"), ("r3", "data"), ("r4 …", "off")]
    ):
        drawing.box(4 + 88 * column, 274, 80, 44, kind, name)
    drawing.box(
        0,
        334,
        440,
        56,
        "note",
        "always max_regions slots (100 in Groma-7B):",
        "those left over are switched off",
        size=14,
    )
    return drawing


DIAGRAMS = {
    "how-it-works-pipeline.svg": pipeline,
    "how-it-works-slots.svg": slots,
    "how-it-works-user-boxes.svg": user_boxes,
}


def main() -> None:
    """Write all diagrams."""
    for name, draw in DIAGRAMS.items():
        (IMAGES / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
