"""Benchmark: zero-shot classification, beside transformers' pipeline and beside the data flow of WCA's released code.

    python benchmarks/bench_zero_shot.py [--images 50] [--texts 200] [--view-images 32] [--views 60] [--rounds 3]
                                         [--threads 1] [--model FOLDER]

Each ratio is seconds of the baseline / our seconds, for the same images in the same run on the CPU, whose results are
compared first. They take turns, so that a slow moment of the machine hits all, and the fastest round of each counts.

- text_cached: `pipeline("zero-shot-image-classification")`, which encodes all texts again for each image, against
  [`CrossAlignmentClassifier`] on whole images, called as the pipeline is. Ours starts without any encoded text in each
  round, so that it encodes them once.
- views_against_one_by_one: all views of images, ours against one call of the image processor and one of the encoder
  for each view.
- views_against_released_flow: the same against the order of the released code, written anew here: each view of 32
  images is resized, cropped and normalized by itself, and all of them go through the encoder in one call. Its views
  are the same as ours here, so that features can be compared.

The encoder has random weights, as no time depends on them: the CLIP of `scripts/shapes_clip`, 0.4 million weights and
images of 64 pixels. With a large encoder on a CPU nearly all of the time is the encoder's, and views gain little: try
`--model`. Images are scenes of 224x224 pixels.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import print_result, seconds_of
from PIL import Image
from torch import Tensor
from transformers import pipeline

from transformers_groma.shapes.scenes import make_scene
from transformers_groma.zero_shot.classifier import CrossAlignmentClassifier
from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.view_features import encode_views
from transformers_groma.zero_shot.view_sources import views_of_images
from transformers_groma.zero_shot.views import BOUNDS, Views

REPOSITORY = Path(__file__).parents[1]
TEMPLATE = "This is a photo of {}."
# Images that the released code has in one call of the encoder, with all of their views.
RELEASED_BATCH = 32
TOLERANCE = 1e-5


def small_encoder(folder: Path) -> Path:
    """Write shapes-clip with random weights."""
    sys.path.append(str(REPOSITORY))
    from scripts.shapes_clip.build import build_model, build_processor

    processor = build_processor()
    processor.save_pretrained(folder)
    build_model(processor).save_pretrained(folder)
    return folder


def texts_of_shapes(count: int) -> list[str]:
    """Different descriptions of 10 to 17 words, as CuPL's are long."""
    sys.path.append(str(REPOSITORY))
    from scripts.shapes_clip.texts import descriptions

    ends = ("on a light background", "on a dark background with small round spots", "up close")
    sentences = [text.rstrip(".") for texts in descriptions().values() for text in texts]
    # Close-ups of shapes of one color and texture have one sentence.
    texts = list(dict.fromkeys(f"{text} {end}" for end in ends for text in sentences))
    if count > len(texts):
        raise ValueError(f"`count` must be at most {len(texts)}, got {count}.")
    return texts[:count]


def images_of_shapes(count: int) -> list[Image.Image]:
    return [make_scene(0, "test", index, 224).draw() for index in range(count)]


def one_by_one(encoder: DualEncoder, images: Sequence[Image.Image], places: Sequence[Views]) -> Tensor:
    """Features of whole images and their views `(B, 1 + V, D)`, each view by itself."""
    return torch.stack(
        [
            torch.cat(
                [
                    _encoded(encoder, encoder.image_processor(images=[view], return_tensors="pt")["pixel_values"])
                    for view in _whole_and_views(image, place)
                ]
            )
            for image, place in zip(images, places, strict=True)
        ]
    )


def released_flow(encoder: DualEncoder, images: Sequence[Image.Image], places: Sequence[Views]) -> Tensor:
    """Features of whole images and their views `(B, 1 + V, D)`, prepared one by one and encoded all together."""
    processor = encoder.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    size = processor.crop_size["height"]

    def prepared(view: Image.Image) -> Tensor:
        short = min(view.size)
        sides = tuple(int(size * side / short) for side in view.size)
        resized = view.resize(sides, Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in sides)
        pixels = np.array(resized.crop((left, top, left + size, top + size)).convert("RGB"))
        return (torch.from_numpy(pixels).permute(2, 0, 1).float().div(255) - mean) / std

    features = []
    for start in range(0, len(images), RELEASED_BATCH):
        some = zip(images[start : start + RELEASED_BATCH], places[start : start + RELEASED_BATCH], strict=True)
        batch = torch.stack([torch.stack(list(map(prepared, _whole_and_views(*pair)))) for pair in some])
        features.append(_encoded(encoder, batch.flatten(0, 1)).unflatten(0, batch.shape[:2]))
    return torch.cat(features)


