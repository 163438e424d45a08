"""A cache layer with room: it holds what the library's holds, whatever is done to it between steps."""

import copy
import weakref

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from transformers_groma.models.modeling_cache_layer import PreallocatedLayer


@pytest.fixture(autouse=True)
def without_gradients():
    """As in generation: with gradients the layer does what the library's does."""
    with torch.no_grad():
        yield


def states(length, rows=2, value_size=4):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(rows, 3, length, size, generator=generator) for size in (4, value_size)]


def crop(layer):
    layer.crop(-2)


def choose_rows(layer):
    layer.batch_select_indices(torch.tensor([1, 1]))


CHANGES = {
    "nothing": lambda layer: None,
    "crop": crop,
    "rows": choose_rows,
    "beams": lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
    "repeat": lambda layer: (layer.batch_repeat_interleave(2), layer.batch_select_indices(torch.tensor([0, 3]))),
    "offload": lambda layer: (layer.offload(), layer.prefetch()),
    "reset": lambda layer: layer.reset(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("value_size", [4, 0, 7])
def test_it_holds_what_the_library_holds(change, value_size):
    own, library = PreallocatedLayer(), DynamicLayer()
    held = []
    for step, length in enumerate([9, 1, 1, 3, 1, 20, 1, 1, 1, 40, *[1] * 30]):
        found, expected = (layer.update(*states(length, value_size=value_size)) for layer in (own, library))
        for mine, theirs in zip(
            (*found, own.keys, own.values), (*expected, library.keys, library.values), strict=True
        ):
            assert torch.equal(mine, theirs)
        held.append((found, [part.clone() for part in found]))
        if step % 5 == 3:
            for layer in (own, library):
                CHANGES[change](layer)
    # What was handed out before never changes.
    assert all(
        torch.equal(part, before) for parts, befores in held for part, before in zip(parts, befores, strict=True)
    )


def test_it_is_copied_once_in_many_steps():
    layer = PreallocatedLayer()
    layer.update(*states(100))
    assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes, "a prompt takes no room"
    places = set()
    for _ in range(100):
        keys, values = layer.update(*states(1))
        places.add((keys.data_ptr(), values.data_ptr()))
        assert keys.untyped_storage().nbytes() <= keys.nbytes * 1.25
    assert len(places) <= 6


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_do_not_write_into_each_other(copied):
    layer = PreallocatedLayer()
    layer.update(*states(9))
    layer.update(*states(1))
    other = copied(layer)
    kept = layer.update(*states(2))[0]
    before = kept.clone()
    assert torch.equal(other.update(*states(3))[0][:, :, 10:], states(3)[0])
    assert torch.equal(kept, before) and torch.equal(layer.keys, before)
    assert torch.equal(layer.update(*states(1))[0][:, :, :12], before)


def test_what_was_read_in_inference_mode_goes_on_outside_of_it():
    layer, library = PreallocatedLayer(), DynamicLayer()
    with torch.inference_mode():
        for each in (layer, library):
            each.update(*states(5))
            each.update(*states(1))
    assert torch.equal(layer.update(*states(2))[0], library.update(*states(2))[0])


def test_a_copy_at_the_place_of_a_layer_that_is_gone_does_not_write_into_what_was_handed_out():
    gone = PreallocatedLayer()
    for length in (9, 1):
        gone.update(*states(length))
    copied = copy.copy(gone)
    kept = gone.update(*states(1))[0]
    before, place = kept.clone(), id(gone)
    del gone
    others = []  # kept, so that each has another place
    while not others or (id(others[-1]) != place and len(others) < 100):
        others.append(copy.copy(copied))
    others[-1].update(*states(3))
    assert torch.equal(kept, before)


@pytest.mark.parametrize("change", ["rows", "beams", "repeat", "reset"])
def test_a_change_takes_the_memory_of_the_room(change):
    layer = PreallocatedLayer()
    for length in (9, 1):
        layer.update(*states(length))
    room = weakref.ref(layer._room[0])
    CHANGES[change](layer)
    assert room() is None


@pytest.mark.parametrize(
    "other",
    [
        states(1, rows=1),
        states(1, value_size=1),
        [part.double() for part in states(1)],
        [part.to("meta") for part in states(1)],
    ],
    ids=["rows", "size", "dtype", "device"],
)
def test_states_that_do_not_fit_are_neither_stretched_nor_rounded(other):
    found = []
    for layer in (PreallocatedLayer(), DynamicLayer()):
        for length in (9, 1):
            layer.update(*states(length))
        try:
            found.append(layer.update(*other))
        except RuntimeError as error:
            found.append((str(error),))
    assert len(found[0]) == len(found[1])
    for own, library in zip(*found, strict=True):
        if isinstance(library, str):
            assert own == library
        else:
            torch.testing.assert_close(own, library, rtol=0, atol=0)


@torch.enable_grad()
def test_keys_that_a_gradient_needs_are_not_written_to():
    """As where adapters are in queries alone: neither keys nor values learn."""
    layer, query = PreallocatedLayer(), torch.ones(2, 3, 1, 4, requires_grad=True)
    total = 0
    for length in (9, 1, 1, 1):
        keys, values = layer.update(*states(length))
        total = total + ((query @ keys.mT).softmax(dim=-1) @ values).sum()
    total.backward()
    assert query.grad.abs().sum() > 0


@torch.enable_grad()
def test_gradients_flow_through_the_steps():
    gradients = []
    for kind in (PreallocatedLayer, DynamicLayer):
        layer, inputs = kind(), [part.requires_grad_() for length in (5, 1, 1) for part in states(length)]
        for keys, values in zip(inputs[::2], inputs[1::2], strict=True):
            found = layer.update(keys, values)
        (found[0] ** 2 + found[1] ** 3).sum().backward()
        gradients.append([part.grad for part in inputs])
    assert all(torch.equal(own, library) for own, library in zip(*gradients, strict=True))
