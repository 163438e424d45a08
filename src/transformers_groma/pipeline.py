"""`pipeline("image-grounding")`: an image, a question and boxes in, grounded text out."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.image_utils import ImageInput
from transformers.pipelines.base import PipelineRegistry

from .answer_masks import check_mask_decoder
from .answer_settings import check_flags
from .answering import REGION_FIELDS, Prompt, longest_prompt, read_answers
from .boxes import BoxFormat
from .grounding import GroundedText
from .hub_models import find_model, loading_model
from .image_inputs import ImageSize, image_size, read_upright, shortened
from .models.processing_inputs import check_prompt_length, pad_left
from .pipeline_samples import Sample, batches_of, is_stream, sample_of, samples_of_list, stream_entries
from .pointed_regions import find_regions, readable_box, refer_boxes_of
from .region_inputs import is_region_set, read_regions
from .verb_inputs import one_of
from .verbs import GroundingVerbs

IMAGE_GROUNDING_TASK = "image-grounding"
# What the processor makes of a sample besides its image.
_TEXT_INPUTS = ("input_ids", "attention_mask", "refer_boxes")


class ImageGroundingPipeline(GroundingVerbs):
    """Answers questions about images with text whose phrases are tied to boxes.

    Its verbs (`caption`, `describe`, `locate`, `locate_all`, `segment`, `ask`, `chat`) need no knowledge of prompts.
    The pipeline itself takes whole samples, also from generators and datasets, and questions with marks.

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
            OSError: no such folder, model or revision, or no access to it; the message says what to do.

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
        find_model(model, kwargs.get("revision"), kwargs.get("token"))
        # Here and not above: that module imports this one, to register the task.
        from transformers import pipeline

        with loading_model(model, kwargs.get("revision")):
            return pipeline(IMAGE_GROUNDING_TASK, model=os.fspath(model), pipeline_class=cls, **kwargs)

    def __call__(
        self,
        image: ImageInput | Mapping[str, Any] | Iterable[ImageInput | Mapping[str, Any]] | None = None,
        question: str | Sequence[str] | None = None,
        boxes: Any = None,
        *,
        regions: Any = None,
        batch_size: int | None = None,
        **kwargs,
    ) -> GroundedText | list[GroundedText] | Iterator[GroundedText]:
        """Ask about one image or several.

        Args:
            image (PIL image, array, tensor, path or URL, `dict`, or many of these): the image. Files and PIL images
                are turned upright by their EXIF tag. A `dict` is a whole sample: `image` and, as needed, `question`
                (or `text`) and `boxes` (or `regions`). Many can be a list, a generator or a dataset with these
                columns.
            question (`str` or `list[str]`, *optional*): one for all images or one for each, with a `<region>` mark for
                each region; `[grounding]` at its head asks for a grounded answer. All other control tokens in it
                (`<image>`, `<p>`, `<r5>`, `</s>`, …) are plain text, unless `parse_tokens` is set. Without it the
                processor's default: describe the regions or, without any, the image.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one for each image, *optional*): regions
                that the question points at; one set serves all images. `xyxy` in absolute pixels of the upright image.
            regions (*optional*): the same under a name that also fits clicks, scribbles and masks, in all forms that
                [`read_region`] takes. Not both.
            batch_size (`int`, *optional*): how many images of many go through the model together; 1 by default.
            masks (`bool`, *optional*): whether the regions that phrases name, and those of the question, should have
                masks; it needs a model with a mask decoder.
            box_format (`str`, *optional*): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of boxes that are given as
                numbers.
            normalized (`bool`, *optional*): whether boxes and points that are given as numbers are fractions of the
                image size.
            parse_tokens (`bool`, *optional*): whether control tokens in `question` are tokens of the model, for those
                who write whole prompts, or questions with `<p>…</p>`, themselves. Never set it for texts of other
                people.
            max_new_tokens (`int`, *optional*): longest answer; 256 by default.
            generate_kwargs (`dict`, *optional*): everything else that `model.generate` takes.
            **kwargs: `num_workers` and the parameters above; the last six can also be given to `pipeline(…)`.

        Returns:
            `GroundedText`, boxes `xyxy` in absolute pixels of the upright image; for a list of images a list, for a
            generator or dataset an iterator, which answers as it is read. With `num_return_sequences` above 1 a list
            for each image.

        Raises:
            TypeError: an unknown argument.
            ValueError: bad images, questions or regions, `masks` of a model without a mask decoder, or a prompt that
                is too long for the model, before any of the questions is answered; the message says what to do.
        """
        # Wrong arguments are named before any work.
        _, forward, _ = self._sanitize_parameters(
            **{name: value for name, value in kwargs.items() if name != "num_workers"}
        )
        if {**self._forward_params, **forward}.get("masks"):
            check_mask_decoder(self.model, "`masks=True`")
        batch_size = next((size for size in (batch_size, self._batch_size) if size is not None), 1)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}.")
        if image is None:
            raise ValueError("`image` is missing. Pass an image, a dict with an `image`, or many of these.")
        given, name = one_of(boxes, regions)
        if is_stream(image):
            if isinstance(question, (list, tuple)) or not is_region_set(given):
                raise ValueError(
                    f"A generator or dataset takes one `question` and one set of `{name}` for all images. Yield dicts "
                    f"with `image`, `question` and `{name}` for one each."
                )
            entries = enumerate(stream_entries(image))
            samples = (sample_of(entry, index, question, given, name) for index, entry in entries)
            return self._answer_stream(samples, batch_size, kwargs)

        is_list = isinstance(image, (list, tuple))
        samples = (
            samples_of_list(image, question, given, name)
            if is_list
            else [sample_of(image, None, question, given, name)]
        )
        self._check_lengths([sample.question for sample in samples], [sample.regions for sample in samples], kwargs)
        batches = list(batches_of(samples, batch_size))
        if not batches:
            return []
        # Each batch is one input: the processor pads and checks better than the library's collator, which refuses a
        # batch in which only some samples have boxes.
        answers = [answer for batch in super().__call__(batches, batch_size=1, **kwargs) for answer in batch]
        return answers if is_list else answers[0]

    def _answer_stream(
        self, samples: Iterable[Sample], batch_size: int, kwargs: Mapping[str, Any]
    ) -> Iterator[GroundedText]:
        def checked_batches() -> Iterator[dict[str, Any]]:
            for batch in batches_of(samples, batch_size):
                self._check_lengths(batch["text"], batch["regions"], kwargs)
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
        masks: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            raise TypeError(
                f"The image-grounding pipeline does not take {', '.join(f'`{name}`' for name in unknown)}. It takes "
                "`image`, `question`, `boxes`, `regions`, `batch_size`, `num_workers`, `masks`, `box_format`, "
                "`normalized`, `parse_tokens`, `max_new_tokens` and `generate_kwargs` (a dict: everything else that "
                "`model.generate` takes)."
            )
        if generate_kwargs is not None and not isinstance(generate_kwargs, Mapping):
            raise ValueError(
                f"`generate_kwargs` must be a dict, as in {{'do_sample': True}}, got {generate_kwargs!r}."
            )
        if masks is not None:
            check_flags(masks=masks)
        preprocess = {"box_format": box_format, "normalized": normalized, "parse_tokens": parse_tokens}
        preprocess = {name: value for name, value in preprocess.items() if value is not None}
        if max_new_tokens is not None:
            if "max_new_tokens" in (generate_kwargs or {}):
                raise ValueError("`max_new_tokens` was given twice, also in `generate_kwargs`. Pass it once.")
            generate_kwargs = {**(generate_kwargs or {}), "max_new_tokens": max_new_tokens}
        forward = {"generate_kwargs": generate_kwargs, "masks": masks}
        return preprocess, {name: value for name, value in forward.items() if value is not None}, {}

    def _check_lengths(
        self, questions: Sequence[str | None], regions: Sequence[Any], parameters: Mapping[str, Any]
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
        # Without a question it is the number of regions that makes the text.
        samples = zip(questions, [0 if entry is None else len(entry) for entry in regions], strict=True)
        samples = [(question, num_regions if question is None else 0) for question, num_regions in samples]
        for question, num_regions in dict.fromkeys(samples):
            # The processor says what is wrong with other questions.
            if question is None or (isinstance(question, str) and question.strip()):
                length = self.processor.count_tokens(question, num_regions, parse_tokens=parse_tokens)
                check_prompt_length(length, max_new_tokens, limit)

    def preprocess(
        self,
        inputs: Mapping[str, Any],
        parse_tokens: bool = False,
        box_format: BoxFormat = "xyxy",
        normalized: bool = False,
    ) -> dict[str, Any]:
        """Turn a batch of images, texts and regions into model inputs."""
        images = [
            read_upright(image, f"`images` of sample {index}")
            for index, image in enumerate(inputs["images"], inputs["first"])
        ]
        sizes = [ImageSize(*image_size(image)) for image in images]
        regions = [
            read_regions(given, size, box_format, normalized, name)
            for given, size, name in zip(inputs["regions"], sizes, inputs["names"], strict=True)
        ]
        texts = [
            self.processor.question_wording.default(len(of_image)) if text is None else text
            for text, of_image in zip(inputs["text"], regions, strict=True)
        ]
        boxes = [[readable_box(prompt.box, size) for prompt in of_image] for of_image, size in zip(regions, sizes)]
        encoded = self.processor(images=images, text=texts, boxes=boxes, parse_tokens=parse_tokens)
        model_inputs: dict[str, Any] = pad_left(encoded["input_ids"], self.processor.tokenizer.pad_token_id)
        for name, rows in encoded.items():
            if name not in ("input_ids", "attention_mask"):
                model_inputs[name] = torch.stack([torch.as_tensor(row) for row in rows])
        return {**model_inputs, "target_sizes": sizes, "regions": regions}

    def _forward(
        self, model_inputs: dict[str, Any], generate_kwargs: dict[str, Any] | None = None, masks: bool = False
    ) -> dict[str, Any]:
        sizes = model_inputs.pop("target_sizes")
        regions = model_inputs.pop("regions")
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs or {}, return_dict_in_generate=True)
        asked = {name: model_inputs[name] for name in ("input_ids", "refer_boxes") if name in model_inputs}
        has_clicks = any(prompt.points for of_image in regions for prompt in of_image)
        if not masks and not has_clicks:
            prompt = Prompt(model_inputs, asked, {}, sizes, None, [])
            return {"answers": read_answers(self, prompt, self.model.generate(**model_inputs, **generate_kwargs))}
        # Clicks find their regions before the answer, masks are decoded after it: from one look at the images.
        images = {name: rows for name, rows in model_inputs.items() if name not in _TEXT_INPUTS}
        refer_boxes = model_inputs.get("refer_boxes")
        if has_clicks:
            features = self.model.get_image_features(**images, return_dict=True)
            found = find_regions(self.model, features.split(), sizes, regions)
            asked["refer_boxes"] = refer_boxes_of(found, sizes).to(self.model.device)
            features = self.model.encode_regions(features, asked["refer_boxes"])
        else:
            features = self.model.get_image_features(**images, refer_boxes=refer_boxes, return_dict=True)
            found = find_regions(self.model, [], sizes, regions)
        prompt = Prompt(
            inputs={
                **{name: model_inputs[name] for name in ("input_ids", "attention_mask")},
                "mm_encoder_outputs": {"image": features},
            },
            asked=asked,
            regions={name: features[name] for name in REGION_FIELDS},
            sizes=sizes,
            features=features,
            user_masks=[[region.mask for region in of_image] for of_image in found],
        )
        output = self.model.generate(**prompt.inputs, **generate_kwargs)
        return {"answers": read_answers(self, prompt, output, masks)}

    def postprocess(self, model_outputs: dict[str, Any]) -> list[GroundedText] | list[list[GroundedText]]:
        """The answers of a batch, one per image."""
        return model_outputs["answers"]


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
