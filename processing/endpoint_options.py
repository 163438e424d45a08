"""Options of the scripts that ask models at an OpenAI-compatible endpoint: address, limits, prices."""

import json
import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers_groma.endpoints.asking import Budget
    from transformers_groma.endpoints.endpoint import Endpoint


def add_endpoint_options(parser: ArgumentParser, request: Mapping[str, Any]) -> None:
    """Add the options of an endpoint, except the name of the model.

    Args:
        parser (`ArgumentParser`): of a script.
        request (`Mapping`): default of `--options`, further fields of each request.
    """
    parser.add_argument("--base-url", type=url, metavar="URL", help="an OpenAI-compatible server (default: OpenAI)")
    parser.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable with the key (default: %(default)s)"
    )
    parser.add_argument(
        "--concurrency", type=at_least(1, int), default=8, metavar="N", help="requests at a time (default: 8)"
    )
    parser.add_argument(
        "--requests-per-minute",
        type=at_least(0.001, float),
        metavar="N",
        help="at most, retries included (default: no limit)",
    )
    parser.add_argument(
        "--timeout", type=at_least(0.001, float), default=120.0, metavar="SECONDS", help="of a request (default: 120)"
    )
    parser.add_argument(
        "--max-retries",
        type=at_least(0, int),
        default=5,
        metavar="N",
        help="after status 429 or 5xx, a time-out or a lost connection, each after a longer wait (default: 5)",
    )
    parser.add_argument(
        "--options",
        type=json_object,
        default=dict(request),
        metavar="JSON",
        help=f"further fields of the request (default: {json.dumps(dict(request))})",
    )
    parser.add_argument(
        "--price-in", type=at_least(0, float), default=0.0, metavar="X", help="of a million prompt tokens"
    )
    parser.add_argument(
        "--price-out", type=at_least(0, float), default=0.0, metavar="X", help="of a million completion tokens"
    )
    parser.add_argument(
        "--max-cost",
        type=at_least(0.001, float),
        metavar="X",
        help="end before all runs together cost more; needs the prices",
    )


def endpoint_of(args: Namespace) -> "Endpoint":
    """The endpoint that the options name.

    Args:
        args (`Namespace`): with `model` and the options of [`add_endpoint_options`].

    Returns:
        `Endpoint`: with the key of the environment.
    """
    from transformers_groma.endpoints.endpoint import Endpoint, read_api_key

    return Endpoint(
        model=args.model,
        base_url=args.base_url,
        api_key=read_api_key(args.api_key_env, args.base_url),
        timeout=args.timeout,
        max_retries=args.max_retries,
        options=args.options,
    )


def budget_of(args: Namespace) -> "Budget":
    """The prices and the largest cost that the options name."""
    from transformers_groma.endpoints.asking import Budget

    return Budget(args.price_in, args.price_out, args.max_cost)


def at_least(low: float, kind: Callable[[str], float], high: float = math.inf) -> Callable[[str], float]:
    """The type of an option that is a number.

    Args:
        low (`float`): the smallest number.
        kind (`type`): `int` or `float`.
        high (`float`): the largest number; without it, any finite one.

    Returns:
        `Callable`: reads the text of the option.

    Example:
    >>> at_least(1, int)("8")
    8
    """

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high and math.isfinite(value)):
            what = "a whole number" if kind is int else "a number"
            limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ArgumentTypeError(f"must be {what} {limits}, got {text!r}")
        return value

    return read


def url(text: str) -> str:
    """The type of an option that is an address."""
    if not text.startswith(("http://", "https://")):
        raise ArgumentTypeError(f"must start with http:// or https://, got {text}")
    return text


def json_object(text: str) -> dict[str, Any]:
    """The type of an option that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"must be a JSON object, got {text}")
    return value
