"""Builds what the Hub repositories of the three released checkpoints hold beside weights and tokenizer.

    python -m scripts.build_released_configs [FOLDER]

`groma convert` writes the same configuration, processor and chat template, from the released files. FOLDER is
`hub_configs` by default.
"""

import sys
from pathlib import Path

from transformers import GenerationConfig, LlamaTokenizer

from transformers_groma import GromaConfig, GromaImageProcessorPil, GromaProcessor, GromaRegionProposalConfig
from transformers_groma.models.groma.convert_groma_checkpoint import LEGACY_ROI_STRIDES
from transformers_groma.models.groma.tokenization_groma import add_groma_tokens, groma_tokens

# Vicuna-7B v1.5
BOS_TOKEN_ID, EOS_TOKEN_ID, NUM_BASE_TOKENS = 1, 2, 32000

CARD_HEAD = """\
---
license: {license}
library_name: transformers
pipeline_tag: {pipeline_tag}
tags:
- groma
- {tag}
language:
- en
base_model:
- {base_models}
---

# {name}

{what}

This folder holds everything but the weights{and_tokenizer}. They come from the released checkpoint, converted:

```bash
pip install transformers-groma
hf download FoundationVision/{source} --local-dir original
groma convert original {name}
```

`groma convert` also writes {written}. The converted model gives the
numbers of the original code, whose faults are kept where the weights depend on them (see "Geometry").
"""

GROMA_USE = """
## Use

```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{name}", dtype="auto", device_map="auto")
processor = AutoProcessor.from_pretrained("{name}")

image = Image.open("photo.jpg")
inputs = processor(images=image, text="[grounding]What is <region> doing?", boxes=[[40, 30, 200, 180]], return_tensors="pt")
output = model.generate(**inputs.to(model.device), max_new_tokens={max_new_tokens}, return_dict_in_generate=True)
size = (image.height, image.width)
answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[size])[0]
print(answer.text, answer.phrases)  # each phrase with its boxes
answer.draw(image).save("answer.png")
```

**Boxes** are `[x1, y1, x2, y2]` in pixels of the upright image, before any resizing, in questions and in answers. For
questions `box_format` ("xywh", "cxcywh") and `normalized=True` change that. The model's own inputs and outputs
(`refer_boxes`, `region_boxes`) are centre, width and height as fractions (0..1) of the image.

**Prompt.** A conversation in the style of Vicuna v1, in which an image is always shown in a first turn of its own:

```
<s>A chat between a curious user and … USER: Here is an image with region crops from it. Image: <image>. Regions:
<r0><image><r1><image>…. ASSISTANT: Thank you for the image! How can I assist you with it?</s>USER: [question] ASSISTANT:
```

The chat template and the processor write it; the question is all that you write. `<region>` in it stands for a box that
you point at, in the order of `boxes`. `[grounding]` in front asks for an answer tied to boxes, in which the model writes
`<p>the red cup</p> <roi><r3></roi>`: phrase and region.
"""

DETECTOR_USE = """
## Use

```python
import transformers_groma  # registers Groma with the Auto classes
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForObjectDetection

model = AutoModelForObjectDetection.from_pretrained("{name}", dtype="auto", device_map="auto")
image_processor = AutoImageProcessor.from_pretrained("{name}")

inputs = image_processor(Image.open("photo.jpg"), return_tensors="pt").to(model.device)
proposals = model.propose_regions(inputs["pixel_values"])
boxes = proposals.boxes[0][proposals.mask[0]]  # best first
```

**Boxes** are centre x, centre y, width and height as fractions (0..1) of the image. There are no classes: the score says
how likely a box holds anything, fused from two heads, `coco ** 0.4 * sa1b ** 0.6`. `model(pixel_values, labels=…)` gives
the loss of training stage 1; each image's `source` ("coco" or "sa1b") says which head learns from it.

**Prompt.** None: the detector reads no text. `transformers_groma.assemble_components` joins it with a language model.
"""

