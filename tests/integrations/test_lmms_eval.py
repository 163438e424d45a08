"""Groma in lmms-eval: questions, answers, and the model class, with a stand-in where lmms-eval is not installed."""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from transformers_groma.grounding import GroundedText, ground_text
from transformers_groma.integrations.lmms_eval import cut_at_stops, format_answer, model_manifest, read_question

from ..scripted import Scripted, grounded_script
from ..tiny_checkpoint import save_tiny_checkpoint, save_tiny_glamm

HAS_LMMS_EVAL = importlib.util.find_spec("lmms_eval") is not None
LMMS_MODULES = ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model")
CLASS_MODULE = "transformers_groma.integrations._lmms_eval_model"

# The words of the tasks, as of lmms-eval 0.7.
REFCOCO = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of "
    "the region this sentence describes: {}"
)
SCREENSPOT = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1 with two decimal places of precision (e.g., "
    "0.15). Please provide the bounding box coordinates of the region that corresponds to the command: {}"
)
GROUNDING = "Locate every object that matches the description {} in the image. Report bbox coordinates in JSON format."
GROUNDINGME = (
    "All spatial relationships are defined from the viewer's perspective, where 'front' means closer to the viewer. "
    "Please provide the bounding box coordinate of the object the following statement describes:\n{}\nEnsure that "
    "all details mentioned about the object are accurate. Provide at most one bounding box. If a matching object is "
    "found, provide its "
    'bounding box as a JSON in the format {{"bbox_2d": [x1, y1, x2, y2]}}. If no matching object is found, output '
    '{{"bbox_2d": null}}.'
)


@pytest.mark.parametrize(
    ("context", "phrase", "answer_format"),
    [
        (REFCOCO.format("woman in red, left of the dog: the tall one"), None, "fractions"),
        ("<image>\n" + REFCOCO.format("woman in red, left of the dog: the tall one "), None, "fractions"),
        (SCREENSPOT.format("open the settings"), "open the settings", "fractions"),
        (GROUNDING.format('"the dog on the left", "black dog"'), "the dog on the left", "json_list"),
        (GROUNDINGME.format("The cup\nthat is broken."), "The cup that is broken.", "json"),
    ],
)
def test_questions_for_boxes(context, phrase, answer_format):
    question = read_question(context)
    assert [(part["type"], part["text"]) for part in question.parts] == [
        ("text", "Locate "),
        ("phrase", phrase or "woman in red, left of the dog: the tall one"),
        ("text", " in this image."),
    ]
    assert question.answer_format == answer_format


def test_other_questions(caplog):
    for context in ("How many dogs are there?\nAnswer with a number.", "Provide a short description for this region."):
        question = read_question(f"<image>{context}")
        assert [(part["type"], part["text"]) for part in question.parts] == [("text", context)]
        assert question.answer_format == "text"
    assert not caplog.records
    # A task that has changed its words must not score 0 in silence.
    assert read_question("Give the bounding box coordinates of the dog as XML.").answer_format == "text"
    assert read_question(REFCOCO.format(" ")).answer_format == "text"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "as XML" in caplog.text


def answer_with(*boxes: list[float], markup: str | None = None) -> GroundedText:
    proxies = "".join(f"<r{index}>" for index in range(len(boxes)))
    text = f"<p>It</p> <roi>{proxies}</roi> [is] here." if markup is None else markup
    return ground_text(text, torch.tensor(boxes).reshape(-1, 4))


def test_boxes_as_fractions():
    answer = answer_with([64.0, 48.0, 320.0, 480.0], [0.0, 0.0, 640.0, 480.0])
    text = format_answer(answer, "fractions", width=640, height=480)
    assert text == "[0.10000, 0.10000, 0.50000, 1.00000]"
    # No exponents, which the pattern of the tasks does not take.
    tiny = format_answer(answer_with([0.001, 0.0, 640.0, 1 / 3]), "fractions", width=640, height=480)
    assert re.fullmatch(r"\[(\d+(?:\.\d+)?, ){3}\d+(?:\.\d+)?\]", tiny)
    assert format_answer(answer_with(), "fractions", width=640, height=480) == "It [is] here."


