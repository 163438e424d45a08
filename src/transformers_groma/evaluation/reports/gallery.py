"""A gallery of answers: one HTML page that works offline, with an image of each case.

Boxes are `xyxy` in absolute pixels of the upright image. Boxes of the answer are solid and numbered in the order of
the answer, targets are dashed. Masks of the answer are tinted, those of targets outlined.
"""

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from ..._files import write_file
from ..._folders import complete_folder
from ..._words import counted
from ...boxes import box_iou
from ...caption_strip import Run, with_caption
from ...image_inputs import to_rgb
from ...masks import RLE, rle_to_mask
from ...region_drawing import Mark, RegionCanvas
from ...visualization import PALETTE, dashes, draw_boxes
from .gallery_masks import draw_masks

Box = Sequence[float]  # xyxy, absolute pixels of the upright image
Color = tuple[int, int, int]

# Orange and light blue of the palette: far apart in hue and, as the targets are dashed, also without colours.
PREDICTED_COLOR: Color = PALETTE[0]
TARGET_COLOR: Color = PALETTE[1]
# Small images are enlarged until labels can be read, large ones shrunk: a page of a hundred photos stays a few
# megabytes.
MIN_SIDE, MAX_SIDE = 480, 960
# Above this, IoU labels would hide the image.
MAX_LABELLED_BOXES = 12
# So many boxes are written beside a case at once; the others unfold.
MAX_SHOWN_BOXES = 2
EXPECTED_BOX = "Expected box"
# Signs as well as colours, as not everyone can distinguish the colours.
SIGNS = {"right": "\u2713 right", "partly right": "\u25d0 partly right", "wrong": "\u2717 wrong"}
JPEG_QUALITY = 90


@dataclass(frozen=True)
class GalleryCase:
    """A question to a model, with its answer and the truth.

    Args:
        image (`PIL.Image.Image`): the image, of any mode and orientation.
        title (`str`): name of the case, such as its row and image.
        question (`str`): the question; empty where the image is all the question.
        answer (`str`): what the model said.
        predicted_boxes_xyxy (`Sequence` of n boxes): boxes of the answer, in its order; `xyxy` in absolute pixels of
            the upright image.
        target_boxes_xyxy (`Sequence` of m boxes): the truth; `xyxy` in the same pixels.
        score (`float`): how good the answer is, as the benchmark has it.
        verdict (`str`): "right", "partly right" or "wrong"; empty if it is unknown.
        expected (`Sequence[str]`): texts that the answer is compared with, if it is.
        target_name (`str`): name of a target in the texts.
        predicted_masks, target_masks (`Sequence` of RLE): masks of the upright image, if there are any. Those of all
            cases would not fit into memory as arrays.
    """

    image: Image.Image
    title: str
    question: str
    answer: str
    predicted_boxes_xyxy: Sequence[Box]
    target_boxes_xyxy: Sequence[Box]
    score: float
    verdict: str = ""
    expected: Sequence[str] = ()
    target_name: str = EXPECTED_BOX
    predicted_masks: Sequence[RLE] = ()
    target_masks: Sequence[RLE] = ()

    @property
    def has_masks(self) -> bool:
        """Whether there are masks to draw."""
        return len(self.predicted_masks) + len(self.target_masks) > 0


def worst_first(scores: Sequence[float], count: int) -> list[int]:
    """Find the cases with the lowest scores.

    Args:
        scores (`Sequence[float]`): score of each case. NaN counts as the lowest.
        count (`int`): how many, at most.

    Returns:
        `list[int]`: their indices, the worst first; equal scores in the order of the cases.

    Raises:
        ValueError: `count` is negative.

    Example:
    >>> worst_first([0.5, 0.0, 1.0, 0.0], 3)
    [1, 3, 0]
    """
    if count < 0:
        raise ValueError(f"`count` must be non-negative, got {count}.")
    order = sorted(range(len(scores)), key=lambda index: -math.inf if math.isnan(scores[index]) else scores[index])
    return order[:count]


