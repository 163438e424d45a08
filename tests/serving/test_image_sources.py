"""Images of requests: data URLs within limits, and nothing of the server's own."""

import asyncio
import base64
import io

import pytest
from anyio import CapacityLimiter
from huggingface_hub.utils import httpx
from PIL import Image

from transformers_groma.images import open_image_header
from transformers_groma.serving.held_memory import HeldMemory
from transformers_groma.serving.image_sources import ImageSources, decoded_upright
from transformers_groma.serving.settings import ServerSettings

from .fake_engine import FakeEngine
from .running_server import MODEL, data_url, question, serving

PIXELS = 64 * 48
PNG = base64.b64decode(data_url().partition(",")[2])  # of as many pixels


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(), max_pixels=PIXELS) as running:
        yield running


def ask(server, url, *parts):
    body = question(*parts)
    body["messages"][0]["content"][0]["image_url"]["url"] = url
    return httpx.post(f"{server.url}/v1/chat/completions", json=body)


def refusal(response) -> str:
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == "messages[0].content[0].image_url.url"
    return error["message"]


def as_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_limit_of_pixels(server):
    assert ask(server, data_url(Image.new("L", (64, 48)))).status_code == 200
    assert "65x48 (width x height) pixels are more than the 3072" in refusal(
        ask(server, data_url(Image.new("L", (65, 48))))
    )


def test_a_bomb_is_refused_by_its_header(server):
    """A few kilobytes that would decode to 100 million pixels and more."""
    for size in ((9000, 9000), (20000, 20000)):
        assert "pixels" in refusal(ask(server, data_url(Image.new("1", size))))


def test_an_image_is_turned_upright(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    answer = ask(server, as_url(buffer.getvalue())).json()
    assert answer["choices"][0]["message"]["grounding"]["image"] == {"width": 20, "height": 40}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64,", "cannot be read as an image"),
        ("data:image/png;base64,AAAA", "cannot be read as an image"),
        ("data:image/png;base64,?", "not base64"),
        ("data:image/png;base64,AAA", "not base64"),
        ("data:image/png,AAAA", "not a data URL of an image in base64"),
        ("data:text/plain;base64,AAAA", "not a data URL of an image in base64"),
        ("data:;base64,AAAA", "not a data URL of an image in base64"),
        (as_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image file of a format that is read"),
        (as_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image file of a format that is read"),
        (data_url(Image.new("RGB", (1, 9))), "too small"),
        ("https://example.org/cat.png", "this server fetches no images"),
        ("HTTP://example.org/cat.png", "this server fetches no images"),
        *[
            (url, "Files of the server are never read")
            for url in ("/etc/passwd", "cat.png", "file:///etc/passwd", "FILE:///etc/hosts", "ftp://example.org/a.png")
        ],
    ],
)
def test_what_is_not_an_image(server, url, words):
    message = refusal(ask(server, url))
    assert words in message and message.endswith(".")


def test_files_of_the_server_are_not_read(server, tmp_path):
    path = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(path)
    for url in (str(path), path.as_uri(), f"data:image/png;base64,{path}"):
        refusal(ask(server, url))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_nothing_of_the_file_stays_in_memory(kind, orientation):
    """Neither its bytes nor its texts: many images wait for their turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image = Image.effect_noise((40, 20), 50).convert("RGB")
    image.save(file, kind, exif=exif)
    upright = decoded_upright(open_image_header(io.BytesIO(file.getvalue())))
    assert type(upright) is Image.Image and upright.info == {}
    assert upright.mode == "RGB" and upright.size == ((40, 20) if orientation == 1 else (20, 40))
    if kind in ("PNG", "TIFF"):
        expected = image if orientation == 1 else image.transpose(Image.Transpose.ROTATE_270)
        assert upright.tobytes() == expected.tobytes()


def test_what_was_downloaded_is_held_until_it_is_decoded():
    class Downloader:
        async def download(self, url, hold):
            hold(len(PNG))
            held.append(share.held)
            return PNG

    memory, held = HeldMemory(10**6), []
    sources = ImageSources(ServerSettings(MODEL), Downloader(), held.append, CapacityLimiter(1))
    with memory.share() as share:
        share.add(1000)  # its body
        asyncio.run(sources.read("https://example.org/cat.png", "url", share))
        assert held == [1000 + len(PNG), "ok"] and share.held == 1000 + 4 * PIXELS
    assert memory.held == 0


def test_a_truncated_image(server):
    content = base64.b64decode(data_url(Image.effect_noise((40, 40), 50), "PNG").partition(",")[2])
    assert "cannot be read" in refusal(ask(server, as_url(content[: len(content) // 2])))


def test_an_animation(server):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert "several frames" in refusal(ask(server, as_url(buffer.getvalue())))


@pytest.mark.parametrize(
    "url", [data_url().replace("data:image/png", "DATA:image/png;charset=utf-8"), data_url() + "\n"]
)
def test_unusual_data_urls(server, url):
    assert ask(server, url).status_code == 200


@pytest.mark.parametrize("box", [[0, 0, 64, 48], [63, 47, 64.9, 48.9], [10, 10, 10.5, 10.5]])
def test_boxes_of_the_image(server, box):
    assert ask(server, data_url(), {"type": "region", "box": box}).status_code == 200


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([30, 10, 10, 40], "x1 < x2"),
        ([10, 10, 10, 40], "x1 < x2"),
        ([0, 0, 65.1, 48], "64x48"),
        ([0.1, 0.2, 0.5, 0.6], "look like fractions"),
        ([-2, 0, 20, 20], "64x48"),
    ],
)
def test_boxes_that_are_not_of_the_image(server, box, words):
    response = ask(server, data_url(), {"type": "region", "box": box})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "messages[0].content[1].box" and words in error["message"]


def test_settings_name_the_limit_that_is_wrong():
    for name in ("max_pixels", "max_body_bytes", "read_timeout", "max_requests_per_client"):
        with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
            ServerSettings(MODEL, **{name: 0})
    with pytest.raises(ValueError, match="`max_redirects` must be 0 or positive, got -1"):
        ServerSettings(MODEL, max_redirects=-1)
    with pytest.raises(ValueError, match="`model_name` is empty"):
        ServerSettings(" ")
    least = ServerSettings(MODEL).most_bytes_of_one
    ServerSettings(MODEL, max_held_bytes=least)
    with pytest.raises(ValueError, match="`max_held_bytes` is"):
        ServerSettings(MODEL, max_held_bytes=least - 1)
