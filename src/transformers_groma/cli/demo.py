"""`groma demo`: answers questions about a synthetic scene, or about an image of your own."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._words import counted
from ..markup import REGION_MARK
from .arguments import (
    CommandError,
    add_command,
    add_model_arguments,
    checked_folder,
    loading_options,
    natural,
)
from .models import load_pipeline, open_upright, tiny_model
from .output import answer_lines, numbers, printable, write_answer, write_png, write_proposals
from .starting import starting

if TYPE_CHECKING:
    from PIL import Image

    from ..grounding import GroundedText
    from ..pipeline import ImageGroundingPipeline
    from ..shapes.demo import Comparison
    from ..shapes.scenes import Scene

DEMO_QUESTION = f"What is {REGION_MARK}?"
DEMO_SEED = 0
# groma-tiny answers every question about its scene right; glamm-tiny most of them, among them the description.
DEMO_SCENES = {"groma": 3, "glamm": 10}
DEMO_SCENE_SIZE = 448  # pixels; enough to read the labels in the images
DEMO_MAX_NEW_TOKENS = 140  # a description of six shapes with their regions


def add_demo(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    demo = add_command(
        commands,
        "demo",
        run_demo,
        "answer questions about a scene of coloured shapes, compare with the truth, and draw the answers",
        "groma demo --output demo_output\n"
        "         groma demo --scene 7\n"
        "         groma demo --model groma-7b --image photo.jpg",
    )
    demo.add_argument(
        "--scene",
        metavar="N",
        type=natural,
        help="number of the test scene: 0, 1, 2, …; the tiny models answer everything correctly for some scenes and "
        f"make mistakes in others (default: {DEMO_SCENES['groma']}; of a GLaMM {DEMO_SCENES['glamm']})",
    )
    demo.add_argument(
        "--image", metavar="IMAGE", help="also ask about this image (path or http(s) URL); needs a --model for photos"
    )
    add_model_arguments(demo)
    demo.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("demo_output"), help="output folder (default: %(default)s)"
    )


def run_demo(arguments: argparse.Namespace) -> None:
    """`groma demo`: questions about a scene whose truth is known, then about the user's image."""
    with starting():
        from ..pointed_regions import has_region_proposer

    options = loading_options(arguments)
    folder = checked_folder(arguments.output)
    tiny = tiny_model(arguments.model)
    photo = None
    if arguments.image is not None:
        if tiny is not None:
            raise CommandError(
                f"--image {arguments.image!r} needs a --model that learned from photos: {tiny}, a model of this "
                "package, only knows scenes of coloured shapes."
            )
        photo = open_upright(arguments.image)
    pipe = load_pipeline(arguments.model, arguments.device, options)
    model = tiny or arguments.model

    names = _demo_scene(pipe, model, folder, arguments.scene, tiny is not None)
    if photo is not None:
        print(f"\nYour image, {arguments.image}: its truth is unknown, so these answers are not checked.")
        # The question points at the middle of the image.
        width, height = photo.size
        box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
        _demo_ask(pipe, model, folder / "answer", photo, DEMO_QUESTION, [box])
        wording = pipe.processor.question_wording
        description, _ = _demo_ask(pipe, model, folder / "description", photo, wording.grounded_description, [])
        names += ["answer", "description"]
        if has_region_proposer(pipe.model):
            write_proposals(folder, description.regions, photo)
            names.append("proposals")
    print("\nLook at the images; the JSON files beside them hold the same answers:")
    for name in names:
        print(f"  {folder / name}.png")


