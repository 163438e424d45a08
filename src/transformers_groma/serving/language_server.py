"""Asks a server of text, such as vLLM, for the words of answers: prompts go as embeddings, ids of tokens come back."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from torch import Tensor

from .answers import LanguageServerError
from .language_server_url import checked_key, checked_url, proxy_detail
from .sampling import Sampling

# A server that runs takes a connection at once.
_CONNECT_SECONDS = 5.0
_UNREACHABLE = "The language server cannot be reached. Ask again in a moment."
_DIED = "The language server ended the connection in the middle of an answer. Ask again."
_UNREADABLE = "The language server's answer cannot be read."
# How a connection ends that is cut at the other side.
_CUT = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# What it sends is repeated in the log, but not at any length.
_MAX_DETAIL = 300


@dataclass(frozen=True)
class ServedModel:
    """The model of a language server.

    Args:
        name (`str`): what requests call it.
        limit (`int`, *optional*): tokens that it reads, its answer included; `None` if the server does not say.
    """

    name: str
    limit: int | None


class LanguageServer:
    """A language server that speaks OpenAI's completions with vLLM's `prompt_embeds`. For one event loop.

    Args:
        url (`str`): its base, as in `http://host:8001/v1`.
        key (`str`, *optional*): API key. It is never part of an error.
        model (`str`, *optional*): name of the model there; needed if it serves several.
        timeout (`float`): seconds that it may be silent.

    Raises:
        ValueError: it is not the base of an http(s) URL, the key cannot be one, or the environment names a proxy that
            cannot be used.
    """

    def __init__(self, url: str, key: str | None = None, model: str | None = None, timeout: float = 60.0) -> None:
        self.url = checked_url(url)
        self.timeout = timeout
        self._model = model
        self._proxy = proxy_detail(self.url)
        headers = {} if key is None else {"Authorization": f"Bearer {checked_key(key)}"}
        try:
            # As many connections as there are requests: the engine bounds those.
            self._client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=min(_CONNECT_SECONDS, timeout)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # of proxies; the text may hold a password
            raise ValueError(
                "The environment names a proxy (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) that cannot be used: write it "
                "as http://host:port, or put the language server's host into NO_PROXY and unset ALL_PROXY."
            ) from error

    async def describe(self) -> ServedModel:
        """Which model it has.

        Raises:
            LanguageServerError: it does not answer, or it is not known which model is meant.
        """
        try:
            response = await self._client.get(f"{self.url}/models")
        except httpx.HTTPError as error:
            raise self._transport_error(error) from error
        if response.status_code != 200:
            raise self._status_error(response, response.text)
        try:
            entries = [entry for entry in response.json()["data"] if entry.get("parent") is None]
            models = [ServedModel(str(entry["id"]), _limit(entry.get("max_model_len"))) for entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            detail = "its /models is no list of models: does the URL end with /v1?"
            raise LanguageServerError("The language server does not say what it serves.", 502, detail) from error
        if self._model is not None:
            models = [model for model in models if model.name == self._model]
        if len(models) != 1:
            names = ", ".join(repr(entry["id"]) for entry in entries) or "none"
            wanted = "one model" if self._model is None else repr(self._model)
            detail = f"it should have {wanted}, and has {names}: name one of them with --lm-model"
            raise LanguageServerError("The language server has no model of the expected name.", 502, detail)
        return models[0]

    async def write(
        self, prompt: str | Sequence[int], served: ServedModel, sampling: Sampling, ends: Sequence[int]
    ) -> AsyncGenerator[tuple[list[int], str | None], None]:
        """Continue a prompt.

        Args:
            prompt (`str` or `Sequence[int]`): of [`encode_prompt`], or ids.
            served (`ServedModel`): the model.
            sampling (`Sampling`): how.
            ends (`Sequence[int]`): the ids that end an answer, which are part of it.

        Yields:
            `tuple[list[int], str | None]`: ids that came together, and, with the last ones, why it ended.

        Raises:
            LanguageServerError: it cannot be reached, refuses the prompt, is silent too long or dies on the way.
        """
        # In a thread: the prompt of a large model is some megabytes of text.
        body = await asyncio.to_thread(_json_bytes, _request(prompt, served, sampling, ends))
        request = self._client.build_request(
            "POST", f"{self.url}/completions", content=body, headers={"Content-Type": "application/json"}
        )
        response = await self._begin(request)
        try:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                raise self._status_error(response, text)
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                text = (await response.aread()).decode(errors="replace")
                detail = f"it answers with no stream of events, but with {_shortened(_message_of(text))!r}"
                raise LanguageServerError(_UNREADABLE, 502, detail)
            is_complete, written = False, _Written(sampling.max_new_tokens, ends)
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                # It is read to its end, so that the connection serves the next request.
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                ids, reason = self._piece(data)
                written.add(ids)
                is_complete |= reason is not None
                yield ids, reason
            if not is_complete:
                raise LanguageServerError(_DIED, 502, "its stream ended before the answer did")
            if written.number == 0:
                raise LanguageServerError(_UNREADABLE, 502, "it ended an answer without a single token")
        except httpx.HTTPError as error:
            raise self._transport_error(error) from error
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _begin(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and again where a kept connection turns out to be dead: nothing was answered on it."""
        try:
            return await self._client.send(request, stream=True)
        except _CUT:
            pass
        except httpx.HTTPError as error:
            raise self._transport_error(error) from error
        try:
            return await self._client.send(request, stream=True)
        except _CUT as error:
            # No answer has begun: a server that is just ending still takes connections for a moment.
            raise LanguageServerError(_UNREACHABLE, 503, self._detail(error)) from error
        except httpx.HTTPError as error:
            raise self._transport_error(error) from error

    def _piece(self, data: str) -> tuple[list[int], str | None]:
        """The ids of one event of a stream, and why the answer ends with them."""
        try:
            event = json.loads(data)
            if "error" in event:
                detail = _shortened(json.dumps(event["error"]))
                raise LanguageServerError("The language server failed on this request. Ask again.", 502, detail)
            if not event["choices"]:
                return [], None
            (choice,) = event["choices"]
            ids, reason = choice.get("token_ids"), choice.get("finish_reason")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            detail = f"an event of its stream cannot be read: {_shortened(data)}"
            raise LanguageServerError(_UNREADABLE, 502, detail) from error
        if ids is None:
            detail = "it returns no ids of tokens (`return_token_ids`): take a newer release of vLLM"
            raise LanguageServerError(_UNREADABLE, 502, detail)
        if not isinstance(ids, list) or any(type(token_id) is not int for token_id in ids):
            detail = f"ids of tokens are whole numbers, and it returns {_shortened(json.dumps(ids))}"
            raise LanguageServerError(_UNREADABLE, 502, detail)
        if reason not in (None, "stop", "length"):
            detail = f"it ended an answer with finish_reason {reason!r}"
            raise LanguageServerError("The language server gave an answer up. Ask again.", 502, detail)
        return ids, reason

    def _transport_error(self, error: httpx.HTTPError) -> LanguageServerError:
        detail = self._detail(error)
        if "CERTIFICATE_VERIFY_FAILED" in detail:
            detail += "; the environment variable SSL_CERT_FILE names a file of certificates to trust"
            return LanguageServerError("The language server's certificate is not trusted.", 502, detail)
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
            return LanguageServerError(_UNREACHABLE, 503, detail)
        if isinstance(error, httpx.TimeoutException):
            message = f"The language server was silent for {self.timeout:g} s. Ask again later."
            return LanguageServerError(message, 504, detail, is_overloaded=True)
        return LanguageServerError(_DIED, 502, detail)

    def _detail(self, error: httpx.HTTPError) -> str:
        return f"{type(error).__name__}: {error}".rstrip(": ") + self._proxy

    def _status_error(self, response: httpx.Response, text: str) -> LanguageServerError:
        """The error of a response that is not an answer."""
        status = response.status_code
        detail = f"it answers {status}: {_shortened(_message_of(text))}".rstrip(": ") + self._proxy
        if status < 400:
            if response.has_redirect_location:
                # Not followed: the key is for this address alone.
                place = _shortened(response.headers["Location"])
                detail = f"it answers {status}, a redirect to {place}: take the address behind it"
            return LanguageServerError(_UNREADABLE, 502, detail)
        if status in (429, 503):
            message = "The language server is busy. Ask again in a moment."
            return LanguageServerError(message, 503, detail, is_overloaded=True)
        if status in (401, 403):
            detail += "; put its key into the environment variable GROMA_LM_API_KEY"
            return LanguageServerError("The language server does not let this server in.", 502, detail)
        if status == 404:
            detail += "; does the URL end with /v1?"
            return LanguageServerError("The language server does not know what it was asked for.", 502, detail)
        if "enable-prompt-embeds" in text:
            detail = "it takes no prompt embeddings: start it with `vllm serve OUT --enable-prompt-embeds`"
            return LanguageServerError("The language server takes no prompt embeddings.", 502, detail)
        if status < 500:
            return LanguageServerError("The language server refuses the prompt.", 502, detail)
        return LanguageServerError("The language server failed on this request. Ask again.", 502, detail)


