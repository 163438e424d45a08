"""Asks a model the questions of rows, in batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.utils import ModelOutput

from ..answer_masks import add_masks
from ..data.conversations import to_messages
from ..grounding import GroundedText
from ..image_inputs import ImageSize, image_size
from .questions import question_of
from .shared_images import features_of_images, generate_with_shared_images, image_views, images_of_rows


class PreparedQuestions(NamedTuple):
    """A batch of questions, ready for the model.

    Attributes:
        inputs (`BatchFeature`): what the model takes, on the CPU.
        sizes (`list` of `(height, width)`): sizes of the upright images in pixels; one for each row with an image.
        images (`list[int]`, *optional*): for each row, the first row with its image, if rows share images.
        views (`tuple[str, ...]`): which inputs the image processor made of the images.
    """

    inputs: BatchFeature
    sizes: list[tuple[int, int]]
    images: list[int] | None
    views: tuple[str, ...]


def answer_rows(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 128,
    masks: bool = False,
    progress: bool = True,
) -> Iterator[GroundedText]:
    """Answer the questions of rows by greedy decoding: the same model gives the same answers.

    Args:
        model (`PreTrainedModel`): the model, in evaluation mode.
        processor (`ProcessorMixin`): its processor.
        dataset (`Dataset`): evaluation columns, or conversations, whose last answer the model does not see. A standard
            question is asked in the words of the model's family.
        batch_size (`int`): rows at a time. It does not change the answers.
        max_new_tokens (`int`): longest answer.
        masks (`bool`): whether the regions that answers name get their masks. Those of a GLaMM always have them.
        progress (`bool`): whether to show a progress bar.

    Yields:
        `GroundedText`: the answer to each row, in order; boxes `xyxy` in absolute pixels of the upright image.

    Raises:
        ValueError: `batch_size` is not positive.

    Example:
    >>> from transformers_groma import GromaForConditionalGeneration, GromaProcessor
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> model = GromaForConditionalGeneration.from_pretrained("hub_configs/groma-tiny").eval()
    >>> processor = GromaProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> rows = shapes_dataset("rec", 2, seed=0, split="test", evaluation=True)
    >>> len(list(answer_rows(model, processor, rows, max_new_tokens=4, progress=False)))
    2
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="answers", unit="batch", disable=not progress):
        stop = min(start + batch_size, len(dataset))
        rows = [question_of(dataset[index], wording=processor.question_wording) for index in range(start, stop)]
        yield from answer_questions(model, processor, prepare_questions(processor, rows), max_new_tokens, masks)


def prepare_questions(processor: ProcessorMixin, rows: Sequence[Mapping[str, Any]]) -> PreparedQuestions:
    """Turn the questions of rows into model inputs. This needs no model, so it can run ahead of it.

    Args:
        processor (`ProcessorMixin`): its processor.
        rows (`Sequence[Mapping]`): evaluation columns, with images decoded.

    Returns:
        `PreparedQuestions`
    """
    inputs = processor.apply_chat_template(
        [to_messages(row) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    images = [row["image"] for row in rows if row["image"] is not None]
    return PreparedQuestions(
        inputs,
        sizes=[image_size(image) for image in images],
        images=images_of_rows([row["image_id"] for row in rows], inputs, processor),
        views=image_views(processor),
    )


@torch.no_grad()
def answer_questions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    questions: PreparedQuestions,
    max_new_tokens: int,
    masks: bool = False,
) -> list[GroundedText]:
    """Answer a batch of questions by greedy decoding.

    Args:
        model (`PreTrainedModel`): the model, in evaluation mode.
        processor (`ProcessorMixin`): its processor.
        questions (`PreparedQuestions`): a batch from [`prepare_questions`].
        max_new_tokens (`int`): longest answer.
        masks (`bool`): whether the regions that answers name get their masks, from what the model has seen for the
            answers; each question then is about an image.

    Returns:
        `list[GroundedText]`: one a question; boxes `xyxy` in absolute pixels of the upright image.

    Raises:
        ValueError: `masks` of a model without a mask decoder.
    """
    inputs = questions.inputs.to(model.device)
    greedily = {"max_new_tokens": max_new_tokens, "do_sample": False, "use_cache": True}
    # What a GLaMM writes has its masks already: they come from the states that wrote it.
    adds_masks = masks and not writes_masks(model)
    features = _features(model, inputs, questions) if adds_masks else None
    if questions.images is not None:
        output = generate_with_shared_images(model, inputs, questions.images, questions.views, features, **greedily)
    else:
        prompt = inputs
        if features is not None:
            prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            prompt["mm_encoder_outputs"] = {"image": features}
        output = model.generate(**prompt, **greedily, return_dict_in_generate=True)
    answers = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=questions.sizes or None)
    return _with_masks(model, features, answers, questions) if adds_masks else answers


def writes_masks(model: PreTrainedModel) -> bool:
    """Whether a model decodes the masks of an answer while it writes it, as a GLaMM does at each `[SEG]`.

    Args:
        model (`PreTrainedModel`): the model.

    Returns:
        `bool`: whether what `generate` returns holds the masks.
    """
    return model.config.model_type == "glamm"


def _features(model: PreTrainedModel, inputs: BatchFeature, questions: PreparedQuestions) -> ModelOutput:
    """What the model sees of the distinct images of a batch, in the order of their first rows."""
    if len(questions.sizes) != len(inputs["input_ids"]):
        raise ValueError("`masks=True` needs an image for each question, but one has none. Ask it without masks.")
    views = {name: inputs[name] for name in questions.views}
    if questions.images is not None:
        return features_of_images(model, views, questions.images)
    return model.get_image_features(**views, refer_boxes=inputs.get("refer_boxes"), return_dict=True)


def _with_masks(
    model: PreTrainedModel, features: ModelOutput, answers: Sequence[GroundedText], questions: PreparedQuestions
) -> list[GroundedText]:
    """The answers with masks. Answers to one image get them together: what they share is computed once."""
    sizes = [ImageSize(*size) for size in questions.sizes]
    if questions.images is None:
        return add_masks(model, features, answers, sizes)
    masked: dict[int, GroundedText] = {}
    for first, of_image in zip(sorted(set(questions.images)), features.split(), strict=True):
        rows = [row for row, image in enumerate(questions.images) if image == first]
        found = add_masks(model, of_image, [answers[row] for row in rows], [sizes[first]])
        masked.update(zip(rows, found, strict=True))
    return [masked[row] for row in range(len(answers))]


__all__ = ["PreparedQuestions", "answer_questions", "answer_rows", "prepare_questions", "writes_masks"]
