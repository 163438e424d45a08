"""What the app does for one user, without the page: images, questions, stopping, saving, and what is deleted."""

import asyncio
import json
import re
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.apps.app_server import PROPOSALS, FakeEngine, color_of
from transformers_groma.apps.app_events import AppEvents, Screen
from transformers_groma.apps.app_examples import EXAMPLES
from transformers_groma.apps.app_questions import Request
from transformers_groma.apps.app_session import Session, messages
from transformers_groma.apps.app_settings import SHOWN_SIDE, AppSettings
from transformers_groma.image_inputs import ImageSize
from transformers_groma.images import MAX_IMAGE_PIXELS
from transformers_groma.masks import rle_to_mask
from transformers_groma.serving.answers import EngineClosedError, ModelFailedError, QueueFullError

BOX = {"kind": "box", "box": [10.0, 20.0, 50.0, 60.0]}
POINTS = {"kind": "points", "points": [[40, 50], [90, 20]], "labels": [1, 0]}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def events(engine, tmp_path) -> AppEvents:
    (tmp_path / "served").mkdir()
    return AppEvents(engine, AppSettings("model", max_pixels=12_000, max_upload_mb=1), tmp_path / "served")


@pytest.fixture
def upload(tmp_path):
    """Writes an image file as an upload does, in a folder of its own."""

    def upload(image: Image.Image, name: str = "photo.png", **options) -> Path:
        path = tmp_path / "served" / f"upload{len(list((tmp_path / 'served').iterdir()))}" / name
        path.parent.mkdir()
        image.save(path, **options)
        return path

    return upload


@pytest.fixture
def session(events, upload) -> Session:
    """A session with an image."""
    session = Session()
    asyncio.run(events.open_image(session, upload(Image.new("RGB", (120, 100), "#336699"))))
    return session