def test_boxes_as_json():
    first, second = [64.0, 48.123456, 320.0, 480.0], [0.0, 0.0, 640.0, 480.0]
    markup = "<p>It</p> <roi><r1></roi> and <p>that</p> <roi><r0><r1></roi>."
    answer = answer_with(second, first, markup=markup)
    rounded = [64.0, 48.12, 320.0, 480.0]
    assert json.loads(format_answer(answer, "json", 640, 480)) == {"bbox_2d": rounded}
    assert json.loads(format_answer(answer, "json_list", 640, 480)) == [{"bbox_2d": rounded}, {"bbox_2d": second}]
    assert format_answer(answer_with(), "json", 640, 480) == '{"bbox_2d": null}'
    assert format_answer(answer_with(), "json_list", 640, 480) == "[]"
    assert format_answer(answer, "text", 640, 480) == "It and that."


def test_stops():
    assert cut_at_stops("one\n\ntwo", ["\n\n"]) == "one\n\ntwo"
    assert cut_at_stops("one ASSISTANT: two USER: three", ["USER:", "ASSISTANT:"]) == "one"
    assert cut_at_stops("one", "ne") == "o"
    assert cut_at_stops("one", None) == "one"


# --------------------------------------------------------------------------------------------------------- model class


@dataclass
class Request:
    """What the model class uses of lmms-eval's `Instance`."""

    args: tuple


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, golden_dir) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("lmms") / "model", golden_dir)


