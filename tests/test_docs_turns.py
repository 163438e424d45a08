"""docs/several-turns.md runs from start to end, and encodes the image once."""

from pathlib import Path

import torch

from tests.run_document import blocks
from transformers_groma.models.groma.modeling_groma_base import GromaPreTrainedModel

REPOSITORY = Path(__file__).parents[1]


def test_it_runs(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    python = [text for language, text in blocks(Path("docs/several-turns.md")) if language == "python"]
    looks, look = [], GromaPreTrainedModel.detect

    def counted(self, pixel_values: torch.Tensor, **kwargs):
        looks.append(len(pixel_values))
        return look(self, pixel_values, **kwargs)

    monkeypatch.setattr(GromaPreTrainedModel, "detect", counted)
    namespace: dict = {}
    exec(compile(python[0], "turns", "exec"), namespace)
    assert looks == [1]
    output, turn = namespace["output"], namespace["turn"]
    height, width = namespace["sizes"][0]
    box = torch.tensor([30 / width, 60 / height, 160 / width, 200 / height])
    slot = int(output.region_mask.sum()) - 1
    x, y, w, h = output.region_boxes[0, slot]
    torch.testing.assert_close(torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]), box)
    assert turn["refer_boxes"].shape == (1, 1, 4)
    assert capsys.readouterr().out.startswith("A small striped black star.")
    exec(compile(python[1], "turns", "exec"), namespace)
    assert looks == [1, 1]
    exec(compile(python[2], "turns", "exec"), namespace)
    assert looks == [1, 1, 1]
    assert namespace["step"].num_regions.tolist() == [slot + 1]
