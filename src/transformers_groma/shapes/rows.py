"""Dataset rows of synthetic scenes: boxes and masks to detect, conversations, questions to evaluate."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.columns import DETECTION_SOURCES, Schema, features_of, image_part, phrase_part, region_part, text_part
from ..data.prompts import WORDINGS, Wording
from ..data.provenance import named_as_options
from ..data.shards import WriteReport, write_dataset
from ..masks import mask_to_rle
from .glamm_wording import in_glamm_words
from .questions import MIXTURE, converse
from .scenes import MIN_IMAGE_SIZE, SPLITS, Scene, make_scene
from .world import Content, Exchange, Phrase, Region, world_of

# Kinds of questions of each task, and how often they come.
CONVERSATION_TASKS: dict[str, dict[str, float]] = {
    "rec": {"rec": 1},
    "grounding": {"grounding": 1},
    "region-caption": {"region-caption": 1},
    "grounded-caption": {"grounded-caption": 1},
    "chat": MIXTURE,
}
TASKS = ("detection", *CONVERSATION_TASKS)
# A scene has up to 12 objects, and its longest answer names 6.
MIN_REGIONS = 16
JPEG_QUALITY = 95
# Raise it where the same options become other rows. 2: masks.
ROWS_VERSION = 2
# Where a scene gives no question of the task, the scene with this much higher a number is tried.
NEXT_SCENE = 2**32


@dataclass(frozen=True)
class ShapesOptions:
    """Which rows to make. A row follows from these options and its number alone.

    Args:
        task (`str`): "detection", "rec", "grounding", "region-caption", "grounded-caption" or "chat".
        seed (`int`): a non-negative number.
        split (`str`): "train", "validation" or "test"; splits share no scene, whatever the seeds.
        questions (`int`): most questions of a conversation; a scene that has less to ask about gets fewer.
        evaluation (`bool`): evaluation columns: one question per row, in its standard wording, without its answer.
        image_size (`int`): side of the images in pixels, at least 112.
        max_regions (`int`): region slots of the model that learns from the rows, at least 16. A conversation about an
            image points at no more than a third of this many boxes and names no more than the rest in its answers, so
            that batches of any rows fit.
        position_share (`float`): how many of the "rec" questions tell objects apart by position, 0 to 1.
        wording (`str`): whose words questions and answers have: "groma", or "glamm", whose answers have one mask for
            all objects that a question means.

    Raises:
        ValueError: a value is out of range.

    Example:
    >>> row = ShapesOptions("rec", seed=0).row(0)
    >>> row["image_id"], len(row["messages"])
    ('shapes-train-0-0', 16)
    """

    task: str
    seed: int
    split: str = "train"
    questions: int = 8
    evaluation: bool = False
    image_size: int = 224
    max_regions: int = 30
    position_share: float = 0.15
    wording: Wording = "groma"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.wording not in WORDINGS:
            raise ValueError(f"`wording` must be one of {', '.join(WORDINGS)}, got {self.wording!r}.")
        if self.split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {self.split!r}.")
        for name, least in (
            ("seed", 0),
            ("questions", 1),
            ("image_size", MIN_IMAGE_SIZE),
            ("max_regions", MIN_REGIONS),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
        if not 0 <= self.position_share <= 1:
            raise ValueError(f"`position_share` must be between 0 and 1, got {self.position_share!r}.")
        if self.evaluation and self.task == "detection":
            raise ValueError(
                "`evaluation` is for tasks with questions, and `task` is 'detection'. Leave it out: the rows of "
                "detection are evaluated as they are."
            )

    @property
    def schema(self) -> Schema:
        """The schema of the rows."""
        if self.task == "detection":
            return "detection"
        return "evaluation" if self.evaluation else "conversation"

    def row(self, index: int) -> dict[str, Any]:
        """Make the row of a number.

        Args:
            index (`int`): its number, from 0.

        Returns:
            `dict`: the columns of the schema, and the exact masks of what is visible of the objects; the image as
            `{"bytes": …, "path": None}` (JPEG).
        """
        if self.task == "detection":
            return self._detection_row(index)
        return self._conversation_row(index)

    def _detection_row(self, index: int) -> dict[str, Any]:
        scene = make_scene(self.seed, self.split, index, self.image_size)
        return {
            "image": _jpeg(scene),
            "image_id": self._image_id(index),
            "boxes_xyxy": scene.boxes_xyxy,
            # Both objectness heads learn.
            "source": DETECTION_SOURCES[index % len(DETECTION_SOURCES)],
            "masks": [mask_to_rle(item.mask) for item in scene.objects],
        }

    def conversation(self, index: int) -> tuple[Scene, list[Exchange]]:
        """The scene of a row and what is asked about it.

        Args:
            index (`int`): number of the row, from 0.

        Returns:
            `tuple[Scene, list[Exchange]]`: at least one exchange; none for "detection".
        """
        kinds = CONVERSATION_TASKS.get(self.task, {})
        rng = self._generator(index)
        # A batch is padded to the most boxes that any of its rows points at, and to the most that any names. The two
        # limits add up to the slots of the model, so that batches of any rows fit.
        max_pointed = self.max_regions // 3
        while True:
            scene = make_scene(self.seed, self.split, index, self.image_size)
            if not kinds:
                return scene, []
            exchanges = converse(
                kinds,
                world_of(scene),
                rng,
                questions=1 if self.evaluation else self.questions,
                template=0 if self.evaluation else None,
                position_share=self.position_share,
                max_pointed=max_pointed,
                max_named=self.max_regions - max_pointed,
            )
            if exchanges:
                return scene, self._worded(exchanges, rng)
            index += NEXT_SCENE

    def _worded(self, exchanges: list[Exchange], rng: np.random.Generator) -> list[Exchange]:
        if self.wording == "groma":
            return exchanges
        if self.evaluation:
            # What answers are compared with stays as it is.
            return [replace(exchange, question=in_glamm_words(exchange).question) for exchange in exchanges]
        return [in_glamm_words(exchange, rng) for exchange in exchanges]

    def _conversation_row(self, index: int) -> dict[str, Any]:
        scene, exchanges = self.conversation(index)
        boxes = _BoxList(scene.boxes_xyxy)
        messages = []
        for number, exchange in enumerate(exchanges):
            head = [image_part()] if number == 0 else []
            messages.append({"role": "user", "content": head + boxes.parts(exchange.question)})
            if not self.evaluation:
                messages.append({"role": "assistant", "content": boxes.parts(exchange.answer)})
        row = {
            "image": _jpeg(scene),
            "image_id": self._image_id(index),
            "boxes_xyxy": boxes.used,
            "messages": messages,
            "source": f"shapes-{self.task}",
            "masks": [mask_to_rle(scene.objects[item].mask) for item in boxes.numbers],
        }
        if self.evaluation:
            exchange = exchanges[0]
            row["references"] = [exchange.reference] if exchange.reference else []
            row["target_boxes_xyxy"] = [scene.boxes_xyxy[target] for target in exchange.targets]
            row["target_masks"] = [mask_to_rle(scene.objects[target].mask) for target in exchange.targets]
            row["category"] = exchange.category
        return row

    def _image_id(self, index: int) -> str:
        return f"shapes-{self.split}-{self.seed}-{index}"

    def _generator(self, index: int) -> np.random.Generator:
        """The random generator for a row's questions; its scene has another one."""
        task = int.from_bytes(hashlib.sha256(self.task.encode()).digest()[:4], "big")
        entropy = [self.seed, SPLITS.index(self.split), index, task, int(self.evaluation)]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def iter_rows(task: str, rows: int, seed: int, **options: Any) -> Iterator[dict[str, Any]]:
    """Make rows of synthetic scenes, one after the other.

    Args:
        task (`str`): "detection", "rec", "grounding", "region-caption", "grounded-caption" or "chat".
        rows (`int`): how many.
        seed (`int`): a non-negative number.
        **options: `split`, `questions`, `evaluation`, `image_size`, `max_regions`, `position_share`,
            `wording` of [`ShapesOptions`].

    Returns:
        `Iterator[dict]`: rows in the columns of `columns.py`, boxes `xyxy` in absolute pixels.

    Raises:
        ValueError: an argument is out of range.

    Example:
    >>> [row["source"] for row in iter_rows("detection", 3, seed=0)]
    ['coco', 'sa1b', 'coco']
    """
    chosen = ShapesOptions(task, seed, **options)
    return (chosen.row(index) for index in range(_checked_rows(rows)))


