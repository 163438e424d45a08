"""An annotation file with two good images for every script, for tests that damage it."""

import csv
import io
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from processing import (
    category_grounding,
    coco,
    flickr30k,
    flickr30k_regions,
    grit,
    groma_instruct_dataset,
    llava_instruct,
    lvis_ground,
    openimages,
    refcoco,
    visual_genome,
)

WIDTH, HEIGHT = 40, 30


BOX = [4, 6, 20, 9]  # xywh


CORNERS = [4, 6, 24, 15]


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    """A black PNG in which `BOX` is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[CORNERS[1] : CORNERS[3], CORNERS[0] : CORNERS[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, "PNG", exif=exif)  # whatever its name


def coco_content(name: str = "a.png", bbox: Any = BOX, size: tuple[Any, Any] = (WIDTH, HEIGHT)) -> dict:
    """COCO instances that every script of that format reads; `name`, `bbox` and `size` are of the first image."""
    images = [
        {"id": 1, "file_name": name, "width": size[0], "height": size[1], "caption": "a cup stands"},
        {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT, "caption": "a dog runs"},
    ]
    more = {"category_id": 1, "iscrowd": 0, "tokens_positive": [[0, 5]]}
    annotations = [
        {"id": 11, "image_id": 1, "bbox": bbox, "caption": "a cup", **more},
        {"id": 12, "image_id": 2, "bbox": BOX, "caption": "a dog", **more, "category_id": 2},
    ]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@dataclass
class Script:
    """How to run a script on files of its format.

    Args:
        main (`Callable`): the script.
        write (`Callable`): writes the files for `name`, `bbox` and `size` of the first image; the annotation
            options.
        options (`list`): more options.
        file (`str`): the annotation file whose bytes tests change.
        bbox (`bool`): whether it has `xywh` boxes in JSON.
        size (`bool`): whether it knows the size of images.
    """

    main: Callable[[list[str]], int]
    write: Callable[..., list[str]]
    options: tuple[str, ...] = ()
    file: str = "a.json"
    bbox: bool = True
    size: bool = True


def write_json(folder: Path, content: Any, name: str = "a.json") -> list[str]:
    (folder / name).write_text(json.dumps(content))
    return ["--annotations", str(folder / name)]


def write_coco(folder: Path, **changes) -> list[str]:
    return write_json(folder, coco_content(**changes))


def write_refer(folder: Path, **changes) -> list[str]:
    write_coco(folder, **changes)
    refs = [
        {"ref_id": k, "image_id": k, "ann_id": 10 + k, "split": "train", "sentences": [{"sent": f"thing {k}"}]}
        for k in (1, 2)
    ]
    (folder / "refs.p").write_bytes(pickle.dumps(refs))
    return ["--annotations", str(folder / "refs.p"), str(folder / "a.json")]


def write_vg(folder: Path, name="a.png", bbox=BOX, size=(WIDTH, HEIGHT)) -> list[str]:
    images = [
        {"image_id": 1, "url": f"https://x/VG_100K/{name}", "width": size[0], "height": size[1]},
        {"image_id": 2, "url": "https://x/VG_100K/b.png", "width": WIDTH, "height": HEIGHT},
    ]
    box = dict(zip(("x", "y", "width", "height"), bbox)) if isinstance(bbox, list) else {"x": bbox}
    regions = [
        {"id": 1, "regions": [{"region_id": 5, "image_id": 1, "phrase": "a cup", **box}]},
        {
            "id": 2,
            "regions": [
                {"region_id": 6, "image_id": 2, "phrase": "a dog", **dict(zip(("x", "y", "width", "height"), BOX))}
            ],
        },
    ]
    (folder / "image_data.json").write_text(json.dumps(images))
    return [*write_json(folder, regions), "--image-data", str(folder / "image_data.json")]


def write_instruct(folder: Path, name="a.png", bbox=BOX, size=(WIDTH, HEIGHT)) -> list[str]:
    def record(name: str, bbox: Any, size: tuple[Any, Any]) -> dict:
        turns = [{"value": "What?"}, {"value": "<p>It</p> <roi><ground_box></roi>", "box_inds": [0]}]
        return {"file_name": name, "width": size[0], "height": size[1], "boxes": [bbox], "conversation": turns}

    return write_json(folder, [record(name, bbox, size), record("b.png", BOX, (WIDTH, HEIGHT))])


def write_grit(folder: Path, name="a.png", size=(WIDTH, HEIGHT), **_) -> list[str]:
    x1, y1, x2, y2 = CORNERS
    box = [x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]
    lines = [
        {"filename": n, "caption": "a cup", "ref_exps": [[0, 5, *box, 0.9]], "noun_chunks": []}
        for n in (name, "b.png")
    ]
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return ["--annotations", str(folder / "a.jsonl")]


def write_llava(folder: Path, name="a.png", **_) -> list[str]:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    return write_json(folder, [{"id": n, "image": n, "conversations": turns} for n in (name, "b.png")])


def write_openimages(folder: Path, name="a.png", **_) -> list[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["ImageID", "XMin", "YMin", "XMax", "YMax", "IsGroupOf"])
    x1, y1, x2, y2 = CORNERS
    for n in (name, "b.png"):
        writer.writerow([n.removesuffix(".png"), x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT, 0])
    (folder / "a.csv").write_text(buffer.getvalue())
    return ["--annotations", str(folder / "a.csv")]


SCRIPTS = {
    "coco": Script(coco.main, write_coco),
    "category_grounding": Script(category_grounding.main, write_coco),
    "lvis_ground": Script(lvis_ground.main, write_coco),
    "refcoco": Script(refcoco.main, write_coco, ("--task", "rec")),
    "refcoco caption": Script(refcoco.main, write_coco, ("--task", "region-caption", "--evaluation")),
    "refer": Script(refcoco.main, write_refer, ("--task", "rec")),
    "flickr30k": Script(flickr30k.main, write_coco),
    "flickr30k regions": Script(flickr30k_regions.main, write_coco),
    "visual_genome coco": Script(visual_genome.main, write_coco),
    "visual_genome": Script(visual_genome.main, write_vg),
    "visual_genome single": Script(visual_genome.main, write_vg, ("--rounds", "single")),
    "visual_genome all": Script(visual_genome.main, write_vg, ("--rounds", "all")),
    "groma_instruct": Script(groma_instruct_dataset.main, write_instruct),
    "grit": Script(grit.main, write_grit, file="a.jsonl", bbox=False, size=False),
    "llava": Script(llava_instruct.main, write_llava, bbox=False, size=False),
    "openimages": Script(openimages.main, write_openimages, file="a.csv", bbox=False, size=False),
}


WITH_BOXES = [name for name, script in SCRIPTS.items() if script.bbox]


COCO_STYLE = [name for name, script in SCRIPTS.items() if script.write in (write_coco, write_refer)]


@dataclass
class Outcome:
    status: int
    rows: list[dict]
    report: dict
    errors: str

    @property
    def boxes(self) -> list[list[float]]:
        return [[*row["boxes_xyxy"], *row.get("target_boxes_xyxy", [])] for row in self.rows]

    @property
    def reasons(self) -> dict[str, int]:
        """What was counted, records and parts of records."""
        return {**self.report["skipped"], **self.report.get("parts", {})}


def run(script: Script, folder: Path, arguments: list[str], *more: str) -> Outcome:
    output = folder / "rows"
    argv = ["--images", str(folder / "images"), *arguments, "--output", str(output), *script.options, *more]
    status = script.main(argv)
    rows = [row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    reports = [
        json.loads(path.read_text()) for path in (*output.glob("*.report.json"), *output.glob(".*.report.json"))
    ]
    return Outcome(status, rows, reports[0] if reports else {"skipped": {}}, "")


def one_reason(outcome: Outcome) -> str:
    """The one thing that was counted: a reason without numbers or names, with an example beside it."""
    assert outcome.status == 0 and len(outcome.rows) == 1
    reasons = {
        name: count
        for name, count in outcome.reasons.items()
        if name
        not in (
            "no boxes",
            "no expression with a box",
            "no phrase with a box",
            "no region with a box and a description",
        )
    }
    [(reason, count)] = reasons.items()
    assert count == 1 and not re.search(r"\d|\.png|\.jpg", reason), reason
    assert any(text.startswith(reason) for _, text in outcome.report["examples"])
    return reason


def changed(images: Path, name: str, change: Callable[[dict], None]) -> Outcome:
    """Run a COCO-style script on a file that was changed."""
    script = SCRIPTS[name]
    arguments = script.write(images)
    content = coco_content()
    change(content)
    write_json(images, content)
    return run(script, images, arguments)


def white_box(row: dict) -> list[int]:
    """Where the white box of an image is as a viewer shows it."""
    from datasets import Image as ImageFeature

    return list(ImageFeature().decode_example(row["image"]).convert("L").getbbox())


TURNING = [name for name in SCRIPTS if name != "llava"]


def flickr_xml(name: str, box: tuple[Any, ...] = (5, 7, 24, 15)) -> str:
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return (
        '<?xml version="1.0" encoding="UTF-16"?>'
        f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>1</name><bndbox>{corners}</bndbox></object>"
        "<object><name>2</name><bndbox><xmin>5</xmin><ymin>7</ymin><xmax>24</xmax><ymax>15</ymax></bndbox></object></annotation>"
    )
