"""Selects Visual Genome images that have COCO captions and, after NMS, enough regions.

Boxes are `xyxy` in absolute pixels of the upright image.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import torch
from tqdm.auto import tqdm

from processing.boxes import upright_boxes, usable_boxes
from processing.coco_format import check_image, read_json
from processing.ids import Id, id_of, record_fault
from transformers_groma.boxes import box_area, nms
from transformers_groma.data.image_files import image_path, read_image_bytes, upright_size
from transformers_groma.data.left_out import DATA_ERRORS, LeftOut, SkipRecord, reason_of
from transformers_groma.data.shards import WriteReport

# Visual Genome describes the same thing several times, in boxes that differ by a little. Of two boxes with a larger
# IoU one is dropped; a part inside of a whole (the clock in the street) has a small IoU and stays.
IOU_THRESHOLD = 0.5
MIN_REGIONS, MAX_REGIONS = 3, 10
# A smaller region (25x25 pixels of 640x480) would vanish under its marker.
MIN_AREA = 0.002


class SelectedImage(TypedDict):
    """An image with all notes for the vision model; region `i` of the lists has the number `i + 1`.

    Args:
        image_id (`str`): number of the image in Visual Genome.
        coco_id (`int`): its number in COCO.
        file_name (`str`): path in the folder of the images.
        width, height (`int`): size of the upright image in pixels.
        boxes_xyxy (`list` of 4 `float`): regions, in absolute pixels.
        descriptions (`list` of `str`): one per region.
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
        images (`Path`): folder of the images, in `VG_100K` and `VG_100K_2` or together.

    Returns:
        `tuple`: the images in the order of `image_data`, and a report that counts those left out by reason.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file has another layout.
    """
    captions_by_id: dict[Id, list[str]] = {}
    lost = 0
    for path in captions:
        for annotation in _read(path, dict, "COCO captions", "annotations"):
            image_id = id_of(annotation.get("image_id")) if isinstance(annotation, dict) else None
            if image_id is None or not isinstance(annotation.get("caption"), str):
                lost += 1
                continue
            captions_by_id.setdefault(image_id, []).append(_one_line(annotation["caption"]))
    if lost:
        print(f"{lost} captions of COCO without an `image_id` or a text are left out", file=sys.stderr)
    regions = _by_image(region_descriptions, "regions")
    questions = _by_image(question_answers, "qas")
    entries = list(_read(image_data, list, "Visual Genome's image_data.json"))
    counts = Counter(id_of(entry.get("image_id")) for entry in entries if isinstance(entry, dict))
    report = WriteReport()
    selected = []
    for entry in tqdm(entries, desc="select", unit="image"):
        report.records += 1
        name = str(entry.get("image_id")) if isinstance(entry, dict) else repr(entry)[:100]
        try:
            chosen, left_out = _select(entry, counts, regions, questions, captions_by_id, images)
        except (SkipRecord, *DATA_ERRORS) as error:
            why = reason_of(error)
            report.skip(name, why.reason, why.detail)
        else:
            for part in left_out:
                report.leave_out(name, part)
            selected.append(chosen)
            report.rows += 1
    return selected, report


def choose_regions(boxes: Sequence[Sequence[float]], width: int, height: int) -> list[int]:
    """Choose boxes that do not overlap much: NMS that prefers the larger box, then the 10 largest.

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
    counts: Mapping[Id | None, int],
    regions: Mapping[Id, Sequence[Mapping[str, Any]] | None],
    questions: Mapping[Id, Sequence[Mapping[str, Any]] | None],
    captions: Mapping[Id, list[str]],
    images: Path,
) -> tuple[SelectedImage, list[LeftOut]]:
    if fault := record_fault(entry, "entry of an image"):
        raise fault.of_record()
    image_id, coco_id = id_of(entry.get("image_id")), id_of(entry.get("coco_id"))
    if image_id is None:
        raise SkipRecord("image without an `image_id`", repr(entry.get("image_id")))
    if counts[image_id] > 1:
        raise SkipRecord("several images share the same id", f"image_id {image_id}")
    width, height = check_image(entry)
    if coco_id is None:
        raise SkipRecord("no COCO id")
    if coco_id not in captions:
        raise SkipRecord("no COCO captions")
    left_out: list[LeftOut] = []
    described = _own(regions, image_id, ("phrase",), left_out)
    described = [region for region in described if _one_line(region["phrase"])]
    boxes, indices, wrong = usable_boxes(
        [[region.get(key) for key in ("x", "y", "width", "height")] for region in described], width, height
    )
    chosen = choose_regions(boxes, width, height)
    if len(chosen) < MIN_REGIONS:
        raise SkipRecord("too few regions", f"{len(chosen)}, at least {MIN_REGIONS}")
    file_name = _file_name(entry, images)
    content = read_image_bytes(images / file_name)
    # The regions are chosen by size and overlap, which turning does not change; the model is shown the upright image.
    size = upright_size(content)
    upright = upright_boxes([boxes[index] for index in chosen], content, (width, height), None)
    selected: SelectedImage = {
        "image_id": str(image_id),
        "coco_id": coco_id,
        "file_name": file_name,
        "width": size[0],
        "height": size[1],
        "boxes_xyxy": upright,
        "descriptions": [_one_line(described[indices[index]]["phrase"]) for index in chosen],
        "captions": captions[coco_id],
        "qa_pairs": [
            [_one_line(qa["question"]), _one_line(qa["answer"])]
            for qa in _own(questions, image_id, ("question", "answer"), left_out)
        ],
    }
    return selected, [*left_out, *wrong]


