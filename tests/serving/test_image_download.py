"""Images from URLs: only public addresses, at every redirect, within limits."""

import asyncio
import base64
import gzip
import shutil
import ssl
import subprocess
import time
from functools import partial

import pytest
from huggingface_hub.utils import httpx

from transformers_groma.serving.image_download import DownloadError, ImageDownloader, resolve_host
from transformers_groma.serving.public_addresses import is_public_address
from transformers_groma.serving.settings import ServerSettings

from .fake_engine import FakeEngine
from .image_host import ImageHost, content, dripping, redirect
from .running_server import data_url, question, serving

PNG = base64.b64decode(data_url().partition(",")[2])
# Names of a small internet: where each leads.
ADDRESSES = {
    "images.example": ["127.0.0.1"],
    "other.example": ["127.0.0.1"],
    "private.example": ["10.0.0.7"],
    "mixed.example": ["127.0.0.1", "169.254.169.254"],
    "mapped.example": ["::ffff:169.254.169.254"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "nothing.example": [],
}


@pytest.fixture(scope="module")
def host():
    with ImageHost().running() as running:
        yield running


async def resolve(name: str, port: int) -> list[str]:
    return ADDRESSES.get(name, [name])


def is_allowed(address: str) -> bool:
    """As in the server, but that the host on loopback counts as public."""
    return address == "127.0.0.1" or is_public_address(address)


def download(host, path, name="images.example", find=resolve, url=None, tls=None, **settings):
    """Download from the host; also returns the bytes that were counted."""
    counted = []

    async def run():
        options = {"image_url_ports": (host.port,), "allow_image_urls": True, **settings}
        downloader = ImageDownloader(ServerSettings("toy", **options), find, is_allowed, tls)
        try:
            return await downloader.download(url or f"http://{name}:{host.port}{path}", counted.append)
        finally:
            await downloader.aclose()

    return asyncio.run(run()), sum(counted)


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(DownloadError) as raised:
        download(*arguments, **keywords)
    return str(raised.value)


def test_an_image_is_downloaded(host):
    host.paths["/cat.png?size=1"] = content(PNG)
    host.requests.clear()
    assert download(host, "/cat.png?size=1") == (PNG, len(PNG))
    ((path, headers),) = host.requests
    assert path == "/cat.png?size=1" and headers["host"] == f"images.example:{host.port}"
    assert headers["accept-encoding"] == "identity" and "authorization" not in headers and "cookie" not in headers


def test_limit_of_bytes(host):
    host.paths["/at"], host.paths["/above"] = content(b"x" * 1000), content(b"x" * 1001)
    assert download(host, "/at", max_body_bytes=1000)[0] == b"x" * 1000
    assert "more than 1000 bytes" in refusal(host, "/above", max_body_bytes=1000)


def test_limit_of_redirects(host):
    host.paths["/end"] = content(PNG)
    for number in range(4):
        host.paths[f"/{number}"] = redirect(f"/{number - 1}" if number else "/end", 301 + (number % 2))
    assert download(host, "/2", max_redirects=3)[0] == PNG
    assert "redirects more than 3 times" in refusal(host, "/3", max_redirects=3)
    assert download(host, "/end", max_redirects=0)[0] == PNG
    host.paths["/loop"] = redirect("/loop")
    assert "redirects" in refusal(host, "/loop")


def test_a_redirect_to_another_host_is_resolved_and_checked_again(host):
    host.paths["/cat"] = content(PNG)
    host.paths["/away"] = redirect(f"http://other.example:{host.port}/cat")
    assert download(host, "/away")[0] == PNG


@pytest.mark.parametrize("name", [name for name in ADDRESSES if name not in ("images.example", "other.example")])
def test_hosts_that_are_not_public(host, name):
    """Asked for at once, or after a redirect; nothing is sent to them."""
    host.paths["/away"] = redirect(f"http://{name}:{host.port}/x")
    words = "has no address" if name == "nothing.example" else "an address that is not public"
    assert words in refusal(host, "/x", name=name)
    assert words in refusal(host, "/away")
    host.requests.clear()
    refusal(host, "/x", name=name)
    assert host.requests == []


def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(host):
    """DNS rebinding: the connection goes to the address that was checked, and the name is not asked again."""
    host.paths["/cat"] = content(PNG)
    asked = []

    async def rebinding(name: str, port: int) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    assert download(host, "/cat", find=rebinding)[0] == PNG
    assert asked == ["images.example"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://images.example:81/x", "names the port 81"),
        ("http://images.example/x", "names the port 80"),
        ("http://user:password@images.example:{port}/x", "user name or password"),
        ("http://user@images.example:{port}/x", "user name or password"),
        ("http:///x", "not an http or https URL with a host"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("http://[::ffff:127.0.0.1]:{port}/x", "not public"),
        ("http://0.0.0.0:{port}/x", "not public"),
        ("http://[::1]:{port}/x", "not public"),
        ("http://images.example:{port}\\@10.0.0.1/x", ""),
        ("http://exa mple/x", ""),
        ("http://images.example:999999/x", ""),
    ],
)
def test_urls_that_are_refused(host, url, words):
    host.paths["/x"] = content(b"secret", 404)
    assert words in refusal(host, "", url=url.format(port=host.port))


@pytest.mark.parametrize("target", ["file:///etc/passwd", "data:image/png;base64,AAAA", "gopher://images.example/x"])
def test_redirects_to_other_schemes(host, target):
    host.paths["/scheme"] = redirect(target)
    assert "not an http or https URL" in refusal(host, "/scheme")


def test_a_proxy_of_the_environment_is_not_used(host, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    host.paths["/cat"] = content(PNG)
    assert download(host, "/cat")[0] == PNG


def test_cookies_do_not_go_from_one_image_to_the_next(host):
    host.paths["/cookie"] = content(PNG, Set_Cookie="user=ann; Path=/")
    host.paths["/back"] = redirect("/cookie")
    host.requests.clear()

    async def twice():
        settings = ServerSettings("toy", image_url_ports=(host.port,), allow_image_urls=True)
        downloader = ImageDownloader(settings, resolve, is_allowed)
        for path in ("/cookie", "/cookie"):
            await downloader.download(f"http://images.example:{host.port}{path}", lambda count: None)
        assert len(downloader._client.cookies.jar) == 0
        await downloader.aclose()

    asyncio.run(twice())
    assert len(host.requests) == 2 and all("cookie" not in headers for _, headers in host.requests)


def test_the_next_address_is_tried_where_one_does_not_answer(host):
    """As of a host with an IPv6 address, in a network without IPv6."""

    async def several(name: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async def run():
        settings = ServerSettings("toy", image_url_ports=(host.port,), allow_image_urls=True)
        downloader = ImageDownloader(settings, several, lambda address: True)
        return await downloader.download(f"http://images.example:{host.port}/cat", lambda count: None)

    host.paths["/cat"] = content(PNG)
    assert asyncio.run(run()) == PNG


@pytest.mark.parametrize("address", ["2606:4700::1111", "::1"])
def test_addresses_of_version_6(monkeypatch, address):
    """They stand in brackets, in the address that is asked as well as in the name of the host."""
    asked = []

    async def run(url):
        async def find(name: str, port: int) -> list[str]:
            asked.append(name)
            return [address]

        downloader = ImageDownloader(ServerSettings("toy", allow_image_urls=True), find, lambda address: True)

        async def send(request, stream):
            asked.append((str(request.url), request.headers["host"]))
            return httpx.Response(200, content=PNG, request=request)

        monkeypatch.setattr(downloader._client, "send", send)
        await downloader._connect(httpx.URL(url))

    asyncio.run(run("http://images.example/cat"))
    asyncio.run(run(f"http://[{address}]/cat"))
    assert asked == [
        "images.example",
        (f"http://[{address}]/cat", "images.example"),
        address,
        (f"http://[{address}]/cat", f"[{address}]"),
    ]


def test_compressed_content_is_refused(host):
    """A bomb never unfolds."""
    host.paths["/bomb"] = content(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    assert "compressed (gzip)" in refusal(host, "/bomb")


@pytest.mark.parametrize("status", [204, 206, 400, 404, 500])
def test_other_statuses(host, status):
    host.paths["/status"] = content(b"", status)
    assert f"status {status}" in refusal(host, "/status")


def test_the_time_is_limited_in_all(host):
    """Not only between two bytes."""
    host.paths["/slow"] = dripping(0.02)
    start = time.monotonic()
    assert "more than 0.3 s" in refusal(host, "/slow", image_url_timeout=0.3)
    assert time.monotonic() - start < 3


def test_resolving_takes_from_the_same_time(host):
    async def never(name: str, port: int) -> list[str]:
        await asyncio.sleep(20)

    start = time.monotonic()
    assert "more than 0.2 s" in refusal(host, "/x", find=never, image_url_timeout=0.2)
    assert time.monotonic() - start < 3


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for images.example, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    names = ["-subj", "/CN=images.example", "-addext", "subjectAltName=DNS:images.example"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_certificates_are_those_of_the_name_and_not_of_the_address(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    asked = []
    context.sni_callback = lambda connection, name, _: asked.append(name)
    trusting = ssl.create_default_context(cafile=certificate[0])
    with ImageHost(context).running() as secure:
        secure.paths["/cat"] = content(PNG)

        def fetch(name, tls):
            return download(secure, "", url=f"https://{name}:{secure.port}/cat", tls=tls)[0]

        assert fetch("images.example", trusting) == PNG
        assert asked == ["images.example"]
        for name, tls in (("other.example", trusting), ("images.example", None)):
            with pytest.raises(DownloadError, match="cannot be fetched"):
                fetch(name, tls)


def test_a_host_that_nobody_knows(host):
    with pytest.raises(DownloadError, match="its host is not known"):
        asyncio.run(resolve_host("no-such-host.invalid", 80))
    assert "127.0.0.1" in asyncio.run(resolve_host("127.1", 80))


def test_a_host_that_does_not_answer(host):
    async def closed(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    message = refusal(host, "", find=closed, url="http://images.example:9/x", image_url_ports=(9,))
    assert message == "it cannot be fetched (ConnectError)"
    assert refusal(host, "", url="http://0177.0.0.1/x") == "it is not a URL, or redirects to something that is not"


def test_the_server_fetches_where_it_may(host):
    """Through the whole server: a good image, one that is not an image, and one that is counted as an error."""
    host.paths["/cat.png"], host.paths["/page"] = content(PNG), content(b"<html>")
    make = partial(ImageDownloader, resolve=resolve, is_allowed=is_allowed)
    settings = {"allow_image_urls": True, "image_url_ports": (host.port,)}
    with serving(FakeEngine(), options={"make_downloader": make}, **settings) as running:

        def ask(url):
            body = question()
            body["messages"][0]["content"][0]["image_url"]["url"] = url
            return httpx.post(f"{running.url}/v1/chat/completions", json=body)

        answer = ask(f"http://images.example:{host.port}/cat.png").json()
        assert answer["choices"][0]["message"]["grounding"]["image"] == {"width": 64, "height": 48}
        error = ask(f"http://images.example:{host.port}/page")
        assert error.status_code == 400 and "cannot be read as an image" in error.json()["error"]["message"]
        error = ask(f"http://private.example:{host.port}/cat.png")
        assert error.status_code == 400 and error.json()["error"]["message"] == (
            "`messages[0].content[0].image_url.url` cannot be fetched: its host has an address that is not public."
        )
        metrics = httpx.get(f"{running.url}/metrics").text
    assert 'groma_image_downloads_total{result="ok"} 2.0' in metrics
    assert 'groma_image_downloads_total{result="error"} 1.0' in metrics


def test_a_server_that_fetches_from_itself_answers_on(host):
    """What made `transformers serve` hang for good."""
    options = {"make_downloader": lambda settings: ImageDownloader(settings, resolve, lambda address: True)}
    ports = tuple(range(1, 65536))
    with serving(FakeEngine(), options=options, allow_image_urls=True, image_url_ports=ports) as running:
        host.paths["/to-itself"] = redirect(f"{running.url}/v1/models")
        body = question()
        body["messages"][0]["content"][0]["image_url"]["url"] = f"http://images.example:{host.port}/to-itself"
        response = httpx.post(f"{running.url}/v1/chat/completions", json=body)
        assert response.status_code == 400 and "not an image file" in response.json()["error"]["message"]
