"""A language server that is checked before it is asked: that it is there, and that it has the right language model."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from .answers import LanguageServerError
from .language_server import LanguageServer, ServedModel
from .sampling import Sampling

logger = logging.getLogger(__name__)

# Seconds between two looks at whether it is there.
WATCH_SECONDS = 5.0
# Tokens of an answer to the probe, and how many of them must be equal: rounding may turn a later one.
_PROBE_TOKENS, _PROBE_EQUAL = 8, 4


@dataclass(frozen=True)
class Probe:
    """A prompt twice. A server that has the same embeddings continues both in the same way.

    Args:
        ids (`Sequence[int]`): the prompt, the last of the vocabulary among it.
        encoded (`str`): the embeddings of these ids in the model here, see `encode_prompt`.
        vocab_size (`int`): of the model here.
    """

    ids: Sequence[int]
    encoded: str
    vocab_size: int


class CheckedLanguageServer:
    """Asks a language server once it is known to be the right one, and knows how it is.

    It is checked before the first request, and again after it could not be reached: it may have come back with another
    model.

    Args:
        server (`LanguageServer`): the server.
        probe (`Probe`): what it is checked with.
        on_limit (`Callable`): called with the number of tokens that it reads, when it says so.

    Attributes:
        state (`str`): `"ok"`, or a sentence.
    """

    def __init__(self, server: LanguageServer, probe: Probe, on_limit: Callable[[int], None]) -> None:
        self.server = server
        self.state = "The language server has not been asked yet."
        self._probe = probe
        self._on_limit = on_limit
        self._served: ServedModel | None = None
        self._check: asyncio.Task[ServedModel] | None = None

    async def write(
        self, prompt: str, sampling: Sampling, ends: Sequence[int]
    ) -> AsyncGenerator[tuple[list[int], str | None], None]:
        """Continue a prompt, see [`LanguageServer.write`]."""
        served = await self.ready()
        try:
            async with aclosing(self.server.write(prompt, served, sampling, ends)) as pieces:
                async for ids, reason in pieces:
                    self._check_vocabulary(ids)
                    yield ids, reason
        except LanguageServerError as error:
            logger.warning("The language server at %s: %s (%s)", self.server.url, error, error.detail)
            if not error.is_overloaded:
                # How it is now is found out at once, and the next request waits for that.
                self._served = None
                self._begin_check()
            raise

    async def ready(self) -> ServedModel:
        """The model of a server that has been checked.

        Raises:
            LanguageServerError: it cannot be reached, or it is not the right one.
        """
        if self._served is not None:
            return self._served
        try:
            # All who wait share one check, and none of them ends it by leaving; each gets an error of its own.
            return await asyncio.shield(self._begin_check())
        except LanguageServerError as error:
            raise LanguageServerError(str(error), error.status, error.detail, error.is_overloaded) from error

    async def watch(self) -> None:
        """Keep `state` true, also while nobody asks; forever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if self._served is None:
                    await self.ready()
                elif await self.server.describe() != self._served:
                    self._served = None
                    await self.ready()
            except LanguageServerError as error:
                self._note(error)
            except Exception:
                logger.exception("The look at the language server at %s failed.", self.server.url)

    def _begin_check(self) -> "asyncio.Task[ServedModel]":
        """The check that runs, or a new one."""
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._checked())
            # Its error is in `state`, also where nobody waits for it.
            self._check.add_done_callback(lambda check: check.cancelled() or check.exception())
        return self._check

    async def _checked(self) -> ServedModel:
        try:
            served = await self.server.describe()
            by_ids = await self._continued(list(self._probe.ids), served)
            by_embeddings = await self._continued(self._probe.encoded, served)
            for ids in (by_ids, by_embeddings):
                self._check_vocabulary(ids)
                if len(ids) != _PROBE_TOKENS:
                    detail = f"it wrote {ids} where {_PROBE_TOKENS} tokens were asked for with `ignore_eos`"
                    raise LanguageServerError("The language server ends answers by itself.", 502, detail)
            if by_ids[:_PROBE_EQUAL] != by_embeddings[:_PROBE_EQUAL]:
                detail = (
                    f"it continues ids with {by_ids} and their embeddings here with {by_embeddings}: serve what "
                    "`groma export-lm` wrote of this model"
                )
                raise LanguageServerError("The language server has another language model.", 502, detail)
        except LanguageServerError as error:
            self._note(error)
            raise
        if served.limit is not None:
            self._on_limit(served.limit)
        self._served, self.state = served, "ok"
        return served

    def _check_vocabulary(self, ids: Sequence[int]) -> None:
        if unknown := [token_id for token_id in ids if not 0 <= token_id < self._probe.vocab_size]:
            detail = f"it writes the token {unknown[0]}, and the vocabulary here has {self._probe.vocab_size}"
            raise LanguageServerError("The language server has another vocabulary.", 502, detail)

    async def _continued(self, prompt: str | list[int], served: ServedModel) -> list[int]:
        sampling = Sampling(max_new_tokens=_PROBE_TOKENS)
        ids: list[int] = []
        async with aclosing(self.server.write(prompt, served, sampling, ())) as pieces:
            async for piece, _ in pieces:
                ids += piece
        return ids

    def _note(self, error: LanguageServerError) -> None:
        self._served = None
        if self.state != str(error):
            logger.warning("The language server at %s: %s (%s)", self.server.url, error, error.detail)
        self.state = str(error)


__all__ = ["CheckedLanguageServer", "Probe"]
