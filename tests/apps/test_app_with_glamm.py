"""The app's events with a GLaMM behind them: masks of answers, previews of clicks, pages of partial answers."""

import asyncio
import json

import numpy as np
import pytest
from PIL import Image

from tests.scripted import Scripted, grounded_script
from tests.tiny_checkpoint import save_tiny_glamm
from transformers_groma.apps.app_events import AppEvents
from transformers_groma.apps.app_examples import EXAMPLES
from transformers_groma.apps.app_page import NO_PROPOSALS
from transformers_groma.apps.app_questions import Request
from transformers_groma.apps.app_session import Session
from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.gradio_app import _view
from transformers_groma.serving.engine import Engine

BOX = {"kind": "box", "box": [10.0, 20.0, 50.0, 60.0]}
CLICK = {"kind": "points", "points": [[40, 50]], "labels": [1]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A GLaMM that writes `<p> a </p> [SEG] i`, loaded as the command loads it."""
    engine = Engine.from_pretrained(save_tiny_glamm(tmp_path_factory.mktemp("glamm")), device="cpu")
    Scripted(engine.model, *grounded_script(engine.processor))
    yield engine
    engine.close(20)


@pytest.fixture
def events(engine, tmp_path) -> AppEvents:
    return AppEvents(engine, AppSettings("glamm", max_new_tokens=9), tmp_path)


@pytest.fixture
def session(events, tmp_path) -> Session:
    random = np.random.default_rng(0)
    (tmp_path / "upload").mkdir()
    photo = Image.fromarray(random.integers(0, 255, (100, 120, 3), dtype=np.uint8))
    photo.save(tmp_path / "upload" / "photo.png")
    session = Session()
    assert asyncio.run(events.open_image(session, tmp_path / "upload" / "photo.png")).status == ""
    asyncio.run(events.propose(session))
    return session


def ask(events, session, *requests) -> list[str]:
    """The pages of requests, as they are shown one after the other."""

    async def collect():
        return [_view(session) for request in requests async for _ in events.ask(session, request)]

    return asyncio.run(collect())


def test_the_page_says_what_to_do_without_proposals(session):
    assert NO_PROPOSALS in _view(session)


@pytest.mark.parametrize(
    "asked",
    [
        Request("describe_image"),
        Request("find", "all cups"),
        Request("ask", "What is this?", [BOX], points=True),
        Request("ask", "What is [1]?", [CLICK]),
        Request("describe_regions", "", [BOX]),
    ],
    ids=lambda asked: f"{asked.verb}-{len(asked.drawings or [])}",
)
def test_answers_come_with_outlines(events, session, asked):
    pages = ask(events, session, asked)
    exchange = session.exchanges[0]
    (phrase,) = exchange.answer.phrases
    own = exchange.answer.user_region_ids
    assert set(exchange.masks) == set(exchange.outlines) == {*phrase.region_ids, *own}
    assert len(own) == len(asked.drawings or []) and not exchange.is_partial
    assert 'class="groma-name"' in pages[-1] and 'data-groma-control="masks"' in pages[-1]
    assert all('class="groma-name"' not in page for page in pages[:-2])  # masks come at the end


def test_examples_are_asked_in_glamms_words(events, session):
    """Regions and phrases stay those of the scene."""
    asked = [example.content(events.engine.question_wording) for example in EXAMPLES]
    words = ["".join(part.get("text", "<region>") for part in content) for content in asked]
    assert words[0] == events.engine.question_wording.default(0)
    assert words[2] == f"Please segment {EXAMPLES[2].title.removeprefix('Find ').removeprefix('all ')} in this image."
    assert words[3].startswith("Please segment the small red rectangle")

    async def started():
        return [screen async for screen in events.start_example(session, 3)]

    assert asyncio.run(started())[-1].status == "" and session.exchanges[0].answer.phrases


def test_conversations_go_on(events, session):
    ask(events, session, Request("ask", "What is this?", [BOX]), Request("ask", "And this?", [CLICK]))
    first, second = session.exchanges
    assert first.answer.user_region_ids == (0,) and second.answer.user_region_ids == (1,)
    assert second.answer.phrases[0].region_ids == (2,)


def test_clicks_are_shown_before_anything_is_asked(events, session):
    wanted = [{"key": "a", "region": CLICK}, {"key": "b", "region": BOX}]
    click, box = asyncio.run(events.preview(session, wanted)).previews
    assert click["outline"] and box["outline"] is None and box["box"] == pytest.approx(BOX["box"], abs=1e-3)


def test_answers_are_saved(events, session):
    ask(events, session, Request("ask", "What is this?", [BOX]))
    content = json.loads(asyncio.run(events.save(session, "json")).read_text())
    assert content["question"] == "What is this? <region>" and len(content["regions"]) == 2
    assert all(region["mask"]["size"] == [100, 120] for region in content["regions"])
    with Image.open(asyncio.run(events.save(session, "png"))) as drawn:
        assert drawn.width >= 120
