"""Choosing images: those of Visual Genome that have COCO captions and, after NMS, enough regions.

Boxes are `xyxy` in absolute pixels of the upright image.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import torch
from tqdm.auto import tqdm

from processing.coco_format import clip_xywh_to_xyxy, read_json
from transformers_groma.boxes import box_area, nms
from transformers_groma.data.shards import DATA_ERRORS, SkipRecord, WriteReport, check_size, read_image_bytes

# Visual Genome describes the same thing several times, in boxes that differ by a little. Of two boxes with a larger IoU
# one is dropped; a part inside of a whole (the clock in the street) has a small IoU and stays.
IOU_THRESHOLD = 0.5
MIN_REGIONS, MAX_REGIONS = 3, 10
# A smaller region (25x25 pixels of 640x480) would vanish under its marker.
MIN_AREA = 0.002


class SelectedImage(TypedDict):
    """An image with all that the vision model is told about it; region `i` of the lists has the number `i + 1`.

    Args:
        image_id (`str`): number of the image in Visual Genome.
        coco_id (`int`): its number in COCO.
        file_name (`str`): path in the folder of the images.
        width, height (`int`): size of the upright image in pixels.
        boxes_xyxy (`list` of 4 `float`): regions, in absolute pixels.
        descriptions (`list` of `str`): one a region.
        captions (`list` of `str`): captions of COCO.
        qa_pairs (`list` of `[question, answer]`): of Visual Genome.
    """

    image_id: str
    coco_id: int
    file_name: str
    width: int
    height: int
    boxes_xyxy: list[list[float]]
    descriptions: list[str]
    captions: list[str]
    qa_pairs: list[list[str]]


def select_images(
    image_data: Path, region_descriptions: Path, question_answers: Path, captions: Sequence[Path], images: Path
) -> tuple[list[SelectedImage], WriteReport]:
    """Read the annotations and choose images.

    Args:
        image_data (`Path`): Visual Genome's `image_data.json`.
        region_descriptions (`Path`): its `region_descriptions.json`.
        question_answers (`Path`): its `question_answers.json`.
        captions (`Sequence[Path]`): `captions_*.json` of COCO.
        images (`Path`): folder of the pictures, in `VG_100K` and `VG_100K_2` or together.

    Returns:
        `tuple`: the images in the order of `image_data`, and a report that counts those left out by reason.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file has another layout.
    """
    captions_by_id: dict[int, list[str]] = {}
    for path in captions:
        for annotation in _read(path, dict, "COCO captions", "annotations"):
            captions_by_id.setdefault(annotation["image_id"], []).append(_one_line(annotation["caption"]))
    regions = _by_image(region_descriptions, "regions")
    questions = _by_image(question_answers, "qas")
    report = WriteReport()
    selected = []
    for entry in tqdm(_read(image_data, list, "Visual Genome's image_data.json"), desc="select", unit="image"):
        report.records += 1
        try:
            chosen = _select(entry, regions, questions, captions_by_id, images)
        except SkipRecord as error:
            report.skip(str(entry.get("image_id")), str(error))
        except DATA_ERRORS as error:
            report.skip(str(entry.get("image_id")), f"{type(error).__name__}: {error}")
        else:
            selected.append(chosen)
            report.rows += 1
    return selected, report


def choose_regions(boxes: Sequence[Sequence[float]], width: int, height: int) -> list[int]:
    """Boxes that do not overlap much: NMS that prefers the larger box, and the 10 largest of what is left.

    The larger of two boxes of the same thing is more often the whole thing.

    Args:
        boxes (`Sequence` of 4 numbers): `xyxy` boxes in absolute pixels.
        width, height (`int`): size of the image in pixels.

    Returns:
        `list[int]`: indices of the boxes, largest first, at most 10.

    Example:
    >>> choose_regions([[0, 0, 50, 50], [0, 0, 52, 50], [60, 60, 99, 99], [1, 1, 3, 3]], 100, 100)
    [1, 2]
    """
    if not boxes:
        return []
    corners = torch.tensor(boxes, dtype=torch.float32)
    areas = box_area(corners) / (width * height)
    return nms(corners, areas, IOU_THRESHOLD, score_threshold=MIN_AREA, max_boxes=MAX_REGIONS).tolist()


def _select(
    entry: Mapping[str, Any],
    regions: Mapping[int, Sequence[Mapping[str, Any]]],
    questions: Mapping[int, Sequence[Mapping[str, Any]]],
    captions: Mapping[int, list[str]],
    images: Path,
) -> SelectedImage:
    image_id, coco_id, width, height = entry["image_id"], entry["coco_id"], entry["width"], entry["height"]
    if coco_id is None:
        raise SkipRecord("no COCO id")
    if coco_id not in captions:
        raise SkipRecord("no COCO captions")
    described = [region for region in regions.get(image_id, ()) if _one_line(region["phrase"])]
    boxes, indices = clip_xywh_to_xyxy(
        [[region[key] for key in ("x", "y", "width", "height")] for region in described], width, height
    )
    chosen = choose_regions(boxes, width, height)
    if len(chosen) < MIN_REGIONS:
        raise SkipRecord(f"fewer than {MIN_REGIONS} regions")
    file_name = _file_name(entry, images)
    check_size(read_image_bytes(images / file_name), width, height)
    return {
        "image_id": str(image_id),
        "coco_id": coco_id,
        "file_name": file_name,
        "width": width,
        "height": height,
        "boxes_xyxy": [boxes[index] for index in chosen],
        "descriptions": [_one_line(described[indices[index]]["phrase"]) for index in chosen],
        "captions": captions[coco_id],
        "qa_pairs": [[_one_line(qa["question"]), _one_line(qa["answer"])] for qa in questions.get(image_id, ())],
    }


def _file_name(entry: Mapping[str, Any], images: Path) -> str:
    """The picture's path in the folder: `VG_100K_2/1.jpg` as the archives have it, or `1.jpg`."""
    *_, folder, name = PurePosixPath(entry["url"]).parts
    if (images / folder / name).is_file():
        return f"{folder}/{name}"
    return name


def _by_image(path: Path, key: str) -> dict[int, Sequence[Mapping[str, Any]]]:
    entries = _read(path, list, f"a list of images with `{key}`")
    try:
        return {entry["id"]: entry[key] for entry in entries}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of images with `id` and `{key}`, as Visual Genome has it.") from error


def _read(path: Path, kind: type, what: str, key: str | None = None) -> Iterable[Any]:
    content = read_json(path)
    if not isinstance(content, kind) or (key is not None and key not in content):
        raise ValueError(f"{path} has another layout than {what}.")
    return content if key is None else content[key]


def _one_line(text: str) -> str:
    return " ".join(text.split())
