"""The model card of a training: what it was trained on, how, and what came out."""

from enum import Enum
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .._files import write_file

CARD = """\
{metadata}

# {name}

A [Groma](https://arxiv.org/abs/2404.13013) model: it reads an image, answers in words, and ties phrases to boxes.
{start}

## Data

{data}

## Recipe

{recipe}

## Metrics

{metrics}

## Use

```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image
from transformers import pipeline

pipe = pipeline("image-grounding", model="{use}")
answer = pipe(Image.open("photo.jpg"), "[grounding]Please describe the image in detail.")
```

Boxes are `[x1, y1, x2, y2]` in pixels of the image.

Trained with [transformers-groma](https://github.com/transformers-groma/transformers-groma).
"""

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


def write_model_card(folder: Path, trainer: Any) -> None:
    """Write `README.md` beside the weights of a training.

    Args:
        folder (`Path`): output folder of the training.
        trainer (`Trainer`): after, or during, its training. Its `card_details` (`dict`, may be empty) tells what it cannot know:
            `base_model` (`str`), `datasets` (names with numbers of rows), `hub_datasets` (`list[str]`), `trained_parts`
            (`list[str]`) and `recipe` (more rows of its table).
    """
    details = trainer.card_details
    arguments, state = trainer.args, trainer.state
    base_model = details.get("base_model")
    # A local folder is no name on the Hub, and nobody else's business.
    is_hub_name = base_model is not None and not Path(base_model).exists()
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["groma", "visual-grounding", "generated_from_trainer"],
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
        start = f"Training started from `{base_model if is_hub_name else Path(base_model).resolve().name}`."
    text = CARD.format(
        metadata=f"---\n{metadata.to_yaml()}\n---",
        name=name,
        start=start,
        data=_table(("dataset", "rows"), [(f"`{path}`", rows) for path, rows in details["datasets"]])
        if details.get("datasets")
        else "Not told.",
        recipe=_table(("setting", "value"), recipe),
        metrics=_table(("figure", "value"), [(key, f"{value:.4g}") for key, value in sorted(figures.items())])
        if figures
        else "None were measured yet.",
        use=arguments.hub_model_id or name,
    )
    ModelCard(text)  # checks the metadata
    write_file(folder / "README.md", text.encode())


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _table(head: tuple[str, str], rows: list[tuple[Any, Any]]) -> str:
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


__all__ = ["write_model_card"]
