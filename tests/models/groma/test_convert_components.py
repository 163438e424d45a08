"""Assembling a model: sizes follow from the parts, and the language model is unchanged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForObjectDetection,
    AutoProcessor,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from tests.tiny import TEXT, VISION, tiny_config, tiny_detector, tiny_detector_config
from transformers_groma import (
    GromaConfig,
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaRegionProposalConfig,
    assemble_components,
)
from transformers_groma.models.convert_parts import own_generation_config
from transformers_groma.models.groma.convert_components import region_encoder_config
from transformers_groma.models.groma.convert_position_table import position_grid, resize_position_table
from transformers_groma.models.groma.tokenization_groma import GROMA_CHAT_TEMPLATE

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BOX = [64, 48, 256, 240]


def save_language_model(
    folder: Path, extra_rows: int = 0, chat_template=None, tie: bool = False, **generation
) -> Path:
    """A very small language model with a tokenizer of its own that knows nothing of Groma."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["What is this? A dog, a cat and a <p>bird</p>."] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<unk>",
        chat_template=chat_template,
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = {
        **TEXT,
        "vocab_size": len(wrapped) + extra_rows,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=tie))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, **generation)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("llm"), chat_template=CHATML)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    model = tiny_detector().train()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def composed(language_model, detector, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "out"
    return assemble_components(out, detector=detector, language_model=language_model)


class TestWholeGroma:
    def test_each_part_is_what_it_was(self, composed, language_model, detector):
        model = AutoModelForImageTextToText.from_pretrained(composed).eval()
        for name, value in GromaForRegionProposal.from_pretrained(detector).state_dict().items():
            assert torch.equal(model.model.state_dict()[name], value), name
        old = AutoModelForCausalLM.from_pretrained(language_model).eval()
        ids = torch.arange(1, 60)[None]
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits[..., : old.config.vocab_size], old(input_ids=ids).logits)

    def test_regions_and_the_user_s_box(self, composed, image):
        model = AutoModelForImageTextToText.from_pretrained(composed).eval()
        processor = AutoProcessor.from_pretrained(composed)
        assert processor.tokenizer.convert_tokens_to_ids("<r0>") == model.config.first_proxy_token_id
        inputs = processor(images=image, text="What is <region>?", boxes=[BOX], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True)
        answer = processor.post_process_grounded_generation(output, inputs, target_sizes=[(480, 640)])[0]
        assert_close(answer.regions[0].box, torch.tensor(BOX).float(), atol=1e-2, rtol=0)

    def test_the_language_model_s_chat_template_stays(self, composed, language_model, image):
        own = AutoTokenizer.from_pretrained(language_model)
        assert (composed / "chat_template.jinja").read_text() == CHATML
        processor = AutoProcessor.from_pretrained(composed)
        assert processor.chat_template == processor.tokenizer.chat_template == CHATML
        for content in ("What is this?", [{"type": "text", "text": "What is this?"}]):
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=True, return_dict=True, add_generation_prompt=True
            )
            plain = [{"role": "user", "content": "What is this?"}]
            expected = own.apply_chat_template(plain, tokenize=True, return_dict=True, add_generation_prompt=True)
            assert inputs["input_ids"] == [expected["input_ids"]]
        inputs = processor(images=image, text="What is <region>?", boxes=[BOX])
        text = processor.tokenizer.decode(inputs["input_ids"][0])
        assert text.startswith("<|im_start|>user\nHere is an image") and text.endswith("<|im_start|>assistant\n")

    def test_a_base_model_without_a_template_gets_ours(self, detector, tmp_path):
        base = save_language_model(tmp_path / "base")
        out = assemble_components(tmp_path / "out", detector=detector, language_model=base)
        assert (out / "chat_template.jinja").read_text() == GROMA_CHAT_TEMPLATE

    def test_several_templates_stay(self, detector, tmp_path, image):
        templates = {"default": CHATML, "tools": "{{ messages[-1].content }}!"}
        several = save_language_model(tmp_path / "several", chat_template=templates)
        out = assemble_components(tmp_path / "out", detector=detector, language_model=several)
        processor = AutoProcessor.from_pretrained(out)
        assert processor.chat_template == templates
        messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Hi"}]}]
        assert processor.apply_chat_template(messages).startswith("<|im_start|>user")
        assert processor.apply_chat_template(messages, chat_template="tools").endswith("<image>.\nHi!")
        assert "pixel_values" in processor(images=image, text="What is this?")

    def test_several_templates_without_a_default_are_refused(self, detector, tmp_path):
        several = save_language_model(tmp_path / "several", chat_template={"a": CHATML, "b": CHATML})
        with pytest.raises(ValueError, match="chat templates a, b, but none of them is named 'default'"):
            assemble_components(tmp_path / "out", detector=detector, language_model=several)
        assert not (tmp_path / "out").exists()

    def test_generation_settings_stay(self, detector, tmp_path):
        settings = {"temperature": 0.7, "top_p": 0.9, "do_sample": True, "max_new_tokens": 77, "suppress_tokens": [5]}
        own = save_language_model(tmp_path / "own", **settings)
        generation = GenerationConfig.from_pretrained(own)
        generation.eos_token_id = [2, 7]
        generation.save_pretrained(own)
        out = assemble_components(tmp_path / "out", detector=detector, language_model=own)
        kept = GenerationConfig.from_pretrained(out)
        assert {name: getattr(kept, name) for name in settings} == settings
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert (kept.bos_token_id, kept.eos_token_id) == (1, [2, 7])
        assert kept.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("[PAD]")
        model = GromaForConditionalGeneration.from_pretrained(out)
        assert model.config.text_config.pad_token_id == kept.pad_token_id
        assert (model.generation_config.eos_token_id, model.generation_config.temperature) == ([2, 7], 0.7)

    def test_sampling_settings_without_sampling_do_not_prevent_saving(self):
        tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[3] / "hub_configs" / "groma-tiny")
        config = GenerationConfig(temperature=0.9, top_p=0.6, top_k=50, do_sample=False, repetition_penalty=1.1)
        kept = own_generation_config(config, tokenizer)
        kept.validate(strict=True)
        assert (kept.temperature, kept.top_p, kept.repetition_penalty) == (None, None, 1.1)

    @pytest.mark.parametrize("tie", [False, True])
    @pytest.mark.parametrize("extra_rows", [0, 7, 200])
    def test_rows_beyond_the_tokenizer_stay(self, extra_rows, tie, detector, tmp_path):
        own = save_language_model(tmp_path / "own", extra_rows, tie=tie)
        size = len(AutoTokenizer.from_pretrained(own))
        rows = size + extra_rows
        out = assemble_components(tmp_path / "out", detector=detector, language_model=own)
        model, old = GromaForConditionalGeneration.from_pretrained(out), LlamaForCausalLM.from_pretrained(own)
        tokenizer = AutoTokenizer.from_pretrained(out)
        new = model.config.first_proxy_token_id
        assert len(tokenizer) == size + 14 + model.config.max_regions
        assert model.config.text_config.vocab_size == max(rows, len(tokenizer))
        for get in ("get_input_embeddings", "get_output_embeddings"):
            table, old_table = getattr(model, get)().weight, getattr(old, get)().weight
            assert torch.equal(table[:size], old_table[:size])
            assert torch.equal(table[len(tokenizer) : rows], old_table[len(tokenizer) : rows])
            assert_close(table[new], old_table[:size].mean(dim=0), atol=5e-3, rtol=0)

    def test_more_pieces_than_rows_are_refused(self, detector, tmp_path):
        own = save_language_model(tmp_path / "own", extra_rows=-1)
        rows = len(AutoTokenizer.from_pretrained(own)) - 1
        with pytest.raises(ValueError, match=f"has {rows + 1} pieces, but its embedding has {rows} rows"):
            assemble_components(tmp_path / "out", detector=detector, language_model=own)
        assert not (tmp_path / "out").exists()

    def test_a_token_that_the_model_never_saw_gets_a_row(self, detector, tmp_path):
        own = save_language_model(tmp_path / "own")
        tokenizer = AutoTokenizer.from_pretrained(own)
        size = len(tokenizer)
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        tokenizer.save_pretrained(own)
        out = assemble_components(tmp_path / "out", detector=detector, language_model=own)
        model = GromaForConditionalGeneration.from_pretrained(out)
        assert AutoTokenizer.from_pretrained(out).pad_token_id == model.generation_config.pad_token_id == size
        assert model.config.first_proxy_token_id == size + 1 + 14
        assert model.get_input_embeddings().weight[size].abs().max() > 0


