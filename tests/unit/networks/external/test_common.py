"""What the builders of other libraries' networks share, with and without those libraries."""

import sys

import pytest
from torch import nn

from lightning_xai.networks.external import common, huggingface, smp, timm, torchvision, torchxrayvision

BUILDERS = {
    "timm": (timm.timm_classifier, "timm"),
    "torchvision": (torchvision.torchvision_classifier, "torchvision.models"),
    "torchvision segmenter": (torchvision.torchvision_segmenter, "torchvision.models"),
    "smp": (smp.smp_segmenter, "segmentation_models_pytorch"),
    "huggingface": (huggingface.huggingface_classifier, "transformers"),
    "huggingface segmenter": (huggingface.huggingface_segmenter, "transformers"),
    "torchxrayvision": (torchxrayvision.torchxrayvision_classifier, "torchxrayvision"),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    build, module = BUILDERS[name]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError, match=rf"install it with pip install -e '\.\[{name.partition(' ')[0]}\]'\."
    ) as error:
        build("some", 3)
    assert isinstance(error.value, ImportError)


def test_a_torchvision_of_another_pytorch_is_said_to_be_one(monkeypatch, tmp_path):
    (tmp_path / "needs_it.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "fails.py").write_text("raise RuntimeError('something else')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(common.MissingPackageError, match="install the build of torchvision that was made for this"):
        common.library("needs_it", "x")
    with pytest.raises(RuntimeError, match="something else"):
        common.library("fails", "x")


@pytest.mark.parametrize(
    ("mean", "channels", "expected"),
    [((0.2, 0.4, 0.6), 3, [0.2, 0.4, 0.6]), ((0.2, 0.4, 0.6), 1, [0.4]), ((0.5,), 3, [0.5] * 3), (None, 3, None)],
)
def test_statistics_are_noted_for_the_channels_of_the_images(mean, channels, expected):
    model = common.with_statistics(nn.Identity(), mean, mean, channels)
    assert model.published_mean == model.published_std == (None if expected is None else pytest.approx(expected))


def test_published_weights_that_fail_are_one_sentence():
    words = r"^The published weights of 'net' cannot be loaded \(first\); give a file"
    with pytest.raises(ValueError, match=words), common.published_weights("net"):
        raise RuntimeError("first.\nsecond")
