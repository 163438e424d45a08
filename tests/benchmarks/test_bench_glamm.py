"""The benchmarks of GLaMM: the table of two models, and what masks cost while it writes."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from ..evaluation.glamm_samples import glamm_model, glamm_processor

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    """Imports a script of benchmarks/. Its threads are not those of the tests."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return importlib.import_module


def test_the_cost_of_masks_while_it_writes(scripts, monkeypatch, capsys):
    script = scripts("bench_glamm_generation")
    options = "--small --new-tokens 6 --every 3 --batch-sizes 1 2 --repeats 1"
    monkeypatch.setattr(sys, "argv", ["bench_glamm_generation.py", *options.split()])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result["benchmark"] == "glamm_generation" and len(result["ratios"]) == 2 * 3
    assert {"states gathered, batch 1", "masks, decoder apart, batch 2"} <= set(result["ratios"])
    assert lines[-2] == "a chat without masks ran no grounding encoder; a follow-up question ran no encoder"


def test_ratios_leave_the_decoder_out(scripts):
    seconds = {
        **{"language model alone": 1.0, "without masks": 2.0, "states gathered": 2.1, "with masks": 5.0},
        **{"first decoding": 2.9, "next decoding": 0.5},
    }
    ratios = scripts("bench_glamm_generation").ratios_of(seconds)
    assert ratios == pytest.approx(
        {"states gathered": 1.05, "masks, decoder apart": 1.05, "against the language model": 2.0}
    )


def test_an_encoder_that_runs_again_stops_it(scripts):
    script = scripts("bench_glamm_generation")
    model = script.GlammForConditionalGeneration(script.GlammConfig(**script.SMALL)).eval()
    script.check_laziness(model, 4, 2)
    look = script.Generations.look

    def eager(self):
        features = look(self)
        self.model.model.grounding_encoder(features.grounding[0].pixel_values[None])
        return features

    script.Generations.look = eager
    try:
        with pytest.raises(AssertionError, match="a chat without masks ran .*grounding_encoder"):
            script.check_laziness(model, 4, 2)
    finally:
        script.Generations.look = look


def test_forced_tokens(scripts):
    forced = scripts("bench_glamm_generation").ForcedTokens(prompt_length=2, every=3, seg_token_id=9)
    said = [int(forced(torch.zeros(1, 2 + new), torch.zeros(1, 20)).argmax()) for new in range(7)]
    assert said == [7, 7, 9, 7, 7, 9, 7]


@pytest.mark.slow
def test_the_table_of_two_models(scripts, monkeypatch, capsys, tmp_path):
    """groma-tiny beside a random GLaMM, measured in this process."""
    script = scripts("bench_glamm")
    glamm_model().save_pretrained(tmp_path / "a-glamm")
    glamm_processor().save_pretrained(tmp_path / "a-glamm")
    monkeypatch.setattr(script, "in_own_process", script.measure)
    small = {"rows": 2, "batch-size": 2, "single-rows": 1, "threads": 1, "max-new-tokens": 32}
    options = ["--glamm", str(tmp_path / "a-glamm"), *(f"--{name}={value}" for name, value in small.items())]
    monkeypatch.setattr(sys, "argv", ["bench_glamm.py", *options])
    script.main()
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert result["benchmark"] == "glamm" and list(result["models"]) == ["groma-tiny", "a-glamm"]
    groma, glamm = result["models"].values()
    assert glamm["passes_masks"] == "1 vision encoder, 1 grounding encoder"
    assert glamm["passes_plain"] == "1 vision encoder, 0 grounding encoder"
    assert glamm["passes_follow_up"] == "0 vision encoder, 0 grounding encoder"
    assert groma["passes_masks"] == groma["passes_plain"] == "1 vision encoder"
    assert groma["passes_follow_up"] == "0 vision encoder"
    assert groma["weights_mb"] > glamm["weights_mb"] > 0.3 and glamm["kept_mb"] > 0
    for title, key, _ in script.ROWS:
        assert f"| {title} |" in out and key in glamm and key in groma


def test_a_folder_without_a_model_is_named(scripts, monkeypatch, capsys, tmp_path):
    script = scripts("bench_glamm")
    monkeypatch.setattr(sys, "argv", ["bench_glamm.py", "--glamm", str(tmp_path)])
    with pytest.raises(SystemExit):
        script.main()
    assert "has no config.json: pass a model's folder" in capsys.readouterr().err
