"""Asks a model the questions of rows, in batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import BatchFeature

from ..answer_masks import add_masks
from ..data.conversations import to_messages
from ..grounding import GroundedText
from ..image_inputs import ImageSize, image_size
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_outputs import GromaImageFeatures
from ..models.groma.processing_groma import GromaProcessor
from .shared_images import generate_with_shared_images, images_of_rows


class PreparedQuestions(NamedTuple):
    """A batch of questions, ready for the model.

    Attributes:
        inputs (`BatchFeature`): what the model takes, on the CPU.
        sizes (`list` of `(height, width)`): sizes of the upright images in pixels; one for each row with an image.
        images (`list[int]`, *optional*): for each row, the first row with its image, if rows share images.
    """

    inputs: BatchFeature
    sizes: list[tuple[int, int]]
    images: list[int] | None


def answer_rows(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    max_new_tokens: int = 128,
    masks: bool = False,
    progress: bool = True,
) -> Iterator[GroundedText]:
    """Answer the questions of rows by greedy decoding: the same model gives the same answers.

    Args:
        model (`GromaForConditionalGeneration`): the model, in evaluation mode.
        processor (`GromaProcessor`): its processor.
        dataset (`Dataset`): evaluation columns.
        batch_size (`int`): rows at a time. It does not change the answers.
        max_new_tokens (`int`): longest answer.
        masks (`bool`): whether the regions that answers name get their masks.
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
        rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        yield from answer_questions(model, processor, prepare_questions(processor, rows), max_new_tokens, masks)


def prepare_questions(processor: GromaProcessor, rows: Sequence[Mapping[str, Any]]) -> PreparedQuestions:
    """Turn the questions of rows into model inputs. This needs no model, so it can run ahead of it.

    Args:
        processor (`GromaProcessor`): its processor.
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
        images=images_of_rows([row["image_id"] for row in rows], inputs, processor.image_token_id),
    )


@torch.no_grad()
def answer_questions(
    model: GromaForConditionalGeneration,
    processor: GromaProcessor,
    questions: PreparedQuestions,
    max_new_tokens: int,
    masks: bool = False,
) -> list[GroundedText]:
    """Answer a batch of questions by greedy decoding.

    Args:
        model (`GromaForConditionalGeneration`): the model, in evaluation mode.
        processor (`GromaProcessor`): its processor.
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
    features = _features(model, inputs, questions) if masks else None
    if questions.images is not None:
        output = generate_with_shared_images(model, inputs, questions.images, features, **greedily)
    else:
        prompt = inputs
        if features is not None:
            prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            prompt["mm_encoder_outputs"] = {"image": features}
        output = model.generate(**prompt, **greedily, return_dict_in_generate=True)
    answers = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=questions.sizes or None)
    return answers if features is None else _with_masks(model, features, answers, questions)


def _features(
    model: GromaForConditionalGeneration, inputs: BatchFeature, questions: PreparedQuestions
) -> GromaImageFeatures:
    """What the model sees of the distinct images of a batch, in the order of their first rows."""
    if len(questions.sizes) != len(inputs["input_ids"]):
        raise ValueError("`masks=True` needs an image for each question, but one has none. Ask it without masks.")
    pixel_values = inputs["pixel_values"]
    if questions.images is not None:
        pixel_values = pixel_values[sorted(set(questions.images))]
    return model.get_image_features(pixel_values, inputs.get("refer_boxes"), return_dict=True)


def _with_masks(
    model: GromaForConditionalGeneration,
    features: GromaImageFeatures,
    answers: Sequence[GroundedText],
    questions: PreparedQuestions,
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


__all__ = ["PreparedQuestions", "answer_questions", "answer_rows", "prepare_questions"]
