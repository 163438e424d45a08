"""transformers-groma: a language model that points.

Importing this package registers Groma and GLaMM with transformers' Auto classes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._registration import register_with_transformers

if TYPE_CHECKING:
    from .boxes import box_cxcywh_to_xyxy, box_iou, box_to_xyxy, box_xyxy_to_cxcywh, box_xyxy_to_xywh, nms
    from .converting import assemble_components, convert_legacy_checkpoint
    from .grounded_chat import ChatTurn, GroundedChat
    from .grounding import GroundedPhrase, GroundedText, parse_grounded_text
    from .models.configuration_region_encoder import GromaRegionEncoderConfig
    from .models.glamm.configuration_glamm import GlammConfig
    from .models.glamm.image_processing_glamm import GlammImageProcessor
    from .models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
    from .models.glamm.modeling_glamm import GlammForConditionalGeneration, GlammModel
    from .models.glamm.processing_glamm import GlammProcessor
    from .models.groma.configuration_groma import (
        GromaConfig,
        GromaMaskDecoderConfig,
        GromaProposerConfig,
        GromaRegionProposalConfig,
    )
    from .models.groma.image_processing_groma import GromaImageProcessor
    from .models.groma.image_processing_pil_groma import GromaImageProcessorPil
    from .models.groma.modeling_groma import GromaForConditionalGeneration, GromaModel, GromaPreTrainedModel
    from .models.groma.modeling_groma_detector import GromaForRegionProposal
    from .models.groma.processing_groma import GromaProcessor
    from .models.modeling_ops import use_kernels
    from .pipeline import ImageGroundingPipeline
    from .regions import Regions
    from .visualization import draw_boxes, draw_grounded_text, draw_proposals
    from .zero_shot.classifier import CrossAlignmentClassifier

__version__ = "0.1.0"

# Where each public name lives. Nothing of it is imported before it is used: `import transformers_groma` costs no
# torch.
_EXPORTS = {
    "boxes": (
        "box_cxcywh_to_xyxy",
        "box_iou",
        "box_to_xyxy",
        "box_xyxy_to_cxcywh",
        "box_xyxy_to_xywh",
        "nms",
    ),
    "models.glamm.configuration_glamm": ("GlammConfig",),
    "models.glamm.image_processing_glamm": ("GlammImageProcessor",),
    "models.glamm.image_processing_pil_glamm": ("GlammImageProcessorPil",),
    "models.glamm.modeling_glamm": ("GlammForConditionalGeneration", "GlammModel"),
    "models.glamm.processing_glamm": ("GlammProcessor",),
    "models.groma.configuration_groma": (
        "GromaConfig",
        "GromaMaskDecoderConfig",
        "GromaProposerConfig",
        "GromaRegionProposalConfig",
    ),
    "models.configuration_region_encoder": ("GromaRegionEncoderConfig",),
    "converting": ("assemble_components", "convert_legacy_checkpoint"),
    "grounded_chat": ("ChatTurn", "GroundedChat"),
    "grounding": ("GroundedPhrase", "GroundedText", "parse_grounded_text"),
    "models.groma.image_processing_groma": ("GromaImageProcessor",),
    "models.groma.image_processing_pil_groma": ("GromaImageProcessorPil",),
    "models.groma.modeling_groma": (
        "GromaForConditionalGeneration",
        "GromaModel",
        "GromaPreTrainedModel",
    ),
    "models.groma.modeling_groma_detector": ("GromaForRegionProposal",),
    "models.modeling_ops": ("use_kernels",),
    "pipeline": ("ImageGroundingPipeline",),
    "models.groma.processing_groma": ("GromaProcessor",),
    "regions": ("Regions",),
    "visualization": ("draw_boxes", "draw_grounded_text", "draw_proposals"),
    "zero_shot.classifier": ("CrossAlignmentClassifier",),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
