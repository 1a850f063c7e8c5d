"""The grid callback: which images, where to, and when not."""

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_xai.callbacks import AttributionMaps, attribution_maps
from lightning_xai.callbacks.attribution_maps import on_one_canvas
from lightning_xai.explainers.base import Explainer
from lightning_xai.targets import ClassifierTarget, SegmenterTarget


class Samples(Dataset):
    def __init__(self, mask=False, multilabel=False):
        self.mask, self.multilabel = mask, multilabel

    def __len__(self):
        return 10

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        sample = {"image": torch.rand(1, 8, 8, generator=generator), "label": i % 3, "id": f"image_{i}"}
        if self.mask:
            sample["mask"] = (sample["image"] > 0.5).long()
        if self.multilabel:
            sample["label"] = torch.tensor([1.0, 0.0, 1.0])
        return sample


class Gradient(Explainer):
    """Gradient x input; counts its calls."""

    def __init__(self, target):
        super().__init__(target)
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(1))

    def attribute(self, images, query):
        targets, pixels = query.targets, query.regions
        self.calls += 1
        images = images.clone().requires_grad_()
        scores = self.target.score(images, targets, pixels).sum(dim=0)
        maps = [torch.autograd.grad(score, images, retain_graph=True)[0] for score in scores]
        return torch.cat(maps, dim=1) * images.detach()

    def extras(self, images, query):
        return {"p_baseline": torch.full(query.shape, 0.25)}

    def loss(self, batch):
        return {"loss": self.scale.square().sum()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def make_trainer(tmp_path, callback, **kwargs):
    return Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return ClassifierTarget(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), class_names=["cat", "dog", "bird"])


@pytest.fixture
def grids(monkeypatch):
    """What the callback gives to be drawn."""
    seen = []

    def keep(images, maps, masks=None, titles=None, labels=None, heading=""):
        seen.append(
            {"heading": heading, "images": images, "maps": maps, "masks": masks, "titles": titles, "labels": labels}
        )
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(attribution_maps, "map_grid", keep)
    return seen


def test_same_images_every_second_epoch_and_on_test(tmp_path, classifier, grids):
    trainer = make_trainer(tmp_path, AttributionMaps(num_images=5, every_n_epochs=2), max_epochs=3)
    explainer, data = Gradient(classifier), DataLoader(Samples(), batch_size=4)
    trainer.fit(explainer, data, data)
    # One sanity check of two batches, then three epochs of three batches: maps are made by the steps alone.
    assert explainer.calls == 2 + 9
    trainer.test(explainer, data, verbose=False)
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["test.png", "val_epoch000.png", "val_epoch002.png"]
    for grid in grids:
        assert (
            grid["heading"] == "Gradient"
            and grid["labels"][4].startswith("image_4\n")
            and len(grid["labels"]) == len(grid["images"]) == 5
        )
        assert torch.equal(grid["images"], torch.stack([Samples()[i]["image"] for i in range(5)]))
    assert torch.allclose(grids[0]["maps"], explainer.explain(grids[0]["images"]), atol=1e-6), "in batches of 4 and 1"


def test_titles_say_label_prediction_query_and_probabilities(tmp_path, classifier, grids):
    data = DataLoader(Samples(), batch_size=4)
    trainer, explainer = make_trainer(tmp_path, AttributionMaps(num_images=2)), Gradient(classifier)
    trainer.test(explainer, data, verbose=False)
    trainer.validate(explainer, data, verbose=False)
    (p, q), (first, second) = classifier.predict(grids[0]["images"]).max(dim=1)
    first, second = classifier.class_names[first], classifier.class_names[second]
    assert grids[0]["labels"] == [f"image_0\nis cat, predicted {first}", f"image_1\nis dog, predicted {second}"]
    first_title, second_title = (f"query {name}\np {chance:.2f}" for name, chance in ((first, p), (second, q)))
    assert grids[0]["titles"] == [[f"{first_title}, baseline 0.25"], [f"{second_title}, baseline 0.25"]]
    without = [[first_title], [second_title]]
    assert grids[1]["titles"] == without, "extras cost passes, and validation goes without"
    assert grids[0]["masks"] is None


def test_multilabel_names_every_predicted_class(tmp_path, grids):
    head = nn.Linear(64, 3)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([1.0, -1.0, 2.0])
    target = ClassifierTarget(nn.Sequential(nn.Flatten(), head), "sigmoid", class_names=["a", "b", "c"])
    data = DataLoader(Samples(multilabel=True), batch_size=4)
    make_trainer(tmp_path, AttributionMaps(num_images=1)).test(Gradient(target), data, verbose=False)
    assert grids[0]["labels"] == ["image_0\npredicted a, c"]


def test_segmenter_shows_its_queries_and_masks(tmp_path, grids):
    target = SegmenterTarget(nn.Conv2d(1, 7, 1))
    data = DataLoader(Samples(mask=True), batch_size=4)
    make_trainer(tmp_path, AttributionMaps(num_images=2)).test(Gradient(target), data, verbose=False)
    assert grids[0]["maps"].shape == (2, attribution_maps.MAX_QUERIES, 8, 8)
    assert grids[0]["masks"].shape == (2, 1, 8, 8)
    assert grids[0]["labels"] == ["image_0", "image_1"] and grids[0]["titles"][0][0].startswith("query 1\np ")


def test_real_picture_reaches_the_loggers(tmp_path, classifier, monkeypatch):
    sent = {}
    monkeypatch.setattr(attribution_maps, "log_images", lambda trainer, key, images: sent.update({key: images}))
    data = DataLoader(Samples(mask=True), batch_size=4)
    make_trainer(tmp_path, AttributionMaps(num_images=2)).validate(Gradient(classifier), data, verbose=False)
    picture = np.asarray(Image.open(tmp_path / "maps" / "val_epoch000.png"))
    assert np.array_equal(sent["maps/val"][0], picture) and picture.std() > 20


def test_other_ranks_draw_nothing(tmp_path, classifier, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    data = DataLoader(Samples(), batch_size=4)
    make_trainer(tmp_path, AttributionMaps()).test(Gradient(classifier), data, verbose=False)
    assert not (tmp_path / "maps").exists()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        AttributionMaps(num_images=0)


def test_images_of_different_sizes_share_a_canvas():
    wide, high = torch.ones(2, 1, 3, 6), torch.ones(1, 1, 4, 2)
    whole = on_one_canvas([wide, high])
    assert whole.shape == (3, 1, 4, 6) and whole.sum() == 2 * 18 + 8
    assert whole[2, 0, :, 2:4].all() and whole[0, 0, :3].all()
    assert torch.equal(on_one_canvas([wide, wide]), torch.cat([wide, wide]))
