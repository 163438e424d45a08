"""What the stages that learn from conversations share: arguments, model, data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from ..data.columns import check_dataset
from ..data.mixtures import load_mixture, parse_dataset_spec
from ..modeling_groma import GromaForConditionalGeneration
from ..modeling_groma_detector import GromaForRegionProposal
from ..processing_groma import GromaProcessor, groma_tokens
from .arguments import DatasetArguments
from .trainable import set_trainable_parts


@dataclass
class ConversationArguments(DatasetArguments):
    """Model and data of a stage that learns from conversations.

    Args:
        detector (`str`, *optional*): a stage 1 model whose vision encoder and region proposer replace those of the model.
        trainable_parts (`list[str]`): see `training/trainable.py`; each stage has its own default.
        max_tokens (`int`, *optional*): longer conversations lose their last turns.
    """

    detector: str | None = field(
        default=None, metadata={"help": "A stage 1 model: take its vision encoder and proposer."}
    )
    trainable_parts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "vision_tower, region_encoder, projector, new_tokens, language_model; the stage's own by default."
        },
    )
    max_tokens: int | None = field(default=2048, metadata={"help": "Longer conversations lose their last turns."})


def load_detector_weights(model: GromaForConditionalGeneration, path: str) -> None:
    """Put the vision encoder and the region proposer of a stage 1 model into a whole model.

    Args:
        model (`GromaForConditionalGeneration`): changed in place.
        path (`str`): folder or Hub name of a `GromaForRegionProposal`.

    Raises:
        ValueError: the two have parts of different sizes.
    """
    detector = GromaForRegionProposal.from_pretrained(path, dtype=torch.float32)
    for name in ("vision_tower", "region_proposer"):
        try:
            getattr(model.model, name).load_state_dict(getattr(detector, name).state_dict())
        except RuntimeError as error:
            raise ValueError(f"The {name} of {path} does not fit the model: {error}") from None


def load_model(
    path: str, arguments: ConversationArguments, default_parts: list[str], **kwargs: Any
) -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    """Load model and processor of a stage and freeze what it does not train.

    Args:
        path (`str`): folder or Hub name.
        arguments (`ConversationArguments`): detector and trainable parts. `trainable_parts` is filled in.
        default_parts (`list[str]`): what the stage trains when the arguments name nothing.
        **kwargs: for `from_pretrained`.

    Returns:
        `tuple[GromaForConditionalGeneration, GromaProcessor]`.

    Raises:
        ValueError: no model was named.
    """
    if not path:
        raise ValueError("`model_name_or_path` is missing: give the folder or the Hub name of a Groma model.")
    model = GromaForConditionalGeneration.from_pretrained(path, **kwargs)
    processor = GromaProcessor.from_pretrained(path)
    if arguments.detector is not None:
        load_detector_weights(model, arguments.detector)
    arguments.trainable_parts = arguments.trainable_parts or default_parts
    tokens = groma_tokens(model.config.max_regions)
    set_trainable_parts(model, arguments.trainable_parts, processor.tokenizer.convert_tokens_to_ids(tokens))
    return model, processor


def load_conversations(arguments: DatasetArguments) -> tuple[Dataset, Dataset | None]:
    """The datasets of a stage.

    Args:
        arguments (`DatasetArguments`): which.

    Returns:
        `tuple[Dataset, Dataset | None]`: for training and, if named, for evaluation.

    Raises:
        ValueError: no dataset, wrong columns, or with `check_data` a bad row.
    """
    train = load_mixture(arguments.train_datasets, "conversation", arguments.mixture_seed)
    evaluation = None
    if arguments.eval_datasets:
        evaluation = load_mixture(arguments.eval_datasets, "conversation", arguments.mixture_seed, "validation")
        if arguments.max_eval_rows is not None:
            evaluation = evaluation.select(range(min(arguments.max_eval_rows, len(evaluation))))
    if arguments.check_data:
        for dataset in (train, evaluation):
            if dataset is not None:
                check_dataset(dataset, "conversation")
    return train, evaluation


def card_details(
    model: PreTrainedModel, path: str, arguments: ConversationArguments, train: Dataset
) -> dict[str, Any]:
    """What the model card tells beside the trainer's own settings: base model, datasets with rows, trained parts."""
    sources = train.select_columns("source").to_pandas()["source"].value_counts().to_dict()
    named = [
        (Path(parse_dataset_spec(spec).path).name + spec[len(parse_dataset_spec(spec).path) :], "")
        for spec in arguments.train_datasets
    ]
    return {
        "base_model": path,
        "datasets": [*named, *((f"source {name}", rows) for name, rows in sources.items())],
        "trained_parts": arguments.trainable_parts,
    }


def last_checkpoint(output_dir: str, resume: str | bool | None) -> str | None:
    """The checkpoint to go on from: the one named, or with `true` (or `auto`) the last one of the output folder, if any.

    Args:
        output_dir (`str`): of the training.
        resume (`str` or `bool`, *optional*): the argument `resume_from_checkpoint`.

    Returns:
        `str`, *optional*: a folder.
    """
    if resume in (None, False, "False", "false"):
        return None
    if resume in (True, "True", "true", "auto"):
        return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    return resume


__all__ = [
    "ConversationArguments",
    "card_details",
    "last_checkpoint",
    "load_conversations",
    "load_detector_weights",
    "load_model",
]
