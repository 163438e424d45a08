"""Precomputed regions: the frozen detector runs once over a dataset, and stages 2 and 3 need not run its proposer any more.

    groma train precompute-regions --model_name_or_path output/detection \\
        --dataset_dir data/visual_genome --output_dir data/visual_genome-regions

Several machines take every n-th file each; a job that was killed resumes behind its last whole file:

    groma train precompute-regions … --shard 3 --num_shards 8

The new folder takes the place of the old one in `train_datasets`. What it holds are raw proposals, before NMS: a
training chooses among them together with the boxes of its questions, and gets the regions that it would get without
this step. What is saved is the proposer's share of a training step, which is small at the released sizes, as the
vision encoder still runs: `benchmarks/bench_precomputed_regions.py` measures it.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features, Image, List, Value
from datasets.arrow_writer import ParquetWriter
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from .._files import complete_file, write_file
from .._locks import one_writer
from .._run_ahead import run_ahead
from ..data.columns import BOXES, check_columns
from ..data.mixtures import PROPOSAL_COLUMNS
from ..data.parquet import footer_digest
from ..models.groma.modeling_groma import GromaForConditionalGeneration, GromaModel
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .arguments import loading, parse_arguments

PROPOSAL_FEATURES = Features(dict(zip(PROPOSAL_COLUMNS, (BOXES, List(Value("float32"))), strict=True)))
# Beside the files: whose proposals they are.
NOTES_NAME = "proposals.json"
DETECTOR_PARTS = ("vision_tower", "region_proposer")
# Proposals depend on these beside the weights.
PROPOSER_SETTINGS = (
    "num_vision_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "coco_score_weight",
    "refine_reference_points",
)
# Rows in memory while a file is copied.
COPIED_ROWS = 100

Detector = GromaModel | GromaForRegionProposal


@dataclass
class PrecomputeReport:
    """What a run did.

    Args:
        files (`list` of `Path`): the files it wrote.
        finished (`int`): files that were there already.
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
        """One line.

        Returns:
            `str`: the line.

        Example:
        >>> PrecomputeReport(files=[Path("train.parquet")], finished=2, rows=5, images=4, proposals=50).summary()
        '1 files written, 2 finished before: 5 rows, 4 images, 12.5 proposals an image'
        """
        mean = self.proposals / max(1, self.images)
        return (
            f"{len(self.files)} files written, {self.finished} finished before: {self.rows} rows, {self.images} "
            f"images, "
            f"{mean:.1f} proposals an image"
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
    all with a score > `score_threshold`, or the best one where there is none, since the model falls back on it. Rows
    without an image have empty lists. Everything else stays as it is, pictures byte for byte. A file appears when it
    is whole; finished files are left alone, so that a job that was killed resumes when it is started again. They must
    be copies of the same files, with proposals of the same detector, image processor and threshold.

    The detector runs in evaluation mode and without autocast, as it does when it is frozen in a training. Proposals
    differ from those of a training by rounding, where its batches hold other images together or its device is another.

    Args:
        model (`GromaForConditionalGeneration`, `GromaModel` or `GromaForRegionProposal`): its vision encoder and
            region proposer run. It is put into evaluation mode and moved to `device`.
        image_processor (`BaseImageProcessor`): of the model, the one that training uses.
        dataset_dir (`str` or `Path`): folder with files `{split}*.parquet` of the conversation (or evaluation)
            columns.
        output_dir (`str` or `Path`): folder of the copies, made if needed; `proposals.json` there names the model.
        split (`str`): which split.
        batch_size (`int`): images at a time.
        score_threshold (`float`, *optional*): keep proposals with a larger score, 0 keeps all. The model's
            `box_score_threshold` by default, and at most.
        shard (`int`, *optional*): take only every `num_shards`-th file, from this one on (0 is the first).
        num_shards (`int`): number of jobs that share the files.
        num_workers (`int`): threads that read pictures.
        device (`str` or `torch.device`, *optional*): where to run; the accelerator if there is one, else the CPU.

    Returns:
        `PrecomputeReport`.

    Raises:
        FileNotFoundError: no such folder, or no files of the split in it.
        ValueError: a wrong argument, wrong columns, a picture that cannot be read, or an `output_dir` that holds
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
            f"{threshold:g}: "
            "a training would miss proposals."
        )
    for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    files = _split_files(dataset_dir, split)
    sources = _share_of(files, shard, num_shards)
    features = {source: _checked_features(source) for source in sources}
    if output_dir.resolve() == dataset_dir.resolve():
        raise ValueError(f"`output_dir` is the dataset itself ({dataset_dir}). Pass another folder for the copies.")
    _check_copies(output_dir, split, {source.name for source in files})
    part = None if num_shards == 1 else f"{shard:05d}"
    with one_writer(output_dir, f"precompute-{split}", part):
        claim = _claim_folder(output_dir, detector, image_processor, threshold)
        pending = [source for source in sources if not _is_finished(source, output_dir / source.name)]
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        model.to(device).eval()
        report = PrecomputeReport(finished=len(sources) - len(pending))
        total = sum(pq.read_metadata(source).num_rows for source in pending)
        start = time.perf_counter()
        with tqdm(total=total, desc=split, unit="row") as progress:
            for source in pending:
                decode = _decoder(image_processor, features[source]["image"])
                proposals: dict[bytes, _Proposals] = {}
                for batch in run_ahead(decode, _batches(source, batch_size), 2 * num_workers, num_workers):
                    if batch.pixel_values is not None:
                        found = _propose(detector, batch.pixel_values.to(device), threshold)
                        proposals.update(zip(batch.keys, found, strict=True))
                        report.images += len(found)
                        report.proposals += sum(len(image.scores) for image in found)
                        speed = report.images / (time.perf_counter() - start)
                        progress.set_postfix_str(f"{speed:.1f} images/s", refresh=False)
                    progress.update(batch.num_rows)
                    report.rows += batch.num_rows
                _check_claim(output_dir, claim)  # jobs that start at the same time see no notes of one another
                _write_copy(source, output_dir / source.name, features[source], proposals)
                report.files.append(output_dir / source.name)
    return report


