"""`groma convert`: converts original checkpoints, or assembles a model from components."""

import argparse
from pathlib import Path

from .._folders import check_output_folder
from .arguments import DTYPES, CommandError, add_command, errors_of, positive


def layer_numbers(text: str) -> list[int]:
    """Parse three layers, counted from the first (0 is the embedding) or, negative, from the last (-1)."""
    try:
        layers = [int(number) for number in text.split(",")]
    except ValueError:
        layers = []
    if len(layers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} must be 3 layers, as in -5,-3,-1")
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
        "layers of the vision encoder that it reads; write --vision-feature-layers=-5,-3,-1",
    ),
}


def add_convert(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    convert = add_command(
        commands,
        "convert",
        run_convert,
        "convert a released checkpoint of the original Groma, or assemble a model from components",
        "groma convert groma-7b-finetune groma-7b --dtype bfloat16\n"
        "         groma convert --vision-encoder facebook/dinov2-large groma-detector\n"
        "         groma convert --detector groma-detector --language-model lmsys/vicuna-7b-v1.5 groma-fresh",
        usage="groma convert [options] LEGACY_DIR OUT_DIR\n"
        "       groma convert [options] --detector MODEL --language-model MODEL OUT_DIR\n"
        "       groma convert [options] --vision-encoder MODEL OUT_DIR",
    )
    convert.add_argument(
        "legacy_dir",
        metavar="LEGACY_DIR",
        nargs="?",
        help="folder of a released checkpoint (complete model or stage 1)",
    )
    convert.add_argument("output_dir", metavar="OUT_DIR", help="folder to write; it appears when it is complete")
    convert.add_argument(
        "--detector", metavar="MODEL", help="folder or Hub name of a stage-1 detector of this package"
    )
    convert.add_argument("--language-model", metavar="MODEL", help="folder or Hub name of a causal language model")
    convert.add_argument("--vision-encoder", metavar="MODEL", help="folder or Hub name of a vision transformer")
    sizes = convert.add_argument_group(
        "sizes of the region encoder, with --detector and --language-model",
        "By default they follow from the detector.",
    )
    for name, (kind, metavar, text) in REGION_ENCODER_OPTIONS.items():
        sizes.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    convert.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the written weights, except those of --detector; by default as in LEGACY_DIR, else float32",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it exists")


def run_convert(arguments: argparse.Namespace) -> None:
    """`groma convert`: a checkpoint of the original, or components, to a model of this package."""
    components = {
        "detector": arguments.detector,
        "language_model": arguments.language_model,
        "vision_encoder": arguments.vision_encoder,
    }
    given = {name for name, value in components.items() if value is not None}
    wanted = [set(), {"detector", "language_model"}, {"vision_encoder"}]
    if given not in wanted or (arguments.legacy_dir is None) == (not given):
        raise CommandError(
            "pass LEGACY_DIR and OUT_DIR, or --detector, --language-model and OUT_DIR, or --vision-encoder and "
            "OUT_DIR."
        )
    sizes = {name: value for name in REGION_ENCODER_OPTIONS if (value := getattr(arguments, name)) is not None}
    if sizes and "language_model" not in given:
        name = next(iter(sizes)).replace("_", "-")
        raise CommandError(f"--{name} is a size of a whole Groma: pass it with --detector and --language-model.")
    output_dir = Path(arguments.output_dir)
    read = [path for path in (arguments.legacy_dir, *components.values()) if path is not None]
    try:
        check_output_folder(output_dir, arguments.overwrite, read)
    except FileExistsError as error:
        raise CommandError(f"OUT_DIR {error}".replace("`overwrite`", "--overwrite")) from error
    if arguments.legacy_dir is not None and not Path(arguments.legacy_dir).is_dir():
        raise CommandError(
            f"LEGACY_DIR {arguments.legacy_dir!r} is not a folder: pass a released checkpoint's folder."
        )

    import torch
    from transformers.utils import logging

    from ..models.groma.convert_components import assemble_components
    from ..models.groma.convert_groma_checkpoint import convert_legacy_checkpoint
    from ..models.released_weights import check_weights

    # The library's own messages would precede our error, which says the same in one line.
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    sources = [f"--{name.replace('_', '-')} {components[name]!r}" for name in sorted(given)]
    try:
        logging.set_verbosity_error()
        with errors_of(" and ".join(sources) or f"LEGACY_DIR {arguments.legacy_dir!r}"):
            if given:
                check_weights(components["detector"])
                assemble_components(
                    output_dir,
                    **components,
                    dtype=dtype or torch.float32,
                    overwrite=arguments.overwrite,
                    region_encoder=sizes,
                )
            else:
                convert_legacy_checkpoint(arguments.legacy_dir, output_dir, dtype=dtype, overwrite=arguments.overwrite)
    finally:
        logging.set_verbosity(verbosity)
    print(output_dir)
