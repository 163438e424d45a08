"""Level 3, dense caption: a language model tells the scene graph in a few sentences, which a checklist verifies.

python -m processing.grand.dense_caption photos data/grand --task endpoint --model some-model \\
    --base-url http://localhost:8000/v1

The model writes a caption, then the checklist: every object that the caption names. What is on the checklist and not
in the scene graph is told to the model, which writes again, up to `--rounds` times. A caption that still names what is
not there is left out of the annotation, and its rounds are kept in the column `rounds` to look at.
"""

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, List, Value

from processing.common import positive_int
from processing.grand import asking
from processing.grand.asking import TEXT_TASKS, Asker, Question
from processing.grand.caption_grounding import grounded_caption, missing_objects
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import add_model_options
from processing.grand.phrases import listed_items, occurrences
from processing.grand.work_folder import Row
from transformers_groma.data.left_out import SkipRecord

PROMPTS = Path(__file__).with_name("prompts")

FEATURES = Features(
    {
        "caption": Value("string"),
        "is_verified": Value("bool"),
        "phrases": List({"start": Value("int32"), "end": Value("int32"), "ids": List(Value("int32"))}),
        "rounds": List(
            {"caption": Value("string"), "checklist": List(Value("string")), "missing": List(Value("string"))}
        ),
    }
)


def read_checklist(answer: str, caption: str) -> list[str]:
    """Read a checklist; what the caption does not say word by word was made up, and is left out.

    Args:
        answer (`str`): of a model: a list, an item a line or separated by commas.
        caption (`str`): what the checklist is of.

    Returns:
        `list[str]`: each once, in lower case.

    Example:
    >>> read_checklist("1. two dogs\\n2. a ball\\n- the moon", "Two dogs chase a ball.")
    ['two dogs', 'a ball']
    """
    return [item for item in listed_items(answer) if next(occurrences(item, caption), None)]


def clean_caption(answer: str) -> str:
    """A caption in one line, without quotation marks around it or a heading before it.

    Example:
    >>> clean_caption('Caption: "Two dogs.\\n They run."')
    'Two dogs. They run.'
    """
    text = re.sub(r"^(dense |image )?caption:", "", " ".join(answer.split()), flags=re.IGNORECASE)
    return text.strip(" \"'")


def make_worker(args: Namespace) -> Worker:
    """Loads the model."""
    ask = asking.make_asker(args, args.work / STEP.name)

    def work(rows: Sequence[Row]) -> Iterator[Row | SkipRecord]:
        dialogues = [_Dialogue(row) for row in rows]
        for _ in range(args.rounds):
            _play_round(ask, [each for each in dialogues if each.is_open])
        return (each.outcome() for each in dialogues)

    return work


class _Dialogue:
    """What a model was asked about an image, and what it said."""

    def __init__(self, row: Row) -> None:
        self.name, self.graph = row["images"]["image_id"], row["scene_graph"]
        self.rounds: list[dict[str, Any]] = []
        self.failure: SkipRecord | None = None
        if not self.objects:
            self.failure = SkipRecord("the scene graph has no objects")

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [*self.graph["objects"], *self.graph["floating_objects"]]

    @property
    def is_open(self) -> bool:
        return self.failure is None and (not self.rounds or bool(self.rounds[-1]["missing"]))

    def caption_question(self) -> Question:
        prompt = _prompt("caption.md").format(scene_graph=self.graph["text"])
        if self.rounds:
            last = self.rounds[-1]
            prompt += "\n" + _prompt("rewrite.md").format(caption=last["caption"], missing=", ".join(last["missing"]))
        return Question(f"{self.name}/caption-{len(self.rounds)}", prompt)

    def checklist_question(self) -> Question:
        prompt = _prompt("checklist.md").format(caption=self.rounds[-1]["caption"])
        return Question(f"{self.name}/checklist-{len(self.rounds) - 1}", prompt)

    def take_caption(self, answer: str | SkipRecord) -> None:
        if isinstance(answer, SkipRecord):
            self.failure = answer
        else:
            self.rounds.append({"caption": clean_caption(answer), "checklist": [], "missing": []})

    def take_checklist(self, answer: str | SkipRecord) -> None:
        if isinstance(answer, SkipRecord):
            self.failure = answer
            return
        last = self.rounds[-1]
        last["checklist"] = read_checklist(answer, last["caption"])
        if not last["checklist"]:  # nothing was verified
            self.failure = SkipRecord("the checklist names nothing that the caption says", answer)
            return
        last["missing"] = missing_objects(
            last["checklist"], self.objects, self.graph["relations"], self.graph["landmark"]
        )

    def outcome(self) -> Row | SkipRecord:
        if self.failure is not None:
            return self.failure
        caption, is_verified = self.rounds[-1]["caption"], not self.rounds[-1]["missing"]
        phrases = grounded_caption(caption, self.objects, self.graph["relations"]) if is_verified else []
        return {
            "caption": caption,
            "is_verified": is_verified,
            "phrases": [{"start": each.start, "end": each.end, "ids": list(each.ids)} for each in phrases],
            "rounds": self.rounds,
        }


def _play_round(ask: Asker, dialogues: Sequence[_Dialogue]) -> None:
    """One caption and one checklist for each dialogue; all captions are asked for at once, then all checklists."""
    for each, answer in zip(dialogues, ask([each.caption_question() for each in dialogues]), strict=True):
        each.take_caption(answer)
    going_on = [each for each in dialogues if each.failure is None]
    for each, answer in zip(going_on, ask([each.checklist_question() for each in going_on]), strict=True):
        each.take_checklist(answer)


def _prompt(name: str) -> str:
    return (PROMPTS / name).read_text(encoding="utf-8").strip()


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    add_model_options(parser, TEXT_TASKS)
    parser.add_argument(
        "--rounds",
        type=positive_int,
        default=3,
        metavar="N",
        help="captions that a model may write before it is given up (default: 3)",
    )


STEP = Step(
    name="dense_caption",
    level=3,
    does="write a dense caption, verified by a checklist",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "scene_graph"),
    files=tuple(PROMPTS / name for name in ("caption.md", "checklist.md", "rewrite.md")),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
