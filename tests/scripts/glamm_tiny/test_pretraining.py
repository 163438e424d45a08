"""Pretraining of glamm-tiny's parts: rows and targets are true, and resuming changes nothing."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scripts.glamm_tiny import pretrain_grounding as grounding
from scripts.glamm_tiny import pretrain_language_model as language
from scripts.glamm_tiny import pretrain_vision as vision
from scripts.glamm_tiny.language_rows import RowMaker
from scripts.glamm_tiny.tokens import build_tokenizer
from scripts.groma_tiny import pretraining
from scripts.groma_tiny.card import MODEL
from scripts.groma_tiny.pretraining import Pretraining, Schedule
from transformers_groma import GromaForConditionalGeneration, GromaProcessor
from transformers_groma.models.modeling_positions import IGNORED_LABEL
from transformers_groma.shapes.scenes import ATTRIBUTE_WORDS, Attributes, make_scene
from transformers_groma.shapes.wording import words as in_words
from transformers_groma.shapes.world import world_of

SHORT = Schedule(learning_rate=1e-3, steps=2, warmup_steps=1, decay_steps=1)


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def make_row() -> RowMaker:
    return RowMaker(build_tokenizer(), num_image_tokens=4)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a grounding encoder and a vision encoder that learned for a moment."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as context:
        for module in (grounding, vision):
            context.setattr(module, "BATCH_SIZE", 1)
        for name in ("WATCHED", "LAST_WATCHED"):
            context.setattr(grounding, name, 1)
        grounding.pretrain_grounding(folder / "grounding", SHORT)
        vision.pretrain_vision(folder / "vision", SHORT)
    return folder


def test_a_share_of_the_learning_rate_is_for_what_learns_slower(tmp_path):
    module = torch.nn.ModuleDict({"old": torch.nn.Linear(2, 2), "new_layers": torch.nn.Linear(2, 2)})
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    schedule = Schedule(learning_rate=0.1, steps=1, warmup_steps=1, decay_steps=1)
    training = Pretraining(module, "layers", schedule, tmp_path, slower={"old.": 0.0})
    training.run(lambda step: (sum(weight.sum() for weight in module.parameters()), {}), "test")
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"new_layers.weight", "new_layers.bias"}


def test_a_killed_training_resumes_and_ends_the_same(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(language, "BATCH_SIZE", 1)
    monkeypatch.setattr(language, "WATCHED", 1)
    monkeypatch.setattr(language, "DRILL_STEPS", 1)
    monkeypatch.setattr(pretraining, "SAVE_STEPS", 1)
    folders = parts / "vision", parts / "grounding"
    language.pretrain_language_model(*folders, tmp_path / "whole", SHORT)
    with monkeypatch.context() as context:
        rate = Schedule.rate

        def killed_at_1(schedule: Schedule, step: int) -> float:
            if step == 1:
                raise Killed
            return rate(schedule, step)

        context.setattr(Schedule, "rate", killed_at_1)
        with pytest.raises(Killed):
            language.pretrain_language_model(*folders, tmp_path / "killed", SHORT)
    assert (tmp_path / "killed" / "checkpoint.pt").exists()
    language.pretrain_language_model(*folders, tmp_path / "killed", SHORT)
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    whole, killed = (load_file(tmp_path / name / language.WEIGHTS) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(killed[name], weight, rtol=0, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- grounding


@pytest.mark.parametrize("kind", grounding.PROMPTS)
def test_prompts_mean_their_objects(kind):
    scenes = [make_scene(0, "train", index) for index in range(2)]
    chosen = [[(0,), (1,)], [(2,)]]
    prompted = grounding.draw_prompts(scenes, kind, chosen, np.random.default_rng(0))
    assert prompted.image_index.tolist() == [0, 0, 1]
    meant = [scenes[0].objects[0], scenes[0].objects[1], scenes[1].objects[2]]
    for number, item in enumerate(meant):
        x, y = (prompted.points[number, 0] * scenes[0].image_size).long().tolist()
        assert item.mask[y, x]
        assert prompted.targets[number].sum() * 4 == pytest.approx(item.mask.sum())
        for value, word, words in zip(
            prompted.attributes[number].tolist(), item.attributes, ATTRIBUTE_WORDS.values(), strict=True
        ):
            assert value in (-1, words.index(word))
        box = torch.tensor(item.box_xyxy) / scenes[0].image_size
        sides = (box[2:] - box[:2]).repeat(2)
        said = prompted.boxes[number]
        corners = torch.cat([said[:2] - said[2:] / 2, said[:2] + said[2:] / 2])
        noise = grounding.GROUP_NOISE if kind == "group" else grounding.DESCRIPTION_NOISE
        assert ((corners - box).abs() <= noise * sides + 1e-5).all()


def test_a_group_is_told_by_the_box_around_it_and_what_it_has_in_common():
    rng = np.random.default_rng(0)
    sizes = set()
    for index in range(12):
        scene = make_scene(0, "train", index)
        group = grounding.draw_group(scene, rng)
        told = grounding.describe(scene, group)
        sizes.add(len(group))
        items = [scene.objects[one] for one in group]
        lefts, tops, rights, bottoms = zip(*(item.box_xyxy for item in items), strict=True)
        assert told.box.tolist() == [min(lefts), min(tops), max(rights), max(bottoms)]
        assert (told.mask == sum(item.mask for item in items).astype(bool)).all()
        names = [
            words[number] if number >= 0 else None
            for number, words in zip(told.attributes, ATTRIBUTE_WORDS.values(), strict=True)
        ]
        for place, name in enumerate(names):
            assert (name is None) == (len({item.attributes[place] for item in items}) > 1)
        # What they have in common fits no other object: the decoder can tell which ones are meant.
        assert world_of(scene).matches(Attributes(*names)) == group
    assert 1 in sizes and len(sizes) > 1


def test_what_is_not_said_does_not_change_a_description():
    learner = grounding.GroundingLearner()
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(3, 1)
    unsaid, red, blue = learner.descriptions(boxes, torch.tensor([[-1, -1, -1, -1], [-1, -1, 0, -1], [-1, -1, 1, -1]]))
    learner.descriptions.words["color"].weight.data.zero_()
    again = learner.descriptions(boxes[:1], torch.tensor([[-1, -1, -1, -1]]))[0]
    torch.testing.assert_close(unsaid, again)
    assert not torch.allclose(red, blue)


# -------------------------------------------------------------------------------------------------------------- vision


def test_places_are_those_of_the_description():
    for index in range(5):
        scene = make_scene(3, "train", index)
        described = vision.described_objects(scene)
        lefts = [sum(scene.objects[one].box_xyxy[::2]) for one in described]
        assert lefts == sorted(lefts) and len(described) == min(6, len(scene.objects))
        places, owners = vision.place_targets(scene, 16), vision.owner_targets(scene, 16)
        for one in range(len(scene.objects)):
            wanted = described.index(one) + 1 if one in described else vision.LEFT_OUT
            assert (places[owners == one] == wanted).all()


# ------------------------------------------------------------------------------------------------------ language model


@pytest.mark.parametrize("kind", ["drill", "conversation", "description"])
def test_segments_are_predicted_by_the_token_before(make_row, kind):
    for index in range(8):
        scene = make_scene(4, "train", index)
        row = getattr(make_row, kind)(world_of(scene), np.random.default_rng(index))
        assert len(row.input_ids) == len(row.labels)
        assert row.input_ids.count(make_row.image_id) == 4
        assert row.input_ids.count(make_row.region_id) == len(row.regions)
        places = [place for place, token in enumerate(row.input_ids) if token == make_row.segment_id]
        assert [place + 1 for place, _ in row.segments] == places
        for _, objects in row.segments:
            assert objects and set(objects) <= set(range(len(scene.objects)))


def test_drills_name_all_objects_that_they_mean(make_row):
    shapes = {in_words(Attributes(shape=shape), plural=True): shape for shape in ATTRIBUTE_WORDS["shape"]}
    groups = set()
    for index in range(12):
        world = world_of(make_scene(4, "train", index))
        row = make_row.drill(world, np.random.default_rng(index))
        assert set(row.labels) == {IGNORED_LABEL}
        said = make_row.tokenizer.decode(row.input_ids).split("<p>")[1:]
        for text, (_, objects) in zip(said, row.segments, strict=True):
            words = text.split("</p>")[0].split()
            if {"leftmost", "rightmost", "topmost", "bottommost", "left", "right", "above", "below"} & set(words):
                assert len(objects) == 1
                continue
            words = {shapes.get(word, word) for word in words} - {"the", "a", "object", "objects"}
            fitting = {one for one, known in enumerate(world.attributes) if words <= set(known)}
            assert fitting == set(objects), text
            groups.add(len(objects))
    assert 1 in groups and max(groups) > 1


def test_a_question_in_the_plural_has_one_segment_for_all(make_row):
    found = set()
    for index in range(12):
        world = world_of(make_scene(4, "train", index))
        row = make_row.conversation(world, np.random.default_rng(index), {"grounding": 1.0})
        questions = make_row.tokenizer.decode(row.input_ids).count("ASSISTANT: Sure, they are")
        assert questions == len(row.segments) > 0
        found |= {len(objects) for _, objects in row.segments}
    assert 1 in found and max(found) > 1


def test_conversations_learn_answers_alone(make_row):
    tokenizer = make_row.tokenizer
    for index in range(8):
        row = make_row.conversation(world_of(make_scene(4, "train", index)), np.random.default_rng(index))
        text = tokenizer.decode(row.input_ids)
        learned = tokenizer.decode([label for label in row.labels if label != IGNORED_LABEL])
        answers = [part.split("</s>")[0] for part in text.split("ASSISTANT:")[1:]]
        assert "".join(learned.split()) == "".join("".join(f"{answer}</s>" for answer in answers).split())


def test_words_keep_the_vectors_of_groma_tiny():
    tokenizer = build_tokenizer()
    table = language.language_model_from_groma(tokenizer).embed_tokens.weight
    old = GromaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).get_input_embeddings().weight
    known = GromaProcessor.from_pretrained(MODEL).tokenizer.get_vocab()
    for token in ("Ġred", "Ġhexagon", "<p>", "ĠASSISTANT"):
        assert torch.equal(table[tokenizer.get_vocab()[token]], old[known[token]])
    for token, alike in language.ALIKE.items():
        assert torch.equal(table[tokenizer.get_vocab()[token]], old[known[alike]])