def ask(events: AppEvents, session: Session, *requests: Request) -> list[Screen]:
    """All screens of requests, one after the other."""

    async def collect() -> list[Screen]:
        return [screen for request in requests async for screen in events.ask(session, request)]

    return asyncio.run(collect())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestImages:
    def test_an_image_is_opened_upright(self, events, upload):
        exif = Image.Exif()
        exif[0x0112] = 6
        session = Session()
        image = Image.new("RGB", (100, 60), "red")
        image.paste("blue", (0, 0, 50, 60))
        screen = asyncio.run(events.open_image(session, upload(image, "turned.jpg", exif=exif)))
        assert screen.status == "" and screen.is_new
        assert session.image.size == ImageSize(height=100, width=60)
        for seen in (session.image.read(), Image.open(session.image.shown)):
            assert seen.size == (60, 100)
            red, _, blue = seen.convert("RGB").getpixel((30, 20))  # what was on the left is on top
            assert blue > 200 and red < 60
        assert not Image.open(session.image.shown).getexif()

    def test_the_browser_gets_a_small_copy_and_the_model_every_pixel(self, tmp_path, engine, upload):
        events = AppEvents(engine, AppSettings("model"), tmp_path / "served")
        (tmp_path / "served").mkdir(exist_ok=True)
        session = Session()
        asyncio.run(events.open_image(session, upload(Image.new("L", (2 * SHOWN_SIDE, 40)))))
        assert session.image.size == ImageSize(40, 2 * SHOWN_SIDE)
        assert session.image.read().size == (2 * SHOWN_SIDE, 40)
        assert Image.open(session.image.shown).size == (SHOWN_SIDE, 20)

    @pytest.mark.parametrize(("mode", "name"), [("I;16", "deep.tiff"), ("RGBA", "clear.webp"), ("P", "old.gif")])
    def test_images_that_browsers_do_not_show(self, events, upload, mode, name):
        session = Session()
        asyncio.run(events.open_image(session, upload(Image.new(mode, (120, 100)), name)))
        assert session.image.read().mode == "RGB"
        assert Image.open(session.image.shown).format == "WEBP"

    def test_as_many_pixels_as_allowed_and_one_row_more(self, events, upload):
        session = Session()
        assert asyncio.run(events.open_image(session, upload(Image.new("L", (120, 100))))).status == ""
        screen = asyncio.run(events.open_image(session, upload(Image.new("L", (120, 101)))))
        assert "photo.png has 120x101 pixels" in screen.status and "make it smaller" in screen.status
        assert session.image.size == ImageSize(100, 120)  # the one before stays

    def test_files_that_are_too_large(self, events, upload):
        noise = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
        path = upload(Image.fromarray(noise))
        path.write_bytes(path.read_bytes() + bytes(1_000_001))
        screen = asyncio.run(events.open_image(Session(), path))
        assert "more than the 1 MB allowed" in screen.status

    @pytest.mark.parametrize("content", [b"", b"not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
    def test_files_that_are_not_images(self, events, tmp_path, content):
        path = tmp_path / "served" / "photo.jpg"
        path.write_bytes(content)
        session = Session()
        screen = asyncio.run(events.open_image(session, path))
        assert screen.status == "photo.jpg cannot be read as an image: choose a JPEG, PNG or WebP file."
        assert session.image is None and not screen.is_new
        assert files(tmp_path / "served") == []

    def test_files_that_end_too_early(self, events, upload):
        path = upload(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)), "half.jpg")
        path.write_bytes(path.read_bytes()[:2000])
        assert "half.jpg cannot be read" in asyncio.run(events.open_image(Session(), path)).status

    def test_another_image_starts_anew_and_the_old_files_go(self, events, session, upload, tmp_path):
        ask(events, session, Request("ask", "What is this?"))
        asyncio.run(events.save(session, "json"))
        old = files(tmp_path / "served")
        assert len(old) == 3
        asyncio.run(events.open_image(session, upload(Image.new("RGB", (50, 40)), "other.png")))
        assert session.exchanges == [] and session.proposals is None
        assert files(tmp_path / "served") == ["image.webp", "other.png"]
        assert asyncio.run(events.close_image(session)).is_new
        assert list((tmp_path / "served").iterdir()) == []

    def test_an_image_that_was_deleted_meanwhile(self, events, session):
        session.image.path.unlink()
        assert "no longer kept on the server" in ask(events, session, Request("describe_image"))[-1].status
        assert session.exchanges == [] and session.stop is None

    def test_equal_files_of_two_users_are_two_files(self, events, session, upload, tmp_path):
        """Gradio gives them one path."""
        first, second = Session(), Session()
        path = upload(Image.new("RGB", (120, 100), "red"))
        content = path.read_bytes()
        for user in (first, second, second):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            assert asyncio.run(events.open_image(user, path)).status == ""
        assert not path.exists() and not path.parent.exists()
        asyncio.run(events.close_image(first))
        assert ask(events, second, Request("describe_image"))[-1].status == ""
        asyncio.run(events.close_image(second))
        assert files(tmp_path / "served") == ["image.webp", "photo.png"]  # those of the third session

    def test_an_upload_that_was_deleted_before_it_is_opened(self, events, upload, tmp_path):
        path = upload(Image.new("RGB", (120, 100), "red"))
        path.unlink()
        session = Session()
        screen = asyncio.run(events.open_image(session, path))
        assert screen.status == "photo.png is no longer on the server: choose it again."
        assert session.image is None and files(tmp_path / "served") == []

    def test_all_regions(self, events, session, engine):
        asyncio.run(events.propose(session))
        assert len(session.proposals) == len(PROPOSALS)
        engine.error = QueueFullError("64 requests wait (`max_waiting`).")
        screen = asyncio.run(events.propose(session))
        assert screen.status.startswith("The regions cannot be shown right now. Too many people are asking right now")


