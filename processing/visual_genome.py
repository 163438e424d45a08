"""Visual Genome's region descriptions to conversation or evaluation rows: describe a box.

From https://homes.cs.washington.edu/~ranjay/visualgenome/api.html get both parts of the images (folders `VG_100K`
and `VG_100K_2`), `region_descriptions.json` and `image_data.json`:

python -m processing.visual_genome --images vg --annotations region_descriptions.json --image-data image_data.json \\
    --output data/vg --shards 64

Without `--image-data` the files are COCO-style, with a `caption` for each annotation, as those that GLaMM takes
(`train.json`, and `test_caption.json` to evaluate):

python -m processing.visual_genome --wording glamm --rounds all --images vg --annotations train.json \\
    --output data/visual_genome_glamm --shards 64

`--rounds multi` (default) makes one conversation per image, about at most 10 regions that do not overlap much, in
random order. `--rounds all` makes as many of an image as its regions need, at most 10 in each. `--rounds single` makes
one row per region; as every row holds its image, that is 5 million images for all of Visual Genome. `--evaluation` is
one row per region. `--image-ids` takes a file with one id per line, as for test splits.
"""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from processing.coco_format import check_image, image_name, read_json
from processing.common import run_script, script_parser
from processing.ids import Id, id_of, record_fault
from processing.masked_regions import question_groups
from processing.regions import Region, caption_question, caption_turns, load_coco_regions, region_box
from processing.rows import (
    add_conversation_options,
    conversation_row,
    evaluation_row,
    plain_text,
    prompt_seed,
    read_annotated_image,
    read_ids,
)
from transformers_groma.boxes import nms
from transformers_groma.data.image_files import BoxesOf
from transformers_groma.data.left_out import LeftOut, SkipRecord, reason_of
from transformers_groma.data.prompts import Wording

MAX_REGIONS = 10
# Regions of one conversation overlap by this IoU at most.
NMS_THRESHOLD = 0.6


def image_names(file_name: str) -> list[str]:
    """Where an image of Visual Genome may be.

    Args:
        file_name (`str`): its name, perhaps without its folder.

    Returns:
        `list[str]`: paths relative to the folder of images.

    Example:
    >>> image_names("1.jpg")
    ['1.jpg', 'VG_100K/1.jpg', 'VG_100K_2/1.jpg']
    """
    name = Path(file_name).name
    return [file_name, f"VG_100K/{name}", f"VG_100K_2/{name}"]


def load_visual_genome(annotations: Sequence[Path], image_data: Path) -> list[Region]:
    """Read regions in the layout of Visual Genome, one for each description.

    Args:
        annotations (`Sequence[Path]`): `region_descriptions.json`.
        image_data (`Path`): `image_data.json`, which knows the sizes of the images and where they are.

    Returns:
        `list[Region]`: in the order of the files.

    Raises:
        ValueError: a file of another layout.
    """
    images = _read_image_data(image_data)
    regions = []
    for path in annotations:
        entries = _list_of_entries(read_json(path), "regions")
        if entries is None:
            raise ValueError(
                f"{path} is not a `region_descriptions.json` of Visual Genome: a list of objects with `id` and "
                "`regions`. Leave out `--image-data` for a COCO-style file."
            )
        seen: set[Id] = set()
        for entry in entries:
            image_id = id_of(entry.get("id")) if isinstance(entry, dict) else None
            if image_id is not None and image_id in seen:
                fault = LeftOut("two entries of regions share the id of an image", f"id {image_id}")
                regions.append(Region({"id": image_id}, None, (), fault))
            else:
                regions += _regions_of_entry(entry, image_id, images)
                seen.add(image_id)
    return regions


def _list_of_entries(content: Any, key: str) -> list[Any] | None:
    """The entries of a file if it is a list that is empty or has an entry with `key`, otherwise `None`."""
    if not isinstance(content, list):
        return None
    right = not content or any(isinstance(entry, dict) and key in entry for entry in content)
    return content if right else None


