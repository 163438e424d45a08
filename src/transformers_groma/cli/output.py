"""What commands print, and the answers, regions and images that they write."""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_file, write_files
from .._output_errors import naming
from .._words import counted

if TYPE_CHECKING:
    from PIL import Image

    from ..grounding import GroundedText
    from ..regions import Regions
    from ..zero_shot.classification import Classification


def answer_lines(answer: "GroundedText") -> str:
    """An answer as a terminal shows it: its text, and the boxes of each phrase, with the pixels of masks."""
    return "\n".join([answer.text, *_region_lines(answer)])


def _region_lines(answer: "GroundedText") -> list[str]:
    lines = []
    for phrase in answer.phrases:
        for region in phrase.regions:
            pixels = "" if region.mask is None else f"  {region.mask.sum()} pixels"
            lines.append(f"  r{region.id:<3} {numbers(region.box.tolist()):<24} {phrase.text}{pixels}".rstrip())
    if answer.unknown_region_ids:
        lines.append(f"  (regions that do not exist: {', '.join(f'r{index}' for index in answer.unknown_region_ids)})")
    return lines


def print_answer(answer: "GroundedText", as_json: bool) -> None:
    """Print an answer, for people or as one line of JSON."""
    print(json.dumps(answer.to_dict()) if as_json else printable(answer_lines(answer)), flush=True)


def print_regions(regions: "Regions", as_json: bool) -> None:
    """Print regions, for people as a table or as one line of JSON."""
    if as_json:
        print(json.dumps(regions.to_dict()), flush=True)
        return
    columns = "name, score, x1, y1, x2, y2" + ("" if regions.masks is None else ", pixels of the mask")
    print(f"{counted(len(regions), 'region')}: {columns}")
    for region in regions:
        pixels = "" if region.mask is None else f"  {region.mask.sum():>9}"
        label = "" if region.label is None else f"  {region.label}"
        print(
            printable(f"{'r' + str(region.id):>4}  {region.score:.2f}  {numbers(region.box.tolist())}{pixels}{label}")
        )
    sys.stdout.flush()


def print_stream(partials: "Iterator[GroundedText]") -> "GroundedText":
    """Print an answer while it is written, then its boxes.

    Args:
        partials (`Iterator[GroundedText]`): the answer so far, each time there is more of it.

    Returns:
        `GroundedText`: the last one.
    """
    shown = ""
    for answer in partials:
        text = printable(answer.text)
        # Text that was shown stays, but for the rare answer whose spaces turn out to be others.
        new = text[len(shown) :] if text.startswith(shown) else f"\n{text}"
        print(new, end="", flush=True)
        shown = text
    print(printable("\n".join(["", *_region_lines(answer)])), flush=True)
    return answer


def numbers(values: Sequence[float]) -> str:
    """The numbers of a box, in columns."""
    return " ".join(f"{value:5.0f}" for value in values)


def printable(text: str) -> str:
    """The text without control characters and without what the terminal cannot show, as a model may write anything."""
    text = "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # a closed output has none
    return text.encode(encoding, "replace").decode(encoding)


def note(text: str) -> None:
    """Print a note on stderr, apart from the result."""
    print(printable(text), file=sys.stderr)


def image_note(source: str, image: "Image.Image") -> dict[str, Any]:
    """What the JSON of an answer says about its image, for programs that read it later: name and size in pixels."""
    return {"image": {"name": source, "width": image.width, "height": image.height}}


def write_answer(
    folder: Path,
    name: str,
    answer: "GroundedText",
    image: "Image.Image",
    notes: dict[str, Any] | None = None,
    question: str | None = None,
) -> None:
    """Write an answer as JSON and, with its question, as an image: both or neither."""
    _write_pair(folder, name, {**answer.to_dict(), **(notes or {})}, answer.draw(image, question=question))


def write_answers(
    folder: Path | None,
    answers: "Sequence[GroundedText]",
    image: "Image.Image",
    questions: Sequence[str | None] | None = None,
    notes: dict[str, Any] | None = None,
) -> None:
    """Write the answers of a command, `answer` or, if there are several, `answer_1`, `answer_2`, …; notes which files.

    Args:
        folder (`Path`, *optional*): where to; without it nothing is written.
        answers (`Sequence[GroundedText]`): the answers.
        image (`PIL.Image.Image`): that they are about.
        questions (`Sequence[str]`, *optional*): what was asked, to be drawn above each.
        notes (`dict`, *optional*): what else the JSON of each says.
    """
    if folder is None:
        return
    for index, answer in enumerate(answers):
        name = "answer" if len(answers) == 1 else f"answer_{index + 1}"
        write_answer(folder, name, answer, image, notes, None if questions is None else questions[index])
        note(f"wrote {folder / name}.json and {folder / name}.png")


def write_proposals(
    folder: Path,
    regions: "Regions",
    image: "Image.Image",
    name: str = "proposals",
    notes: dict[str, Any] | None = None,
) -> None:
    """Write regions as JSON, and the image that shows them: both or neither."""
    from ..visualization import draw_proposals

    _write_pair(folder, name, {**regions.to_dict(), **(notes or {})}, draw_proposals(image, regions))


def write_classification(
    folder: Path, name: str, result: "Classification", image: "Image.Image", notes: dict[str, Any] | None = None
) -> None:
    """Write an explained classification as JSON, and the image of the places that count most: both or neither."""
    _write_pair(folder, name, {**(notes or {}), **result.to_dict()}, result.draw(image))


def write_segments(
    folder: Path, name: str, regions: "Regions", image: "Image.Image", notes: dict[str, Any] | None = None
) -> None:
    """Write regions with masks as JSON, the image that shows them, and each mask as an image: all or nothing."""
    import numpy as np
    from PIL import Image

    from ..visualization import draw_boxes

    labels = regions.labels or [f"r{region.id} {region.score:.0%}" for region in regions]
    drawn = draw_boxes(image, regions, labels=labels)
    masks = {
        folder / _mask_file(name, number): Image.fromarray(mask.astype(np.uint8) * 255)
        for number, mask in enumerate(regions.masks, start=1)
    }
    _write_pair(folder, name, {**regions.to_dict(), **(notes or {})}, drawn, masks)


def earlier_masks(folder: Path, name: str, count: int) -> list[str]:
    """The files of masks in a folder that [`write_segments`] wrote there before, where it has now written fewer.

    Args:
        folder (`Path`): the folder.
        name (`str`): of the segments.
        count (`int`): how many masks there are now.

    Returns:
        `list[str]`: their names, in the order of their numbers.
    """
    names = []
    while (folder / (following := _mask_file(name, count + len(names) + 1))).exists():
        names.append(following)
    return names


def _mask_file(name: str, number: int) -> str:
    return f"{name}_mask_{number}.png"


def write_png(path: Path, image: "Image.Image") -> None:
    """Write an image atomically."""
    write_file(path, _png(path, image))


def _write_pair(
    folder: Path,
    name: str,
    content: dict[str, Any],
    image: "Image.Image",
    others: "dict[Path, Image.Image] | None" = None,
) -> None:
    """Write `NAME.json`, `NAME.png` and other images, all or none. The JSON is last: if it exists, they all do."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    images = {folder / f"{name}.png": image, **(others or {})}
    files = {path: _png(path, drawn) for path, drawn in images.items()}
    write_files({**files, folder / f"{name}.json": text.encode()})


def _png(path: Path, image: "Image.Image") -> bytes:
    """An image as the bytes of a PNG file; errors name `path`."""
    buffer = io.BytesIO()
    with naming(path):
        image.save(buffer, format="PNG")
    return buffer.getvalue()
