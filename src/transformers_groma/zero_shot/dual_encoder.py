"""Encodes texts and images with any dual encoder of transformers: CLIP, SigLIP, ALIGN and their kind; texts once."""

import copy
import inspect
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .._run_ahead import run_ahead
from ..image_inputs import shortened
from ..loading import best_device, usable_device
from ..loading_options import LoadingOptions
from .encoder_interface import (
    active_adapters,
    check_dual_encoder,
    check_tokenizer,
    context_length,
    is_sigmoid_encoder,
    logit_scale_and_bias,
)
from .encoder_loading import load_encoder
from .image_preparation import Crop, ImagePreparation
from .views import check_count

logger = logging.getLogger(__name__)

# Views, or texts, that go through the encoder in one call.
BATCH_SIZE = 256
# On a CPU an image of a small encoder takes up to twice as long in a call of 256 as in one of 64, which caches hold. A
# whole image and its 60 views fit into one call.
CPU_IMAGES = 64
# Texts whose features are kept: 256 MB at the 512 numbers of a CLIP ViT-B. The ones used longest ago make room.
MAX_KEPT_TEXTS = 131_072
# Letters of a text that a message shows.
_SHOWN = 100


class DualEncoder:
    """An encoder of images and one of texts, whose features are compared by their cosine.

    Any model with `get_image_features`, `get_text_features` and a logit scale: CLIP, SigLIP, SigLIP 2, ALIGN, AltCLIP,
    Chinese CLIP, MetaCLIP 2 and others. Features come back in float32 and of length 1, on the CPU, whatever the dtype
    and device of the model. The features of a text are kept, so that a text goes through the model once; they are
    dropped when training changes the weights.

    Args:
        model (`PreTrainedModel`): put into evaluation mode.
        processor (`ProcessorMixin`): with an `image_processor` and a `tokenizer`, such as a `CLIPProcessor`. The image
            processor prepares each image as it would for the library's own pipeline.
        batch_size (`int`): images, or texts, in one call of the model; it bounds memory.
        max_kept_texts (`int`): texts whose features are kept, at 4 bytes a number.

    Raises:
        ValueError: a model that is not a dual encoder or whose logit scale is not finite, a processor without one of
            its halves, or a tokenizer that cannot pad or knows no words.

    Example:
    >>> encoder = DualEncoder.from_pretrained("tests/fixtures/golden_wca/clip_b2_c4/model", device="cpu")
    >>> encoder.encode_texts(["a round red toy.", "a brown box made of planks."]).shape
    torch.Size([2, 24])
    """

    def __init__(
        self, model: Any, processor: Any, batch_size: int = BATCH_SIZE, max_kept_texts: int = MAX_KEPT_TEXTS
    ) -> None:
        check_dual_encoder(model)
        for name, value in (("batch_size", batch_size), ("max_kept_texts", max_kept_texts)):
            check_count(value, name)
        for half in ("image_processor", "tokenizer"):
            if getattr(processor, half, None) is None:
                raise ValueError(
                    f"`processor` is a {type(processor).__name__} without `{half}`. Pass the model's processor, "
                    "AutoProcessor.from_pretrained(…), or CLIPProcessor(image_processor=…, tokenizer=…)."
                )
        check_tokenizer(processor.tokenizer, f"this {type(model).__name__}")
        logit_scale_and_bias(model)  # an error here, not after hours of encoding
        self.model = model.eval()
        self.image_processor, self.tokenizer = processor.image_processor, processor.tokenizer
        self.batch_size = batch_size
        self.max_kept_texts = max_kept_texts
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self._texts_state = self.state
        self._noted_a_cut = False
        self._width: int | None = None
        self._masks_siglip = False
        self._pipeline_twin: DualEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        **kwargs: Any,
    ) -> "DualEncoder":
        """Load an encoder with its processor, from a folder or the Hub.

        Args:
            name (`str` or path): folder or Hub name, such as `openai/clip-vit-base-patch32`.
            device (`str` or `torch.device`, *optional*): the best one of this machine by default.
            dtype (`str`): of the weights: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for as they were saved.
            revision (`str`, *optional*): branch, tag or commit of a model on the Hub.
            **kwargs: of the constructor.

        Raises:
            OSError: there is no such model.
            ValueError: it is not a dual encoder, or the device cannot be used.
        """
        device = best_device() if device is None else usable_device(device)
        return cls(*load_encoder(name, device, LoadingOptions(dtype=dtype, revision=revision)), **kwargs)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """The features of texts. Only texts that are not kept from an earlier call go through the model.

        Args:
            texts (`Sequence[str]`): any number; equal ones are encoded once. One that is longer than the model reads
                is cut at its end, as the library does it; the first one is named in a warning.

        Returns:
            `Tensor` of shape `(n, D)`, float32, of length 1, on the CPU.

        Raises:
            ValueError: something that is not a text, or features that are not finite or all zero.
        """
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a list of texts, got the text {shortened(texts)}: pass [{texts!r}].")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"`texts` must be texts with at least one character each, got {text!r}.")
        if self._texts_state != self.state:
            self.forget_texts()
        found = {text: self._texts[text] for text in texts if text in self._texts}
        # Texts of one length together: less padding.
        new = sorted(set(texts) - set(found), key=lambda text: (len(text), text))
        for batch in batches(new, self.batch_size):
            # Copies: a row of the batch would keep the whole batch in memory.
            found |= {text: row.clone() for text, row in zip(batch, self._encode_new_texts(batch), strict=True)}
        for text in texts:
            self._texts[text] = found[text]
            self._texts.move_to_end(text)
        while len(self._texts) > self.max_kept_texts:
            self._texts.popitem(last=False)
        return torch.stack([found[text] for text in texts]) if texts else torch.zeros(0, 0)

    def _encode_new_texts(self, texts: list[str]) -> Tensor:
        inputs = self._text_inputs(texts)
        features = self._features(self.model.get_text_features, inputs, "texts")
        return self._normalized(features, lambda index: f"the text {_cut(texts[index])!r}")

    def _text_inputs(self, texts: list[str]) -> Any:
        longest = context_length(self.model, self.tokenizer)
        self._note_a_cut(texts, longest)
        # SigLIP learned with padding, and looks at the last place; the others are padded to the longest text.
        padding = "max_length" if is_sigmoid_encoder(self.model) else True
        inputs = self.tokenizer(
            texts, padding=padding, truncation=longest is not None, max_length=longest, return_tensors="pt"
        )
        if is_sigmoid_encoder(self.model) and not self._masks_siglip:
            inputs.pop("attention_mask", None)  # it learned to read the padding too
        return inputs

    def _note_a_cut(self, texts: list[str], longest: int | None) -> None:
        if longest is None or self._noted_a_cut:
            return
        for text, ids in zip(texts, self.tokenizer(texts, verbose=False)["input_ids"], strict=True):
            if len(ids) > longest:
                self._noted_a_cut = True
                logger.warning(
                    "A text of %d tokens is cut to the %d that %s reads: %r. More may be cut; this is said once.",
                    *(len(ids), longest, type(self.model).__name__, _cut(text)),
                )
                return

    @torch.no_grad()
    def encode_images(
        self, images: Iterable[Image.Image | Crop], name: Callable[[int], str] = lambda index: f"image {index}"
    ) -> Tensor:
        """The features of images, or of views of them.

        Args:
            images (`Iterable` of `PIL.Image.Image` or [`Crop`]): upright, of mode RGB. They are asked for `batch_size`
                at a time, so that a generator of images holds no more in memory.
            name (`Callable[[int], str]`): how an error names an image, by its number.

        Returns:
            `Tensor` of shape `(n, D)`, float32, of length 1, on the CPU.

        Raises:
            ValueError: features that are not finite or all zero.
        """
        features: list[Tensor] = []
        count = 0
        calls = batches(images, self._images_in_a_call)
        prepare = ImagePreparation(self.image_processor)
        # While the model works on one batch, a thread prepares the next, unless the model has all cores already.
        for inputs in run_ahead(prepare, calls, ahead=1) if self._has_a_core_to_spare else map(prepare, calls):
            of_batch = self._features(self.model.get_image_features, inputs, "images")
            features.append(self._normalized(of_batch, lambda index, first=count: name(first + index)))
            count += len(of_batch)
        return torch.cat(features) if features else torch.zeros(0, 0)

    @property
    def _has_a_core_to_spare(self) -> bool:
        return self.model.device.type != "cpu" or torch.get_num_threads() < (os.cpu_count() or 1)

    @property
    def _images_in_a_call(self) -> int:
        return min(self.batch_size, CPU_IMAGES) if self.model.device.type == "cpu" else self.batch_size

    def _features(self, function: Callable[..., Any], inputs: Any, kind: str) -> Tensor:
        """Call the model's function for images or texts with those of the inputs that it takes."""
        self.model.eval()  # training may have gone on since the last call
        output = function(**self._taken(function, inputs))
        # transformers 5 returns an output with the projected features as `pooler_output`; other code the features.
        features = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        name, is_tensor = type(self.model).__name__, isinstance(features, Tensor)
        if not is_tensor or features.ndim != 2:
            what = f"shape {tuple(features.shape)}" if is_tensor else f"type {type(features).__name__}"
            raise ValueError(
                f"{name} gives features of {what} for {kind}, not one vector each, so it is not a dual encoder that "
                "can be used here. Pass a CLIP, SigLIP, ALIGN or similar."
            )
        self._width = self._width or features.shape[1]
        if features.shape[1] != self._width:
            raise ValueError(
                f"{name} gives features of {self._width} and {features.shape[1]} numbers to images and texts, which "
                "cannot be compared: it is not a dual encoder. Pass a CLIP, SigLIP, ALIGN or similar."
            )
        return features

    def _taken(self, function: Callable[..., Any], inputs: Any) -> dict[str, Tensor]:
        """Those of the inputs that a function takes, where and as the model computes."""
        parameters = inspect.signature(function).parameters.values()
        named = {parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.VAR_KEYWORD}
        # A wrapper that names nothing hands everything on.
        taken = {key: value for key, value in inputs.items() if key in named or named <= {"self", "args"}}
        return {
            key: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for key, value in taken.items()
        }

    def _normalized(self, features: Tensor, name: Callable[[int], str]) -> Tensor:
        features = features.float().cpu()
        # Zeros are alike to nothing: all labels would get one score. Half precision rounds small numbers to them.
        is_finite, is_zero = features.isfinite().all(dim=-1), (features == 0).all(dim=-1)
        is_broken = ~is_finite | is_zero
        if is_broken.any():
            remedy = "" if self.model.dtype == torch.float32 else ", or load the model with `dtype='float32'`"
            what = "all zero" if is_zero[is_broken][0] else "NaN or infinite"
            raise ValueError(
                f"{type(self.model).__name__} gives features that are {what} for "
                f"{name(int(is_broken.nonzero()[0]))}. Check the weights of the model{remedy}."
            )
        return torch.nn.functional.normalize(features, dim=-1)

    def as_pipeline(self) -> "DualEncoder":
        """The encoder that prepares texts exactly as the library's zero-shot pipeline does.

        SigLIP was trained without a mask, and the tokenizers of its released models make none. Where a tokenizer makes
        one all the same, `encode_texts` leaves it out, but the pipeline hands it to the model.

        Returns:
            `DualEncoder`: this one, or for such a tokenizer another one with the same model.
        """
        needs_mask = is_sigmoid_encoder(self.model) and "attention_mask" in self.tokenizer.model_input_names
        if self._masks_siglip or not needs_mask:
            return self
        if self._pipeline_twin is None:  # kept, as it keeps features of texts
            self._pipeline_twin = copy.copy(self)
            self._pipeline_twin._texts, self._pipeline_twin._masks_siglip = OrderedDict(), True
        return self._pipeline_twin

    @property
    def state(self) -> tuple[Any, ...]:
        """Changes when weights change in place, as in a step of training, or dtype, device or active adapters do."""
        parameters = self.model.parameters()
        steps = sum(parameter._version for parameter in parameters if not parameter.is_inference())
        return steps, self.model.dtype, self.model.device, active_adapters(self.model)

    def forget_texts(self) -> None:
        """Drop the kept features of texts; needed after weights were written through `parameter.data`."""
        self._texts.clear()
        self._texts_state = self.state
        if self._pipeline_twin is not None:
            self._pipeline_twin.forget_texts()

    def logits(self, scores: Tensor) -> Tensor:
        """What the encoder makes of similarities: its own scale times them, plus its bias if it has one.

        Args:
            scores (`Tensor` of any shape): cosines, or other similarities of their kind.

        Returns:
            `Tensor` of the same shape, float32.
        """
        scale, bias = logit_scale_and_bias(self.model)
        return scores.float() * scale + bias

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probabilities of labels, as the library's zero-shot pipeline computes them from similarities.

        Args:
            scores (`Tensor` of shape `(…, C)`): similarities of C labels.

        Returns:
            `Tensor` of the same shape, float32. Those of SigLIP are independent of each other (a sigmoid) and may sum
            to anything; those of the other encoders sum to 1 (a softmax), so that of a single label is 1.
        """
        logits = self.logits(scores)
        return logits.sigmoid() if is_sigmoid_encoder(self.model) else logits.softmax(dim=-1)


def _cut(text: str) -> str:
    """A text as a message shows it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items each, the last one shorter; the items are asked for as they are needed."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


__all__ = ["BATCH_SIZE", "MAX_KEPT_TEXTS", "DualEncoder", "batches"]
