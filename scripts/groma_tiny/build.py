"""Builds the untrained groma-tiny: every part of the released model, small enough for git and a CPU.

    python -m scripts.groma_tiny.build FOLDER

Everything follows from `SEED`: two runs write the same files. `scripts/groma_tiny/train.py` trains the model.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from transformers_groma import GromaConfig, GromaForConditionalGeneration, GromaImageProcessorPil, GromaProcessor
from transformers_groma.models.groma.tokenization_groma import add_groma_tokens

SEED = 0
IMAGE_SIZE = 224
MAX_REGIONS = 30
# The usual 0.02 is meant for layers thousands wide. In narrow layers it leaves attention almost uniform, and looking
# up what was said earlier becomes hard to learn.
INITIALIZER_RANGE, TEXT_INITIALIZER_RANGE = 0.06, 0.085
VOCAB_SIZE = 1040  # before Groma's own tokens
# The tokenizer learns its pieces from these sentences and words.
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
a an the this that these those it its they them their he she his her you your I we our who which what where when why
how
is are was were be been has have had do does did can could will would should may might must not no yes and or but if
then
of in on at to from for with by as about into over under between among through across behind before after above below
beside near inside outside around along against left right top bottom upper lower middle center corner edge side front
back
up down here there one two three four five six seven eight nine ten first second third last next other another same
different each every all both some any many more most few less only also very just still quite almost exactly
red green blue yellow orange purple pink brown black white gray cyan magenta beige golden silver dark light bright pale
circle square triangle rectangle ellipse oval diamond star hexagon pentagon octagon cross ring heart arrow moon line
dot
shape shapes color colors size position place object objects region regions image picture photo scene background
circles squares triangles rectangles stars hexagons crosses rings hearts diamonds leftmost rightmost topmost bottommost
small large big tiny little huge long short wide narrow tall thin thick round flat striped dotted solid plain filled
empty
person people man woman boy girl child dog cat horse bird car bus truck train bicycle boat street road house building
tree flower grass water sky sun cloud mountain beach table chair cup bottle plate book box ball bag hat shirt shoe
sits stands lies holds wears looks shows contains touches overlaps covers points moves walks runs rides eats plays
sitting standing lying holding wearing looking showing walking running riding eating playing hidden visible partly
describe locate find count name tell give show point answer question please thank short detail describing description
larger smaller largest smallest closest nearest farthest darker lighter biggest like than such so because while
"""
FIRST_WORDS = """
USER ASSISTANT Locate Where Which What How Is Can Find I Please Describe Give The Here A An Yes No None One Two Three
Four Five Six Seven
the a an all small large striped dotted red green blue yellow orange purple pink brown black white gray
circle square triangle rectangle star hexagon cross ring heart diamond object objects
circles squares triangles rectangles stars hexagons crosses rings hearts diamonds
leftmost rightmost topmost bottommost
Thank Regions Image
Red Green Blue Yellow Orange Purple Pink Brown Black White Gray
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of groma-tiny: learned pieces, then Groma's tokens."""
    tokenizer = build_text_tokenizer(SENTENCES, VOCAB_SIZE)
    add_groma_tokens(tokenizer, max_regions=MAX_REGIONS)
    return tokenizer


def build_text_tokenizer(sentences: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which round-trips any text, on sentences and on the words for shapes.

    Args:
        sentences (`str`): one a line.
        vocab_size (`int`): number of pieces.

    Returns:
        `PreTrainedTokenizerFast`: the tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A piece includes the space before it, so words are given with one; words that start a phrase or a turn, without.
    words = [*(f" {word}" for word in f"{WORDS} {FIRST_WORDS}".split()), *FIRST_WORDS.split()]
    tokenizer.train_from_iterator([*sentences.strip().splitlines() * 3, *words * 3], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> GromaConfig:
    """The configuration, with the token ids of a tokenizer."""
    return GromaConfig(
        vision_config={
            "model_type": "dinov2",
            "hidden_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "mlp_ratio": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": 14,
            "initializer_range": INITIALIZER_RANGE,
        },
        proposer_config={
            "d_model": 96,
            "num_queries": 60,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "bbox_head_hidden_size": 96,
            "dropout": 0.0,
        },
        region_encoder_config={
            # Every second layer of six.
            "vision_feature_layers": [-5, -3, -1],
            "num_fuse_layers": 1,
            "group_norm_groups": 8,
            "roi_output_size": 5,
            "position_hidden_size": 64,
            "region_hidden_size": 96,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "initializer_range": TEXT_INITIALIZER_RANGE,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        refer_box_token_id=tokenizer.convert_tokens_to_ids("<refer_box>"),
        ground_box_token_id=tokenizer.convert_tokens_to_ids("<ground_box>"),
        first_proxy_token_id=tokenizer.convert_tokens_to_ids("<r0>"),
        max_regions=MAX_REGIONS,
    )


def build_groma_tiny(folder: str | Path) -> GromaForConditionalGeneration:
    """Write the folder of an untrained groma-tiny.

    Args:
        folder (`str` or `Path`): output folder; existing files are replaced.

    Returns:
        `GromaForConditionalGeneration`: the model, in float32, with random weights.
    """
    folder = Path(folder)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    torch.manual_seed(SEED)
    model = GromaForConditionalGeneration(config)
    # An answer that points should be the same twice.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)
    GromaProcessor(
        image_processor=GromaImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        num_image_tokens=config.num_image_tokens,
        max_regions=MAX_REGIONS,
    ).save_pretrained(folder)
    return model


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.groma_tiny.build FOLDER")
    print(f"{sys.argv[1]}: {build_groma_tiny(sys.argv[1]).num_parameters():,} parameters")
