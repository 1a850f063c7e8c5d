"""Noise from counters: known values, uniform, and a key for every content."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_xai.functional.counter_noise import GOLDEN, content_keys, mixed, signed, uniform_noise


def reference(state):
    """SplitMix64 as its paper writes it, in Python's integers."""
    value = state % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def test_the_first_numbers_of_the_published_generator():
    states = torch.tensor([signed(1234567 + step * GOLDEN) for step in (1, 2)])
    assert [value % 2**64 for value in mixed(states).tolist()] == [6457827717110365317, 3203168211198807973]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_bits_are_mixed_as_in_pythons_integers(numbers):
    assert [value % 2**64 for value in mixed(torch.tensor(numbers)).tolist()] == [reference(one) for one in numbers]


def test_noise_is_uniform_and_unlike_that_of_the_next_key():
    noise = uniform_noise(torch.arange(20), 5000)
    assert noise.min() >= 0 and noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.01) and noise.var() == pytest.approx(1 / 12, abs=0.002)
    counts = torch.histc(noise, 20, 0, 1)
    assert ((counts - 5000).abs() < 5 * 5000**0.5).all()
    assert np.abs(np.corrcoef(noise) - np.eye(20)).max() < 0.08
    assert np.abs(np.corrcoef(noise[:, :-1].flatten(), noise[:, 1:].flatten())[0, 1]) < 0.02


def test_each_content_has_a_key_of_its_own_in_any_batch():
    images = torch.rand(6, 2, 5, 7)
    images[1], images[2] = images[0], images[0].flip(-1)
    images[3] = images[0]
    images[3, 1, 4, 6] = torch.nextafter(images[3, 1, 4, 6], torch.tensor(2.0))
    keys = content_keys(images)
    assert keys[0] == keys[1] and len(keys.unique()) == 5
    assert torch.equal(content_keys(images[[4, 0]]), keys[[4, 0]])
    assert torch.equal(content_keys(images.transpose(2, 3).contiguous().transpose(2, 3)), keys), "strides do not matter"
