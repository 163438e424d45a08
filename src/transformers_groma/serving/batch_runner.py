"""Runs the model on a batch of requests: perceives their images once, and ends each row at its own length."""

import copy
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from ..perceived_images import PerceivedImage, PerceivedImages, perceive_pixels
from ..regions import Regions, regions_of_slots
from ..streaming import RowStopping, StepStreamer
from .conversations import Prompt, UprightImage
from .request import Request
from .row_answers import final_answer, row_regions, without_regions
from .sampling import RowSampling


class BatchRunner:
    """What the model's thread does with a batch.

    Args:
        model (`GromaForConditionalGeneration`): in evaluation mode.
        processor (`GromaProcessor`): of the model; for this thread alone.
        cached_images (`int`): perceived images that are kept, those used last.
    """

    def __init__(self, model: Any, processor: Any, cached_images: int) -> None:
        self.model = model
        self.processor = processor
        self.images = PerceivedImages(cached_images)
        self.limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.prompt_tokens = self.generated_tokens = 0
        self.cache_hits = self.cache_misses = 0
        self._counting = threading.Lock()
        self._generation_config = _greedy(model.generation_config)
        ends = self._generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])

    def can_join(self, batch: Sequence[Request], request: Request) -> bool:
        """Whether a request fits into a batch: no row may run over the model's last position until all have ended."""
        if self.limit is None:
            return True
        rows = [row for row in (*batch, request) if row.sampling is not None]
        longest = max((row.prompt_tokens for row in rows), default=0)
        return longest + max((row.sampling.max_new_tokens for row in rows), default=0) <= self.limit

    def known_regions(self, image: UprightImage) -> Regions | None:
        """All proposals of an image that was perceived before, in any thread."""
        perceived = self.images.get(image.key)
        if perceived is None:
            return None
        self._count_images(hits=1)
        return _proposals(perceived)

    # Not `inference_mode`: callers could not change tensors of their answers.
    @torch.no_grad()
    def run(self, requests: Iterable[Request]) -> None:
        """Answer requests; each ends as soon as it has its answer."""
        # A request that is given up lets go of its prompt at any time: what is asked is read once.
        asked = [(request, request.prompt, request.image) for request in requests]
        asked = [entry for entry in asked if not entry[0].is_ended]
        perceived = self._look([image for _, _, image in asked if image is not None])
        rows: list[tuple[Request, Prompt]] = []
        for request, prompt, image in asked:
            if prompt is not None and not request.is_ended:
                rows.append((request, prompt))
            elif prompt is None:
                request.succeed(_proposals(perceived[image.key]))
        if rows:
            self._generate(rows, perceived)

    def _look(self, images: Sequence[UprightImage]) -> dict[str, PerceivedImage]:
        """Images by their keys; those that are new are perceived in one call."""
        seen: dict[str, PerceivedImage] = {}
        new: dict[str, UprightImage] = {}
        for image in images:
            if image.key in seen or image.key in new:
                continue
            known = self.images.get(image.key)
            if known is None:
                new[image.key] = image
            else:
                seen[image.key] = known
        self._count_images(hits=len(images) - len(new), misses=len(new))
        if new:
            # Most have their pixel values already; one that was forgotten since the request came has not.
            ready = [image.with_pixel_values(self.processor) for image in new.values()]
            pixel_values = torch.stack([image.pixel_values for image in ready])
            looked = perceive_pixels(self.model, pixel_values, [image.size for image in ready])
            for key, image in zip(new, looked, strict=True):
                seen[key] = image
                self.images.put(key, image)
        return seen

    def _generate(self, rows: Sequence[tuple[Request, Prompt]], perceived: dict[str, PerceivedImage]) -> None:
        """Write the answers of a batch."""
        requests = [request for request, _ in rows]
        inputs = self._inputs(rows, perceived)

        def on_step(token_ids: Tensor) -> None:
            for request, token_id in zip(requests, token_ids.tolist(), strict=True):
                if not request.is_ended:
                    self._add(request, token_id)

        settings = [request.sampling for request in requests]
        limits = [sampling.max_new_tokens for sampling in settings]
        self.prompt_tokens += sum(request.prompt_tokens for request in requests)
        settings_of_batch = copy.deepcopy(self._generation_config)
        settings_of_batch.max_new_tokens = max(limits)
        self.model.generate(
            **inputs,
            generation_config=settings_of_batch,
            streamer=StepStreamer(on_step),
            logits_processor=[RowSampling(settings)],
            stopping_criteria=[
                RowStopping(inputs["input_ids"].shape[1], limits, lambda row: requests[row].is_ended),
            ],
        )

    def _inputs(self, rows: Sequence[tuple[Request, Prompt]], perceived: dict[str, PerceivedImage]) -> dict[str, Any]:
        """What `generate` takes, and the regions of each request."""
        prompts = [prompt for _, prompt in rows]
        pad_token_id = self._generation_config.pad_token_id
        input_ids = pad_sequence(
            [prompt.input_ids for prompt in prompts],
            batch_first=True,
            padding_value=0 if pad_token_id is None else pad_token_id,
            padding_side="left",
        )
        lengths = torch.tensor([len(prompt.input_ids) for prompt in prompts])
        is_on = torch.arange(input_ids.shape[1]) >= input_ids.shape[1] - lengths[:, None]
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": is_on.long()}
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        about = [prompt for prompt in prompts if prompt.image is not None]
        if about:
            features = [perceived[prompt.image.key].features for prompt in about]
            features = type(features[0]).stack(features)
            if any(len(prompt.refer_boxes) for prompt in about):
                boxes = pad_sequence([prompt.refer_boxes for prompt in about], batch_first=True)
                features = self.model.encode_regions(features, boxes.to(self.model.device))
            inputs["mm_encoder_outputs"] = {"image": features}
        row_of_image = 0
        for request, prompt in rows:
            if prompt.image is None:
                request.regions = without_regions()
                continue
            size = (prompt.image.size.height, prompt.image.size.width)
            request.regions = row_regions(features, row_of_image, size, len(prompt.refer_boxes))
            row_of_image += 1
        return inputs

    def _add(self, request: Request, token_id: int) -> None:
        """Add an id to an answer, and end the answer if it is the last."""
        regions = request.regions
        self.generated_tokens += 1
        request.add(token_id)
        is_stop = token_id in self._ends
        if regions is not None and (is_stop or len(request.ids) >= request.sampling.max_new_tokens):
            reason = "stop" if is_stop else "length"
            tokenizer = self.processor.tokenizer
            request.succeed(final_answer(tokenizer, request.ids, regions, reason, request.prompt_tokens))

    def _count_images(self, hits: int = 0, misses: int = 0) -> None:
        with self._counting:
            self.cache_hits += hits
            self.cache_misses += misses


def _greedy(config: GenerationConfig) -> GenerationConfig:
    """A model's generation settings for batches of any requests: one row for each, which ends by itself.

    The token with the largest score is taken, always: sampling is `RowSampling`'s.
    """
    config = copy.deepcopy(config)
    config.update(
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        num_beams=1,
        num_return_sequences=1,
        max_length=None,
        max_time=None,
        stop_strings=None,
        prompt_lookup_num_tokens=None,
        use_cache=True,
        return_dict_in_generate=False,
    )
    return config


def _proposals(perceived: PerceivedImage) -> Regions:
    features = perceived.features
    size = (perceived.size.height, perceived.size.width)
    return regions_of_slots(features.region_boxes, features.region_scores, features.region_mask, [size])[0]


__all__ = ["BatchRunner"]
