"""`groma convert`: converts original checkpoints, or assembles a model from components."""

import argparse
from pathlib import Path

from .._folders import check_output_folder
from ..loading_options import DTYPES
from .arguments import CommandError, add_command, errors_of, positive


def layer_numbers(text: str) -> list[int]:
    """Parse three or four layers, counted from the first (0 is the embedding) or, negative, from the last (-1)."""
    try:
        layers = [int(number) for number in text.split(",")]
    except ValueError:
        layers = []
    if len(layers) not in (3, 4):
        raise argparse.ArgumentTypeError(f"{text!r} must be 3 layers, as in -5,-3,-1, or 4 for a GLaMM")
    return layers


REGION_ENCODER_OPTIONS = {
    "group_norm_groups": (positive(int), "N", "groups of its group norm; a divisor of the vision encoder's width"),
    "num_fuse_layers": (positive(int), "N", "rounds of its fusion convolution"),
    "roi_output_size": (positive(int), "N", "side of a region's crop"),
    "roi_sampling_ratio": (positive(int), "N", "samples per bin and side"),
    "position_hidden_size": (positive(int), "N", "hidden width of the box position encoding"),
    "region_hidden_size": (positive(int), "N", "width of a region feature before projection to the language model's"),
    "vision_feature_layers": (
        layer_numbers,
        "A,B,C",
        "layers of the vision encoder that it reads, 4 for a GLaMM; write --vision-feature-layers=-5,-3,-1",
    ),
}


# What may be given with LEGACY_DIR, and without it.
LEGACY_COMPONENTS = (set(), {"vision_encoder"})
COMPONENTS = (
    {"detector", "language_model"},
    {"vision_encoder"},
    {"vision_encoder", "grounding_encoder", "language_model"},
)


def add_convert(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    convert = add_command(
        commands,
        "convert",
        run_convert,
        "convert a released checkpoint of the original Groma or GLaMM, or assemble a model from components",
        "groma convert groma-7b-finetune groma-7b --dtype bfloat16\n"
        "         groma convert GLaMM-FullScope glamm-fullscope\n"
        "         groma convert --vision-encoder facebook/dinov2-large groma-detector\n"
        "         groma convert --detector groma-detector --language-model lmsys/vicuna-7b-v1.5 groma-fresh\n"
        "         groma convert --vision-encoder openai/clip-vit-large-patch14-336 --grounding-encoder "
        "facebook/sam-vit-huge --language-model lmsys/vicuna-7b-v1.5 glamm-fresh",
        usage="groma convert [options] LEGACY_DIR OUT_DIR\n"
        "       groma convert [options] --detector MODEL --language-model MODEL OUT_DIR\n"
        "       groma convert [options] --vision-encoder MODEL OUT_DIR\n"
        "       groma convert [options] --vision-encoder MODEL --grounding-encoder MODEL --language-model MODEL "
        "OUT_DIR",
    )
    convert.add_argument(
        "legacy_dir",
        metavar="LEGACY_DIR",
        nargs="?",
        help="folder of a released checkpoint (Groma, its stage 1, or GLaMM)",
    )
    convert.add_argument("output_dir", metavar="OUT_DIR", help="folder to write; it appears when it is complete")
    convert.add_argument(
        "--detector", metavar="MODEL", help="folder or Hub name of a stage-1 detector of this package"
    )
    convert.add_argument("--language-model", metavar="MODEL", help="folder or Hub name of a causal language model")
    convert.add_argument(
        "--vision-encoder",
        metavar="MODEL",
        help="folder or Hub name of a vision transformer; with a GLaMM as LEGACY_DIR, of its CLIP (default: the one "
        "that its config.json names)",
    )
    convert.add_argument(
        "--grounding-encoder", metavar="MODEL", help="folder or Hub name of a whole SAM, for a new GLaMM"
    )
    sizes = convert.add_argument_group(
        "sizes of the region encoder, with --language-model",
        "By default they follow from the detector or, in a GLaMM, from the vision encoder.",
    )
    for name, (kind, metavar, text) in REGION_ENCODER_OPTIONS.items():
        sizes.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    convert.add_argument(
        "--dtype",
        choices=DTYPES[1:],  # not as saved
        help="dtype of the written weights; --detector, and the encoders of a new GLaMM, stay in float32 (default: as "
        "in LEGACY_DIR, else float32)",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it exists")


def run_convert(arguments: argparse.Namespace) -> None:
    """`groma convert`: a checkpoint of the original, or components, to a model of this package."""
    components = {
        "detector": arguments.detector,
        "language_model": arguments.language_model,
        "vision_encoder": arguments.vision_encoder,
        "grounding_encoder": arguments.grounding_encoder,
    }
    given = {name for name, value in components.items() if value is not None}
    is_legacy = arguments.legacy_dir is not None
    if given not in (LEGACY_COMPONENTS if is_legacy else COMPONENTS):
        raise CommandError(
            "pass LEGACY_DIR and OUT_DIR (with --vision-encoder for a GLaMM whose CLIP is elsewhere), or --detector, "
            "--language-model and OUT_DIR, or --vision-encoder and OUT_DIR, or --vision-encoder, --grounding-encoder, "
            "--language-model and OUT_DIR."
        )
    sizes = {name: value for name in REGION_ENCODER_OPTIONS if (value := getattr(arguments, name)) is not None}
    if sizes and "language_model" not in given:
        name = next(iter(sizes)).replace("_", "-")
        raise CommandError(
            f"--{name} is a size of a new whole model: pass it with --language-model and --detector or "
            "--grounding-encoder."
        )
    output_dir = Path(arguments.output_dir)
    read = [path for path in (arguments.legacy_dir, *components.values()) if path is not None]
    try:
        check_output_folder(output_dir, arguments.overwrite, read)
    except FileExistsError as error:
        raise CommandError(f"OUT_DIR {error}".replace("`overwrite`", "--overwrite")) from error
    if is_legacy and not Path(arguments.legacy_dir).is_dir():
        raise CommandError(
            f"LEGACY_DIR {arguments.legacy_dir!r} is not a folder: pass a released checkpoint's folder."
        )

    import torch
    from transformers.utils import logging

    from ..converting import assemble_components, convert_legacy_checkpoint
    from ..models.released_weights import check_weights

    # The library's own messages would precede our error, which says the same in one line.
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    sources = [f"--{name.replace('_', '-')} {components[name]!r}" for name in sorted(given)]
    if is_legacy:
        sources = [f"LEGACY_DIR {arguments.legacy_dir!r}"]
    try:
        logging.set_verbosity_error()
        with errors_of(" and ".join(sources)):
            if not is_legacy:
                check_weights(components["detector"])
                assemble_components(
                    output_dir,
                    **components,
                    dtype=dtype or torch.float32,
                    overwrite=arguments.overwrite,
                    region_encoder=sizes,
                )
            else:
                convert_legacy_checkpoint(
                    arguments.legacy_dir, output_dir, dtype, arguments.overwrite, arguments.vision_encoder
                )
    finally:
        logging.set_verbosity(verbosity)
    print(output_dir)
