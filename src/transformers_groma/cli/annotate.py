"""`groma annotate`: annotates very many images, and writes what the model says about them as Parquet."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._output_errors import OutputError
from ..model_files import ANSWERING_MODELS, PROPOSING_MODELS
from .arguments import (
    BOX_FORMATS,
    CommandError,
    add_command,
    add_generation_arguments,
    add_model_arguments,
    errors_of_loading,
    generate_kwargs,
    given_generation_arguments,
    importing_data_packages,
    loading_options,
    natural,
    positive,
    share,
)
from .models import checked_device, checked_model, options_of
from .output import note

if TYPE_CHECKING:
    from ..annotation.job import AnnotationRun
    from ..annotation.models import AnnotatingModel
    from ..annotation.tasks import AnnotationTasks

BATCH_SIZE = 8
SHARD_SIZE = 1000
_NO_PROPOSER = (
    "have the images described (`--caption`) or name what to find (`--locate`), as it has no region proposer"
)


def add_annotate(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    annotate = add_command(
        commands,
        "annotate",
        run_annotate,
        "annotate very many images: captions, places of phrases, descriptions of regions, proposals, masks",
        "groma annotate photos annotations --model groma-7b\n"
        '         groma annotate photos annotations --locate "people" --locate "dogs" --masks --model groma-7b\n'
        "         groma annotate 'shards/{000..127}.tar' annotations --caption --engine ray --actors 8\n"
        "         groma annotate org/dataset annotations --split train --regions-column boxes --describe",
    )
    annotate.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, Parquet files or tars (WebDataset), one such file, a pattern of them "
        "('shards/{000..015}.tar'), or the name of a dataset on the Hub",
    )
    annotate.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="folder of the Parquet files, one for each shard of SOURCE; the same command again resumes",
    )
    _add_task_arguments(annotate)
    _add_source_arguments(annotate)
    add_model_arguments(annotate)
    annotate.add_argument(
        "--batch-size",
        metavar="N",
        type=positive(int),
        default=BATCH_SIZE,
        help="images and questions that go through the model together (default: %(default)s)",
    )
    add_generation_arguments(annotate)
    _add_job_arguments(annotate)


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is asked about each image, in one look at it (default: --caption)")
    group.add_argument("--caption", action="store_true", help="describe it, phrases tied to regions")
    group.add_argument("--brief", action="store_true", help="describe it in a short caption; implies --caption")
    group.add_argument(
        "--locate", metavar="PHRASE", action="append", default=[], help="find all PHRASE, in the plural; repeat it"
    )
    group.add_argument("--locate-file", metavar="FILE", type=Path, help="a text file with a phrase in each line")
    group.add_argument(
        "--describe", action="store_true", help="describe each region of --regions-column, else each proposal"
    )
    group.add_argument("--proposals", action="store_true", help="write all proposals, also those that nothing names")
    group.add_argument(
        "--min-score", metavar="S", type=share, default=0.0, help="least score of proposals (default: %(default)s)"
    )
    group.add_argument(
        "--masks", action="store_true", help="regions have masks, as COCO's RLE; needs a model with a mask decoder"
    )


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how SOURCE is read")
    group.add_argument(
        "--source-type",
        choices=("images", "parquet", "webdataset", "hub"),
        help="what it is, where a folder holds several kinds of files or a name may be a folder",
    )
    group.add_argument("--image-column", metavar="NAME", help="column with the images, or end of their names in a tar")
    group.add_argument("--id-column", metavar="NAME", help="column with their names (default: image_id, id or key)")
    group.add_argument(
        "--regions-column",
        metavar="NAME",
        help="column with a list of regions for each image: boxes, COCO's RLE or dicts; in a tar a field of the JSON",
    )
    group.add_argument("--labels-column", metavar="NAME", help="column with a label for each of these regions")
    group.add_argument(
        "--box-format",
        choices=BOX_FORMATS,
        default="xyxy",
        help="of the boxes of regions, in pixels of the upright image (default: %(default)s)",
    )
    group.add_argument("--normalized", action="store_true", help="their boxes are fractions of the image")
    group.add_argument("--config", metavar="NAME", help="configuration of a dataset of the Hub")
    group.add_argument("--split", metavar="NAME", default="train", help="its split (default: %(default)s)")
    group.add_argument("--source-revision", metavar="REV", help="its branch, tag or commit")
    group.add_argument(
        "--shard-size",
        metavar="N",
        type=positive(int),
        default=SHARD_SIZE,
        help="images in each output file, for a folder of images (default: %(default)s)",
    )
    group.add_argument("--max-images", metavar="N", type=positive(int), help="take the first N images only")


def _add_job_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the work is done")
    group.add_argument(
        "--shard", metavar="I/N", type=part_of_work, help="do every N-th shard, from the I-th on: 0/4, 1/4, …"
    )
    group.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="plain: one shard after the other; ray: on actors of Ray, needs `pip install "
        '"transformers-groma[scale]"`',
    )
    group.add_argument("--actors", metavar="N", type=positive(int), help="with ray: how many (default: 1)")
    group.add_argument("--cpus-per-actor", metavar="X", type=positive(float), help="with ray (default: 1)")
    group.add_argument(
        "--gpus-per-actor",
        metavar="X",
        type=natural_or_fraction,
        help="with ray; 0.5 lets two share one (default: 1 where there are GPUs)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    group.add_argument(
        "--gallery", metavar="N", type=natural, default=0, help="also draw the first N images, to OUT/gallery.png"
    )
    group.add_argument(
        "--max-left-out",
        metavar="SHARE",
        type=share,
        default=0.5,
        help="largest share of images that may be left out, because they are broken for instance, without an error at "
        "the end (default: %(default)s)",
    )


def part_of_work(text: str) -> tuple[int, int]:
    """A part of the work, `I/N`."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 0 <= int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N with I from 0 to N-1, as in 0/4")
    return int(match[1]), int(match[2])


