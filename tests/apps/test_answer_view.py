"""The answer view as HTML: its text, its image and all regions, escaping, and colours that can be read."""

import re
import time

import pytest
import torch

from transformers_groma.apps.answer_view import Turn, answer_view, view_head, view_script, view_style
from transformers_groma.colors import PALETTE, text_color
from transformers_groma.grounding import GroundedPhrase, GroundedText, ground_text
from transformers_groma.image_inputs import ImageSize
from transformers_groma.regions import Regions

from .parsed_html import Parsed

BOXES = torch.tensor([[10.0, 20, 110, 220], [150, 40, 300, 200], [0, 0, 320, 240], [12, 30, 60, 80]])
SIZE = ImageSize(240, 320)
HOSTILE = '</svg></span><script>alert(1)</script> " \' onload="alert(2)" & <img src=x onerror=alert(3)> ${x} {{y}}'


def view(*turns: Turn, **options) -> Parsed:
    return Parsed(answer_view("groma", turns, image_url="/image.png", size=SIZE, **options))


def sign_removed(text: str, sign: str) -> str:
    return text.removesuffix("\u2060" + sign)


# The text


def test_the_words_of_an_answer_are_all_there_with_a_button_for_each_phrase():
    answer = ground_text("So <p>a cat</p> <roi><r0></roi> sees <p>a dog</p> <roi><r1></roi>.\nTwice.", BOXES)
    parsed = view(Turn("What?", answer))
    (attributes, text), *_ = parsed.of_class("groma-answer")
    assert text.replace("\u20601", "").replace("\u20602", "") == answer.text
    for name, _ in parsed.of_class("groma-name"):
        assert (name["role"], name["tabindex"], name["aria-pressed"]) == ("button", "0", "false")
    assert (attributes["dir"], attributes["role"], attributes["aria-label"]) == ("auto", "group", "Answer")


def test_every_button_is_described_by_an_element_with_its_place():
    parts = [{"type": "text", "text": "What is "}, {"type": "region", "box": [30, 212, 72, 235]}]
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", BOXES)
    parsed = view(Turn(parts, answer))
    described = {attributes["id"]: "".join(texts) for _, attributes, texts in parsed.elements if "id" in attributes}
    spoken = [described[attributes["aria-describedby"]] for attributes, _ in parsed.of_class("groma-name")]
    assert spoken == [
        "region at left 30, top 212, width 42, height 23",
        "region at left 10, top 20, width 100, height 200",
    ]


def test_phrases_without_words_say_how_many_regions_they_have():
    parsed = view(Turn("Where?", ground_text("<roi><r0><r1></roi>", BOXES)))
    assert [sign_removed(text, "1") for _, text in parsed.of_class("groma-name")] == ["2 regions"]
    parsed = view(Turn("Where?", ground_text("Here<roi><r3></roi>too", BOXES)))
    assert parsed.of_class("groma-answer")[0][1].replace("\u20601", "") == "Here 1 region too"


LOCATE = [{"type": "text", "text": "Locate all "}, {"type": "phrase", "text": "red cups", "boxes": []}]


@pytest.mark.parametrize("question", [LOCATE, "Locate all <p>red cups</p> in this image."])
@pytest.mark.parametrize("is_partial", [False, True])
def test_phrases_without_words_read_as_the_one_phrase_that_was_searched(question, is_partial):
    parsed = view(Turn(question, ground_text("<roi><r0><r1></roi>", BOXES), is_partial=is_partial))
    assert [sign_removed(text, "1") for _, text in parsed.of_class("groma-name")] == ["red cups"]
    assert {text for _, text in parsed.of_class("groma-words")} == {"red cups"}
    parsed = view(Turn(question, ground_text("<p>cups</p> <roi><r0></roi>", BOXES), is_partial=is_partial))
    assert [sign_removed(text, "1") for _, text in parsed.of_class("groma-name")] == ["cups"]


def test_of_two_phrases_that_were_searched_neither_stands_for_the_answer():
    parsed = view(Turn([*LOCATE, *LOCATE], ground_text("<roi><r0></roi>", BOXES)))
    assert [sign_removed(text, "1") for _, text in parsed.of_class("groma-name")] == ["1 region"]


@pytest.mark.parametrize(
    ("markup", "words"), [("", "6 regions"), ("<p>6 dogs</p> ", "6 dogs"), ("<p>dogs</p> ", "dogs (6)")]
)
def test_the_number_of_many_places_is_said_once(markup, words):
    boxes = torch.tensor([[10.0 * i, 0, 10 * i + 5, 5] for i in range(6)])
    regions = "".join(f"<r{i}>" for i in range(6))
    parsed = view(Turn("Where?", ground_text(f"{markup}<roi>{regions}</roi>", boxes)))
    assert {text for _, text in parsed.of_class("groma-words")} == {words}


