"""Masks of the engine: of answers and of regions that are pointed at, also of models without a mask decoder."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import MASK_DECODER
from transformers_groma import GromaForConditionalGeneration
from transformers_groma.answer_masks import add_masks, shown_regions
from transformers_groma.image_inputs import ImageSize
from transformers_groma.masks import mask_to_rle, masks_of_logits, rle_area, rle_to_box, rle_to_mask
from transformers_groma.perceived_images import perceive
from transformers_groma.serving.engine import Engine, ModelFailedError
from transformers_groma.serving.mask_threads import MaskThreads
from transformers_groma.serving.row_masks import DecodedMasks, MaskSource

from .engines import PATIENCE, conversation, noise, run, tokens, until

SIZE = ImageSize(height=40, width=60)
MASK = np.zeros((40, 60), bool)
MASK[5:20, 10:30] = True
REGIONS = (
    {"box": [10, 5, 30, 20]},
    {"point": [40, 25]},
    {"points": [[40, 25], [5, 5]], "labels": [1, 0]},
    {"scribble": [[35, 20], [50, 30]]},
    {"mask": mask_to_rle(MASK)},
)


@pytest.fixture
def engine(masked_parts):
    engine = Engine(*masked_parts)
    yield engine
    engine.close(PATIENCE)


def test_answers_have_masks_of_what_they_name_and_of_the_users_regions(engine, masked_parts):
    model, processor = masked_parts
    answer = run(engine.answer(conversation(*REGIONS), tokens(40), masks=True))
    numbers = shown_regions(answer.grounded)
    assert list(answer.masks) and sorted(answer.masks) == sorted(numbers) and set(range(5)) <= set(numbers)
    assert all(rle["size"] == [40, 60] for rle in answer.masks.values())
    assert answer.masks[4] == mask_to_rle(MASK)  # the user's own stays
    assert answer.mask_scores.keys() == answer.masks.keys() - {4}
    # As the pipeline decodes them, up to the pixels where numbers differ in their last digits.
    with torch.no_grad():
        [seen] = perceive(model, processor, [noise()])
        boxes = answer.grounded.regions.xyxy / torch.tensor([60, 40, 60, 40])
        boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
        features = model.encode_regions(seen.features, boxes[None, :5])
    [expected] = add_masks(model, features, [answer.grounded], [SIZE])
    decoded = {number: rle_to_mask(rle) for number, rle in answer.masks.items()}
    clicked = (1, 2, 3, 4)
    for number in set(numbers) - set(clicked):
        assert (decoded[number] == expected.masks[number]).mean() > 0.99
    assert answer.grounded.with_masks(decoded).masks.keys() == answer.masks.keys()


def test_without_the_wish_there_are_no_masks(engine):
    answer = run(engine.answer(conversation(*REGIONS), tokens(8)))
    assert answer.masks == {} and answer.grounded.masks == {}


def test_a_question_without_an_image_has_none(engine):
    answer = run(engine.answer([{"role": "user", "content": "What?"}], tokens(4), masks=True))
    assert answer.masks == {}


def test_only_the_last_part_of_a_stream_has_masks(engine):
    async def stream():
        return [answer async for answer in engine.stream(conversation(REGIONS[1]), tokens(30), masks=True)]

    *partial, last = run(stream())
    assert all(answer.masks == {} for answer in partial)
    assert 0 in last.masks


def test_a_click_is_referred_to_by_the_box_of_its_mask(engine, masked_parts):
    model, processor = masked_parts
    answer = run(engine.answer(conversation(REGIONS[1]), tokens(8), masks=True))
    [found] = run(engine.resolve(noise(), [REGIONS[1]]))
    assert answer.masks[0] == found.mask
    own = answer.grounded.user_regions
    assert np.allclose(own.box, model_box(model, processor, REGIONS[1]["point"]), atol=0.02)
    assert np.abs(np.array(found.box) - own.box.numpy()).max() <= 1.5  # the model's square has other pixels


def model_box(model, processor, point):
    """The box of a click as the model says, in pixels."""
    [seen] = perceive(model, processor, [noise()])
    points = torch.tensor([[[[point[0] / 60, point[1] / 40]]]])
    resolved = model.resolve_points(
        seen.features,
        refer_boxes=torch.full((1, 1, 4), 0.5),
        refer_points=points,
        refer_point_labels=torch.ones(1, 1, 1).long(),
    )
    x, y, width, height = resolved.boxes[0, 0].tolist()
    return [60 * (x - width / 2), 40 * (y - height / 2), 60 * (x + width / 2), 40 * (y + height / 2)]


def test_resolve_says_what_points_stand_for_and_leaves_boxes(engine):
    box, point, points, scribble, mask = run(engine.resolve(noise(), REGIONS))
    assert box.mask is None and box.score is None and np.allclose(box.box, [10, 5, 30, 20], atol=1e-4)
    for region in (point, points, scribble):
        assert region.mask["size"] == [40, 60] and 0 <= region.score <= 1
        assert rle_area(region.mask) == 0 or list(region.box) == rle_to_box(region.mask).tolist()
    assert mask.mask == mask_to_rle(MASK) and mask.score is None and mask.box == (10, 5, 30, 20)


def test_segment_gives_every_region_a_mask(engine, masked_parts):
    found = run(engine.segment(noise(), REGIONS))
    assert [region.mask is not None for region in found] == [True] * 5
    assert [region.score is None for region in found] == [False] * 4 + [True]
    assert [region.mask for region in found[1:]] == [
        region.mask for region in run(engine.resolve(noise(), REGIONS))[1:]
    ]
    model, processor = masked_parts
    [seen] = perceive(model, processor, [noise()])
    masks = model.segment(seen.features, boxes=torch.tensor([[[20 / 60, 12.5 / 40, 20 / 60, 15 / 40]]]))
    assert found[0].mask == mask_to_rle(masks_of_logits(masks.logits[0, 0, :1], 40, 60)[0])
    assert found[0].score == pytest.approx(float(masks.quality))
    # The image is looked at once, for all of it.
    assert engine.snapshot().cached_images == 1 and engine.snapshot().cache_misses == 1


def test_requests_of_all_kinds_share_the_engine(engine):
    async def ask_all():
        return await asyncio.gather(
            engine.answer(conversation(REGIONS[1], REGIONS[0]), tokens(20), masks=True),
            engine.segment(noise(), REGIONS),
            engine.answer(conversation(REGIONS[0]), tokens(12)),
            engine.propose(noise()),
            engine.resolve(noise(3), [REGIONS[3]]),
            engine.segment(noise(), []),
        )

    answer, segmented, plain, proposals, resolved, nothing = run(ask_all())
    assert set(answer.masks) >= {0, 1} and plain.masks == {} and len(segmented) == 5 and nothing == []
    assert len(resolved) == 1 and len(proposals) > 0
    assert answer.masks[0] == segmented[1].mask


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ("all", "`regions` must be a list of regions, got 'all'"),
        ([{"point": [61, 3]}], r"`regions\[0\]\['point'\]` = \[61, 3\] is outside of the 60x40"),
        ([REGIONS[0], {"type": "phrase", "text": "a"}], r"`regions\[1\]` has the unknown key 'type'"),
        ([REGIONS[0], None], r"`regions\[1\]` is not a region: None"),
    ],
)
def test_what_is_not_regions_is_refused(engine, regions, message):
    with pytest.raises(ValueError, match=message):
        run(engine.segment(noise(), regions))
    assert engine.snapshot().batches == 0


def test_region_parts_of_messages_are_regions(engine):
    [region] = run(engine.segment(noise(), [{"type": "region", **REGIONS[1]}]))
    assert region.mask is not None


@pytest.fixture
def plain_engine(make_engine):
    """An engine whose model has no mask decoder."""
    return make_engine()


class TestWithoutAMaskDecoder:
    def test_masks_are_refused_before_anything_waits(self, plain_engine):
        assert not plain_engine.has_masks
        for ask in (
            lambda: plain_engine.answer(conversation(REGIONS[0]), tokens(4), masks=True),
            lambda: anext(plain_engine.stream(conversation(REGIONS[0]), tokens(4), masks=True)),
            lambda: plain_engine.segment(noise(), REGIONS),
        ):
            with pytest.raises(ValueError, match="needs a model with a mask decoder"):
                run(ask())
        assert plain_engine.snapshot().batches == 0

    def test_a_click_is_the_smallest_proposal_around_it(self, plain_engine):
        proposals = run(plain_engine.propose(noise())).xyxy
        areas = (proposals[:, 2:] - proposals[:, :2]).prod(dim=1)
        for box in proposals:
            point = (box[:2] + box[2:]) / 2
            [found] = run(plain_engine.resolve(noise(), [{"point": point.tolist()}]))
            assert found.mask is None and found.score is None
            holding = ((proposals[:, :2] <= point) & (proposals[:, 2:] >= point)).all(dim=1)
            smallest = proposals[areas.masked_fill(~holding, torch.inf).argmin()]
            assert np.allclose(found.box, smallest, atol=1e-3)

    def test_it_is_what_the_question_refers_to(self, plain_engine):
        answer = run(plain_engine.answer(conversation(REGIONS[1]), tokens(4)))
        [found] = run(plain_engine.resolve(noise(), [REGIONS[1]]))
        assert np.allclose(answer.grounded.user_regions.box, found.box, atol=1e-3)


def test_a_choice_that_the_decoder_does_not_have_fails_alone(masked_parts):
    model, processor = masked_parts
    torch.manual_seed(0)
    config = model.config.to_dict()
    config["mask_decoder_config"] = {**MASK_DECODER, "num_multimask_outputs": 0}
    single = GromaForConditionalGeneration(type(model.config)(**config)).eval()
    single.generation_config = model.generation_config
    engine = Engine(single, processor)
    chosen = {**REGIONS[1], "ambiguity": "part"}

    async def ask_together():
        return await asyncio.gather(
            engine.answer(conversation(chosen), tokens(4)),
            engine.answer(conversation(REGIONS[1]), tokens(4), masks=True),
            engine.resolve(noise(), [chosen]),
            return_exceptions=True,
        )

    first, second, third = run(ask_together())
    for error in (first, third):
        assert isinstance(error, ValueError) and "`ambiguity` 'part' chooses one of several masks" in str(error)
    assert second.masks
    engine.close(PATIENCE)


def test_a_decoder_that_fails_is_an_error_of_the_model(masked_parts, engine, monkeypatch):
    def broken(self, model, numbers):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(MaskSource, "decode", broken)
    with pytest.raises(ModelFailedError, match="out of memory"):
        run(engine.answer(conversation(REGIONS[0]), tokens(4), masks=True))
    monkeypatch.undo()
    assert run(engine.answer(conversation(REGIONS[0]), tokens(4), masks=True)).masks


def test_masks_that_are_not_numbers_are_an_error_of_the_model(masked_parts, engine, monkeypatch):
    decode = MaskSource.decode

    def damaged(self, model, numbers):
        masks = decode(self, model, numbers)
        return replace(masks, logits={number: logits * torch.nan for number, logits in masks.logits.items()})

    monkeypatch.setattr(MaskSource, "decode", damaged)
    with pytest.raises(ModelFailedError, match="masks cannot be read: .* NaN"):
        run(engine.answer(conversation(REGIONS[0]), tokens(4), masks=True))


def test_masks_of_an_answer_that_is_complete_outlive_the_engine(masked_parts, monkeypatch):
    """The engine closes after the first of several masks."""
    engine = Engine(*masked_parts)
    ended = threading.Event()
    shutdown = MaskThreads.shutdown

    def shut_down(threads):
        threads._threads.shutdown(wait=False)
        ended.set()
        shutdown(threads)

    async def ask():
        closing = []
        rle = DecodedMasks.rle

        def close_first(masks, number):
            if not closing:
                closing.append(asyncio.run_coroutine_threadsafe(engine.aclose(PATIENCE), loop))
                assert ended.wait(PATIENCE)
            return rle(masks, number)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(DecodedMasks, "rle", close_first)
        monkeypatch.setattr(MaskThreads, "shutdown", shut_down)
        answer = await engine.answer(conversation(*REGIONS), tokens(4), masks=True)
        await asyncio.wrap_future(closing[0])
        return answer

    assert run(ask()).masks.keys() >= set(range(5))


@pytest.fixture
def slow_masks(monkeypatch):
    """Masks that are not made until they may be: when that is, and the numbers of those that were begun."""
    may_go, begun = threading.Event(), []
    rle = DecodedMasks.rle

    def wait(masks, number):
        begun.append(number)
        assert may_go.wait(PATIENCE)
        return rle(masks, number)

    monkeypatch.setattr(DecodedMasks, "rle", wait)
    yield may_go, begun
    may_go.set()


def test_no_question_waits_for_the_masks_of_others(engine, slow_masks):
    may_go, begun = slow_masks

    async def ask():
        segmenting = [asyncio.ensure_future(engine.segment(noise(), REGIONS)) for _ in range(4)]
        await until(lambda: len(begun) == 2)
        assert (await engine.answer(conversation(REGIONS[0]), tokens(4))).is_final
        assert not any(task.done() for task in segmenting)
        may_go.set()
        return await asyncio.gather(*segmenting)

    assert [len(found) for found in run(ask())] == [5] * 4


def test_who_leaves_gets_no_further_mask_made(engine, slow_masks):
    may_go, begun = slow_masks

    async def leave():
        segmenting = asyncio.ensure_future(engine.segment(noise(), REGIONS))
        await until(lambda: begun)
        segmenting.cancel()
        await asyncio.wait([segmenting])
        may_go.set()
        await engine.segment(noise(), REGIONS[:1])

    run(leave())
    assert len(begun) == 2
