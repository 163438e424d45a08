"""Masks: a promptable mask decoder learns on the features of a frozen model, a whole Groma or a detector.

    groma train masks --config hub_configs/recipes/masks.yaml --model_name_or_path org/groma --output_dir output/masks

Options after the YAML file override its values. On several processes or machines:

    accelerate launch -m transformers_groma.training.masks --config …

The rows have the detection or the conversation columns, with `masks`. What is saved is the whole model, all other
weights as they were.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, set_seed
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging

from .._words import counted
from ..data.columns import check_row
from ..data.mixtures import MixturePart
from ..models.configuration_mask_decoder import MaskDecoderConfig
from ..models.groma.configuration_groma import GromaConfig, GromaMaskDecoderConfig, GromaRegionProposalConfig
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import DatasetArguments, loading, parse_arguments, refuse_hub_token
from .augmentation import Augmentation
from .data_check import check_training_rows
from .mask_data import MaskCollator, MaskDataset
from .mask_datasets import load_mask_datasets, load_mask_parts, schema_of
from .mask_trainer import GromaMaskTrainer, MaskTrainingArguments
from .model_card import data_details
from .outputs import alone_in_its_output, last_checkpoint

logger = logging.get_logger(__name__)

# The settings of its own that distinguish trainings.
RECIPE = (
    *("augmentation", "prompts_per_image", "token_share", "refinement_rounds", "refinement_share"),
    *("small_object_bias", "best_share"),
)
MODELS = {
    GromaConfig.model_type: GromaForConditionalGeneration,
    GromaRegionProposalConfig.model_type: GromaForRegionProposal,
}


@dataclass
class MaskArguments(DatasetArguments):
    """Model and data of the mask decoder.

    Args:
        model_name_or_path (`str`): a whole Groma or a `GromaForRegionProposal`, with or without a mask decoder.
        mask_decoder_config (`dict`, *optional*): settings of a fresh mask decoder, see `GromaMaskDecoderConfig`, for a
            model without one; the defaults if it is left out. On a command line it is JSON.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a complete Groma or a detector."}
    )
    mask_decoder_config: dict | str | None = field(
        default=None, metadata={"help": "Settings of a fresh mask decoder (JSON), for a model without one."}
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.mask_decoder_config, str):
            try:
                self.mask_decoder_config = json.loads(self.mask_decoder_config)
            except ValueError as error:
                raise ValueError(
                    f"`mask_decoder_config` is not JSON ({error}): {self.mask_decoder_config!r}. Write it as "
                    '\'{"hidden_size": 64, "num_attention_heads": 4}\', or into the YAML file.'
                ) from error
        if not isinstance(self.mask_decoder_config, dict | None):
            raise ValueError(
                f"`mask_decoder_config` must be settings by name, got {self.mask_decoder_config!r}. Write it as "
                '\'{"hidden_size": 64, "num_attention_heads": 4}\', or into the YAML file.'
            )


