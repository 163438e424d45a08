"""`/v1/segment`: masks of regions that are pointed at, and of what a phrase refers to."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from transformers_groma.answer_masks import shown_regions
from transformers_groma.masks import mask_to_rle, rle_to_box
from transformers_groma.serving.answers import ModelFailedError, QueueFullError
from transformers_groma.serving.api_errors import ApiError
from transformers_groma.serving.segment_request import read_segment_request
from transformers_groma.serving.settings import ServerSettings

from .fake_engine import MASKS, FakeEngine
from .running_server import MODEL, data_url, serving

IMAGE = {"image_url": {"url": data_url()}}
POINT = {"point": [10, 20]}


def post(server, body, **headers):
    """The status and the JSON of a response."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(f"{server.url}/v1/segment", content, {"Content-Type": "application/json", **headers})
    try:
        with urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def body(**fields):
    return {"model": MODEL, **IMAGE, **fields}


@pytest.fixture(scope="module")
def server():
    with serving(FakeEngine(has_masks=True)) as running:
        yield running


def test_masks_of_regions(server):
    regions = [POINT, {"box": [1, 2, 3, 4]}, {"scribble": [[1, 2], [30, 4]]}]
    status, content = post(server, body(regions=regions))
    assert status == 200 and server.engine.segmented[-1] == regions
    assert content["object"] == "segmentation" and content["model"] == MODEL and content["id"].startswith("seg-")
    assert content["image"] == {"width": 64, "height": 48}
    assert content["regions"] == [
        {"box_xyxy": [1.0, 2.0, 3.0, 4.0], "mask": MASKS[0], "score": 0.8765},
        {"box_xyxy": [1.0, 2.0, 3.0, 4.0], "mask": MASKS[1], "score": None},
        {"box_xyxy": [1.0, 2.0, 3.0, 4.0], "mask": MASKS[2], "score": None},
    ]


@pytest.mark.parametrize(("every", "question"), [(None, "Locate "), (False, "Locate "), (True, "Locate all ")])
def test_masks_of_a_phrase(server, every, question):
    fields = {} if every is None else {"all": every}
    status, content = post(server, body(phrase=" the red cup ", **fields))
    assert status == 200 and content["phrase"] == " the red cup "
    messages, sampling = server.engine.asked[-1]
    assert messages[0]["content"][1:3] == [
        {"type": "text", "text": question},
        {"type": "phrase", "text": "the red cup", "boxes": []},
    ]
    assert sampling.shorten_to_fit and sampling.temperature == 0
    # Each region that the answer names, or its first phrase, once, with the box around its mask.
    assert content["regions"] == [
        {"box_xyxy": rle_to_box(MASKS[number]).tolist(), "mask": MASKS[number], "score": 0.5}
        for number in range(3 if every else 1)
    ]


def test_a_phrase_that_is_not_found(server):
    engine = FakeEngine(("There is none.",), has_masks=True)
    with serving(engine) as running:
        assert post(running, body(phrase="a dog"))[1]["regions"] == []


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "regions", "There is nothing to segment: send `regions`, such as"),
        ({"regions": []}, "regions", "`regions` is empty."),
        ({"regions": [POINT], "phrase": "a cup"}, "phrase", "`regions` and `phrase` are both given: send one"),
        ({"regions": [POINT], "all": True}, "all", "`all` is about a `phrase`"),
        ({"phrase": " "}, "phrase", "`phrase` is empty."),
        ({"phrase": ""}, "phrase", "`phrase` is empty."),
        ({"phrase": "x" * 50_001}, "phrase", "`phrase` has 50001 characters"),
        ({"regions": [POINT] * 33}, "regions", "`regions` has 33 regions, but this server reads at most 32."),
        ({"regions": [{}]}, "regions[0]", "`regions[0]` has nothing that says where it is"),
        ({"regions": [POINT, {"type": "region", **POINT}]}, "regions[1].type", "`regions[1].type` is not a field"),
        ({"regions": [{"point": "x"}]}, "regions[0].point", "`regions[0].point` is 'x': send [x, y] in pixels"),
        ({"regions": [POINT, {"point": [65, 3]}]}, "regions[1]", "`regions[1].point` = [65.0, 3.0] is outside of the"),
        ({"regions": [{"box": [5, 5, 2, 9]}]}, "regions[0].box", "`regions[0].box` is [5.0, 5.0, 2.0, 9.0], which is"),
        (
            {"regions": [POINT, {"box": [5, 5, 9, 9], "ambiguity": "part"}]},
            "regions[1]",
            "`regions[1]` has 'ambiguity', but a 'box' is clear.",
        ),
        (
            {"regions": [{"point": [0.5, 0.5]}]},
            "regions[0]",
            "`regions[0].point` = [0.5, 0.5] lies within the first pixel of the 64x48 (width x height) image. Pass "
            "pixels.",
        ),
        ({"regions": [None]}, "regions[0]", "`regions[0]` is None: send an object, {…}."),
        ({"regions": [POINT], "model": "other"}, "model", "`model` is 'other'"),
        (
            {"regions": [POINT], "image_url": {"url": "x.png"}},
            "image_url.url",
            "`image_url.url` is neither a data URL",
        ),
        ({"regions": [POINT], "image_url": None}, "image_url", "`image_url` is missing."),
        ({"regions": [POINT], "masks": True}, "masks", "`masks` is not a field that this server knows."),
    ],
)
def test_what_is_refused(server, fields, param, message):
    status, content = post(server, body() | fields)
    assert status == (404 if param == "model" else 400)
    assert content["error"]["message"].startswith(message) and content["error"]["param"] == param


