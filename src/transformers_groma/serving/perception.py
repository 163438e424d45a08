"""What requests are about: images that are looked at once, regions that are found in them, masks of answers."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..answer_masks import shown_regions
from ..boxes import boxes_in_pixels
from ..exact_boxes import exact_boxes
from ..perceived_images import PerceivedImage, PerceivedImages, perceive_inputs
from ..pointed_regions import has_region_proposer
from ..regions import Regions, regions_of_slots
from .conversations import Prompt, UprightImage
from .pointing import Pointing, ResolvedPointing, resolve_pointing
from .request import Request
from .row_answers import RowRegions, final_answer, row_regions, without_regions
from .row_masks import DecodedMasks, MaskSource


class SeenQuestion(NamedTuple):
    """A question whose image has been looked at.

    Args:
        request (`Request`): the request.
        prompt (`Prompt`): what is asked.
        seen (`PerceivedImage`, *optional*): its image; `None` for a question about none.
        resolved (`ResolvedPointing`): the regions that it points at.
    """

    request: Request
    prompt: Prompt
    seen: PerceivedImage | None
    resolved: ResolvedPointing


class Perception:
    """The part of answering that looks: before the words, and for masks after them. Whoever writes the words.

    Args:
        model (`PreTrainedModel`): in evaluation mode; its language model is not used.
        cached_images (`int`): perceived images that are kept, those used last.

    Attributes:
        images (`PerceivedImages`): the images that are kept.
        segment_token (`int`, *optional*): of a family that writes a token for each mask: its id.
        cache_hits (`int`), cache_misses (`int`): images that had been looked at before, and those that had not.
    """

    def __init__(self, model: Any, cached_images: int) -> None:
        self.model = model
        self.images = PerceivedImages(cached_images)
        self.segment_token: int | None = getattr(model.config, "seg_token_id", None)
        self.cache_hits = self.cache_misses = 0
        self._counting = threading.Lock()

    def known_regions(self, image: UprightImage) -> Regions | None:
        """All proposals of an image that was perceived before, in any thread."""
        perceived = self.images.get(image.key)
        if perceived is None:
            return None
        self._count_images(hits=1)
        return _proposals(perceived)

    def see(self, requests: Iterable[Request], processor: Any) -> list[SeenQuestion]:
        """Look at the images of requests, and answer what needs no language model.

        Args:
            requests (`Iterable[Request]`): prepared ones.
            processor (`ProcessorMixin`): of the model; used by one thread at a time.

        Returns:
            `list[SeenQuestion]`: the questions among them.
        """
        # A request that is given up lets go of its prompt at any time: what is asked is read once.
        entries = [(request, request.asked, request.image) for request in requests]
        entries = [entry for entry in entries if not entry[0].is_ended]
        # Regions that users point at are encoded after the look, from maps that the look has made.
        keeps_maps = has_region_proposer(self.model) and any(
            isinstance(asked, Prompt) and len(asked.pointing) > 0 for _, asked, _ in entries
        )
        perceived = self._look([image for _, _, image in entries if image is not None], processor, keeps_maps)
        rows: list[SeenQuestion] = []
        for request, asked, image in entries:
            seen = None if image is None else perceived[image.key]
            try:
                if isinstance(asked, Prompt):
                    rows.append(SeenQuestion(request, asked, seen, self._resolved(asked.pointing, seen)))
                elif isinstance(asked, Pointing):
                    self._point(request, asked, seen)
                else:
                    request.succeed(_proposals(seen))
            except ValueError as error:  # what it points at cannot be found; the others continue
                request.fail(error)
        return [row for row in rows if not row.request.is_ended]

    def features_of(self, rows: Sequence[SeenQuestion]) -> Any:
        """The features of the images of questions as a batch, and in each request the regions that it can name.

        Args:
            rows (`Sequence[SeenQuestion]`): the questions; those without an image have no row in the batch.

        Returns:
            `ModelOutput`, *optional*: with the regions that users point at; `None` if no question has an image.
        """
        about = [row for row in rows if row.seen is not None]
        features = None
        if about:
            features = type(about[0].seen.features).stack([row.seen.features for row in about])
            if any(len(row.resolved.boxes) for row in about):
                boxes = pad_sequence([row.resolved.boxes for row in about], batch_first=True)
                features = self.model.encode_regions(features, boxes.to(self.model.device))
        for row in rows:
            row.request.regions = without_regions()
        for index, row in enumerate(about):
            size = (row.seen.size.height, row.seen.size.width)
            row.request.regions = row_regions(features, index, size, len(row.resolved.boxes))
            if row.request.wants_masks or self.segment_token is not None:
                boxes = exact_boxes(features.region_boxes[index], "region_boxes").detach().cpu()
                row.request.mask_source = self._mask_source(row.seen, boxes, row.resolved, row.prompt.pointing)
        return features

    def end(self, processor: Any, request: Request, regions: RowRegions, reason: Literal["stop", "length"]) -> None:
        """End an answer, with its masks: of its segment tokens, and where they were asked for of what it shows.

        Args:
            processor (`ProcessorMixin`): of the model; used by one thread at a time.
            request (`Request`): its words are complete.
            regions (`RowRegions`): its regions, which it lets go of when it is given up.
            reason (`str`): why the words ended.
        """
        source, states, masks, scores = request.mask_source, request.segment_states, None, ()
        if source is not None and self.segment_token is not None:
            masks = source.decode_segments(self.model, states, len(regions.boxes))
            scores = [masks.quality[number] for number in masks.segments]
        answer = final_answer(processor, request.ids, regions, reason, request.prompt_tokens, scores)
        if source is not None and request.wants_masks:
            segments = () if masks is None else masks.segments
            wanted = [number for number in shown_regions(answer.grounded) if number not in segments]
            shown = source.decode(self.model, wanted)
            masks = shown if masks is None else shown.joined(masks)
        request.masks = masks
        request.succeed(answer)

    def _look(self, images: Sequence[UprightImage], processor: Any, keeps_maps: bool) -> dict[str, PerceivedImage]:
        """Images by their keys; those that are new are perceived in one call, and kept without their fused maps."""
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
            # Most have their inputs already; one that was forgotten since the request came has not.
            ready = [image.with_inputs(processor) for image in new.values()]
            inputs = {name: torch.stack([image.inputs[name] for image in ready]) for name in ready[0].inputs}
            kept = {"keep_fused_maps": True} if keeps_maps else {}
            looked = perceive_inputs(self.model, inputs, [image.size for image in ready], **kept)
            for key, image in zip(new, looked, strict=True):
                seen[key] = image
                if keeps_maps:
                    image = replace(image, features=replace(image.features, fused_region_maps=None))
                self.images.put(key, image)
        return seen

    def _resolved(self, pointing: Pointing, seen: PerceivedImage | None) -> ResolvedPointing:
        """The regions that a request points at, found in its image; there are none without an image."""
        if seen is None:
            return ResolvedPointing(pointing.boxes)
        return resolve_pointing(self.model, seen.features, pointing)

    def _point(self, request: Request, pointing: Pointing, seen: PerceivedImage) -> None:
        """Answer what regions stand for: their boxes, with the masks of points and those that are wanted."""
        resolved = self._resolved(pointing, seen)
        source = self._mask_source(seen, resolved.boxes, resolved, pointing)
        there = (*source.decoded.logits, *source.decoded.known)
        request.masks = source.decode(self.model, range(len(pointing)) if request.wants_masks else there)
        request.succeed(boxes_in_pixels(resolved.boxes, seen.size.height, seen.size.width).tolist())

    def _mask_source(
        self, seen: PerceivedImage, boxes: Tensor, resolved: ResolvedPointing, pointing: Pointing
    ) -> MaskSource:
        upright = self.model.upright_masks
        decoded = DecodedMasks(seen.size, upright, resolved.logits, resolved.quality, pointing.masks)
        return MaskSource(seen.features, boxes, decoded)

    def _count_images(self, hits: int = 0, misses: int = 0) -> None:
        with self._counting:
            self.cache_hits += hits
            self.cache_misses += misses


def _proposals(perceived: PerceivedImage) -> Regions:
    features = perceived.features
    size = (perceived.size.height, perceived.size.width)
    return regions_of_slots(features.region_boxes, features.region_scores, features.region_mask, [size])[0]


__all__ = ["Perception", "SeenQuestion"]
