"""Shared by stages 2 and 3, which learn from conversations: arguments, loading the model and rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging

from ..data.mixtures import PROPOSAL_COLUMNS, load_parts, parse_dataset_spec
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.groma.processing_groma import GromaProcessor
from ..models.groma.tokenization_groma import groma_tokens
from .arguments import DatasetArguments, as_list, load_datasets, loading
from .collators import ConversationCollator
from .data_check import ConversationCheck, check_training_rows
from .model_card import data_details, public_name
from .proposal_notes import DETECTOR_PARTS, NOTES_NAME, check_proposals
from .trainable import NEW_TOKENS, check_parts, set_trainable_parts

logger = logging.get_logger(__name__)

# Settings that change the results of a detector without changing the shapes of its weights.
SILENT_SETTINGS = {
    "vision_config": ("model_type", "num_attention_heads", "hidden_act", "image_size"),
    "proposer_config": (
        "num_vision_layers",
        "num_queries",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "activation_function",
        "refine_reference_points",
        "coco_score_weight",
    ),
}


@dataclass
class ConversationArguments(DatasetArguments):
    """Model and data of a stage that learns from conversations.

    Args:
        detector (`str`, *optional*): a stage 1 model whose vision encoder and region proposer replace those of the
            model.
        trainable_parts (`list[str]`): the parts that learn, see `training/trainable.py`; each stage has its default.
        max_tokens (`int`, *optional*): longer conversations lose their last turns.
        rows_per_image (`int`): the most rows about one image that come together. An image is encoded once in a batch.
    """

    detector: str | None = field(
        default=None, metadata={"help": "A stage 1 model whose vision encoder and proposer to use."}
    )
    trainable_parts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "vision_tower, region_encoder, projector, new_tokens, language_model; by default the stage's."
        },
    )
    max_tokens: int | None = field(default=2048, metadata={"help": "Longer conversations lose their last turns."})

    rows_per_image: int = field(
        default=1,
        metadata={"help": "Put up to this many rows about the same image together; a batch encodes the image once."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.trainable_parts = as_list(self.trainable_parts)


def choose_parts(arguments: ConversationArguments, default_parts: list[str], weight_decay: float) -> None:
    """Choose the parts that learn: those on the command line, else the stage's defaults.

    Args:
        arguments (`ConversationArguments`): `trainable_parts` is filled in if it is empty.
        default_parts (`list[str]`): the parts that the stage trains by default.
        weight_decay (`float`): the optimizer's.

    Raises:
        ValueError: an unknown part, or weight decay beside `new_tokens`: it would shrink the rows that must stay.
    """
    arguments.trainable_parts = arguments.trainable_parts or list(default_parts)
    check_parts(arguments.trainable_parts)
    if NEW_TOKENS in arguments.trainable_parts and weight_decay != 0:
        raise ValueError(
            f"`weight_decay` is {weight_decay:g}, but would decay the old rows of the embedding that `new_tokens` "
            "keeps. Set it to 0."
        )


def load_detector_weights(model: GromaForConditionalGeneration, path: str) -> None:
    """Load the vision encoder and the region proposer of a stage 1 model into a whole model.

    Args:
        model (`GromaForConditionalGeneration`): changed in place.
        path (`str`): folder or Hub name of a `GromaForRegionProposal`.

    Raises:
        ValueError: the models have parts of different sizes, or use weights of the same size in different ways.
    """
    with loading("detector", path):
        detector = GromaForRegionProposal.from_pretrained(path, dtype=torch.float32)
    for part, names in SILENT_SETTINGS.items():
        theirs, ours = getattr(detector.config, part).to_dict(), getattr(model.config, part).to_dict()
        for name in names:
            if theirs.get(name) != ours.get(name):
                raise ValueError(
                    f"`{part}.{name}` of the detector {path} is {theirs.get(name)}, that of the model "
                    f"{ours.get(name)}: its weights would compute something else. Assemble the model from this "
                    "detector (`groma convert`)."
                )
    for name in DETECTOR_PARTS:
        try:
            getattr(model.model, name).load_state_dict(getattr(detector, name).state_dict())
        except RuntimeError as error:
            raise ValueError(f"The {name} of {path} does not fit the model: {error}") from None


def load_model(
    path: str, arguments: ConversationArguments, lora: bool = False, **kwargs: Any
) -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    """Load the model and the processor of a stage, and freeze the parts that it does not train.

    Args:
        path (`str`): folder or Hub name.
        arguments (`ConversationArguments`): names a detector and the trainable parts, see `choose_parts`.
        lora (`bool`): freeze everything; PEFT then adds what learns.
        **kwargs: passed on to `from_pretrained`.

    Returns:
        `tuple[GromaForConditionalGeneration, GromaProcessor]`: ready for the trainer.

    Raises:
        ValueError: no model is named.
    """
    if not path:
        raise ValueError("`model_name_or_path` is missing: give the folder or the Hub name of a Groma model.")
    with loading("model_name_or_path", path):
        model = GromaForConditionalGeneration.from_pretrained(path, **kwargs)
        processor = GromaProcessor.from_pretrained(path)
    if arguments.detector is not None:
        load_detector_weights(model, arguments.detector)
    tokens = groma_tokens(model.config.max_regions)
    parts = [] if lora else arguments.trainable_parts
    set_trainable_parts(model, parts, processor.tokenizer.convert_tokens_to_ids(tokens))
    return model, processor


def load_conversations(
    arguments: ConversationArguments, model: GromaForConditionalGeneration
) -> tuple[Dataset, Dataset | None]:
    """Load the datasets of a stage.

    Args:
        arguments (`ConversationArguments`): names the datasets and the trainable parts.
        model (`GromaForConditionalGeneration`): the model to train. Precomputed regions must be its own detector's.

    Returns:
        `tuple[Dataset, Dataset | None]`: the mixture to train on and, if one is named, that for evaluation.

    Raises:
        FileNotFoundError: missing files, or precomputed regions that do not say whose they are.
        ValueError: no dataset, wrong columns, or precomputed regions of another detector or of one that learns.
    """
    train, evaluation = load_datasets(arguments, "conversation")
    _check_precomputed_regions(
        model,
        arguments.trainable_parts,
        [(arguments.train_datasets, train), (arguments.eval_datasets, evaluation)],
    )
    return train, evaluation


def check_conversations(
    arguments: ConversationArguments, model: GromaForConditionalGeneration, collator: ConversationCollator
) -> None:
    """With `--check_data`, put every row of the datasets through the whole data path.

    Args:
        arguments (`ConversationArguments`): names the datasets.
        model (`GromaForConditionalGeneration`): the model to train.
        collator (`ConversationCollator`): the one that training uses.

    Raises:
        ValueError: some rows would stop training.
    """
    if not arguments.check_data:
        return
    check = ConversationCheck(collator, getattr(model.config.text_config, "max_position_embeddings", None))
    parts = load_parts(arguments.train_datasets, "conversation", arguments.mixture_seed)
    check_training_rows(parts, check)
    check.say()
    if arguments.eval_datasets:
        parts = load_parts(arguments.eval_datasets, "conversation", arguments.mixture_seed, "validation")
        check_training_rows(parts, check, arguments.max_eval_rows)


def _check_precomputed_regions(
    model: GromaForConditionalGeneration,
    trainable_parts: Sequence[str],
    mixtures: Sequence[tuple[Sequence[str], Dataset | None]],
) -> None:
    """Check that precomputed regions are those of the model's detector, and that the detector does not learn."""
    specs = [
        spec
        for specs, dataset in mixtures
        if dataset is not None and PROPOSAL_COLUMNS[0] in dataset.features
        for spec in specs
    ]
    if not specs:
        return
    for part in trainable_parts:
        if part in DETECTOR_PARTS:
            raise ValueError(
                f"`trainable_parts` has {part!r}, but {specs[0]} holds precomputed regions: they would be those of "
                f"the detector before its first step. Leave {part!r} out, or name the datasets from before `groma "
                "train precompute-regions`."
            )
    # Only the first process of a machine is sure to have the weights: sharding may leave the others without.
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return
    if is_deepspeed_zero3_enabled():
        logger.warning(
            "With DeepSpeed ZeRO 3 no process has all weights: the origin of precomputed regions is not checked."
        )
        return
    check_proposals(model, *dict.fromkeys(_folder_of_notes(parse_dataset_spec(spec).path) for spec in specs))


