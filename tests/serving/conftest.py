"""Fixtures of the engine's tests."""

import pytest
import torch

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.serving.engine import Engine

from ..tiny import MASK_DECODER, spread_proposals
from ..tiny_checkpoint import save_tiny_checkpoint
from .engines import PATIENCE, Gate, Steps, load


@pytest.fixture(scope="session")
def tiny_folder(golden_dir, tmp_path_factory):
    """The very small random model as a folder."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("serving") / "tiny", golden_dir)


@pytest.fixture(scope="session")
def tiny_parts(tiny_folder):
    """The very small model and its processor. Don't change them."""
    return load(tiny_folder)


@pytest.fixture(scope="session")
def masked_parts(tiny_parts):
    """The very small model with a mask decoder that makes one mask or three, and its processor."""
    model, processor = tiny_parts
    torch.manual_seed(0)
    config = model.config.to_dict()
    config["mask_decoder_config"] = {**MASK_DECODER, "num_multimask_outputs": 3}
    masked = GromaForConditionalGeneration(type(model.config)(**config)).eval()
    masked.load_state_dict(model.state_dict(), strict=False)
    spread_proposals(masked.model.region_proposer)
    masked.generation_config = model.generation_config
    return masked, processor


@pytest.fixture
def make_engine(tiny_parts):
    """Makes engines of the very small model, and closes them in the end."""
    engines = []

    def make(**settings) -> Engine:
        engines.append(Engine(*tiny_parts, **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(PATIENCE)


@pytest.fixture
def make_gate(monkeypatch):
    """Makes gates before engines, and opens them in the end."""
    gates = []

    def make(engine: Engine) -> Gate:
        gates.append(Gate(engine, monkeypatch))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def slow_steps(tiny_parts):
    """Steps of the very small model, 10 ms each."""
    steps = Steps(tiny_parts[0], 0.01)
    yield steps
    steps.remove()
