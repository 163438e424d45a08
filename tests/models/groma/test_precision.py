"""Saving, loading, half precision and autocast: the model points at the same places."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from tests.golden import golden_pixels
from tests.tiny import (
    PROPOSER,
    tiny_inputs,
    tiny_model,
)
from transformers_groma import GromaForConditionalGeneration, GromaModel


class TestSavingAndPrecision:
    def test_a_trainer_saves_under_module_names_and_resumes_exactly(self, tmp_path):
        """Trainer reads its checkpoints by module names, without complaint about names that it does not find."""
        from safetensors.torch import load_file
        from transformers import Trainer, TrainingArguments

        def trained(max_steps: int, resume: bool) -> list[float]:
            model = tiny_model().train()
            inputs = tiny_inputs(model.config, batch_size=4)
            rows = [{name: value[index] for name, value in inputs.items()} for index in range(4)]
            rows = [{**row, "labels": row["input_ids"]} for row in rows]
            arguments = TrainingArguments(
                output_dir=str(tmp_path / ("resumed" if resume or max_steps == 2 else "whole")),
                max_steps=max_steps,
                per_device_train_batch_size=2,
                save_steps=2,
                logging_steps=1,
                learning_rate=1e-2,
                lr_scheduler_type="constant",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            trainer = Trainer(model, arguments, train_dataset=rows)
            trainer.train(resume_from_checkpoint=resume)
            return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

        whole = trained(4, resume=False)
        trained(2, resume=False)
        saved = load_file(tmp_path / "resumed" / "checkpoint-2" / "model.safetensors")
        assert set(saved) == set(tiny_model().state_dict())
        assert trained(4, resume=True) == pytest.approx(whole, abs=1e-4)

    def test_saving_and_loading(self, tmp_path):
        model = tiny_model()
        model.save_pretrained(tmp_path)
        again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
        assert type(again) is GromaForConditionalGeneration
        inputs = tiny_inputs(model.config)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        base = AutoModel.from_pretrained(tmp_path)
        assert type(base) is GromaModel
        assert AutoConfig.from_pretrained(tmp_path).proposer_config.num_queries == PROPOSER["num_queries"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_points_at_the_same_places(self, converted_golden, golden_dir, dtype):
        pixels = golden_pixels(golden_dir)
        full = GromaForConditionalGeneration.from_pretrained(converted_golden).eval()
        half = GromaForConditionalGeneration.from_pretrained(converted_golden, dtype=dtype).eval()
        assert half.lm_head.weight.dtype == dtype
        assert half.model.region_encoder.output_projection.weight.dtype == dtype
        one, other = full.propose_regions(pixels), half.propose_regions(pixels)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.mask, other.mask)

    def test_half_precision_generates(self):
        model = tiny_model().to(torch.bfloat16)  # everything, the detector too
        inputs = tiny_inputs(model.config)
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        assert output.region_boxes.dtype == torch.float32
        assert output.sequences.shape[1] > inputs["input_ids"].shape[1]
        assert torch.isfinite(model(**inputs).logits).all()

    def test_autocast_points_at_the_same_places(self, converted_golden, golden_dir):
        pixels = golden_pixels(golden_dir)
        model = GromaForConditionalGeneration.from_pretrained(converted_golden).eval()
        expected = model.propose_regions(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            proposals = model.propose_regions(pixels)
            features = model.get_image_features(pixels, return_dict=True)
        assert torch.equal(proposals.boxes, expected.boxes)
        assert torch.equal(features.region_boxes, expected.boxes)
        assert torch.isfinite(torch.cat(features.pooler_output)).all()

    def test_autocast_trains(self):
        model = tiny_model().train()
        inputs = tiny_inputs(model.config)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(labels=inputs["input_ids"], **inputs).loss
        loss.backward()
        assert torch.isfinite(loss)
