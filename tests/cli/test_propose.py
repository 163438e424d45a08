"""`groma propose`."""

import json

import torch
from PIL import Image

from .samples import PHOTO


def test_propose_finds_what_the_whole_model_offers(run, chat, tiny_dir, detector_dir, tmp_path):
    offered = json.loads(chat("What is this?", "--json")[1])["regions"]
    code, out, err = run("propose", PHOTO, "--model", tiny_dir, "--json", "--output", tmp_path)
    assert code == 0 and str(tmp_path) in err
    regions = json.loads(out)["regions"]
    assert [region["id"] for region in regions] == list(range(len(offered)))
    boxes, wanted = ([region["box_xyxy"] for region in rows] for rows in (regions, offered))
    torch.testing.assert_close(torch.tensor(boxes), torch.tensor(wanted), rtol=0, atol=0.02)
    assert json.loads((tmp_path / "proposals.json").read_text())["regions"] == regions
    with Image.open(tmp_path / "proposals.png") as drawn:
        assert drawn.size == (800, 601)
    # A detector alone gives the same.
    assert json.loads(run("propose", PHOTO, "--model", detector_dir, "--json")[1])["regions"] == regions


def test_a_glamm_proposes_nothing_and_what_to_do_instead_is_said(run, tmp_path):
    """Its settings are enough to know; an adapter of it is refused in the same words."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "glamm"}))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    for model in (tmp_path, adapter):
        code, out, err = run("propose", PHOTO, "--model", model)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert str(model) in err and "no region proposer" in err and "groma segment IMAGE --point" in err


def test_propose_prints_a_table(run, tiny_dir):
    code, out, err = run("propose", PHOTO, "--model", tiny_dir)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{len(lines) - 1} regions")
    assert lines[1].split()[0] == "r0" and len(lines[1].split()) == 6
