"""Builds Groma, Qwen2.5-VL, Kosmos-2 and Florence-2 of random weights around language models of one size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peer_answers import (
    florence2_answer,
    groma_answer,
    kosmos2_answer,
    qwen_answer,
    tokens_of_json,
    tokens_of_tags,
)
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from transformers_groma import GromaConfig, GromaForConditionalGeneration


@dataclass(frozen=True)
class Sizes:
    """Of what all models have in common.

    Attributes:
        width: Of the language model, whose heads have 64 channels.
        layers: Of the language model; Florence-2's encoder has one half of them, its decoder the other.
        inner: Width within the feed-forward parts of Groma's and Qwen2.5-VL's language model, which have three
            matrices. The others have two, and take widths that give as many weights.
        vocabulary: Tokens of the language model.
        vision_width, vision_layers: Of the vision encoder, whose heads have 64 channels.
        stages: Layers and widths of Florence-2's vision encoder.
        image: Side of the image in pixels; 224/448 and 768/448 of it for Kosmos-2 and Florence-2.
        prompt: Tokens of text in the prompt.
        regions: That Groma finds in an image.
        slots: Regions that Groma has room for.
    """

    width: int = 1024
    layers: int = 24
    inner: int = 4096
    vocabulary: int = 32768
    vision_width: int = 768
    vision_layers: int = 12
    stages: tuple[tuple[int, ...], tuple[int, ...]] = ((1, 1, 9, 1), (128, 256, 512, 1024))
    image: int = 448
    prompt: int = 40
    regions: int = 12
    slots: int = 100


# For a test: the ratios of such models mean nothing.
SMALL = Sizes(
    width=64,
    layers=2,
    inner=128,
    vocabulary=512,
    vision_width=64,
    vision_layers=1,
    stages=((1,) * 4, (32, 32, 64, 64)),
    image=112,
    prompt=4,
    regions=2,
    slots=6,
)


def _words(count: int, batch: int, start: int = 20) -> Tensor:
    return (torch.arange(count) % 64 + start).repeat(batch, 1)


def _pixels(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def build_groma(sizes: Sizes) -> GromaForConditionalGeneration:
    """Ours: a vision encoder like DINOv2, 300 proposals or fewer, and a language model like Llama."""
    vision = AutoConfig.for_model(
        "dinov2",
        hidden_size=sizes.vision_width,
        num_hidden_layers=max(4, sizes.vision_layers),
        num_attention_heads=sizes.vision_width // 64,
        image_size=sizes.image,
        patch_size=14,
    )
    text = AutoConfig.for_model(
        "llama",
        hidden_size=sizes.width,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // 64,
        vocab_size=sizes.vocabulary,
        max_position_embeddings=2048,
    )
    config = GromaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        proposer_config={"num_queries": min(300, (sizes.image // 14) ** 2)},
        max_regions=sizes.slots,
    )
    model = GromaForConditionalGeneration(config).eval()
    proposer = model.model.region_proposer
    # The heads of a fresh proposer give all queries the same score and the same box.
    with torch.no_grad():
        for head in proposer.bbox_embed:
            head.layers[-1].weight.normal_(std=0.1)
        for head in (*proposer.class_embed_coco, *proposer.class_embed_sa1b):
            head.weight.normal_(std=0.5)
    return model


def groma_inputs(model: GromaForConditionalGeneration, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """Image tokens, slots and text; thresholds are set so that `sizes.regions` of each image's proposals stay."""
    config = model.config
    pixels = _pixels(1, 3, sizes.image, sizes.image)
    scores = model.detect(pixels).proposals.scores[0].float().sort(descending=True).values
    config.nms_threshold = 1.0
    config.box_score_threshold = float(scores[sizes.regions - 1] + scores[sizes.regions]) / 2
    slots = torch.full((2 * config.max_regions,), config.image_token_id)
    slots[::2] = config.first_proxy_token_id + torch.arange(config.max_regions)
    image = torch.cat([torch.full((config.num_image_tokens,), config.image_token_id), slots])
    ids = torch.cat([image.repeat(batch, 1), _words(sizes.prompt, batch)], dim=1)
    return {"input_ids": ids, "pixel_values": pixels.repeat(batch, 1, 1, 1)}


