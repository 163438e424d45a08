"""`groma demo`: a scene whose truth is known, and a photo."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import REGION_MARK, add_command, add_model_arguments, checked_folder, natural
from .models import ask, embedded_model, load_pipeline, open_upright, source_checkout
from .output import answer_lines, note, numbers, printable, write_answer, write_proposals

if TYPE_CHECKING:
    from PIL import Image

    from ..data.shapes_demo import Comparison
    from ..grounding import GroundedText
    from ..pipeline_groma import ImageGroundingPipeline

DEMO_PHOTO = Path("tests", "fixtures", "photos", "cat_and_dog.jpg")
DEMO_BOX = (30.0, 212.0, 372.0, 585.0)  # the cat
DEMO_QUESTION = f"What is {REGION_MARK}?"
DEMO_DESCRIPTION = "[grounding]Please describe the image in detail."
DEMO_SEED = 0
DEMO_SCENE_SIZE = 448  # pixels; enough to read the labels in the pictures
DEMO_MAX_NEW_TOKENS = 140  # a description of six shapes with their regions


def add_demo(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    demo = add_command(
        commands,
        "demo",
        run_demo,
        "answer about a scene of coloured shapes and about a photo, and write pictures of the answers",
        "groma demo --output demo_output",
    )
    demo.add_argument(
        "--image", metavar="IMAGE", help="path or http(s) URL; the photo of the source checkout by default"
    )
    demo.add_argument(
        "--scene", metavar="N", type=natural, default=0, help="which test scene, from 0 on (default: %(default)s)"
    )
    add_model_arguments(demo)
    demo.add_argument("--output", metavar="DIR", type=Path, default=Path("demo_output"), help="(default: %(default)s)")


def run_demo(arguments: argparse.Namespace) -> None:
    """`groma demo`: questions about a scene whose truth is known, then about a photo."""
    folder = checked_folder(arguments.output)
    checkout = source_checkout()
    source = arguments.image
    if source is None and checkout is not None:
        source = str(checkout / DEMO_PHOTO)
    photo = None if source is None else open_upright(source)
    pipe = load_pipeline(arguments.model, arguments.device, arguments.dtype)
    model = arguments.model or embedded_model().name

    pictures = _demo_scene(pipe, model, folder, arguments.scene)
    if photo is None:
        note("no photo: that of the demo is only in a source checkout; pass --image for one")
    else:
        print(f"\nPhoto: {source}")
        if arguments.model is None:
            print(f"{model} learned coloured shapes and never saw a photo: do not take its words about one for true.")
        # Of another photo the middle is asked about.
        width, height = photo.size
        box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4) if arguments.image else DEMO_BOX
        _demo_ask(pipe, model, folder / "answer", photo, DEMO_QUESTION, [box])
        description = _demo_ask(pipe, model, folder / "description", photo, DEMO_DESCRIPTION, [])
        write_proposals(folder, description.to_dict()["regions"], photo)
        pictures += ["answer", "description", "proposals"]
    print("\nLook at the pictures; what they show lies beside them as JSON:")
    for name in pictures:
        print(f"  {folder / name}.png")


def _demo_scene(pipe: "ImageGroundingPipeline", model: str, folder: Path, number: int) -> list[str]:
    """Ask about a scene and compare the answers with the truth. Returns the names of the pictures."""
    from ..data.shapes import make_scene
    from ..data.shapes_demo import compare, count_found, question_text, scene_questions

    # Splits share no scene: none of "test" was trained on, whatever the seed was.
    scene = make_scene(DEMO_SEED, "test", number, DEMO_SCENE_SIZE)
    image = scene.draw()
    print(f"Scene {number} of the test scenes, which training never sees: {len(scene.objects)} coloured shapes")
    pictures = []
    for name, exchange in scene_questions(scene).items():
        boxes = [scene.boxes_xyxy[index] for index in exchange.pointed]
        pictures.append(f"scene_{name}")
        answer = _demo_ask(
            pipe,
            model,
            folder / pictures[-1],
            image,
            question_text(exchange),
            boxes,
            lambda answer, exchange=exchange: compare(exchange, scene, answer),
        )
    # The last question points at nothing: all regions are the model's own.
    found = count_found(scene, [region.box.tolist() for region in answer.regions])
    print(
        f"\n{len(answer.regions)} regions, and {found} of {len(scene.objects)} shapes have one (IoU of at least 0.5)"
    )
    write_proposals(folder, answer.to_dict()["regions"], image, "scene_proposals")
    return [*pictures, "scene_proposals"]


def _demo_ask(
    pipe: "ImageGroundingPipeline",
    model: str,
    path: Path,
    image: "Image.Image",
    question: str,
    boxes: Sequence[Sequence[float]],
    compare: "Callable[[GroundedText], Comparison] | None" = None,
) -> "GroundedText":
    """Ask, print the question, its answer and how that compares with the truth, write the files."""
    answer = ask(pipe, image, question, boxes, {"max_new_tokens": DEMO_MAX_NEW_TOKENS})
    print("\n".join(["", f"> {question}", *(f"  {'box':<4} {numbers(box)}" for box in boxes)]))
    # An answer that only points has no words.
    print(printable(answer_lines(answer)).lstrip("\n"))
    notes: dict[str, Any] = {
        "model": model,
        "question": question,
        "question_boxes_xyxy": [list(box) for box in boxes],
    }
    if compare is not None:
        comparison = compare(answer)
        print(f"  = {comparison.text}")
        notes["comparison"] = asdict(comparison)
    write_answer(path.parent, path.name, answer, image, len(boxes), notes)
    return answer
