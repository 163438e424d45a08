"""`--check_data` finds everything that would stop training, and lists the rows before the first step."""

import io
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from datasets import Dataset
from PIL import Image

from transformers_groma.cli import main
from transformers_groma.data.columns import (
    CONVERSATION_FEATURES,
    DETECTION_FEATURES,
    image_part,
    phrase_part,
    region_part,
    text_part,
)
from transformers_groma.data.mixtures import load_parts
from transformers_groma.training import alignment, detection, sft
from transformers_groma.training.collators import ConversationCollator
from transformers_groma.training.data_check import ConversationCheck, check_training_rows

from .rows import conversation, save_training_model, training_processor, turn


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_training_model(tmp_path_factory.mktemp("check") / "model")


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    for trainer in (sft.GromaSFTTrainer, alignment.GromaTrainer, detection.GromaDetectionTrainer):
        monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("training started"))


def png(width=40, height=30, cut=None) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()[:cut]


def with_messages(*messages, **changes):
    return conversation(1) | {"messages": [*messages]} | changes


def question(*parts):
    return {"role": "user", "content": [image_part(), *parts]}


def answer(*parts):
    return {"role": "assistant", "content": list(parts)}


GOOD = answer(text_part("Yes."))
LONG = "Where is the red one? " * 400
BAD = {
    "missing file": (
        conversation(1) | {"image": {"bytes": None, "path": "/no/such.png"}},
        "`image` cannot be read.*such.png",
    ),
    "not an image": (conversation(1) | {"image": {"bytes": b"GIF?", "path": None}}, "`image` cannot be read"),
    "cut image": (
        conversation(1) | {"image": {"bytes": png(cut=600), "path": None}},
        "`image` cannot be read.*truncated",
    ),
    "inverted box": (conversation(1) | {"boxes_xyxy": [[20, 1, 10, 9], [1, 1, 9, 9]]}, "x1 < x2"),
    "box outside": (conversation(1) | {"boxes_xyxy": [[1, 1, 900, 9], [1, 1, 9, 9]]}, "is outside the image"),
    "box without numbers": (conversation(1) | {"boxes_xyxy": [[1, 1, float("nan"), 9], [1, 1, 9, 9]]}, "finite"),
    "unknown part": (with_messages(question({"type": "video", "text": "", "boxes": []}), GOOD), "has type 'video'"),
    "region without box": (
        with_messages(question({"type": "region", "text": "", "boxes": []}), GOOD),
        "a region is one box",
    ),
    "box that does not exist": (with_messages(question(region_part(2)), GOOD), r"names boxes \[2\], but there are 2"),
    "no answer": (with_messages(question(text_part("Hello."))), "must end with an assistant message"),
    "no messages": (with_messages(), "`messages` is empty"),
    "two questions": (with_messages(question(), question(), GOOD), "must alternate"),
    "too many boxes": (
        with_messages(question(), answer(phrase_part("all", [0, 1] * 4))),
        "8 boxes, but the model has 6",
    ),
    "no image part": (
        with_messages({"role": "user", "content": [text_part("Hello.")]}, GOOD),
        "show 0 images, but the row has 1",
    ),
    "too long": (
        with_messages(question(text_part(LONG)), GOOD),
        "with its first answer alone.*more than `max_tokens`",
    ),
    "no content": (with_messages(question(), {"role": "assistant", "content": None}), "."),
    "no boxes": (conversation(1) | {"boxes_xyxy": None}, "."),
}


def write(path: Path, rows, features=CONVERSATION_FEATURES) -> Path:
    # Not `to_parquet`, which would read the image files.
    parquet.write_table(Dataset.from_list(rows, features=features).data.table, path)
    return path


