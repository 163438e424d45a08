"""Any `AutoModelForCausalLM` model computes the same inside Groma as alone, or is refused."""

import copy
import dataclasses

import pytest
import torch
from torch.testing import assert_close
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import prompt_ids, tiny_config, tiny_inputs, tiny_model
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.models.language_models import ENCODERS
from transformers_groma.models.modeling_cache import cache_kwargs, cache_of
from transformers_groma.models.modeling_language import LanguageModelHead

CLOSE = {"atol": 2e-4, "rtol": 1e-4}
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

# One name for one thing is not given among the library's configurations.
SIZES = {
    **{"vocab_size": 120, "max_position_embeddings": 256, "n_positions": 256},
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **{"num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4, "word_embed_proj_dim": 16},
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **{"sliding_window": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
# What a family needs besides, and settings that are not the defaults where they change what is computed.
OVERRIDES = {
    **dict.fromkeys(
        ("axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite"), LATENT
    ),
    **dict.fromkeys(("glm_moe_dsa", "hy_v4", "minicpm3", "sarvam_mla", "youtu"), LATENT),
    "axk1": {**LATENT, "n_routed_experts": 8, "n_group": 1, "topk_group": 1},
    "longcat_flash": {**LATENT, "zero_expert_num": 2},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 0.5}},
    "dory": {"n_input_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3, "num_attention_heads": 4},
    "dots1": {"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "falcon": {"alibi": True},
    "gemma2": {"final_logit_softcapping": 0.5},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt2": {"tie_word_embeddings": False},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "lfm2_moe": {"layer_types": ["full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "mixtral": {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    "zaya": {"num_experts_per_tok": 1},
}

# The families that do not fit, and why. All others are built and compared; there is none that cannot be built small.

STATE = "a state from token to token"
ENCODER = "it is an encoder"
DECODER = "it is the decoder of an encoder-decoder model"
MORE_THAN_TEXT = "for more than text"
PER_LAYER = "hidden_size_per_layer_input"
REFUSED = {
    **dict.fromkeys(
        ("bailing_hybrid", "bamba", "deepseek_v4", "falcon_h1", "falcon_mamba", "granitemoehybrid"), STATE
    ),
    **dict.fromkeys(
        (
            "inkling2_loop_text",
            "inkling2_text",
            "inkling_text",
            "lara_mini",
            "jamba",
            "kimi_linear",
            "lfm3",
            "mamba",
            "mamba2",
        ),
        STATE,
    ),
    **dict.fromkeys(("minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), STATE),
    **dict.fromkeys(("qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2", "zaya"), STATE),
    **dict.fromkeys(ENCODERS, ENCODER),
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"), DECODER),
    **dict.fromkeys(("musicgen", "musicgen_melody", "pegasus", "plbart", "prophetnet", "whisper"), DECODER),
    **dict.fromkeys(("dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified"), MORE_THAN_TEXT),
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant", "git", "got_ocr2", "llama4", "mllama"), MORE_THAN_TEXT
    ),
    **dict.fromkeys(
        ("moss_transcribe_diarize", "phi4_multimodal", "qwen3_5", "qwen3_5_moe", "qwen4_exp"), MORE_THAN_TEXT
    ),
    **dict.fromkeys(("gemma3n_text", "gemma4_text"), PER_LAYER),
    "blt": "it reads bytes",
    "cpmant": "does not take `inputs_embeds`",
    "mpt": "does not take `position_ids`",
    "openai-gpt": "does not take `(past_key_values|cache)`",
    "trocr": "does not take `inputs_embeds`",
    "xlm": "a cache of its own kind",
    "xlnet": "does not take `(past_key_values|cache)`",
}


def text_config(kind: str, **settings) -> PreTrainedConfig:
    """The smallest configuration of a family, as far as its fields have known names."""
    names = {field.name for field in dataclasses.fields(CONFIG_MAPPING[kind])}
    sizes = {name: size for name, size in SIZES.items() if name in names}
    return CONFIG_MAPPING[kind](**{**sizes, **OVERRIDES.get(kind, {}), **settings})


def pair(kind: str, **settings) -> tuple[PreTrainedConfig, GromaForConditionalGeneration]:
    """A language model with weights that make a difference, and a Groma that has it."""
    torch.manual_seed(0)
    alone = AutoModelForCausalLM.from_config(text_config(kind, **settings)).eval()
    with torch.no_grad():
        for weight in alone.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
            else:
                weight.add_(0.1 * torch.randn_like(weight))
    config = tiny_config(text_config=text_config(kind, **settings), box_score_threshold=0.1)
    groma = GromaForConditionalGeneration(config).eval()
    groma.load_language_model(alone)
    return alone, groma


def check_family(kind: str, **settings) -> None:
    """Text alone: logits, loss, padding, generation. With an image: slots that are off, and a cache."""
    alone, groma = pair(kind, **settings)
    ids = torch.randint(5, 90, (2, 10))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected, actual = alone(input_ids=ids, labels=ids), groma(input_ids=ids, labels=ids)
        assert_close(actual.logits, expected.logits, **CLOSE)
        assert_close(actual.loss, expected.loss, **CLOSE)
        given = {"input_ids": ids, "attention_mask": mask}
        assert torch.equal(groma.generate(**given, **GREEDY), alone.generate(**given, **GREEDY))
        # Tokens in the middle that are off, and padding, are as if they were not there.
        mask[0, 3:6] = 0
        mask[1, :4] = 0
        logits = groma(**given).logits
        for row in range(2):
            kept = mask[row].bool()
            assert_close(logits[row, kept], alone(input_ids=ids[row : row + 1, kept]).logits[0], **CLOSE)
        inputs = tiny_inputs(groma.config, batch_size=2)
        prompt = groma(**inputs)
        assert prompt.num_regions.min() < groma.config.max_regions
        steps = groma(input_ids=ids[:, :3], attention_mask=None, **cache_kwargs(cache_of(prompt)))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids[:, :3]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        assert_close(steps.logits, groma(**inputs).logits[:, -3:], **CLOSE)


def check_refused(kind: str) -> None:
    """By its configuration, or as soon as its code is at hand."""
    try:
        config = text_config(kind)
    except Exception:  # a size that this family does not take: its own defaults, of which nothing is built
        config = CONFIG_MAPPING[kind]()
    with pytest.raises(ValueError, match=f"model type '{kind}' cannot be Groma's language model: .*{REFUSED[kind]}"):
        LanguageModelHead(tiny_config(text_config=config).text_config)


@pytest.mark.parametrize("kind", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_family_computes_what_it_computes_alone_or_is_refused(kind):
    """Every family of the library that is installed."""
    if kind in REFUSED:
        check_refused(kind)
    else:
        check_family(kind)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("gpt2", {"tie_word_embeddings": True}),
        ("opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
        ("falcon", {"alibi": False, "new_decoder_architecture": True}),
    ],
)
def test_other_settings_of_a_family(kind, settings):
    check_family(kind, **settings)


@pytest.mark.parametrize("kind", ["dinov2", "t5", "clip_text_model"])
def test_other_models_are_refused(kind):
    with pytest.raises(
        ValueError, match=f"'{kind}' cannot be Groma's language model: .*(no model of this|decoder of an)"
    ):
        tiny_config(text_config=CONFIG_MAPPING[kind]())


def test_a_model_that_the_library_cannot_build_is_refused(monkeypatch):
    def fail(config):
        raise AttributeError("no attribute 'rope_theta'")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", fail)
    with pytest.raises(
        ValueError, match="'llama' cannot.*cannot build it \\(AttributeError: no attribute 'rope_theta'"
    ):
        tiny_model()


def test_loading_another_language_model_is_refused():
    groma = tiny_model()
    other = AutoModelForCausalLM.from_config(text_config("phi"))
    with pytest.raises(ValueError, match="PhiForCausalLM and `config.text_config`.*differ in their weights"):
        groma.load_language_model(other)


def test_the_loss_over_images_is_the_family_s(monkeypatch):
    """Labels skip unused slots, and a mixture of experts adds what its routers lose."""
    _, groma = pair("mixtral")
    inputs = tiny_inputs(groma.config, batch_size=2)
    labels = inputs["input_ids"].clone()
    whole = groma(labels=labels, **inputs)
    groma.config.text_config.output_router_logits = False
    plain = groma(labels=labels, **inputs)
    assert_close(whole.logits, plain.logits)
    assert whole.loss > plain.loss
    mask = cache_of(plain).grounded_prompt.attention_mask
    kept = [labels[row, mask[row]] for row in range(2)]
    losses = [
        torch.nn.functional.cross_entropy(plain.logits[row, mask[row]][:-1], kept[row][1:], reduction="none")
        for row in range(2)
    ]
    assert_close(plain.loss, torch.cat(losses).mean())


@pytest.mark.parametrize("kind", ["hrm_text", "mixtral", "llama"])
def test_saved_weights_come_back(tmp_path, kind):
    """Also where the library renames weights of one name in two parts."""
    _, groma = pair(kind)
    groma.save_pretrained(tmp_path)
    again, report = GromaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    weights = again.state_dict()
    assert set(weights) == set(groma.state_dict())
    assert all(torch.equal(weights[name], weight) for name, weight in groma.state_dict().items())


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_routers_that_are_looked_at_in_training_do_not_stop_generation(kind):
    """The library cannot count what routers lose in a step whose mask has gaps: it is part of the loss alone."""
    _, groma = pair(kind, output_router_logits=True)
    inputs = tiny_inputs(groma.config, batch_size=2)
    inputs["attention_mask"][0, 0] = 0
    with_routers = groma.generate(**inputs, **GREEDY)
    assert groma(labels=inputs["input_ids"], **inputs).loss.isfinite()
    groma.config.text_config.output_router_logits = False
    assert torch.equal(with_routers, groma.generate(**inputs, **GREEDY))


@pytest.mark.parametrize("kind", ["llama", "phi", "gpt2", "opt", "modernbert-decoder", "cohere"])
def test_saving_resizing_and_copies(kind, tmp_path):
    _, groma = pair(kind)
    inputs = {
        "input_ids": torch.tensor([prompt_ids(groma.config)]),
        "pixel_values": tiny_inputs(groma.config, 1)["pixel_values"],
    }
    with torch.no_grad():
        expected = groma(**inputs).logits
        assert_close(copy.deepcopy(groma)(**inputs).logits, expected)
        groma.save_pretrained(tmp_path)
        again = GromaForConditionalGeneration.from_pretrained(tmp_path).eval()
        assert_close(again(**inputs).logits, expected)
        again.resize_token_embeddings(130)
        resized = again(**inputs).logits
        assert resized.shape[-1] == 130
        assert_close(resized[..., :120], expected, **CLOSE)
        again(labels=inputs["input_ids"], **inputs)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5])])
def test_some_logits_only(keep):
    """Capped ones, of a family that also slices them itself."""
    _, groma = pair("gemma2")
    ids = torch.randint(5, 90, (2, 8))
    whole, some = groma(input_ids=ids).logits, groma(input_ids=ids, logits_to_keep=keep).logits
    assert_close(some, whole[:, -keep:] if isinstance(keep, int) else whole[:, keep])


def test_names_of_weights_are_those_of_released_checkpoints():
    names = [name for name in tiny_model().state_dict() if "language_model" in name or "lm_head" in name]
    assert "model.language_model.embed_tokens.weight" in names
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in names
    assert [name for name in names if "language_model" not in name] == ["lm_head.weight"]


def test_fresh_heads_are_initialized():
    """Also those with layers of their own, whose weights were without memory before."""
    torch.manual_seed(0)
    groma = GromaForConditionalGeneration(tiny_config(text_config=text_config("modernbert-decoder")))
    for name, weight in groma.named_parameters():
        assert torch.isfinite(weight).all(), name
        assert weight.abs().max() < 10, name
    assert (groma.lm_head.norm.weight == 1).all()
    assert 0.01 < groma.lm_head.dense.weight.std() < 0.04


def test_threads_do_not_mix_their_answers():
    """The head runs on what its own call computed."""
    from concurrent.futures import ThreadPoolExecutor

    groma = tiny_model()
    prompts = [torch.tensor([[1, token, token + 1]]) for token in range(10, 26)]
    with torch.no_grad():
        expected = [groma(input_ids=ids).logits for ids in prompts]

    def logits(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return groma(input_ids=ids).logits

    with ThreadPoolExecutor(4) as pool:
        for actual, wanted in zip(pool.map(logits, prompts * 4), expected * 4, strict=True):
            assert torch.equal(actual, wanted)