def check_proposals(
    model: GromaForConditionalGeneration | GromaModel | GromaForRegionProposal, *dataset_dirs: str | os.PathLike
) -> None:
    """Check that folders of precomputed regions have those of a model, and all that the model could choose.

    Args:
        model (`GromaForConditionalGeneration`, `GromaModel` or `GromaForRegionProposal`): the model.
        *dataset_dirs (`str` or `Path`): folders that [`precompute_regions`] wrote.

    Raises:
        FileNotFoundError: a folder does not say whose proposals it holds.
        ValueError: the proposals are another detector's, or were kept with a higher threshold.
    """
    detector = model.model if isinstance(model, GromaForConditionalGeneration) else model
    fingerprint = detector_sha256(detector)
    limit = detector.config.box_score_threshold
    for dataset_dir in dataset_dirs:
        path = Path(dataset_dir) / NOTES_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: it says whose proposals the folder holds, and is written by `groma train "
                "precompute-regions`. Keep it beside the files."
            )
        notes = json.loads(path.read_text(encoding="utf-8"))
        if notes["detector_sha256"] != fingerprint:
            raise ValueError(
                f"{dataset_dir} holds proposals of another detector ({notes['model'] or 'without a name'}): its "
                f"vision encoder "
                "or region proposer has other weights or settings. Use that model, or precompute regions into another "
                "folder."
            )
        if notes["score_threshold"] > limit:
            raise ValueError(
                f"{dataset_dir} holds proposals with a score above {notes['score_threshold']:g}, but the model's "
                f"`box_score_threshold` is {limit:g}. Precompute regions again, into another folder."
            )


