"""Region descriptions of Visual Genome to conversations or evaluation rows: describing boxes.

From https://homes.cs.washington.edu/~ranjay/visualgenome/api.html get both parts of the pictures (folders `VG_100K` and
`VG_100K_2`), `region_descriptions.json` and `image_data.json`:

python -m processing.visual_genome --images vg --annotations region_descriptions.json --image-data image_data.json \\
    --output data/vg --shards 64

Without `--image-data` the files are COCO-style, with a `caption` for each annotation.

`--rounds multi` (default) makes one conversation a picture, about at most 10 regions that do not overlap much, in random
order. `--rounds single` makes one row a region; as every row holds its picture, that is 5 million pictures for all of
Visual Genome. `--evaluation` is one row a region. `--image-ids` takes a file with one id a line, as test splits come.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from processing.coco_format import read_json
from processing.common import run_script, script_parser
from processing.regions import Region, caption_question, caption_turns, load_coco_regions, region_box
from processing.rows import (
    add_conversation_options,
    conversation_row,
    evaluation_row,
    plain_text,
    prompt_seed,
    read_ids,
    read_picture,
)
from transformers_groma.boxes import nms
from transformers_groma.data.shards import SkipRecord

MAX_REGIONS = 10
# Regions of one conversation overlap by this IoU at most.
NMS_THRESHOLD = 0.6


def picture_names(file_name: str) -> list[str]:
    """Where a picture of Visual Genome may lie.

    Args:
        file_name (`str`): its name, perhaps without its folder.

    Returns:
        `list[str]`: paths relative to the folder of pictures.

    Example:
    >>> picture_names("1.jpg")
    ['1.jpg', 'VG_100K/1.jpg', 'VG_100K_2/1.jpg']
    """
    name = Path(file_name).name
    return [file_name, f"VG_100K/{name}", f"VG_100K_2/{name}"]


def load_visual_genome(annotations: Sequence[Path], image_data: Path) -> list[Region]:
    """Regions in the layout of Visual Genome, one for each description.

    Args:
        annotations (`Sequence[Path]`): `region_descriptions.json`.
        image_data (`Path`): `image_data.json`, which knows the sizes of the pictures and where they are.

    Returns:
        `list[Region]`: in the order of the files.

    Raises:
        ValueError: a file of another layout.
    """
    try:
        images = {}
        for image in read_json(image_data):
            # .../VG_100K_2/1.jpg
            name = "/".join(image["url"].split("/")[-2:])
            images[image["image_id"]] = {**image, "id": image["image_id"], "file_name": name}
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{image_data} is not the `image_data.json` of Visual Genome ({error!r}).") from error
    regions = []
    for path in annotations:
        try:
            for entry in read_json(path):
                image = images.get(entry["id"], {"id": entry["id"]})
                for region in entry["regions"]:
                    bbox = [region.get(name) for name in ("x", "y", "width", "height")]
                    regions.append(Region(image, bbox, (region.get("phrase"),)))
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"{path} is not a `region_descriptions.json` of Visual Genome ({error!r}). Leave out `--image-data` for a "
                "COCO-style file."
            ) from error
    return regions


def load_records(
    annotations: Sequence[Path], image_data: Path | None, image_ids: Path | None, together: bool
) -> list[list[Region]]:
    """Regions of the pictures.

    Args:
        annotations (`Sequence[Path]`): files with regions.
        image_data (`Path`, *optional*): where sizes are, for the layout of Visual Genome.
        image_ids (`Path`, *optional*): file of the ids of the pictures to take.
        together (`bool`): all regions of a picture are one record, otherwise each is its own.

    Returns:
        `list` of `list[Region]`: records.
    """
    if image_data is None:
        regions = load_coco_regions(annotations)
    else:
        regions = load_visual_genome(annotations, image_data)
    if image_ids is not None:
        wanted = read_ids(image_ids)
        regions = [region for region in regions if str(region.image.get("id")) in wanted]
    if not together:
        return [[region] for region in regions]
    return [list(group) for _, group in groupby(regions, key=lambda region: region.image.get("id"))]


def choose_regions(regions: Sequence[Region], record: str, seed: int) -> tuple[list[list[float]], list[str]]:
    """At most 10 regions with a box and a description that overlap little, in random order.

    Args:
        regions (`Sequence[Region]`): of one picture.
        record (`str`): its name, which the choice depends on, and on nothing else than `seed`.
        seed (`int`): another seed makes another choice.

    Returns:
        `tuple`: boxes `xyxy` in pixels, and their descriptions.

    Raises:
        SkipRecord: there is none.
    """
    boxes, captions = [], []
    for region in regions:
        try:
            box, caption = region_box(region), plain_text(region.expressions[0])
        except SkipRecord:
            continue  # there are more
        boxes.append(box)
        captions.append(caption)
    if not boxes:
        raise SkipRecord("no region with a box and a description")
    generator = random.Random(f"{seed}/{record}")
    scores = torch.tensor([generator.random() for _ in boxes], dtype=torch.float64)
    kept = nms(torch.tensor(boxes), scores, NMS_THRESHOLD, max_boxes=MAX_REGIONS).tolist()
    return [boxes[index] for index in kept], [captions[index] for index in kept]


def convert(
    regions: Sequence[Region], images: Path, single: bool, evaluation: bool, source: str, seed: int | None
) -> Iterator[dict[str, Any]]:
    """The row of one picture, or of one region.

    Args:
        regions (`Sequence[Region]`): of one picture; one if `single` or `evaluation`.
        images (`Path`): folder of the pictures.
        single (`bool`): whether it is one region.
        evaluation (`bool`): whether it is a row to evaluate on.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws questions and regions.

    Yields:
        `dict`: a conversation or evaluation row, boxes `xyxy` in pixels.

    Raises:
        SkipRecord: no picture, another size than annotated, or no good region.
    """
    image = regions[0].image
    image_id = str(image["id"])
    size = (image["width"], image["height"])
    if evaluation or single:
        boxes, captions = [region_box(regions[0])], [plain_text(regions[0].expressions[0])]
    else:
        boxes, captions = choose_regions(regions, image_id, seed)
    picture = read_picture(images, *picture_names(image["file_name"]), size=size)
    record = f"{image_id}/{boxes[0]}/{captions[0]}"
    if evaluation:
        question = caption_question(0, record, seed)
        yield evaluation_row(picture, image_id, question, source, boxes=boxes, references=captions)
    else:
        yield conversation_row(picture, image_id, boxes, caption_turns(captions, record, seed), source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default those of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--image-data", type=Path, metavar="FILE", help="`image_data.json` of Visual Genome")
    parser.add_argument("--image-ids", type=Path, metavar="FILE", help="take these pictures only, one id a line")
    parser.add_argument(
        "--rounds", choices=("multi", "single"), default="multi", help="regions of a row (default: %(default)s)"
    )
    add_conversation_options(parser, source="visual_genome")
    args = parser.parse_args(argv)
    single = args.evaluation or args.rounds == "single"
    return run_script(
        args,
        lambda: load_records(args.annotations, args.image_data, args.image_ids, together=not single),
        partial(
            convert,
            images=args.images,
            single=single,
            evaluation=args.evaluation,
            source=args.source,
            seed=prompt_seed(args),
        ),
        schema="evaluation" if args.evaluation else "conversation",
        record_name=lambda regions: regions[0].name if single else str(regions[0].image.get("file_name")),
    )


if __name__ == "__main__":
    sys.exit(main())