def _read_image_data(path: Path) -> dict[Id, Region]:
    """Images by their id, as regions without a box; those that are wrong have a fault."""
    entries = _list_of_entries(read_json(path), "image_id")
    if entries is None:
        raise ValueError(
            f"{path} is not the `image_data.json` of Visual Genome: a list of objects with `image_id`, `url`, `width` "
            "and `height`."
        )
    images: dict[Id, Region] = {}
    for number, image in enumerate(entries):
        image_id = id_of(image.get("image_id")) if isinstance(image, dict) else None
        if image_id is None:
            print(f"{path}: entry {number} without an `image_id` is left out", file=sys.stderr)
            continue
        fault = record_fault(image, "entry of an image")
        url = image.get("url")
        # .../VG_100K_2/1.jpg
        name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else None
        if name is None and fault is None:
            fault = LeftOut("the image has no `url`", f"image_id {image_id}")
        entry = {**image, "id": image_id, "file_name": name}
        known = images.get(image_id)
        if known is not None and known.image != entry:
            fault = LeftOut("several images share the same id: whose regions are they?", f"image_id {image_id}")
        images[image_id] = Region(entry, None, (), fault)
    return images


def _regions_of_entry(entry: Any, image_id: Id | None, images: Mapping[Id, Region]) -> list[Region]:
    """The regions of an image; one that names another image than its entry has a fault."""
    fault = record_fault(entry, "entry of regions")
    listed = entry.get("regions") if fault is None else None
    if fault is None and image_id is None:
        fault = LeftOut("entry of regions without an `id`", f"id {entry.get('id')!r}")
    elif fault is None and not isinstance(listed, list):
        fault = LeftOut("`regions` of an entry is not a list", f"id {image_id}")
    if fault is not None:
        return [Region({"id": image_id}, None, (), fault)]
    known = images.get(image_id)
    image = {"id": image_id} if known is None else known.image
    shared = LeftOut("the image is not in `--image-data`", f"id {image_id}") if known is None else known.fault
    regions = []
    for region in listed:
        fault = shared or record_fault(region, "region")
        if fault is None and id_of(region.get("image_id", image_id)) != image_id:
            detail = (
                f"region {region.get('region_id')!r} of image {region.get('image_id')!r}, listed under {image_id!r}"
            )
            fault = LeftOut("a region names another image than the entry that lists it", detail)
        bbox = [region.get(name) for name in ("x", "y", "width", "height")] if isinstance(region, dict) else None
        phrase = region.get("phrase") if isinstance(region, dict) else None
        regions.append(Region(image, bbox, (phrase,), fault))
    return regions


def load_records(
    annotations: Sequence[Path], image_data: Path | None, image_ids: Path | None, together: bool
) -> list[list[Region]]:
    """Read the regions of images.

    Args:
        annotations (`Sequence[Path]`): files with regions.
        image_data (`Path`, *optional*): where sizes are, for the layout of Visual Genome.
        image_ids (`Path`, *optional*): file of the ids of the images to take.
        together (`bool`): all regions of an image are one record, otherwise each is its own.

    Returns:
        `list` of `list[Region]`: records.
    """
    if image_data is None:
        regions = load_coco_regions(annotations)
    else:
        regions = load_visual_genome(annotations, image_data)
    if image_ids is not None:
        wanted = read_ids(image_ids)
        regions = [region for region in regions if str(id_of(region.image.get("id"))) in wanted]
    if not together:
        return [[region] for region in regions]
    # By the entry object and not by its id: another file may use the same id for another image.
    by_image: dict[int, list[Region]] = {}
    for region in regions:
        by_image.setdefault(id(region.image), []).append(region)
    return list(by_image.values())


def usable_regions(regions: Sequence[Region]) -> tuple[list[Region], list[LeftOut]]:
    """Regions with a box and a description.

    Args:
        regions (`Sequence[Region]`): of one image.

    Returns:
        `tuple`: the regions, and why others are left out.
    """
    usable, left_out = [], []
    for region in regions:
        try:
            region_box(region), plain_text(region.expressions[0])
        except SkipRecord as error:
            left_out.append(reason_of(error))
        else:
            usable.append(region)
    return usable, left_out


