"""Builds groma-tiny: a Groma with every part of the released one, small enough for git and a CPU, with random weights.

    python hub_configs/build_groma_tiny.py [FOLDER]

Everything follows from `SEED`: two runs write the same files. FOLDER is `hub_configs/groma-tiny` by default.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from transformers_groma import GromaConfig, GromaForConditionalGeneration, GromaImageProcessorPil, GromaProcessor
from transformers_groma.modeling_groma_proposer import GromaRegionProposer
from transformers_groma.processing_groma import add_groma_tokens

SEED = 3  # see `spread_regions`
IMAGE_SIZE = 224
MAX_REGIONS = 30
VOCAB_SIZE = 860  # before Groma's own tokens
# With the usual 0.02 narrow layers add next to nothing, and a random model would say one token for ever.
RANDOM_STD = 0.1

# What the tokenizer learns its pieces from.
SENTENCES = """
A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: Here is an image with region crops from it. Image: . Regions: . ASSISTANT:
Thank you for the image! How can I assist you with it?
Please give a short description of the region. Please describe the image in detail.
What is this? What is in the picture? What color is the circle? What shape is it?
How many squares are there? There are two of them. There is only one. There are none.
Where is the small red triangle? It is on the left of the large blue star.
Locate all the green circles in the image. Can you find the yellow cross? Is there a ring? Yes. No.
The image shows a striped hexagon above a dotted diamond on a light gray background.
This is a big purple heart in the top left corner, next to a tiny orange arrow.
The black rectangle overlaps the white ellipse and is partly hidden behind it.
A pink pentagon lies below the brown square, near the bottom right edge of the scene.
"""
WORDS = """
a an the this that these those it its they them their he she his her you your I we our who which what where when why how
is are was were be been has have had do does did can could will would should may might must not no yes and or but if then
of in on at to from for with by as about into over under between among through across behind before after above below
beside near inside outside around along against left right top bottom upper lower middle center corner edge side front back
up down here there one two three four five six seven eight nine ten first second third last next other another same
different each every all both some any many more most few less only also very just still quite almost exactly
red green blue yellow orange purple pink brown black white gray cyan magenta beige golden silver dark light bright pale
circle square triangle rectangle ellipse oval diamond star hexagon pentagon octagon cross ring heart arrow moon line dot
shape shapes color colors size position place object objects region regions image picture photo scene background
small large big tiny little huge long short wide narrow tall thin thick round flat striped dotted solid plain filled empty
person people man woman boy girl child dog cat horse bird car bus truck train bicycle boat street road house building
tree flower grass water sky sun cloud mountain beach table chair cup bottle plate book box ball bag hat shirt shoe
sits stands lies holds wears looks shows contains touches overlaps covers points moves walks runs rides eats plays
sitting standing lying holding wearing looking showing walking running riding eating playing hidden visible partly
describe locate find count name tell give show point answer question please thank short detail describing description
larger smaller largest smallest closest nearest farthest darker lighter biggest like than such so because while
"""

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- groma
- tiny-random
- visual-grounding
- region-proposal
language:
- en
---

# groma-tiny (random weights)

**Untrained.** This is a [Groma](https://arxiv.org/abs/2404.13013) in miniature with **random weights**: its text is
gibberish and its regions are arbitrary boxes. It exists so that demos, tests and benchmarks run the whole way of a
question and its boxes to an answer tied to boxes, on a CPU, without a download. Learn nothing about the quality of
Groma from it.

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

## What it is

| part | |
|---|---|
| vision encoder | DINOv2, {image_size} pixels, patches of 14 ({num_image_tokens} image tokens), width {vision_width}, {vision_layers} layers |
| region proposer | Deformable DETR, 1 level, width {proposer_width}, {encoder_layers} + {decoder_layers} layers, {num_queries} queries |
| region encoder | ROIAlign {roi_size}x{roi_size} on three fused maps, right geometry (`roi_box_format` "xyxy") |
| language model | Llama, width {text_width}, {text_layers} layers, {vocab_size} tokens |
| tokenizer | byte-level BPE, learned from the sentences and words in the build script, and Groma's tokens `<r0>` … `<r{last_region}>` |
| parameters | {num_parameters} |

The weights are stored in bfloat16 to keep the file small; the config asks for float32, which is faster on most CPUs.

The objectness and box heads are not at the initial values for training, at which the detector would propose a single
box. They are random too, but such that a photo gets some 10 to 25 regions of all sizes, so that demos and benchmarks have
realistic work to do.

Built by `hub_configs/build_groma_tiny.py` of transformers-groma, from a fixed seed.
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: it round-trips any text, and needs no file but its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Pieces begin with the space before them, so words are shown with one.
    tokenizer.train_from_iterator([*SENTENCES.strip().splitlines(), *(f" {word}" for word in WORDS.split())], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    add_groma_tokens(wrapped, max_regions=MAX_REGIONS)
    return wrapped


def build_config(tokenizer: PreTrainedTokenizerFast) -> GromaConfig:
    """The configuration; all token ids are those of the tokenizer."""
    return GromaConfig(
        vision_config={
            "model_type": "dinov2",
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 14,
            "initializer_range": RANDOM_STD,
        },
        proposer_config={
            "d_model": 64,
            "num_queries": 60,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "bbox_head_hidden_size": 64,
        },
        region_encoder_config={
            "num_fuse_layers": 2,
            "group_norm_groups": 8,
            "roi_output_size": 7,
            "position_hidden_size": 64,
            "region_hidden_size": 32,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 144,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "initializer_range": RANDOM_STD,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        refer_box_token_id=tokenizer.convert_tokens_to_ids("<refer_box>"),
        ground_box_token_id=tokenizer.convert_tokens_to_ids("<ground_box>"),
        first_proxy_token_id=tokenizer.convert_tokens_to_ids("<r0>"),
        max_regions=MAX_REGIONS,
    )


@torch.no_grad()
def spread_regions(proposer: GromaRegionProposer) -> None:
    """Give a fresh proposer random heads at which a photo gets 10 to 25 regions of all sizes, all over the image.

    Initial box heads change nothing and initial objectness is 0.01 everywhere, so a fresh proposer finds one region. The
    numbers and `SEED` were chosen by looking at photos. They are not fitted to any image: the same seed, the same weights.
    """
    for layer in proposer.decoder_layers:
        # What a query reads is much the same for all of them; the learned queries are not.
        layer.self_attn.o_proj.weight.mul_(0.3)
        layer.encoder_attn.output_proj.weight.mul_(0.3)
    for head in proposer.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.25)
    # The grid's boxes have sides of a twentieth of the image; these bring them to a quarter.
    proposer.bbox_embed[-1].layers[-1].bias.copy_(torch.tensor([0.0, 0.0, 1.8, 1.8]))
    for head in (*proposer.class_embed_coco, *proposer.class_embed_sa1b):
        nn.init.normal_(head.weight, std=0.25)
        nn.init.constant_(head.bias, -1.2)


def build_groma_tiny(folder: str | Path) -> GromaForConditionalGeneration:
    """Write the whole folder.

    Args:
        folder (`str` or `Path`): where to; existing files are replaced.

    Returns:
        `GromaForConditionalGeneration`: the model, in float32, before its weights were rounded for the file.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    torch.manual_seed(SEED)
    model = GromaForConditionalGeneration(config)
    spread_regions(model.model.region_proposer)
    # An answer that points should be the same twice.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder, state_dict={name: tensor.bfloat16() for name, tensor in model.state_dict().items()})
    GromaProcessor(
        image_processor=GromaImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        num_image_tokens=config.num_image_tokens,
        max_regions=MAX_REGIONS,
    ).save_pretrained(folder)
    card = CARD.format(
        image_size=IMAGE_SIZE,
        num_image_tokens=config.num_image_tokens,
        vision_width=config.vision_config.hidden_size,
        vision_layers=config.vision_config.num_hidden_layers,
        proposer_width=config.proposer_config.d_model,
        encoder_layers=config.proposer_config.encoder_layers,
        decoder_layers=config.proposer_config.decoder_layers,
        num_queries=config.proposer_config.num_queries,
        roi_size=config.region_encoder_config.roi_output_size,
        text_width=config.text_config.hidden_size,
        text_layers=config.text_config.num_hidden_layers,
        vocab_size=config.text_config.vocab_size,
        last_region=MAX_REGIONS - 1,
        num_parameters=f"{model.num_parameters():,}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return model


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "groma-tiny"
    print(f"{target}: {build_groma_tiny(target).num_parameters():,} parameters")
