"""`groma serve`: answers requests over HTTP, like OpenAI's API, with regions and grounding."""

import argparse
import logging
import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._words import counted
from ..model_files import ANSWERING_MODELS
from .arguments import (
    CommandError,
    add_address_arguments,
    add_command,
    add_max_pixels,
    add_model_arguments,
    errors_of,
    errors_of_address,
    natural,
    positive,
)
from .models import checked_device, checked_model, model_name
from .output import note

if TYPE_CHECKING:
    from ..serving.settings import ServerSettings


def add_serve(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    serve = add_command(
        commands,
        "serve",
        run_serve,
        "answer requests over HTTP, like OpenAI's API, with regions and grounding",
        "groma serve --model groma-7b --port 8000\n"
        "         groma serve --host 0.0.0.0 --api-key-file keys.txt --allow-image-urls",
    )
    add_model_arguments(serve)
    serve.add_argument("--served-name", metavar="NAME", help="name of the model in requests (default: as --model)")
    address = serve.add_argument_group("address and access")
    add_address_arguments(address, 8000)
    address.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="file of API keys, one on each line; the environment variable GROMA_API_KEY may hold another. Without "
        "any key, everyone is let in",
    )
    # Else it would be read as the beginning of --api-key-file, and the error would show the key.
    address.add_argument("--api-key", type=_no_key_on_the_command_line, help=argparse.SUPPRESS)
    address.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        dest="cors_origins",
        type=origin,
        action="append",
        default=[],
        help="origin whose web pages may ask, as in https://example.org; * for all. May be repeated",
    )
    serve.add_argument("--log-requests", action="store_true", help="write a line for each request to stderr")
    batches = serve.add_argument_group("batches")
    batches.add_argument(
        "--max-batch-size",
        metavar="N",
        type=positive(int),
        default=8,
        help="requests in a batch (default: %(default)s)",
    )
    batches.add_argument(
        "--max-wait-ms",
        metavar="MS",
        type=natural,
        default=20,
        help="time that a request waits for others to share its batch (default: %(default)s)",
    )
    batches.add_argument(
        "--max-waiting",
        metavar="N",
        type=positive(int),
        default=64,
        help="requests that may wait; others get 503 (default: %(default)s)",
    )
    batches.add_argument(
        "--cached-images",
        metavar="N",
        type=natural,
        default=32,
        help="images to remember, so that further questions need no second look; 0 for none (default: %(default)s)",
    )
    limits = serve.add_argument_group("limits")
    limits.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=positive(int),
        default=512,
        help="longest answer in tokens, also for requests that set no limit (default: %(default)s)",
    )
    limits.add_argument(
        "--max-body-mb",
        metavar="MB",
        type=positive(float, 1024),
        default=20,
        help="largest request, and largest image behind a URL (default: %(default)s)",
    )
    add_max_pixels(limits)
    limits.add_argument(
        "--max-held-mb",
        metavar="MB",
        type=positive(float),
        default=1024,
        help="memory for the bodies and images of all requests; others get 503 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-per-client",
        metavar="N",
        type=positive(int),
        help="requests that one address may make at the same time; others get 429 (default: any number)",
    )
    limits.add_argument(
        "--read-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for a request to arrive (default: %(default)g)",
    )
    limits.add_argument(
        "--write-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for a client to read what is waiting for it (default: %(default)g)",
    )
    limits.add_argument(
        "--shutdown-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for running requests to finish after Ctrl-C or SIGTERM (default: %(default)g)",
    )
    limits.add_argument(
        "--allow-image-urls",
        action="store_true",
        help="fetch images from http(s) URLs of public addresses; without it images come as data URLs only",
    )


