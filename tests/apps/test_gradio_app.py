"""The page without a browser: nothing comes from elsewhere, limits reach Gradio, examples are right, and the Space."""

import asyncio
import importlib.util
import re
from pathlib import Path

import pytest

from tests.apps.app_server import FakeEngine
from transformers_groma.apps.app_examples import EXAMPLES
from transformers_groma.apps.app_page import page_head, start_note, status_html
from transformers_groma.apps.app_session import messages
from transformers_groma.apps.app_settings import AppSettings
from transformers_groma.apps.assets import asset
from transformers_groma.questions import GROMA_QUESTIONS
from transformers_groma.serving.engine import Engine, Sampling
from transformers_groma.shapes.demo import compare

gr = pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "hub_configs" / "space"
STATIC = ROOT / "src" / "transformers_groma" / "apps" / "static"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def app():
    from transformers_groma.apps.gradio_app import build_app

    return build_app(FakeEngine(), AppSettings("model", max_upload_mb=7))


def test_no_telemetry_and_no_public_functions(app):
    assert app.analytics_enabled is False
    assert {function.api_visibility for function in app.fns.values()} == {"private"}
    assert app.delete_cache is not None


def test_the_look_comes_from_this_machine_alone():
    from transformers_groma.apps.gradio_app import launch_options

    options = launch_options(AppSettings("model", max_upload_mb=7))
    assert options["max_file_size"] == "7mb"
    assert options["theme"]._stylesheets == []
    for text in (options["css"], options["head"], *[path.read_text() for path in STATIC.iterdir()]):
        urls = set(re.findall(r"https?://[^\s\"')]+", text))
        assert urls <= {"http://www.w3.org/2000/svg"}
        assert "@import" not in text


def test_what_the_page_says_of_its_model():
    tiny, other = AppSettings("groma-tiny", True), AppSettings("<org>/groma-7b", max_upload_mb=7, max_pixels=2_500_000)
    assert "coloured shapes" in page_head(tiny) and "coloured shapes" in start_note(tiny)
    assert "coloured shapes" not in page_head(other) and "a photo" in start_note(other)
    assert "&lt;org&gt;/groma-7b" in page_head(other)
    assert "7 MB and 2.5 megapixels" in start_note(other)


def test_only_groma_tiny_has_examples():
    from transformers_groma.apps.gradio_app import build_app

    for is_tiny in (True, False):
        page = str(build_app(FakeEngine(), AppSettings("model", is_tiny)).get_config_file())
        assert ("data-example=" in page) is is_tiny


def test_a_message_is_text():
    assert status_html("<b>") == '<p class="status" role="alert">&lt;b&gt;</p>'
    assert status_html("") == ""


def test_templates_are_html_alone():
    """Gradio fills `${…}` and `{{…}}` in templates."""
    assert not re.search(r"\$\{|\{\{|`", asset("drawing.html"))


def test_examples_come_out_right(tiny_dir):
    """groma-tiny answers the questions of the examples as the scenes are."""

    async def answers():
        async with Engine.from_pretrained(tiny_dir, device="cpu") as engine:
            asked = [messages(example.scene.draw(), [], example.content(GROMA_QUESTIONS)) for example in EXAMPLES]
            return await asyncio.gather(*[engine.answer(one, Sampling(max_new_tokens=140)) for one in asked])

    for example, answer in zip(EXAMPLES, asyncio.run(answers()), strict=True):
        comparison = compare(example.exchange, example.scene, answer.grounded)
        assert comparison.right == comparison.total, f"{example.title}: {comparison.text}"
    # What the cards say is what is asked.
    asked = ["".join(part.get("text", "this") for part in example.content(GROMA_QUESTIONS)) for example in EXAMPLES]
    assert asked[0] == "[grounding]Please describe the image in detail."
    assert asked[1] == f"{EXAMPLES[1].title}"
    assert asked[2] == f"Locate {EXAMPLES[2].title.removeprefix('Find ')} in this image."
    assert asked[3] == f"Locate {EXAMPLES[3].title.removeprefix('Find ')} in this image."


def test_the_space_builds_the_same_page(tiny_dir, monkeypatch):
    monkeypatch.setenv("GROMA_MODEL", str(tiny_dir))
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    space = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(space)
    try:
        assert isinstance(space.demo, gr.Blocks)
        assert space.settings == AppSettings("groma-tiny", knows_shapes_only=True)
    finally:
        space.engine.close(0)


def test_the_card_of_the_space():
    from huggingface_hub import RepoCard

    card = RepoCard.load(SPACE / "README.md").data.to_dict()
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert card["sdk"] == "gradio" and card["sdk_version"] == pinned["gradio"]
    assert (SPACE / card["app_file"]).is_file()
    assert card["license"] == "apache-2.0" and card["python_version"] in ("3.11", "3.12", "3.13")
    assert len(card["short_description"]) <= 60
    assert (SPACE / "requirements.txt").read_text() == "transformers-groma[app]\n"
