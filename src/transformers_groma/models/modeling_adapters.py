"""Keeps `peft` adapters out of parts that do not learn from text, such as detectors and mask decoders.

`target_modules="all-linear"` means all linear layers of a model, and `["q_proj", "v_proj"]` matches layers of the
region proposer and of the mask decoder, too. peft does not ask the model which of its layers are meant, but it sets
`model.peft_config` when the adapters are in place.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)


def pattern_of_parts(*parts: str) -> str:
    """A regular expression that matches all modules of some parts, for `exclude_modules` of a `PeftConfig`.

    Args:
        *parts (`str`): names of the parts, such as `"vision_tower"`, without the path to them.

    Returns:
        `str`: the regular expression.

    Example:
    >>> pattern_of_parts("vision_tower", "region_proposer")
    '(.*\\\\.)?(vision_tower|region_proposer)(\\\\..*)?'
    """
    return rf"(.*\.)?({'|'.join(parts)})(\..*)?"


class AdapterMixin:
    """Removes adapters from parts that do not learn from text, whoever added them: peft, `add_adapter` or a trainer.

    A configuration that has `exclude_modules` (even `[]`) is left alone, and so is one whose adapters are in these
    parts and nowhere else.

    Attributes:
        parts_without_text (`tuple[str, ...]`): names of these parts.
    """

    parts_without_text: tuple[str, ...] = ()

    @property
    def peft_config(self) -> dict[str, Any]:
        if "_peft_config" not in self.__dict__:
            raise AttributeError("peft_config")
        return self.__dict__["_peft_config"]

    @peft_config.setter
    def peft_config(self, configs: dict[str, Any]) -> None:
        self.__dict__["_peft_config"] = configs
        keep_adapters_where_text_is_learnt(self, configs)

    @peft_config.deleter
    def peft_config(self) -> None:
        del self.__dict__["_peft_config"]


def keep_adapters_where_text_is_learnt(model: AdapterMixin, configs: Mapping[str, Any]) -> None:
    """Replace the adapters of parts that do not learn from text with the plain layers that they wrap.

    Args:
        model (`AdapterMixin`): with adapters of `peft`. Changed.
        configs (`Mapping[str, PeftConfig]`): of each adapter. `exclude_modules` is filled in where adapters were taken
            out, so that a saved adapter loads in the same way.
    """
    without_text = model.parts_without_text
    for adapter, config in configs.items():
        # An adapter that is loaded for inference stays as it was trained.
        if getattr(config, "exclude_modules", ()) is not None or config.inference_mode:
            continue
        adapted = {name: module for name, module in model.named_modules() if adapter in _adapters_of(module)}
        inside = {name: module for name, module in adapted.items() if set(name.split(".")) & set(without_text)}
        if not inside or len(inside) == len(adapted):
            continue
        for name, module in inside.items():
            if len(_adapters_of(module)) > 1:
                module.delete_adapter(adapter)
            else:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.get_base_layer())
        config.exclude_modules = pattern_of_parts(*without_text)
        parts = [part for part in without_text if any(part in name.split(".") for name in inside)]
        logger.warning_once(
            f"Adapter {adapter!r} stays out of {', '.join(parts)}, which text does not train. To adapt such parts, "
            "too, pass `exclude_modules=[]` in its configuration."
        )


def _adapters_of(module: nn.Module) -> set[str]:
    """Names of the adapters of a layer that `peft` has wrapped."""
    if not hasattr(module, "adapter_layer_names") or not hasattr(module, "get_base_layer"):
        return set()
    return {name for layers in module.adapter_layer_names for name in getattr(module, layers, {})}


__all__ = ["AdapterMixin", "keep_adapters_where_text_is_learnt", "pattern_of_parts"]