def run_serve(arguments: argparse.Namespace) -> None:
    """`groma serve`: serve until Ctrl-C or SIGTERM."""
    try:
        from ..serving.access import read_api_keys
        from ..serving.gate import request_log
        from ..serving.http_server import HttpServer, bind_socket
        from ..serving.openai_api import create_app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in SERVE_PACKAGES:
            raise
        raise CommandError(
            f'groma serve needs the package {error.name.split(".")[0]}: pip install "transformers-groma[serve]".'
        ) from error
    import asyncio

    from ..serving.engine import Engine
    from ..serving.lifecycle import Lifecycle

    with errors_of("--api-key-file and GROMA_API_KEY"):
        keys = read_api_keys(arguments.api_key_file, os.environ)
    # Before the model is loaded, which takes its time.
    with errors_of_address(arguments.host, arguments.port):
        bound = bind_socket(arguments.host, arguments.port)
    with bound:
        host, port = bound.getsockname()[:2]
        if not keys and not ip_address(host).is_loopback:
            note(
                f"--host {arguments.host} lets other machines in, and there is no API key: everyone who reaches port "
                f"{port} may ask. Pass --api-key-file, or set GROMA_API_KEY."
            )
        model = checked_model(arguments.model, ANSWERING_MODELS)
        settings = _settings(arguments, arguments.served_name or model_name(model), keys)
        device = checked_device(arguments.device)
        with errors_of(f"--model {model!r}"):
            engine = Engine.from_pretrained(
                model,
                device=device,
                dtype=arguments.dtype,
                max_batch_size=arguments.max_batch_size,
                max_wait_ms=arguments.max_wait_ms,
                max_waiting=arguments.max_waiting,
                cached_images=arguments.cached_images,
            )
        if arguments.log_requests:
            _log_to_stderr(request_log)
        lifecycle = Lifecycle()
        app = create_app(engine, settings, lifecycle)
        server = HttpServer(
            app,
            engine,
            settings,
            lifecycle,
            arguments.shutdown_timeout,
            lambda running: note(_finishing(running, arguments.shutdown_timeout)),
        )

        async def serve() -> None:
            serving = asyncio.create_task(server.serve(sockets=[bound]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.01)
            if server.started:
                print(f"serving {settings.model_name} at {_url(host, port)}/v1 (Ctrl-C stops it)", flush=True)
            try:
                await serving
            finally:
                await engine.aclose(0)

        asyncio.run(serve())
        note("groma serve: stopped")


# What the extra `serve` brings, as it is imported.
SERVE_PACKAGES = ("fastapi", "starlette", "pydantic", "pydantic_core", "uvicorn", "h11", "prometheus_client")


def _log_to_stderr(logger: logging.Logger) -> None:
    """Write each line of a log to stderr, with the time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _settings(arguments: argparse.Namespace, name: str, keys: tuple[str, ...]) -> "ServerSettings":
    """The settings of the server."""
    from ..serving.settings import MEBIBYTE, ServerSettings

    with errors_of("--max-held-mb, --max-body-mb and --max-pixels"):
        return ServerSettings(
            name,
            api_keys=keys,
            max_body_bytes=round(arguments.max_body_mb * MEBIBYTE),
            max_held_bytes=round(arguments.max_held_mb * MEBIBYTE),
            max_pixels=arguments.max_pixels,
            max_new_tokens=arguments.max_new_tokens,
            max_requests_per_client=arguments.max_per_client,
            read_timeout=arguments.read_timeout,
            write_timeout=arguments.write_timeout,
            allow_image_urls=arguments.allow_image_urls,
            cors_origins=tuple(arguments.cors_origins),
        )


def _finishing(running: int, seconds: float) -> str:
    """What is waited for after the first Ctrl-C."""
    return (
        f"groma serve: finishing {counted(running, 'request')}, for {seconds:g} s at most (Ctrl-C again stops at once)"
    )


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _no_key_on_the_command_line(text: str) -> str:
    raise argparse.ArgumentTypeError(
        "everyone on this machine can read a command line. Pass --api-key-file, or set GROMA_API_KEY"
    )


def origin(text: str) -> str:
    """The origin of a web page: scheme, host and port, without a path."""
    parts = urlsplit(text)
    is_origin = parts.scheme in ("http", "https") and parts.netloc and text == f"{parts.scheme}://{parts.netloc}"
    if text != "*" and not is_origin:
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin: write https://example.org, without a path, or *")
    return text
