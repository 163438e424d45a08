"""Boxes stay in place whatever dtype the inputs are cast to, or an error is raised."""

import copy
import pickle

import pytest
import torch
from accelerate.utils import send_to_device
from PIL import Image
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader

from transformers_groma import GromaForRegionProposal, GromaProcessor
from transformers_groma.boxes import box_cxcywh_to_xyxy, boxes_to_bits
from transformers_groma.models.processing_inputs import GromaBatchFeature
from transformers_groma.training.trainer import boxes_as_bits

from .tiny import prompt_ids, tiny_detector, tiny_detector_config, tiny_inputs, tiny_model

HALF = [torch.bfloat16, torch.float16]
# A box of 12 pixels in an image of 8,000 x 6,000: half precision moves it by more than its own size.
SIZE = torch.tensor([8000.0, 6000.0, 8000.0, 6000.0])
PIXELS = torch.tensor([[5601.3, 3001.7, 5613.3, 3013.7]])
BOX = torch.tensor([[[(5601.3 + 5613.3) / 2 / 8000, (3001.7 + 3013.7) / 2 / 6000, 12 / 8000, 12 / 6000]]])


def in_pixels(boxes: torch.Tensor) -> torch.Tensor:
    return box_cxcywh_to_xyxy(boxes) * SIZE


