"""Answers questions about images: each image is looked at once, answers come in batches or step by step."""

import atexit
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.pipelines.base import Pipeline

from .answer_settings import Generation
from .grounding import GroundedText
from .image_inputs import ImageSize
from .models.processing_inputs import check_prompt_length
from .perceived_images import PerceivedImage, perceive, prompt_inputs
from .streaming import StepStreamer, StopWhen, readable_ids
from .verb_inputs import ImageQuestion

_REGION_FIELDS = ("region_boxes", "region_scores", "region_mask")
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
    """

    inputs: Mapping[str, Any]
    asked: Mapping[str, Tensor]
    regions: Mapping[str, Tensor]
    sizes: Sequence[ImageSize]

    @property
    def target_sizes(self) -> list[tuple[int, int]]:
        """`(height, width)` of each image."""
        return [(size.height, size.width) for size in self.sizes]


@torch.no_grad()
def prompt_about(
    pipe: Pipeline, conversations: Sequence[Sequence[Mapping[str, Any]]], perceived: Sequence[PerceivedImage]
) -> Prompt:
    """The prompt of conversations about images, one each; regions are encoded, but no image is.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        conversations (`Sequence`): the messages of each.
        perceived (`Sequence[PerceivedImage]`): the image of each.
    """
    inputs = prompt_inputs(pipe.model, pipe.processor, conversations, perceived)
    asked = {name: inputs[name] for name in ("input_ids", "refer_boxes") if name in inputs}
    features = inputs["mm_encoder_outputs"]["image"]
    if (refer_boxes := inputs.pop("refer_boxes", None)) is not None:
        features = pipe.model.encode_regions(features, refer_boxes)
        inputs["mm_encoder_outputs"] = {"image": features}
    regions = {name: getattr(features, name) for name in _REGION_FIELDS}
    return Prompt(inputs, asked, regions, [image.size for image in perceived])


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
    pipe: Pipeline, questions: Sequence[ImageQuestion], generation: Generation, batch_size: int
) -> list[GroundedText] | list[list[GroundedText]]:
    """Answer questions, in batches. An image that several questions in a row are about is looked at once.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        questions (`Sequence[ImageQuestion]`): the questions.
        generation (`Generation`): settings.
        batch_size (`int`): how many go through the model together.

    Returns:
        `list[GroundedText]`: the answer to each; with `num_return_sequences` above 1 a list for each.
    """
    answers = []
    seen: dict[int, PerceivedImage] = {}  # of this batch and the one before, by the identity of what was read
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        with pipe.device_placement():
            images = {id(question.image): question.image for question in batch}
            new = [key for key in images if key not in seen]
            found = perceive(pipe.model, pipe.processor, [images[key].pixels for key in new])
            seen = {key: seen[key] for key in images if key in seen} | dict(zip(new, found, strict=True))
            prompt = prompt_about(
                pipe, [question.messages for question in batch], [seen[id(question.image)] for question in batch]
            )
            output = generate(pipe, prompt, generation)
        answers += read_answers(pipe, prompt, output)
    return answers


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


def read_answers(pipe: Pipeline, prompt: Prompt, output: Any) -> list[GroundedText] | list[list[GroundedText]]:
    """The answers to a prompt; a list for each conversation where several sequences were returned."""
    answers = pipe.processor.post_process_grounded_generation(output, prompt.asked, prompt.target_sizes)
    each = len(answers) // len(prompt.sizes)
    if each == 1:
        return answers
    return [answers[start : start + each] for start in range(0, len(answers), each)]


def read_answer(pipe: Pipeline, prompt: Prompt, output: Any) -> GroundedText:
    """The one answer to a prompt of one conversation."""
    return read_answers(pipe, prompt, output)[0]


def stream_question(pipe: Pipeline, question: ImageQuestion, generation: Generation) -> Iterator[GroundedText]:
    """Answer a question step by step.

    Args:
        pipe (`Pipeline`): has the model and its processor.
        question (`ImageQuestion`): the question.
        generation (`Generation`): settings.

    Yields:
        `GroundedText`: the answer so far, whenever there is more of it; the last one is the whole answer.
    """
    with pipe.device_placement():
        perceived = perceive(pipe.model, pipe.processor, [question.image.pixels])
        prompt = prompt_about(pipe, [question.messages], perceived)
    # `close` of this generator closes that one, too.
    yield from stream_answer(pipe, prompt, generation, read_answer)


def stream_answer(
    pipe: Pipeline,
    prompt: Prompt,
    generation: Generation,
    read: Callable[[Pipeline, Prompt, Any], GroundedText],
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
        `GroundedText`: the answer so far, whenever there is more of it; the last one is the whole answer.
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
    shown = None
    try:
        while (step := steps.get()) is not None:
            ids += step.tolist()
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
            answer = read(pipe, prompt, results[0])
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
    "Prompt",
    "answer_questions",
    "check_length",
    "generate",
    "longest_prompt",
    "prompt_about",
    "prompt_length",
    "read_answer",
    "read_answers",
    "stream_answer",
    "stream_question",
]
