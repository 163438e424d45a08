"""`groma serve`: answers requests over HTTP, like OpenAI's API, with regions and grounding."""

import argparse
import os
from dataclasses import replace

from .._words import counted
from ..model_files import ANSWERING_MODELS
from .arguments import CommandError, add_address_arguments, add_command, errors_of, errors_of_address, positive
from .language_server import check_language_server_arguments
from .listening import url_of, warn_without_key
from .models import checked_model
from .output import note
from .serve_app import add_app_arguments, load_engine, log_to_stderr, server_settings
from .serve_replicas import add_replica_arguments, check_replica_arguments, run_replicas


def add_serve(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    serve = add_command(
        commands,
        "serve",
        run_serve,
        "answer requests over HTTP, like OpenAI's API, with regions and grounding",
        "groma serve --model groma-7b --port 8000\n"
        "         groma serve --host 0.0.0.0 --api-key-file keys.txt --allow-image-urls\n"
        "         groma serve --model groma-7b --replicas 4",
    )
    add_app_arguments(serve)
    listening = serve.add_argument_group("listening")
    add_address_arguments(listening, 8000)
    listening.add_argument(
        "--write-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for a client to read what is waiting for it (default: %(default)g)",
    )
    listening.add_argument(
        "--shutdown-timeout",
        metavar="S",
        type=positive(float),
        default=30.0,
        help="seconds for running requests to finish after Ctrl-C or SIGTERM (default: %(default)g)",
    )
    add_replica_arguments(serve)


def run_serve(arguments: argparse.Namespace) -> None:
    """`groma serve`: serve until Ctrl-C or SIGTERM, in this process or in replicas."""
    check_language_server_arguments(arguments)
    check_replica_arguments(arguments)
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
    if arguments.replicas is not None:
        run_replicas(arguments)
        return
    import asyncio

    from ..serving.lifecycle import Lifecycle

    with errors_of("--api-key-file and GROMA_API_KEY"):
        keys = read_api_keys(arguments.api_key_file, os.environ)
    # Before the model is loaded, which takes its time.
    with errors_of_address(arguments.host, arguments.port):
        bound = bind_socket(arguments.host, arguments.port)
    with bound:
        host, port = bound.getsockname()[:2]
        warn_without_key(keys, arguments.host, host, port)
        model = checked_model(arguments.model, ANSWERING_MODELS, revision=arguments.revision)
        settings = replace(server_settings(arguments, model, keys), write_timeout=arguments.write_timeout)
        engine = load_engine(arguments, model)
        if arguments.log_requests:
            log_to_stderr(request_log)
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
                print(f"serving {settings.model_name} at {url_of(host, port)}/v1 (Ctrl-C stops it)", flush=True)
            try:
                await serving
            finally:
                await engine.aclose(0)

        asyncio.run(serve())
        note("groma serve: stopped")


# What the extra `serve` brings, as it is imported.
SERVE_PACKAGES = (
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_core",
    "uvicorn",
    "h11",
    "httpx",
    "prometheus_client",
)


def _finishing(running: int, seconds: float) -> str:
    """What is waited for after the first Ctrl-C."""
    return (
        f"groma serve: finishing {counted(running, 'request')}, for {seconds:g} s at most (Ctrl-C again stops at once)"
    )
