"""`pipeline("image-grounding")`: an image, a question and boxes in, grounded text out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.image_utils import ImageInput
from transformers.pipelines.base import PipelineRegistry

from .answering import longest_prompt
from .boxes import BoxFormat
from .grounding import GroundedText
from .image_inputs import image_size, read_upright, shortened
from .models.groma.modeling_groma_outputs import GromaGenerateDecoderOnlyOutput
from .models.groma.processing_groma import default_question
from .models.processing_inputs import check_prompt_length, pad_left
from .verbs import GroundingVerbs

IMAGE_GROUNDING_TASK = "image-grounding"
# What a dict may say about a sample. `text` is another name for `question`, as chats and datasets call it.
SAMPLE_KEYS = ("image", "question", "text", "boxes")
_OUTPUT_FIELDS = ("sequences", "region_boxes", "region_scores", "region_mask")


class _Sample(NamedTuple):
    """One image, its question, and its boxes in the caller's `box_format`."""

    image: Any
    question: str | None
    boxes: Any


class ImageGroundingPipeline(GroundingVerbs):
    """Answers questions about images with text whose phrases are tied to boxes.

    Its verbs (`caption`, `describe`, `locate`, `locate_all`, `ask`, `chat`) need no knowledge of prompts. The pipeline
    itself takes whole samples, also from generators and datasets, and questions with marks.

    Example:

    ```python
    >>> from PIL import Image
    >>> import transformers_groma
    >>> from transformers import pipeline

    >>> pipe = pipeline("image-grounding", model="hub_configs/groma-tiny")
    >>> image = Image.new("RGB", (320, 240), "white")
    >>> pipe.locate(image, "the red star", max_new_tokens=8).text
    'the red star'
    >>> answer = pipe(image, "What is <region>?", boxes=[[20, 30, 200, 180]], max_new_tokens=8)
    >>> [round(value) for value in answer.regions[0].box.tolist()]  # the user's box is the first region
    [20, 30, 200, 180]
    >>> len(pipe([{"image": image, "question": "What is this?"}, {"image": image}], max_new_tokens=2))
    2

    ```"""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, **kwargs: Any) -> "ImageGroundingPipeline":
        """Load a model and its processor: the same as `pipeline("image-grounding", model=…)`.

        Args:
            model (`str` or path): Hub name or folder of a model.
            **kwargs: as for `transformers.pipeline`: `revision`, `device`, `device_map`, `dtype`, `token`,
                `trust_remote_code`, `model_kwargs`, …; also what calls take (`max_new_tokens`, `box_format`, …), for
                all of them.

        Returns:
            `ImageGroundingPipeline`.

        Raises:
            ValueError: not a name or folder.
            OSError: no model is there.

        Example:

        ```python
        >>> from transformers_groma import ImageGroundingPipeline
        >>> ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny", device="cpu").task
        'image-grounding'

        ```"""
        if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
            raise ValueError(
                f"`model` must be the Hub name or the folder of a model, got {shortened(model)}. A model that is "
                'loaded already goes to `pipeline("image-grounding", model=model, processor=processor)`.'
            )
        # Here and not above: that module imports this one, to register the task.
        from transformers import pipeline

        return pipeline(IMAGE_GROUNDING_TASK, model=os.fspath(model), pipeline_class=cls, **kwargs)

    def __call__(
        self,
        image: ImageInput | Mapping[str, Any] | Iterable[ImageInput | Mapping[str, Any]] | None = None,
        question: str | Sequence[str] | None = None,
        boxes: Any = None,
        *,
        batch_size: int | None = None,
        **kwargs,
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Ask about one image or several.

        Args:
            image (PIL image, array, tensor, path or URL, `dict`, or many of these): the image. Files and PIL images
                are turned upright by their EXIF tag. A `dict` is a whole sample: `image` and, as needed, `question`
                (or `text`) and `boxes`. Many can be a list, a generator or a dataset with these columns.
            question (`str` or `list[str]`, *optional*): one for all images or one for each, with a `<region>` mark for
                each box; `[grounding]` at its head asks for a grounded answer. All other control tokens in it
                (`<image>`, `<p>`, `<r5>`, `</s>`, …) are plain text, unless `parse_tokens` is set. Without it the
                processor's default: describe the boxes or, without boxes, the image.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one for each image, *optional*): regions
                that the question points at; one set serves all images. `xyxy` in absolute pixels of the upright image.
            batch_size (`int`, *optional*): how many images of many go through the model together; 1 by default.
            box_format (`str`, *optional*): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of `boxes`.
            normalized (`bool`, *optional*): whether `boxes` are fractions of the image size.
            parse_tokens (`bool`, *optional*): whether control tokens in `question` are tokens of the model, for those
                who write whole prompts, or questions with `<p>…</p>`, themselves. Never set it for texts of other
                people.
            max_new_tokens (`int`, *optional*): longest answer; 256 by default.
            generate_kwargs (`dict`, *optional*): everything else that `model.generate` takes.
            **kwargs: `num_workers` and the parameters above; the last five can also be given to `pipeline(…)`.

        Returns:
            `GroundedText`, boxes `xyxy` in absolute pixels of the upright image; for a list of images a list, for a
            generator or dataset an iterator, which answers as it is read. With `num_return_sequences` above 1 a list
            for each image.

        Raises:
            TypeError: an unknown argument.
            ValueError: bad images, questions or boxes, or a prompt that is too long for the model, before any of the
                questions is answered; the message says what to do.
        """
        # Wrong arguments are named before any work.
        self._sanitize_parameters(**{name: value for name, value in kwargs.items() if name != "num_workers"})
        batch_size = next((size for size in (batch_size, self._batch_size) if size is not None), 1)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}.")
        if image is None:
            raise ValueError("`image` is missing. Pass an image, a dict with an `image`, or many of these.")
        if _is_stream(image):
            if isinstance(question, (list, tuple)) or _is_batch_of_boxes(boxes):
                raise ValueError(
                    "A generator or dataset takes one `question` and one set of `boxes` for all images. Yield dicts "
                    "with `image`, `question` and `boxes` for one each."
                )
            samples = (_sample(entry, index, question, boxes) for index, entry in enumerate(_entries(image)))
            return self._answer_stream(samples, batch_size, kwargs)

        is_list = isinstance(image, (list, tuple))
        samples = (
            _samples_of_list(list(image), question, boxes) if is_list else [_sample(image, None, question, boxes)]
        )
        self._check_lengths([sample.question for sample in samples], [sample.boxes for sample in samples], kwargs)
        batches = list(_batches(samples, batch_size))
        if not batches:
            return []
        # Each batch is one input: the processor pads and checks better than the library's collator, which refuses a
        # batch in which only some samples have boxes.
        answers = [answer for batch in super().__call__(batches, batch_size=1, **kwargs) for answer in batch]
        return answers if is_list else answers[0]

    def _answer_stream(
        self, samples: Iterable[_Sample], batch_size: int, kwargs: Mapping[str, Any]
    ) -> Iterator[GroundedText]:
        def checked_batches() -> Iterator[dict[str, Any]]:
            for batch in _batches(samples, batch_size):
                self._check_lengths(batch["text"], batch["boxes"], kwargs)
                yield batch

        for answers in super().__call__(checked_batches(), batch_size=1, **kwargs):
            yield from answers

    def _sanitize_parameters(
        self,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        parse_tokens: bool | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(
                f"The image-grounding pipeline does not take {', '.join(f'`{name}`' for name in unknown)}. It takes "
                "`image`, `question`, `boxes`, `batch_size`, `num_workers`, `box_format`, `normalized`, "
                "`parse_tokens`, `max_new_tokens` and `generate_kwargs` (a dict: everything else that "
                "`model.generate` takes)."
            )
        if generate_kwargs is not None and not isinstance(generate_kwargs, Mapping):
            raise ValueError(
                f"`generate_kwargs` must be a dict, as in {{'do_sample': True}}, got {generate_kwargs!r}."
            )
        preprocess = {"box_format": box_format, "normalized": normalized, "parse_tokens": parse_tokens}
        preprocess = {name: value for name, value in preprocess.items() if value is not None}
        if max_new_tokens is not None:
            if "max_new_tokens" in (generate_kwargs or {}):
                raise ValueError("`max_new_tokens` was given twice, also in `generate_kwargs`. Pass it once.")
            generate_kwargs = {**(generate_kwargs or {}), "max_new_tokens": max_new_tokens}
        return preprocess, {} if generate_kwargs is None else {"generate_kwargs": generate_kwargs}, {}

    def _check_lengths(
        self, questions: Sequence[str | None], boxes: Sequence[Any], parameters: Mapping[str, Any]
    ) -> None:
        """Refuse questions that exceed the model's length with their answer, before any is answered."""
        limit = longest_prompt(self)
        if limit is None:
            return
        parameters = {name: value for name, value in parameters.items() if name != "num_workers"}
        preprocess, forward, _ = self._sanitize_parameters(**parameters)
        parse_tokens = {**self._preprocess_params, **preprocess}.get("parse_tokens", False)
        generation = self._prepare_generate_kwargs({**self._forward_params, **forward}.get("generate_kwargs") or {})
        max_new_tokens = generation.get("max_new_tokens")
        if max_new_tokens is None:
            max_new_tokens = getattr(generation.get("generation_config"), "max_new_tokens", None) or 0
        # Without a question it is the number of boxes that makes the text.
        samples = zip(questions, [0 if entry is None else len(entry) for entry in boxes], strict=True)
        samples = [(question, num_boxes if question is None else 0) for question, num_boxes in samples]
        for question, num_boxes in dict.fromkeys(samples):
            # The processor says what is wrong with other questions.
            if question is None or (isinstance(question, str) and question.strip()):
                length = self.processor.count_tokens(question, num_boxes, parse_tokens=parse_tokens)
                check_prompt_length(length, max_new_tokens, limit)

    def preprocess(self, inputs: Mapping[str, Any], parse_tokens: bool = False, **box_parameters) -> dict[str, Any]:
        """Turn a batch of images, texts and boxes into model inputs."""
        images = [
            read_upright(image, f"`images` of sample {index}")
            for index, image in enumerate(inputs["images"], inputs["first"])
        ]
        texts = [
            default_question(0 if boxes is None else len(boxes)) if text is None else text
            for text, boxes in zip(inputs["text"], inputs["boxes"], strict=True)
        ]
        encoded = self.processor(
            images=images, text=texts, boxes=inputs["boxes"], parse_tokens=parse_tokens, **box_parameters
        )
        model_inputs: dict[str, Any] = pad_left(encoded["input_ids"], self.processor.tokenizer.pad_token_id)
        for name in ("pixel_values", "refer_boxes"):
            if name in encoded:
                model_inputs[name] = torch.stack([torch.as_tensor(row) for row in encoded[name]])
        model_inputs["target_sizes"] = [image_size(image) for image in images]
        return model_inputs

    def _forward(self, model_inputs: dict[str, Any], generate_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        sizes = model_inputs.pop("target_sizes")
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {}, return_dict_in_generate=True)
        output = self.model.generate(**model_inputs, **generate_kwargs)
        fields = {name: output[name] for name in _OUTPUT_FIELDS}
        asked = {name: model_inputs[name] for name in ("input_ids", "refer_boxes") if name in model_inputs}
        return {**fields, "inputs": asked, "target_sizes": sizes}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[GroundedText] | list[list[GroundedText]]:
        """Read the answers of a batch, one per image."""
        sizes = model_outputs["target_sizes"]
        answers = self.processor.post_process_grounded_generation(
            GromaGenerateDecoderOnlyOutput(**{name: model_outputs[name] for name in _OUTPUT_FIELDS}),
            inputs=model_outputs["inputs"],
            target_sizes=sizes,
        )
        per_image = len(answers) // len(sizes)
        if per_image == 1:
            return answers
        return [answers[start : start + per_image] for start in range(0, len(answers), per_image)]


def _is_stream(inputs: Any) -> bool:
    """Whether this is a stream of inputs: a generator, an iterator or a dataset."""
    if isinstance(inputs, (list, tuple, str, bytes, Mapping, np.ndarray, torch.Tensor)):
        return False
    return isinstance(inputs, Iterable) or (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"))


def _entries(inputs: Any) -> Iterator[Any]:
    # A dataset of torch has a length and rows; as an iterable it would not know its end.
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return (inputs[index] for index in range(len(inputs)))
    return iter(inputs)


def _samples_of_list(inputs: list[Any], question: Any, boxes: Any) -> list[_Sample]:
    dicts = [isinstance(entry, Mapping) for entry in inputs]
    if any(dicts):
        if not all(dicts):
            raise ValueError(
                f"`image` is a list of dicts, but entry {dicts.index(False)} is not one. Make all entries dicts, or "
                "all images."
            )
        if isinstance(question, (list, tuple)):
            raise ValueError("`question` is a list beside a list of dicts. Put each question into its dict.")
        return [_sample(entry, index, question, boxes) for index, entry in enumerate(inputs)]
    questions = _for_each_image("question", question, len(inputs), isinstance(question, (list, tuple)))
    boxes_of_images = _for_each_image("boxes", boxes, len(inputs), _is_batch_of_boxes(boxes))
    return [_sample(*entry) for entry in zip(inputs, range(len(inputs)), questions, boxes_of_images, strict=True)]


def _sample(entry: Any, index: int | None, question: str | None, boxes: Any) -> _Sample:
    """One input, an image or a dict, combined with the question and boxes for all. None in a dict means missing."""
    place = "The input" if index is None else f"Input {index}"
    if isinstance(entry, Mapping):
        if unknown := [key for key in entry if key not in SAMPLE_KEYS]:
            raise ValueError(
                f"{place} has {', '.join(map(repr, unknown))}, but a dict of the image-grounding pipeline has "
                "`image`, `question` (or `text`) and `boxes`. Rename or leave out the others "
                "(`dataset.select_columns([…])`)."
            )
        given = {key: value for key, value in entry.items() if value is not None}
        names = [name for name in ("question", "text") if name in given] + ["`question`"] * (question is not None)
        if len(names) > 1:
            raise ValueError(f"{place} has two questions, one in {names[0]!r} and one in {names[1]!r}. Pass one.")
        if "boxes" in given and boxes is not None:
            raise ValueError(f"{place} has `boxes`, and `boxes` was also given for all inputs. Pass them once.")
        entry, boxes = given.get("image"), given.get("boxes", boxes)
        question = given.get("question", given.get("text", question))
    if entry is None:
        raise ValueError(f"{place} has no `image`. Pass an image for each question.")
    if isinstance(question, (list, tuple)):
        raise ValueError(
            f"`question` has {len(question)} entries for one image. Pass one question, or a list of images."
        )
    if boxes is not None and (np.ndim(boxes) == 0 or (len(boxes) > 0 and np.ndim(boxes[0]) != 1)):
        raise ValueError(f"`boxes` of an image are a list of boxes, [[x1, y1, x2, y2]], got {boxes}.")
    return _Sample(entry, question, boxes)


def _batches(samples: Iterable[_Sample], batch_size: int) -> Iterator[dict[str, Any]]:
    samples, first = iter(samples), 0
    while batch := list(islice(samples, batch_size)):
        images, texts, boxes = map(list, zip(*batch))
        yield {"first": first, "images": images, "text": texts, "boxes": boxes}
        first += len(batch)


def _for_each_image(name: str, values: Any, num_images: int, is_list: bool) -> list[Any]:
    if not is_list:
        return [values] * num_images
    if len(values) != num_images:
        raise ValueError(
            f"`{name}` has {len(values)} entries for {num_images} images. Pass one for each image, or a single one "
            "for all."
        )
    return list(values)


def _is_batch_of_boxes(boxes: Any) -> bool:
    """Whether this is a list with one entry, `(n, 4)` boxes or None, for each image; else it is one `(n, 4)` set."""
    if isinstance(boxes, (np.ndarray, torch.Tensor)):
        return boxes.ndim == 3
    if not isinstance(boxes, (list, tuple)) or not all(entry is None or np.ndim(entry) > 0 for entry in boxes):
        return False
    return any(entry is None or len(entry) == 0 or np.ndim(entry[0]) > 0 for entry in boxes)


def register_image_grounding_pipeline(registry: PipelineRegistry) -> None:
    """Register `pipeline("image-grounding")`.

    Args:
        registry (`PipelineRegistry`): `transformers.pipelines.PIPELINE_REGISTRY`; importing this package does it.
    """
    registry.register_pipeline(
        IMAGE_GROUNDING_TASK,
        pipeline_class=ImageGroundingPipeline,
        pt_model=AutoModelForImageTextToText,
        type="multimodal",
    )


__all__ = ["ImageGroundingPipeline", "register_image_grounding_pipeline"]
