"""The switch for all regions of an image, which only a model with a region proposer has."""

import asyncio

import pytest
from PIL import Image

from tests.apps.app_server import PROPOSALS, FakeEngine
from transformers_groma.apps.app_events import AppEvents
from transformers_groma.apps.app_page import EMPTY, NO_PROPOSALS
from transformers_groma.apps.app_session import Session
from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.gradio_app import _view


@pytest.fixture
def page(tmp_path):
    """The image and the conversation as the page shows them once an image was opened, with an engine."""

    def page(engine: FakeEngine) -> tuple[Session, str]:
        events, session = AppEvents(engine, AppSettings("model"), tmp_path), Session()
        (tmp_path / "upload").mkdir()
        Image.new("RGB", (120, 100), "red").save(tmp_path / "upload" / "photo.png")
        assert asyncio.run(events.open_image(session, tmp_path / "upload" / "photo.png")).status == ""
        assert asyncio.run(events.propose(session)).status is None
        return session, _view(session)

    return page


def test_all_regions_are_behind_a_switch(page):
    session, html = page(FakeEngine())
    assert len(session.proposals) == len(PROPOSALS)
    assert 'data-groma-control="all"' in html and EMPTY in html and NO_PROPOSALS not in html


def test_without_a_proposer_the_page_says_what_to_do_instead(page):
    engine = FakeEngine()
    engine.has_proposals, engine.propose = False, None  # it is not asked
    session, html = page(engine)
    assert len(session.proposals) == 0
    assert 'data-groma-control="all"' not in html and f"{EMPTY} {NO_PROPOSALS}" in html
