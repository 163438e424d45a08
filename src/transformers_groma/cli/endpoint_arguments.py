"""Arguments of commands that ask a model at an OpenAI-compatible endpoint: address, key, limits, prices."""

import argparse

from .arguments import positive


def add_endpoint_arguments(parser: "argparse._ActionsContainer", things: str) -> None:
    """Add the arguments of an endpoint, except the name of the model.

    Args:
        parser: of a command, or a group of it.
        things (`str`): what is paid for, in the plural, for the help.
    """
    parser.add_argument(
        "--endpoint",
        "--base-url",
        dest="base_url",
        metavar="URL",
        help="an OpenAI-compatible server, as in http://localhost:8000/v1 (default: OpenAI)",
    )
    parser.add_argument(
        "--api-key-env",
        metavar="NAME",
        default="OPENAI_API_KEY",
        help="environment variable with the key (default: %(default)s)",
    )
    parser.add_argument(
        "--concurrency", metavar="N", type=positive(int), default=8, help="requests at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--requests-per-minute",
        metavar="X",
        type=positive(float),
        help="rate limit, retries included (default: none)",
    )
    parser.add_argument(
        "--price-in", metavar="X", type=positive(float), default=0.0, help="price of a million prompt tokens"
    )
    parser.add_argument(
        "--price-out", metavar="X", type=positive(float), default=0.0, help="price of a million completion tokens"
    )
    parser.add_argument("--max-cost", metavar="X", type=positive(float), help=f"stop before {things} cost more")


__all__ = ["add_endpoint_arguments"]
