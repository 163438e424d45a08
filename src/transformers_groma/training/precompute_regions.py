"""Precomputes regions: the frozen detector runs once over a dataset, so stages 2 and 3 skip its proposer.

    groma train precompute-regions --model_name_or_path output/detection \\
        --dataset_dir data/visual_genome --output_dir data/visual_genome-regions

Several machines take every n-th file each; an interrupted job resumes after its last whole file:

    groma train precompute-regions … --shard 3 --num_shards 8

The new folder takes the place of the old one in `train_datasets`. It holds raw proposals, before NMS: a training
chooses among them together with the boxes of its questions, and gets the regions that it would get without this step.
This saves the proposer's share of a training step, which is small at the released sizes, as the vision encoder still
runs: `benchmarks/bench_precomputed_regions.py` measures it.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import torch
from datasets import Features
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from .._locks import one_writer
from .._run_ahead import run_ahead
from ..data.columns import check_columns
from ..data.mixtures import PROPOSAL_COLUMNS
from ..data.parquet import check_shard
from ..models.groma.modeling_groma import GromaForConditionalGeneration, GromaModel
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import loading, parse_arguments
from .proposal_files import Proposals, image_batches, is_finished, pixel_maker, write_copy
from .proposal_notes import NOTES_NAME, Detector, check_claim, claim_folder


@dataclass
class PrecomputeReport:
    """The outcome of a run.

    Args:
        files (`list` of `Path`): the files that it wrote.
        finished (`int`): number of files that were finished before.
        rows (`int`): rows of the files written.
        images (`int`): images that the detector saw; one that repeats within a file counts once.
        proposals (`int`): proposals of these images.
    """

    files: list[Path] = field(default_factory=list)
    finished: int = 0
    rows: int = 0
    images: int = 0
    proposals: int = 0

    def summary(self) -> str:
        """Sum up the run in one line.

        Returns:
            `str`: the line.

        Example:
        >>> PrecomputeReport(files=[Path("train.parquet")], finished=2, rows=5, images=4, proposals=50).summary()
        '1 files written, 2 finished before: 5 rows, 4 images, 12.5 proposals an image'
        """
        mean = self.proposals / max(1, self.images)
        return (
            f"{len(self.files)} files written, {self.finished} finished before: {self.rows} rows, {self.images} "
            f"images, {mean:.1f} proposals an image"
        )


def precompute_regions(
    model: GromaForConditionalGeneration | GromaModel | GromaForRegionProposal,
    image_processor: BaseImageProcessor,
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    split: str = "train",
    batch_size: int = 16,
    score_threshold: float | None = None,
    shard: int | None = None,
    num_shards: int = 1,
    num_workers: int = 4,
    device: str | torch.device | None = None,
) -> PrecomputeReport:
    """Copy the files of a dataset with the proposals of a detector in two more columns.

    `proposal_boxes` are normalized `cxcywh`, `proposal_scores` their fused objectness, in the order of the queries:
    all with a score above `score_threshold`, or the best one where there is none, since the model falls back on it.
    Rows without an image have empty lists. Everything else stays as it is, images byte for byte. A file appears when
    it is whole, and finished files are left alone, so an interrupted job resumes when it is started again. They must
    be copies of the same files, with proposals of the same detector, image processor and threshold.

    The detector runs in evaluation mode and without autocast, as when it is frozen in a training. Its proposals differ
    from those of a training by rounding, where images share a batch with others or the device is another.

    Args:
        model (`GromaForConditionalGeneration`, `GromaModel` or `GromaForRegionProposal`): its vision encoder and
            region proposer run. It is put into evaluation mode and moved to `device`.
        image_processor (`BaseImageProcessor`): the model's, as training uses it.
        dataset_dir (`str` or `Path`): folder with files `{split}*.parquet` of the conversation (or evaluation)
            columns.
        output_dir (`str` or `Path`): folder of the copies, made if needed; `proposals.json` there names the model.
        split (`str`): the split to copy.
        batch_size (`int`): images at a time.
        score_threshold (`float`, *optional*): keep proposals with a larger score; 0 keeps all. The model's
            `box_score_threshold` by default, and at most.
        shard (`int`, *optional*): take only every `num_shards`-th file, from this one on (0 is the first).
        num_shards (`int`): number of jobs that share the files.
        num_workers (`int`): threads that read images.
        device (`str` or `torch.device`, *optional*): where to run; the accelerator if there is one, else the CPU.

    Returns:
        `PrecomputeReport`: what was done.

    Raises:
        FileNotFoundError: no such folder, or no files of the split in it.
        ValueError: a wrong argument, wrong columns, an image that cannot be read, or an `output_dir` that holds
            something else: the dataset itself, another dataset, or proposals of another model, image processor or
            threshold.
        OutputError: `output_dir` cannot be written, or another process is writing the same.

    Example:
    >>> import tempfile
    >>> from transformers_groma.shapes.rows import ShapesOptions, write_shapes
    >>> model = GromaForRegionProposal.from_pretrained("hub_configs/groma-tiny")
    >>> image_processor = AutoImageProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = write_shapes(ShapesOptions("rec", seed=0), 2, folder / "rec")
    >>> report = precompute_regions(model, image_processor, folder / "rec", folder / "rec-regions", device="cpu")
    >>> report.rows, report.images
    (2, 2)
    """
    detector = model.model if isinstance(model, GromaForConditionalGeneration) else model
    limit = detector.config.box_score_threshold
    threshold = limit if score_threshold is None else score_threshold
    if not 0 <= threshold <= limit:
        raise ValueError(
            f"`score_threshold` must be between 0 and the model's `box_score_threshold` of {limit:g}, got "
            f"{threshold:g}: a training would miss proposals."
        )
    for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    check_shard(shard, num_shards)
    if shard is None and num_shards > 1:
        raise ValueError(
            f"`shard` is missing: with `num_shards` {num_shards} say which of 0..{num_shards - 1} this is."
        )
    files = _split_files(dataset_dir, split)
    sources = files[shard or 0 :: num_shards]
    features = {source: _checked_features(source) for source in sources}
    if output_dir.resolve() == dataset_dir.resolve():
        raise ValueError(f"`output_dir` is the dataset itself ({dataset_dir}). Pass another folder for the copies.")
    _check_copies(output_dir, split, {source.name for source in files})
    part = None if num_shards == 1 else f"{shard:05d}"
    with one_writer(output_dir, f"precompute-{split}", part):
        claim = claim_folder(output_dir, detector, image_processor, threshold)
        pending = [source for source in sources if not is_finished(source, output_dir / source.name)]
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        model.to(device).eval()
        report = PrecomputeReport(finished=len(sources) - len(pending))
        total = sum(pq.read_metadata(source).num_rows for source in pending)
        start = time.perf_counter()
        with tqdm(total=total, desc=split, unit="row") as progress:
            for source in pending:
                make_pixels = pixel_maker(image_processor, features[source]["image"])
                proposals: dict[bytes, Proposals] = {}
                for batch in run_ahead(make_pixels, image_batches(source, batch_size), 2 * num_workers, num_workers):
                    if batch.pixel_values is not None:
                        found = _propose(detector, batch.pixel_values.to(device), threshold)
                        proposals.update(zip(batch.keys, found, strict=True))
                        report.images += len(found)
                        report.proposals += sum(len(image.scores) for image in found)
                        speed = report.images / (time.perf_counter() - start)
                        progress.set_postfix_str(f"{speed:.1f} images/s", refresh=False)
                    progress.update(batch.num_rows)
                    report.rows += batch.num_rows
                # Again: jobs that start at the same time do not see each other's notes.
                check_claim(output_dir, claim)
                write_copy(source, output_dir / source.name, features[source], proposals)
                report.files.append(output_dir / source.name)
    return report


def _split_files(dataset_dir: Path, split: str) -> list[Path]:
    if not dataset_dir.is_dir():
        raise FileNotFoundError(f"`dataset_dir` {dataset_dir} is not a folder. Pass one with files {split}*.parquet.")
    files = sorted(dataset_dir.glob(f"{split}*.parquet"))
    if not files:
        found = ", ".join(sorted(path.name for path in dataset_dir.glob("*.parquet"))[:5])
        raise FileNotFoundError(
            f"`dataset_dir` {dataset_dir} has no files {split}*.parquet; Parquet files there: {found or 'none'}. Name "
            "the split with `split`."
        )
    return files


def _checked_features(source: Path) -> Features:
    features = Features.from_arrow_schema(pq.read_schema(source))
    try:
        check_columns(features, "conversation")
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if any(name in features for name in PROPOSAL_COLUMNS):
        raise ValueError(f"{source} already has precomputed regions. Pass the dataset that it was made from.")
    return features


def _check_copies(output_dir: Path, split: str, names: set[str]) -> None:
    """Check that a folder has no other file of the split, which would be read with the copies."""
    for path in sorted(output_dir.glob(f"{split}*.parquet")):
        if (output_dir / NOTES_NAME).exists() and path.name not in names:
            raise ValueError(
                f"`output_dir` {output_dir} holds {path.name}, which belongs to another dataset and would be read "
                "with the copies. Pass another folder, or remove it."
            )


@torch.no_grad()
def _propose(detector: Detector, pixel_values: Tensor, threshold: float) -> list[Proposals]:
    """The proposals of each image that `select_regions` could ever choose; pixels `(B, 3, image_size, image_size)`."""
    proposals = detector.detect(pixel_values).proposals
    boxes, scores = proposals.pred_boxes.float(), proposals.scores.float()
    kept = torch.ones_like(scores, dtype=torch.bool) if threshold == 0 else scores > threshold
    # Where no score is above the threshold, the model falls back on the best proposal.
    finite = boxes.isfinite().all(dim=-1) & scores.isfinite()
    kept[torch.arange(len(kept)), scores.masked_fill(~finite, -1.0).argmax(dim=1)] = True
    # A box that is not finite is never chosen.
    kept &= finite
    boxes, scores, kept = (tensor.cpu().numpy() for tensor in (boxes, scores, kept))
    return [
        Proposals(image_boxes[used], image_scores[used])
        for image_boxes, image_scores, used in zip(boxes, scores, kept, strict=True)
    ]


@dataclass
class PrecomputeArguments:
    """Options of the command line; see [`precompute_regions`].

    Args:
        model_name_or_path (`str`): a `GromaForRegionProposal`, or a whole Groma whose detector is taken.
        dataset_dir (`str`): folder with files `{split}*.parquet` of the conversation columns.
        output_dir (`str`): folder of the copies.
        split (`str`): the split to copy.
        batch_size (`int`): images at a time.
        score_threshold (`float`, *optional*): keep proposals with a larger score; the model's own by default.
        shard (`int`, *optional*): take only every `num_shards`-th file, from this one on.
        num_shards (`int`): number of jobs that share the files.
        num_workers (`int`): threads that read images.
        device (`str`, *optional*): where to run.
    """

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a detector or a complete Groma."})
    dataset_dir: str = field(metadata={"help": "Folder with files SPLIT*.parquet of the conversation columns."})
    output_dir: str = field(metadata={"help": "Folder for the copies, to use instead of the dataset."})
    split: str = field(default="train", metadata={"help": "The split to copy."})
    batch_size: int = field(default=16, metadata={"help": "Images at a time."})
    score_threshold: float | None = field(
        default=None, metadata={"help": "Keep proposals with a larger score; by default the model's threshold."}
    )
    shard: int | None = field(default=None, metadata={"help": "Take only every NUM_SHARDS-th file, from this one on."})
    num_shards: int = field(default=1, metadata={"help": "Number of jobs that share the files."})
    num_workers: int = field(default=4, metadata={"help": "Threads that read images."})
    device: str | None = field(default=None, metadata={"help": "Device; by default the accelerator, if there is one."})


def main(argv: Sequence[str] | None = None) -> None:
    """Precompute the regions of a dataset, from a command line.

    Args:
        argv (`Sequence[str]`, *optional*): the command line without the program's name; `sys.argv[1:]` by default.

    Raises:
        FileNotFoundError, ValueError: see [`precompute_regions`].
    """
    (arguments,) = parse_arguments(
        (PrecomputeArguments,), argv, "groma train precompute-regions", __doc__.splitlines()[0]
    )
    # In float32, as every training loads the detector, which is all we need of a whole Groma.
    with loading("model_name_or_path", arguments.model_name_or_path):
        model = GromaForRegionProposal.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
        image_processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path)
    report = precompute_regions(
        model,
        image_processor,
        arguments.dataset_dir,
        arguments.output_dir,
        split=arguments.split,
        batch_size=arguments.batch_size,
        score_threshold=arguments.score_threshold,
        shard=arguments.shard,
        num_shards=arguments.num_shards,
        num_workers=arguments.num_workers,
        device=arguments.device,
    )
    print(f"{arguments.output_dir}: {report.summary()}", file=sys.stderr)


__all__ = ["PrecomputeArguments", "PrecomputeReport", "main", "precompute_regions"]


if __name__ == "__main__":
    main()
