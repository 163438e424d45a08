"""Commands start and end without search for garbage, and import nothing that a question does not need."""

import gc
import subprocess
import sys

import pytest

from transformers_groma.cli.starting import starting

# Packages of the extras, and the parts of transformers that train.
UNNEEDED = (
    *("datasets", "peft", "trl", "evaluate", "tensorboard", "matplotlib", "pandas", "sklearn", "torchvision"),
    *("gradio", "fastapi", "uvicorn", "openai", "ray", "bitsandbytes", "onnxruntime", "openvino", "ijson"),
    *("transformers.trainer", "transformers.training_args", "transformers_groma.training", "transformers_groma.data"),
    *("transformers_groma.evaluation", "transformers_groma.serving", "transformers_groma.apps"),
    *("transformers_groma.annotation", "transformers_groma.publishing"),
)
CHAT = ["chat", "docs/images/scene.png", "What is <region>?", "--box", "278,338,345,405", "--max-new-tokens", "1"]


def test_a_question_imports_only_what_it_needs():
    code = (
        "import gc, sys; from transformers_groma.cli import main\n"
        f"sys.argv[1:] = {CHAT!r}\n"
        "assert main() == 0\n"
        "frozen, others = gc.get_freeze_count(), len(gc.get_objects())\n"
        f"print(gc.isenabled(), others < frozen / 100, [name for name in {UNNEEDED!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["True True []"], done.stderr


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_is_collected_again_after_the_start(was_enabled):
    frozen = gc.get_freeze_count()
    (gc.enable if was_enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), starting():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()
    assert gc.get_freeze_count() == frozen  # this process runs on, and what is garbage in it must go
