"""`groma app`: a page in the browser where people choose an image, draw on it and ask."""

import argparse
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..model_files import ANSWERING_MODELS
from .arguments import (
    CommandError,
    add_address_arguments,
    add_command,
    add_max_pixels,
    add_model_arguments,
    errors_of,
    errors_of_address,
    errors_of_loading,
    loading_options,
    positive,
)
from .models import checked_device, checked_model, model_name, tiny_model
from .output import note


def add_app(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    app = add_command(
        commands,
        "app",
        run_app,
        "open a page in the browser: choose an image, point at something in it, ask",
        "groma app\n         groma app --model groma-7b --host 0.0.0.0 --port 80 --no-browser",
    )
    add_model_arguments(app)
    add_address_arguments(app, 7860)
    app.add_argument("--no-browser", action="store_true", help="do not open the browser")
    app.add_argument(
        "--share",
        action="store_true",
        help="also make a public link for 7 days, which goes through a server of Gradio; everyone who has it may ask",
    )
    limits = app.add_argument_group("limits")
    add_max_pixels(limits)
    limits.add_argument(
        "--max-upload-mb",
        metavar="MB",
        type=positive(int),
        default=20,
        help="largest image file in megabytes (default: %(default)s)",
    )
    limits.add_argument(
        "--max-users",
        metavar="N",
        type=positive(int),
        default=8,
        help="questions that are answered at the same time, in one batch (default: %(default)s)",
    )
    limits.add_argument(
        "--max-waiting",
        metavar="N",
        type=positive(int),
        default=32,
        help="questions that may wait; further ones are told to try again (default: %(default)s)",
    )


def run_app(arguments: argparse.Namespace) -> None:
    """`groma app`: serve the page until Ctrl-C or SIGTERM."""
    # Images are kept where no other user of this machine sees them, and are gone at the end.
    with tempfile.TemporaryDirectory(prefix="groma-app-") as folder, _environment(GRADIO_TEMP_DIR=folder):
        try:
            import gradio  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != "gradio":
                raise
            raise CommandError('groma app needs the package gradio: pip install "transformers-groma[app]".') from error
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    options = loading_options(arguments)
    port = _free_port(arguments.host, arguments.port)  # before the model is loaded, which takes its time
    model = checked_model(arguments.model, ANSWERING_MODELS, revision=options.revision)
    device = checked_device(arguments.device, options)

    from ..apps.app_settings import AppSettings
    from ..apps.gradio_app import build_app, launch_options
    from ..serving.engine import Engine

    with errors_of("--max-pixels"):
        settings = AppSettings(
            model_name=model_name(model),
            knows_shapes_only=tiny_model(arguments.model) is not None,
            max_pixels=arguments.max_pixels,
            max_upload_mb=arguments.max_upload_mb,
            max_users=arguments.max_users,
            max_waiting=arguments.max_waiting,
        )
    with errors_of(f"--model {model!r}"), errors_of_loading():
        engine = Engine.from_pretrained(model, device=device, options=options, **settings.engine_options())
    app = build_app(engine, settings)
    try:
        _, url, public_url = app.launch(
            server_name=arguments.host,
            server_port=port,
            inbrowser=not arguments.no_browser,
            share=arguments.share,
            quiet=True,
            prevent_thread_lock=True,
            **launch_options(settings),
        )
        print(f"groma app: {url.rstrip('/')} (Ctrl-C stops it)", flush=True)
        if public_url:
            print(f"groma app: {public_url}, a public link", flush=True)
        _wait_for_the_end()
    finally:
        app.close(verbose=False)
        engine.close(0)
    note("groma app: stopped")


def _wait_for_the_end() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    ended = threading.Event()
    earlier = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _free_port(host: str, port: int) -> int:
    """The port to listen on, a free one for 0."""
    with errors_of_address(host, port):
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            return trial.getsockname()[1]


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    earlier = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