def natural_or_fraction(text: str) -> float:
    """A number of GPUs: whole, or a part of one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value <= 1 or (value > 1 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, or a part of one such as 0.5")
    return value


def run_annotate(arguments: argparse.Namespace) -> None:
    """`groma annotate`: annotate what is not annotated yet."""
    run = _read_run(arguments)
    from ..annotation.job import run_annotation

    try:
        with errors_of_loading():
            outcome = run_annotation(run)
    except KeyboardInterrupt:
        note("what is annotated stays: run the same command again to resume")
        raise
    except (RuntimeError, ImportError, ValueError, OSError) as error:
        # torch has no single error for this, and Ray's actors send its words.
        if "out of memory" in str(error):
            raise CommandError(
                f"the device has not enough memory for --batch-size {arguments.batch_size}: pass a smaller one and "
                "run again; what is annotated stays."
            ) from error
        if isinstance(error, (RuntimeError, OutputError)):
            raise
        raise CommandError(str(error)) from error
    for line in outcome.lines(arguments.out):
        note(line)
    _check_left_out(arguments, outcome.report)


def _check_left_out(arguments: argparse.Namespace, report: Any) -> None:
    left_out = sum(report.skipped.values())
    if report.records and left_out / report.records > arguments.max_left_out:
        raise CommandError(
            f"{left_out} of {report.records} images were left out, which is more than --max-left-out "
            f"{arguments.max_left_out:g}. The others are in {arguments.out}; mend the images and pass --overwrite, or "
            "pass a larger share."
        )


def _read_run(arguments: argparse.Namespace) -> "AnnotationRun":
    """Check what was given, the quick things first."""
    phrases = [*arguments.locate, *_phrases_of_file(arguments.locate_file)]
    if arguments.engine == "plain":
        for name in ("actors", "cpus_per_actor", "gpus_per_actor"):
            if getattr(arguments, name) is not None:
                raise CommandError(f"--{name.replace('_', '-')} is for --engine ray: pass that, too, or leave it out.")
    elif arguments.shard is not None:
        raise CommandError("--shard does not go with --engine ray, which spreads all shards itself: leave one out.")
    if arguments.shard is not None and arguments.overwrite:
        raise CommandError(
            "--overwrite does not go with --shard, as it would remove what the other parts have written: remove OUT "
            "first, or pass another one."
        )
    with importing_data_packages():
        from ..annotation.job import AnnotationRun
        from ..annotation.models import AnnotatingModel
        from ..annotation.output_folder import check_out
        from ..annotation.sources.opening import open_source
        from ..annotation.tasks import AnnotationTasks
        from ..data.ray_actors import ActorOptions
    tasks = AnnotationTasks(
        caption=_caption_of(arguments, phrases),
        phrases=tuple(phrases),
        describe=arguments.describe,
        proposals=arguments.proposals,
        masks=arguments.masks,
        source_regions=arguments.regions_column is not None,
        min_score=arguments.min_score,
        box_format=arguments.box_format,
        normalized=arguments.normalized,
    )
    try:
        tasks.check()
        check_out(arguments.source, arguments.out)
    except ValueError as error:
        raise CommandError(str(error)) from error
    _check_generation(arguments, tasks)
    options = _source_options(arguments)
    try:
        kind, shards = open_source(arguments.source, options, [arguments.out])
    except (ValueError, OSError) as error:
        raise CommandError(f"SOURCE: {error}") from error
    loading = loading_options(arguments)
    model = _checked_model(arguments.model, tasks, loading.revision)
    loading = options_of(loading, arguments.model, model)
    if loading.of_language_model and not tasks.needs_language_model:
        names = " and ".join(f"--{name}" for name in loading.of_language_model)
        note(f"finding regions needs no language model, so {names} changes nothing")
        loading = loading.without_language_model()
    if arguments.engine == "plain":
        checked_device(arguments.device, loading)
    sampling = generate_kwargs(arguments)
    # Sampled answers are the same in every run, whichever engine makes them.
    seed = (arguments.seed or 0) if sampling.get("do_sample") else None
    if Path(model).is_dir():
        model = str(Path(model).absolute())  # actors of Ray may have another current folder
    annotating = AnnotatingModel(model, tasks, arguments.batch_size, sampling, arguments.device, loading)
    return AnnotationRun(
        model=annotating,
        shards=shards,
        output=arguments.out,
        settings=_settings(arguments, annotating, seed, kind),
        engine=arguments.engine,
        actors=ActorOptions(arguments.actors or 1, arguments.cpus_per_actor or 1.0, arguments.gpus_per_actor),
        part=arguments.shard,
        seed=seed,
        overwrite=arguments.overwrite,
        gallery=arguments.gallery,
    )


def _caption_of(arguments: argparse.Namespace, phrases: Sequence[str]) -> str | None:
    others = phrases or arguments.describe or arguments.proposals or arguments.regions_column is not None
    if arguments.brief:
        return "brief"
    return "detailed" if arguments.caption or not others else None


def _phrases_of_file(path: Path | None) -> list[str]:
    if path is None:
        return []
    from .._text import read_text, split_lines

    try:
        lines = [line.strip() for line in split_lines(read_text(path))]
    except (OSError, ValueError) as error:
        raise CommandError(f"--locate-file {str(path)!r} cannot be read: {error}") from error
    if not any(lines):
        raise CommandError(f"--locate-file {str(path)!r} has no phrases: write one in each line.")
    return [line for line in lines if line]


def _check_generation(arguments: argparse.Namespace, tasks: "AnnotationTasks") -> None:
    """Refuse options of answers where the model is asked nothing."""
    if not tasks.asks and (given := given_generation_arguments(arguments)):
        raise CommandError(f"{given[0]} is for answers, but nothing is asked: pass --caption, too, or leave it out.")


def _source_options(arguments: argparse.Namespace) -> Any:
    from ..annotation.sources.opening import SourceOptions
    from ..annotation.sources.source_images import SourceColumns

    columns = SourceColumns(
        arguments.image_column, arguments.id_column, arguments.regions_column, arguments.labels_column
    )
    return SourceOptions(
        kind=arguments.source_type,
        columns=columns,
        shard_size=arguments.shard_size,
        config=arguments.config,
        split=arguments.split,
        source_revision=arguments.source_revision,
        max_images=arguments.max_images,
    )


def _checked_model(model: str | None, tasks: "AnnotationTasks", revision: str | None) -> str:
    if tasks.needs_language_model:
        return checked_model(model, ANSWERING_MODELS, revision=revision)
    return checked_model(model, PROPOSING_MODELS, {"glamm": _NO_PROPOSER}, revision)


def _settings(
    arguments: argparse.Namespace, annotating: "AnnotatingModel", seed: int | None, kind: str
) -> dict[str, Any]:
    """What the rows depend on, by the names of options. The batch size is not: a smaller one may finish a run."""
    from ..annotation.models import model_fingerprint, model_label
    from ..data.provenance import named_as_options

    tasks, options = annotating.tasks, annotating.options
    sampling = named_as_options(annotating.generate_kwargs) if tasks.asks else {}
    return {
        "--model": {
            "name": model_label(annotating.model),
            "digest": model_fingerprint(annotating.model, options.revision),
        },
        **named_as_options(vars(options if tasks.needs_language_model else options.without_language_model())),
        "--source-type": kind,
        "--caption": tasks.caption,
        "--locate": list(tasks.phrases),
        "--describe": tasks.describe,
        "--proposals": tasks.proposals,
        "--min-score": tasks.min_score,
        "--masks": tasks.masks,
        "--image-column": arguments.image_column,
        "--id-column": arguments.id_column,
        "--regions-column": arguments.regions_column,
        "--labels-column": arguments.labels_column,
        "--box-format": tasks.box_format,
        "--normalized": tasks.normalized,
        **({"--shard-size": arguments.shard_size} if kind == "images" else {}),
        **({"--config": arguments.config, "--split": arguments.split} if kind == "hub" else {}),
        "--max-images": arguments.max_images,
        **sampling,
        "--seed": seed,
    }