def draw_case(case: GalleryCase) -> Image.Image:
    """Draw a case: targets dashed, boxes of the answer solid, with their number and their best IoU with a target.

    Where there are masks, those of the answer are tinted and those of targets outlined, and labels are numbers alone.

    Args:
        case (`GalleryCase`): the case to draw.

    Returns:
        `PIL.Image.Image`: a new RGB image, upright, its longer side 480 to 960 pixels.

    Raises:
        ValueError: a box has not four finite numbers.

    Example:
    >>> from PIL import Image
    >>> image = Image.new("RGB", (240, 120))
    >>> case = GalleryCase(image, "row 0", "Where?", "", [[10, 10, 50, 50]], [[12, 10, 50, 52]], 0.9)
    >>> draw_case(case).size
    (480, 240)
    """
    image = to_rgb(case.image)
    longer = max(image.size)
    scale = min(max(longer, MIN_SIDE), MAX_SIDE) / longer
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    targets = _checked_boxes(case.target_boxes_xyxy, "target_boxes_xyxy")
    predicted = _checked_boxes(case.predicted_boxes_xyxy, "predicted_boxes_xyxy")
    if case.has_masks:
        masks = (map(rle_to_mask, masks) for masks in (case.predicted_masks, case.target_masks))
        image = draw_masks(image, *masks, PREDICTED_COLOR, TARGET_COLOR)
    # Under the answer's boxes and wider: a target shows even where both coincide, and crosses no label.
    _draw_dashed(image, (targets * scale).tolist())
    if case.has_masks:
        return _with_outlines(image, (predicted * scale).tolist())
    labels = _labels(predicted, targets)
    return draw_boxes(image, predicted * scale, labels=labels, colors=[PREDICTED_COLOR] * len(predicted))


def write_gallery(
    output_dir: str | os.PathLike,
    cases: Sequence[GalleryCase],
    title: str = "Worst cases",
    note: str = "",
    boxes: str = "",
) -> Path:
    """Write `gallery.html`, with all images in it, and `gallery/0001.png` and so on, each with its texts under it.

    The page needs no other file and no network, and runs no script. Texts are shown as they are, markup or not.

    Args:
        output_dir (`str` or `Path`): output folder. A `gallery` folder in it is replaced.
        cases (`Sequence[GalleryCase]`): the cases, in the order to show them.
        title (`str`): title of the page.
        note (`str`): a line under the title, such as how the cases were chosen.
        boxes (`str`): what the boxes of the answers are, where there are no targets to compare them with.

    Returns:
        `Path`: the page.

    Raises:
        ValueError: a box has not four finite numbers.

    Example:
    >>> import tempfile
    >>> from PIL import Image
    >>> case = GalleryCase(Image.new("RGB", (64, 64)), "row 0", "Where is <p>it</p>?", "", [], [[8, 8, 24, 24]], 0.0)
    >>> page = write_gallery(tempfile.mkdtemp(), [case])
    >>> page.name, "Where is &lt;p&gt;it&lt;/p&gt;?" in page.read_text()
    ('gallery.html', True)
    """
    output_dir = Path(output_dir)
    cards = []
    with complete_folder(output_dir / "gallery", overwrite=True) as folder:
        for number, case in enumerate(cases, start=1):
            image = draw_case(case)
            _with_texts(image, case).save(folder / f"{number:04d}.png")
            cards.append(_card(number, case, image))
    page = PAGE.format(
        title=_html(title),
        note=f"<p>{_html(note)}</p>" if note else "",
        legend=_legend(cases, boxes),
        count=counted(len(cards), "case"),
        verdicts="\n".join(
            f"<li>{_badge(verdict)} {number}</li>"
            for verdict in SIGNS
            if (number := sum(case.verdict == verdict for case in cases)) > 0
        ),
        style=STYLE.replace("PREDICTED", _css(PREDICTED_COLOR)).replace("TARGET", _css(TARGET_COLOR)),
        cards="\n".join(cards),
    )
    path = output_dir / "gallery.html"
    write_file(path, page.encode())
    return path