def _folder_of_notes(path: str) -> Path:
    """The folder with the notes on a dataset's proposals: its own, that of its file, or a copy from the Hub."""
    if Path(path).exists():
        return Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        return Path(hf_hub_download(path, NOTES_NAME, repo_type="dataset")).parent
    except EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{path} on the Hub has precomputed regions, but no {NOTES_NAME} that says whose they are. Upload the one "
            "that `groma train precompute-regions` wrote beside the files."
        ) from error


def card_details(path: str, arguments: ConversationArguments, train: Dataset, **recipe: Any) -> dict[str, Any]:
    """Details for the model card that the trainer does not know.

    Args:
        path (`str`): folder or Hub name of the model that training starts from.
        arguments (`ConversationArguments`): names datasets, detector and trainable parts.
        train (`Dataset`): the rows of the datasets.
        **recipe: more rows for the table of settings.

    Returns:
        `dict`: see `write_model_card`. Of local folders only the last name is kept.
    """
    if arguments.detector is not None:
        recipe["detector"] = public_name(arguments.detector)
    return {
        "base_model": path,
        **data_details(arguments.train_datasets, train),
        "trained_parts": arguments.trainable_parts,
        "recipe": {"max tokens": arguments.max_tokens, **recipe},
    }


__all__ = [
    "ConversationArguments",
    "card_details",
    "check_conversations",
    "choose_parts",
    "load_conversations",
    "load_detector_weights",
    "load_model",
]
