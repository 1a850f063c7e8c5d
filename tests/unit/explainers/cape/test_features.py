"""Features that are computed once: the same training, the same labels, and never those of another model or data set."""

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, Trainer
from monai.transforms import RandFlipd

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import CAPE
from lightning_xai.explainers.cape.features import CachedFeatures
from tests.helpers import cnn

CACHES = ("memory", "file")


@pytest.fixture
def data(array_data, digits_like):
    made = array_data(digits_like, ["even", "odd"], batch_size=8)
    made.setup()
    return made


def cape_of(seed=0, **options):
    return CAPE(ClassifierTarget(cnn(classes=2, seed=seed)), lr=0.02, **options)


def calls(cape):
    """Counts the images that pass the classifier."""
    seen = []
    cape.target.model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("cache", CACHES)
def test_batches_hold_what_the_classifier_gives_for_the_same_images(data, tmp_path, cache):
    cape = cape_of(cache=cache, cache_dir=tmp_path)
    images = {item["id"]: item for item in (data._plain["train"][row] for row in range(len(data.split_items["train"])))}
    seen = []
    for batch in cape.fit_data(data).train_dataloader():
        assert "image" not in batch
        for row, name in enumerate(batch["id"]):
            features, logits = cape.features(images[name]["image"][None])
            assert torch.allclose(batch["features"][row], features[0], atol=1e-6)
            assert torch.allclose(batch["logits"][row], logits[0], atol=1e-6)
            assert batch["label"][row] == images[name]["label"]
        seen += batch["id"]
    assert sorted(seen) == sorted(images) and seen != list(images), "every image once, shuffled"


@pytest.mark.parametrize("cache", CACHES)
def test_training_on_them_is_training_on_the_images(data, tmp_path, cache):
    heads = []
    for option in (None, cache):
        torch.manual_seed(0)
        cape = cape_of(cache=option, cache_dir=tmp_path)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = Trainer(accelerator="cpu", logger=False, max_epochs=3, limit_val_batches=0, **quiet)
        trainer.fit(cape, datamodule=cape.fit_data(data))
        heads.append(cape.head.weight.detach().clone())
    assert torch.allclose(*heads, atol=1e-5)
    assert not torch.allclose(heads[0], cape_of().head.weight, atol=1e-3), "nothing was learned"


def test_the_classifier_sees_each_image_once_whatever_the_epochs(data, tmp_path):
    cape = cape_of(cache="memory", cache_dir=tmp_path)
    cape.features(data._plain["train"][0]["image"][None])
    seen, features = calls(cape), cape.fit_data(data)
    for _ in range(3):
        assert len(list(features.train_dataloader())) == 4
    assert sum(seen) == len(data.split_items["train"])


def test_a_file_is_used_again_for_the_same_model_and_data_alone(data, array_data, digits_like, tmp_path):
    cape = cape_of(cache="file", cache_dir=tmp_path)
    list(cape.fit_data(data).train_dataloader())
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*.part"))
    seen = calls(cape)
    list(cape.fit_data(data).train_dataloader())
    assert not seen, "the file was not used"
    other = cape_of(seed=1, cache="file", cache_dir=tmp_path)
    seen = calls(other)
    list(other.fit_data(data).train_dataloader())
    assert seen and len(list(tmp_path.iterdir())) == 4
    for options in ({"size": 14}, {"seed": 1}, {"limit": 12}):
        smaller = array_data(digits_like, ["even", "odd"], batch_size=8, **options)
        smaller.setup()
        assert cape.fit_data(smaller).key() != cape.fit_data(data).key(), options
    assert CachedFeatures(data, cape, "file", tmp_path).key() == CachedFeatures(data, cape, "memory", "other").key()


def test_an_interrupted_pass_leaves_no_file(data, tmp_path):
    class Broken:
        target, device = cape_of().target, torch.device("cpu")
        count = 0

        def features(self, images):
            self.count += 1
            if self.count == 3:
                raise RuntimeError("out of memory")
            return torch.zeros(len(images), 6, 3, 3), torch.zeros(len(images), 2)

    with pytest.raises(RuntimeError, match="out of memory"):
        CachedFeatures(data, Broken(), "file", tmp_path).train_dataloader()
    assert list(tmp_path.iterdir()) == []


def test_augmentation_does_not_reach_the_features(array_data, digits_like, tmp_path):
    flip = RandFlipd(["image"], prob=1.0, spatial_axis=0)
    data = array_data(digits_like, ["even", "odd"], batch_size=8, augment=[flip])
    data.setup()
    loaded = torch.cat([batch["image"] for batch in data.plain_dataloader("train")])
    items = data.split_items["train"]
    expected = np.stack([item.image for item in items])[:, None] / np.float32(255)
    assert torch.equal(loaded, torch.from_numpy(expected))
    assert torch.equal(data._datasets["train"][0]["image"], loaded[0].flip(1)), "training images are augmented"


def test_what_cannot_be_cached_says_so(data, tmp_path):
    with pytest.raises(ValueError, match="cache is 'disk'; use auto, memory, file"):
        cape_of(cache="disk").fit_data(data)
    with pytest.raises(ValueError, match="Features of LightningDataModule cannot be cached"):
        cape_of().fit_data(LightningDataModule())
    for cape in (cape_of(cache=None), cape_of(mode="ts")):
        assert cape.fit_data(data) is data
