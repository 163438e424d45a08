"""`groma segment`: finds the pixels of what phrases refer to, or of regions."""

import argparse

from .._words import counted
from .arguments import CommandError, add_command, errors_of, generate_kwargs, given_generation_arguments
from .output import earlier_masks, image_note, note, print_regions, write_segments
from .region_arguments import check_region_given
from .verb_commands import add_answer_arguments, add_image_argument, open_all


def add_segment(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    segment = add_command(
        commands,
        "segment",
        run_segment,
        "find the pixels of what phrases refer to, or of regions",
        'groma segment photo.jpg "the red cup" --model groma-7b --output cup\n'
        "         groma segment photo.jpg --point 90,300 --not-point 400,20 --model groma-7b --json\n"
        "         groma segment photo.jpg --point 90,300 --multimask --model groma-7b",
    )
    add_image_argument(segment)
    segment.add_argument(
        "phrases",
        metavar="PHRASE",
        nargs="*",
        help="what to find, plain text. Several are found one by one, each with a line of JSON of its own",
    )
    segment.add_argument(
        "--multimask",
        action="store_true",
        help="all masks that the one region may have, as a click may mean a part, an object or a group; best first",
    )
    add_answer_arguments(
        segment,
        "segments.json, segments.png and each mask as segments_mask_1.png, … (segments_1.json, … for several phrases)",
        "What to segment, in place of PHRASE",
        can_stream=False,
        has_masks=False,
    )


def run_segment(arguments: argparse.Namespace) -> None:
    """`groma segment`: the masks of phrases, or of regions."""
    if arguments.phrases and arguments.regions:
        raise CommandError(
            f"both PHRASE {arguments.phrases[0]!r} and a region were given: segment them with two commands."
        )
    if empty := [phrase for phrase in arguments.phrases if not phrase.strip()]:
        raise CommandError(f'PHRASE {empty[0]!r} is empty: write what to find, as in "the red cup".')
    if arguments.phrases and arguments.multimask:
        raise CommandError("--multimask is for a region that may mean several things, and not for PHRASE.")
    if not arguments.phrases:
        check_region_given(arguments, "PHRASE and no region")
        _check_no_generation(arguments)
    opened = open_all(arguments, needs_masks="groma segment", output_name="segments")
    with errors_of("the regions" if arguments.regions else "PHRASE and --max-new-tokens"):
        if arguments.regions:
            found = [opened.pipe.segment(opened.image, opened.regions, multimask=arguments.multimask)]
        else:
            settings = generate_kwargs(arguments)
            found = opened.pipe.segment(opened.image, arguments.phrases, generate_kwargs=settings)
    for index, regions in enumerate(found):
        if not len(regions):
            note(f"not found: {arguments.phrases[index]}")
        print_regions(regions, arguments.json)
        if opened.folder is not None:
            name = "segments" if len(found) == 1 else f"segments_{index + 1}"
            notes = image_note(arguments.image, opened.image)
            write_segments(opened.folder, name, regions, opened.image, notes)
            masks = counted(len(regions), "mask")
            note(f"wrote {opened.folder / name}.json, {opened.folder / name}.png and {masks}")
            if earlier := earlier_masks(opened.folder, name, len(regions)):
                note(f"masks of an earlier command remain in {opened.folder}: {', '.join(earlier)}")


def _check_no_generation(arguments: argparse.Namespace) -> None:
    """Refuse options of answers: regions are segmented without the language model."""
    if given := given_generation_arguments(arguments):
        raise CommandError(f"{given[0]} is for PHRASE: regions are segmented without the language model.")