def command(base, data, output, *more):
    return [
        "train", "sft", "--model_name_or_path", str(base), "--train_datasets", str(data), "--output_dir", str(output),
        "--check_data", "true", "--max_tokens", "512", "--use_cpu", "true", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_every_kind_of_fault_is_found(base, tmp_path, kind, capsys):
    row, message = BAD[kind]
    data = write(tmp_path / "rows.parquet", [conversation(0), conversation(2), row, conversation(3, text_only=True)])
    with pytest.raises(ValueError, match=f"found 1 of 4 rows.*Row 2 .*{message}"):
        sft.main(command(base, data, tmp_path / "output")[2:])
    (listed,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{data}: ")]
    assert listed.startswith(f"{data}: row 2 (image_id '1'): ")


def test_all_faults_are_listed_by_kind(base, tmp_path, capsys):
    """With the numbers of their rows, also behind a fault and in the second dataset, and exit code 2."""
    outside = [conversation(number) | {"boxes_xyxy": [[1, 1, 900 + number, 9], [1, 1, 9, 9]]} for number in range(30)]
    first = write(tmp_path / "first.parquet", [conversation(0), *outside, BAD["no answer"][0]])
    second = write(tmp_path / "second.parquet", [conversation(0), BAD["unknown part"][0], conversation(1)])
    arguments = command(base, first, tmp_path / "output")
    arguments[arguments.index("--output_dir") : arguments.index("--output_dir")] = [str(second)]
    assert main(arguments) == 2
    starts = (str(first), str(second), "  the same", "groma")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(starts)]
    assert lines[0].startswith(
        f"{first}: row 1 (image_id '0'): `boxes_xyxy[0]` [1.0, 1.0, 900.0, 9.0] is outside the image"
    )
    assert lines[1] == f"  the same in 29 more rows: {', '.join(map(str, range(2, 22)))}, …"
    assert lines[2].startswith(f"{first}: row 31 (image_id '1'): `messages` must end with")
    assert lines[3].startswith(f"{second}: row 1 (image_id '1'): `messages[0]['content'][1]` has type 'video'")
    assert len(lines) == 5
    assert lines[4].startswith(
        "groma train: error: `check_data` found 32 of 35 rows that would stop training, listed above."
    )
    assert not (tmp_path / "output" / "model.safetensors").exists()


def test_rows_are_numbered_as_in_their_file(base, tmp_path):
    """A share of a dataset is checked, under the numbers of the whole."""
    rows = [BAD["no answer"][0] if number % 2 else conversation(number) for number in range(20)]
    data = write(tmp_path / "rows.parquet", rows)
    (part,) = load_parts([f"{data}:0.5"], "conversation", seed=3)
    bad = [int(number) for number in part.rows if number % 2]
    assert len(part.dataset) == 10 and 0 < len(bad) < 10 and list(part.rows) != list(range(10))
    check = ConversationCheck(ConversationCollator(training_processor()), None)
    with pytest.raises(ValueError, match=f"found {len(bad)} of 10 rows.*Row {bad[0]} "):
        check_training_rows([part], check)


def test_good_rows_pass_and_are_counted(base, tmp_path, capsys, monkeypatch):
    class Started(Exception):
        pass

    def train(*_, **__):
        raise Started

    monkeypatch.setattr(sft.GromaSFTTrainer, "train", train)
    long = conversation(1)
    long["messages"] = [*long["messages"], *turn([text_part(LONG)], [text_part("Yes.")])]
    data = write(tmp_path / "rows.parquet", [conversation(0), long, conversation(2, text_only=True)])
    with pytest.raises(Started):
        sft.main(
            command(base, data, tmp_path / "output", "--eval_datasets", f"{data}@train", "--max_eval_rows", "1")[2:]
        )
    err = capsys.readouterr().err
    assert "checked 3 rows: none of them would stop training" in err
    assert "1 conversations are longer than 512 tokens and lose their last turns" in err
    assert "checked 1 rows" in err


def test_what_the_language_model_cannot_read(tmp_path):
    data = write(tmp_path / "rows.parquet", [conversation(0)])
    parts = load_parts([str(data)], "conversation")
    collator = ConversationCollator(training_processor())
    length = collator([parts[0].dataset[0]])["input_ids"].shape[1]
    assert check_training_rows(parts, ConversationCheck(collator, length)) == 1
    with pytest.raises(
        ValueError, match=f"has {length} tokens, more than the {length - 1} that the language model reads"
    ):
        check_training_rows(parts, ConversationCheck(collator, length - 1))
    # Exactly as long as allowed is not too long.
    check = ConversationCheck(ConversationCollator(training_processor(), max_length=length), None)
    assert check_training_rows(parts, check) == 1 and check.num_shortened == 0
    check = ConversationCheck(ConversationCollator(training_processor(), max_length=length - 1), None)
    assert check_training_rows(parts, check) == 1 and check.num_shortened == 1


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", torch.tensor([[-100, -100]]), "nothing to learn"),
        ("labels", torch.tensor([[-100, 5]]), None),
        ("proposal_boxes", torch.tensor([[0.5, float("inf")]]), "`proposal_boxes` has values that are not finite"),
    ],
)
def test_batches_that_would_stop_the_training(tmp_path, name, values, message, monkeypatch):
    parts = load_parts([str(write(tmp_path / "rows.parquet", [conversation(0)]))], "conversation")
    call = ConversationCollator.__call__
    monkeypatch.setattr(ConversationCollator, "__call__", lambda self, rows: {**call(self, rows), name: values})
    check = ConversationCheck(ConversationCollator(training_processor()), None)
    if message is None:
        assert check_training_rows(parts, check) == 1
        return
    with pytest.raises(ValueError, match=message):
        check_training_rows(parts, check)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"bytes": png(cut=600), "path": None}}, "`image` cannot be read"),
        ({"image": None}, "`image` is missing"),
        ({"boxes_xyxy": [[5, 5, 5, 9]]}, "x1 < x2"),
        ({"boxes_xyxy": [[1, 1, 42, 9]]}, "is outside the image"),
    ],
)
def test_faults_of_detection_rows(base, tmp_path, changes, message, capsys):
    good = {"image": {"bytes": png(), "path": None}, "image_id": "a", "boxes_xyxy": [[1, 1, 9, 9]], "source": "coco"}
    data = write(tmp_path / "rows.parquet", [good, good | changes | {"image_id": "b"}], DETECTION_FEATURES)
    arguments = [
        "--model_name_or_path",
        base,
        "--train_datasets",
        data,
        "--output_dir",
        tmp_path,
        "--check_data",
        "true",
    ]
    with pytest.raises(ValueError, match=f"found 1 of 2 rows.*Row 1 .image_id 'b'.*{message}"):
        detection.main([*map(str, arguments), "--use_cpu", "true"])