class TestQuestions:
    def test_an_answer_comes_word_by_word(self, events, session, engine):
        events_of_answer = ask(events, session, Request("ask", "What is [1]?", [BOX]))
        [exchange] = session.exchanges
        assert exchange.answer.text == f"A red cup stands left of a blue bowl. Seen: {color_of(session.image.read())}."
        assert [part["box"] for part in exchange.regions] == [BOX["box"]]
        assert not exchange.is_partial and exchange.notice is None
        assert [screen.has_begun for screen in events_of_answer].count(True) == 1
        assert all(screen.asked == (exchange,) for screen in events_of_answer[1:])  # the browser may miss some
        assert events_of_answer[0].asked == ()  # before the first word, text and regions stay where they are
        [[message]] = engine.asked
        assert [part["type"] for part in message["content"]] == ["image", "text", "region", "text"]
        assert session.stop is None

    def test_an_answer_that_is_cut_off_says_so(self, events, session, engine):
        engine.finish_reason = "length"
        ask(events, session, Request("describe_image"))
        assert session.exchanges[0].notice.startswith("The answer was cut off after ")

    def test_earlier_turns_are_plain_text_and_have_their_regions(self, events, session, engine):
        ask(events, session, Request("ask", "What is [1]?", [BOX]), Request("ask", "And left of it?"))
        first, answer, second = engine.asked[1]
        assert [first["role"], answer["role"], second["role"]] == ["user", "assistant", "user"]
        assert [part["type"] for part in first["content"]] == ["image", "text", "region", "text"]
        assert answer["content"][0]["text"].startswith("A red cup stands left of a blue bowl.")
        assert [part["type"] for part in second["content"]] == ["text"]
        assert len(session.exchanges[0].content) == 3  # the image is not put into what is kept

    def test_the_regions_of_a_turn_are_those_of_its_question(self, events, session):
        other = {"kind": "box", "box": [60.0, 20.0, 90.0, 60.0]}
        ask(events, session, Request("ask", "What is [1]?", [BOX]), Request("ask", "And [1]?", [other]))
        ask(events, session, Request("ask", "Why?"))
        pointed = [
            exchange.answer.regions.with_ids(exchange.answer.user_region_ids).xyxy.tolist()
            for exchange in session.exchanges
        ]
        assert pointed == [[BOX["box"]], [other["box"]], []]

    def test_without_memory_each_question_stands_alone(self, events, session, engine):
        ask(events, session, Request("describe_image"), Request("ask", "And?", remembers=False))
        assert [message["role"] for message in engine.asked[1]] == ["user"]
        assert engine.asked[1][0]["content"][0]["type"] == "image"
        assert len(session.exchanges) == 2

    def test_each_region_is_a_turn(self, events, session, engine):
        ask(events, session, Request("describe_regions", "", [BOX, BOX], remembers=False))
        assert len(session.exchanges) == len(engine.asked) == 2

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (QueueFullError("64 wait (`max_waiting`)."), "Too many people are asking right now"),
            (ModelFailedError("CUDA out of memory"), "The model failed on this question."),
            (EngineClosedError("Closed."), "The app is shutting down"),
            (ValueError("The prompt has 9000 tokens."), "The prompt has 9000 tokens."),
        ],
    )
    def test_an_error_is_a_sentence_and_leaves_the_question(self, events, session, engine, error, words):
        engine.error = error
        screens = ask(events, session, Request("ask", "What?"))
        assert screens[-1].status.startswith(words)
        assert all(screen.asked == () for screen in screens)
        assert session.exchanges == [] and session.stop is None

    @pytest.mark.parametrize("request_", [Request("ask"), Request("find"), Request("ask", "[1]?")])
    def test_what_cannot_be_asked_reaches_no_model(self, events, session, engine, request_):
        [screen] = ask(events, session, request_)
        assert screen.status and engine.asked == []

    def test_without_an_image(self, events):
        assert ask(events, Session(), Request("describe_image"))[0].status == "Choose an image first."

    def test_one_answer_at_a_time(self, events, session, engine):
        engine.seconds = 0.02

        async def both() -> str:
            async with aclosing(events.ask(session, Request("describe_image"))) as screens:
                await anext(screens)
                [second] = [screen async for screen in events.ask(session, Request("describe_image"))]
                return second.status

        assert "still being written" in asyncio.run(both())

    def test_examples_are_opened_and_asked(self, engine, tmp_path):
        events = AppEvents(engine, AppSettings("groma-tiny", True), tmp_path)

        async def start(session: Session, number) -> list[Screen]:
            return [screen async for screen in events.start_example(session, number)]

        session = Session()
        screens = asyncio.run(start(session, 1))
        assert screens[0].is_new and session.exchanges[0].content == EXAMPLES[1].content(FakeEngine.question_wording)
        for wrong in (len(EXAMPLES), -1, "0", None):
            assert "no such example" in asyncio.run(start(Session(), wrong))[0].status


