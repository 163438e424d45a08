"""Untrusted images: one pixel limit, read from the header, and no format that starts a program."""

import base64
import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from transformers_groma import GromaImageProcessor
from transformers_groma import images as image_reading
from transformers_groma.image_inputs import read_upright
from transformers_groma.images import (
    IMAGE_FORMATS,
    MAX_IMAGE_PIXELS,
    ImageTooLargeError,
    check_image_pixels,
    decode_image,
    image_orientation,
    load_image,
    open_image_header,
    read_image,
    upright,
    upright_size,
)

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def png_of_size(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header promises a size, with almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*item) for item in [*chunks, (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + header + rest


def saved(image: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.fixture
def small_limit(monkeypatch) -> int:
    monkeypatch.setattr(image_reading, "MAX_IMAGE_PIXELS", 1000)
    return 1000


def test_limit():
    assert MAX_IMAGE_PIXELS == 100_000_000
    assert image_reading.MAX_DOWNLOAD_BYTES == 2**28 and image_reading.MAX_DOWNLOAD_SECONDS == 60
    check_image_pixels(10_000, 10_000)
    with pytest.raises(ImageTooLargeError, match=r"10001x10000 \(width x height\) pixels are more than the 100000000"):
        check_image_pixels(10_001, 10_000)


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (2, 60_000_000)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_of_size(*size))
    for source in (str(tmp_path / "bomb.png"), base64.b64encode(png_of_size(*size)).decode()):
        tracemalloc.start()
        with pytest.raises(ImageTooLargeError, match="more than the 100000000") as error, warnings.catch_warnings():
            warnings.simplefilter("error")
            read_image(source)
        assert "\n" not in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()


def test_no_warning_below_the_limit(tmp_path):
    """Pillow's own is lower."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image_header(io.BytesIO(png_of_size(9_999, 10_000))).size == (9_999, 10_000)


def test_reading_images_needs_no_pytorch():
    """Columns of datasets are read with it alone."""
    code = "import sys, transformers_groma.images; print({'torch', 'transformers'} & set(sys.modules))"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert outcome.stdout == "set()\n"


def test_warnings_of_pillow_are_as_before():
    before = list(warnings.filters)
    open_image_header(io.BytesIO(png_of_size(4, 3)))
    assert warnings.filters == before


def test_the_limit_can_be_changed(small_limit):
    assert decode_image(io.BytesIO(saved(Image.new("RGB", (40, 25)), "PNG"))).size == (40, 25)
    content = saved(Image.new("RGB", (41, 25)), "PNG")
    with pytest.raises(ImageTooLargeError):
        decode_image(io.BytesIO(content))
    with pytest.raises(ImageTooLargeError):
        open_image_header(io.BytesIO(content))
    with pytest.raises(ImageTooLargeError):
        load_image(Image.open(io.BytesIO(content)))
    with pytest.raises(ImageTooLargeError):
        load_image(Image.new("RGB", (41, 25)))


def test_every_way_to_the_model_has_the_limit(small_limit, processor):
    large = Image.new("RGB", (41, 25))
    arrays = [
        np.zeros((25, 41, 3), np.uint8),
        np.zeros((3, 25, 41), np.uint16),
        np.zeros((25, 41)),
        torch.zeros(3, 41, 25),
    ]
    for image in (large, *arrays):
        with pytest.raises(ValueError, match=r"`images` of sample 1 cannot be read: .* pixels are more than the 1000"):
            processor(images=[Image.new("RGB", (40, 25)), image], text=["a", "b"])
        with pytest.raises(ValueError, match="pixels are more than the 1000"):
            GromaImageProcessor()(image if not isinstance(image, np.ndarray) or image.ndim == 3 else large)
    text = base64.b64encode(saved(large, "PNG")).decode()
    with pytest.raises(ValueError, match="pixels are more than the 1000"):
        GromaImageProcessor()([text])
    for image in (np.zeros((25, 40, 3), np.uint8), np.zeros((4, 25, 40), np.uint8), torch.zeros(25, 40)):
        assert processor(images=image, text="a")


@pytest.mark.parametrize(
    "shape", [(0, 10, 3), (10, 0, 3), (3, 0, 0), (0, 0), (1, 100_000), (3, 1, 100_000), (100_000, 1, 3)]
)
def test_arrays_without_an_area(processor, shape):
    for image in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match=r"`images` of sample 0 (has \d+x\d+ .*too small|is an array of shape)"):
            processor(images=image, text="a")


def test_formats(tmp_path):
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"):
        assert decode_image(io.BytesIO(saved(Image.new("RGB", (4, 3), "red"), kind))).size == (4, 3)
    assert not {"EPS", "WMF", "PDF", "PSD", "FITS"} & set(IMAGE_FORMATS)
    (tmp_path / "image.png").write_bytes(EPS)
    for read in (lambda: read_image(str(tmp_path / "image.png")), lambda: decode_image(io.BytesIO(EPS))):
        with pytest.raises(OSError, match="^it is not an image file of a format that is read$"):
            read()
    opened = Image.open(io.BytesIO(EPS))
    with pytest.raises(ValueError, match="images of the format EPS are not read; convert it"):
        load_image(opened)
    with pytest.raises(ValueError, match="`images` of sample 0 cannot be read.*EPS"):
        read_upright(opened, "`images` of sample 0")


def test_frames(tmp_path, monkeypatch):
    """The first one, and it is said."""
    said = []
    monkeypatch.setattr(image_reading.logger, "warning", said.append)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        image = decode_image(io.BytesIO(content)).convert("RGB")
        red, green, blue = image.getpixel((4, 4))
        assert red > 200 and green < 60 and blue < 60
        assert len(said) == 1 and kind in said.pop() and image.size == (8, 8)
        decode_image(io.BytesIO(saved(frames[0], kind)))
        assert not said
    # Of a phone's photo the others are not frames; an image in memory has none; whoever chose a frame keeps it.
    decode_image(io.BytesIO(saved(frames[0], "MPO", save_all=True, append_images=frames[1:])))
    load_image(frames[0])
    image = Image.open(io.BytesIO(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    image.seek(1)
    load_image(image)
    assert not said and image.tell() == 1 and image.convert("RGB").getpixel((4, 4)) == (0, 255, 0)


def test_formats_that_were_decoded_before_are_images_as_others():
    """What is dangerous in a format is its decoder, which has run already."""
    content = saved(Image.new("RGB", (4, 3), "red"), "TGA")
    with pytest.raises(ValueError, match="images of the format TGA are not read"):
        load_image(Image.open(io.BytesIO(content)))
    image = Image.open(io.BytesIO(content))
    image.load()
    load_image(image)
    assert image.size == (4, 3)


def test_texts_in_a_file_that_unpack_to_more(tmp_path):
    text = zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK * 20))
    (tmp_path / "text.png").write_bytes(png_of_size(4, 4, (b"zTXt", b"Comment\0\0" + text)))
    with pytest.raises(ValueError, match=r"`images` of sample 0 cannot be read.*text\.png"):
        read_upright(tmp_path / "text.png", "`images` of sample 0")


def test_base64(tmp_path):
    content = base64.b64encode(saved(Image.new("RGB", (4, 3)), "PNG")).decode()
    for text in (content, f"data:image/png;base64,{content}", f"  {content}\n"):
        assert read_image(text).size == (4, 3)
    for text in ("no such file.png", "data:image/png;base64,???", "ftp://host/a.png", "", "AAAA"):
        with pytest.raises((ValueError, OSError)):
            read_image(text)
    for text in ("no such file.png", "https:/one-slash.org/a.png", "data:image/png;base64,???"):
        with pytest.raises(ValueError, match="neither a file nor an http"):
            read_image(text)


def test_frames_of_a_file_stay_readable_after_it_is_closed(tmp_path):
    image = Image.new("RGB", (6, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.tiff", "a.jpg", "a.png", "a.webp"):
        image.save(tmp_path / name, exif=exif)
        assert read_upright(tmp_path / name).size == (4, 6)


@pytest.fixture
def web() -> Iterator[str]:
    """A server with an image, a bomb, and bodies that never end."""
    good = saved(Image.new("RGB", (4, 3)), "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/good.png")
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 200)
            self.end_headers()
            try:
                if self.path == "/endless":
                    while True:
                        self.wfile.write(b"x" * 65536)
                self.wfile.write(png_of_size(20_000, 20_000) if self.path == "/bomb.png" else good)
            except OSError:
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls(web, monkeypatch):
    assert read_image(f"{web}/good.png").size == read_image(f"{web}/moved").size == (4, 3)
    for path, message in (("bomb.png", "more than the 100000000"), ("none", "404")):
        with pytest.raises(ValueError, match=f"`images` of sample 0 cannot be read.*{message}"):
            read_upright(f"{web}/{path}", "`images` of sample 0")
    size = len(saved(Image.new("RGB", (4, 3)), "PNG"))
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_BYTES", size)
    assert read_image(f"{web}/good.png").size == (4, 3)
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"it has more than {size - 1} bytes"):
        read_image(f"{web}/good.png")
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_BYTES", 1_000_000)
    with pytest.raises(ValueError, match="it has more than 1000000 bytes"):
        read_image(f"{web}/endless")
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_BYTES", 10**12)
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"its download takes more than 0\.2 s"):
        read_image(f"{web}/endless")


@pytest.mark.parametrize(("seconds", "expected"), [(60.0, 10.0), (3.0, 3.0)])
def test_a_server_that_says_nothing_is_not_waited_for_longer(monkeypatch, seconds, expected):
    seen = []
    monkeypatch.setattr(image_reading, "MAX_DOWNLOAD_SECONDS", seconds)
    monkeypatch.setattr(image_reading.httpx, "stream", lambda *_, **how: seen.append(how) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_image("http://127.0.0.1/a.png")
    assert [how["timeout"] for how in seen] == [expected]


def test_lists_of_images(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    images = GromaImageProcessor().fetch_images([str(path), [path, np.zeros((2, 2, 3))]])
    assert images[0].size == images[1][0].size == (4, 3) and images[1][1].shape == (2, 2, 3)
    with pytest.raises(TypeError):
        GromaImageProcessor().fetch_images(5)


def test_a_bomb_in_a_line(tmp_path, capsys):
    """Of each command that looks at an image."""
    from transformers_groma.cli import main

    bomb = Path(tmp_path / "bomb.png")
    bomb.write_bytes(png_of_size(20_000, 20_000))
    for arguments in (
        ["chat", str(bomb), "Hi"],
        ["propose", str(bomb)],
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("using the embedded")]
        assert out == "" and len(lines) == 1 and "more than the 100000000" in lines[0]


# ---------------------------------------------------------------------------------------------------------------- EXIF


def tiff_entries(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data with these tags: number, type, count and four bytes of value."""
    rows = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + rows + b"\0\0\0\0"


TURNED = (0x0112, 3, 1, b"\0\x06\0\0")
# Values that Pillow reads but cannot write: a text where numbers belong, in a known tag.
ODD_TAGS = {
    "text as a rational": (0x011A, 2, 4, b"abc\0"),
    "text as a short": (0x0128, 2, 4, b"abc\0"),
    "float as a text": (0x010F, 11, 1, struct.pack(">f", 1.5)),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_TAGS)
def test_images_are_turned_whatever_else_their_exif_data_hold(kind, odd):
    exif = tiff_entries(*sorted([TURNED, ODD_TAGS[odd]]))
    image = Image.open(io.BytesIO(saved(Image.new("RGB", (40, 20)), kind, exif=exif)))
    assert image_orientation(image) == 6
    turned = read_upright(image)
    assert turned.size == (20, 40) and image.size == (40, 20)
    assert read_upright(turned).size == (20, 40)  # and not again


@pytest.mark.parametrize("orientation", range(10))
def test_upright_is_what_viewers_show(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.open(io.BytesIO(saved(Image.fromarray(pixels), "PNG", exif=exif)))
    expected = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels[::-1].T,
        7: pixels[::-1, ::-1].T,
        8: pixels.T[::-1],
    }
    shown = upright(image)
    assert np.array_equal(np.asarray(shown), expected.get(orientation, pixels)) and shown is not image
    assert image_orientation(image) == (orientation if orientation in expected else 1)
    assert image_orientation(shown) == 1
    assert upright_size(image) == upright_size(shown) == shown.size


def test_exif_data_that_cannot_be_read(tmp_path, monkeypatch, processor):
    warnings_given = []
    monkeypatch.setattr(image_reading.logger, "warning", warnings_given.append)
    image = Image.new("RGB", (40, 20), "red")
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(image, "JPEG", exif=b"Exif\0\0" + b"\xff" * 30))
    clean = decode_image(io.BytesIO(saved(image, "JPEG")))
    seen = [processor(images=entry, text="What?", return_tensors="pt")["pixel_values"] for entry in (str(path), clean)]
    assert torch.equal(*seen)
    assert set(warnings_given) == {"The EXIF data of an image cannot be read; the image is taken as upright."}
