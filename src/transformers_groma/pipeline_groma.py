"""`pipeline("image-grounding")`: an image, a question and boxes in, grounded text out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.image_utils import ImageInput
from transformers.pipelines.base import Pipeline, PipelineRegistry

from .boxes import BoxFormat
from .grounding import GroundedText
from .modeling_groma_outputs import GromaGenerateDecoderOnlyOutput
from .processing_inputs import check_prompt_length, open_image, upright_image_size

IMAGE_GROUNDING_TASK = "image-grounding"
_OUTPUT_FIELDS = ("sequences", "region_boxes", "region_scores", "region_mask")


class ImageGroundingPipeline(Pipeline):
    """Answers questions about images with text whose phrases are tied to boxes.

    Example:

    ```python
    >>> from PIL import Image
    >>> import transformers_groma
    >>> from transformers import pipeline

    >>> pipe = pipeline("image-grounding", model="hub_configs/groma-tiny")
    >>> image = Image.new("RGB", (320, 240), "white")
    >>> answer = pipe(image, "What is <region>?", boxes=[[20, 30, 200, 180]], max_new_tokens=8)
    >>> [round(value) for value in answer.regions[0].box.tolist()]  # the user's box is the first region
    [20, 30, 200, 180]

    ```"""

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        question: str | Sequence[str] | None = None,
        boxes: Any = None,
        *,
        batch_size: int | None = None,
        **kwargs,
    ) -> GroundedText | list[GroundedText]:
        """Ask about one image or several.

        Args:
            image (PIL image, array, tensor, path or URL, or a list of these): the image. Files and PIL images are turned
                upright by their EXIF tag.
            question (`str` or `list[str]`, *optional*): one for all images or one for each, with a `<region>` mark for each
                box; `[grounding]` at its head asks for a grounded answer. All other control tokens in it (`<image>`, `<p>`, `<r5>`,
                `</s>`, …) are plain text, unless `parse_tokens` is set. Without it the processor's default: describe the boxes or, without boxes, the image.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one for each image, *optional*): regions that
                the question points at; one set serves all images. `xyxy` in absolute pixels of the upright image.
            batch_size (`int`, *optional*): how many images of a list go through the model together; 1 by default.
            box_format (`str`, *optional*): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of `boxes`.
            normalized (`bool`, *optional*): whether `boxes` are fractions of the image size.
            parse_tokens (`bool`, *optional*): whether control tokens in `question` are tokens of the model, for those who write whole
                prompts, or questions with `<p>…</p>`, themselves. Never set it for texts of other people.
            max_new_tokens (`int`, *optional*): longest answer; 256 by default.
            generate_kwargs (`dict`, *optional*): everything else that `model.generate` takes.
            **kwargs: `num_workers` and the parameters above; the last five can also be given to `pipeline(…)`.

        Returns:
            `GroundedText`, boxes `xyxy` in absolute pixels of the upright image; for a list of images a list. With
            `num_return_sequences` above 1 a list for each image.

        Raises:
            ValueError: bad images, questions or boxes, or a prompt that is too long for the model, before any of the questions is
                answered; the message says what to do.
        """
        is_list = isinstance(image, (list, tuple))
        images = list(image) if is_list else [image]
        questions = _for_each_image("question", question, len(images), isinstance(question, (list, tuple)))
        boxes_of_images = _for_each_image("boxes", boxes, len(images), is_list and _is_batch_of_boxes(boxes))
        for entry in boxes_of_images:
            if entry is not None and (np.ndim(entry) == 0 or (len(entry) > 0 and np.ndim(entry[0]) != 1)):
                raise ValueError(f"`boxes` of an image are a list of boxes, [[x1, y1, x2, y2]], got {entry}.")
        self._check_lengths(questions, boxes_of_images, kwargs)
        batch_size = batch_size or self._batch_size or 1
        batches = [
            {
                "first": start,
                "images": images[start : start + batch_size],
                "text": None if question is None else questions[start : start + batch_size],
                "boxes": boxes_of_images[start : start + batch_size],
            }
            for start in range(0, len(images), batch_size)
        ]
        if not batches:
            return []
        # Each batch is one input: the processor pads and checks better than the library's collator, which refuses a batch
        # in which only some samples have boxes.
        answers = [answer for batch in super().__call__(batches, batch_size=1, **kwargs) for answer in batch]
        return answers if is_list else answers[0]

    def _sanitize_parameters(
        self,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        parse_tokens: bool | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
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
        """Refuse questions whose prompt and answer are more than the model reads, before any is answered."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
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
            # What is wrong with other questions the processor says.
            if question is None or (isinstance(question, str) and question.strip()):
                length = self.processor.count_tokens(question, num_boxes, parse_tokens=parse_tokens)
                check_prompt_length(length, max_new_tokens, limit)

    def preprocess(self, inputs: Mapping[str, Any], parse_tokens: bool = False, **box_parameters) -> dict[str, Any]:
        """A batch of images, texts and boxes as model inputs."""
        image_processor = self.processor.image_processor
        images = [
            open_image(image, index, image_processor) for index, image in enumerate(inputs["images"], inputs["first"])
        ]
        model_inputs = self.processor(
            images=images,
            text=inputs["text"],
            boxes=inputs["boxes"],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            parse_tokens=parse_tokens,
            **box_parameters,
        )
        sizes = [upright_image_size(image, index, None) for index, image in enumerate(images)]
        return {**model_inputs, "target_sizes": sizes}

    def _forward(self, model_inputs: dict[str, Any], generate_kwargs: dict[str, Any] | None = None) -> dict[str, Any]:
        sizes = model_inputs.pop("target_sizes")
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {}, return_dict_in_generate=True)
        output = self.model.generate(**model_inputs, **generate_kwargs)
        fields = {name: output[name] for name in _OUTPUT_FIELDS}
        asked = {name: model_inputs[name] for name in ("input_ids", "refer_boxes") if name in model_inputs}
        return {**fields, "inputs": asked, "target_sizes": sizes}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[GroundedText] | list[list[GroundedText]]:
        """The answers of a batch, one for each image."""
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


def _for_each_image(name: str, values: Any, num_images: int, is_list: bool) -> list[Any]:
    if not is_list:
        return [values] * num_images
    if len(values) != num_images:
        raise ValueError(
            f"`{name}` has {len(values)} entries for {num_images} images. Pass one for each image, or a single one for all."
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
    """Make `pipeline("image-grounding")` known.

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