GROMA_GEOMETRY = """
## Geometry

The original code has three faults that its weights were trained with and depend on, so the configuration of a converted
checkpoint keeps them. Do not change these values without training.

| value here | what it means | right, and the default for new models |
|---|---|---|
| `region_encoder_config.roi_box_format` "cxcywh" | centre and size are fed to ROIAlign as if they were corners | "xyxy" |
| `region_encoder_config.roi_strides` [1.75, 3.5, 7] | coordinates on the feature maps are doubled | [3.5, 7, 14] |
| `proposer_config.refine_reference_points` false | all decoder layers sample around the encoder's proposals | true |
"""

DETECTOR_GEOMETRY = """
## Geometry

The weights were trained with `proposer_config.refine_reference_points` false: all decoder layers sample around the encoder's
proposals. In the paper, and by default in new models, each layer starts from the boxes of the layer before. Do not change
the value without training.
"""

CARD_TAIL = """
## Limits

{limits}

## Figures

{figures}

## License and citation

{license_text} Configuration files and code: Apache-2.0.

```bibtex
@misc{{ma2024groma,
  title={{Groma: Localized Visual Tokenization for Grounding Multimodal Large Language Models}},
  author={{Chuofan Ma and Yi Jiang and Jiannan Wu and Zehuan Yuan and Xiaojuan Qi}},
  year={{2024}},
  eprint={{2404.13013}},
  archivePrefix={{arXiv}},
  primaryClass={{cs.CV}}
}}
```
"""

IMAGE_LIMITS = """\
- Images are resized to 448x448 whatever their aspect ratio. Small objects suffer from it."""
GROMA_LIMITS = f"""\
- One image a conversation. English.
{IMAGE_LIMITS}
- At most 100 regions an image. The model can only point at regions that its detector proposed or that you gave it.
- As any language model it invents things; that a phrase is tied to a box does not make it true."""
VICUNA_LICENSE = (
    "The original project is released under Apache-2.0. Its language model comes from Vicuna-7B v1.5, which is under "
    "the "
    "Llama 2 Community License; those terms apply to the weights."
)

PAPER_FIGURES = """\
As published in the [paper](https://arxiv.org/abs/2404.13013); **not measured with this package**.

| referring expressions, accuracy at IoU 0.5 | val | test / testA | testB |
|---|---|---|---|
| RefCOCO | 89.53 | 92.09 | 86.26 |
| RefCOCO+ | 83.90 | 88.91 | 78.05 |
| RefCOCOg | 86.37 | 87.01 | |

Average of the eight: 86.52.

| LVIS-Ground, average recall | AR | AR@0.5 | AR@0.75 | small | medium | large |
|---|---|---|---|---|---|---|
| | 28.8 | 37.9 | 30.3 | 8.7 | 35.6 | 64.3 |

| region captioning | METEOR | CIDEr |
|---|---|---|
| RefCOCOg | 16.8 | 107.3 |
| Visual Genome | 19.0 | 158.4 |

| LLaVA-Bench (COCO), relative scores by GPT-4 | conversation | description | reasoning | average |
|---|---|---|---|---|
| | 82.6 | 84.0 | 88.8 | 85.2 |"""

CARDS = {
    "groma-7b": {
        "source": "groma-7b-finetune",
        "what": "[Groma](https://arxiv.org/abs/2404.13013)-7B, the final model (training stage 3): a language model "
        "that reads "
        "an image, takes boxes in questions and ties phrases of its answers to boxes. DINOv2-L, a region proposer, a "
        "region encoder and Vicuna-7B v1.5; 7.38 billion parameters.",
        "base_models": ["FoundationVision/groma-7b-finetune", "lmsys/vicuna-7b-v1.5", "facebook/dinov2-large"],
        "max_new_tokens": 256,
        "limits": GROMA_LIMITS,
        "figures": PAPER_FIGURES,
    },
    "groma-7b-pretrain": {
        "source": "groma-7b-pretrain",
        "what": "[Groma](https://arxiv.org/abs/2404.13013)-7B after alignment pretraining (training stage 2): the "
        "start of "
        "your own instruction tuning. The architecture is that of groma-7b; the language model is still Vicuna-7B "
        "v1.5 "
        "and only what joins it to image and regions has been trained. To chat, take groma-7b. 7.38 billion "
        "parameters.",
        "base_models": ["FoundationVision/groma-7b-pretrain", "lmsys/vicuna-7b-v1.5", "facebook/dinov2-large"],
        "max_new_tokens": 40,
        "limits": f"{GROMA_LIMITS}\n- It was trained on captions and short answers that end with a space, not with "
        f"`</s>`: it may "
        "not stop by itself.",
        "figures": "The paper reports none for this checkpoint, and none were measured here.",
    },
    "groma-det-pretrain": {
        "source": "groma-det-pretrain",
        "what": "The detector of [Groma](https://arxiv.org/abs/2404.13013) (training stage 1): DINOv2-L and a "
        "class-agnostic "
        "Deformable DETR that proposes regions, things and parts alike. The start for stage 2 with a language model "
        "of "
        "your choice.",
        "base_models": ["FoundationVision/groma-det-pretrain", "facebook/dinov2-large"],
        "limits": f"{IMAGE_LIMITS}\n- At most 100 regions an image, without class names.",
        "figures": "As published in the paper (Table 6), **not measured with this package**: 43.6 AP on COCO for its "
        "detector with "
        "DINOv2 at 448 pixels.",
    },
}


