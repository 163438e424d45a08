"""The judge model that scores answers: its endpoint, rate limit and budget."""

from dataclasses import dataclass, field
from typing import Any

from ..endpoints.asking import Budget
from ..endpoints.endpoint import Endpoint, read_api_key

# How the papers ask their judge, GPT-4 in its versions of 2023.
JUDGE_OPTIONS: dict[str, Any] = {"temperature": 0.2, "max_tokens": 1024}


@dataclass(frozen=True)
class Judge:
    """The judge model, its rate limit and budget.

    Args:
        endpoint (`Endpoint`): the model and how to reach it.
        concurrency (`int`): how many requests run at the same time.
        requests_per_minute (`float`, *optional*): the rate limit; none by default.
        budget (`Budget`): prices and the largest cost.
    """

    endpoint: Endpoint
    concurrency: int = 8
    requests_per_minute: float | None = None
    budget: Budget = field(default_factory=Budget)


def judge_of(
    model: str,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    *,
    concurrency: int = 8,
    requests_per_minute: float | None = None,
    price_in: float = 0.0,
    price_out: float = 0.0,
    max_cost: float | None = None,
) -> Judge:
    """Make a judge from a model's name, with the options of the papers.

    Args:
        model (`str`): name of the model.
        base_url (`str`, *optional*): address of an OpenAI-compatible server; OpenAI by default.
        api_key_env (`str`): name of the environment variable that holds the key.
        concurrency (`int`), requests_per_minute (`float`, *optional*): see [`Judge`].
        price_in, price_out (`float`), max_cost (`float`, *optional*): see `Budget`.

    Returns:
        `Judge`

    Raises:
        ValueError: there is no key, or a largest cost is given without prices.

    Example:
    >>> judge_of("some-model", "http://localhost:8000/v1").endpoint.model
    'some-model'
    """
    endpoint = Endpoint(model, base_url, read_api_key(api_key_env, base_url), options=JUDGE_OPTIONS)
    return Judge(endpoint, concurrency, requests_per_minute, Budget(price_in, price_out, max_cost))


__all__ = ["JUDGE_OPTIONS", "Judge", "judge_of"]