@pytest.mark.parametrize("more", [[], ["--check_data", "true"]])
def test_datasets_that_are_wrong_as_a_whole(base, tmp_path, more, capsys):
    """Wrong columns and no rows are found with or without a check of the rows."""
    whole = parquet.read_table(write(tmp_path / "whole.parquet", [conversation(0)]))
    parquet.write_table(whole.slice(0, 0), tmp_path / "empty.parquet")
    Dataset.from_list([{"text": "x"}]).to_parquet(tmp_path / "columns.parquet")
    (tmp_path / "damaged.parquet").write_bytes((tmp_path / "columns.parquet").read_bytes()[:-9])
    for name, message in (
        ("damaged", "damaged.parquet is not a complete Parquet file"),
        ("empty", "has no rows"),
        ("columns", "needs the column"),
        ("none", "does not exist"),
    ):
        data = tmp_path / f"{name}.parquet"
        assert main([*command(base, data, tmp_path / "output", *more)]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_list_of_rows_is_cut_above_twenty_only(tmp_path, capsys):
    rows = [conversation(number) | {"boxes_xyxy": [[1, 1, 900, 9], [1, 1, 9, 9]]} for number in range(22)]
    check = ConversationCheck(ConversationCollator(training_processor()), None)
    for count, ending in ((22, "20, …"), (21, "19, 20")):
        data = write(tmp_path / f"{count}.parquet", rows[:count])
        with pytest.raises(ValueError, match=f"found {count} of {count} rows"):
            check_training_rows(load_parts([str(data)], "conversation"), check)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  the same")]
        assert line.startswith(f"  the same in {count - 1} more rows: 1, 2, ") and line.endswith(ending)
    check.say()
    assert capsys.readouterr().err == ""
