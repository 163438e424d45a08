"""A server in this process, on a free port of loopback, and what tests send to it."""

import asyncio
import base64
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from transformers_groma.serving.http_server import HttpServer, bind_socket
from transformers_groma.serving.lifecycle import Lifecycle
from transformers_groma.serving.openai_api import create_app
from transformers_groma.serving.settings import ServerSettings

MODEL = "toy"


class RunningServer:
    """An engine behind HTTP, in a thread."""

    def __init__(self, engine: Any, settings: ServerSettings, shutdown_timeout: float, **options: Any) -> None:
        self.engine, self.lifecycle = engine, Lifecycle()
        self.socket = bind_socket("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        app = create_app(engine, settings, self.lifecycle, **options)
        self.server = HttpServer(app, engine, settings, self.lifecycle, shutdown_timeout)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.socket])), daemon=True)

    def stop(self) -> None:
        """What a signal does."""
        self.server.handle_exit(signal.SIGTERM, None)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@contextmanager
def serving(
    engine: Any, shutdown_timeout: float = 5.0, options: Any = None, **settings: Any
) -> Iterator[RunningServer]:
    """Serve an engine; at the end the server must stop by itself."""
    running = RunningServer(engine, ServerSettings(MODEL, **settings), shutdown_timeout, **(options or {}))
    running.thread.start()
    wait_until(lambda: running.server.started)
    try:
        yield running
    finally:
        if not running.lifecycle.draining:
            running.stop()
        running.thread.join(shutdown_timeout + 10)
        assert not running.thread.is_alive()


def wait_until(is_true: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def data_url(image: Image.Image | None = None, kind: str = "PNG") -> str:
    """An image as requests carry it."""
    buffer = io.BytesIO()
    (image or Image.new("RGB", (64, 48), "white")).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(*parts: dict[str, Any], text: str = "What is there?", **fields: Any) -> dict[str, Any]:
    """The body of a request: an image, other parts, and a text."""
    image = {"type": "image_url", "image_url": {"url": data_url()}}
    content = [image, *parts, {"type": "text", "text": text}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def raw_request(body: bytes, path: str = "/v1/chat/completions", length: int | None = None, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    fields = {
        "Host": "x",
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def as_bytes(body: Any) -> bytes:
    return json.dumps(body).encode()