def test_region_marks_of_a_string_are_the_boxes_of_the_user_and_no_more():
    answer = ground_text("Yes.", BOXES, user_region_ids=[3, 0])
    parsed = view(Turn("[grounding]Is <region> in <region> or <region>?", answer))
    assert parsed.of_class("groma-question")[0][1] == "Is your region 1 in your region 2 or <region>?"
    assert [attributes["data-groma-names"] for attributes, _ in parsed.of_class("groma-place")] == ["0:b1", "0:b0"]


def test_parts_of_a_question_are_shown_as_they_were_asked():
    parts = [
        {"type": "image", "image": None},
        {"type": "text", "text": "[grounding] Is "},
        {"type": "region", "box": [1, 2, 30, 40]},
        {"type": "text", "text": " <region> [grounding] or "},
        {"type": "phrase", "text": "the red cup", "boxes": []},
    ]
    assert view(Turn(parts)).of_class("groma-question")[0][1] == "Is your region <region> [grounding] or “the red cup”"


def test_boxes_of_parts_are_shown_before_the_answer_comes_and_as_the_answer_has_them_after():
    parts = [{"type": "region", "box": [1, 2, 30, 40]}]
    before = view(Turn(parts, is_partial=True))
    after = view(Turn(parts, ground_text("A cat.", BOXES, user_region_ids=[3])))
    assert [parsed.of_class("groma-halo")[0][0]["width"] for parsed in (before, after)] == ["29", "48"]
    # An answer that knows of no boxes, as one without an image.
    assert view(Turn(parts, ground_text("A cat.", BOXES))).of_class("groma-halo")[0][0]["width"] == "29"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "region"}, r"A region part of `question` needs `box` or `point` or .*, got \{'type': 'region'\}"),
        ({"type": "text", "text": None}, r"A text part of `question` needs `text`, got \{'text': None"),
        ("What?", r"has a part that is not understood, 'What\?': its `type` must be text, region, phrase or image"),
        ({"type": "region", "box": [1, 2, 3]}, r"shape \(number of regions, 4\)"),
        ({"type": "region", "box": [30, 2, 3, 4]}, "x1 <= x2"),
        ({"type": "video"}, "a part that is not understood, {'type': 'video'}"),
    ],
)
def test_parts_that_are_not_understood_are_named(part, message):
    with pytest.raises(ValueError, match=message):
        view(Turn([part]))


def test_a_box_that_the_user_and_a_phrase_mean_is_one_place_with_both_lines():
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", BOXES, user_region_ids=[0])
    parsed = view(Turn("What is <region>?", answer))
    assert [attributes["data-groma-names"] for attributes, _ in parsed.of_class("groma-place")] == ["0:b0 0:n0"]
    assert [attributes["class"] for attributes, _ in parsed.of_class("groma-line")] == [
        "groma-line",
        "groma-line is-user",
    ]


def test_a_place_of_several_phrases_has_their_colours_in_turn():
    answer = ground_text("<p>a cat</p> <roi><r0></roi> <p>an animal</p> <roi><r0></roi>", BOXES)
    styles = [attributes["style"] for attributes, _ in view(Turn("", answer)).of_class("groma-line")]
    assert styles == [
        "--c:#e69f00;--dashes:9 9;--offset:0",
        "--c:#56b4e9;--dashes:9 9;--offset:-9",
    ]


def test_a_phrase_of_many_places_has_one_tag_at_the_largest():
    boxes = torch.tensor([[10.0 * i, 0, 10 * i + 5 + i, 5] for i in range(5)])

    def tags(count):
        markup = "<p>dots</p> <roi>" + "".join(f"<r{i}>" for i in range(count)) + "</roi>"
        return [text for _, text in view(Turn("", ground_text(markup, boxes))).of_class("groma-chip") if text]

    assert tags(4) == ["1dots"] * 4
    assert tags(5) == ["1dots (5)"]


@pytest.mark.parametrize(
    ("box", "side", "y"),
    [
        ([100, 60, 140, 90], "is-above", "25"),  # on its upper edge, in percent of the height
        ([100, 0, 140, 24], "is-below", "10"),  # no room above: under its lower edge
        ([0, 0, 320, 240], "is-below", "0"),  # large: within it
    ],
)
def test_tags_stand_above_their_places_where_there_is_room(box, side, y):
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", torch.tensor([box], dtype=torch.float32))
    (attributes, _), _ = view(Turn("", answer)).of_class("groma-rail")
    assert side in attributes["class"].split() and attributes["style"].endswith(f"--y:{y}%")


