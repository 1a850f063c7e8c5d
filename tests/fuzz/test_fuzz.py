"""A slice of benchmarks/fuzz.py: what strangers may send ends in a right result or in one sentence."""

import os

import pytest
from _fuzz_outcomes import promised
from fuzz import KINDS, fuzz

EXAMPLES = {"overrides": 15}


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_result_or_one_sentence(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    found = fuzz(kind, EXAMPLES.get(kind, 60), tmp_path)
    assert min(found.get("right", 0), found.get("sentence", 0)) > 0


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (TypeError("odd"), "TypeError reaches the user"),
        (ValueError("about another file."), "does not name"),
        (OSError(28, "No space left on a.csv"), "does not name"),
    ],
)
def test_the_promise_can_be_broken(error, broken, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(AssertionError, match=broken), promised("b.csv"):
        raise error
    with promised("a.csv"):
        raise ValueError("a.csv is empty.")
