"""Loads the models of steps: any transformers pipeline for the task, by the name that the user gives."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from processing.common import positive_int
from processing.endpoint_options import add_endpoint_options, json_object
from processing.grand.work_folder import Row
from transformers_groma.data.image_files import inside
from transformers_groma.data.left_out import DATA_ERRORS, SkipRecord, reason_of
from transformers_groma.images import load_image, open_image_header, upright

ENDPOINT, GROUNDING = "endpoint", "image-grounding"

Item = TypeVar("Item")


def add_model_options(parser: ArgumentParser, tasks: Sequence[str], required: bool = True) -> None:
    """Add the options of a model.

    Args:
        parser (`ArgumentParser`): of a step.
        tasks (`Sequence[str]`): what the model may be: tasks of `transformers.pipeline`, and `"endpoint"`; the first
            is the default.
        required (`bool`): whether the step can't do without one.
    """
    parser.add_argument(
        "--task",
        choices=tasks,
        default=tasks[0],
        help="what the model is: a transformers pipeline"
        + (", `image-grounding` for Groma and GLaMM" if GROUNDING in tasks else "")
        + (", or `endpoint` for an OpenAI-compatible server" if ENDPOINT in tasks else "")
        + " (default: %(default)s)",
    )
    parser.add_argument("--model", required=required, metavar="NAME", help="name or folder of the model")
    parser.add_argument("--device", metavar="NAME", help="such as cuda:0 (default: as transformers chooses)")
    parser.add_argument("--dtype", metavar="NAME", help="such as bfloat16 (default: that of the checkpoint)")
    parser.add_argument(
        "--batch-size", type=positive_int, default=1, metavar="N", help="images a forward pass (default: 1)"
    )
    parser.add_argument(
        "--call",
        type=json_object,
        default={},
        metavar="JSON",
        help='further arguments of each call of the pipeline, such as {"max_new_tokens": 64}',
    )
    if ENDPOINT in tasks:
        add_endpoint_options(parser, {"max_completion_tokens": 512})


def load_pipeline(args: Namespace) -> Any:
    """The transformers pipeline that the options name.

    Args:
        args (`Namespace`): with the options of [`add_model_options`].

    Returns:
        `Pipeline`
    """
    # It registers `image-grounding`, and the models that answer it.
    from transformers import pipeline

    import transformers_groma  # noqa: F401

    more = {name: value for name in ("device", "dtype") if (value := getattr(args, name)) is not None}
    return pipeline(args.task, model=args.model, **more)


def load_mask_model(args: Namespace) -> tuple[Any, Any]:
    """A model that segments boxes, such as SAM, and its processor; its pipeline would segment everything instead.

    Args:
        args (`Namespace`): with the options of [`add_model_options`].

    Returns:
        `tuple`: model and processor.
    """
    from transformers import AutoModelForMaskGeneration, AutoProcessor

    model = AutoModelForMaskGeneration.from_pretrained(args.model, dtype=args.dtype or "auto").eval()
    model = model.requires_grad_(False)
    return model if args.device is None else model.to(args.device), AutoProcessor.from_pretrained(args.model)


def read_upright(images: Path, row: Row) -> Image.Image:
    """Read an image as a viewer shows it.

    Args:
        images (`Path`): folder of the images.
        row (`dict`): with the columns of the step `images`.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        SkipRecord: it is gone, or has another size than in the index.
    """
    index = row["images"]
    path = inside(images, images / index["file_name"])
    try:
        with open_image_header(path) as image:
            load_image(image)
            found = upright(image).convert("RGB")
    except FileNotFoundError:
        raise SkipRecord("missing image") from None
    if found.size != (index["width"], index["height"]):
        raise SkipRecord("image has changed since it was indexed: run the step `images` again")
    return found


def clipped_box(box: Sequence[float], row: Row) -> list[float] | None:
    """A model's box, clipped to the image.

    Args:
        box (4 numbers): `xyxy` in pixels.
        row (`dict`): with the columns of the step `images`.

    Returns:
        `list`, *optional*: `xyxy` in pixels with two decimals, as GranD writes them; `None` if less than a pixel is
        left.
    """
    width, height = row["images"]["width"], row["images"]["height"]
    x1, y1, x2, y2 = (
        round(min(max(float(value), 0.0), limit), 2)
        for value, limit in zip(box, (width, height, width, height), strict=True)
    )
    return [x1, y1, x2, y2] if x2 - x1 >= 1 and y2 - y1 >= 1 else None


def one_by_one(make: Callable[[Row], Row]) -> Callable[[Sequence[Row]], Iterator[Row | SkipRecord]]:
    """A worker that makes the columns of one row at a time; what bad data raises leaves its row out.

    Args:
        make (`Callable[[Row], Row]`): makes the columns of a row.

    Returns:
        `Worker`
    """

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        for row in rows:
            try:
                yield make(row)
            except (SkipRecord, *DATA_ERRORS) as error:
                yield reason_of(error).of_record()

    return work


def in_batches(
    items: Sequence[Item], size: int, run: Callable[[Sequence[Item]], Sequence[Any]]
) -> Iterator[Any | SkipRecord]:
    """Run a model on items in batches; where one item of a batch fails, its others are run again without it.

    Args:
        items (`Sequence`): what the model takes.
        size (`int`): of a batch.
        run (`Callable`): the model on a batch; one result an item.

    Yields:
        The results in the order of the items; `SkipRecord` in the place of those that failed.

    Example:
    >>> [str(each) for each in in_batches([1, 0, 2], 2, lambda batch: [2 // item for item in batch])]
    ['2', 'ZeroDivisionError: integer division or modulo by zero', '1']
    """
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        try:
            yield from list(run(batch))
        except (SkipRecord, *DATA_ERRORS) as error:
            if len(batch) > 1:
                yield from in_batches(batch, 1, run)
            else:
                yield reason_of(error).of_record()


__all__ = [
    "ENDPOINT",
    "GROUNDING",
    "add_model_options",
    "clipped_box",
    "in_batches",
    "load_mask_model",
    "load_pipeline",
    "one_by_one",
    "read_upright",
]