@pytest.mark.parametrize("turn", [Turn("Why?", None, True), Turn("Why?", ground_text("", BOXES), True)])
def test_before_the_first_word_the_view_says_that_it_looks(turn):
    ((attributes, text),) = view(turn).of_class("groma-answer")
    assert (text, attributes["aria-busy"]) == ("Looking at the image…", "true")


def test_a_partial_answer_is_busy_and_a_finished_one_is_not():
    answer = ground_text("A cat", BOXES)
    ((partial, _),) = view(Turn("", answer, True)).of_class("groma-answer")
    ((final, _),) = view(Turn("", answer)).of_class("groma-answer")
    assert partial["aria-busy"] == "true" and "aria-busy" not in final


def test_a_phrase_whose_mask_has_not_come_yet_is_text():
    """As while a model writes that decodes its masks at the end."""
    cat, dog = GroundedPhrase("a cat", (0, 5), Regions([])), GroundedPhrase("a dog", (10, 15), Regions(BOXES[:1]))
    parsed = view(Turn("", GroundedText("a cat and a dog", [cat, dog], Regions(BOXES), (), ""), True))
    assert [sign_removed(text, "1") for _, text in parsed.of_class("groma-name")] == ["a dog"]
    assert parsed.of_class("groma-answer")[0][1].replace("\u20601", "") == "a cat and a dog"


def test_an_empty_answer_a_notice_and_no_turns_are_said():
    assert view(Turn("", ground_text("", BOXES))).of_class("groma-answer")[0][1] == "The answer is empty."
    parsed = view(Turn("", None, notice="The queue is full <b>."))
    assert parsed.of_class("groma-answer") == []
    assert parsed.of_class("groma-notice")[0][1] == "The queue is full <b>."
    assert view(empty="Ask & see.").of_class("groma-empty")[0][1] == "Ask & see."


def test_the_last_turn_is_shown_first():
    answer = ground_text("<p>a cat</p> <roi><r0></roi>", BOXES)
    parsed = view(Turn("One?", answer), Turn("Two?", answer))
    for name in ("groma-turn", "groma-place"):
        shown = {
            attributes["data-groma-turn"]: "is-current" in attributes["class"]
            for attributes, _ in parsed.of_class(name)
        }
        assert shown == {"0": False, "1": True}


# The image and all regions


def test_without_an_image_the_text_stands_alone():
    parsed = Parsed(answer_view("groma", [Turn("Hello?", ground_text("Hi.", torch.zeros(0, 4)))]))
    assert parsed.of_class("groma-stage") == [] and parsed.of_class("groma-controls") == []
    assert parsed.of_class("groma-answer")[0][1] == "Hi."


def test_an_image_needs_its_size_and_a_view_a_name_that_can_be_an_id():
    with pytest.raises(ValueError, match="`size` is missing"):
        answer_view("groma", [], image_url="/image.png")
    for wrong in ("", "1", "a b", 'a"', "ä", "a\n"):
        with pytest.raises(ValueError, match="`view_id` must be a letter, then letters, digits, - and _"):
            answer_view(wrong, [])


def test_all_regions_are_those_of_the_last_finished_answer_without_the_users():
    first = ground_text("A cat.", BOXES[:3], torch.tensor([0.9, 0.25, 0.5]), user_region_ids=[0])
    parsed = view(Turn("<region>?", first), Turn("And?", ground_text("A", BOXES), is_partial=True))
    regions = [attributes for tag, attributes, _ in parsed.elements if "data-groma-region" in attributes]
    assert [(region["data-groma-region"], region["data-groma-score"]) for region in regions] == [
        ("2", "50"),
        ("1", "25"),
    ]
    ((_, count),) = parsed.of_class("groma-count")
    assert count == "2 of 2 regions"
    slider = next(attributes for _, attributes, _ in parsed.elements if attributes.get("type") == "range")
    assert (slider["min"], slider["max"], slider["value"]) == ("25", "50", "25")


def test_no_switch_without_regions_and_no_slider_for_equal_scores():
    assert view(Turn("", ground_text("A", BOXES[:0]))).of_class("groma-controls") == []
    assert view(Turn("", ground_text("A", BOXES)), regions=Regions([])).of_class("groma-controls") == []
    parsed = view(regions=Regions(BOXES, scores=[0.5] * 4))
    assert len(parsed.of_class("groma-controls")) == 1 and parsed.of_class("groma-slider") == []