def _own(
    by_image: Mapping[Id, Sequence[Any] | None], image_id: Id, texts: Sequence[str], left_out: list[LeftOut]
) -> list[Mapping[str, Any]]:
    """Regions or questions of an image that have their texts and name no other image; others go to `left_out`."""
    own = []
    entries = by_image.get(image_id, ())
    if entries is None:
        raise SkipRecord("two entries share the id of an image", f"id {image_id}")
    for one in entries:
        if not isinstance(one, Mapping) or not all(isinstance(one.get(text), str) for text in texts):
            left_out.append(LeftOut(f"no {' and '.join(texts)}", repr(one)[:100]))
        elif id_of(one.get("image_id", image_id)) != image_id:
            detail = f"image {one.get('image_id')!r}, listed under {image_id!r}"
            left_out.append(LeftOut("it names another image than the entry that lists it", detail))
        else:
            own.append(one)
    return own


def _file_name(entry: Mapping[str, Any], images: Path) -> str:
    """The image's path in the folder: `VG_100K_2/1.jpg` as the archives have it, or `1.jpg`."""
    url = entry.get("url")
    if not isinstance(url, str):
        raise SkipRecord("the image has no `url`")
    *_, folder, name = ("", *PurePosixPath(url).parts)
    path = image_path(images, f"{folder}/{name}") if folder else images / name
    return f"{folder}/{name}" if path.is_file() else image_path(images, name).relative_to(images).as_posix()


def _by_image(path: Path, key: str) -> dict[Id, Sequence[Mapping[str, Any]] | None]:
    """Lists by the id of their image; `None` where two entries have the same id."""
    entries = _read(path, list, f"a list of images with `{key}`")
    by_image: dict[Id, Sequence[Mapping[str, Any]] | None] = {}
    lost = 0
    for entry in entries:
        image_id = id_of(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None or not isinstance(entry.get(key), list):
            lost += 1
        else:
            by_image[image_id] = entry[key] if image_id not in by_image else None
    if lost and not by_image:
        raise ValueError(f"{path} is not a list of images with `id` and `{key}`, as Visual Genome has it.")
    if lost:
        print(f"{path}: {lost} entries without an `id` or without `{key}` are left out", file=sys.stderr)
    return by_image


def _read(path: Path, kind: type, what: str, key: str | None = None) -> Iterable[Any]:
    content = read_json(path)
    if not isinstance(content, kind) or (key is not None and not isinstance(content.get(key), list)):
        raise ValueError(f"{path} has another layout than {what}.")
    return content if key is None else content[key]


def _one_line(text: str) -> str:
    return " ".join(text.split())