def released_groma_config() -> GromaConfig:
    """Groma-7B, with the geometry that its weights were trained with."""
    return GromaConfig(
        architectures=["GromaForConditionalGeneration"],
        proposer_config={"refine_reference_points": False},
        region_encoder_config={"roi_box_format": "cxcywh", "roi_strides": list(LEGACY_ROI_STRIDES)},
        text_config={
            "model_type": "llama",
            "vocab_size": NUM_BASE_TOKENS + len(groma_tokens()),
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "bos_token_id": BOS_TOKEN_ID,
            "eos_token_id": EOS_TOKEN_ID,
            "pad_token_id": NUM_BASE_TOKENS,  # [PAD] is the first added token
        },
    )


def released_detector_config() -> GromaRegionProposalConfig:
    """The stage-1 detector."""
    return GromaRegionProposalConfig(
        architectures=["GromaForRegionProposal"], proposer_config={"refine_reference_points": False}
    )


def write_card(folder: Path) -> None:
    """The model card of the folder's name."""
    is_detector = folder.name == "groma-det-pretrain"
    card = CARDS[folder.name]
    parts = (
        (CARD_HEAD, DETECTOR_USE, DETECTOR_GEOMETRY, CARD_TAIL)
        if is_detector
        else (CARD_HEAD, GROMA_USE, GROMA_GEOMETRY, CARD_TAIL)
    )
    text = "".join(parts).format(
        **{**card, "base_models": "\n- ".join(card["base_models"])},
        name=folder.name,
        license="apache-2.0" if is_detector else "llama2",
        license_text="The original project is released under Apache-2.0, as is DINOv2."
        if is_detector
        else VICUNA_LICENSE,
        pipeline_tag="object-detection" if is_detector else "image-text-to-text",
        tag="region-proposal" if is_detector else "visual-grounding",
        and_tokenizer="" if is_detector else " and the tokenizer",
        written="configuration and image processor"
        if is_detector
        else "configuration, processor, chat template and the tokenizer with Groma's 114 added tokens",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def build_released_configs(folder: str | Path) -> None:
    """Write `groma-7b/`, `groma-7b-pretrain/` and `groma-det-pretrain/`.

    Args:
        folder (`str` or `Path`): where to; existing files are replaced.
    """
    # The processor's file says nothing of the tokenizer, so an empty one stands in for Vicuna's.
    tokenizer = LlamaTokenizer()
    add_groma_tokens(tokenizer)
    processor = GromaProcessor(GromaImageProcessorPil(), tokenizer)
    # An answer that points should be the same twice.
    generation_config = GenerationConfig(
        bos_token_id=BOS_TOKEN_ID, eos_token_id=EOS_TOKEN_ID, pad_token_id=NUM_BASE_TOKENS, do_sample=False
    )
    for name in CARDS:
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        if name == "groma-det-pretrain":
            released_detector_config().save_pretrained(target)
            processor.image_processor.save_pretrained(target)
        else:
            released_groma_config().save_pretrained(target)
            generation_config.save_pretrained(target)
            processor.to_json_file(target / "processor_config.json")
            (target / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
        write_card(target)


if __name__ == "__main__":
    build_released_configs(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "hub_configs")
