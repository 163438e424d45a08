"""Builds the untrained shapes-clip: transformers' CLIP with 0.4 million weights, and its processor.

    from scripts.shapes_clip.build import build_model, build_processor

It loads with `AutoModel` and `AutoProcessor`; nothing in it is our own code.
"""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from .texts import vocabulary

IMAGE_SIZE, PATCH_SIZE = 64, 8
MAX_TOKENS = 32
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
MEAN = STD = (0.5, 0.5, 0.5)


def build_processor() -> CLIPProcessor:
    """The processor: words as tokens, images of 64 pixels.

    Returns:
        `CLIPProcessor`

    Example:
    >>> build_processor().tokenizer.tokenize("A striped red star, mxee.")
    ['a', 'striped', 'red', 'star', ',', '<unk>', '.']
    """
    words = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(token, words[token]) for token in ("<bos>", "<eos>")]
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size, image_mean=MEAN, image_std=STD),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            unk_token="<unk>",
            bos_token="<bos>",
            eos_token="<eos>",
            model_max_length=MAX_TOKENS,
        ),
    )


def build_model(processor: CLIPProcessor, seed: int = 0) -> CLIPModel:
    """The untrained model.

    Args:
        processor (`CLIPProcessor`): its processor, which says how many words there are.
        seed (`int`): of its weights.

    Returns:
        `CLIPModel`
    """
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = CLIPConfig(
        projection_dim=64,
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": MAX_TOKENS,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    return CLIPModel(config)
