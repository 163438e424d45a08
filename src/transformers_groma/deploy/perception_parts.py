"""The visual parts of both families as plain modules, tensors in and tensors out, as exporters want them."""

from typing import Any

from torch import Tensor, nn

# Inputs of the graphs.
PIXELS = "pixel_values"
GROUNDING_PIXELS = "grounding_pixel_values"


class PerceptionPart(nn.Module):
    """What a model sees in images, in one piece.

    Attributes:
        input_name (`str`): of the only input, `(B, 3, size, size)`, float32, prepared by the image processor.
        output_names (`tuple[str, ...]`): of the outputs, in their order.
        size (`int`): side of its images in pixels.
    """

    input_name: str = PIXELS
    output_names: tuple[str, ...] = ()
    size: int = 0


def layer_name(layer: int) -> str:
    """The name of the output with a hidden state of the vision encoder, as a map."""
    return f"map_of_layer_{layer}".replace("-", "minus_")


class GromaPerception(PerceptionPart):
    """Image tokens, regions and their tokens, and the maps that further regions and masks are made from.

    Args:
        model (`GromaForConditionalGeneration`): in float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.model
        config = model.config
        self.size = config.vision_config.image_size
        self.layers = map_layers(config)
        self.output_names = (
            *("image_tokens", "region_tokens", "region_boxes", "region_scores", "region_mask"),
            *("proposal_boxes", "proposal_scores"),
            *map(layer_name, self.layers),
        )

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """See the class; the outputs are those of `GromaImageFeatures`, region tokens with zeros in unused slots."""
        model, config = self.model, self.model.config
        vision, proposals = model.detect(pixel_values)
        selection = model.select_regions(proposals)
        image_tokens = model.multi_modal_projector(
            model.feature_map(vision.hidden_states[config.vision_feature_layer])
        )
        maps = {layer: model.feature_map(vision.hidden_states[layer]) for layer in self.layers}
        region_maps = [maps[layer] for layer in config.region_encoder_config.vision_feature_layers]
        region_tokens = model.region_encoder(region_maps, selection.boxes, selection.mask)
        regions = (selection.boxes, selection.scores, selection.mask)
        return image_tokens, region_tokens, *regions, proposals.pred_boxes, proposals.scores, *maps.values()


class GlammPerception(PerceptionPart):
    """Image tokens, and the maps that regions are encoded from. A GLaMM proposes no regions.

    Args:
        model (`GlammForConditionalGeneration`): in float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.model
        self.size = model.config.vision_config.image_size
        self.layers = map_layers(model.config)
        self.output_names = ("image_tokens", *map(layer_name, self.layers))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        model = self.model
        vision = model.encode_patches(pixel_values)
        patches = model.feature_map(vision.hidden_states[model.config.vision_feature_layer])
        image_tokens = model.multi_modal_projector(patches.flatten(2).transpose(1, 2))
        return image_tokens, *(model.feature_map(vision.hidden_states[layer]) for layer in self.layers)


class GlammGrounding(PerceptionPart):
    """What a GLaMM decodes masks from: the embedding `(B, C, G, G)` of its second look at the images.

    Args:
        model (`GlammForConditionalGeneration`): in float32.
    """

    input_name = GROUNDING_PIXELS
    output_names = ("grounding_embedding",)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.grounding_encoder
        self.size = model.config.grounding_image_size

    def forward(self, grounding_pixel_values: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return (self.encoder(grounding_pixel_values, return_dict=True).last_hidden_state,)


def map_layers(config: Any) -> list[int]:
    """The layers of the vision encoder whose maps are outputs: those for regions, then others that are for masks."""
    layers = list(config.region_encoder_config.vision_feature_layers)
    layers += getattr(config.mask_decoder_config, "vision_feature_layers", [])
    return list(dict.fromkeys(layers))


def perception_parts(model: Any) -> dict[str, PerceptionPart]:
    """The graphs of a model's perception, by the names of their files.

    Args:
        model (`PreTrainedModel`): a Groma or a GLaMM.

    Returns:
        `dict[str, PerceptionPart]`: `"perception"`, and of a GLaMM `"grounding"`.
    """
    if model.config.model_type == "groma":
        return {"perception": GromaPerception(model)}
    return {"perception": GlammPerception(model), "grounding": GlammGrounding(model)}


__all__ = [
    "GROUNDING_PIXELS",
    "PIXELS",
    "GlammGrounding",
    "GlammPerception",
    "GromaPerception",
    "PerceptionPart",
    "layer_name",
    "map_layers",
    "perception_parts",
]
