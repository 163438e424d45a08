"""Wraps any fitting `AutoModelForCausalLM`: its base model, and its own way to logits.

A causal language model of the library is a base model, which Groma holds as `language_model`, and a class around it
that turns hidden states into logits: with a bias, a scale, a cap, more layers. Groma lets that class do it: it calls
the class's `forward` with a base model that returns hidden states which were computed before.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.utils import torch_compilable_check

from .language_models import STATE_REASON, sees_whole_prompt, unfit_language_model
from .modeling_cache import CACHE_NAME, cache_kwargs, cache_of
from .modeling_cached_prompt import CachedPrompt, cached_length, remember_prompt
from .modeling_compact_cache import CompactCache, TokenColumns, columns_of_prompt
from .modeling_mask_decoder import MaskEmbedding
from .modeling_parts import requested_output
from .modeling_pointing import RegionMasks, ResolvedRegions
from .modeling_positions import check_positions, is_mask_of_tokens, learned_states, token_positions

# Model types whose base model takes no positions, because it counts them by the mask.
POSITIONS_BY_MASK = {"bloom"}
# Outputs that have a place for each token.
STATES_OF_TOKENS = ("output_hidden_states", "output_attentions", "output_router_logits")


class LanguageModelHead:
    """The head of a causal language model: logits and loss from hidden states, as its class computes them.

    Args:
        config (`PreTrainedConfig`): of the language model.

    Attributes:
        base_class (`type[PreTrainedModel]`): class of the base model.
        embedding_size (`int`): width of the token embeddings, which visual tokens have, too.
        state_size (`int`): width of the last hidden states, which the output embedding reads.
        takes_positions (`bool`): whether the base model takes `position_ids`.
        names (`dict[str, str]`): the modules of the head: name in the class, name in Groma. The output embedding is
            always `lm_head` where it is one layer.
        tied_weights (`dict[str, str]`): as `_tied_weights_keys`, with Groma's names.
        output_embedding (`str`): path of the output embedding in Groma.

    Raises:
        ValueError: a model that cannot be Groma's language model; the message has its name and the reason.
    """

    def __init__(self, config: PreTrainedConfig):
        # On the meta device, without memory: only names, sizes and settings are of interest.
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except Exception as error:
            reason = f"`AutoModelForCausalLM` cannot build it ({type(error).__name__}: {error})"
            raise unfit_language_model(config, reason) from error
        bases = [name for name, child in model.named_children() if isinstance(child, PreTrainedModel)]
        base = getattr(model, bases[0]) if len(bases) == 1 else None
        check_language_model(config, model, base)
        self.config = config
        self.causal_class = type(model)
        self.base_class, self.base_name = type(base), bases[0]
        self.embedding_size = base.get_input_embeddings().weight.shape[1]
        self.state_size = model.get_output_embeddings().weight.shape[1]
        self.takes_positions = "position_ids" in inspect.signature(self.base_class.forward).parameters
        output_path = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
        children = [name for name, _ in model.named_children() if name != self.base_name]
        self.names = {name: name for name in children}
        if output_path in children and "lm_head" not in children:
            self.names[output_path] = "lm_head"
        self.output_embedding = self.name_in_model(output_path)
        tied = model._tied_weights_keys or {}
        self.tied_weights = {self.name_in_model(name): self.name_in_model(source) for name, source in tied.items()}
        self._heads = {name: getattr(model, name) for name in children}
        model._modules.clear()
        self._model = model

    def name_in_model(self, name: str) -> str:
        """The name in Groma of a weight that the class calls `name`."""
        first, dot, rest = name.partition(".")
        if first == self.base_name:
            return f"model.language_model.{rest}"
        return self.names.get(first, first) + dot + rest

    def build_base_model(self) -> PreTrainedModel:
        """Build the base model, with fresh weights."""
        return self.base_class._from_config(self.config)

    def build_modules(self) -> dict[str, nn.Module]:
        """Build the head's modules, uninitialized, by their names in Groma. Can be called once."""
        modules = {}
        for name, module in self._heads.items():
            if type(module) is nn.Linear:
                module = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            else:
                device = torch.empty(0).device
                module = module.to_empty(device=device)
                if device.type != "meta":
                    for part in module.modules():
                        part._is_hf_initialized = False
                        self._model._init_weights(part)
            modules[self.names[name]] = module
        self._heads = {}
        return modules

    def run(
        self, groma: nn.Module, last_hidden_state: Tensor, router_logits: tuple[Tensor] | None, **kwargs
    ) -> ModelOutput:
        """Compute logits and loss as `forward` of the class does.

        Args:
            groma (`nn.Module`): has the modules of the head.
            last_hidden_state (`Tensor` of shape `(B, length, hidden_size)`), router_logits (`tuple[Tensor]`,
                *optional*): what the base model returned.
            **kwargs: arguments of the class's `forward`, such as `labels`.

        Returns:
            `ModelOutput` with `logits` and, with `labels`, `loss`.
        """
        output = _FinishedOutput(last_hidden_state, router_logits)
        model = _CausalModel(self, groma, output)
        return self.causal_class.forward(model, inputs_embeds=last_hidden_state, return_dict=True, **kwargs)


