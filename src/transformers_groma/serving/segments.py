"""Answers requests for masks: of regions that are pointed at, or of what a phrase refers to."""

import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from PIL import Image
from starlette.responses import JSONResponse, Response

from ..verb_inputs import phrase_part, text_part
from ..verbs import located
from .access import ClientLimit
from .answering_engine import AnsweringEngine
from .answers import EngineRegion, engine_region
from .client_presence import while_connected
from .engine_errors import check_masks, of_engine
from .held_memory import HeldMemory, MemoryShare
from .image_sources import ImageSources
from .region_request import region_of_image
from .request_body import read_body
from .sampling import Sampling
from .segment_request import SegmentRequest, read_segment_request
from .settings import ServerSettings


class Segments:
    """Answers `/v1/segment`.

    Args:
        engine (`AnsweringEngine`): has the model.
        settings (`ServerSettings`): name and limits.
        sources (`ImageSources`): reads images.
        threads (`CapacityLimiter`): where bodies are read.
        memory (`HeldMemory`), clients (`ClientLimit`): what all requests of the server share.
    """

    def __init__(
        self,
        engine: AnsweringEngine,
        settings: ServerSettings,
        sources: ImageSources,
        threads: CapacityLimiter,
        memory: HeldMemory,
        clients: ClientLimit,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._sources = sources
        self._threads = threads
        self._memory = memory
        self._clients = clients

    async def respond(self, request: Request) -> Response:
        """The response to a request.

        Raises:
            ApiError: the request is wrong, the model has no mask decoder, or there is too much at once.
        """
        address = request.client.host if request.client else ""
        with self._clients.request(address), self._memory.share() as share:
            body = await read_body(request, self._settings, share)
            asked = await to_thread.run_sync(read_segment_request, body, self._settings, limiter=self._threads)
            check_masks(self._engine, "/v1/segment answers with masks", None, "ask /v1/chat/completions for boxes")
            image, regions = await while_connected(self._image(asked, share), request.receive)
            share.give_back(len(body))
            del body
            content = await while_connected(self._segment(asked, image, regions), request.receive)
        return JSONResponse(content)

    async def _image(self, asked: SegmentRequest, share: MemoryShare) -> tuple[Image.Image, list[dict[str, Any]]]:
        """The image of a request, and its regions, which are of it."""
        image = await self._sources.read(asked.image_url.url, "image_url.url", share)
        regions = []
        for number, region in enumerate(asked.regions or ()):
            read = partial(region_of_image, f"regions[{number}]", region, image, self._settings)
            regions.append(await self._sources.in_thread(read))
        return image, regions

    async def _segment(
        self, asked: SegmentRequest, image: Image.Image, regions: list[dict[str, Any]]
    ) -> dict[str, Any]:
        head = {
            "id": f"seg-{secrets.token_hex(12)}",
            "object": "segmentation",
            "created": int(time.time()),
            "model": asked.model,
            "image": {"width": image.width, "height": image.height},
        }
        if asked.regions is not None:
            found = await of_engine(self._engine.segment(image, regions), "regions", "invalid_region")
            return {**head, "regions": regions_json(found)}
        kind = "grounding" if asked.all else "rec"
        wording = self._engine.question_wording
        question = wording.parts(kind, text_part, {"phrase": phrase_part(asked.phrase, "phrase")})
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, *question]}]
        sampling = Sampling(max_new_tokens=self._settings.max_new_tokens, shorten_to_fit=True)
        answer = await of_engine(self._engine.answer(messages, sampling, masks=True), "phrase", "invalid_phrase")
        found = [
            engine_region(region.box.tolist(), answer.masks[region.id], answer.mask_scores[region.id])
            for region in located(asked.phrase, answer.grounded, bool(asked.all)).regions
        ]
        return {**head, "phrase": asked.phrase, "regions": regions_json(found)}


def regions_json(regions: Sequence[EngineRegion]) -> list[dict[str, Any]]:
    """Regions with their masks, as responses have them.

    Args:
        regions (`Sequence[EngineRegion]`): of the engine.

    Returns:
        `list[dict]`: for each its `box_xyxy` in absolute pixels of the upright image, its `mask` in COCO's run-length
        encoding, and the IoU that the model expects of it as `score`, null for a mask that was given.

    Example:
    >>> regions_json([EngineRegion((0.0, 0.0, 2.0, 1.0), {"size": [1, 3], "counts": "021"}, 0.87654)])
    [{'box_xyxy': [0.0, 0.0, 2.0, 1.0], 'mask': {'size': [1, 3], 'counts': '021'}, 'score': 0.8765}]
    """
    return [
        {
            "box_xyxy": [round(value, 2) for value in region.box],
            "mask": region.mask,
            "score": None if region.score is None else round(region.score, 4),
        }
        for region in regions
    ]


__all__ = ["Segments", "regions_json"]
