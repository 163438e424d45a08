"""Groma: a language model that reads image tokens and region tokens and points with proxy tokens."""

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, torch_compilable_check
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .boxes import boxes_to_bits, exact_boxes
from .configuration_groma import GromaConfig
from .modeling_groma_base import (
    GromaPreTrainedModel,
    build_vision_tower,
    no_autocast,
    requested_hidden_states,
    requested_output,
)
from .modeling_groma_cache import cache_kwargs, cache_of, given_cache
from .modeling_groma_ops import computing_dtype
from .modeling_groma_outputs import (
    GromaCausalLMOutputWithPast,
    GromaGenerateBeamDecoderOnlyOutput,
    GromaGenerateDecoderOnlyOutput,
    GromaImageFeatures,
    GromaModelOutputWithPast,
    GromaRegionProposals,
)
from .modeling_groma_proposer import GromaRegionProposer, GromaRegionProposerOutput
from .modeling_groma_region_encoder import GromaRegionEncoder
from .modeling_groma_regions import RegionSelection, is_box, resolve_box_tokens

# Less than a thousandth of a pixel in every image. Smaller ones except 0 are not fractions of an image.
SMALLEST_FRACTION = 1e-12


class GromaMultiModalProjector(nn.Module):
    """2x2 merge of patches and a two-layer MLP into the language model's width (paper section 3.2)."""

    def __init__(self, config: GromaConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.linear_1 = nn.Linear(4 * config.vision_config.hidden_size, hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, feature_map: Tensor) -> Tensor:
        """`(B, vision_hidden_size, grid, grid)` patches to `(B, grid * grid / 4, hidden_size)` image tokens, row by row."""
        # Channels of the four patches in the released order: top left, bottom left, top right, bottom right.
        merged = torch.cat([feature_map[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)
        tokens = merged.flatten(2).transpose(1, 2).to(computing_dtype(self, merged.dtype))
        return self.linear_2(self.act(self.linear_1(tokens)))


class GromaModel(GromaPreTrainedModel):
    """Vision encoder, region proposer, region encoder and language model, without a language modeling head."""

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        vision_hidden_size = config.vision_config.hidden_size
        self.vision_tower = build_vision_tower(config.vision_config)
        self.region_proposer = GromaRegionProposer(config.proposer_config, vision_hidden_size)
        self.region_encoder = GromaRegionEncoder(
            config.region_encoder_config,
            vision_hidden_size,
            config.text_config.hidden_size,
            config.vision_config.image_size,
        )
        self.multi_modal_projector = GromaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @torch.no_grad()
    def propose_regions(self, pixel_values: Tensor, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """The regions that a prompt about these images would offer to the language model, without running it.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): user boxes, normalized `cxcywh`, rows of zeros pad;
                they take the first slots.

        Returns:
            `GromaRegionProposals`: normalized `cxcywh` boxes, best first; `processor.post_process_region_proposals`
            makes absolute pixels of them.

        Raises:
            ValueError: wrong image size, or more user boxes than slots.
        """
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(pixel_values))
        with no_autocast(pixel_values):
            vision = self._encode_patches(pixel_values)
        selection = self._propose(vision.hidden_states, refer_boxes)
        return GromaRegionProposals(boxes=selection.boxes, scores=selection.scores, mask=selection.mask)

    @merge_with_config_defaults
    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaImageFeatures:
        """Perceive: image tokens, region proposals and region tokens of a batch of images.

        Args:
            pixel_values (`Tensor` of shape `(B, 3, image_size, image_size)`): images from the processor.
            refer_boxes (`Tensor` of shape `(B, K, 4)`, *optional*): boxes the user points at, normalized `cxcywh`, rows of
                zeros pad; they take the first slots.
            ground_boxes (`Tensor` of shape `(B, G, 4)`, *optional*): ground-truth boxes (training), likewise.

        Returns:
            `GromaImageFeatures`.

        Raises:
            ValueError: wrong image size, or more boxes than slots.
        """
        features, tokens, counts = self._perceive(
            pixel_values,
            refer_boxes,
            ground_boxes,
            output_attentions=requested_output(kwargs, self.config, "output_attentions"),
        )
        if refer_boxes is None:
            features.pooler_output = list(tokens)
        else:
            features.pooler_output = [row[:count] for row, count in zip(tokens, counts.tolist(), strict=True)]
        features.hidden_states = requested_hidden_states(features.hidden_states, kwargs, self.config)
        return features

    def _perceive(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None,
        ground_boxes: Tensor | None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        **kwargs,
    ) -> tuple[GromaImageFeatures, Tensor, Tensor]:
        """Features with regions; visual tokens in placeholder order, padded `(B, n, hidden_size)`; their number `(B,)`."""
        if (proposal_boxes is None) != (proposal_scores is None):
            raise ValueError("Pass `proposal_boxes` and `proposal_scores` together: both or none.")
        refer_boxes = boxes_of_images("refer_boxes", refer_boxes, len(pixel_values))
        ground_boxes = boxes_of_images("ground_boxes", ground_boxes, len(pixel_values))
        proposal_boxes = boxes_of_images("proposal_boxes", proposal_boxes, len(pixel_values))
        if proposal_scores is not None:
            proposal_scores = exact_boxes(proposal_scores, "proposal_scores")
        with no_autocast(pixel_values):
            vision = self._encode_patches(pixel_values, **kwargs)
        if proposal_boxes is None:
            selection = self._propose(vision.hidden_states, refer_boxes, ground_boxes, permute=self.training)
        else:
            proposals = GromaRegionProposerOutput(pred_boxes=proposal_boxes, scores=proposal_scores)
            selection = self._select_regions(proposals, refer_boxes, ground_boxes, permute=self.training)
        image_tokens = self.multi_modal_projector(
            self._feature_map(vision.hidden_states[self.config.vision_feature_layer])
        )
        region_tokens = self.region_encoder(
            [
                self._feature_map(vision.hidden_states[i])
                for i in self.config.region_encoder_config.vision_feature_layers
            ],
            # As bits: where FSDP wraps the region encoder by itself, it casts what comes in.
            boxes_to_bits(selection.boxes),
            selection.mask,
        )
        tokens = torch.cat([image_tokens, region_tokens.to(image_tokens)], dim=1)
        counts = torch.full((len(tokens),), tokens.shape[1], device=tokens.device)
        if refer_boxes is not None:
            # A referred region's feature is that of its slot. Padding rows come last and are not counted.
            refer_index = selection.refer_slots.to(tokens.device) + image_tokens.shape[1]
            refer_tokens = tokens.gather(1, refer_index[..., None].expand(-1, -1, tokens.shape[-1]))
            tokens = torch.cat([tokens, refer_tokens], dim=1)
            counts = counts + is_box(refer_boxes).sum(dim=1).to(counts.device)
        features = GromaImageFeatures(
            last_hidden_state=vision.last_hidden_state,
            hidden_states=vision.hidden_states,
            attentions=vision.attentions,
            region_boxes=selection.boxes,
            region_scores=selection.scores,
            region_mask=selection.mask,
            refer_slots=None if refer_boxes is None else selection.refer_slots,
            ground_slots=None if ground_boxes is None else selection.ground_slots,
        )
        return features, tokens, counts

    @torch.no_grad()
    def _propose(
        self,
        hidden_states: tuple[Tensor, ...],
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        permute: bool = False,
    ) -> RegionSelection:
        # Choosing regions is not differentiable; the detector learns in stage 1.
        with no_autocast(hidden_states[-1]):
            proposals = self.region_proposer(self._proposer_feature_map(hidden_states))
        return self._select_regions(proposals, refer_boxes, ground_boxes, permute=permute)

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Where the visual features go: `(B, length)`, bool. Without ids the embedding of the placeholder is looked for."""
        return self._token_mask(self.config.image_token_id, input_ids, inputs_embeds)

    def _token_mask(self, token_id: int, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if input_ids is not None:
            return input_ids == token_id
        embedding = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(dim=-1)

    def mask_unused_regions(self, attention_mask: Tensor, placeholder_mask: Tensor, region_mask: Tensor) -> Tensor:
        """Switch the region slots that hold no region off in the attention mask.

        Args:
            attention_mask (`Tensor` of shape `(B, length)`): 1 for tokens, 0 for padding; not changed.
            placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
            region_mask (`Tensor` of shape `(B_images, max_regions)`, bool): used slots of the rows that have an image.

        Returns:
            `Tensor` of shape `(B, length)`: 0 also at the proxy token and the placeholder of every unused slot.
        """
        ordinal = placeholder_mask.cumsum(dim=1) - 1 - self.config.num_image_tokens
        is_slot = placeholder_mask & (ordinal >= 0) & (ordinal < self.config.max_regions)
        # With a device map the proposer may live on another device than the prompt.
        region_mask = region_mask.to(placeholder_mask.device)
        used = region_mask[_image_index(placeholder_mask)].gather(1, ordinal.clamp(0, self.config.max_regions - 1))
        unused = is_slot & ~used
        # The slot's proxy token stands directly before its placeholder.
        proxy = nn.functional.pad(unused[:, 1:], (0, 1)) & ~placeholder_mask
        return attention_mask * ~(unused | proxy)

    def _fill_placeholders(
        self, inputs_embeds: Tensor, placeholder_mask: Tensor, tokens: Tensor, counts: Tensor
    ) -> Tensor:
        """Put the visual tokens `(B_images, n, hidden_size)` of each image into the placeholders of its row, in order."""
        found = placeholder_mask.sum(dim=1)
        counts = counts.to(found.device)
        image_index = _image_index(placeholder_mask)
        torch_compilable_check(
            ((found == 0) | (found == counts[image_index])).all(),
            lambda: (
                f"A sample needs {self.config.num_image_tokens} image placeholders, {self.config.max_regions} region slots and "
                f"one placeholder for each user box (ids {self.config.image_token_id}): expected {counts.tolist()} for the "
                f"images, found {found.tolist()} in the samples. Build the prompt with the model's processor."
            ),
        )
        ordinal = (placeholder_mask.cumsum(dim=1) - 1).clamp(0, tokens.shape[1] - 1)
        index = image_index[:, None] * tokens.shape[1] + ordinal
        tokens = tokens.flatten(0, 1).to(inputs_embeds.device, inputs_embeds.dtype)
        return torch.where(placeholder_mask[..., None], tokens[index], inputs_embeds)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        mm_encoder_outputs: dict[str, GromaImageFeatures] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaModelOutputWithPast:
        r"""
        Read a prompt with its images.

        Args:
            input_ids (`Tensor` of shape `(B, length)`): prompt from the processor. Not changed: `<refer_box>` and
                `<ground_box>` are replaced by the proxy tokens of their slots in a copy.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`): one image for each sample that has
                placeholders.
            attention_mask (`Tensor` of shape `(B, length)`): 0 for padding. Unused region slots are switched off in a copy.
            refer_boxes, ground_boxes (`Tensor` of shape `(B_images, n, 4)`): user and ground-truth boxes, normalized
                `cxcywh`, rows of zeros pad.
            proposal_boxes (`Tensor` of shape `(B_images, Q, 4)`), proposal_scores (`Tensor` of shape `(B_images, Q)`): what
                the region proposer found before (normalized `cxcywh`, rows of zeros with score 0 pad); it is not run then.
            mm_encoder_outputs (`dict`): `{"image": get_image_features(…)}` instead of `pixel_values`.

        Returns:
            `GromaModelOutputWithPast`.

        Raises:
            ValueError: wrong image size, placeholders that do not fit the images, or boxes without images.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and features is not None:
            raise ValueError("Pass `pixel_values` or `mm_encoder_outputs`, not both.")
        given_boxes = (refer_boxes, ground_boxes, proposal_boxes)
        if pixel_values is None and features is None and any(boxes is not None for boxes in given_boxes):
            raise ValueError(
                "`refer_boxes`, `ground_boxes` and `proposal_boxes` need `pixel_values`: a box is a place in an image."
            )

        visual_tokens = None
        if pixel_values is not None:
            features, visual_tokens, counts = self._perceive(
                pixel_values, refer_boxes, ground_boxes, proposal_boxes, proposal_scores
            )
        if features is not None:
            placeholder_mask = self.get_placeholder_mask(input_ids, inputs_embeds)
            if features.region_boxes is not None:
                exact_boxes(features.region_boxes, "mm_encoder_outputs['image'].region_boxes")
            if features.region_mask is not None:
                if attention_mask is None:
                    attention_mask = torch.ones_like(placeholder_mask, dtype=torch.long)
                if attention_mask.ndim != 2:
                    raise ValueError(
                        f"With images, `attention_mask` must have shape (batch, length), got {tuple(attention_mask.shape)}: "
                        "unused region slots are switched off in it."
                    )
                check_one_image_per_sample(placeholder_mask, len(features.region_mask))
                attention_mask = self.mask_unused_regions(attention_mask, placeholder_mask, features.region_mask)
                input_ids, inputs_embeds = self.resolve_boxes(input_ids, inputs_embeds, placeholder_mask, features)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if visual_tokens is not None:
            inputs_embeds = self._fill_placeholders(inputs_embeds, placeholder_mask, visual_tokens, counts)
        elif features is not None:
            visual_tokens = torch.cat(list(features.pooler_output)).to(inputs_embeds.device, inputs_embeds.dtype)
            torch_compilable_check(
                placeholder_mask.sum() == len(visual_tokens),
                lambda: (
                    f"`mm_encoder_outputs` hold {len(visual_tokens)} visual tokens, but the prompt has "
                    f"{int(placeholder_mask.sum())} placeholders (id {self.config.image_token_id})."
                ),
            )
            inputs_embeds = inputs_embeds.masked_scatter(placeholder_mask[..., None], visual_tokens)

        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # As generation does: positions count the tokens that are switched on.
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **cache_kwargs(given_cache(cache, past_key_values)),
            **kwargs,
        )
        regions = {}
        if features is not None and features.region_mask is not None:
            regions = {
                "region_boxes": features.region_boxes,
                "region_scores": features.region_scores,
                "num_regions": features.region_mask.sum(dim=1),
                "refer_slots": features.refer_slots,
                "ground_slots": features.ground_slots,
            }
        return GromaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=visual_tokens,
            **cache_kwargs(cache_of(outputs)),
            **regions,
        )

    def resolve_boxes(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        placeholder_mask: Tensor,
        features: GromaImageFeatures,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Put the proxy token of its slot in the place of every `<refer_box>` and `<ground_box>`, in copies.

        Args:
            input_ids (`Tensor` of shape `(B, length)`, *optional*), inputs_embeds (`Tensor` of shape
                `(B, length, hidden_size)`, *optional*): one of the two.
            placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders, which tell the rows with an image.
            features (`GromaImageFeatures`): of the images.

        Returns:
            `input_ids` and `inputs_embeds`, one of them `None` as given.
        """
        ids = input_ids
        if ids is None:
            ids = torch.zeros_like(placeholder_mask, dtype=torch.long)
            for token_id in (self.config.refer_box_token_id, self.config.ground_box_token_id):
                ids = ids.masked_fill(self._token_mask(token_id, None, inputs_embeds), token_id)
        resolved = resolve_image_boxes(ids, placeholder_mask, features, self.config)
        if input_ids is not None:
            return resolved, None
        changed = (resolved != ids)[..., None]
        return None, torch.where(changed, self.get_input_embeddings()(resolved), inputs_embeds)


def boxes_of_images(name: str, boxes: Tensor | None, num_images: int) -> Tensor | None:
    """Check boxes that come to the model: one row of normalized `cxcywh` boxes for each image.

    Args:
        name (`str`): how an error names them.
        boxes (`Tensor` of shape `(num_images, n, 4)`, *optional*): normalized `cxcywh`, rows of zeros pad; float32, or what
            `boxes_to_bits` made of them.
        num_images (`int`): images in `pixel_values`.

    Returns:
        `Tensor` of shape `(num_images, n, 4)`, float32, *optional*.

    Raises:
        ValueError: another shape, half precision, or values that are not fractions of the image.
    """
    if boxes is None:
        return None
    if boxes.ndim != 3 or boxes.shape[0] != num_images or boxes.shape[-1] != 4:
        raise ValueError(
            f"`{name}` must have shape (number of images, n, 4) with a row for each of the {num_images} images, got "
            f"{tuple(boxes.shape)}. Rows of zeros pad."
        )
    boxes = exact_boxes(boxes, name)
    slack = 1e-2  # of datasets that rounded their boxes
    is_fraction = (boxes >= -slack) & (boxes <= 1 + slack)
    # Pixels as int32, read as the bits of float32, are numbers next to 0.
    is_fraction &= (boxes == 0) | (boxes.abs() > SMALLEST_FRACTION)
    torch_compilable_check(
        is_fraction.all(),
        lambda: (
            f"`{name}` must be normalized cxcywh (0..1), got values from {boxes.min().item():g} to {boxes.max().item():g}. "
            "The processor makes them of `boxes` in pixels."
        ),
    )
    return boxes


def check_one_image_per_sample(placeholder_mask: Tensor, num_images: int) -> None:
    """Check that every sample with placeholders has its image, and every image its sample.

    Args:
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
        num_images (`int`): images that were given.

    Raises:
        ValueError: the numbers differ.
    """
    num_samples = placeholder_mask.any(dim=1).sum()
    torch_compilable_check(
        num_samples == num_images,
        lambda: (
            f"Every sample has at most one image: got {num_images} images for {int(num_samples)} samples with image "
            "placeholders. Build the prompts with the model's processor."
        ),
    )


def _image_index(placeholder_mask: Tensor) -> Tensor:
    """For every row, which image is its own: rows with placeholders take the images in order; 0 for text-only rows."""
    return (placeholder_mask.any(dim=1).long().cumsum(dim=0) - 1).clamp(min=0)


def resolve_image_boxes(
    token_ids: Tensor,
    placeholder_mask: Tensor,
    features: GromaImageFeatures | GromaModelOutputWithPast,
    config: GromaConfig,
) -> Tensor:
    """Ids (or labels) in which `<refer_box>` and `<ground_box>` are the proxy tokens of their slots.

    Args:
        token_ids (`Tensor` of shape `(B, length)`): ids or labels; not changed.
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders, which tell the rows with an image.
        features (`GromaImageFeatures` or `GromaModelOutputWithPast`): its `refer_slots` and `ground_slots` of shape `(B_images, n)`.
        config (`GromaConfig`): token ids.

    Returns:
        `Tensor` of shape `(B, length)`.
    """
    image_index = _image_index(placeholder_mask)
    for token_id, slots in (
        (config.refer_box_token_id, features.refer_slots),
        (config.ground_box_token_id, features.ground_slots),
    ):
        if slots is not None:
            slots = slots.to(token_ids.device)[image_index]
            token_ids = resolve_box_tokens(token_ids, token_id, slots, config.first_proxy_token_id)
    return token_ids


def shift_labels_over_gaps(labels: Tensor, token_mask: Tensor) -> Tensor:
    """The label that each position predicts: that of the next token which is switched on.

    Args:
        labels (`Tensor` of shape `(B, length)`): label of each position, -100 for none.
        token_mask (`Tensor` of shape `(B, length)`, bool): which positions are switched on.

    Returns:
        `Tensor` of shape `(B, length)`: -100 where nothing is predicted.

    Example:
    >>> shift_labels_over_gaps(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, True, False, True]])).tolist()
    [[2, 4, -100, -100]]
    """
    length = labels.shape[1]
    index = torch.arange(length, device=labels.device).expand_as(labels)
    last_token = torch.where(token_mask, index, -1).cummax(dim=1).values
    previous = nn.functional.pad(last_token[:, :-1], (1, 0), value=-1)
    # Positions that are off, and the first token, are predicted by nobody: their labels go into a column that is cut.
    target = torch.where(token_mask & (previous >= 0), previous, length)
    shifted = torch.full((len(labels), length + 1), -100, dtype=labels.dtype, device=labels.device)
    return shifted.scatter(1, target, labels)[:, :length].contiguous()


class GromaForConditionalGeneration(GromaPreTrainedModel, GenerationMixin):
    """Groma with a language modeling head: answers in text that points at regions with proxy tokens `<r0>`, `<r1>`, …

    Example:

    ```python
    >>> from PIL import Image
    >>> import transformers_groma
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor

    >>> model = AutoModelForImageTextToText.from_pretrained("hub_configs/groma-tiny")
    >>> processor = AutoProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> image = Image.new("RGB", (320, 240), "white")
    >>> inputs = processor(images=image, text="What is <region>?", boxes=[[20, 30, 200, 180]], return_tensors="pt")
    >>> output = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    >>> answer = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[(240, 320)])[0]
    >>> [round(value) for value in answer.regions[0].box.tolist()]  # the user's box is the first region
    [20, 30, 200, 180]

    ```"""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: GromaConfig):
        super().__init__(config)
        self.model = GromaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(
        self,
        pixel_values: Tensor,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaImageFeatures:
        """See `GromaModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, refer_boxes, ground_boxes, **kwargs)

    def propose_regions(self, pixel_values: Tensor, refer_boxes: Tensor | None = None) -> GromaRegionProposals:
        """See `GromaModel.propose_regions`."""
        return self.model.propose_regions(pixel_values, refer_boxes)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        ground_boxes: Tensor | None = None,
        proposal_boxes: Tensor | None = None,
        proposal_scores: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, GromaImageFeatures] | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | GromaCausalLMOutputWithPast:
        r"""
        Next-token logits, and the loss with `labels`.

        Args:
            labels (`Tensor` of shape `(B, length)`): ids to predict, -100 where nothing is. `<refer_box>` and `<ground_box>`
                stand for the proxy token of the box's slot, as in `input_ids`. Not changed.
            logits_to_keep (`int` or `Tensor`): compute only the last logits, or those at the given positions.
            input_ids, pixel_values, attention_mask, refer_boxes, ground_boxes, proposal_boxes, proposal_scores,
            mm_encoder_outputs: see `GromaModel.forward`.

        Returns:
            `GromaCausalLMOutputWithPast`.

        Raises:
            ValueError: see `GromaModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=given_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            refer_boxes=refer_boxes,
            ground_boxes=ground_boxes,
            proposal_boxes=proposal_boxes,
            proposal_scores=proposal_scores,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            # Trainers that split sequences bring labels that are shifted already.
            shift_labels = kwargs.pop("shift_labels", None)
            if outputs.num_regions is not None:
                placeholder_mask = self.model.get_placeholder_mask(input_ids, inputs_embeds)
                labels = resolve_image_boxes(labels, placeholder_mask, outputs, self.config)
                if shift_labels is not None:
                    shift_labels = resolve_image_boxes(shift_labels, placeholder_mask, outputs, self.config)
                else:
                    token_mask = torch.ones_like(labels) if attention_mask is None else attention_mask
                    slots = torch.arange(self.config.max_regions, device=labels.device)
                    region_mask = slots < outputs.num_regions.to(labels.device)[:, None]
                    token_mask = self.model.mask_unused_regions(token_mask, placeholder_mask, region_mask)
                    shift_labels = shift_labels_over_gaps(labels, token_mask.bool())
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.text_config.vocab_size, shift_labels=shift_labels, **kwargs
            )
        return GromaCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            region_boxes=outputs.region_boxes,
            region_scores=outputs.region_scores,
            num_regions=outputs.num_regions,
            **cache_kwargs(cache_of(outputs)),
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        refer_boxes: Tensor | None = None,
        **kwargs,
    ) -> Tensor | GromaGenerateDecoderOnlyOutput | GromaGenerateBeamDecoderOnlyOutput:
        """`GenerationMixin.generate` that looks at the images once, before the loop.

        Args:
            inputs (`Tensor` of shape `(B, length)`, *optional*): prompt ids, also as `input_ids`.
            pixel_values (`Tensor` of shape `(B_images, 3, image_size, image_size)`, *optional*): images.
            attention_mask (`Tensor` of shape `(B, length)`, *optional*): 0 for padding.
            refer_boxes (`Tensor` of shape `(B_images, K, 4)`, *optional*): user boxes, normalized `cxcywh`, zero-padded.
            **kwargs: everything that `GenerationMixin.generate` takes.

        Returns:
            Ids of shape `(B * num_return_sequences, length + new tokens)`, the prompt as given. With
            `return_dict_in_generate=True` an output that also has `region_boxes`, `region_scores` and `region_mask` of the
            images, which `processor.post_process_grounded_generation` needs.

        Raises:
            ValueError: see `GromaModel.forward`.
        """
        cache = given_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if cache is not None:
            kwargs.update(cache_kwargs(cache))
        features = None
        if pixel_values is not None:
            if kwargs.get("mm_encoder_outputs"):
                raise ValueError("Pass `pixel_values` or `mm_encoder_outputs`, not both.")
            features = self.get_image_features(pixel_values, refer_boxes, return_dict=True)
        elif (kwargs.get("mm_encoder_outputs") or {}).get("image") is not None:
            features = kwargs["mm_encoder_outputs"]["image"]
        elif refer_boxes is not None:
            raise ValueError("`refer_boxes` need `pixel_values`: a box is a place in an image.")

        if features is not None:
            input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
            inputs_embeds = kwargs.pop("inputs_embeds", None)
            # Ids beside embeddings only seed the output; the embeddings are the prompt.
            prompt_ids = input_ids if inputs_embeds is None else None
            if prompt_ids is None and inputs_embeds is None:
                raise ValueError("`generate` with `pixel_values` needs a prompt: pass `input_ids` from the processor.")
            placeholder_mask = self.model.get_placeholder_mask(prompt_ids, inputs_embeds)
            check_one_image_per_sample(placeholder_mask, len(features.region_mask))
            if attention_mask is None:
                attention_mask = self._attention_mask_without_padding(placeholder_mask, prompt_ids, kwargs)
            attention_mask = self.model.mask_unused_regions(attention_mask, placeholder_mask, features.region_mask)
            prompt_ids, inputs_embeds = self.model.resolve_boxes(prompt_ids, inputs_embeds, placeholder_mask, features)
            inputs = prompt_ids if inputs_embeds is None else input_ids
            if inputs_embeds is not None:
                kwargs["inputs_embeds"] = inputs_embeds
            # Only the features travel on: masks and ids are final now, and beams expand nothing else. They are not needed
            # when a cache holds the prompt up to its last placeholder already.
            num_cached = 0 if cache is None else cache.get_seq_length()
            kwargs.pop("mm_encoder_outputs", None)
            if placeholder_mask[:, num_cached:].any():
                image = GromaImageFeatures(pooler_output=list(features.pooler_output))
                kwargs["mm_encoder_outputs"] = {"image": image}
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask

        output = super().generate(inputs, **kwargs)
        if features is not None and input_ids is not None and kwargs.get("inputs_embeds") is None:
            # The prompt comes back as it was given, as from every `generate`.
            sequences = output.sequences if isinstance(output, ModelOutput) else output
            copies = len(sequences) // len(input_ids)
            sequences[:, : input_ids.shape[1]] = input_ids.to(sequences.device).repeat_interleave(copies, dim=0)
        regions = {}
        if features is not None:
            regions = {name: features[name] for name in ("region_boxes", "region_scores", "region_mask")}
        if isinstance(output, GenerateBeamDecoderOnlyOutput):
            return GromaGenerateBeamDecoderOnlyOutput(**output, **regions)
        if isinstance(output, GenerateDecoderOnlyOutput):
            return GromaGenerateDecoderOnlyOutput(**output, **regions)
        return output

    def _attention_mask_without_padding(
        self, placeholder_mask: Tensor, input_ids: Tensor | None, kwargs: dict
    ) -> Tensor:
        """What generation would infer for a prompt without a mask: padding tokens are off."""
        generation_config = kwargs.get("generation_config") or self.generation_config
        pad_token_id = kwargs.get("pad_token_id", generation_config.pad_token_id)
        if input_ids is None or pad_token_id is None or pad_token_id == generation_config.eos_token_id:
            return torch.ones_like(placeholder_mask, dtype=torch.long)
        return (input_ids != pad_token_id).long()


__all__ = ["GromaForConditionalGeneration", "GromaModel", "GromaPreTrainedModel"]
