"""Models and devices that commands are given."""

import pytest

from transformers_groma.cli import models
from transformers_groma.cli.arguments import CommandError

from .samples import PHOTO


def test_models_of_another_kind_are_refused(run, golden_dir, detector_dir, tiny_dir):
    for model, words in (
        (golden_dir / "legacy_checkpoint", ["original Groma", "groma convert"]),
        (detector_dir, ["'groma_region_proposal'", "'groma'"]),
    ):
        code, out, err = run("chat", PHOTO, "--model", model)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert all(word in err for word in ["--model", str(model), *words])
    code, _, err = run("chat", PHOTO, "--model", tiny_dir, "--device", "abacus")
    assert code == 2 and "--device 'abacus'" in err and len(err.splitlines()) == 1


def test_embedded_model_is_looked_for_in_checkout_and_wheel(monkeypatch, tmp_path):
    package, checkout = tmp_path / "site-packages" / "transformers_groma", tmp_path / "checkout"
    monkeypatch.setattr(models, "__file__", str(package / "cli" / "models.py"))
    monkeypatch.setattr(models, "source_checkout", lambda: checkout)
    with pytest.raises(CommandError, match="--model is needed"):
        models.embedded_model()
    for place in (package / "_models" / "groma-tiny", checkout / "hub_configs" / "groma-tiny"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        (place / "model.safetensors").write_bytes(b"")
        assert models.embedded_model() == place
