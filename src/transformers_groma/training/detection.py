"""Stage 1, detection: the region proposer learns to find regions (paper section 3.4).

    groma train detection --config hub_configs/recipes/detection.yaml --output_dir output/detection

Options after the YAML file override its values. On several processes or machines:

    accelerate launch -m transformers_groma.training.detection --config …

`groma convert` makes a detector to start from, with a pretrained vision encoder and a fresh proposer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoImageProcessor, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from ..data.columns import check_row
from ..data.mixtures import MixturePart, load_parts
from ..models.groma.configuration_groma import GromaRegionProposalConfig
from ..models.groma.image_processing_groma import GromaImageProcessor
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import DatasetArguments, load_datasets, loading, parse_arguments, refuse_hub_token
from .augmentation import Augmentation
from .data_check import check_training_rows
from .detection_data import DetectionCollator, DetectionDataset

# `training_args.bin` of older checkpoints looks for `DetectionTrainingArguments` in this module.
from .detection_trainer import DetectionTrainingArguments, GromaDetectionTrainer
from .model_card import data_details, public_name
from .outputs import alone_in_its_output, last_checkpoint


@dataclass
class DetectionArguments(DatasetArguments):
    """Model and data of stage 1.

    Args:
        model_name_or_path (`str`, *optional*): a `GromaForRegionProposal`, or a whole Groma whose detector is taken.
        config_name (`str`, *optional*): a configuration instead; the model starts from random weights.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub name of a detector or a complete Groma."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Alternatively, a configuration: start from random weights."}
    )


@alone_in_its_output
def train(script_args: DetectionArguments, training_args: DetectionTrainingArguments) -> GromaDetectionTrainer:
    """Run stage 1 with given arguments.

    Args:
        script_args (`DetectionArguments`): model and data.
        training_args (`DetectionTrainingArguments`): the recipe.

    Returns:
        `GromaDetectionTrainer`: after training, with the model saved.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    refuse_hub_token(training_args)
    ################
    # Model & Image processor
    ################
    model, image_processor = load_detector(script_args, training_args)

    ################
    # Dataset
    ################
    train_dataset, eval_dataset = load_datasets(script_args, "detection")
    check_detection_data(script_args, training_args, image_processor)

    ################
    # Training
    ################
    trainer = GromaDetectionTrainer(
        model=model,
        args=training_args,
        image_processor=image_processor,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )
    trainer.card_details = card_details(script_args, training_args, train_dataset)
    trainer.train(
        resume_from_checkpoint=last_checkpoint(training_args.output_dir, training_args.resume_from_checkpoint)
    )
    if eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)

    # Save and push to Hub
    trainer.save_and_push()
    return trainer


def load_detector(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments
) -> tuple[GromaForRegionProposal, BaseImageProcessor]:
    """Load the detector to train, or make one with random weights.

    Args:
        arguments (`DetectionArguments`): names a model or a configuration.
        training_args (`DetectionTrainingArguments`): seed of random weights, and whether the vision encoder learns.

    Returns:
        `tuple[GromaForRegionProposal, BaseImageProcessor]`: in float32.

    Raises:
        ValueError: neither a model nor a configuration or both, or a random vision encoder that would not learn.
    """
    if (arguments.model_name_or_path is None) == (arguments.config_name is None):
        raise ValueError(
            "Give one of `model_name_or_path` (a detector or a whole Groma) and `config_name` (random weights)."
        )
    if arguments.config_name is None:
        with loading("model_name_or_path", arguments.model_name_or_path):
            model = GromaForRegionProposal.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
            return model, AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    if training_args.freeze_vision_tower:
        raise ValueError(
            "`config_name` starts from random weights, which a frozen vision encoder would keep. Set "
            "`freeze_vision_tower` to false, or give a `model_name_or_path` with a pretrained one."
        )
    set_seed(training_args.seed)
    with loading("config_name", arguments.config_name):
        config = GromaRegionProposalConfig.from_pretrained(arguments.config_name)
    size = config.vision_config.image_size
    return GromaForRegionProposal(config), GromaImageProcessor(size={"height": size, "width": size})


def check_detection_data(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments, image_processor: BaseImageProcessor
) -> None:
    """With `--check_data`, put every row of the datasets through the whole data path.

    Args:
        arguments (`DetectionArguments`): names the datasets.
        training_args (`DetectionTrainingArguments`): the augmentation and its seed.
        image_processor (`BaseImageProcessor`): the model's.

    Raises:
        ValueError: some rows would stop training.
    """
    if not arguments.check_data:
        return
    collator = DetectionCollator(image_processor)

    def check(augmentation: Augmentation, part: MixturePart, index: int, row: Mapping[str, Any]) -> None:
        check_row(row, "detection")
        collator([DetectionDataset(part.dataset, image_processor, augmentation, training_args.seed)[index]])

    parts = load_parts(arguments.train_datasets, "detection", arguments.mixture_seed)
    check_training_rows(parts, partial(check, training_args.augmentation))
    if arguments.eval_datasets:
        parts = load_parts(arguments.eval_datasets, "detection", arguments.mixture_seed, "validation")
        check_training_rows(parts, partial(check, "none"), arguments.max_eval_rows)


def card_details(
    arguments: DetectionArguments, training_args: DetectionTrainingArguments, train: Dataset
) -> dict[str, Any]:
    """Details for the model card that the trainer does not know.

    Args:
        arguments (`DetectionArguments`): names the first weights and the datasets.
        training_args (`DetectionTrainingArguments`): the recipe.
        train (`Dataset`): the rows of the datasets.

    Returns:
        `dict`: see `write_model_card`. Of local folders only the last name is kept.
    """
    recipe: dict[str, Any] = {"augmentation": training_args.augmentation}
    if arguments.config_name is not None:
        recipe["configuration, random weights"] = public_name(arguments.config_name)
    if not training_args.freeze_vision_tower:
        recipe["learning rate of the vision encoder"] = training_args.learning_rate * training_args.vision_lr_scale
    recipe["learning rate of sampling offsets"] = training_args.learning_rate * training_args.offset_lr_scale
    return {
        "base_model": arguments.model_name_or_path,
        **data_details(arguments.train_datasets, train),
        "trained_parts": ["region_proposer", *([] if training_args.freeze_vision_tower else ["vision_tower"])],
        "recipe": recipe,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 1 from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        ValueError: wrong arguments or data, before training starts.
    """
    script_args, training_args = parse_arguments(
        (DetectionArguments, DetectionTrainingArguments), argv, "groma train detection", __doc__.splitlines()[0]
    )
    train(script_args, training_args)


__all__ = [
    "DetectionArguments",
    "DetectionTrainingArguments",
    "check_detection_data",
    "load_detector",
    "main",
    "train",
]


if __name__ == "__main__":
    main()
