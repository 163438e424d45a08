"""Complete and incomplete checkpoints, and one training per output folder."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as distributed_checkpoint

from transformers_groma._locks import locked
from transformers_groma._output_errors import OutputError
from transformers_groma.cli import main as groma
from transformers_groma.training import outputs
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.outputs import alone_in_its_output, fault_of_checkpoint, last_checkpoint
from transformers_groma.training.trainer import GromaTrainer

from .rows import (
    command_line,
    conversations,
    run_alignment,
    save_training_model,
    training_arguments,
    training_model,
    training_processor,
    write_conversations,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A checkpoint as `Trainer` writes it."""
    folder = tmp_path_factory.mktemp("training")
    trainer = GromaTrainer(
        model=training_model(),
        args=training_arguments(folder, max_steps=1, save_strategy="steps", save_steps=1),
        data_collator=ConversationCollator(training_processor()),
        train_dataset=conversations(4),
    )
    trainer.train()
    return folder / "checkpoint-1"


@pytest.fixture
def checkpoint(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "output" / "checkpoint-1"))


def test_what_the_trainer_writes_is_whole(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
    assert fault_of_checkpoint(checkpoint) is None
    assert fault_of_checkpoint(str(checkpoint)) is None


def cut(path: Path, bytes_kept: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:bytes_kept])