@pytest.fixture(scope="module")
def model_class() -> Iterator[type]:
    """The model class, on a stand-in for the parts of lmms-eval that it touches where that is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        if not HAS_LMMS_EVAL:

            class Cache:
                def add_partial(self, *entry: Any) -> None:
                    pass

            class Lmms:
                def __init__(self) -> None:
                    self._rank, self._world_size = 0, 1
                    self.task_dict: dict[str, Any] = {}
                    self.cache_hook = Cache()

            for name in LMMS_MODULES:
                patch.setitem(sys.modules, name, ModuleType(name))
            sys.modules["lmms_eval.api.model"].lmms = Lmms
        yield importlib.import_module(CLASS_MODULE).GromaForLmmsEval
    sys.modules.pop(CLASS_MODULE, None)


@pytest.fixture(scope="module")
def model(model_class, checkpoint) -> Any:
    """The tiny model, one request at a time, with documents of a task."""
    model = model_class(str(checkpoint), device="cpu", max_new_tokens=7)
    model.task_dict = documents()
    return model


def documents() -> dict[str, Any]:
    """The documents of a task, as lmms-eval keeps them."""
    torch.manual_seed(0)
    noise = [Image.fromarray(torch.randint(0, 255, (40, 30 + 10 * n, 3), dtype=torch.uint8).numpy()) for n in range(3)]
    docs = [{"visuals": [image]} for image in noise]
    docs += [{"visuals": None}, {"visuals": noise[:2]}, {"visuals": ["video.mp4"]}]
    return {"task": {"val": docs}}


def request_for(doc_id: int, context: str, **settings: Any) -> Request:
    return Request((context, {"max_new_tokens": 6, **settings}, lambda doc: doc["visuals"], doc_id, "task", "val"))


def test_answers(model, monkeypatch):
    """Batches and their order change nothing; documents with and without an image, and other settings."""
    requests = [
        request_for(0, REFCOCO.format("the dog")),
        request_for(1, "What is it?", max_new_tokens=3),
        request_for(2, "What is there? <r1> [grounding]"),
        request_for(3, "What is a dog?"),
        request_for(1, GROUNDING.format('"cat"'), temperature=0, until=["ASSISTANT:"]),
    ]
    assert (model.batch_size, model.is_simple, model._rank, model._world_size) == (1, True, 0, 1)
    single = model.generate_until(requests)
    assert len(single) == 5 and all(isinstance(text, str) for text in single)
    monkeypatch.setattr(model, "batch_size", 4)
    assert model.generate_until(requests) == single
    assert isinstance(json.loads(single[4]), list)


def test_answer_with_a_box(model, monkeypatch):
    """What the model points at reaches the task in fractions of the image that the task knows."""
    answer = model._processor.post_process_grounded_generation

    def point(*arguments: Any, **how: Any) -> list[GroundedText]:
        return [ground_text("<roi><r0></roi>", found.regions[0].box[None]) for found in answer(*arguments, **how)]

    monkeypatch.setattr(model._processor, "post_process_grounded_generation", point)
    (text,) = model.generate_until([request_for(2, REFCOCO.format("the dog"))])
    box = json.loads(text)
    assert len(box) == 4 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1


def test_a_glamm_is_asked_to_segment_and_answers_with_the_box_around_the_mask(model_class, tmp_path):
    model = model_class(str(save_tiny_glamm(tmp_path)), device="cpu", max_new_tokens=7, batch_size=2)
    model.task_dict = documents()
    Scripted(model._model, *grounded_script(model._processor))
    requests = [request_for(number, REFCOCO.format("the dog")) for number in range(3)]
    for text in model.generate_until(requests):
        box = json.loads(text)
        assert len(box) == 4 and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
    question = read_question(REFCOCO.format("the dog"), model._processor.question_wording)
    assert "".join(part["text"] for part in question.parts) == "Please segment the dog in this image."


def test_models_of_other_types_are_refused(model_class):
    with pytest.raises(ValueError, match=r"is of type 'groma_region_proposal'. Pass a model of type 'groma' or 'glam"):
        model_class("hub_configs/groma-det-pretrain", device="cpu")


def test_what_groma_cannot_do(model):
    with pytest.raises(
        ValueError, match=r"Document 4 of task shows 2 things \(Image, Image\); Groma looks at one image"
    ):
        model.generate_until([request_for(4, "Which is larger?")])
    with pytest.raises(ValueError, match=r"Document 5 of task shows 1 things \(str\)"):
        model.generate_until([request_for(5, "What happens?")])
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            method([])


def test_settings_of_generation(model):
    assert model._generation({"until": ["x"], "image_sizes": 3, "temperature": 0, "top_p": 1.0}) == {
        "max_new_tokens": 7,
        "num_beams": 1,
        "do_sample": False,
    }
    assert model._generation({"max_new_tokens": 3, "temperature": 0.5, "top_p": None, "top_k": 5, "num_beams": 2}) == {
        "max_new_tokens": 3,
        "num_beams": 2,
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 5,
    }


def test_without_lmms_eval(monkeypatch):
    message = r"pip install \"transformers-groma\[lmms-eval\]\""
    for name in (*LMMS_MODULES, "lmms_eval.models", "lmms_eval.models.registry_v2"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, CLASS_MODULE, raising=False)
    with pytest.raises(ImportError, match=message):
        importlib.import_module(CLASS_MODULE)
    with pytest.raises(ImportError, match=message):
        model_manifest()


@pytest.mark.skipif(not HAS_LMMS_EVAL, reason="lmms-eval is not installed")
def test_found_by_lmms_eval():
    registry = importlib.import_module("lmms_eval.models.registry_v2").ModelRegistryV2()
    registry.register_manifest(model_manifest())
    assert registry.get_model_class("groma").__name__ == "GromaForLmmsEval"


@pytest.mark.skipif(not HAS_LMMS_EVAL, reason="lmms-eval is not installed")
@pytest.mark.parametrize("task", ["refcoco", "refcoco+", "refcocog"])
def test_read_by_lmms_eval(task):
    """The words and the reader of its own tasks."""
    folder = Path(importlib.util.find_spec("lmms_eval").origin).parent / "tasks" / task
    spec = importlib.util.spec_from_file_location("utils_rec", folder / "utils_rec.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    question = read_question(utils.refcoco_bbox_rec_doc_to_text({"answer": "the dog"}))
    assert question.parts[1]["text"] == "the dog"
    text = format_answer(answer_with([64.0, 48.0, 320.0, 480.0]), question.answer_format, width=640, height=480)
    doc = {"question_id": 1, "answer": "the dog", "bbox": [0.1, 0.1, 0.5, 1.0]}
    results = [utils.refcoco_bbox_rec_process_result(doc, [text])["refcoco_IoU"]]
    assert utils.refcoco_bbox_rec_iou(results) == pytest.approx(1.0)
