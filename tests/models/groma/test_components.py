"""Other vision encoders and language models work in Groma."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.tiny import (
    VISION,
    tiny_config,
    tiny_inputs,
    tiny_model,
)


class TestOtherComponents:
    @pytest.mark.parametrize(
        "vision_config",
        [
            {
                "model_type": "dinov3_vit",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
                "num_register_tokens": 4,
            },
            {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
            },
        ],
        ids=["dinov3", "siglip"],
    )
    def test_other_vision_encoders(self, vision_config):
        model = tiny_model(vision_config=vision_config)
        assert model.config.region_encoder_config.roi_strides == [4.0, 8.0, 16.0]
        inputs = tiny_inputs(model.config)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        assert model.generate(**inputs, max_new_tokens=3).shape[0] == 2
        # The map is made of patches alone: its corner is the last token of the encoder.
        vision = model.detect(inputs["pixel_values"]).vision
        assert torch.equal(
            model.model.feature_map(vision.hidden_states[-1])[..., -1, -1], vision.hidden_states[-1][:, -1]
        )

    @pytest.mark.parametrize(
        "text_config",
        [
            {
                "model_type": "qwen3",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "vocab_size": 120,
                "pad_token_id": 0,
                "tie_word_embeddings": True,
            },
        ],
        ids=["qwen3"],
    )
    def test_other_language_models(self, text_config, tmp_path):
        model = tiny_model(text_config=text_config)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        inputs = tiny_inputs(model.config)
        model(labels=inputs["input_ids"], **inputs).loss.backward()
        generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        model.save_pretrained(tmp_path)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert torch.equal(again.generate(**inputs, max_new_tokens=4, do_sample=False), generated)

    def test_configuration_errors(self):
        with pytest.raises(ValueError, match="even side"):
            tiny_config(vision_config={**VISION, "image_size": 42})
        with pytest.raises(ValueError, match="group_norm_groups"):
            tiny_model(region_encoder_config={"group_norm_groups": 5})
        with pytest.raises(ValueError, match="num_feature_levels"):
            tiny_config(proposer_config={"num_feature_levels": 5})