TORCH_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
FILES = ("model.safetensors", *TORCH_FILES, "trainer_state.json", "config.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", ["nothing", "a bit", "half", "nearly all"])
def test_no_file_may_be_cut(checkpoint, name, kept):
    path = checkpoint / name
    size = path.stat().st_size
    cut(path, {"nothing": 0, "a bit": 9, "half": size // 2, "nearly all": size - 2}[kept])
    fault = fault_of_checkpoint(checkpoint)
    assert fault.startswith(name) and ("is empty" in fault) == (kept == "nothing"), fault


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_no_file_may_be_missing(checkpoint, name):
    (checkpoint / name).unlink()
    fault = fault_of_checkpoint(checkpoint)
    assert fault == ("it holds no weights" if name == "model.safetensors" else f"{name} is missing")


def test_weights_alone_are_a_whole_checkpoint(checkpoint):
    """With `save_only_model`."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    assert fault_of_checkpoint(checkpoint) is None


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("trainer_state.json", b"[]", "trainer_state.json is cut or damaged"),
        ("trainer_state.json", b"{}", "trainer_state.json has no `global_step`"),
        ("trainer_state.json", b'{"global_step": "1"}', "trainer_state.json has no `global_step`"),
        ("adapter_config.json", b"{", "adapter_config.json is cut or damaged"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0[]", "model.safetensors is not a file of weights"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{'a': 1}", "model.safetensors is not a file of weights"),
        ("model.safetensors", b'\x08\0\0\0\0\0\0\0{"a": 1}', "model.safetensors is not a file of weights"),
        ("model.safetensors", b"\xff" * 20, "model.safetensors is cut"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "model.safetensors has no values in it"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}x", "model.safetensors is longer than its weights"),
        ("adapter_model.safetensors", b"", "adapter_model.safetensors is empty"),
        ("pytorch_model.bin", b"", "pytorch_model.bin is empty"),
        ("pytorch_model.bin", b"PK", "pytorch_model.bin is cut or damaged"),
        ("optimizer.pt", bytes(1000), "optimizer.pt is cut or damaged"),
    ],
)
def test_files_that_are_not_what_their_names_say(checkpoint, name, content, fault):
    (checkpoint / name).write_bytes(content)
    assert fault_of_checkpoint(checkpoint) == fault


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_were_not_gathered(checkpoint, name):
    save = save_file if name.endswith("safetensors") else torch.save
    (checkpoint / "model.safetensors").unlink()
    for values, fault in ((0, f"{name} has no values in it"), (1, None)):
        save({"a": torch.zeros(0), "b": torch.zeros(values)}, checkpoint / name)
        assert fault_of_checkpoint(checkpoint) == fault
    save({}, checkpoint / name)
    assert fault_of_checkpoint(checkpoint) == f"{name} has no values in it"
    (checkpoint / "global_step3").mkdir()
    assert fault_of_checkpoint(checkpoint) is None, "DeepSpeed has them elsewhere"


def test_small_files_are_read_to_the_last_byte(checkpoint, monkeypatch):
    """A block that never reached the disk is zeros in the middle of a file."""
    path = checkpoint / "rng_state.pth"
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    middle = largest.header_offset + largest.file_size // 2
    content[middle : middle + 64] = bytes(64) if any(content[middle : middle + 64]) else b"\1" * 64
    path.write_bytes(content)
    assert fault_of_checkpoint(checkpoint) == "rng_state.pth is damaged"
    monkeypatch.setattr(outputs, "SMALL", path.stat().st_size - 1)
    assert fault_of_checkpoint(checkpoint) is None


@pytest.fixture
def sharded(checkpoint) -> Path:
    (checkpoint / "model.safetensors").unlink()
    training_model().save_pretrained(checkpoint, max_shard_size="200KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 2
    return checkpoint


def test_shards_of_weights(sharded):
    assert fault_of_checkpoint(sharded) is None
    path = sorted(sharded.glob("model-*.safetensors"))[1]
    content = path.read_bytes()
    cut(path, len(content) - 1)
    assert fault_of_checkpoint(sharded) == f"{path.name} is cut"
    path.unlink()
    assert fault_of_checkpoint(sharded) == f"{path.name} is missing, which model.safetensors.index.json names"
    shutil.copy(sorted(sharded.glob("model-*.safetensors"))[0], path)
    assert path.name in fault_of_checkpoint(sharded) and "has no " in fault_of_checkpoint(sharded)
    path.write_bytes(content)
    index = sharded / "model.safetensors.index.json"
    for text, fault in (("", "is empty"), ('{"weight_map": {}}', "has no `weight_map`"), ("{}", "has no `weight_map`"),
                        ('{"weight_map": []}', "has no `weight_map`"), ("{", "is cut or damaged")):  # fmt: skip
        index.write_text(text)
        assert fault_of_checkpoint(sharded) == f"{index.name} {fault}"
    index.unlink()
    assert fault_of_checkpoint(sharded) == "it holds no weights"


def test_shards_of_torch(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"a": torch.ones(3)}, checkpoint / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert fault_of_checkpoint(checkpoint) is None
    cut(checkpoint / "pytorch_model-00001-of-00001.bin", 50)
    assert fault_of_checkpoint(checkpoint) == "pytorch_model-00001-of-00001.bin is cut or damaged"


@pytest.mark.parametrize("folder", ["pytorch_model_fsdp_0", "optimizer_0"])
def test_folders_of_several_processes(checkpoint, folder):
    """As FSDP writes them."""
    for name in ("model.safetensors", "optimizer.pt"):
        (checkpoint / name).unlink()
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        distributed_checkpoint.save({"a": torch.ones(100)}, checkpoint_id=checkpoint / name, no_dist=True)
    assert fault_of_checkpoint(checkpoint) is None
    (part,) = (checkpoint / folder).glob("*.distcp")
    content = part.read_bytes()
    cut(part, len(content) - 1)
    assert fault_of_checkpoint(checkpoint) == f"{folder} has no whole {part.name}"
    part.unlink()
    assert fault_of_checkpoint(checkpoint) == f"{folder} has no whole {part.name}"
    part.write_bytes(content)
    cut(checkpoint / folder / ".metadata", 20)
    assert fault_of_checkpoint(checkpoint) == f"{folder} has no readable .metadata"
    (checkpoint / folder / ".metadata").unlink()
    assert fault_of_checkpoint(checkpoint) == f"{folder} has no readable .metadata"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_random_numbers_of_several_processes(checkpoint, missing):
    """Each writes a file, and not all at the same time."""
    for index in range(3):
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / f"rng_state_{index}.pth")
    (checkpoint / "rng_state.pth").unlink()
    assert fault_of_checkpoint(checkpoint) is None
    (checkpoint / f"rng_state_{missing}.pth").unlink()
    if missing < 2:
        assert fault_of_checkpoint(checkpoint) == f"rng_state_{missing}.pth is missing"
        return
    assert fault_of_checkpoint(checkpoint) is None  # as of two processes
    (checkpoint / "rng_state_1.pth").unlink()
    assert fault_of_checkpoint(checkpoint) == "rng_state_1.pth is missing"


def test_folders_of_deepspeed(checkpoint):
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    (checkpoint / "global_step1").mkdir()
    path = checkpoint / "global_step1" / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save({"a": torch.ones(3)}, path)
    assert fault_of_checkpoint(checkpoint) is None
    cut(path, 100)
    assert fault_of_checkpoint(checkpoint) == f"global_step1/{path.name} is cut or damaged"


def test_the_last_whole_checkpoint_is_taken(written, tmp_path, caplog):
    for resume in (None, False, "false", "False"):
        assert last_checkpoint(str(tmp_path), resume) is None
    for step in (2, 10, 9):
        shutil.copytree(written, tmp_path / f"checkpoint-{step}")
    for resume in (True, "true", "True", "auto"):
        assert last_checkpoint(str(tmp_path / "new"), resume) is None
        assert last_checkpoint(str(tmp_path), resume) == str(tmp_path / "checkpoint-10")
    assert caplog.text == ""
    # Its writing was interrupted, and the weights of the one before never reached the disk.
    (tmp_path / "checkpoint-10" / "trainer_state.json").unlink()
    cut(tmp_path / "checkpoint-9" / "model.safetensors", 0)
    assert last_checkpoint(str(tmp_path), "true") == str(tmp_path / "checkpoint-2")
    assert f"{tmp_path / 'checkpoint-10'} is not a complete checkpoint: trainer_state.json is missing." in caplog.text
    assert f"{tmp_path / 'checkpoint-9'} is not a complete checkpoint: model.safetensors is empty." in caplog.text
    assert "starts from the beginning" not in caplog.text
    cut(tmp_path / "checkpoint-2" / "optimizer.pt", 100)
    assert last_checkpoint(str(tmp_path), "true") is None
    assert f"{tmp_path} has no complete checkpoint: training starts from the beginning." in caplog.text


def test_a_named_checkpoint_must_be_whole(checkpoint, tmp_path):
    assert last_checkpoint("elsewhere", str(checkpoint)) == str(checkpoint)
    cut(checkpoint / "scheduler.pt", 10)
    with pytest.raises(
        ValueError, match=f"`resume_from_checkpoint` {checkpoint} is not a complete .*: scheduler.pt is cut"
    ):
        last_checkpoint("elsewhere", str(checkpoint))
    with pytest.raises(
        ValueError, match="some/folder is not a complete checkpoint: it is not a folder. Name another one"
    ):
        last_checkpoint("elsewhere", "some/folder")
    with pytest.raises(ValueError, match="output is not a complete checkpoint: trainer_state.json is missing"):
        last_checkpoint("elsewhere", str(checkpoint.parent))


@pytest.mark.parametrize("stage", ["alignment", "sft", "detection"])
def test_a_named_checkpoint_is_refused_before_anything_is_loaded(checkpoint, tmp_path, capsys, stage):
    cut(checkpoint / "model.safetensors", 0)
    arguments = [
        "--output_dir",
        str(tmp_path / "new"),
        "--resume_from_checkpoint",
        str(checkpoint),
        "--use_cpu",
        "true",
    ]
    arguments += ["--bf16", "false", "--report_to", "none", "--train_datasets", "no/such"]
    assert groma(["train", stage, *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("groma")]
    assert (
        f"error: `resume_from_checkpoint` {checkpoint} is not a complete checkpoint: model.safetensors is empty."
        in line
    )
    with locked(tmp_path / "new" / "_training.lock", "new"):
        assert groma(["train", stage, *arguments]) == 2
    assert f"error: {tmp_path / 'new'} is being written by another process" in capsys.readouterr().err


@pytest.fixture
def stage():
    """A stage that says what it was given, and runs what a test wants in between."""

    @alone_in_its_output
    def train(script_args, training_args, more=None):
        """A stage."""
        return script_args() if callable(script_args) else (script_args, more)

    return train


def test_one_training_an_output_folder(stage, tmp_path):
    first = training_arguments(tmp_path / "output")
    assert stage.__doc__ == "A stage." and stage("a", first, more="b") == ("a", "b")

    def meanwhile():
        # What `Trainer` pushes to the Hub leaves names that begin with `_` out.
        assert os.listdir(tmp_path / "output") == ["_training.lock"]
        with pytest.raises(OutputError, match=f"^{tmp_path / 'output'} is being written by another process: wait"):
            stage("second", first)
        return stage("other", training_arguments(tmp_path / "other"))

    assert stage(meanwhile, first) == ("other", None)
    assert list((tmp_path / "output").iterdir()) == []


def test_processes_of_one_training_do_not_hinder_one_another(stage, tmp_path, monkeypatch):
    first = training_arguments(tmp_path / "output")
    second = training_arguments(tmp_path / "output")
    monkeypatch.setattr(type(second), "process_index", property(lambda arguments: int(arguments is second)))
    assert stage(lambda: stage("second", second), first) == ("second", None)
    with pytest.raises(OutputError):
        stage(lambda: stage("first", first), first)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "x"), RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")],
)
def test_a_full_disk_names_the_output_folder(tmp_path, monkeypatch, error, capsys):
    """While a checkpoint is written, by whichever library."""
    base, data, output = (
        save_training_model(tmp_path / "base"),
        write_conversations(tmp_path / "data", 4),
        tmp_path / "out",
    )

    def full(*_, **__):
        raise error

    monkeypatch.setattr(GromaTrainer, "_save_optimizer_and_scheduler", full)
    arguments = command_line(base, data, output, max_steps=1, save_strategy="steps", save_steps=1)
    assert groma(["train", "alignment", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("groma")]
    assert line.startswith(f"groma train: error: {output} cannot be written (")
    monkeypatch.undo()
    # What was written of it is not resumed from.
    assert "is missing" in fault_of_checkpoint(output / "checkpoint-1")
    trainer = run_alignment([*map(str, arguments), "--resume_from_checkpoint", "true"])
    assert trainer.state.global_step == 1 and fault_of_checkpoint(output / "checkpoint-1") is None


def test_an_output_folder_that_cannot_be_made(tmp_path, stage):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"^{tmp_path / 'file'} cannot be written"):
        stage("a", training_arguments(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
