"""Answers questions about images: each image is looked at once, answers come in batches or step by step."""

import atexit
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.pipelines.base import Pipeline

from .answer_masks import add_masks, masks_of_user
from .answer_settings import Generation, VerbSettings
from .grounding import GroundedText
from .image_inputs import ImageSize
from .models.processing_inputs import check_prompt_length
from .perceived_images import PerceivedImage, perceive, prompt_inputs
from .pointed_regions import find_regions, has_region_proposer
from .streaming import StepStreamer, StopWhen, next_read, readable_ids
from .verb_inputs import ImageQuestion

# What features and outputs of `generate` say about the regions of images.
REGION_FIELDS = ("region_boxes", "region_scores", "region_mask")
# How long, in seconds, the model's thread waits before it looks again whether anybody still reads.
_PATIENCE = 0.05
# The streams that are not at their end: how each is told to stop, and its thread.
_STREAMS: set[tuple[threading.Event, threading.Thread]] = set()


@atexit.register
def _stop_streams() -> None:
    """Stop streams that were never read to their end: Python ends badly while a thread is inside of torch."""
    for is_left, _ in list(_STREAMS):
        is_left.set()
    for _, thread in list(_STREAMS):
        thread.join()


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a model is asked, ready for `generate`.

    Args:
        inputs (`Mapping[str, Any]`): of `generate`.
        asked (`Mapping[str, Tensor]`): `input_ids` and, with boxes, `refer_boxes`, to read the answers with.
        regions (`Mapping[str, Tensor]`): `region_boxes`, `region_scores` and `region_mask` of its images.
        sizes (`Sequence[ImageSize]`): of its images.
        features (`ModelOutput`): what the model has seen of the images; masks are decoded from it.
        user_masks (`Sequence`): for each image the masks of the regions that the user points at, bool `(H, W)`, `None`
            where they are unknown.
    """

    inputs: Mapping[str, Any]
    asked: Mapping[str, Tensor]
    regions: Mapping[str, Tensor]
    sizes: Sequence[ImageSize]
    features: Any
    user_masks: Sequence[Sequence[np.ndarray | None]]

    @property
    def target_sizes(self) -> list[tuple[int, int]]:
        """`(height, width)` of each image."""
        return [(size.height, size.width) for size in self.sizes]


def prompt_of_questions(
    pipe: Pipeline, questions: Sequence[ImageQuestion], perceived: Sequence[PerceivedImage]
) -> Prompt:
    """The prompt of questions about images, one each; regions are found and encoded, but no image is.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        questions (`Sequence[ImageQuestion]`): the questions.
        perceived (`Sequence[PerceivedImage]`): the image of each.
    """
    regions = find_regions(
        pipe.model,
        [image.features for image in perceived],
        [image.size for image in perceived],
        [question.regions for question in questions],
    )
    conversations = [
        question.messages_with([region.box for region in found])
        for question, found in zip(questions, regions, strict=True)
    ]
    return prompt_about(pipe, conversations, perceived, [[region.mask for region in found] for found in regions])


@torch.no_grad()
def prompt_about(
    pipe: Pipeline,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    perceived: Sequence[PerceivedImage],
    user_masks: Sequence[Sequence[np.ndarray | None]],
) -> Prompt:
    """The prompt of conversations about images, one each; regions are encoded, but no image is.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        conversations (`Sequence`): the messages of each; regions are given by their boxes.
        perceived (`Sequence[PerceivedImage]`): the image of each.
        user_masks (`Sequence`): see [`Prompt`].
    """
    inputs = prompt_inputs(pipe.model, pipe.processor, conversations, perceived)
    asked = {name: inputs[name] for name in ("input_ids", "refer_boxes") if name in inputs}
    features = inputs["mm_encoder_outputs"]["image"]
    if (refer_boxes := inputs.pop("refer_boxes", None)) is not None:
        features = pipe.model.encode_regions(features, refer_boxes)
        inputs["mm_encoder_outputs"] = {"image": features}
    regions = {name: getattr(features, name) for name in REGION_FIELDS}
    return Prompt(inputs, asked, regions, [image.size for image in perceived], features, user_masks)


def check_length(pipe: Pipeline, questions: Sequence[ImageQuestion], generation: Generation) -> None:
    """Refuse questions that exceed the model's length with their answer.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        questions (`Sequence[ImageQuestion]`): the questions.
        generation (`Generation`): says how long an answer may be.

    Raises:
        ValueError: the prompt is too long, or the processor refuses the question.
    """
    for question in questions:
        # Also without a limit: the processor says what is wrong.
        length = prompt_length(pipe, question.messages)
        if (limit := longest_prompt(pipe)) is not None:
            check_prompt_length(length, generation.max_new_tokens, limit)


def prompt_length(pipe: Pipeline, messages: Sequence[Mapping[str, Any]]) -> int:
    """How many tokens the prompt of a conversation has; the image may be an `ImageSize`."""
    inputs = pipe.processor.apply_chat_template(
        [list(messages)], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    return len(inputs["input_ids"][0])


def longest_prompt(pipe: Pipeline) -> int | None:
    """How many tokens the language model reads, its answer included; `None` where nothing says so."""
    return getattr(pipe.model.config.get_text_config(), "max_position_embeddings", None)


def answer_questions(
    pipe: Pipeline,
    questions: Sequence[ImageQuestion],
    settings: VerbSettings,
    known: Mapping[int, PerceivedImage] | None = None,
) -> list[GroundedText] | list[list[GroundedText]]:
    """Answer questions, in batches. An image that several questions in a row are about is looked at once.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        questions (`Sequence[ImageQuestion]`): the questions.
        settings (`VerbSettings`): how they are answered, and how many go through the model together.
        known (`Mapping[int, PerceivedImage]`, *optional*): images that were looked at before, see [`look_in_batches`].

    Returns:
        `list[GroundedText]`: the answer to each; with `num_return_sequences` above 1 a list for each.
    """
    answers = []
    for batch, perceived in look_in_batches(pipe, questions, settings.batch_size, known):
        with pipe.device_placement():
            prompt = prompt_of_questions(pipe, batch, perceived)
            output = generate(pipe, prompt, settings.generation)
            answers += read_answers(pipe, prompt, output, settings.masks)
    return answers


def look_in_batches(
    pipe: Pipeline,
    questions: Sequence[ImageQuestion],
    batch_size: int,
    known: Mapping[int, PerceivedImage] | None = None,
) -> Iterator[tuple[Sequence[ImageQuestion], list[PerceivedImage]]]:
    """Go through questions in batches and look at their images; an image of several in a row is looked at once.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        questions (`Sequence[ImageQuestion]`): the questions.
        batch_size (`int`): how many go together.
        known (`Mapping[int, PerceivedImage]`, *optional*): images that were looked at before, by the `id`
            of what was read. The caller keeps them; others are kept for the next batch only.
    """
    known = known or {}
    seen: dict[int, PerceivedImage] = {}  # of this batch and the one before, by the identity of what was read
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        with pipe.device_placement():
            images = {id(question.image): question.image for question in batch}
            new = [key for key in images if key not in seen and key not in known]
            # Regions that users point at are encoded after the look, from maps that the look has made.
            keeps_maps = has_region_proposer(pipe.model) and any(question.regions for question in batch)
            found = perceive(pipe.model, pipe.processor, [images[key].pixels for key in new], keeps_maps)
            seen = {key: seen[key] for key in images if key in seen} | dict(zip(new, found, strict=True))
        keys = [id(question.image) for question in batch]
        yield batch, [known[key] if key in known else seen[key] for key in keys]


def generate(pipe: Pipeline, prompt: Prompt, generation: Generation, **kwargs: Any) -> Any:
    """Call `generate` with a prompt and settings.

    Args:
        pipe (`Pipeline`): has the model.
        prompt (`Prompt`): what is asked.
        generation (`Generation`): settings.
        **kwargs: more arguments of `generate`; `stopping_criteria` join those of the settings.

    Returns:
        `ModelOutput`: with `sequences` and the regions of the images.
    """
    settings = dict(generation.kwargs)
    if own := kwargs.pop("stopping_criteria", None):
        settings["stopping_criteria"] = StoppingCriteriaList([*(settings.get("stopping_criteria") or []), *own])
    return pipe.model.generate(**prompt.inputs, **settings, **kwargs)


def read_answers(
    pipe: Pipeline, prompt: Prompt, output: Any, masks: bool = False
) -> list[GroundedText] | list[list[GroundedText]]:
    """The answers to a prompt; a list for each conversation where several sequences were returned.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        prompt (`Prompt`): what was asked.
        output (`ModelOutput`): of `generate`.
        masks (`bool`): whether they get masks.
    """
    answers = pipe.processor.post_process_grounded_generation(output, prompt.asked, prompt.target_sizes)
    each = len(answers) // len(prompt.sizes)
    if masks:
        own = [masks_of_user(answer, prompt.user_masks[index // each]) for index, answer in enumerate(answers)]
        answers = add_masks(pipe.model, prompt.features, answers, prompt.sizes, own)
    if each == 1:
        return answers
    return [answers[start : start + each] for start in range(0, len(answers), each)]


def stream_question(pipe: Pipeline, question: ImageQuestion, settings: VerbSettings) -> Iterator[GroundedText]:
    """Answer a question step by step.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        question (`ImageQuestion`): the question.
        settings (`VerbSettings`): how it is answered.

    Yields:
        `GroundedText`: the answer so far, whenever there is more of it; the last one is the whole answer, with masks
        if these were asked for.
    """
    with pipe.device_placement():
        keeps_maps = has_region_proposer(pipe.model) and len(question.regions) > 0
        perceived = perceive(pipe.model, pipe.processor, [question.image.pixels], keeps_maps)
        prompt = prompt_of_questions(pipe, [question], perceived)

    def read(output: Any) -> GroundedText:
        (answer,) = read_answers(pipe, prompt, output, settings.masks)
        return answer

    # `close` of this generator closes that one, too.
    yield from stream_answer(pipe, prompt, settings.generation, read)


def stream_answer(
    pipe: Pipeline, prompt: Prompt, generation: Generation, read: Callable[[Any], GroundedText]
) -> Iterator[GroundedText]:
    """Answer a prompt of one conversation step by step.

    The model works in a thread of its own, at most two steps ahead of the reader. Leaving the loop stops it.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        prompt (`Prompt`): what is asked.
        generation (`Generation`): settings.
        read (`Callable`): reads the answer from the output of `generate`. Called once, also where the reader left
            early and the answer is cut short.

    Yields:
        `GroundedText`: the answer so far, whenever there is more of it, of very long answers after every few ids; the
            last one is the whole answer.
    """
    steps: Queue[Tensor | None] = Queue(maxsize=1)
    is_left = threading.Event()
    results: list[Any] = []
    errors: list[BaseException] = []
    answer = None

    def put(step: Tensor | None) -> None:
        while not is_left.is_set():
            try:
                return steps.put(step, timeout=_PATIENCE)
            except Full:
                continue

    def work() -> None:
        stopping = StopWhen(is_left.is_set)
        try:
            # Devices are chosen thread by thread.
            with pipe.device_placement():
                results.append(
                    generate(pipe, prompt, generation, streamer=StepStreamer(put), stopping_criteria=[stopping])
                )
        except BaseException as error:  # raised where the answer is read
            errors.append(error)
        put(None)

    thread = threading.Thread(target=work, name="groma-stream", daemon=True)
    stream = is_left, thread
    _STREAMS.add(stream)
    thread.start()
    ids: list[int] = []
    due, shown = 1, None
    try:
        while (step := steps.get()) is not None:
            ids += step.tolist()
            if len(ids) < due:
                continue
            due = next_read(len(ids))
            partial = _partial_answer(pipe, prompt, ids)
            # Tags come token by token, and by themselves they show nothing new.
            visible = (partial.text, [phrase.region_ids for phrase in partial.phrases])
            if visible not in (shown, ("", [])):
                shown = visible
                yield partial
    finally:
        is_left.set()
        while thread.is_alive():
            try:
                steps.get_nowait()
            except Empty:
                thread.join(_PATIENCE)
        _STREAMS.discard(stream)
        if results:
            with pipe.device_placement():
                answer = read(results[0])
    if errors:
        raise errors[0]
    yield answer


def _partial_answer(pipe: Pipeline, prompt: Prompt, ids: Sequence[int]) -> GroundedText:
    """The answer so far, without a character of which only some bytes have come."""
    ids = readable_ids(pipe.processor.tokenizer, ids)
    output = SimpleNamespace(sequences=torch.tensor([ids], dtype=torch.long), **prompt.regions)
    asked = {name: value for name, value in prompt.asked.items() if name != "input_ids"}
    return pipe.processor.post_process_grounded_generation(output, asked, prompt.target_sizes)[0]


__all__ = [
    "REGION_FIELDS",
    "Prompt",
    "answer_questions",
    "check_length",
    "generate",
    "look_in_batches",
    "longest_prompt",
    "prompt_about",
    "prompt_length",
    "prompt_of_questions",
    "read_answers",
    "stream_answer",
    "stream_question",
]
