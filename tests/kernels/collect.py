"""Brings each kernel's own tests into the main suite."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

KERNELS_DIR = Path(__file__).parents[2] / "kernels"

# Where torch is a CUDA build, the kernels library takes builds for its CUDA version alone.
TAKES_CPU_BUILDS = torch.version.cuda is None


def load_file(path: Path) -> ModuleType:
    """A Python file as a module; it need not be in a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernel_tests(kernel: str) -> dict:
    """Everything in `kernels/<kernel>/tests/test_<kernel>.py`, for `globals().update`: tests, fixtures, helpers."""
    pytest.importorskip("kernels", reason="the kernels library is not installed")
    name = kernel.replace("-", "_")
    module = load_file(KERNELS_DIR / kernel / "tests" / f"test_{name}.py")
    return {key: value for key, value in vars(module).items() if not key.startswith("__")}
