"""`groma export-lm`."""

import pytest
from transformers import AutoModelForCausalLM


def test_it_writes_a_language_model(run, tiny_dir, tmp_path):
    out = tmp_path / "lm"
    code, printed, errors = run("export-lm", tiny_dir, out, "--dtype", "bfloat16")
    assert (code, printed) == (0, f"{out}\n"), errors
    assert str(AutoModelForCausalLM.from_pretrained(out).dtype) == "torch.bfloat16"
    code, printed, errors = run("export-lm", tiny_dir, out)
    assert (code, printed, len(errors.splitlines())) == (2, "", 1)
    assert f"OUT {out} exists and is not empty" in errors and "--overwrite" in errors
    assert run("export-lm", tiny_dir, out, "--overwrite")[0] == 0
    assert str(AutoModelForCausalLM.from_pretrained(out).dtype) == "torch.float32"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("detector_dir", "holds a model of type 'groma_region_proposal': pass one of type 'groma' or 'glamm'"),
        ("./nowhere", "DIR_OR_REPO './nowhere' is not a folder"),
    ],
)
def test_mistakes_end_in_one_sentence(run, request, tmp_path, model, words):
    folder = request.getfixturevalue(model) if model.endswith("_dir") else model
    code, printed, errors = run("export-lm", folder, tmp_path / "lm")
    assert (code, printed, len(errors.splitlines())) == (2, "", 1)
    assert words in errors and "--model" not in errors
    assert not list(tmp_path.iterdir())