class LanguageModelMixin:
    """The language model of a model that holds one as `language_model`, and reads prompts that are prepared."""

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def run_language_model(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | dict | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        memory: CachedPrompt | None,
        kwargs: dict[str, Any],
        states_to_keep: int | None = None,
    ) -> ModelOutput:
        """Run the language model, and store with its cache what the cache lacks of the prompt.

        Args:
            inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): the prompt, visual tokens in their places.
            attention_mask (`Tensor` of shape `(B, cached + length)`, *optional*): 0 for tokens that are off; or what
                generation made of it for a static cache.
            position_ids (`Tensor`, *optional*): from the caller; by default tokens that are on are counted.
            cache (`Cache`, *optional*): holds the tokens before these.
            memory (`CachedPrompt`, *optional*): what to remember; `None` for text alone, and in generation.
            kwargs (`dict`): more arguments of the language model.
            states_to_keep (`int`, *optional*): how many of the last states the caller reads, all by default. With a
                number a prompt that no cache holds yet is read without the tokens that are off, whose states are 0
                then. The cache is a [`CompactCache`]; one of another class keeps all tokens.

        Returns:
            `ModelOutput` of the language model, `last_hidden_state` of all tokens.

        Raises:
            ValueError: positions that do not count the tokens that are on.
        """
        if memory is not None:
            check_positions(position_ids, attention_mask)
        if position_ids is None and is_mask_of_tokens(attention_mask):
            position_ids = token_positions(attention_mask)[:, -inputs_embeds.shape[1] :]
        columns = self._columns_to_read(attention_mask, cache, states_to_keep, kwargs)
        if columns is not None:
            if cache is None and requested_output(kwargs, self.language_model.config, "use_cache"):
                cache = CompactCache(config=self.language_model.config)
            if cache is not None:
                cache.columns = columns
            inputs_embeds, attention_mask = columns.pack(inputs_embeds), columns.pack(attention_mask)
            position_ids = columns.pack(position_ids.expand(len(inputs_embeds), -1))
        elif isinstance(cache, CompactCache) and is_mask_of_tokens(attention_mask):
            attention_mask = cache.pack(attention_mask)
        if self.language_model_head.takes_positions:
            kwargs = {**kwargs, "position_ids": position_ids}
        with cache.counting_columns() if isinstance(cache, CompactCache) else nullcontext():
            outputs = self.language_model(
                attention_mask=attention_mask, inputs_embeds=inputs_embeds, **cache_kwargs(cache), **kwargs
            )
        if columns is not None:
            outputs.last_hidden_state = columns.unpack(outputs.last_hidden_state)
        if memory is not None and cache_of(outputs) is not None:
            remember_prompt(cache_of(outputs), memory)
        return outputs

    def _columns_to_read(
        self,
        attention_mask: Tensor | dict | None,
        cache: Cache | None,
        states_to_keep: int | None,
        kwargs: dict[str, Any],
    ) -> TokenColumns | None:
        """The tokens of a prompt that are read, if some need not be; `None` where shapes must not change."""
        if states_to_keep is None or torch.compiler.is_compiling() or not is_mask_of_tokens(attention_mask):
            return None
        if cache is not None and not (isinstance(cache, CompactCache) and cached_length(cache) == 0):
            return None
        config = self.language_model.config
        if not sees_whole_prompt(config):
            return None
        # Whoever asks for states or attentions finds the tokens in them by their places.
        if any(requested_output(kwargs, config, name) for name in STATES_OF_TOKENS):
            return None
        columns = columns_of_prompt(attention_mask)
        # A token that is off may be among the last, as in prompts that are padded on the right.
        is_safe = columns is not None and columns.length + states_to_keep <= attention_mask.shape[1]
        return columns if is_safe else None

    def scatter_tokens(
        self, inputs_embeds: Tensor, placeholder_mask: Tensor, tokens: Tensor, prompt_length: int | None
    ) -> Tensor:
        """Put visual tokens into a prompt that generation has prepared.

        Args:
            inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): the embedded prompt.
            placeholder_mask (`Tensor` of shape `(B, length)`, bool): its placeholders.
            tokens (`Tensor` of shape `(n, hidden_size)`): visual tokens, row by row.
            prompt_length (`int`, *optional*): only the first this many tokens are looked at.

        Returns:
            `Tensor` of shape `(B, length, hidden_size)`.

        Raises:
            ValueError: the numbers of placeholders and of visual tokens differ.
        """
        if prompt_length is not None:
            # A placeholder that the model itself generates, after the prompt, gets no visual token.
            position = torch.arange(placeholder_mask.shape[1], device=placeholder_mask.device)
            placeholder_mask = placeholder_mask & (position < prompt_length)
        tokens = tokens.to(inputs_embeds.device, inputs_embeds.dtype)
        torch_compilable_check(
            placeholder_mask.sum() == len(tokens),
            lambda: (
                f"`mm_encoder_outputs` hold {len(tokens)} visual tokens, but the prompt has "
                f"{int(placeholder_mask.sum())} placeholders (id {self.config.image_token_id})."
            ),
        )
        return inputs_embeds.masked_scatter(placeholder_mask[..., None], tokens)


