"""Annotates a source with a model, shard by shard: finished shards stay, the others are made, here or by Ray's actors.

The files do not depend on the engine, nor on how often the run was interrupted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .._locks import one_writer
from .._words import counted
from ..data.annotation_columns import repeated_values
from ..data.ray_actors import ActorOptions, EngineName, run_on_actors
from ..data.write_report import WriteReport
from .annotator import Annotator
from .gallery import write_gallery
from .models import AnnotatingModel
from .output_folder import REPORT, OutputFolder
from .shard_run import ShardJob, run_shard
from .sources.source_images import SourceShard

PLAIN, RAY = "plain", "ray"


@dataclass(frozen=True)
class AnnotationRun:
    """All that a run is about.

    Args:
        model (`AnnotatingModel`): the model, and what it is asked.
        shards (`Sequence[SourceShard]`): of the source.
        output (`Path`): the output folder.
        settings (`Mapping[str, Any]`): what the rows depend on, by the names of options.
        engine (`str`): `"plain"` or `"ray"`.
        actors (`ActorOptions`): of Ray.
        part (`tuple[int, int]`, *optional*): `(i, n)`: every n-th shard, from the i-th on, for several machines.
        seed (`int`, *optional*): makes sampled answers repeatable.
        overwrite (`bool`): whether what the folder holds is replaced.
        gallery (`int`): how many of the first images are drawn.
    """

    model: AnnotatingModel
    shards: Sequence[SourceShard]
    output: Path
    settings: Mapping[str, Any]
    engine: EngineName = PLAIN
    actors: ActorOptions = field(default_factory=lambda: ActorOptions(1))
    part: tuple[int, int] | None = None
    seed: int | None = None
    overwrite: bool = False
    gallery: int = 0

    @property
    def folder(self) -> OutputFolder:
        """The output folder."""
        return OutputFolder(self.output, len(self.shards))

    @property
    def indices(self) -> list[int]:
        """The shards that this run makes."""
        first, step = self.part or (0, 1)
        return list(range(first, len(self.shards), step))


@dataclass(frozen=True)
class RunOutcome:
    """What a run has done.

    Args:
        report (`WriteReport`): of all finished shards, those of other runs included.
        new_images (`int`): how many images this run has gone through.
        seconds (`float`): how long that took, the loading of the model not counted in the plain engine.
        unfinished (`int`): shards that are not finished yet, which other runs may be making.
        repeated_ids (`Sequence[str]`): ids of images that several shards have.
    """

    report: WriteReport
    new_images: int
    seconds: float
    unfinished: int
    repeated_ids: Sequence[str] = ()

    def lines(self, output: Path) -> list[str]:
        """What a person wants to know, a line each."""
        rate = f", {self.new_images / self.seconds:.3g} images/s" if self.new_images and self.seconds > 0 else ""
        lines = [
            f"{counted(self.report.rows, 'image')} annotated, {counted(self.new_images, 'image')} in this run{rate}; "
            f"files in {output}"
        ]
        if count := sum(self.report.skipped.values()):
            lines.append(f"{counted(count, 'image')} left out; {output / REPORT} has the reasons:")
        elif self.report.parts:
            lines.append(f"parts of images were left out; {output / REPORT} has the reasons:")
        lines += [f"  {line}" for line in self.report.told()]
        if self.unfinished:
            lines.append(f"{counted(self.unfinished, 'shard')} not finished yet, which other parts make")
        if self.repeated_ids:
            lines.append(
                f"{counted(len(self.repeated_ids), 'image_id')} in several shards, for example "
                f"{self.repeated_ids[0]!r}: their rows are all there, but `groma export` takes the first of each. "
                "--id-column names a column with other ids."
            )
        return lines


def run_annotation(run: AnnotationRun) -> RunOutcome:
    """Annotate what is not annotated yet.

    Args:
        run (`AnnotationRun`): the run.

    Returns:
        `RunOutcome`: what is done.

    Raises:
        FileExistsError: the output folder holds annotations of something else, and `overwrite` is not set.
        OutputError: it cannot be written, or another process is writing it.
        ValueError, OSError: the model cannot be loaded, or cannot do what it is asked.
        ImportError, ActorError: Ray is not installed, or its actors cannot work.
    """
    folder = run.folder
    part = None if run.part is None else f"{run.part[0]:05d}-of-{run.part[1]:05d}"
    if not run.overwrite:
        folder.check(run.settings, run.shards)
    with ExitStack() as stack:
        # The lock makes the folder: not before it is known that it may be written.
        stack.enter_context(one_writer(run.output, "annotate", part))
        model = _LoadedOnce(run.model)
        if run.overwrite:
            if run.engine == PLAIN:
                model()  # one that cannot be loaded costs nothing
            folder.clear()
        folder.begin(run.settings, run.shards)
        folder.check(run.settings, run.shards)  # a process that began at the same time may have noted others
        if run.part is None:
            folder.remove_journals()
        pending = [index for index in run.indices if folder.report(index) is None]
        output, count = run.output.absolute(), len(run.shards)
        jobs = [ShardJob(index, run.shards[index], output, count, run.seed) for index in pending]
        new_images, seconds = _run_jobs(run, jobs, model)
        report, unfinished = folder.write_report()
        # Each shard knows its own ids alone.
        files = [] if unfinished else [folder.shard(index) for index in range(count)]
        repeated_ids = repeated_values(files, "image_id") if len(files) > 1 else []
        if run.gallery:
            write_gallery(folder, run.shards, run.gallery)
    return RunOutcome(report, new_images, seconds, unfinished, repeated_ids)


def _run_jobs(run: AnnotationRun, jobs: Sequence[ShardJob], model: "_LoadedOnce") -> tuple[int, float]:
    """Run the jobs that are pending; returns how many images were new, and how long that took."""
    counts = [job.shard.count for job in jobs]
    total = None if None in counts else sum(counts)
    description = f"annotate ({len(jobs)} of {len(run.shards)} shards)"
    done = [0] * len(jobs)
    is_known = [False] * len(jobs)
    earlier = 0
    outcomes = _outcomes_of_ray(run, jobs) if run.engine == RAY else _outcomes_here(jobs, model)
    with tqdm(total=total, desc=description, unit="image", disable=not jobs) as progress:
        for index, count in outcomes:
            # The first count of a shard is what earlier runs have done; of a shard that begins again it may be less.
            new = count - done[index]
            if not is_known[index]:
                is_known[index] = True
                earlier += new
                progress.initial += new
            progress.update(new)
            done[index] = count
    return sum(done) - earlier, time.monotonic() - model.ready


class _LoadedOnce:
    """A model that is loaded when it is first needed."""

    def __init__(self, model: AnnotatingModel) -> None:
        self._model = model
        self._loaded: Annotator | None = None
        self.ready = time.monotonic()  # since when it works

    def __call__(self) -> Annotator:
        if self._loaded is None:
            self._loaded = self._model.load()
            self.ready = time.monotonic()
        return self._loaded


def _outcomes_here(jobs: Sequence[ShardJob], model: _LoadedOnce) -> Iterator[tuple[int, int]]:
    for index, job in enumerate(jobs):
        for count in run_shard(job, model):
            yield index, count


def _outcomes_of_ray(run: AnnotationRun, jobs: Sequence[ShardJob]) -> Iterator[tuple[int, int]]:
    yield from run_on_actors(partial(make_shard_worker, run.model), jobs, run.actors)
    for job in jobs:
        if job.folder.report(job.index) is None:
            raise FileNotFoundError(
                f"{job.folder.shard(job.index)} was written by an actor, but is not here. OUT must be in a file "
                "system that all machines of the cluster share."
            )


def make_shard_worker(model: AnnotatingModel) -> Callable[[ShardJob], Iterator[int]]:
    """What an actor of Ray does with a shard; its model is loaded once."""
    return partial(_run_shard_with, _LoadedOnce(model))


def _run_shard_with(model: _LoadedOnce, job: ShardJob) -> Iterator[int]:
    return run_shard(job, model)


__all__ = ["AnnotationRun", "RunOutcome", "make_shard_worker", "run_annotation"]
