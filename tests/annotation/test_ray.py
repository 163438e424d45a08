"""`--engine ray`: two actors write the same bytes as one process, also where one of them is killed."""

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from transformers_groma.annotation.job import make_shard_worker
from transformers_groma.annotation.models import AnnotatingModel
from transformers_groma.annotation.shard_run import ShardJob
from transformers_groma.annotation.sources.image_folder import ImageFolderShard, image_folder_shards
from transformers_groma.annotation.tasks import AnnotationTasks
from transformers_groma.data.ray_actors import ActorOptions, run_on_actors

from ..local_ray import local_ray
from .samples import TINY, files_of, write_photos

pytestmark = pytest.mark.slow  # Ray takes long to start, and gives up on a busy machine


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with local_ray() as ray:
        yield ray


def test_two_actors_write_the_same_bytes(annotate, tmp_path):
    photos = write_photos(tmp_path / "photos", 12)
    (photos / "bad.png").write_bytes(b"")
    options = ("--caption", "--locate", "circles", "--masks", "--max-new-tokens", "16", "--shard-size", "3")
    code, said = annotate(photos, tmp_path / "plain", *options)
    assert code == 0, said
    code, said = annotate(photos, tmp_path / "ray", *options, "--engine", "ray", "--actors", "2")
    assert code == 0 and "12 images annotated, 13 images in this run" in said, said
    assert len(files_of(tmp_path / "ray")) == 5
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "plain")
    # All is finished: nothing starts.
    code, said = annotate(photos, tmp_path / "ray", *options, "--engine", "ray", "--actors", "2")
    assert code == 0 and "0 images in this run" in said, said


def test_the_error_of_an_actor_is_one_sentence(annotate, tmp_path):
    photos = write_photos(tmp_path / "photos", 1)
    options = ("--proposals", "--engine", "ray", "--device", "cuda:7")
    code, said = annotate(photos, tmp_path / "out", *options)
    assert code == 2, said
    assert said.strip().splitlines()[-1].startswith("groma annotate: error: --device 'cuda:7' cannot be used ("), said


@dataclass(frozen=True)
class Killing:
    """A shard whose third image kills the process that reads it, once."""

    shard: ImageFolderShard
    marker: Path

    name, count, state = "killing", 4, ""

    def images(self, start=0):
        for index, image in enumerate(self.shard.images(start), start):
            if index == 2 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield image


def test_the_shard_of_a_killed_actor_is_done_again(tmp_path):
    (shard,) = image_folder_shards(write_photos(tmp_path / "photos", 4), 10)
    model = AnnotatingModel(str(TINY), AnnotationTasks(proposals=True), 1, device="cpu")
    jobs = [
        ShardJob(0, Killing(shard, tmp_path / "killed"), tmp_path / "out", 2),
        ShardJob(1, shard, tmp_path / "out", 2),
    ]
    counts = list(run_on_actors(partial(make_shard_worker, model), jobs, ActorOptions(2, 0.5)))
    assert (tmp_path / "killed").exists()
    assert [count for index, count in counts if index == 0][-1] == 4
    files = files_of(tmp_path / "out")
    assert files["train-00000-of-00002.parquet"] == files["train-00001-of-00002.parquet"]