class CausalHeadMixin:
    """The head of a model whose `model` holds a language model: embeddings, weights, modules of the head."""

    def add_head(self) -> None:
        """Add the head's modules, once, after `model`."""
        head = self.model.language_model_head
        for name, module in head.build_modules().items():
            self.add_module(name, module)
        self._tied_weights_keys = head.tied_weights

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.get_submodule(self.model.language_model_head.output_embedding)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        parent, _, name = self.model.language_model_head.output_embedding.rpartition(".")
        setattr(self.get_submodule(parent), name, new_embeddings)

    def encode_regions(self, features: ModelOutput, *args: Any, **kwargs: Any) -> ModelOutput:
        """See `encode_regions` of `model`."""
        return self.model.encode_regions(features, *args, **kwargs)

    @torch.no_grad()
    def mask_embedding(self, features: ModelOutput) -> MaskEmbedding:
        """See `mask_embedding` of `model`; without gradients."""
        return self.model.mask_embedding(features)

    def segment(self, features: ModelOutput, **prompts: Any) -> RegionMasks:
        """See `segment` of `model`."""
        return self.model.segment(features, **prompts)

    def resolve_points(self, features: ModelOutput, *args: Any, **kwargs: Any) -> ResolvedRegions:
        """See `resolve_points` of `model`."""
        return self.model.resolve_points(features, *args, **kwargs)

    def upright_masks(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        """See `upright_masks` of `model`."""
        return self.model.upright_masks(logits, height, width)

    def ask_for_routers(self, kwargs: dict[str, Any]) -> None:
        """Let a mixture of experts return its routers' logits: it learns from them, too. Changes `kwargs`."""
        # The base model does not know what its head asks for.
        if getattr(self.config.text_config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)

    def predict(
        self,
        outputs: ModelOutput,
        logits_to_keep: int | Tensor,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        kwargs: dict[str, Any],
    ) -> ModelOutput:
        """Logits, and with labels the loss, of what the base model returned.

        Args:
            outputs (`ModelOutput`): of `model`.
            logits_to_keep (`int` or `Tensor`): compute only the last logits, or those at the given positions.
            attention_mask (`Tensor` of shape `(B, length)`, *optional*): 0 for tokens that are off.
            labels (`Tensor` of shape `(B, length)`, *optional*): ids to predict, -100 where nothing is.
            kwargs (`dict`): more arguments of the language model's class, such as `shift_labels`; and `loss_only`, for
                the logits `(1, n, vocabulary)` of the n tokens that have a label, and no others.

        Returns:
            `ModelOutput` with `logits` and `loss`.
        """
        states = outputs.last_hidden_state
        if kwargs.pop("loss_only", False) and (labels is not None or kwargs.get("shift_labels") is not None):
            states, labels = learned_states(states, labels, kwargs.get("shift_labels"))
            kwargs = {**kwargs, "shift_labels": labels}
        if labels is None and kwargs.get("shift_labels") is None and outputs.router_logits is not None:
            # Without labels the routers' loss is unused, and in a step with a cache the library cannot compute it:
            # the mask is longer than the step.
            kwargs = {**kwargs, "output_router_logits": False}
        states = slice_logits_to_keep(states, logits_to_keep)
        return self.model.language_model_head.run(
            self, states, outputs.router_logits, attention_mask=attention_mask, labels=labels, **kwargs
        )

    def load_language_model(self, language_model: PreTrainedModel) -> None:
        """Copy the weights of a language model, its head included.

        Args:
            language_model (`PreTrainedModel`): a model of `AutoModelForCausalLM` with the configuration
                `config.text_config`.

        Raises:
            ValueError: the names of its weights are not those of the language model here.
        """
        head = self.model.language_model_head
        weights = {head.name_in_model(name): weight for name, weight in language_model.state_dict().items()}
        own = {name for name in self.state_dict() if not name.startswith("model.") or ".language_model." in name}
        if own != set(weights):
            raise ValueError(
                f"{type(language_model).__name__} and `config.text_config` ({head.causal_class.__name__}) differ in "
                f"their weights: {', '.join(sorted(own ^ set(weights))[:3])}."
            )
        self.load_state_dict(weights, strict=False)


class _FinishedOutput:
    """The output of a base model. Everything but hidden states and router logits is `None`."""

    def __init__(self, last_hidden_state: Tensor, router_logits: tuple[Tensor] | None):
        self.last_hidden_state = last_hidden_state
        self.router_logits = router_logits

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


class _FinishedModel:
    """Stands in for a base model that has already run: returns its output, whatever it is called with."""

    def __init__(self, model: nn.Module, output: _FinishedOutput):
        self._model, self._output = model, output

    def __call__(self, *args: Any, **kwargs: Any) -> _FinishedOutput:
        return self._output

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        # Some classes call the decoder inside of their base model: it has run, too.
        return self if isinstance(value, PreTrainedModel) else value


class _CausalModel:
    """Stands in for an instance of the class, as the `self` of its `forward`.

    The base model has run already, the modules of the head are Groma's, and all else is that of an instance without
    weights.
    """

    def __init__(self, head: LanguageModelHead, groma: nn.Module, output: _FinishedOutput):
        self._head, self._groma = head, groma
        self._base = _FinishedModel(groma.model.language_model, output)

    def __getattr__(self, name: str) -> Any:
        head = self._head
        if name == head.base_name:
            return self._base
        if name in head.names:
            return getattr(self._groma, head.names[name])
        if name == "vocab_size":
            # Embeddings may have been resized.
            return head.config.vocab_size
        if name == "training":
            return self._groma.training
        return getattr(head._model, name)


def check_language_model(config: PreTrainedConfig, model: PreTrainedModel, base: PreTrainedModel | None) -> None:
    """Check that a language model fits into Groma, by the signature of its `forward`.

    Args:
        config (`PreTrainedConfig`): of the language model.
        model (`PreTrainedModel`): of `AutoModelForCausalLM`.
        base (`PreTrainedModel`, *optional*): its base model.

    Raises:
        ValueError: it does not; the message has the model's name and the reason.
    """
    if base is None:
        raise unfit_language_model(config, f"{type(model).__name__} does not have one base model and a head")
    if model._is_stateful:
        raise unfit_language_model(config, f"{type(model).__name__} keeps {STATE_REASON}")
    accepted = inspect.signature(type(base).forward).parameters
    needed = ["inputs_embeds", "attention_mask", CACHE_NAME]
    if config.model_type not in POSITIONS_BY_MASK:
        needed.append("position_ids")
    if missing := [name for name in needed if name not in accepted]:
        raise unfit_language_model(config, f"{type(base).__name__} does not take `{'`, `'.join(missing)}`")


__all__ = ["CausalHeadMixin", "LanguageModelHead", "LanguageModelMixin", "check_language_model"]