def test_only_small_images_are_enlarged_pixel_by_pixel():
    def classes(width):
        html = answer_view("groma", [], image_url="/image.png", size=ImageSize(100, width))
        return Parsed(html).of_class("groma-image")[0][0]["class"]

    assert classes(159) == "groma-image is-tiny" and classes(160) == "groma-image"


def test_a_streamed_answer_with_a_hundred_regions_is_written_fast_and_small():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(100, 2, generator=generator) * 200
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(100, 2, generator=generator)], dim=1)
    answer = ground_text(" ".join(f"<p>thing {i}</p> <roi><r{i}></roi>" for i in range(100)), boxes)
    first = answer_view("groma", [Turn("All?", answer)], image_url="/i.png", size=SIZE)
    start = time.perf_counter()
    assert answer_view("groma", [Turn("All?", answer)], image_url="/i.png", size=SIZE) == first
    assert time.perf_counter() - start < 0.5
    assert len(first) < 200_000


# Text of people and models


@pytest.mark.parametrize("is_parts", [False, True])
def test_hostile_text_stays_text(is_parts):
    phrase = GroundedPhrase(HOSTILE, (3, 3 + len(HOSTILE)), Regions(BOXES[:1]))
    answer = GroundedText(f"So {HOSTILE}.", [phrase], Regions(BOXES, labels=[HOSTILE] * 4), (), HOSTILE)
    question = [{"type": "text", "text": HOSTILE}, {"type": "phrase", "text": HOSTILE}] if is_parts else HOSTILE
    html = answer_view(
        "groma", [Turn(question, answer, notice=HOSTILE)], image_url='/a"b<c>.png', size=SIZE, alt=HOSTILE
    )
    parsed = Parsed(html)
    tags = {tag for tag, _, _ in parsed.elements}
    assert "script" not in tags and sum(tag == "img" for tag, _, _ in parsed.elements) == 1
    assert not [name for _, attributes, _ in parsed.elements for name in attributes if name.startswith("on")]
    image = next(attributes for tag, attributes, _ in parsed.elements if tag == "img")
    assert (image["src"], image["alt"]) == ('/a"b<c>.png', HOSTILE)
    expected = f"{HOSTILE}“{HOSTILE}”" if is_parts else HOSTILE
    assert parsed.of_class("groma-question")[0][1] == expected
    assert parsed.of_class("groma-answer")[0][1].replace("\u20601", "") == answer.text
    assert parsed.of_class("groma-notice")[0][1] == HOSTILE
    assert parsed.of_class("groma-words")[0][1] == HOSTILE[:79] + "…"


def test_the_script_runs_no_text_and_asks_nothing_of_the_outside():
    for text in (view_style(), view_script()):
        for forbidden in ("http", "//cdn", "url(", "@import", "eval", "Function(", "innerHTML", "fetch(", "</"):
            assert forbidden not in text
    assert view_head().count("<script>") == view_head().count("</script>") == view_head().count("</style>") == 1


def test_the_style_sheet_styles_nothing_but_views():
    text = re.sub(r"/\*.*?\*/", "", view_style(), flags=re.S)
    selectors = [selector for selector in re.findall(r"([^{}]+)\{", text) if not selector.strip().startswith("@")]
    for selector in selectors:
        for one in re.split(r",(?![^(]*\))", selector):
            assert re.match(r"\s*(\.(dark |groma-page )?\.?groma-|50%)", one) or ".groma-view" in one, one


# Colours


def contrast(one, other) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(color):
        parts = [value / 255 for value in color]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(scheme):
    tokens = {
        name: tuple(bytes.fromhex(pair.split(", ")[scheme].strip("# ")))
        for name, pair in re.findall(r"--groma-(\w+): light-dark\(([^)]+)\)", view_style())
    }
    share = int(re.search(r"--groma-tint: (\d+)%", view_style())[1]) / 100
    surface, soft = tokens["surface"], tokens["soft"]
    pairs = [(tokens[text], back) for text in ("text", "quiet") for back in (surface, soft)]
    pairs += [(tokens["accent"], surface), (tokens["surface"], tokens["text"])]
    for color in PALETTE:
        tint = tuple(share * c + (1 - share) * s for c, s in zip(color, surface))
        pairs += [(tokens["text"], tint), (text_color(color), color)]
    assert len(pairs) == 20
    assert [pair for pair in pairs if contrast(*pair) < 4.5] == []