# The page may load nothing but its own images and styles.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{note}
<ul>
{legend}
<li>{count}</li>
{verdicts}
</ul>
</header>
<main>
{cards}
</main>
</body>
</html>
"""

LEGEND = """\
<li><span class="predicted"></span>box of the answer: number, best IoU with a target</li>
<li><span class="target"></span>target</li>"""
BOXES_LEGEND = '<li><span class="predicted"></span>{}</li>'
MASK_LEGEND = """\
<li><span class="predicted tinted"></span>answer: its masks tinted, its boxes outlined</li>
<li><span class="target outlined"></span>target: its masks outlined, its boxes dashed</li>"""

CARD = """\
<article id="case-{number}" class="{verdict_class}">
<img src="data:image/jpeg;base64,{image}" width="{width}" height="{height}" alt="{alt}" loading="lazy">
<div class="text">
<h2><a href="#case-{number}">{number}</a> {title}</h2>
{verdict}<p class="score" title="score"><span class="bar"><span style="width:{percent}%"></span></span>{score}</p>
<dl>{texts}</dl>
<details><summary>{summary}</summary><pre>{boxes}</pre></details>
</div>
</article>"""

STYLE = """
:root { color-scheme: light dark; }
:root { --page: #f4f4f2; --card: #fff; --text: #1d1d1f; --quiet: #66666b; --line: #dcdcd8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161618; --card: #222225; --text: #ececee; --quiet: #a0a0a6; --line: #3a3a3e; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; background: var(--page); color: var(--text); }
body { font: 15px/1.45 system-ui, sans-serif; }
header { margin: 0 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
header p { margin: .25rem 0; color: var(--quiet); }
ul { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; list-style: none; margin: .5rem 0 0; padding: 0; }
ul { color: var(--quiet); }
li { display: flex; align-items: center; gap: .5rem; }
li span { flex: none; width: 2rem; height: 1rem; }
.predicted { border: 3px solid PREDICTED; }
.target { border: 3px dashed TARGET; }
.tinted { background: color-mix(in srgb, PREDICTED 45%, transparent); }
.outlined { border-style: solid; }
main { display: grid; gap: 1.25rem; align-items: start; }
main { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
article.right { border-top: 6px solid #009e73; }
article.partly-right { border-top: 6px solid #e69f00; }
article.wrong { border-top: 6px solid #d55e00; }
.badge { display: inline-block; border-radius: 4px; padding: .05rem .5rem; font-weight: 600; color: #fff; }
.badge { width: auto; height: auto; }
.badge.right { background: #00735a; }
.badge.partly-right { background: #8a5f00; }
.badge.wrong { background: #b34700; }
article:target { outline: 3px solid PREDICTED; }
img { display: block; width: 100%; height: auto; max-height: 32rem; object-fit: contain; background: var(--line); }
.text { padding: .75rem 1rem 1rem; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
h2 a { color: var(--quiet); text-decoration: none; margin-right: .3rem; }
.score { display: flex; align-items: center; gap: .6rem; margin: .4rem 0; font-variant-numeric: tabular-nums; }
.bar { flex: 0 0 7rem; height: .5rem; border-radius: .25rem; background: var(--line); overflow: hidden; }
.bar span { display: block; height: 100%; background: PREDICTED; }
dl { margin: 0; }
dt { color: var(--quiet); font-size: .8rem; margin-top: .5rem; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 14rem; overflow-y: auto; }
summary { cursor: pointer; color: var(--quiet); font-size: .8rem; margin-top: .6rem; }
pre { margin: .4rem 0 0; font-size: .8rem; max-height: 14rem; overflow: auto; }
"""


def _legend(cases: Sequence[GalleryCase], boxes: str) -> str:
    if boxes:
        return BOXES_LEGEND.format(_html(boxes))
    return MASK_LEGEND if any(case.has_masks for case in cases) else LEGEND


def _checked_boxes(boxes: Sequence[Box], name: str) -> torch.Tensor:
    values = torch.tensor([[float(value) for value in box] for box in boxes], dtype=torch.float32)
    if len(boxes) == 0:
        return values.reshape(0, 4)
    if values.shape[1:] != (4,) or not torch.isfinite(values).all():
        raise ValueError(f"`{name}` must be boxes of four finite numbers, got {[list(box) for box in boxes]}.")
    return values


def _labels(predicted: torch.Tensor, targets: torch.Tensor) -> list[str]:
    """A label for each box of the answer: its number and best IoU, or the number alone if there are many boxes."""
    if len(targets) == 0 or len(predicted) > MAX_LABELLED_BOXES:
        return [str(number) for number in range(1, len(predicted) + 1)]
    best = box_iou(predicted, targets).amax(dim=-1).tolist()
    return [f"{number}  IoU {iou:.2f}" for number, iou in enumerate(best, start=1)]


def _draw_dashed(image: Image.Image, boxes: Sequence[Box]) -> None:
    """Draw dashed outlines with a dark edge of `xyxy` boxes in pixels onto an image."""
    draw = ImageDraw.Draw(image)
    side = math.sqrt(image.width * image.height)
    width = max(7, round(side / 75))
    for box in boxes:
        x1, x2 = (min(max(value, 0), image.width - 1) for value in (box[0], box[2]))
        y1, y2 = (min(max(value, 0), image.height - 1) for value in (box[1], box[3]))
        for left, top, right, bottom in dashes((x1, y1, x2, y2), 3 * width):
            for grown, color in ((width / 2, (0, 0, 0)), (width / 2 - 1.5, TARGET_COLOR)):
                corners = (left - grown, top - grown, right + grown, bottom + grown)
                draw.rectangle([round(value) for value in corners], fill=color)


def _with_outlines(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The image with numbered outlines of the answer's boxes. No box is tinted, as its mask is."""
    marks = [Mark(tuple(box), PREDICTED_COLOR, str(number)) for number, box in enumerate(boxes, start=1)]
    canvas = RegionCanvas(image)
    canvas.outline(marks, canvas.line_width)
    canvas.label(marks)
    return canvas.image


def _with_texts(image: Image.Image, case: GalleryCase) -> Image.Image:
    """The image with the texts of the case under it, so that it is complete on its own."""
    lines = [f"{case.title}   {case.verdict}{', ' if case.verdict else ''}score {_number(case.score)}"]
    lines += [f"{name}: {text}" for name, text in _texts(case)]
    return with_caption(image, [Run("\n".join(lines))])


def _card(number: int, case: GalleryCase, image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    predicted, targets = case.predicted_boxes_xyxy, case.target_boxes_xyxy
    lines = [f"answer {index:<3} {_coordinates(box)}" for index, box in enumerate(predicted, start=1)]
    lines += [f"target {index:<3} {_coordinates(box)}" for index, box in enumerate(targets, start=1)]
    share = 0.0 if math.isnan(case.score) else min(max(case.score, 0.0), 1.0)
    return CARD.format(
        number=number,
        image=base64.b64encode(buffer.getvalue()).decode(),
        width=image.width,
        height=image.height,
        alt=_html(case.title),
        title=_html(case.title),
        verdict=_badge(case.verdict),
        verdict_class=case.verdict.replace(" ", "-") or "not-judged",
        score=_number(case.score),
        percent=round(100 * share),
        texts="".join(f"<dt>{name}</dt><dd>{_html(text)}</dd>" for name, text in _texts(case)),
        summary=f"{counted(len(predicted), 'box', 'boxes')} in the answer, {counted(len(targets), 'target')}",
        boxes=_html("\n".join(lines)),
    )


def _texts(case: GalleryCase) -> list[tuple[str, str]]:
    """The question (if any), the answer and the expected answer, each with its name."""
    # Answers to "where" questions are boxes without words.
    answer = case.answer or ("(boxes only)" if len(case.predicted_boxes_xyxy) else "(nothing)")
    texts = [("Question", case.question)] * bool(case.question) + [("Answer", answer)]
    texts += [("Expected", " / ".join(case.expected))] * bool(case.expected)
    for name, boxes in (("Box of the answer", case.predicted_boxes_xyxy), (case.target_name, case.target_boxes_xyxy)):
        if 0 < len(boxes) <= MAX_SHOWN_BOXES:
            texts.append((name, "\n".join(_coordinates(box).strip() for box in boxes)))
    if case.target_name == EXPECTED_BOX and len(case.target_boxes_xyxy) > 0 and len(case.predicted_boxes_xyxy) == 0:
        texts.append(("Box of the answer", "(none)"))
    return texts


def _badge(verdict: str) -> str:
    if verdict not in SIGNS:
        return ""
    return f'<span class="badge {verdict.replace(" ", "-")}">{SIGNS[verdict]}</span>'


def _html(text: str) -> str:
    """Text escaped for HTML. Characters without a shape, such as control characters, become a replacement sign."""
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
    return escape(shown.encode("utf-8", "replace").decode())


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _coordinates(box: Box) -> str:
    return " ".join(f"{value:8.1f}" for value in box)


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


__all__ = ["GalleryCase", "draw_case", "worst_first", "write_gallery"]
