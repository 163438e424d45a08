"""Exports to Label Studio: `tasks.json`, a prediction for each image, and `config.xml`, the labelling configuration.

Phrases are texts of their regions. Labels are those of a file of labels; without one, "object" is the only label.
"""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from ..label_studio_format import MaskShape, Shape, label_studio_config, label_studio_prediction
from ..labelled_objects import UNLABELLED
from .json_lists import JsonList
from .labels import Labels
from .records import ImageRecord

TASKS, CONFIG = "tasks.json", "config.xml"


def write_label_studio(
    images: Iterable[ImageRecord],
    folder: Path,
    labels: Labels,
    masks: MaskShape | None,
    image_url: str = "",
    captions: bool = False,
    model_version: str = "groma",
) -> None:
    """Write checked images as tasks with predictions.

    Args:
        images (`Iterable[ImageRecord]`): of [`placed_images`][transformers_groma.exports.image_files].
        folder (`Path`): where to.
        labels (`Labels`): a closed set is the labels of the project.
        masks (`str`, *optional*): how masks are written; `None` writes boxes alone.
        image_url (`str`): what Label Studio finds an image by is this, followed by its file name.
        captions (`bool`): whether the first caption of an image is a part of its prediction.
        model_version (`str`): what Label Studio groups predictions by.
    """
    shapes: set[Shape] = set()
    has_captions = False
    with JsonList(folder / TASKS) as tasks:
        for record in images:
            objects = record.objects
            if not labels.is_closed:
                # The words of the source: an open set of phrases would be a list of labels that nobody can pick from.
                objects = [thing._replace(label=UNLABELLED, phrase=thing.phrase or thing.label) for thing in objects]
            for thing in objects:
                shapes.add("rectangle" if masks is None or thing.mask is None else masks)
            caption = record.captions[0] if captions and record.captions else None
            has_captions |= caption is not None
            url = record.source_name if record.is_url else image_url + quote(record.file_name)
            tasks.add(
                {
                    "data": {"image": url, "image_id": record.image_id},
                    "predictions": [
                        label_studio_prediction(
                            objects,
                            record.height,
                            record.width,
                            masks=masks,
                            caption=caption,
                            model_version=model_version,
                        )
                    ],
                }
            )
    names = list(labels.classes) if labels.is_closed else [UNLABELLED]
    config = label_studio_config(names, shapes or ("rectangle",), has_captions)
    (folder / CONFIG).write_text(f"{config}\n", encoding="utf-8")


__all__ = ["CONFIG", "TASKS", "write_label_studio"]