class TestStopping:
    def test_what_is_there_stays_and_the_engine_lets_go(self, events, session, engine):
        engine.seconds = 0.02

        async def stop_after(words: int) -> None:
            async for _ in events.ask(session, Request("describe_image")):
                answer = session.exchanges[0].answer
                if answer is not None and len(answer.text.split()) >= words:
                    await events.stop(session)

        asyncio.run(stop_after(3))
        [exchange] = session.exchanges
        assert exchange.notice == "Stopped." and not exchange.is_partial
        assert exchange.answer.text.startswith("A red cup") and "Seen" not in exchange.answer.text
        assert engine.closed.is_set() and session.stop is None

    def test_a_question_that_waits_ends_at_once(self, events, session, engine):
        engine.seconds = 30

        async def stop_soon() -> None:
            async for _ in events.ask(session, Request("describe_image")):
                asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(events.stop(session)))

        asyncio.run(asyncio.wait_for(stop_soon(), 5))
        assert session.exchanges == [] and engine.closed.is_set()

    def test_the_regions_that_follow_are_not_asked_about(self, events, session, engine):
        engine.seconds = 0.02

        async def stop_first() -> None:
            async for _ in events.ask(session, Request("describe_regions", "", [BOX] * 3)):
                await events.stop(session)

        asyncio.run(stop_first())
        assert len(engine.asked) <= 1

    def test_a_browser_that_goes_frees_the_engine(self, events, session, engine):
        engine.seconds = 0.02

        async def leave() -> None:
            async with aclosing(events.ask(session, Request("describe_image"))) as screens:
                async for _ in screens:
                    if session.exchanges[0].answer is not None:
                        break

        asyncio.run(leave())
        assert engine.closed.is_set() and session.stop is None

    def test_another_image_ends_the_answer_about_the_old_one(self, events, session, engine):
        engine.seconds = 0.02

        async def close() -> None:
            async for _ in events.ask(session, Request("describe_image")):
                if session.image is not None and session.exchanges[0].answer is not None:
                    await events.close_image(session)

        asyncio.run(close())
        assert session.image is None and session.exchanges == [] and engine.closed.is_set()


