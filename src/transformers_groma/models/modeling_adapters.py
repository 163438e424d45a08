"""Keeps `peft` adapters out of parts that do not learn from text, such as detectors and mask decoders.

`target_modules="all-linear"` means all linear layers of a model, and `["q_proj", "v_proj"]` matches layers of the
region proposer and of the mask decoder, too. peft does not ask the model which of its layers are meant, but it sets
`model.peft_config` when the adapters are in place.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What `peft` puts into the path of a module that it copies for `modules_to_save`.
_WRAPPERS = re.compile(r"\.(original_module|modules_to_save(\.\w+)?)(?=\.|$)")


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
        check_modules_to_save(self, configs)
        self.__dict__["_peft_config"] = configs
        keep_adapters_where_text_is_learnt(self, configs)

    @peft_config.deleter
    def peft_config(self) -> None:
        del self.__dict__["_peft_config"]


def check_modules_to_save(model: nn.Module, configs: Mapping[str, Any]) -> None:
    """Refuse names in `modules_to_save` that mean a module and one directly inside it.

    `peft` would train copies of both and fail when it saves them, after the training. One further inside is no
    problem: `peft` copies the outer module alone.

    Args:
        model (`nn.Module`): before or after `peft` has wrapped these modules.
        configs (`Mapping[str, PeftConfig]`): of each adapter.

    Raises:
        ValueError: such a name.
    """
    names = {_WRAPPERS.sub("", name) for name, _ in model.named_modules()}
    for config in configs.values():
        for wanted in getattr(config, "modules_to_save", None) or ():
            meant = [name for name in names if name.endswith(wanted)]  # as `peft` looks for them
            for outer in meant:
                if any(name.rpartition(".")[0] == outer for name in meant):
                    last, depth = outer.rpartition(".")[2], outer.count(".") + 1
                    inside = [name for name in names if name.startswith(f"{outer}.") and name.count(".") == depth]
                    parts = sorted(f"{last}{name.removeprefix(outer)}" for name in inside)
                    raise ValueError(
                        f"`modules_to_save` {wanted!r} names a module and another one inside it, which peft cannot "
                        f"save. Name its parts instead: {', '.join(map(repr, parts))}."
                    )


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


__all__ = ["AdapterMixin", "check_modules_to_save", "keep_adapters_where_text_is_learnt", "pattern_of_parts"]
