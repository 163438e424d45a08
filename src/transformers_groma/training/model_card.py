"""The model card of a training: what it was trained on, how, what came out, and how to use it."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData

from .._files import write_file
from ..data.mixtures import parse_dataset_spec
from ..markdown import code_span, escape_markdown, python_string

ModelKind = Literal["chat", "detector"]

CARD = """\
{metadata}

# {name}

{description}
{start}

## Data

{data}

## Recipe

{recipe}

## Metrics

{metrics}

## Use

{use}

Trained with [transformers-groma](https://github.com/transformers-groma/transformers-groma).
"""


class _Markdown(str):
    """Text that is Markdown already."""


class _KindTexts(NamedTuple):
    """What the card says of a kind of model."""

    pipeline_tag: str
    tags: list[str]
    description: str
    use: str


KINDS: dict[ModelKind, _KindTexts] = {
    "chat": _KindTexts(
        pipeline_tag="image-text-to-text",
        tags=["groma", "visual-grounding"],
        description=(
            "A [Groma](https://arxiv.org/abs/2404.13013) model: it reads an image, answers in words, and ties phrases "
            "to boxes."
        ),
        use="""\
```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image
from transformers import pipeline

pipe = pipeline("image-grounding", model={literal})
answer = pipe(Image.open("photo.jpg"), "[grounding]Please describe the image in detail.")
```

Boxes are `[x1, y1, x2, y2]` in pixels of the image.""",
    ),
    "detector": _KindTexts(
        pipeline_tag="object-detection",
        tags=["groma", "region-proposal"],
        description=(
            "The detector of a [Groma](https://arxiv.org/abs/2404.13013) model (training stage 1): it proposes "
            "regions of an image, "
            "things and parts alike, without naming them."
        ),
        use="""\
```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers_groma.boxes import box_cxcywh_to_xyxy, scale_boxes

model = AutoModelForObjectDetection.from_pretrained({literal})
image_processor = AutoImageProcessor.from_pretrained({literal})

image = ImageOps.exif_transpose(Image.open("photo.jpg"))  # upright
proposals = model.propose_regions(image_processor(image, return_tensors="pt")["pixel_values"])
regions = proposals.boxes[0][proposals.mask[0]]  # best first; normalized cxcywh
boxes = scale_boxes(box_cxcywh_to_xyxy(regions), image.height, image.width)
```

Boxes are `[x1, y1, x2, y2]` in pixels of the image. {command} puts this detector into a
whole Groma.""",
    ),
}

# What tells one training from another; the rest of `training_args.bin` is bookkeeping.
RECIPE = (
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "max_grad_norm",
    "optim",
    "seed",
    "bf16",
    "fp16",
)


# Figures of the run that say nothing about the model.
SPEED = ("_runtime", "_per_second")


def data_details(specs: Sequence[str], train: Dataset) -> dict[str, Any]:
    """What the card tells about the data.

    Args:
        specs (`Sequence[str]`): the datasets of the mixture, `PATH[@SPLIT][:RATIO]`.
        train (`Dataset`): what they are, with the column `source`.

    Returns:
        `dict`: `datasets` (names with numbers of rows; of local folders the last name only) and `hub_datasets`.
    """
    sources = train.select_columns("source").to_pandas()["source"].value_counts().to_dict()
    paths = [parse_dataset_spec(spec).path for spec in specs]
    shown = [public_name(path) + spec[len(path) :] for path, spec in zip(paths, specs, strict=True)]
    return {
        "datasets": [*((name, "") for name in shown), *((f"source {name}", rows) for name, rows in sources.items())],
        "hub_datasets": sorted({path for path in paths if not Path(path).exists()}),
    }


def public_name(path: str) -> str:
    """A Hub name as it is; of a local folder or file the last name only."""
    return Path(path).resolve().name if Path(path).exists() else path


def write_model_card(folder: Path, trainer: Any, kind: ModelKind = "chat") -> None:
    """Write `README.md` beside the weights of a training.

    Args:
        folder (`Path`): output folder of the training.
        trainer (`Trainer`): after, or during, its training. Its `card_details` (`dict`, may be empty) tells what it
            cannot know: `base_model` (`str`), `datasets` (names with numbers of rows), `hub_datasets` (`list[str]`),
            `trained_parts` (`list[str]`) and `recipe` (more rows of its table).
        kind (`str`): `"chat"`, a whole Groma, or `"detector"`: says how the model is used.
    """
    texts = KINDS[kind]
    details = trainer.card_details
    arguments, state = trainer.args, trainer.state
    base_model = details.get("base_model")
    # A local folder is no name on the Hub, and nobody else's business.
    is_hub_name = base_model is not None and not Path(base_model).exists()
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag=texts.pipeline_tag,
        tags=[*texts.tags, "generated_from_trainer"],
        base_model=base_model if is_hub_name else None,
        datasets=details.get("hub_datasets") or None,
    )
    last: dict[str, float] = {}
    for entry in state.log_history:
        last.update({key: value for key, value in entry.items() if isinstance(value, (int, float))})
    figures = {
        key: value
        for key, value in last.items()
        if key in ("loss", "train_loss") or (key.startswith("eval_") and not key.endswith(SPEED))
    }
    name = Path(arguments.hub_model_id or arguments.output_dir).resolve().name
    recipe = [("steps so far", state.global_step)]
    if "trained_parts" in details:
        recipe.insert(0, ("trained parts", ", ".join(details["trained_parts"])))
    recipe += [
        *details.get("recipe", {}).items(),
        *((key.replace("_", " "), _plain(getattr(arguments, key))) for key in RECIPE),
    ]
    start = ""
    if base_model is not None:
        start = f"Training started from {code_span(public_name(base_model))}."
    text = CARD.format(
        metadata=f"---\n{metadata.to_yaml()}\n---",
        name=escape_markdown(name),
        description=texts.description,
        start=start,
        data=_table(("dataset", "rows"), [(_Markdown(code_span(path)), rows) for path, rows in details["datasets"]])
        if details.get("datasets")
        else "Not told.",
        recipe=_table(("setting", "value"), recipe),
        metrics=_table(("metric", "value"), [(key, f"{value:.4g}") for key, value in sorted(figures.items())])
        if figures
        else "None were measured yet.",
        use=texts.use.format(
            command=code_span(f"groma train alignment --detector {arguments.hub_model_id or name} …"),
            literal=python_string(arguments.hub_model_id or name),
        ),
    )
    ModelCard(text)  # checks the metadata
    write_file(folder / "README.md", text.encode())


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _table(head: tuple[str, str], rows: list[tuple[Any, Any]]) -> str:
    """A table; its cells are text, unless they are marked as Markdown."""
    cells = [[cell if isinstance(cell, _Markdown) else escape_markdown(cell) for cell in row] for row in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {key} | {value} |" for key, value in cells)])


__all__ = ["ModelKind", "data_details", "public_name", "write_model_card"]
