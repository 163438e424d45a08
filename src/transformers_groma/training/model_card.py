"""The model card of a training run: data, recipe, results, and how to use the model."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from datasets import Dataset

from .._files import write_file
from ..data.mixtures import parse_weighted_spec
from ..model_cards import ModelKind, fill_model_card

# The settings that distinguish trainings; the others are bookkeeping.
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
# Metrics of the run that say nothing about the model.
SPEED = ("_runtime", "_per_second")


def data_details(specs: Sequence[str], train: Dataset) -> dict[str, Any]:
    """What the card says about the data.

    Args:
        specs (`Sequence[str]`): the datasets of the mixture, `PATH[@SPLIT][:RATIO]`, or with a weight in its place.
        train (`Dataset`): their rows, with the column `source`.

    Returns:
        `dict`: `datasets` (names, and numbers of rows where they are known; of local folders only the last name is
            kept) and `hub_datasets`.
    """
    sources = train.select_columns("source").to_pandas()["source"].value_counts().to_dict()
    paths = [parse_weighted_spec(spec).path for spec in specs]
    shown = [public_name(path) + spec[len(path) :] for path, spec in zip(paths, specs, strict=True)]
    return {
        "datasets": [*((name, "") for name in shown), *((f"source {name}", rows) for name, rows in sources.items())],
        "hub_datasets": sorted({path for path in paths if not Path(path).exists()}),
    }


def public_name(path: str) -> str:
    """The name of a model or dataset, if it may be published.

    Args:
        path (`str`): a Hub name, or a local folder or file.

    Returns:
        `str`: a Hub name as it is; of a local path only the last name.

    Example:
    >>> public_name("org/model"), public_name("hub_configs/groma-tiny")
    ('org/model', 'groma-tiny')
    """
    return Path(path).resolve().name if Path(path).exists() else path


def write_model_card(
    folder: Path,
    trainer: Any,
    kind: ModelKind = "chat",
    name: str | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
) -> None:
    """Write `README.md` beside the trained weights.

    Args:
        folder (`Path`): output folder of the training.
        trainer (`Trainer`): during or after its training. Its `card_details` (`dict`, may be empty) say what it
            cannot know: `base_model` (`str`), `datasets` (names with numbers of rows), `hub_datasets` (`list[str]`),
            `trained_parts` (`list[str]`), `recipe` (more rows of its table) and `has_masks` (`bool`: whether the model
            has a mask decoder to show).
        kind (`str`): `"chat"` for a whole Groma, `"detector"` for a detector, `"glamm"` for a GLaMM; the card shows
            how to use it.
        name (`str`, *optional*): the heading; by default the name on the Hub, or that of the output folder.
        tags (`Sequence[str]`): beside those of the family.
        license (`str`, *optional*): of the weights; Apache-2.0 by default.
    """
    details, arguments, state = trainer.card_details, trainer.args, trainer.state
    base_model = details.get("base_model")
    # A local folder is not a name on the Hub, and its path stays private.
    is_on_hub = base_model is not None and not Path(base_model).exists()
    place = Path(arguments.hub_model_id or arguments.output_dir).resolve().name
    recipe = [("steps so far", state.global_step)]
    if "trained_parts" in details:
        recipe.insert(0, ("trained parts", ", ".join(details["trained_parts"])))
    recipe += details.get("recipe", {}).items()
    recipe += [(key.replace("_", " "), _plain(getattr(arguments, key))) for key in RECIPE]
    card = fill_model_card(
        kind,
        name or place,
        model=arguments.hub_model_id or place,
        license=license or "apache-2.0",
        tags=["generated_from_trainer", *tags],
        base_model=base_model if is_on_hub else None,
        start=None if base_model is None else public_name(base_model),
        datasets=details.get("datasets"),
        hub_datasets=details.get("hub_datasets"),
        recipe=recipe,
        metrics=_last_metrics(state.log_history),
        has_masks=details.get("has_masks", False),
        is_adapter=(folder / "adapter_config.json").is_file(),
        made_with="Trained",
    )
    write_file(folder / "README.md", card.encode())


def _last_metrics(log_history: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """The last value of each informative metric, by name."""
    last: dict[str, float] = {}
    for entry in log_history:
        last.update({key: value for key, value in entry.items() if isinstance(value, (int, float))})
    return sorted(
        (key, value)
        for key, value in last.items()
        if key in ("loss", "train_loss") or (key.startswith("eval_") and not key.endswith(SPEED))
    )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


__all__ = ["ModelKind", "data_details", "public_name", "write_model_card"]