class TestRegionEncoderSizes:
    @pytest.fixture(scope="class")
    def paper(self) -> GromaRegionProposalConfig:
        return GromaRegionProposalConfig()

    def test_the_paper_s_sizes_follow_from_the_paper_s_detector(self, paper):
        expected = GromaConfig().region_encoder_config.to_dict()
        assert region_encoder_config(paper, {}).to_dict() == {**expected, "roi_strides": None}

    @pytest.mark.parametrize(
        ("width", "groups", "position"),
        [(96, 6, 24), (768, 48, 192), (384, 24, 96), (100, 5, 25), (32, 2, 8), (16, 1, 4), (4, 1, 1), (1536, 96, 384)],
    )
    def test_sizes_follow_from_the_width(self, width, groups, position, paper):
        config = GromaRegionProposalConfig(vision_config={**VISION, "hidden_size": width})
        found = region_encoder_config(config, {})
        assert (found.group_norm_groups, found.position_hidden_size, found.region_hidden_size) == (
            groups,
            position,
            width,
        )

    def test_chosen_sizes_come_first(self, language_model, detector, tmp_path):
        sizes = {
            "group_norm_groups": 8,
            "num_fuse_layers": 1,
            "roi_output_size": 3,
            "roi_sampling_ratio": 1,
            "position_hidden_size": 12,
            "region_hidden_size": 20,
            "vision_feature_layers": [-4, -2, 0],
        }
        out = assemble_components(
            tmp_path / "out", detector=detector, language_model=language_model, region_encoder=sizes
        )
        model = GromaForConditionalGeneration.from_pretrained(out)
        config = model.config.region_encoder_config
        assert {name: getattr(config, name) for name in sizes} == sizes
        assert model.model.region_encoder.roi_projection.weight.shape == (20, 32 * 9)

    @pytest.mark.parametrize(
        ("sizes", "words"),
        [
            (
                {"group_norm_groups": 64},
                ["`group_norm_groups`", "--group-norm-groups", "64", "32", "1, 2, 4, 8, 16, 32"],
            ),
            ({"group_norm_groups": 0}, ["`group_norm_groups`", "0", "positive"]),
            ({"num_fuse_layers": -1}, ["`num_fuse_layers`", "-1"]),
            ({"roi_output_size": 2.5}, ["`roi_output_size`", "2.5"]),
            ({"roi_sampling_ratio": True}, ["`roi_sampling_ratio`", "True"]),
            ({"vision_feature_layers": [-6, -2, -1]}, ["`vision_feature_layers`", "-6", "4 layers", "-5 to -1"]),
            ({"vision_feature_layers": [0, 1, 5]}, ["`vision_feature_layers`", "5"]),
            ({"vision_feature_layers": [0, 1]}, ["`vision_feature_layers`", "3"]),
            ({"vision_feature_layers": 3}, ["`vision_feature_layers`", "3 integers"]),
            ({"hidden_size": 3}, ["'hidden_size'", "group_norm_groups"]),
        ],
    )
    def test_sizes_that_do_not_fit(self, sizes, words):
        with pytest.raises(ValueError) as error:
            region_encoder_config(tiny_detector_config(), sizes)
        assert all(word in str(error.value) for word in words)

    @pytest.mark.parametrize("layers", [[-5, -2, -1], [0, 4, 2]])
    def test_layers_at_the_limits(self, layers):
        found = region_encoder_config(tiny_detector_config(), {"vision_feature_layers": layers})
        assert found.vision_feature_layers == layers

    def test_default_layers_of_a_shallow_encoder(self):
        config = tiny_detector_config()
        config.vision_config.num_hidden_layers = 1
        with pytest.raises(ValueError, match="vision_feature_layers"):
            region_encoder_config(config, {})


