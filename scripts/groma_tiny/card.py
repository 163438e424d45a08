"""The model card of groma-tiny, for `train_groma_tiny.py`: what it is, how it was trained, what it can do."""

from collections.abc import Mapping
from typing import Any

from transformers_groma import GromaForConditionalGeneration

# Figure, how it is called in the figures of `evaluate_shapes`, what it means.
FIGURES = (
    ("detection", "recall@0.5", "region proposals: objects with a region at IoU 0.5"),
    ("detection", "ar@100", "region proposals: average recall over IoU 0.50:0.95, all regions (at most 30)"),
    ("detection", "regions_per_image", "region proposals: regions an image"),
    ("rec", "acc@0.5", "referring expressions: the first box is right (IoU over 0.5)"),
    ("region-caption", "exact_match", "region descriptions right to the word"),
    ("grounding", "f1@0.5", "all objects of a kind: F1 at IoU 0.5"),
    ("grounded-caption", "phrases_right", "grounded captions: phrases on a box of an object of which they are true"),
)
STEPS = {
    "data": "scenes",
    "language": "language model alone",
    "vision": "vision encoder alone",
    "detection": "stage 1, detection",
    "alignment": "stage 2, alignment",
    "sft": "stage 3, instruction",
    "figures": "figures",
}
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- groma
- visual-grounding
- region-proposal
language:
- en
---

# groma-tiny

A [Groma](https://arxiv.org/abs/2404.13013) in miniature, for demos, tests and first steps on a CPU. It really points: it was trained,
with the three stages of the paper, on **synthetic scenes of coloured shapes**. On photos its regions are often sensible, and its words
are not: it knows ten shapes, ten colours, "small" and "large", "striped" and "dotted", "left" and "right", and nothing else.

```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("hub_configs/groma-tiny")
processor = AutoProcessor.from_pretrained("hub_configs/groma-tiny")
image = Image.open("photo.jpg")
inputs = processor(images=image, text="What is <region>?", boxes=[[40, 30, 200, 180]], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=20, return_dict_in_generate=True)
size = (image.height, image.width)
answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[size])[0]
answer.draw(image).save("answer.png")
```

Boxes are `[x1, y1, x2, y2]` in pixels of the image, unless `box_format` or `normalized` says otherwise.

## What it can do

On {rows} test scenes a task, of seeds and a split that training never saw:

{figures}

The metadata holds what `make evaluate-tiny` measured: all benchmarks of `groma evaluate`. That of LLaVA-Bench asks open questions about
test scenes; its judge is a program that counts right words (`scripts/groma_tiny/llava_bench.py`), no language model, so its scores
compare with those of no other judge.

## How it was trained

`make train-tiny`, on 2 CPU cores, from random weights, seed 0. Minutes of each step, on a machine that did other work, too:

{seconds}

What differs from the paper, because nothing here was pretrained: before the stages the language model learns alone, in words, to look up
which region a phrase fits (`scripts/groma_tiny/pretrain_language_model.py`), and the vision encoder learns alone to say of each patch what
it shows (`scripts/groma_tiny/pretrain_vision_encoder.py`). It learns on in stage 1, at a
tenth of the learning rate. The language model learns on in stage 3, as in the paper.
Recipes: `hub_configs/recipes/tiny/`. Scenes: `groma data shapes`.

## What it is

| part | |
|---|---|
| vision encoder | DINOv2, {image_size} pixels, patches of {patch_size}, width {vision_width}, {vision_layers} layers |
| region proposer | Deformable DETR, {levels} level, width {proposer_width}, {queries} queries |
| region encoder | ROIAlign {roi}x{roi} on three fused maps, right geometry (`roi_box_format` "xyxy") |
| language model | Llama, width {text_width}, {text_layers} layers, {vocabulary} tokens |
| tokenizer | byte-level BPE, learned from the sentences and words in `build_groma_tiny.py`, and `<r0>` … `<r{last_region}>` |
| parameters | {parameters:,} |

The weights are stored in bfloat16 to keep the file small; the config asks for float32, which is faster on most CPUs.
"""


def tiny_card(
    model: GromaForConditionalGeneration,
    figures: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    rows: int,
) -> str:
    """Write the card.

    Args:
        model (`GromaForConditionalGeneration`): as shipped.
        figures (`Mapping`): of `evaluate_shapes`.
        seconds (`Mapping`): of each finished step.
        rows (`int`): test scenes a task.

    Returns:
        `str`: Markdown with metadata.
    """
    config = model.config
    table = [f"| {meaning} | {figures[task][name]:.3f} |" for task, name, meaning in FIGURES]
    times = [f"| {meaning} | {seconds[step] / 60:.0f} |" for step, meaning in STEPS.items() if step in seconds]
    return CARD.format(
        rows=rows,
        figures="\n".join(["| figure | |", "|---|---|", *table]),
        seconds="\n".join(["| step | minutes |", "|---|---|", *times]),
        image_size=config.vision_config.image_size,
        patch_size=config.vision_config.patch_size,
        vision_width=config.vision_config.hidden_size,
        vision_layers=config.vision_config.num_hidden_layers,
        levels=config.proposer_config.num_feature_levels,
        proposer_width=config.proposer_config.d_model,
        queries=config.proposer_config.num_queries,
        roi=config.region_encoder_config.roi_output_size,
        text_width=config.text_config.hidden_size,
        text_layers=config.text_config.num_hidden_layers,
        vocabulary=config.text_config.vocab_size,
        last_region=config.max_regions - 1,
        parameters=model.num_parameters(),
    )