def assert_box_stayed(boxes: torch.Tensor) -> None:
    """To a hundredth of a pixel."""
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(in_pixels(boxes[:, :1]), PIXELS.expand(len(boxes), 1, 4), rtol=0, atol=0.01)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def inputs(model):
    """A batch with one user box for each of the two images, and proposals."""
    inputs = tiny_inputs(model.config)
    ids = torch.tensor([prompt_ids(model.config, num_boxes=1)] * 2)
    return {
        **inputs,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "refer_boxes": BOX.expand(2, -1, -1),
        "proposal_boxes": torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.61, 0.7003, 0.2, 0.2]]] * 2),
        "proposal_scores": torch.tensor([[0.7000, 0.7001]] * 2),
    }


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A process group of this process alone."""
    store = distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


class TestProcessor:
    @pytest.fixture
    def processed(self, tiny_dir):
        image = Image.new("RGB", (8000, 60), "white")
        processor = GromaProcessor.from_pretrained(tiny_dir)
        boxes = [[5601.25, 3, 5613.25, 15]]
        return processor(images=image, text="What is <region>?", boxes=boxes, return_tensors="pt")

    @pytest.mark.parametrize("dtype", HALF)
    @pytest.mark.parametrize(
        "cast",
        [
            lambda inputs, dtype: inputs.to(dtype),
            lambda inputs, dtype: inputs.to(dtype=dtype),
            lambda inputs, dtype: inputs.to("cpu", dtype),
            lambda inputs, dtype: inputs.to(device="cpu", dtype=dtype, non_blocking=True),
            lambda inputs, dtype: copy.deepcopy(inputs).to(dtype),
            lambda inputs, dtype: pickle.loads(pickle.dumps(inputs)).to(dtype),
            lambda inputs, dtype: send_to_device(inputs, "cpu").to(dtype),
            lambda inputs, dtype: next(iter(DataLoader([inputs], batch_size=None, num_workers=1))).to(dtype),
        ],
    )
    def test_its_inputs_keep_the_box_when_pixels_are_cast(self, processed, cast, dtype):
        before = processed["refer_boxes"].clone()
        inputs = cast(processed, dtype)
        assert type(inputs) is GromaBatchFeature
        assert inputs["pixel_values"].dtype == dtype and inputs["input_ids"].dtype == torch.int64
        assert inputs["refer_boxes"].dtype == torch.float32
        assert torch.equal(inputs["refer_boxes"], before)
        assert torch.equal({**inputs}["refer_boxes"], before) and torch.equal(dict(inputs)["refer_boxes"], before)

    def test_boxes_move_to_the_device(self, processed):
        inputs = processed.to("meta", torch.bfloat16)
        assert {value.device.type for value in inputs.values()} == {"meta"}
        assert inputs["refer_boxes"].dtype == torch.float32

    def test_conversations_give_the_same_kind_of_inputs(self, tiny_dir):
        processor = GromaProcessor.from_pretrained(tiny_dir)
        content = [
            {"type": "image", "image": Image.new("RGB", (8000, 60))},
            {"type": "region", "box": [5601.25, 3, 5613.25, 15]},
            {"type": "phrase", "text": "a dog", "boxes": [[5601.25, 3, 5613.25, 15]]},
        ]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options).to(torch.bfloat16)
        assert inputs["pixel_values"].dtype == torch.bfloat16
        assert inputs["refer_boxes"].dtype == inputs["ground_boxes"].dtype == torch.float32

    @pytest.mark.parametrize("name", ["refer_boxes", "ground_boxes", "proposal_boxes", "proposal_scores"])
    def test_every_kind_of_box(self, name):
        inputs = GromaBatchFeature({name: torch.tensor([0.123456789]), "pixel_values": torch.ones(1)}).to(
            torch.float16
        )
        assert torch.equal(inputs[name], torch.tensor([0.123456789])) and inputs["pixel_values"].dtype == torch.float16

    def test_rounded_region_boxes_are_not_made_pixels(self, processed, tiny_dir, model):
        processor = GromaProcessor.from_pretrained(tiny_dir)
        proposals = model.propose_regions(tiny_inputs(model.config)["pixel_values"])
        assert len(processor.post_process_region_proposals(proposals)) == 2
        proposals.boxes = proposals.boxes.bfloat16()
        with pytest.raises(ValueError, match=r"`region_boxes` is torch.bfloat16"):
            processor.post_process_region_proposals(proposals)


class TestModel:
    @pytest.mark.parametrize("dtype", HALF)
    @pytest.mark.parametrize("name", ["refer_boxes", "ground_boxes", "proposal_boxes", "proposal_scores"])
    def test_half_precision_boxes_are_refused_everywhere(self, model, inputs, name, dtype):
        if name == "ground_boxes":
            inputs["ground_boxes"] = inputs["refer_boxes"]
        inputs[name] = inputs[name].to(dtype)
        sentence = rf"`{name}` is {dtype}, which rounds boxes .* Keep it in float32"
        with pytest.raises(ValueError, match=sentence):
            model(**inputs)
        with pytest.raises(ValueError, match=sentence):
            model.model(**inputs)
        if name not in ("refer_boxes", "ground_boxes"):
            return
        with pytest.raises(ValueError, match=sentence):
            model.get_image_features(inputs["pixel_values"], **{name: inputs[name]})
        if name == "refer_boxes":
            with pytest.raises(ValueError, match=sentence):
                model.propose_regions(inputs["pixel_values"], inputs[name])
            prompt = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values", "refer_boxes")}
            with pytest.raises(ValueError, match=sentence):
                model.generate(**prompt, max_new_tokens=2)

    @pytest.mark.parametrize("precise", [torch.Tensor.double, boxes_to_bits])
    def test_other_exact_forms_give_the_same(self, model, inputs, precise):
        expected = model(**inputs)
        for name in ("refer_boxes", "proposal_boxes", "proposal_scores"):
            inputs[name] = precise(inputs[name])
        given = model(**inputs)
        assert torch.equal(given.logits, expected.logits)
        assert torch.equal(given.region_boxes, expected.region_boxes)
        assert_box_stayed(given.region_boxes)

    def test_pixels_are_refused_as_integers_of_any_kind(self, model, inputs):
        inputs["refer_boxes"] = torch.tensor([[[10, 20, 30, 40]]] * 2)
        with pytest.raises(ValueError, match=r"`refer_boxes` must be normalized boxes in float32, got torch.int64"):
            model(**inputs)
        inputs["refer_boxes"] = inputs["refer_boxes"].int()
        with pytest.raises(ValueError, match=r"`refer_boxes` must be normalized cxcywh"):
            model(**inputs)

    @pytest.mark.parametrize("dtype", HALF)
    def test_pixels_in_half_precision(self, model, inputs, dtype):
        """Only the box is exact; what a half precision image shows may differ a little."""
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        output = model(**inputs)
        assert_box_stayed(output.region_boxes)
        assert output.logits.dtype == torch.float32

    @pytest.mark.parametrize("dtype", HALF)
    def test_a_model_in_half_precision_as_a_whole(self, inputs, dtype):
        model = tiny_model().to(dtype)
        assert_box_stayed(model(**inputs).region_boxes)
        prompt = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values", "refer_boxes")}
        output = model.generate(**prompt, max_new_tokens=2, return_dict_in_generate=True)
        assert_box_stayed(output.region_boxes)

    @pytest.mark.parametrize("dtype", HALF)
    def test_autocast(self, model, inputs, dtype):
        with torch.autocast("cpu", dtype=dtype), torch.no_grad():
            output = model(**inputs)
            features = model.get_image_features(inputs["pixel_values"], inputs["refer_boxes"], return_dict=True)
            proposals = model.propose_regions(inputs["pixel_values"], inputs["refer_boxes"])
        for boxes in (output.region_boxes, features.region_boxes, proposals.boxes):
            assert_box_stayed(boxes)

    def test_the_region_encoder_sees_the_exact_box(self, model, inputs):
        seen = []
        align = model.model.region_encoder.roi_align
        hook = align.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            model(**inputs)
        hook.remove()
        side = model.config.vision_config.image_size
        torch.testing.assert_close(seen[0][:, :1] / side * SIZE, PIXELS.expand(2, 1, 4), rtol=0, atol=0.01)
        with pytest.raises(ValueError, match=r"`boxes` is torch.bfloat16"):
            model.model.region_encoder([torch.zeros(1, 32, 4, 4)] * 3, BOX.bfloat16(), torch.ones(1, 1).bool())

    def test_rounded_regions_of_features_are_refused(self, model, inputs):
        features = model.get_image_features(inputs["pixel_values"], inputs["refer_boxes"], return_dict=True)
        prompt = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        assert_box_stayed(model(**prompt, mm_encoder_outputs={"image": features}).region_boxes)
        features.region_boxes = features.region_boxes.half()
        with pytest.raises(ValueError, match="region_boxes.* is torch.float16"):
            model(**prompt, mm_encoder_outputs={"image": features})


class TestDetector:
    @pytest.fixture
    def labels(self):
        return [{"boxes": BOX[0], "source": "coco"}, {"boxes": BOX[0], "source": "sa1b"}]

    def test_labels(self, labels):
        model = tiny_detector()
        pixels = torch.randn(2, 3, 56, 56)
        loss = model(pixels, labels=labels).loss
        assert torch.equal(model(pixels, labels=boxes_as_bits(labels)).loss, loss)
        labels[1]["boxes"] = labels[1]["boxes"].half()
        with pytest.raises(ValueError, match=r"`labels\[1\]\['boxes'\]` is torch.float16"):
            model(pixels, labels=labels)


def wrapped_by_fsdp2(model, dtype):
    policy = MixedPrecisionPolicy(param_dtype=dtype, cast_forward_inputs=True)
    # The parts that `accelerate` wraps, and the whole.
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mp_policy=policy)
    return fully_shard(model, mp_policy=policy)


def wrapped_by_fsdp1(model, dtype):
    policy = MixedPrecision(param_dtype=dtype, buffer_dtype=dtype, cast_forward_inputs=True)
    parts = {type(module) for module in model.modules() if type(module).__name__ in model._no_split_modules}
    wrap = torch.distributed.fsdp.wrap.ModuleWrapPolicy(parts)
    return FullyShardedDataParallel(
        model, auto_wrap_policy=wrap, mixed_precision=policy, device_id=torch.device("cpu"), use_orig_params=True
    )


class LikeDeepSpeed(torch.nn.Module):
    """An engine of DeepSpeed casts its weights and every floating-point tensor that its `forward` gets."""

    def __init__(self, model, dtype):
        super().__init__()
        self.module, self.dtype = model.to(dtype), dtype

    def cast(self, value):
        if isinstance(value, dict):
            return {name: self.cast(entry) for name, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.cast(entry) for entry in value)
        return value.to(self.dtype) if torch.is_tensor(value) and value.is_floating_point() else value

    def forward(self, **kwargs):
        return self.module(**self.cast(kwargs))


@pytest.mark.parametrize("wrap", [wrapped_by_fsdp2, wrapped_by_fsdp1, LikeDeepSpeed])
class TestWrappers:
    def test_boxes_as_bits_stay_and_others_are_refused(self, mesh, inputs, wrap):
        inputs["ground_boxes"] = inputs["refer_boxes"] * 0.5
        model = wrap(tiny_model(), torch.bfloat16)
        seen = []
        for module in model.modules():
            if type(module).__name__ == "GromaRoiAlign":
                module.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
        output = model(**boxes_as_bits(inputs))
        assert_box_stayed(output.region_boxes)
        torch.testing.assert_close(seen[0][:, :1] / 56 * SIZE, PIXELS.expand(2, 1, 4), rtol=0, atol=0.01)
        assert torch.isfinite(output.logits).all()
        for name in ("refer_boxes", "ground_boxes", "proposal_boxes", "proposal_scores"):
            with pytest.raises(ValueError, match=f"`{name}` is torch.bfloat16, .*boxes_to_bits"):
                model(**{**boxes_as_bits(inputs), name: inputs[name]})

    def test_labels_of_the_detector(self, mesh, wrap):
        torch.manual_seed(0)
        model = wrap(GromaForRegionProposal(tiny_detector_config()), torch.bfloat16)
        batch = {"pixel_values": torch.randn(1, 3, 56, 56), "labels": [{"boxes": BOX[0], "source": "coco"}]}
        model(**boxes_as_bits(batch)).loss.backward()
        with pytest.raises(ValueError, match="torch.bfloat16, .*boxes_to_bits"):
            model(**batch)


def test_ddp_leaves_boxes_alone(mesh, inputs):
    model = torch.nn.parallel.DistributedDataParallel(tiny_model())
    assert_box_stayed(model(**inputs).region_boxes)