def shapes_dataset(task: str, rows: int, seed: int, **options: Any) -> Dataset:
    """A dataset of synthetic scenes in memory.

    Args:
        task (`str`), rows (`int`), seed (`int`), **options: see [`iter_rows`].

    Returns:
        `datasets.Dataset`: detection, conversation or evaluation columns, with masks.

    Raises:
        ValueError: an argument is out of range.

    Example:
    >>> dataset = shapes_dataset("grounding", 2, seed=0, evaluation=True)
    >>> len(dataset), dataset[0]["image"].size
    (2, (224, 224))
    """
    made = list(iter_rows(task, rows, seed, **options))
    return Dataset.from_list(made, features=features_of(made[0], ShapesOptions(task, seed, **options).schema))


def write_shapes(
    options: ShapesOptions,
    rows: int,
    output_dir: str | os.PathLike,
    num_shards: int = 1,
    overwrite: bool = False,
) -> WriteReport:
    """Write a dataset of synthetic scenes as Parquet files; an interrupted job resumes.

    Args:
        options (`ShapesOptions`): which rows.
        rows (`int`): how many.
        output_dir (`str` or `Path`): folder of the files. Splits may share one.
        num_shards (`int`): number of files.
        overwrite (`bool`): replace the files of this split.

    Returns:
        `WriteReport`: what was written.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: the folder holds other rows of this split.
    """
    _checked_rows(rows)
    named = asdict(options)
    # Folders from before there was a choice have Groma's words.
    if options.wording == "groma":
        del named["wording"]
    return write_dataset(
        range(rows),
        lambda index: [options.row(index)],
        schema=options.schema,
        output_dir=output_dir,
        split=options.split,
        num_shards=num_shards,
        overwrite=overwrite,
        options={**named_as_options({**named, "rows": rows}), "version of shapes": ROWS_VERSION},
    )


