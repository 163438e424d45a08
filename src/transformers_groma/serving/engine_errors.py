"""What a client is told about errors of the engine, and about what its model cannot do."""

from collections.abc import Awaitable
from typing import TypeVar

from .answering_engine import AnsweringEngine
from .answers import EngineClosedError, LanguageServerError, ModelFailedError, QueueFullError
from .api_errors import RETRY_AFTER, ApiError, bad_request, busy

Result = TypeVar("Result")


async def of_engine(work: Awaitable[Result], param: str = "messages", code: str = "invalid_messages") -> Result:
    """Wait for work of the engine, and turn what it raises into errors of the API.

    Args:
        work (`Awaitable`): of the engine.
        param (`str`), code (`str`): how an error about what was asked names it.

    Raises:
        ApiError: 400 for what cannot be asked, 503 for a queue that is full or an engine that closes, 500 for a model
            that failed, and the status of a language server's error (502 to 504).
    """
    try:
        return await work
    except QueueFullError as error:
        raise busy("Too many requests wait already. Ask again in a moment.", "queue_full") from error
    except EngineClosedError as error:
        raise busy("The server is shutting down. Ask again in a moment.", "shutting_down") from error
    except LanguageServerError as error:
        headers = {"Retry-After": str(RETRY_AFTER)} if error.status == 503 else None
        raise ApiError(error.status, str(error), code="language_server_failed", headers=headers) from error
    except ModelFailedError as error:
        message = "The model failed on this request. The server's log says more."
        raise ApiError(500, message, code="model_failed") from error
    except ValueError as error:
        # The processor's sentences name its own argument.
        raise bad_request(str(error).replace("`max_new_tokens`", "`max_tokens`"), param, code) from error


def check_masks(engine: AnsweringEngine, what: str, param: str | None, remedy: str) -> None:
    """Refuse what needs masks where the model has no mask decoder.

    Args:
        engine (`AnsweringEngine`): has the model.
        what (`str`): what needs them, the start of a sentence.
        param (`str`, *optional*): the field of the request.
        remedy (`str`): what to do, the end of the sentence.

    Raises:
        ApiError: the model has none (400).
    """
    if not engine.has_masks:
        raise bad_request(
            f"{what}, but this server's model has no mask decoder and points with boxes only: {remedy}.",
            param,
            "masks_not_supported",
        )


__all__ = ["check_masks", "of_engine"]