class TestWholeGromaAsDetector:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory) -> Path:
        torch.manual_seed(3)
        config = tiny_config(vision_feature_layer=-2, max_regions=5, nms_threshold=0.4, box_score_threshold=0.05)
        folder = tmp_path_factory.mktemp("whole")
        GromaForConditionalGeneration(config).save_pretrained(folder)
        return folder

    def test_its_region_encoder_comes_along(self, whole, language_model, tmp_path):
        out = assemble_components(tmp_path / "out", detector=whole, language_model=language_model)
        old = GromaForConditionalGeneration.from_pretrained(whole)
        new = GromaForConditionalGeneration.from_pretrained(out)
        assert new.config.region_encoder_config.to_dict() == old.config.region_encoder_config.to_dict()
        weights = new.model.region_encoder.state_dict()
        for name, weight in old.model.region_encoder.state_dict().items():
            assert torch.equal(weights[name], weight) == (name != "output_projection.weight"), name
        for part in ("vision_tower", "region_proposer"):
            expected = getattr(old.model, part).state_dict()
            assert all(torch.equal(getattr(new.model, part).state_dict()[name], expected[name]) for name in expected)
        for name in ("vision_feature_layer", "max_regions", "nms_threshold", "box_score_threshold"):
            assert getattr(new.config, name) == getattr(old.config, name), name

    def test_weights_of_other_sizes_are_fresh(self, whole, language_model, tmp_path):
        out = assemble_components(
            tmp_path / "out", detector=whole, language_model=language_model, region_encoder={"region_hidden_size": 10}
        )
        new = GromaForConditionalGeneration.from_pretrained(out)
        old = GromaForConditionalGeneration.from_pretrained(whole)
        assert new.model.region_encoder.roi_projection.out_features == 10
        assert torch.equal(new.model.region_encoder.roi_convs[0].weight, old.model.region_encoder.roi_convs[0].weight)

    def test_another_model_is_not_a_detector(self, language_model, tmp_path):
        with pytest.raises(ValueError, match="`detector`.*'llama'"):
            assemble_components(tmp_path / "out", detector=language_model, language_model=language_model)