class _BoxList:
    """The boxes that a row's messages name, in the order in which they are first named."""

    def __init__(self, boxes_xyxy: Sequence[list[float]]) -> None:
        self.boxes_xyxy = boxes_xyxy
        self.numbers: dict[int, int] = {}

    def parts(self, content: Content) -> list[dict[str, Any]]:
        """A text as message parts."""
        parts = []
        for part in content:
            match part:
                case Region(index):
                    parts.append(region_part(self._number(index)))
                case Phrase(text, indices):
                    parts.append(phrase_part(text, [self._number(index) for index in indices]))
                case _:
                    parts.append(text_part(part))
        return parts

    @property
    def used(self) -> list[list[float]]:
        return [self.boxes_xyxy[index] for index in self.numbers]

    def _number(self, index: int) -> int:
        return self.numbers.setdefault(index, len(self.numbers))


def _jpeg(scene: Scene) -> dict[str, Any]:
    buffer = io.BytesIO()
    # No chroma subsampling: thin stripes would lose their colour.
    scene.draw().save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return {"bytes": buffer.getvalue(), "path": None}


def _checked_rows(rows: int) -> int:
    if not isinstance(rows, int) or rows < 1:
        raise ValueError(f"`rows` must be an integer of at least 1, got {rows!r}.")
    return rows


__all__ = ["TASKS", "ShapesOptions", "iter_rows", "shapes_dataset", "write_shapes"]