def detector_sha256(model: GromaModel | GromaForRegionProposal) -> str:
    """A fingerprint of all that makes proposals: the weights of vision encoder and region proposer, and some settings.

    Args:
        model (`GromaModel` or `GromaForRegionProposal`): with the weights on any device.

    Returns:
        `str`: 64 hexadecimal digits, the same for a detector and for a whole model that holds it.
    """
    settings = {name: getattr(model.config.proposer_config, name) for name in PROPOSER_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for part in DETECTOR_PARTS:
        for name, weight in sorted(model.get_submodule(part).state_dict().items()):
            digest.update(f"{part}.{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Picture(NamedTuple):
    """An image as it is stored, its key, and how an error names it."""

    key: bytes
    stored: Mapping[str, Any]
    name: str


class _Batch(NamedTuple):
    """Pictures that the detector runs on, and the rows of the file from the batch before up to the last of them."""

    pictures: list[_Picture]
    num_rows: int


class _DecodedBatch(NamedTuple):
    """The same with pixels `(B, 3, image_size, image_size)`; `None` without pictures."""

    keys: list[bytes]
    pixel_values: Tensor | None
    num_rows: int


class _Proposals(NamedTuple):
    """Of one image: normalized `cxcywh` boxes `(n, 4)` and scores `(n,)`, float32."""

    boxes: np.ndarray
    scores: np.ndarray


_NO_PROPOSALS = _Proposals(np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32))


def _split_files(dataset_dir: Path, split: str) -> list[Path]:
    if not dataset_dir.is_dir():
        raise FileNotFoundError(f"`dataset_dir` {dataset_dir} is not a folder. Pass one with files {split}*.parquet.")
    files = sorted(dataset_dir.glob(f"{split}*.parquet"))
    if not files:
        found = ", ".join(sorted(path.name for path in dataset_dir.glob("*.parquet"))[:5])
        raise FileNotFoundError(
            f"`dataset_dir` {dataset_dir} has no files {split}*.parquet; Parquet files there: {found or 'none'}. Name "
            f"the "
            "split with `split`."
        )
    return files


def _share_of(files: list[Path], shard: int | None, num_shards: int) -> list[Path]:
    if num_shards < 1:
        raise ValueError(f"`num_shards` must be at least 1, got {num_shards}.")
    if shard is None and num_shards > 1:
        raise ValueError(
            f"`shard` is missing: with `num_shards` {num_shards} say which of 0..{num_shards - 1} this is."
        )
    if shard is not None and not 0 <= shard < num_shards:
        raise ValueError(f"`shard` must be in 0..{num_shards - 1}, as there are {num_shards} shards, got {shard}.")
    return files[shard or 0 :: num_shards]


def _checked_features(source: Path) -> Features:
    features = Features.from_arrow_schema(pq.read_schema(source))
    try:
        check_columns(features, "conversation")
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if any(name in features for name in PROPOSAL_COLUMNS):
        raise ValueError(f"{source} has precomputed regions already. Pass the dataset that it was made of.")
    return features


def _check_copies(output_dir: Path, split: str, names: set[str]) -> None:
    """No file of the split is there that the dataset has not: it would be read with the copies."""
    for path in sorted(output_dir.glob(f"{split}*.parquet")):
        if (output_dir / NOTES_NAME).exists() and path.name not in names:
            raise ValueError(
                f"`output_dir` {output_dir} holds {path.name}, which is of another dataset and would be read with the "
                f"copies. Pass "
                "another folder, or remove it."
            )


def _claim_folder(
    output_dir: Path, detector: Detector, image_processor: BaseImageProcessor, threshold: float
) -> dict[str, Any]:
    """Note whose proposals a folder will hold, or check that it holds such ones; the notes."""
    notes = output_dir / NOTES_NAME
    # The path of a local folder stays private.
    name = Path(detector.name_or_path).name if Path(detector.name_or_path).exists() else detector.name_or_path
    claim = {
        "model": name,
        "detector_sha256": detector_sha256(detector),
        "image_processor_sha256": _image_processor_sha256(image_processor),
        "score_threshold": threshold,
    }
    if notes.exists():
        check_proposals(detector, output_dir)
        _check_claim(output_dir, claim)
        return claim
    others = sorted(path.name for path in output_dir.glob("*.parquet"))
    if others:
        raise ValueError(
            f"`output_dir` {output_dir} holds files without a {NOTES_NAME} ({others[0]}): they are no copies of this "
            f"program. "
            "Pass another folder."
        )
    write_file(notes, (json.dumps(claim, indent=2) + "\n").encode())
    return claim


def _check_claim(output_dir: Path, claim: Mapping[str, Any]) -> None:
    """Check that the notes of a folder are those of this run."""
    noted = json.loads((output_dir / NOTES_NAME).read_text(encoding="utf-8"))
    if noted["score_threshold"] != claim["score_threshold"]:
        raise ValueError(
            f"`output_dir` {output_dir} holds proposals with a score above {noted['score_threshold']:g}, but "
            f"`score_threshold` is "
            f"{claim['score_threshold']:g}. Pass {noted['score_threshold']:g}, or another folder."
        )
    for name, what in (("detector_sha256", "another detector"), ("image_processor_sha256", "another image processor")):
        if noted.get(name) != claim[name]:
            raise ValueError(f"`output_dir` {output_dir} holds proposals of {what}. Pass another folder.")


def _image_processor_sha256(image_processor: BaseImageProcessor) -> str:
    """A fingerprint of what makes pixels of images; which library does it is left out."""
    settings = image_processor.to_dict()
    for name in ("image_processor_type", "processor_class", "auto_map"):
        settings.pop(name, None)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _is_finished(source: Path, target: Path) -> bool:
    """Whether the copy of a file is there and whole; it must be one of this very file."""
    if not target.exists():
        return False
    notes = _source_notes(target)
    if not notes.exists():
        raise ValueError(
            f"{target} does not say what it is a copy of: it was written by an earlier version, or by another "
            f"program. Remove it, "
            "or pass another folder as `output_dir`."
        )
    noted = json.loads(notes.read_text(encoding="utf-8"))
    if noted["copy"] != footer_digest(target):
        return False  # killed between the two, or cut
    if noted["source_sha256"] != _file_sha256(source):
        raise ValueError(
            f"{target} is a copy of other rows than {source} has: it was made of another dataset. Pass another folder "
            f"as "
            "`output_dir`."
        )
    return True


def _source_notes(target: Path) -> Path:
    """Where it is noted which file a copy was made of."""
    return target.with_name(f".{target.stem}.source.json")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image_key(stored: Mapping[str, Any]) -> bytes:
    content = str(stored["path"]).encode() if stored["bytes"] is None else stored["bytes"]
    return hashlib.sha256(content).digest()


def _batches(source: Path, batch_size: int) -> Iterator[_Batch]:
    """The pictures of a file in batches, each picture once; together the batches cover all rows."""
    seen: set[bytes] = set()
    pictures: list[_Picture] = []
    row = num_rows = 0
    for table in pq.ParquetFile(source).iter_batches(COPIED_ROWS, columns=["image", "image_id"]):
        for stored, image_id in zip(table["image"].to_pylist(), table["image_id"].to_pylist(), strict=True):
            key = None if stored is None else _image_key(stored)
            if key is not None and key not in seen:
                seen.add(key)
                pictures.append(_Picture(key, stored, f"{source}, row {row} (image_id {image_id!r})"))
            row, num_rows = row + 1, num_rows + 1
            if len(pictures) == batch_size:
                yield _Batch(pictures, num_rows)
                pictures, num_rows = [], 0
    yield _Batch(pictures, num_rows)


def _decoder(image_processor: BaseImageProcessor, feature: Image) -> Callable[[_Batch], _DecodedBatch]:
    """Makes pixels of the pictures of a batch in the way in which a training gets them."""
    # Pictures that a dataset leaves undecoded are decoded here.
    feature = Image(mode=feature.mode)

    def decode(batch: _Batch) -> _DecodedBatch:
        if not batch.pictures:
            return _DecodedBatch([], None, batch.num_rows)
        images = []
        for picture in batch.pictures:
            try:
                images.append(feature.decode_example(picture.stored))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{picture.name}: the picture cannot be read ({error}). Remove the row.") from error
        pixel_values = image_processor(images, return_tensors="pt")["pixel_values"]
        return _DecodedBatch([picture.key for picture in batch.pictures], pixel_values, batch.num_rows)

    return decode


@torch.no_grad()
def _propose(detector: Detector, pixel_values: Tensor, threshold: float) -> list[_Proposals]:
    """What `select_regions` could ever choose from, for each image of `(B, 3, image_size, image_size)` pixels."""
    proposals = detector.detect(pixel_values).proposals
    boxes, scores = proposals.pred_boxes.float(), proposals.scores.float()
    kept = torch.ones_like(scores, dtype=torch.bool) if threshold == 0 else scores > threshold
    # The model falls back on the best proposal.
    finite = boxes.isfinite().all(dim=-1) & scores.isfinite()
    kept[torch.arange(len(kept)), scores.masked_fill(~finite, -1.0).argmax(dim=1)] = True
    # What is not finite is not a region, so it would never be chosen.
    kept &= finite
    boxes, scores, kept = (tensor.cpu().numpy() for tensor in (boxes, scores, kept))
    return [
        _Proposals(image_boxes[used], image_scores[used])
        for image_boxes, image_scores, used in zip(boxes, scores, kept, strict=True)
    ]


def _write_copy(source: Path, target: Path, features: Features, proposals: Mapping[bytes, _Proposals]) -> None:
    """Copy a file with two more columns; the copy appears when it is whole."""
    source_sha256 = _file_sha256(source)
    features = Features({**features, **PROPOSAL_FEATURES})
    with complete_file(target) as file:
        with ParquetWriter(features=features, stream=file) as writer:
            for rows in pq.ParquetFile(source).iter_batches(COPIED_ROWS):
                images = rows["image"].to_pylist()
                found = [_NO_PROPOSALS if stored is None else proposals[_image_key(stored)] for stored in images]
                table = pa.Table.from_batches([rows])
                for name, column in zip(PROPOSAL_COLUMNS, _arrow_columns(found), strict=True):
                    table = table.append_column(name, column)
                writer.write_table(table)
            writer.finalize(close_stream=False)
        file.flush()
        # The notes say which copy they are of, and come first: whatever a kill leaves behind is told from a finished
        # copy.
        notes = {"source_sha256": source_sha256, "copy": footer_digest(Path(file.name))}
        write_file(_source_notes(target), json.dumps(notes).encode())


def _arrow_columns(proposals: Sequence[_Proposals]) -> tuple[pa.Array, pa.Array]:
    """Boxes and scores of rows as lists of lists of 4, and lists."""
    offsets = pa.array(np.cumsum([0, *(len(row.scores) for row in proposals)]), pa.int32())
    corners = pa.array(np.concatenate([row.boxes.reshape(-1) for row in proposals]))
    scores = pa.array(np.concatenate([row.scores for row in proposals]))
    boxes = pa.FixedSizeListArray.from_arrays(corners, 4)
    return pa.ListArray.from_arrays(offsets, boxes), pa.ListArray.from_arrays(offsets, scores)


@dataclass
class PrecomputeArguments:
    """Arguments of the command line; see [`precompute_regions`].

    Args:
        model_name_or_path (`str`): a `GromaForRegionProposal`, or a whole Groma whose detector is taken.
        dataset_dir (`str`): folder with files `{split}*.parquet` of the conversation columns.
        output_dir (`str`): folder of the copies.
        split (`str`): which split.
        batch_size (`int`): images at a time.
        score_threshold (`float`, *optional*): keep proposals with a larger score; the model's own by default.
        shard (`int`, *optional*): take only every `num_shards`-th file, from this one on.
        num_shards (`int`): number of jobs that share the files.
        num_workers (`int`): threads that read pictures.
        device (`str`, *optional*): where to run.
    """

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a detector or of a whole Groma."})
    dataset_dir: str = field(metadata={"help": "Folder with files SPLIT*.parquet of the conversation columns."})
    output_dir: str = field(metadata={"help": "Folder of the copies; it takes the place of the dataset in a mixture."})
    split: str = field(default="train", metadata={"help": "Which split."})
    batch_size: int = field(default=16, metadata={"help": "Images at a time."})
    score_threshold: float | None = field(
        default=None, metadata={"help": "Keep proposals with a larger score; the model's own by default."}
    )
    shard: int | None = field(default=None, metadata={"help": "Take only every NUM_SHARDS-th file, from this one on."})
    num_shards: int = field(default=1, metadata={"help": "Number of jobs that share the files."})
    num_workers: int = field(default=4, metadata={"help": "Threads that read pictures."})
    device: str | None = field(default=None, metadata={"help": "Where to run; the accelerator if there is one."})


def main(argv: Sequence[str] | None = None) -> None:
    """Precompute the regions of a dataset.

    Args:
        argv (`Sequence[str]`, *optional*): arguments without the program's name; those of the process by default.

    Raises:
        FileNotFoundError, ValueError: see [`precompute_regions`].
    """
    (arguments,) = parse_arguments(
        (PrecomputeArguments,), argv, "groma train precompute-regions", __doc__.splitlines()[0]
    )
    # As every training loads it: the detector is float32, and of a whole Groma it is all we need.
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


__all__ = [
    "NOTES_NAME",
    "PROPOSAL_FEATURES",
    "PrecomputeArguments",
    "PrecomputeReport",
    "check_proposals",
    "detector_sha256",
    "precompute_regions",
]

if __name__ == "__main__":
    main()
