"""GLaMM: a model that answers with masks learns from conversations, in full or with LoRA, on TRL's trainer.

    groma train glamm --config hub_configs/recipes/glamm/gcg.yaml --model_name_or_path MODEL --output_dir output/gcg

Options after the YAML file override its values; `--use_peft false` trains the language model in full. On several
processes or machines:

    accelerate launch --config_file hub_configs/accelerate/fsdp2_glamm.yaml -m transformers_groma.training.glamm \\
        --config …
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig
from trl import ModelConfig, SFTConfig

from .._words import counted
from ..data.columns import check_row
from ..data.mixtures import MixturePart, load_parts
from ..models.glamm.configuration_glamm import GlammConfig
from ..models.glamm.modeling_glamm import GlammForConditionalGeneration
from ..models.glamm.processing_glamm import GlammProcessor
from .arguments import DataArguments, as_list, load_evaluation, loading, parse_arguments, refuse_hub_token
from .data_check import ConversationCheck, check_training_rows
from .glamm_collator import GlammCollator
from .glamm_data import (
    CAPTION,
    DATASET_TYPES,
    REGION,
    SEGMENTATION,
    TYPE_SHARES,
    QuestionLimits,
    joined,
    limited_messages,
    load_typed_parts,
)
from .glamm_parts import ALL_PARTS, DEFAULT_PARTS, check_glamm_parts, glamm_lora, train_glamm_parts
from .glamm_trainer import GlammTrainer
from .mask_targets import mask_targets
from .model_card import data_details
from .outputs import alone_in_its_output, checkpoint_to_resume
from .sft import GromaSFTConfig, adapter_recipe, language_model_quantization, refuse_max_length

_DATASETS_HELP = "PATH[@SPLIT][:WEIGHT] for each {} dataset; weights are among datasets of this type."
_SHARE_HELP = "How often a step has {} rows, beside the shares of the other types that have datasets."


@dataclass
class GlammArguments(DataArguments):
    """Data and trainable parts of a GLaMM's training.

    Args:
        caption_datasets, region_datasets, segmentation_datasets (`list[str]`): `PATH[@SPLIT][:WEIGHT]` for each
            dataset of a type: a folder with Parquet files, a Parquet file or a Hub name; its split; and how often its
            rows are drawn beside those of other datasets of the type, 1 by default. The rows of a step are of one
            type.
        caption_share, region_share, segmentation_share (`float`): how often a step has rows of each type. Types
            without datasets do not count.
        max_questions (`int`, *optional*): of a row whose answers have masks, at most this many questions are learned
            at a time, a random choice.
        max_regions (`int`, *optional*): questions that point at more regions than this are left out, a random choice.
        trainable_parts (`list[str]`): the parts that learn, see `training/glamm_parts.py`.
        max_tokens (`int`, *optional*): longer conversations lose their last turns.
        eval_datasets, mixture_seed, check_data, max_eval_rows: see `DataArguments`.
    """

    caption_datasets: list[str] = field(default_factory=list, metadata={"help": _DATASETS_HELP.format(CAPTION)})
    region_datasets: list[str] = field(default_factory=list, metadata={"help": _DATASETS_HELP.format(REGION)})
    segmentation_datasets: list[str] = field(
        default_factory=list, metadata={"help": _DATASETS_HELP.format(SEGMENTATION)}
    )
    caption_share: float = field(default=TYPE_SHARES[CAPTION], metadata={"help": _SHARE_HELP.format(CAPTION)})
    region_share: float = field(default=TYPE_SHARES[REGION], metadata={"help": _SHARE_HELP.format(REGION)})
    segmentation_share: float = field(
        default=TYPE_SHARES[SEGMENTATION], metadata={"help": _SHARE_HELP.format(SEGMENTATION)}
    )
    max_questions: int | None = field(
        default=3, metadata={"help": "Questions of a row with masks that are learned at a time, a random choice."}
    )
    max_regions: int | None = field(
        default=10, metadata={"help": "Regions of a row that its questions may point at, a random choice."}
    )
    trainable_parts: list[str] = field(
        default_factory=lambda: list(DEFAULT_PARTS),
        metadata={"help": f"Some of {', '.join(ALL_PARTS)}."},
    )
    max_tokens: int | None = field(default=2048, metadata={"help": "Longer conversations lose their last turns."})

    def __post_init__(self):
        super().__post_init__()
        for name in DATASET_TYPES:
            setattr(self, f"{name}_datasets", as_list(getattr(self, f"{name}_datasets")))
            share = getattr(self, f"{name}_share")
            if not 0 < share < float("inf"):
                raise ValueError(
                    f"`{name}_share` must be above 0, got {share:g}. To leave {name} rows out, name no "
                    f"`{name}_datasets`."
                )
        self.trainable_parts = as_list(self.trainable_parts) or list(DEFAULT_PARTS)
        check_glamm_parts(self.trainable_parts)
        for name in ("max_questions", "max_regions"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")

    @property
    def specs(self) -> dict[str, list[str]]:
        """The datasets of each type."""
        return {name: getattr(self, f"{name}_datasets") for name in DATASET_TYPES}

    @property
    def limits(self) -> QuestionLimits:
        """How much of a conversation is learned at a time."""
        return QuestionLimits(self.max_questions, self.max_regions)


@dataclass
class GlammModelConfig(ModelConfig):
    """TRL's arguments about the model, with the LoRA of the released models by default."""

    use_peft: bool = field(
        default=True, metadata={"help": "LoRA in the language model; false trains it in full (slow and large)."}
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA R value."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha."})