def test_a_mask_is_brought_to_the_size_of_the_image_once(server):
    small, same = np.zeros((24, 32), bool), np.zeros((48, 64), bool)
    small[3:9, 5:20] = same[6:18, 10:40] = True
    assert post(server, body(regions=[{"mask": mask_to_rle(small)}, {"mask": mask_to_rle(same)}]))[0] == 200
    assert server.engine.segmented[-1] == [{"mask": mask_to_rle(same)}] * 2


def test_masks_are_limited():
    mask = {"size": [4, 4], "counts": "12345"}
    settings = ServerSettings(MODEL, max_mask_characters=10)
    two = json.dumps(body(regions=[{"mask": mask}] * 2)).encode()
    assert len(read_segment_request(two, settings).regions) == 2
    with pytest.raises(ApiError, match="`regions` has 15 characters of masks in all"):
        read_segment_request(json.dumps(body(regions=[{"mask": mask}] * 3)).encode(), settings)


def test_a_model_without_a_mask_decoder():
    with serving(FakeEngine()) as running:
        status, content = post(running, body(regions=[POINT]))
    assert status == 400 and content["error"]["code"] == "masks_not_supported"
    assert content["error"]["message"] == (
        "/v1/segment answers with masks, but this server's model has no mask decoder and points with boxes only: ask "
        "/v1/chat/completions for boxes."
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (QueueFullError("full"), 503, "queue_full"),
        (ModelFailedError("failed"), 500, "model_failed"),
        (ValueError("The model found no region that a point could mean."), 400, "invalid_region"),
    ],
)
def test_errors_of_the_engine(error, status, code):
    with serving(FakeEngine(error=error, has_masks=True)) as running:
        found, content = post(running, body(regions=[POINT]))
    assert found == status and content["error"]["code"] == code


def test_keys_limits_and_metrics_are_those_of_all_requests():
    with serving(FakeEngine(has_masks=True), api_keys=("secret",), max_body_bytes=2000, max_pixels=10_000) as running:
        assert post(running, body(regions=[POINT]))[0] == 401
        key = {"Authorization": "Bearer secret"}
        assert post(running, body(regions=[POINT]), **key)[0] == 200
        assert post(running, b" " * 3000, **key)[0] == 413
        large = {"image_url": {"url": data_url(Image.new("RGB", (101, 100)))}}
        assert post(running, body(regions=[POINT]) | large, **key)[0] == 400
        metrics = urlopen(Request(f"{running.url}/metrics", headers=key), timeout=20).read().decode()
    assert 'groma_http_requests_total{endpoint="/v1/segment",status="200"} 1.0' in metrics


def test_a_real_model(masked_parts):
    """With the engine, the masks are of the image and around the boxes."""
    from transformers_groma.serving.engine import Engine

    from .engines import conversation, noise, run, tokens

    engine = Engine(*masked_parts)
    image = noise(size=(48, 64))
    mask = np.zeros((48, 64), bool)
    mask[5:20, 10:30] = True
    with serving(engine) as running:
        fields = body(regions=[POINT, {"box": [1, 2, 30, 40]}, {"mask": mask_to_rle(mask)}])
        status, content = post(running, fields | {"image_url": {"url": data_url(image)}})
        assert status == 200
        assert all(region["mask"]["size"] == [48, 64] for region in content["regions"])
        assert content["regions"][2] == {"box_xyxy": [10, 5, 30, 20], "mask": mask_to_rle(mask), "score": None}
        for region in content["regions"]:
            box = rle_to_box(region["mask"])
            assert box.any() == 0 or region["box_xyxy"] == box.tolist()
        answer = run(engine.answer(conversation(POINT, image=image), tokens(4), masks=True))
        assert shown_regions(answer.grounded)[0] == 0
        assert answer.masks[0] == content["regions"][0]["mask"]