def build_qwen(sizes: Sizes) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL, with as many key and value heads as Groma's language model and windows of 112 pixels."""
    depth = sizes.vision_layers
    vision = {
        "depth": depth,
        "hidden_size": sizes.vision_width,
        # Three matrices, as large together as two of four widths.
        "intermediate_size": sizes.vision_width * 8 // 3,
        "num_heads": sizes.vision_width // 64,
        "out_hidden_size": sizes.width,
        # One layer of four sees the whole image, as in the release.
        "fullatt_block_indexes": list(range(3, depth, 4)),
    }
    text = {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.width // 64,
        "num_key_value_heads": sizes.width // 64,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    marks = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)).eval()


def qwen_inputs(model: PreTrainedModel, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """Patches of 14 pixels in two frames, of which four become one token, and text."""
    side = sizes.image // 14
    image = torch.tensor([12, *[10] * (side * side // 4), 13]).repeat(batch, 1)
    ids = torch.cat([image, _words(sizes.prompt, batch)], dim=1)
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == 10).int(),
        "pixel_values": _pixels(batch * side * side, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, side, side]]).repeat(batch, 1),
    }


def build_kosmos2(sizes: Sizes) -> Kosmos2ForConditionalGeneration:
    """Kosmos-2, whose feed-forward parts have two matrices instead of three, so half as wide again."""
    vision = {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_width // 64,
        "image_size": sizes.image // 2,
    }
    text = {
        "vocab_size": sizes.vocabulary,
        "embed_dim": sizes.width,
        "layers": sizes.layers,
        "ffn_dim": sizes.inner * 3 // 2,
        "attention_heads": sizes.width // 64,
    }
    return Kosmos2ForConditionalGeneration(Kosmos2Config(text_config=text, vision_config=vision)).eval()


def kosmos2_inputs(model: PreTrainedModel, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """64 image tokens between their two marks, and text."""
    image = model.config.latent_query_num
    ids = torch.cat([_words(image + 2, batch), _words(sizes.prompt, batch)], dim=1)
    is_image = torch.zeros_like(ids)
    is_image[:, 1 : image + 1] = 1
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "image_embeds_position_mask": is_image,
        "pixel_values": _pixels(batch, 3, sizes.image // 2, sizes.image // 2),
    }


def build_florence2(sizes: Sizes) -> Florence2ForConditionalGeneration:
    """Florence-2: an encoder and a decoder of half the layers each, together as many weights as Kosmos-2's layers.

    A layer of the decoder attends twice, so the feed-forward parts are narrower: with the width of the language model
    `w`, there are 6 `w²` of attention in a layer on average instead of 4.
    """
    layers, (depths, widths) = sizes.layers // 2, sizes.stages
    inner = sizes.inner * 3 // 2 - sizes.width
    heads = [width // 32 for width in widths]
    vision = {
        "depths": depths,
        "embed_dim": widths,
        "num_heads": heads,
        "num_groups": heads,
        "projection_dim": sizes.width,
    }
    text = {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_ffn_dim": inner,
        "decoder_ffn_dim": inner,
        "encoder_attention_heads": sizes.width // 64,
        "decoder_attention_heads": sizes.width // 64,
        "forced_eos_token_id": None,
    }
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=10)
    return Florence2ForConditionalGeneration(config).eval()


def florence2_inputs(model: PreTrainedModel, sizes: Sizes, batch: int) -> dict[str, Tensor]:
    """One image token for 32x32 pixels and one of their mean, and text, all for the encoder."""
    side = sizes.image * 12 // 7
    image = torch.full((batch, (side // 32) ** 2 + 1), 10)
    ids = torch.cat([image, _words(sizes.prompt, batch)], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": _pixels(batch, 3, side, side),
    }


@dataclass(frozen=True)
class Peer:
    """How one model is built, what it is given, and what it answers.

    Attributes:
        build: Makes the model, given sizes.
        inputs: Makes the prompts of a number of images, given the model and sizes.
        layers: The parts of a model that are its language model, without embeddings and output.
        vision: The part of a model that looks at pixels first.
        look: Turns the images of the inputs into what the language model reads.
        answer: Writes the answer about ten objects.
        count: Counts tokens of that answer.
    """

    build: Callable[[Sizes], PreTrainedModel]
    inputs: Callable[[PreTrainedModel, Sizes, int], dict[str, Tensor]]
    layers: Callable[[PreTrainedModel], list[nn.Module]]
    vision: Callable[[PreTrainedModel], nn.Module]
    look: Callable[[PreTrainedModel, dict[str, Tensor]], object]
    answer: Callable[[], str]
    count: Callable[[str], int]


def _look(model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
    return model.get_image_features(inputs["pixel_values"])


def _look_kosmos2(model: PreTrainedModel, inputs: dict[str, Tensor]) -> object:
    # As its `generate` does it; the class that generates has no method for that.
    seen = model.vision_model(inputs["pixel_values"]).last_hidden_state
    return model.image_to_text_projection(
        nn.functional.normalize(model.vision_model.model.post_layernorm(seen), dim=-1)
    )


PEERS = {
    "Groma (ours)": Peer(
        build_groma,
        groma_inputs,
        lambda model: [model.model.language_model.layers],
        lambda model: model.model.vision_tower,
        _look,
        groma_answer,
        tokens_of_tags,
    ),
    "Qwen2.5-VL": Peer(
        build_qwen,
        qwen_inputs,
        lambda model: [model.model.language_model.layers],
        lambda model: model.model.visual,
        lambda model, inputs: model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]),
        qwen_answer,
        tokens_of_json,
    ),
    "Kosmos-2": Peer(
        build_kosmos2,
        kosmos2_inputs,
        lambda model: [model.text_model.model.layers],
        lambda model: model.vision_model,
        _look_kosmos2,
        kosmos2_answer,
        tokens_of_tags,
    ),
    "Florence-2": Peer(
        build_florence2,
        florence2_inputs,
        lambda model: [model.model.language_model.encoder.layers, model.model.language_model.decoder.layers],
        lambda model: model.model.vision_tower,
        _look,
        florence2_answer,
        tokens_of_tags,
    ),
}


def parameters(*modules: nn.Module) -> int:
    """Weights in modules."""
    return sum(weight.numel() for module in modules for weight in module.parameters())