class _Written:
    """What is written of an answer: refuses tokens that were not asked for.

    Args:
        most (`int`): tokens that were asked for.
        ends (`Sequence[int]`): ids that end an answer.

    Attributes:
        number (`int`): tokens so far.
    """

    def __init__(self, most: int, ends: Sequence[int]) -> None:
        self.number = 0
        self._most = most
        self._ends = ends
        self._has_ended = False

    def add(self, ids: Sequence[int]) -> None:
        """Count ids.

        Raises:
            LanguageServerError: there are more than were asked for, or some after the end.
        """
        for token_id in ids:
            if self._has_ended:
                detail = "its answer goes on after a token of `stop_token_ids`: take a server that obeys them, as vLLM"
                raise LanguageServerError(_UNREADABLE, 502, detail)
            if self.number == self._most:
                detail = "its answer is longer than `max_tokens`: take a server that obeys it, as vLLM"
                raise LanguageServerError(_UNREADABLE, 502, detail)
            self.number += 1
            self._has_ended = token_id in self._ends


def encode_prompt(prompt: Tensor) -> str:
    """Prompt embeddings as they travel: Base64 of what `torch.save` writes.

    Args:
        prompt (`Tensor` of shape `(n, hidden_size)`): on any device.

    Example:
    >>> encoded = encode_prompt(torch.ones(2, 3))
    >>> torch.load(io.BytesIO(base64.b64decode(encoded)), weights_only=True).shape
    torch.Size([2, 3])
    """
    buffer = io.BytesIO()
    # A copy: of a part of a larger tensor, `torch.save` would write the whole.
    torch.save(prompt.detach().cpu().clone(), buffer)
    return base64.b64encode(buffer.getbuffer()).decode()


def _request(
    prompt: str | Sequence[int], served: ServedModel, sampling: Sampling, ends: Sequence[int]
) -> dict[str, Any]:
    """The body of a request. All that would change the words is said, as the server has defaults of its own."""
    given: Mapping[str, Any] = {"prompt_embeds": prompt} if isinstance(prompt, str) else {"prompt": list(prompt)}
    return {
        "model": served.name,
        **given,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({} if sampling.seed is None else {"seed": sampling.seed}),
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # The tokens that end answers here, and none that the server would take from elsewhere.
        "ignore_eos": True,
        "stop_token_ids": list(ends),
        "skip_special_tokens": False,
        "return_token_ids": True,
        "stream": True,
    }


def _json_bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _limit(limit: Any) -> int | None:
    """What a server says of how much it reads; `None` for nothing.

    Raises:
        ValueError: it is not a number of tokens.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"`max_model_len` {limit!r}")
    return limit


def _message_of(text: str) -> str:
    """What a response says is wrong."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}…"


__all__ = ["LanguageServer", "ServedModel", "encode_prompt"]