@alone_in_its_output
def train(script_args: GlammArguments, training_args: SFTConfig, model_args: ModelConfig) -> GlammTrainer:
    """Train a GLaMM with given arguments.

    Args:
        script_args (`GlammArguments`): data and trainable parts.
        training_args (`SFTConfig`): all that `SFTTrainer` takes.
        model_args (`ModelConfig`): model, LoRA, quantization.

    Returns:
        `GlammTrainer`: after training, with the model (or its adapter) saved.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    refuse_hub_token(training_args)
    refuse_max_length(training_args)

    ################
    # Model & Processor
    ################
    model, processor = load_model(model_args, training_args.device)
    peft_config = glamm_lora(model_args, script_args.trainable_parts, model)
    train_glamm_parts(model, [] if peft_config is not None else script_args.trainable_parts)

    ################
    # Dataset
    ################
    parts, mixture = load_typed_parts(script_args.specs, script_args.mixture_seed)
    train_dataset, eval_dataset = joined(parts), load_evaluation(script_args, "conversation")
    collator = GlammCollator(processor, script_args.max_tokens, training_args.pad_to_multiple_of)
    check_conversations(script_args, parts, model, collator)

    ################
    # Training
    ################
    trainer = GlammTrainer(
        model=model,
        args=training_args,
        mixture=mixture,
        type_shares={name: getattr(script_args, f"{name}_share") for name in DATASET_TYPES},
        limits=script_args.limits,
        data_collator=collator,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        peft_config=peft_config,
    )
    recipe = adapter_recipe(peft_config, model_args)
    trainer.card_details = card_details(script_args, model_args, train_dataset, recipe)
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(trainer))

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


def load_model(model_args: ModelConfig, device: torch.device) -> tuple[GlammForConditionalGeneration, GlammProcessor]:
    """Load the model and its processor.

    Args:
        model_args (`ModelConfig`): names the model, its dtype and quantization.
        device (`torch.device`): where quantized weights go.

    Returns:
        `tuple[GlammForConditionalGeneration, GlammProcessor]`: nothing is frozen yet.

    Raises:
        ValueError: no model is named, or one of another kind or without all its weights.
    """
    path = model_args.model_name_or_path
    if not path:
        raise ValueError("`model_name_or_path` is missing: give the folder or the Hub name of a GLaMM model.")
    quantization_config = language_model_quantization(model_args, GlammForConditionalGeneration.visual_parts)
    with loading("model_name_or_path", path):
        config = AutoConfig.from_pretrained(path, revision=model_args.model_revision)
        if config.model_type != GlammConfig.model_type:
            raise ValueError(f"It is a {config.model_type!r} model; a GLaMM is needed.")
        processor = GlammProcessor.from_pretrained(path, revision=model_args.model_revision)
        model, info = GlammForConditionalGeneration.from_pretrained(
            path,
            dtype=model_args.dtype,
            revision=model_args.model_revision,
            attn_implementation=model_args.attn_implementation,
            quantization_config=quantization_config,
            device_map=None if quantization_config is None else {"": device},
            output_loading_info=True,
        )
        # What is missing would be random.
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"It lacks {counted(len(missing), 'weight')}, such as {missing[0]}. Name a complete model."
            )
    return model, processor


def check_conversations(
    arguments: GlammArguments,
    parts: Sequence[MixturePart],
    model: GlammForConditionalGeneration,
    collator: GlammCollator,
) -> None:
    """With `--check_data`, put every row of the datasets through the whole data path.

    Args:
        arguments (`GlammArguments`): names the datasets.
        parts (`Sequence[MixturePart]`): the datasets to train on.
        model (`GlammForConditionalGeneration`): the model to train.
        collator (`GlammCollator`): the one that training uses.

    Raises:
        ValueError: some rows would stop training.
    """
    if not arguments.check_data:
        return
    check = ConversationCheck(collator, getattr(model.config.text_config, "max_position_embeddings", None))

    def check_choice(part: MixturePart, index: int, row: Mapping[str, Any]) -> None:
        check_row(row, "conversation")
        mask_targets(row)  # of all questions
        messages = limited_messages(row["messages"], arguments.limits, np.random.default_rng(index))
        check(part, index, {**row, "messages": messages})

    check_training_rows(parts, check_choice)
    check.say()
    if arguments.eval_datasets:
        parts = load_parts(arguments.eval_datasets, "conversation", arguments.mixture_seed, "validation")
        check_training_rows(parts, check_choice, arguments.max_eval_rows)


def card_details(
    arguments: GlammArguments, model_args: ModelConfig, train: Dataset, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Details for the model card that the trainer does not know.

    Args:
        arguments (`GlammArguments`): datasets, shares and trainable parts.
        model_args (`ModelConfig`): names the model that training starts from.
        train (`Dataset`): the rows of the datasets.
        recipe (`Mapping[str, Any]`): more rows for the table of settings.

    Returns:
        `dict`: see `write_model_card`. Of local folders only the last name is kept.
    """
    specs = arguments.specs
    used = [name for name in DATASET_TYPES if specs[name]]
    shares = ", ".join(f"{name} {getattr(arguments, f'{name}_share'):g}" for name in used)
    return {
        "base_model": model_args.model_name_or_path,
        **data_details([spec for name in used for spec in specs[name]], train),
        "trained_parts": arguments.trainable_parts,
        "has_masks": True,
        "recipe": {
            "shares of steps": shares,
            "questions of a row": arguments.max_questions,
            "regions of a row": arguments.max_regions,
            "max tokens": arguments.max_tokens,
            **recipe,
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train a GLaMM from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    script_args, training_args, model_args = parse_arguments(
        (GlammArguments, GromaSFTConfig, GlammModelConfig), argv, "groma train glamm", __doc__.splitlines()[0]
    )
    train(script_args, training_args, model_args)


if __name__ == "__main__":
    main()