def ours(encoder: DualEncoder, images: Sequence[Image.Image], places: Sequence[Views]) -> Tensor:
    """Features of whole images and their views `(B, 1 + V, D)`, as the classifier makes them."""
    features = encode_views(encoder, images, places)
    return torch.cat([features.whole[:, None], features.views], dim=1)


def _whole_and_views(image: Image.Image, place: Views) -> list[Image.Image]:
    return [image, *(image.crop(tuple(box)) for box in place.xyxy.tolist())]


def _encoded(encoder: DualEncoder, pixel_values: Tensor) -> Tensor:
    features = encoder.model.get_image_features(pixel_values=pixel_values).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


def by_label(results: list[list[dict[str, Any]]], labels: Sequence[str]) -> np.ndarray:
    """Probabilities `(B, C)` in the order of the labels."""
    return np.array(
        [[scores[label] for label in labels] for scores in ({r["label"]: r["score"] for r in one} for one in results)]
    )


def text_seconds(
    folder: Path, encoder: DualEncoder, images: list[Image.Image], labels: list[str], rounds: int
) -> dict:
    """Seconds of the library's pipeline and ours for the same images and candidate labels."""
    pipe = pipeline("zero-shot-image-classification", str(folder), device="cpu")
    classifier = CrossAlignmentClassifier.from_encoder(encoder, views=None)

    def of_pipeline() -> list:
        return pipe(images, candidate_labels=labels, hypothesis_template=TEMPLATE)

    def of_ours() -> list:
        encoder.forget_texts()
        return classifier(images, candidate_labels=labels, hypothesis_template=TEMPLATE)

    # Also warms both up.
    np.testing.assert_allclose(by_label(of_ours(), labels), by_label(of_pipeline(), labels), atol=TOLERANCE)
    return seconds_of({"pipeline": of_pipeline, "ours": of_ours}, rounds, warm_up=False, progress=False)


def view_seconds(encoder: DualEncoder, images: list[Image.Image], count: int, rounds: int) -> dict[str, float]:
    """Seconds of each way to encode the same views of images."""
    places = views_of_images(images, "random", count=count, seed=0, bounds=BOUNDS)
    ways = {"one_by_one": one_by_one, "released_flow": released_flow, "ours": ours}
    features = {name: way(encoder, images, places) for name, way in ways.items()}
    for name in ("one_by_one", "released_flow"):
        torch.testing.assert_close(features["ours"], features[name], atol=TOLERANCE, rtol=0)
    calls = {name: (lambda way=way: way(encoder, images, places)) for name, way in ways.items()}
    return seconds_of(calls, rounds, warm_up=False, progress=False)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50, help="whole images, beside the pipeline")
    parser.add_argument("--texts", type=int, default=200, help="candidate labels of these")
    parser.add_argument("--view-images", type=int, default=32, help="images whose views are encoded")
    parser.add_argument("--views", type=int, default=60, help="of each of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--model", type=Path, help="folder of another CLIP")
    given = parser.parse_args()
    if min(given.images, given.texts, given.view_images, given.views, given.rounds, given.threads) < 1:
        parser.error("all numbers must be at least 1")
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.model or small_encoder(Path(temporary))
        encoder = DualEncoder.from_pretrained(str(folder), device="cpu", dtype="float32")
        texts = text_seconds(
            folder, encoder, images_of_shapes(given.images), texts_of_shapes(given.texts), given.rounds
        )
        views = view_seconds(encoder, images_of_shapes(given.view_images), given.views, given.rounds)
    print(f"{given.images} images, {given.texts} texts: seconds")
    for name, value in texts.items():
        print(f"  {name:14s} {value:8.3f} {value / texts['ours']:7.2f}x")
    print(f"{given.view_images} images, {given.views} views each and the whole image: seconds")
    for name, value in views.items():
        print(f"  {name:14s} {value:8.3f} {value / views['ours']:7.2f}x")
    ratios = {
        "text_cached": texts["pipeline"] / texts["ours"],
        "views_against_one_by_one": views["one_by_one"] / views["ours"],
        "views_against_released_flow": views["released_flow"] / views["ours"],
    }
    seconds = {f"texts: {name}": value for name, value in texts.items()}
    seconds |= {f"views: {name}": value for name, value in views.items()}
    print_result("zero_shot", ratios, seconds, torch=torch.__version__)


if __name__ == "__main__":
    main()
