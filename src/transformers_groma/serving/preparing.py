"""Prepares requests in threads of their own, so that a bad one never shares a batch: messages, images and regions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..image_inputs import shortened
from .conversations import UprightImage, prepare_prompt, upright_image
from .pointing import read_pointing
from .request import Request
from .runner import Runner


class RequestPreparer:
    """Checks what is asked, and sets it as the model's thread reads it.

    Its methods take a processor that no other thread uses, and the request. They return whether the model is to see
    it: if not, it has ended, with an error or because its answer is known.

    Args:
        runner (`Runner`): has the model's limits, and the images that it knows.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def question(self, processor: Any, request: Request, messages: Any) -> bool:
        """Prepare a question, see [`prepare_prompt`]."""
        try:
            limit, sampling = self._runner.limit, request.sampling
            least = 1 if sampling.shorten_to_fit else sampling.max_new_tokens
            prompt = prepare_prompt(processor, messages, least, limit)
            if limit is not None:
                room = limit - len(prompt.input_ids)
                request.sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
            image = self._with_inputs(processor, prompt.image)
        except ValueError as error:
            request.fail(error)
            return False
        request.ask(image, replace(prompt, image=image))
        return True

    def proposals(self, processor: Any, request: Request, image: Any) -> bool:
        """Prepare a look for all regions of an image."""
        try:
            image = upright_image(image)
            known = self._runner.perception.known_regions(image)
            if known is not None:
                request.succeed(known)
                return False
            image = self._with_inputs(processor, image)
        except ValueError as error:
            request.fail(error)
            return False
        request.ask(image, None)
        return True

    def regions(self, processor: Any, request: Request, image: Any, regions: Any) -> bool:
        """Prepare regions that are pointed at, to be found in an image; see `read_region`."""
        try:
            image = upright_image(image)
            if not isinstance(regions, Sequence) or isinstance(regions, (str, bytes)):
                raise ValueError(f"`regions` must be a list of regions, got {shortened(regions)}.")
            named = [(region, f"regions[{index}]") for index, region in enumerate(regions)]
            pointing = read_pointing(named, image.size)
            if not len(pointing):
                request.succeed([])
                return False
            image = self._with_inputs(processor, image)
        except ValueError as error:
            request.fail(error)
            return False
        request.ask(image, pointing)
        return True

    def _with_inputs(self, processor: Any, image: UprightImage | None) -> UprightImage | None:
        """An image as the model takes it, unless the model knows it: resizing a photo takes as long as some steps."""
        if image is None or self._runner.perception.images.get(image.key) is not None:
            return image
        return image.with_inputs(processor)


__all__ = ["RequestPreparer"]
