"""Benchmark: groma-tiny annotates a folder with `groma annotate`, against a plain loop over the pipeline.

    python benchmarks/bench_annotation.py [--images 64] [--batch-size 8] [--repeats 3] [--threads 1]

Both caption each image and locate two phrases in it. The baseline is what one would write first: open an image, call
`caption` and `locate_all`, take the next. The command reads ahead in threads, looks at each image once for all
questions, and answers them in batches; it also keeps its journal and writes Parquet. The model is loaded before the
clocks start, and the two take turns, so that a slow moment of the machine hits both; the fastest turn of each counts.
The texts are compared: batches must not change them.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import print_result
from PIL import Image

from transformers_groma import ImageGroundingPipeline
from transformers_groma.annotation.annotator import Annotator
from transformers_groma.annotation.shard_run import ShardJob, run_shard
from transformers_groma.annotation.sources.image_folder import image_folder_shards
from transformers_groma.annotation.tasks import AnnotationTasks
from transformers_groma.data.annotation_columns import read_annotations
from transformers_groma.shapes.scenes import make_scene

MODEL = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
IMAGE_SIZE = 224
PHRASES = ("striped stars", "circles")
MAX_NEW_TOKENS = 128


def write_images(folder: Path, count: int) -> None:
    """A folder of scenes."""
    for index in range(count):
        make_scene(0, "test", index, IMAGE_SIZE).draw().save(folder / f"{index:05d}.png")


def one_by_one(pipe: ImageGroundingPipeline, folder: Path) -> dict[str, list[str]]:
    """The loop: an image, its caption, its phrases."""
    texts = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            caption = pipe.caption(image, max_new_tokens=MAX_NEW_TOKENS)
            found = [pipe.locate_all(image, phrase, max_new_tokens=MAX_NEW_TOKENS) for phrase in PHRASES]
        texts[path.name] = [caption.text, *(str(phrase.region_ids) for phrase in found)]
    return texts


def annotated(annotator: Annotator, folder: Path, output: Path) -> dict[str, list[str]]:
    """The command, but for loading the model."""
    (shard,) = image_folder_shards(folder, 1_000_000)
    for _ in run_shard(ShardJob(0, shard, output, 1), lambda: annotator):
        pass
    return {
        image.image_id: [image.text, *(str(found.region_ids) for found in image.located)]
        for image in read_annotations(output)
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers of the benchmark."""
    pipe = ImageGroundingPipeline.from_pretrained(MODEL, device="cpu")
    tasks = AnnotationTasks(caption="detailed", phrases=PHRASES)
    generation = {"max_new_tokens": MAX_NEW_TOKENS}
    annotator = Annotator(pipe.model, pipe.processor, tasks, arguments.batch_size, generation)
    seconds: dict[str, list[float]] = {"one_by_one": [], "annotate": []}
    cpu: dict[str, list[float]] = {"one_by_one": [], "annotate": []}
    with tempfile.TemporaryDirectory() as place:
        images, output = Path(place, "images"), Path(place, "output")
        images.mkdir()
        write_images(images, arguments.images)
        for turn in range(arguments.repeats + 1):
            shutil.rmtree(output, ignore_errors=True)
            texts = {}
            for name, run in (
                ("one_by_one", lambda: one_by_one(pipe, images)),
                ("annotate", lambda: annotated(annotator, images, output)),
            ):
                start, cpu_start = time.perf_counter(), time.process_time()
                texts[name] = run()
                if turn:  # the first of each warms up
                    seconds[name].append(time.perf_counter() - start)
                    cpu[name].append(time.process_time() - cpu_start)
            rates = {name: arguments.images / values[-1] for name, values in seconds.items() if values}
            print("  ".join(f"{name} {rate:.2f} images/s" for name, rate in rates.items()) or "warmed up", flush=True)
    differing = sum(texts["one_by_one"][name] != texts["annotate"][name] for name in texts["annotate"])
    fastest = {name: min(values) for name, values in seconds.items()}
    return {
        "ratios": {
            "annotate_against_one_by_one": fastest["one_by_one"] / fastest["annotate"],
            "annotate_against_one_by_one_cpu_seconds": min(cpu["one_by_one"]) / min(cpu["annotate"]),
        },
        "seconds": fastest,
        "images_per_second": {name: arguments.images / value for name, value in fastest.items()},
        "images": arguments.images,
        "batch_size": arguments.batch_size,
        "questions_per_image": 1 + len(PHRASES),
        "images_whose_answers_differ": differing,
    }


def main() -> None:
    """Run the benchmark and print one JSON line at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print_result("annotation", **measure(arguments))


if __name__ == "__main__":
    main()
