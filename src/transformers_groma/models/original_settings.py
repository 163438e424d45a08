"""Recognizes settings that the original code saved: such a checkpoint has to be converted before it is loaded."""

from collections.abc import Mapping
from typing import Any

# What config.json of a GLaMM names; its model type is "llava", as that of other models.
GLAMM_ARCHITECTURE = "GLaMMForCausalLM"
# What config.json of a Groma, or of its stage 1, is made of.
_GROMA_PARTS = ("llm_cfg", "perceiver_cfg", "vis_encoder_cfg", "ddetr_cfg")


def original_family(config: Mapping[str, Any]) -> str | None:
    """The family whose original code saved a config.json.

    Args:
        config (`Mapping[str, Any]`): the settings.

    Returns:
        `str`, *optional*: `"Groma"` or `"GLaMM"`; `None` for all other settings, ours among them.

    Example:
    >>> original_family({"model_type": "llava", "architectures": ["GLaMMForCausalLM"]})
    'GLaMM'
    """
    architectures = config.get("architectures")
    if isinstance(architectures, (list, tuple)) and GLAMM_ARCHITECTURE in architectures:
        return "GLaMM"
    return "Groma" if any(name in config for name in _GROMA_PARTS) else None


def refuse_original(config: Mapping[str, Any]) -> None:
    """Refuse settings of the original code: read as ours, they would give a model of the default size.

    Args:
        config (`Mapping[str, Any]`): the content of a config.json.

    Raises:
        ValueError: it is that of a checkpoint of the original code.
    """
    family = original_family(config)
    if family is not None:
        raise ValueError(
            f"This is a checkpoint of the original {family}: convert it first, `groma convert FOLDER OUT_DIR`, and "
            "load OUT_DIR."
        )


__all__ = ["GLAMM_ARCHITECTURE", "original_family", "refuse_original"]