class TestVisionEncoder:
    def test_its_outputs_stay(self, tmp_path):
        torch.manual_seed(0)
        encoder = Dinov2Model(
            Dinov2Config(**{k: v for k, v in VISION.items() if k not in ("model_type", "image_size")}, image_size=518)
        )
        encoder.save_pretrained(tmp_path / "dinov2")
        out = assemble_components(tmp_path / "out", vision_encoder=tmp_path / "dinov2")
        detector = AutoModelForObjectDetection.from_pretrained(out).eval()
        pixels = torch.randn(1, 3, 448, 448)
        with torch.no_grad():
            expected = encoder.eval()(pixels).last_hidden_state
            assert_close(detector.vision_tower(pixels).last_hidden_state, expected, atol=1e-4, rtol=1e-4)

    def test_a_pooler_may_be_missing_and_nothing_else(self, tmp_path):
        sizes = {name: VISION[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        config = ViTConfig(**sizes, intermediate_size=8, image_size=448, patch_size=56)
        ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
        out = assemble_components(tmp_path / "out", vision_encoder=tmp_path / "vit")
        saved, written = (load_file(folder / "model.safetensors") for folder in (tmp_path / "vit", out))
        assert not any(name.startswith("pooler.") for name in saved)
        assert all(torch.equal(written[f"vision_tower.{name}"], weight) for name, weight in saved.items())
        lost = saved.pop("layernorm.weight")
        save_file(saved, tmp_path / "vit" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match="`vision_encoder` .* lack 1 weights .* such as 'layernorm.weight'"):
            assemble_components(tmp_path / "second", vision_encoder=tmp_path / "vit")
        save_file(
            {**saved, "layernorm.weight": lost[1:].clone()},
            tmp_path / "vit" / "model.safetensors",
            metadata={"format": "pt"},
        )
        with pytest.raises(ValueError, match=r"its weight 'layernorm.weight' has the shape"):
            assemble_components(tmp_path / "second", vision_encoder=tmp_path / "vit")

    def test_settings_of_a_much_larger_model(self, tmp_path):
        config = Dinov2Config(**{**VISION, "image_size": 448})
        Dinov2Model(config).save_pretrained(tmp_path / "vision")
        Dinov2Config(**{**VISION, "hidden_size": 8192, "num_attention_heads": 8}).save_pretrained(tmp_path / "vision")
        with pytest.raises(ValueError, match="config.json describes a model of .* weights, but the files hold"):
            assemble_components(tmp_path / "out", vision_encoder=tmp_path / "vision")
        assert not (tmp_path / "out").exists()


def test_other_combinations(tmp_path):
    with pytest.raises(ValueError, match="`detector` and `language_model`"):
        assemble_components(tmp_path / "out", detector="somewhere")
    for names in ("", "language_model", "detector vision_encoder", "language_model vision_encoder",
                  "detector language_model vision_encoder"):  # fmt: skip
        with pytest.raises(ValueError, match="`vision_encoder` alone"):
            assemble_components(tmp_path / "out", **dict.fromkeys(names.split(), "somewhere"))
    with pytest.raises(ValueError, match="group_norm_groups.*whole Groma"):
        assemble_components(tmp_path / "out", vision_encoder="x", region_encoder={"group_norm_groups": 4})
    assert not list(tmp_path.iterdir())


def test_position_tables():
    """The position of the class token comes first and stays; patches stay where they are in the image."""
    rows = torch.arange(8.0)[:, None].expand(8, 8)
    table = torch.cat([torch.tensor([[[-7.0, -9.0]]]), torch.stack([rows, rows.T], dim=-1).reshape(1, 64, 2)], dim=1)
    assert [position_grid(torch.zeros(1, 1 + side**2, 2)) for side in (1, 8, 37)] == [1, 8, 37]
    for resized in (resize_position_table(table, size=(4, 4)), resize_position_table(table, scale_factor=0.5)):
        assert resized.shape == (1, 17, 2) and resized[0, 0].tolist() == [-7, -9]
        patches = resized[0, 1:].reshape(4, 4, 2)
        # Patch 1 of 4 covers patches 2 and 3 of 8.
        assert_close(patches[1:3, 1:3, 0], torch.tensor([[2.5, 2.5], [4.5, 4.5]]), atol=0.05, rtol=0)
        assert_close(patches[1:3, 1:3, 1], torch.tensor([[2.5, 4.5], [2.5, 4.5]]), atol=0.05, rtol=0)
    assert torch.equal(resize_position_table(table, size=(8, 8)), table)
    assert resize_position_table(table.half(), size=(4, 4)).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_the_regions_as_they_are(language_model, detector, tmp_path, dtype):
    folder = assemble_components(tmp_path / "out", detector=detector, language_model=language_model, dtype=dtype)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    perceiver = GromaForRegionProposal.from_pretrained(detector)
    for name in ("vision_tower", "region_proposer"):
        written = model.model.get_submodule(name).state_dict()
        assert all(
            torch.equal(written[key], weight) for key, weight in perceiver.get_submodule(name).state_dict().items()
        )
    pixels = torch.randn(2, 3, VISION["image_size"], VISION["image_size"])
    assert torch.equal(model.propose_regions(pixels).boxes, perceiver.propose_regions(pixels).boxes)
    others = {"region_encoder", "multi_modal_projector", "language_model"}
    assert {weight.dtype for name in others for weight in model.model.get_submodule(name).parameters()} == {dtype}
    assert model.config.dtype == dtype and model.lm_head.weight.dtype == dtype


def test_a_detector_in_half_precision_is_loaded_in_float32(tmp_path):
    config = Dinov2Config(**{**VISION, "image_size": 448}, mlp_ratio=2)
    Dinov2Model(config).save_pretrained(tmp_path / "vision")
    folder = assemble_components(tmp_path / "out", vision_encoder=tmp_path / "vision", dtype=torch.bfloat16)
    detector = GromaForRegionProposal.from_pretrained(folder)
    assert {weight.dtype for weight in detector.parameters()} == {torch.float32}
    assert (folder / "model.safetensors").stat().st_size < 2.1 * detector.num_parameters()