def _demo_scene(
    pipe: "ImageGroundingPipeline", model: str, folder: Path, number: int | None, is_tiny: bool
) -> list[str]:
    """Ask about a scene and compare the answers with the truth. Returns the names of the images written."""
    from ..pointed_regions import has_region_proposer
    from ..shapes.demo import (
        click_question,
        compare,
        count_found,
        glamm_question_text,
        question_text,
        scene_questions,
    )
    from ..shapes.scenes import make_scene

    proposes = has_region_proposer(pipe.model)
    picked = DEMO_SCENES["groma" if proposes else "glamm"]
    number = picked if number is None else number
    text_of = question_text if proposes else glamm_question_text
    # Splits share no scene: none of "test" was trained on, whatever the seed was.
    scene = make_scene(DEMO_SEED, "test", number, DEMO_SCENE_SIZE)
    image = scene.draw()
    print(f"Test scene {number}: {len(scene.objects)} coloured shapes.")
    if is_tiny:
        print(f"{model} was trained on such scenes, but not on this one. It knows coloured shapes and nothing else.")
    else:
        print(
            f"The questions and the expected words are those of the tiny models; {model} may be right in words of its "
            "own and\nstill count as wrong here."
        )
    # The scene alone, for questions of one's own: `groma chat demo_output/scene.png …`, or in the app.
    write_png(folder / "scene.png", image)
    names = ["scene"]
    comparisons = []
    questions = [
        (name, exchange, [scene.boxes_xyxy[index] for index in exchange.pointed])
        for name, exchange in scene_questions(scene).items()
    ]
    if has_masks(pipe):
        exchange, (x, y) = click_question(scene)
        questions.insert(1, ("click", exchange, [{"point": [x, y]}]))
    for name, exchange, regions in questions:
        together = exchange.targets if exchange.kind == "grounding" and not proposes else ()
        names.append(f"scene_{name}")
        answer, comparison = _demo_ask(
            pipe,
            model,
            folder / names[-1],
            image,
            text_of(exchange),
            regions,
            partial(_compared, partial(compare, exchange, scene, together=not proposes), scene, together),
        )
        comparisons.append(comparison)
    if proposes:
        # The last question points at nothing: all regions are the model's own.
        found = count_found(scene, [region.box.tolist() for region in answer.regions])
        print(
            f"\n{counted(len(answer.regions), 'region')} found, and {found} of {len(scene.objects)} shapes have one "
            "(IoU of at least 0.5)"
        )
        write_proposals(folder, answer.regions, image, "scene_proposals")
        names.append("scene_proposals")
    right = sum(comparison.right == comparison.total for comparison in comparisons)
    print(f"{right} of {len(comparisons)} answers are right, compared with what the scene was drawn from.")
    if is_tiny and number == picked and right == len(comparisons):
        print(f"The scene was picked for that: {model} makes mistakes about others, too; --scene 7 shows some.")
    return names


def _demo_ask(
    pipe: "ImageGroundingPipeline",
    model: str,
    path: Path,
    image: "Image.Image",
    question: str,
    regions: Sequence[Any],
    compare: "Callable[[GroundedText, dict[str, Any]], Comparison] | None" = None,
) -> "tuple[GroundedText, Comparison | None]":
    """Ask, print the question, the answer and how it compares with the truth, and write the files."""
    # The demo writes its questions itself, some with `<p>…</p>` around what is to be located.
    answer = pipe(
        image,
        question,
        regions=list(regions),
        masks=has_masks(pipe),
        generate_kwargs={"max_new_tokens": DEMO_MAX_NEW_TOKENS},
        parse_tokens=True,
    )
    print("\n".join(["", f"> {question}", *map(_pointed_at, regions)]))
    # An answer that only points has no words.
    print(printable(answer_lines(answer)).lstrip("\n"))
    notes: dict[str, Any] = {
        "model": model,
        "question": question,
        "question_boxes_xyxy": [list(region) for region in regions if not isinstance(region, dict)],
    }
    if clicks := [region["point"] for region in regions if isinstance(region, dict)]:
        notes["question_clicks_xy"] = clicks
    comparison = None if compare is None else compare(answer, notes)
    write_answer(path.parent, path.name, answer, image, notes, question)
    return answer, comparison


def has_masks(pipe: "ImageGroundingPipeline") -> bool:
    """Whether the model decodes masks."""
    return pipe.model.config.mask_decoder_config is not None


def _pointed_at(region: Any) -> str:
    """A region of a question, as a line."""
    if isinstance(region, dict):
        return f"  click {numbers(region['point'])}"
    return f"  {'box':<4} {numbers(region)}"


def _compared(
    compare: "Callable[[GroundedText], Comparison]",
    scene: "Scene",
    together: Sequence[int],
    answer: "GroundedText",
    notes: dict[str, Any],
) -> "Comparison":
    """Compare an answer with the truth, print how it compares, and note it."""
    comparison = compare(answer)
    print(f"  = {comparison.text}{_masks_compared(scene, answer, together, notes)}")
    notes["comparison"] = asdict(comparison)
    return comparison


def _masks_compared(scene: "Scene", answer: "GroundedText", together: Sequence[int], notes: dict[str, Any]) -> str:
    """How the masks of an answer fit the scene, as the end of a line; the numbers go into the notes, too."""
    from ..shapes.demo import mask_ious

    if not answer.masks:
        return ""
    named = {region.id: region for phrase in answer.phrases for region in phrase.regions}
    named |= {region.id: region for region in answer.user_regions}
    ious = {number: round(iou, 3) for number, region in named.items() for iou in mask_ious(scene, region, together)}
    notes["mask_ious"] = ious
    mean = sum(ious.values()) / len(ious)
    return f"; {counted(len(ious), 'mask')}, IoU {mean:.2f} with the true {'one' if len(ious) == 1 else 'ones'}"
