"""`groma classify`: says which of some labels fits an image, without training."""

import argparse
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from .._words import counted, quoted
from ..zero_shot.methods import METHODS
from .arguments import CommandError, add_command, add_output_arguments, box_xyxy, checked_folder, errors_of, positive
from .image_sources import OpenedImage, check_kept, image_sources, open_each, output_names
from .label_arguments import LABELS_HELP, add_description_arguments, descriptions_of, labels_of, templates_of
from .models import check_regions, open_upright
from .output import image_note, note, numbers, printable, write_classification
from .zero_shot_arguments import (
    SCORES,
    VIEW_COUNT,
    add_encoder_arguments,
    add_view_arguments,
    check_encoder_and_views,
    load_dual_encoder,
    load_region_views,
)

if TYPE_CHECKING:
    from ..zero_shot.classification import Classification
    from ..zero_shot.classifier import CrossAlignmentClassifier

# Labels that are printed for people, and places of --explain.
TOP, PLACES = 5, 5
# Images held in memory at once, however few views they have.
_MOST_IMAGES = 32


def add_classify(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    classify = add_command(
        commands,
        "classify",
        run_classify,
        "say which of some labels fits an image, without training, and which places of it say so",
        "groma classify photo.jpg --labels 'cat,dog,red ball'\n"
        "         groma classify photos --labels labels.txt --descriptions cupl.json --json > results.jsonl\n"
        "         groma classify photo.jpg --labels cat,dog --views regions --model groma-7b --explain --output why",
    )
    classify.add_argument(
        "images", metavar="IMAGE", nargs="+", help="path or http(s) URL of an image, or a folder of images"
    )
    texts = classify.add_argument_group("labels, and the texts that stand for them")
    texts.add_argument("--labels", metavar="NAMES_OR_FILE", required=True, help=LABELS_HELP)
    add_description_arguments(texts)
    texts.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="wca",
        help="wca: weighted views and texts; the others are what the paper compares it with, which see the whole "
        "image alone (default: %(default)s)",
    )
    add_encoder_arguments(classify.add_argument_group("the encoder of images and texts"))
    views = classify.add_argument_group("where an image is looked at, and how the score follows")
    add_view_arguments(views)
    views.add_argument(
        "--box",
        dest="boxes",
        metavar="X1,Y1,X2,Y2",
        type=box_xyxy,
        action="append",
        help="look at this place of the image, in place of --views; repeat it. Pixels are of the upright image",
    )
    classify.add_argument(
        "--top", metavar="N", type=positive(int), help=f"only the N best labels (default: {TOP}; with --json, all)"
    )
    classify.add_argument(
        "--explain", action="store_true", help="also say which places count most, and the description each fits best"
    )
    add_output_arguments(
        classify, "classification.json and classification.png, an image of the places that count most,"
    )


def run_classify(arguments: argparse.Namespace) -> None:
    """`groma classify`: classify images one after the other. One that cannot be read does not lose the others."""
    check_encoder_and_views(arguments)
    check_method(arguments)
    settle_views(arguments)
    labels, texts = labels_and_texts(arguments)
    sources = image_sources(arguments.images)
    if arguments.boxes:
        check_boxes(arguments, sources)
    folder = checked_folder(arguments.output)
    names = output_names(sources, only="classification")
    if folder is not None:
        check_kept(names, folder, (".json", ".png"))
    classifier = load_classifier(arguments, labels, texts)
    failed: list[str] = []

    def leave_out(source: str, error: str) -> None:
        note(f"groma classify: {error}")
        failed.append(source)

    opened = open_each(sources, leave_out)
    while group := list(islice(opened, images_at_once(arguments))):
        for one, result in zip(group, classified(classifier, group, arguments), strict=True):
            about = image_note(one.source, one.image)
            if arguments.json:
                print(json.dumps({**about, **content(result, arguments)}), flush=True)
            else:
                print(printable(lines(result, arguments, one.source if len(sources) > 1 else None)), flush=True)
            if folder is not None:
                name = names[one.source]
                write_classification(folder, name, result, one.image, about)
                note(f"wrote {folder / name}.json and {folder / name}.png")
    if arguments.explain and folder is None and not arguments.json:
        note("--output DIR also writes an image of the places")
    if failed:
        raise CommandError(
            f"{len(failed)} of {counted(len(sources), 'image')} could not be classified: {quoted(failed)}"
        )


def check_method(arguments: argparse.Namespace) -> None:
    """Refuse places to look at beside a method that looks at the whole image alone."""
    if METHODS[arguments.method].pools_views:
        return
    for option, value in (("--views", arguments.views), ("--box", arguments.boxes)):
        if value not in (None, "none"):
            raise CommandError(
                f"--method {arguments.method} compares the whole image alone, so {option} changes nothing: leave one "
                "of them out."
            )