def choose_regions(regions: Sequence[Region], record: str, seed: int) -> tuple[list[list[float]], list[str]]:
    """At most 10 regions that overlap little, in random order.

    Args:
        regions (`Sequence[Region]`): of one image, with a box and a description, at least one.
        record (`str`): name of the image; the choice depends on it and on `seed` alone.
        seed (`int`): draws the regions.

    Returns:
        `tuple`: boxes `xyxy` in pixels, and their descriptions.
    """
    boxes = [region_box(region) for region in regions]
    captions = [plain_text(region.expressions[0]) for region in regions]
    # NMS with random scores: the order is random, and no region overlaps an earlier one much.
    generator = random.Random(f"{seed}/{record}")
    scores = torch.tensor([generator.random() for _ in boxes], dtype=torch.float64)
    kept = nms(torch.tensor(boxes), scores, NMS_THRESHOLD, max_boxes=MAX_REGIONS).tolist()
    return [boxes[index] for index in kept], [captions[index] for index in kept]


def convert(
    regions: Sequence[Region],
    images: Path,
    single: bool,
    evaluation: bool,
    source: str,
    seed: int | None,
    wording: Wording = "groma",
    all_regions: bool = False,
    boxes_of: BoxesOf | None = None,
) -> Iterator[dict[str, Any] | LeftOut]:
    """The row of one image, or several, or that of one region.

    Args:
        regions (`Sequence[Region]`): of one image; one if `single` or `evaluation`.
        images (`Path`): folder of the images.
        single (`bool`): whether it is one region.
        evaluation (`bool`): whether it is a row to evaluate on.
        source (`str`): name of the dataset.
        seed (`int`, *optional*): draws questions and regions.
        wording (`str`): whose questions and answers, to train on.
        all_regions (`bool`): whether rows ask about all regions of an image, also where they overlap.
        boxes_of (`str`, *optional*): which pixels the boxes were drawn on, where EXIF data turn the image.

    Yields:
        `dict`: a conversation or evaluation row, boxes `xyxy` in pixels. `LeftOut`: why a region cannot be asked
            about.

    Raises:
        SkipRecord: no image, another size than annotated, or no good region.
    """
    image = regions[0].image
    image_id = str(id_of(image.get("id")))
    if evaluation or single:
        conversations = [([region_box(regions[0])], [plain_text(regions[0].expressions[0])])]
    else:
        faults = {region.fault for region in regions}
        if len(faults) == 1 and None not in faults:
            # The fault is that of the image, which all its regions have.
            fault = faults.pop()
            raise fault.of_record()
        usable, left_out = usable_regions(regions)
        yield from left_out
        if not usable:
            raise SkipRecord("no region with a box and a description")
        if not all_regions:
            conversations = [choose_regions(usable, image_id, seed)]
        else:
            described = [(region_box(region), plain_text(region.expressions[0])) for region in usable]
            groups = question_groups(described, MAX_REGIONS, None, image_id, seed)
            conversations = [([box for box, _ in group], [text for _, text in group]) for group in groups]
    names = image_names(image["file_name"]) if isinstance(image.get("file_name"), str) else [None]
    image_file = read_annotated_image(images, *names, size=check_image(image), boxes_of=boxes_of)
    for boxes, captions in conversations:
        record = f"{image_id}/{boxes[0]}/{captions[0]}"
        boxes = image_file.upright(boxes)
        if evaluation:
            question = caption_question(0, record, seed)
            yield evaluation_row(image_file, image_id, question, source, boxes=boxes, references=captions)
        else:
            turns = caption_turns(captions, record, seed, wording)
            yield conversation_row(image_file, image_id, boxes, turns, source)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--image-data", type=Path, metavar="FILE", help="`image_data.json` of Visual Genome")
    parser.add_argument("--image-ids", type=Path, metavar="FILE", help="take these images only, one id per line")
    parser.add_argument(
        "--rounds", choices=("multi", "all", "single"), default="multi", help="regions of a row (default: %(default)s)"
    )
    add_conversation_options(parser, source="visual_genome", wording=True)
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
            wording=args.wording,
            all_regions=args.rounds == "all",
            boxes_of=args.boxes_of,
        ),
        schema="evaluation" if args.evaluation else "conversation",
        record_name=lambda regions: regions[0].name if single else image_name(regions[0].image),
    )


if __name__ == "__main__":
    sys.exit(main())