class TestMasks:
    @pytest.fixture
    def engine(self) -> FakeEngine:
        return FakeEngine(has_masks=True)

    def test_points_and_scribbles_are_shown_before_anything_is_asked(self, events, session, engine):
        scribble = {"kind": "scribble", "points": [[20, 30], [60, 70]]}
        wanted = [{"key": "a", "region": POINTS}, {"key": "b", "region": scribble}]
        screen = asyncio.run(events.preview(session, wanted))
        assert screen.status == "" and session.exchanges == []
        assert [preview["key"] for preview in screen.previews] == ["a", "b"]
        assert [preview["outline"][0] for preview in screen.previews] == ["M", "M"]
        assert screen.previews[0]["box"] == [
            20.0,
            30.0,
            61.0,
            71.0,
        ]  # as the engine says
        assert engine.resolved == [
            [
                {"type": "region", "points": POINTS["points"], "labels": [1, 0]},
                {"type": "region", "scribble": scribble["points"]},
            ]
        ]

    def test_without_a_mask_decoder_the_box_is_shown(self, events, session, engine):
        engine.has_masks = False
        screen = asyncio.run(events.preview(session, [{"key": "a", "region": POINTS}]))
        assert screen.previews == [{"key": "a", "outline": None, "box": [20.0, 30.0, 61.0, 71.0]}]

    @pytest.mark.parametrize(
        ("wanted", "words"),
        [
            (None, "must send a list of regions"),
            ([{"region": POINTS}], "must send a list of regions"),
            ([{"key": "a"}], "Region 1 is not a box, points or a scribble: None"),
            ([{"key": "a", "region": {**POINTS, "points": [[40, 50], [900, 50]]}}], "Region 1: .* is outside of the"),
        ],
    )
    def test_previews_of_what_is_not_drawn(self, events, session, engine, wanted, words):
        screen = asyncio.run(events.preview(session, wanted))
        assert re.search(words, screen.status) and screen.previews == [] and engine.resolved == []

    def test_previews_that_cannot_be_shown_right_now(self, events, session, engine):
        engine.error = QueueFullError("64 requests wait (`max_waiting`).")
        screen = asyncio.run(events.preview(session, [{"key": "a", "region": POINTS}]))
        assert screen.status.startswith("What you pointed at cannot be shown right now. Too many people")
        assert asyncio.run(events.preview(Session(), [{"key": "a", "region": POINTS}])).previews == []

    def test_a_finished_answer_has_masks_of_what_it_names_and_of_what_was_drawn(self, events, session):
        async def outlines_of_screens() -> list[dict[int, str]]:
            request = Request("ask", "What is [1]?", [POINTS])
            return [dict(session.exchanges[0].outlines) async for _ in events.ask(session, request)]

        seen = asyncio.run(outlines_of_screens())
        [exchange] = session.exchanges
        assert seen[:2] == [{}, {}] and seen[-1] == exchange.outlines  # none before the end
        assert sorted(exchange.masks) == sorted(exchange.outlines) == [0, 1, len(PROPOSALS)]
        assert exchange.answer.masks == {}  # pixels are not kept
        assert all(outline.startswith("M") for outline in exchange.outlines.values())

    def test_json_has_the_masks_and_what_was_drawn(self, events, session):
        ask(events, session, Request("ask", "What is [1]?", [POINTS]))
        saved = json.loads(asyncio.run(events.save(session, "json")).read_text())
        assert saved["question_regions"] == [POINTS]
        assert saved["question_boxes_xyxy"] == [[20.0, 30.0, 61.0, 71.0]]
        masked = {region["id"]: region["mask"] for region in saved["regions"] if "mask" in region}
        assert sorted(masked) == [0, 1, len(PROPOSALS)]
        assert masked[0]["size"] == [100, 120] and rle_to_mask(masked[0]).any()

    def test_the_saved_image_has_tints(self, events, session):
        ask(events, session, Request("ask", "What is [1]?", [POINTS]))
        with_masks = Image.open(asyncio.run(events.save(session, "png"))).convert("RGB")
        session.exchanges[0].masks = {}
        without = Image.open(asyncio.run(events.save(session, "png"))).convert("RGB")
        assert with_masks.getpixel((24, 25)) != without.getpixel((24, 25))  # in the middle of the first region


class TestSaving:
    def test_json(self, events, session):
        ask(events, session, Request("ask", "What is [1]?", [BOX]))
        path = asyncio.run(events.save(session, "json"))
        saved = json.loads(path.read_text())
        assert path.name == "photo-answer.json"
        assert saved["image"] == {"name": "photo.png", "width": 120, "height": 100}
        assert saved["model"] == "model"
        assert saved["question"] == "What is <region>?" and saved["question_boxes_xyxy"] == [BOX["box"]]
        assert saved["phrases"][0]["text"] == "A red cup"
        assert saved["phrases"][0]["boxes_xyxy"] == [[12.0, 10.0, 36.0, 40.0]]

    def test_the_image_is_drawn_in_its_full_size(self, events, session):
        ask(events, session, Request("describe_image"))
        drawn = Image.open(asyncio.run(events.save(session, "png")))
        assert drawn.width >= 120 and drawn.height > 100
        assert drawn.crop((0, 0, 120, 100)).convert("RGB").getcolors(1) is None  # outlines

    def test_nothing_to_save(self, events, session):
        assert asyncio.run(events.save(session, "png")) is None
        assert asyncio.run(events.save(Session(), "json")) is None


def test_messages_leave_out_what_has_no_answer(session):
    content = [{"type": "text", "text": "What?"}]
    assert messages("image", session.exchanges, content) == [
        {"role": "user", "content": [{"type": "image", "image": "image"}, *content]}
    ]


@pytest.mark.parametrize(
    "options", [{"max_pixels": 0}, {"max_users": 1.5}, {"max_upload_mb": -1}, {"max_pixels": MAX_IMAGE_PIXELS + 1}]
)
def test_settings_are_checked(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
        AppSettings("model", **options)


def test_the_largest_settings():
    settings = AppSettings("model", max_pixels=MAX_IMAGE_PIXELS, max_users=3, max_waiting=1)
    assert settings.engine_options() == {"max_batch_size": 3, "max_waiting": 1}