def settle_views(arguments: argparse.Namespace) -> None:
    """Refuse options of views that are not looked at, and fill in the defaults of those that were not given."""
    method, views = arguments.method, arguments.views or "random"
    is_weighed = METHODS[method].pools_views
    if not is_weighed:
        looked_at = f"--method {method}, which compares the whole image alone"
    else:
        looked_at = "--box" if arguments.boxes else f"--views {views}"
    has_count = is_weighed and not arguments.boxes and views != "none"
    has_seed = (has_count and views in ("random", "both")) or method == "waffle"
    for option, value, is_used, default in (
        ("view-count", arguments.view_count, has_count, VIEW_COUNT),
        ("seed", arguments.seed, has_seed, 0),
        ("score", arguments.score, is_weighed, SCORES[0]),
    ):
        if value is not None and not is_used:
            raise CommandError(f"--{option} changes nothing with {looked_at}: leave it out.")
        setattr(arguments, option.replace("-", "_"), default if value is None else value)


def labels_and_texts(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """The labels, and what a classifier takes to know their texts. All is checked before a model is loaded.

    Raises:
        CommandError: labels, descriptions or templates that cannot be read, do not fit each other or the method.
    """
    from ..zero_shot.label_texts import texts_of_labels

    labels = labels_of(arguments.labels)
    texts = {
        "descriptions": descriptions_of(arguments.descriptions),
        "method": arguments.method,
        "templates": templates_of(arguments.templates),
        "seed": arguments.seed,
    }
    given = [f"--{name} {value}" for name in ("descriptions", "templates") if (value := getattr(arguments, name))]
    with errors_of(" and ".join(given) or f"--method {arguments.method}"):
        try:
            unused = texts_of_labels(labels, **texts).unused
        except ValueError as error:
            raise ValueError(re.sub(r"`(descriptions|templates)`", r"--\1", str(error))) from error
    if unused:
        classes = counted(len(unused), "class", "classes")
        note(f"no label asks for {classes} of {arguments.descriptions}: {quoted(unused)}")
    return labels, texts


def check_boxes(arguments: argparse.Namespace, sources: Sequence[str]) -> None:
    """Refuse `--box` beside what it stands in for, for several images, or outside of its image."""
    if len(sources) > 1:
        raise CommandError(f"--box is a place of one image, and there are {len(sources)}: pass one image.")
    if arguments.views is not None or arguments.model is not None:
        option = "--views" if arguments.views is not None else "--model"
        raise CommandError(f"--box says where to look, and so does {option}: leave one of them out.")
    check_regions([list(box) for box in arguments.boxes], open_upright(sources[0]))


def load_classifier(
    arguments: argparse.Namespace, labels: Sequence[str], texts: dict[str, Any]
) -> "CrossAlignmentClassifier":
    """Load the encoder, and what proposes regions where they are asked for."""
    proposer = load_region_views(arguments)
    encoder = load_dual_encoder(arguments)
    from ..zero_shot.classifier import CrossAlignmentClassifier

    views = arguments.views or "random"
    with errors_of("--encoder"):
        return CrossAlignmentClassifier.from_encoder(
            encoder,
            labels,
            views=None if views == "none" else views,
            view_count=arguments.view_count,
            score=arguments.score,
            proposer=proposer,
            **texts,
        )


def images_at_once(arguments: argparse.Namespace) -> int:
    """How many images have as many views as go through the encoder together."""
    kinds = {"none": 0, "both": 2}.get(arguments.views, 1)
    return max(1, min(_MOST_IMAGES, arguments.view_batch // (1 + kinds * arguments.view_count)))


def classified(
    classifier: "CrossAlignmentClassifier", group: Sequence[OpenedImage], arguments: argparse.Namespace
) -> "list[Classification]":
    """The classifications of some images."""
    boxes = None if arguments.boxes is None else [arguments.boxes]
    is_explained = arguments.explain or arguments.output is not None
    with errors_of("--encoder"):
        return classifier.classify([one.image for one in group], explain=is_explained, boxes=boxes)


def content(result: "Classification", arguments: argparse.Namespace) -> dict[str, Any]:
    """A classification as JSON has it."""
    found = result.to_dict(strongest=PLACES)
    found["scores"] = found["scores"][: arguments.top]
    return found if arguments.explain else {key: found[key] for key in ("label", "scores")}


def lines(result: "Classification", arguments: argparse.Namespace, source: str | None) -> str:
    """A classification as a terminal shows it: labels, best first; with --explain the places that count most."""
    indent = "" if source is None else "  "
    written = [] if source is None else [source]
    for score in result.scores[: arguments.top or TOP]:
        written.append(f"{indent}{score.probability:6.1%}  {score.score:6.3f}  {score.label}")
    if arguments.explain:
        written.append(f"{indent}places that count most: weight, similarity, x1, y1, x2, y2, what they look like")
        for place in result.explanation.places(result.label, PLACES):
            written.append(
                f"{indent}{place.weight:6.1%}  {place.similarity:6.3f} {numbers(place.view_xyxy)}  {place.kind}: "
                f"{place.description}"
            )
    return "\n".join(written)