@alone_in_its_output
def train(script_args: MaskArguments, training_args: MaskTrainingArguments) -> GromaMaskTrainer:
    """Train a mask decoder with given arguments.

    Args:
        script_args (`MaskArguments`): model and data.
        training_args (`MaskTrainingArguments`): the recipe.

    Returns:
        `GromaMaskTrainer`: after training, with the whole model saved.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    refuse_hub_token(training_args)
    ################
    # Model & Processor
    ################
    model, processor = load_model(script_args, training_args.seed)

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_mask_datasets(script_args)

    ################
    # Training
    ################
    trainer = GromaMaskTrainer(
        model=model,
        args=training_args,
        processor=processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )
    check_mask_data(script_args, trainer)
    trainer.card_details = card_details(script_args, trainer, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )
    if eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


def load_model(
    arguments: MaskArguments, seed: int
) -> tuple[GromaForConditionalGeneration | GromaForRegionProposal, ProcessorMixin | BaseImageProcessor]:
    """Load the model whose mask decoder is to be trained; a model without one gets a fresh one.

    Args:
        arguments (`MaskArguments`): names the model.
        seed (`int`): seed of a fresh decoder's weights.

    Returns:
        The model, each part in the dtype in which it was saved, and its processor (of a detector, the image
        processor).

    Raises:
        ValueError: no model, one of another kind, or settings of a decoder that are not those of the model's.
    """
    name = arguments.model_name_or_path
    if name is None:
        raise ValueError(
            "Give `model_name_or_path`: a complete Groma or a detector, whose features masks are made of."
        )
    with loading("model_name_or_path", name):
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in MODELS:
            raise ValueError(f"It is a {config.model_type!r} model; a complete Groma or a detector is needed.")
        kind = AutoProcessor if config.model_type == GromaConfig.model_type else AutoImageProcessor
        processor = kind.from_pretrained(name)
    is_fresh = config.mask_decoder_config is None
    if is_fresh:
        config.mask_decoder_config = _fresh_settings(arguments.mask_decoder_config or {})
    else:
        _check_settings(config.mask_decoder_config, arguments.mask_decoder_config or {})
    set_seed(seed)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list all weights of a fresh decoder as missing; see below
    try:
        with loading("model_name_or_path", name):
            model, info = MODELS[config.model_type].from_pretrained(
                name, config=config, dtype="auto", output_loading_info=True
            )
    finally:
        logging.set_verbosity(verbosity)
    _check_weights(name, info, is_fresh)
    if is_fresh:
        logger.warning(f"{name} has no mask decoder: a fresh one is trained, from seed {seed}.")
    return model, processor


def _check_weights(name: str, info: Mapping[str, Any], is_fresh: bool) -> None:
    """Check that all weights were in the files but those of a fresh decoder: what is missing would be random."""
    missing = sorted(
        weight for weight in info["missing_keys"] if not (is_fresh and "mask_decoder" in weight.split("."))
    )
    if missing:
        raise ValueError(
            f"--model_name_or_path {name!r} lacks {counted(len(missing), 'weight')}, such as {missing[0]}. Name a "
            "complete model; to train a fresh mask decoder, one whose config.json has no `mask_decoder_config`."
        )
    if unexpected := sorted(info["unexpected_keys"]):
        logger.warning(
            f"{name} has {counted(len(unexpected), 'weight')} that the model does not know, such as {unexpected[0]}: "
            "they are not in what is saved."
        )


def _fresh_settings(given: Mapping[str, Any]) -> GromaMaskDecoderConfig:
    """The settings of a fresh decoder. Unknown names are refused, which the library would keep silently."""
    known = {**MaskDecoderConfig.__annotations__, **GromaMaskDecoderConfig.__annotations__}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"`mask_decoder_config` has no setting {unknown[0]!r}. It has {', '.join(sorted(known))}.")
    try:
        return GromaMaskDecoderConfig(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`mask_decoder_config`: {error}") from error


def _check_settings(config: GromaMaskDecoderConfig, given: Mapping[str, Any]) -> None:
    """Check that settings for a fresh decoder, where they are given, are those of the decoder that is there."""
    for name, value in given.items():
        present = getattr(config, name, None)
        if present != value:
            raise ValueError(
                f"The model has a mask decoder whose `{name}` is {present!r}, but `mask_decoder_config` says "
                f"{value!r}. Leave `mask_decoder_config` out to train that decoder on, or name a model without one."
            )


def check_mask_data(arguments: MaskArguments, trainer: GromaMaskTrainer) -> None:
    """With `--check_data`, put every row of the datasets through the whole data path.

    Args:
        arguments (`MaskArguments`): names the datasets.
        trainer (`GromaMaskTrainer`): has the image processor, the plan of prompts, the augmentation and its seed.

    Raises:
        ValueError: some rows would stop training.
    """
    if not arguments.check_data:
        return
    collator = MaskCollator(trainer.image_processor)

    def check(augmentation: Augmentation, part: MixturePart, index: int, row: Mapping[str, Any]) -> None:
        check_row(row, schema_of(part.dataset))
        if any(rle is not None for rle in row.get("masks") or ()):  # the others are left out
            dataset = MaskDataset(part.dataset, trainer.image_processor, trainer.plan, augmentation, trainer.data_seed)
            collator([dataset[index]])

    parts = load_mask_parts(arguments.train_datasets, arguments.mixture_seed)
    check_training_rows(parts, partial(check, trainer.args.augmentation))
    if arguments.eval_datasets:
        parts = load_mask_parts(arguments.eval_datasets, arguments.mixture_seed, "validation")
        check_training_rows(parts, partial(check, "none"), arguments.max_eval_rows)


def card_details(arguments: MaskArguments, trainer: GromaMaskTrainer, train: Dataset) -> dict[str, Any]:
    """Details for the model card that the trainer does not know.

    Args:
        arguments (`MaskArguments`): names the first weights and the datasets.
        trainer (`GromaMaskTrainer`): has the recipe.
        train (`Dataset`): the rows of the datasets.

    Returns:
        `dict`: see `write_model_card`. Of local folders only the last name is kept.
    """
    args = trainer.args
    recipe = {name.replace("_", " "): getattr(args, name) for name in RECIPE}
    recipe["weights of BCE, DICE and quality"] = f"{args.bce_weight:g}, {args.dice_weight:g}, {args.quality_weight:g}"
    recipe["weights of the mask decoder"] = sum(weight.numel() for weight in trainer.model.mask_decoder.parameters())
    return {
        "base_model": arguments.model_name_or_path,
        **data_details(arguments.train_datasets, train),
        "trained_parts": ["mask_decoder"],
        "has_masks": True,
        "recipe": recipe,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train a mask decoder from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    script_args, training_args = parse_arguments(
        (MaskArguments, MaskTrainingArguments), argv, "groma train masks", __doc__.splitlines()[0]
    )
    train(script_args, training_args)


__all__ = ["MaskArguments", "MaskTrainingArguments", "check_mask_data", "load_model", "main", "train"]


if __name__ == "__main__":
    main()
