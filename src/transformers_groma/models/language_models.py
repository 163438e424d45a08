"""Which language models Groma accepts, by configuration: causal, attention-based ones.

A region slot without a region is turned off in the attention mask, and visual features take the places of token
embeddings. So a language model must read in one direction, keep nothing of a token that is turned off, and look up
nothing else by token ids.
"""

from transformers.configuration_utils import PreTrainedConfig

# Layers that carry a state from token to token.
STATEFUL_LAYERS = {"linear_attention", "conv", "mamba", "recurrent", "hybrid", "hybrid_sliding"}
STATE_REASON = "a state from token to token, from which a region slot that holds no region cannot be taken out again"

# Families of `AutoModelForCausalLM` that are BERT's kind. With `is_decoder` they read in one direction.
ENCODERS = {
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "reformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# Families whose reason cannot be read off their configuration or code.
UNFIT_FAMILIES = {
    "blt": "it reads bytes, in patches that it makes of them itself",
    "xlm": "it keeps a cache of its own kind",
}


def check_language_config(config: PreTrainedConfig) -> None:
    """Check a language model's configuration: whether it fits into Groma.

    What only the code of a model tells is checked by `LanguageModelHead`.

    Args:
        config (`PreTrainedConfig`): the configuration of the language model.

    Raises:
        ValueError: it does not; the message has the model's name and the reason.

    Example:
    >>> from transformers import MambaConfig
    >>> try:
    ...     check_language_config(MambaConfig())
    ... except ValueError as error:
    ...     print(str(error).partition(":")[0])
    `text_config` of model type 'mamba' cannot be Groma's language model
    """
    # The library loads this package while it loads that module.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    layers = STATEFUL_LAYERS & set(getattr(config, "layer_types", None) or [])
    parts = [name for name in config.sub_configs if name in ("text_config", "vision_config", "audio_config")]
    if config.model_type in UNFIT_FAMILIES:
        reason = UNFIT_FAMILIES[config.model_type]
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "`AutoModelForCausalLM` has no model of this configuration"
    elif config.is_encoder_decoder or "decoder" in config.sub_configs:
        reason = "it is the decoder of an encoder-decoder model, which reads what an encoder wrote"
    elif parts:
        reason = f"it has {', '.join(parts)} for more than text; take the configuration of its language model alone"
    elif config.model_type in ENCODERS:
        reason = "it is an encoder, which reads in both directions or, with `is_decoder`, counts positions its own way"
    elif layers:
        reason = f"its layers of type {', '.join(sorted(layers))} keep {STATE_REASON}"
    elif getattr(config, "hidden_size_per_layer_input", 0):
        reason = (
            "its layers look up more embeddings by token ids (`hidden_size_per_layer_input`), which visual tokens do "
            "not have"
        )
    else:
        return
    raise unfit_language_model(config, reason)


def sees_whole_prompt(config: PreTrainedConfig) -> bool:
    """Whether each token of a language model attends to all tokens before it.

    Otherwise some layers see a window or chosen blocks, by where tokens stand in the prompt: what is left out of it
    would change which ones these are.

    Args:
        config (`PreTrainedConfig`): the configuration of the language model.

    Returns:
        `bool`: by what its cache keeps, and by settings that a cache does not go by.

    Example:
    >>> from transformers import LlamaConfig, MistralConfig
    >>> sees_whole_prompt(LlamaConfig()), sees_whole_prompt(MistralConfig(sliding_window=4096))
    (True, False)
    """
    # Reading a configuration needs no torch.
    from transformers.cache_utils import DynamicCache

    layers = DynamicCache(config=config).layers
    is_local = "local" in (getattr(config, "attention_layers", None) or ())
    has_blocks = getattr(config, "index_topk_blocks", None) is not None
    return not (is_local or has_blocks or any(getattr(layer, "is_sliding", False) for layer in layers))


def unfit_language_model(config: PreTrainedConfig, reason: str) -> ValueError:
    """The error for a language model that does not fit into Groma."""
    return ValueError(
        f"`text_config` of model type {config.model_type!r} cannot be Groma's language model: {reason}. Language "
        "models of `AutoModelForCausalLM` that work by attention, such as Llama, Qwen, Gemma, Mistral, Phi, OPT or "
        "GPT-2, fit."
    )


__all__ = [
    "ENCODERS",
    "STATEFUL_LAYERS",
    "STATE_REASON",
    "UNFIT_FAMILIES",
    "check_language_config",
    "sees_whole_prompt",
    "unfit_language_model",
]
