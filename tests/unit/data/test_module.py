import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from monai.transforms import Flipd, Orientationd, RandCropByPosNegLabeld, RandFlipd, Spacingd, SpatialCropd
from PIL import Image
from torch.nn import functional as F

from lightning_xai.data import BadImageError, Item, loaders
from lightning_xai.data import module as base_module
from lightning_xai.data.grids import Grid, resize_image, resize_mask
from lightning_xai.data.loading import LoadItem

Make = Callable[..., object]


def all_of(loader: torch.utils.data.DataLoader, key: str) -> torch.Tensor:
    return torch.cat([batch[key] for batch in loader])


def ids_of(loader: torch.utils.data.DataLoader) -> list[str]:
    return [name for batch in loader for name in batch["id"]]


@pytest.mark.parametrize("cache", [True, False])
def test_batch_keys_types_and_values(array_data: Make, digits_like: list[Item], cache: bool) -> None:
    data = array_data(digits_like, ["even", "odd"], batch_size=4, cache=cache)
    data.setup()
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"image", "label", "mask", "id"}
    assert batch["image"].shape == (4, 1, 12, 10) and batch["image"].dtype == torch.float32
    assert batch["label"].shape == (4,) and batch["label"].dtype == torch.int64
    assert batch["mask"].shape == (4, 1, 12, 10) and batch["mask"].dtype == torch.int64
    source = {item.id: item for item in digits_like}[batch["id"][1]]
    np.testing.assert_allclose(batch["image"][1, 0], source.image / 255, rtol=1e-6)
    np.testing.assert_array_equal(batch["mask"][1, 0], source.mask)
    assert batch["label"][1] == source.label


def test_facts_and_attributes(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"])
    data.setup("fit")
    assert data.split_counts == {
        "train": {"even": 14, "odd": 14}, "val": {"even": 3, "odd": 3}, "test": {"even": 3, "odd": 3},
    }  # fmt: skip
    data_info = data.data_info()
    assert data.image_shape == (1, 12, 10)
    assert data_info.pop("fingerprint").isalnum()
    assert data_info == {
        "channels": 1, "dims": 2, "classes": 2, "class_names": ["even", "odd"], "activation": "softmax",
        "mean": data.mean, "std": data.std, "has_masks": True, "size": [12, 10],
    }  # fmt: skip


@pytest.mark.parametrize("cache", [True, False])
def test_statistics_are_those_of_the_training_images(array_data: Make, cache: bool) -> None:
    rng = np.random.default_rng(0)
    items = [Item(f"i{i}", rng.integers(0, 65536, (5, 20, 18), np.uint16), i % 2) for i in range(30)]
    data = array_data(items, ["a", "b"], cache=cache)
    data.setup()
    train = np.stack([item.image for item in data.split_items["train"]]) / 65535
    np.testing.assert_allclose(data.mean, train.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(data.std, train.std((0, 2, 3)), rtol=1e-5)


def test_statistics_are_taken_after_resizing(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"], size=5)
    data.setup()
    train = all_of(data.train_dataloader(), "image")
    assert train.shape[1:] == (1, 5, 5)
    assert data.std == pytest.approx([train.std(correction=0).item()], rel=1e-4)


def test_constant_channel_can_be_divided_by(array_data: Make) -> None:
    items = [Item(f"i{i}", np.full((6, 6), 77, np.uint8), i % 2) for i in range(12)]
    data = array_data(items, ["a", "b"])
    data.setup()
    assert data.mean == pytest.approx([77 / 255], rel=1e-6)
    assert data.std == [1.0]


def test_training_is_shuffled_by_seed_and_the_rest_keeps_its_order(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"], seed=5)
    data.setup()
    order = ids_of(data.train_dataloader())
    assert order != sorted(order)
    assert order == ids_of(data.train_dataloader())
    for loader, split in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        assert ids_of(loader) == ids_of(loader) == [item.id for item in data.split_items[split]]
    assert ids_of(data.predict_dataloader()) == ids_of(data.test_dataloader())


@pytest.mark.parametrize("cache", [True, False])
def test_every_split_is_mixed_in_one_order_whatever_the_seed(array_data: Make, cache: bool) -> None:
    # Class after class, as a folder lists them; pixel and label tell which image it is.
    splits = np.repeat(["train", "val", "test"], 40)
    items = [Item(f"i{i}", np.full((4, 4), i, np.uint8), int(i % 40 >= 20), split=splits[i]) for i in range(120)]
    orders = []
    for seed, source in ((0, items), (1, items), (0, items[::-1])):
        data = array_data(source, ["a", "b"], seed=seed, cache=cache)
        data.setup()
        orders.append({split: [item.id for item in kept] for split, kept in data.split_items.items()})
    assert orders[0] == orders[1] == orders[2]
    labels = {item.id: item.label for item in items}
    for order in orders[0].values():
        assert 5 <= sum(labels[name] for name in order[:20]) <= 15, "the first half of a split is not a fair sample"
    batch = next(iter(data.test_dataloader()))
    assert batch["id"] == orders[0]["test"][:32]
    assert torch.equal((batch["image"][:, 0, 0, 0] * 255).round(), torch.tensor([float(i[1:]) for i in batch["id"]]))
    assert batch["label"].tolist() == [labels[name] for name in batch["id"]]


def test_two_set_ups_are_equal_and_loaders_leave_the_global_seed(array_data: Make, digits_like: list[Item]) -> None:
    runs = []
    for _ in range(2):
        data = array_data(digits_like, ["even", "odd"], augment=[RandFlipd(("image", "mask"), 0.5, 0)])
        data.setup()
        state = torch.random.get_rng_state()
        runs.append((data.data_info(), all_of(data.train_dataloader(), "image")))
        data.val_dataloader()
        assert torch.equal(torch.random.get_rng_state(), state)
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_fingerprint_follows_labels_splits_and_pixels(array_data: Make, digits_like: list[Item]) -> None:
    def fingerprint(items: list[Item]) -> str:
        data = array_data(items, ["even", "odd"])
        data.setup()
        return data.data_info()["fingerprint"]

    items = [replace(item, split=("train", "val", "test")[i % 3]) for i, item in enumerate(digits_like)]
    first = items[0]
    changed = [{"label": 1}, {"split": "test"}, {"image": first.image + 1}, {"mask": first.mask + 1}, {"id": "other"}]
    others = [[replace(first, **change), *items[1:]] for change in changed]
    assert fingerprint(items) == fingerprint(list(items))
    assert len({fingerprint(items), *map(fingerprint, others)}) == 6


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("transform", [RandFlipd(("image", "mask"), 1.0, 1), Flipd(("image", "mask"), 1)])
def test_augmentation_touches_training_images_and_masks_only(
    array_data: Make, digits_like: list[Item], cache: bool, transform: object
) -> None:
    data = array_data(digits_like, ["even", "odd"], cache=cache, augment=[transform])
    data.setup()
    source = {item.id: item for item in digits_like}
    for loader, turn in ((data.train_dataloader(), -1), (data.val_dataloader(), 1), (data.test_dataloader(), 1)):
        for _ in range(2):  # the second epoch must not flip what the cache holds once more
            batch = next(iter(loader))
            assert type(batch["image"]) is torch.Tensor and batch["mask"].dtype == torch.int64
            item = source[batch["id"][0]]
            np.testing.assert_allclose(batch["image"][0, 0], item.image[:, ::turn] / 255, rtol=1e-6)
            np.testing.assert_array_equal(batch["mask"][0, 0], item.mask[:, ::turn])


def test_augmentation_differs_between_epochs(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"], augment=[RandFlipd("image", 0.5, 0), RandFlipd("image", 0.5, 1)])
    data.setup()
    loader = data.train_dataloader()
    epochs = []
    for _ in range(2):
        epochs.append({i: x for batch in loader for i, x in zip(batch["id"], batch["image"], strict=True)})
    assert any(not torch.equal(epochs[0][name], epochs[1][name]) for name in epochs[0])


def test_cached_images_are_read_once(
    array_data: Make, digits_like: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    class Counting(LoadItem):
        def with_grid(self, item: Item) -> tuple[dict[str, object], Grid]:
            read.append(item.id)
            return super().with_grid(item)

    monkeypatch.setattr(base_module, "LoadItem", Counting)
    data = array_data(digits_like, ["even", "odd"], augment=[RandFlipd("image", 0.5, 0)])
    data.setup("fit")
    data.setup("test")
    for _ in range(2):
        ids_of(data.train_dataloader())
        ids_of(data.test_dataloader())
    assert sorted(read) == [item.id for item in digits_like]


def test_masks_are_resized_to_the_nearest_and_images_stay_in_range(array_data: Make) -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[3:9, 3:9] = 2
    items = [Item(f"i{i}", mask * 127, i % 2, mask=mask) for i in range(12)]
    data = array_data(items, ["a", "b"], size=(18, 8), resize="stretch")
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape[1:] == batch["mask"].shape[1:] == (1, 18, 8)
    assert set(batch["mask"].unique().tolist()) == {0, 2}
    assert batch["mask"][0, 0].sum() == 2 * 9 * 4
    assert batch["image"].max() <= 254 / 255


def test_resizing_keeps_the_mean_and_does_not_alias() -> None:
    stripes = torch.zeros(1, 64, 64)
    stripes[:, :, ::4] = 1  # sampling every fourth pixel would give 0 or 1 everywhere
    assert torch.allclose(resize_image(stripes, (16, 16))[:, :, 2:-2], torch.tensor(0.25), atol=0.02)
    volume = torch.zeros(1, 16, 16, 16)
    volume[..., ::2] = 1
    resized = resize_image(volume, (8, 24, 8))
    assert resized.shape == (1, 8, 24, 8)
    assert torch.allclose(resized, torch.tensor(0.5))
    assert resize_mask(torch.full((1, 4, 4, 4), 3), (2, 6, 4)).unique().tolist() == [3]


def test_images_without_mask_get_an_empty_one_where_others_have_some(array_data: Make, digits_like: list[Item]) -> None:
    items = [replace(item, mask=None) if i % 2 else item for i, item in enumerate(digits_like)]
    data = array_data(items, ["even", "odd"])
    data.setup()
    for batch in data.train_dataloader():
        assert torch.equal(batch["mask"].flatten(1).any(1), batch["label"] == 0)


def test_several_labels_give_float_vectors_and_sigmoid(array_data: Make) -> None:
    items = [Item(f"i{i}", np.zeros((4, 4), np.uint8), (i % 2, 1, int(i < 9))) for i in range(30)]
    data = array_data(items, ["a", "b", "c"])
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["label"].dtype == torch.float32 and batch["label"].shape[1] == 3
    assert data.data_info()["activation"] == "sigmoid" and data.multilabel
    assert sum(counts["c"] for counts in data.split_counts.values()) == 9


def test_images_without_labels(array_data: Make) -> None:
    items = [Item(f"i{i}", np.zeros((4, 4), np.uint8), mask=np.zeros((4, 4), np.uint8)) for i in range(20)]
    data = array_data(items, [])
    data.setup()
    assert set(next(iter(data.val_dataloader()))) == {"image", "mask", "id"}
    assert data.split_counts == {"train": {"unlabeled": 14}, "val": {"unlabeled": 3}, "test": {"unlabeled": 3}}


def test_limit_counts_images_of_each_split(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data(digits_like, ["even", "odd"], limit=4)
    data.setup()
    assert data.split_counts == {split: {"even": 2, "odd": 2} for split in ("train", "val", "test")}


def test_split_counts_and_seed_are_logged(
    array_data: Make, digits_like: list[Item], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lightning_xai.data.splits"):
        array_data(digits_like, ["even", "odd"], seed=7).setup()
    assert "Split train (seed 7): 28 images (even 14, odd 14)" in caplog.text


def test_split_without_a_class_is_a_warning(array_data: Make, caplog: pytest.LogCaptureFixture) -> None:
    items = [Item(f"i{i}", np.zeros((4, 4), np.uint8), int(i == 0)) for i in range(20)]
    array_data(items, ["common", "rare"]).setup()
    assert "The test split has no image of class rare" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "im01"}, "2 images of the arrays have the id 'im01'; give each image a different id"),
        ({"label": 2}, "The label 2 of im00 in the arrays is out of range; give it a class from 0 to 1"),
        ({"label": -1}, "The label -1 of im00 in the arrays is out of range"),
        ({"label": None}, "The label None of im00 .* give it a label like the other images"),
        ({"label": (0, 2)}, r"The label \(0, 2\) of im00 .* give it 2 values of 0 or 1"),
        (
            {"image": np.zeros((3, 12, 10), np.uint8)},
            "im00 has 3 channels where 39 of 40 images have 1; set data.channels=1 or 3",
        ),
        ({"image": np.zeros((12, 12, 10), np.uint8)}, "The channel axis of im00 with shape .* is ambiguous"),
        ({"image": np.zeros((12, 11), np.uint8)}, "The mask of im00 has size .12, 10. where its image has .12, 11."),
    ],
)
def test_wrong_item_stops_the_set_up(
    array_data: Make, digits_like: list[Item], change: dict[str, object], message: str
) -> None:
    items = [replace(digits_like[0], **change), *digits_like[1:]]
    with pytest.raises(ValueError, match=message):
        array_data(items, ["even", "odd"]).setup()


def test_planes_and_volumes_do_not_mix(array_data: Make, digits_like: list[Item]) -> None:
    items = [replace(item, mask=None) for item in digits_like]
    items[3] = replace(items[3], image=np.zeros((5, 12, 10), np.uint8))
    with pytest.raises(ValueError, match="im03 has 3 spatial axes where im00 has 2; keep 2-D and 3-D images apart"):
        array_data(items, ["even", "odd"], channel_axis="none").setup()


def test_empty_source_class_and_split_are_named(array_data: Make, digits_like: list[Item]) -> None:
    with pytest.raises(ValueError, match="There is no image in the arrays"):
        array_data([], ["even", "odd"]).setup()
    with pytest.raises(ValueError, match="Class 'third' has no image in the arrays; add some or remove"):
        array_data(digits_like, ["even", "odd", "third"]).setup()
    bad = [
        replace(digits_like[0], split="test", mask=np.zeros((1, 1))),
        *[replace(i, split="train") for i in digits_like[1:]],
    ]
    with pytest.raises(ValueError, match="The test split of the arrays ends up empty"):
        array_data(bad, ["even", "odd"], on_bad_image="skip").setup()


def test_wrong_options_are_named(array_data: Make) -> None:
    with pytest.raises(ValueError, match="data.splits is .0.5, 0.2, 0.2.; give three positive fractions"):
        array_data([], [], splits=(0.5, 0.2, 0.2))
    with pytest.raises(ValueError, match="data.on_bad_image is 'ignore'; use raise or skip"):
        array_data([], [], on_bad_image="ignore")


def test_size_needs_one_entry_an_axis(array_data: Make, digits_like: list[Item]) -> None:
    with pytest.raises(ValueError, match=r"data.size is \(8, 8, 8\), but im00 has 2 spatial axes"):
        array_data(digits_like, ["even", "odd"], size=[8, 8, 8]).setup()


@pytest.mark.parametrize("cache", [True, False])
def test_bad_images_are_skipped_counted_and_listed(
    array_data: Make, digits_like: list[Item], tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: bool
) -> None:
    Image.fromarray(digits_like[0].image).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:90])
    items = list(digits_like)
    items[1] = replace(items[1], image=tmp_path / "half.png")
    items[2] = replace(items[2], image=np.full((12, 10), np.nan))
    items[5] = replace(items[5], mask=np.zeros((3, 3), np.uint8))
    items[8] = replace(items[8], image=tmp_path / "absent.png")
    with pytest.raises(BadImageError, match="half.png cannot be read"):
        array_data(items, ["even", "odd"]).setup()
    data = array_data(items, ["even", "odd"], on_bad_image="skip", cache=cache)
    data.setup()
    assert len(data.skipped) == 4
    for name, message in zip(("half.png", "im02", "im05", "absent.png"), data.skipped, strict=True):
        assert name in message
    assert [r.getMessage() for r in caplog.records if "Skipped 4 of 40 images" in r.getMessage()]
    seen = [*ids_of(data.train_dataloader()), *ids_of(data.val_dataloader()), *ids_of(data.test_dataloader())]
    assert sorted(seen) == [item.id for i, item in enumerate(items) if i not in (1, 2, 5, 8)]


def test_workers_read_what_the_main_process_reads(array_data: Make, digits_like: list[Item]) -> None:
    batches = []
    for workers in (0, 1):
        data = array_data(digits_like, ["even", "odd"], cache=False, num_workers=workers)
        data.setup()
        batches.append(all_of(data.train_dataloader(), "image"))
    assert torch.equal(*batches)


@pytest.mark.parametrize(
    ("cores", "cache", "side", "expected"),
    [(2, False, 8, 0), (6, False, 8, 5), (32, False, 8, 8), (32, True, 8, 0), (32, True, 600, 8)],
)
def test_workers_fit_the_cores(
    array_data: Make, monkeypatch: pytest.MonkeyPatch, cores: int, cache: bool, side: int, expected: int
) -> None:
    monkeypatch.setattr(loaders.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    items = [Item(f"i{i}", np.zeros((8, 8), np.uint8), 0) for i in range(3)]
    data = array_data(items, ["a"], size=side, cache=cache, augment=[RandFlipd("image", 0.5, 0)])
    data.setup()
    assert data.train_dataloader().num_workers == expected


@pytest.mark.parametrize(("cores", "ranks", "expected"), [(32, 1, 8), (32, 4, 7), (32, 8, 3), (8, 4, 0), (2, 8, 0)])
def test_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, expected: int) -> None:
    monkeypatch.setattr(loaders.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert loaders.choose_workers(False, ranks) == expected


@pytest.mark.parametrize(("workers", "gpu", "batches"), [(0, True, None), (3, False, 2), (3, True, 4)])
def test_workers_make_more_batches_ahead_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, workers: int, gpu: bool, batches: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert loaders.prefetched(workers) == batches


def test_trainer_takes_the_data_module(array_data: Make, digits_like: list[Item]) -> None:
    class Probe(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: dict[str, list[str]] = {"train": [], "test": [], "predict": []}

        def training_step(self, batch: dict, _: int) -> torch.Tensor:
            self.seen["train"] += batch["id"]
            return self.weight * batch["image"].mean()

        def test_step(self, batch: dict, _: int) -> None:
            self.seen["test"] += batch["id"]

        def predict_step(self, batch: dict, _: int) -> None:
            self.seen["predict"] += batch["id"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = array_data(digits_like, ["even", "odd"], batch_size=8, augment=[RandFlipd("image", 0.5, 0)])
    probe = Probe()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(probe, datamodule=data)
    trainer.test(probe, datamodule=data, verbose=False)
    trainer.predict(probe, datamodule=data)
    assert sorted(probe.seen["train"]) == sorted(item.id for item in data.split_items["train"])
    assert probe.seen["test"] == probe.seen["predict"] == [item.id for item in data.split_items["test"]]


# ------------------------------------------------------------------ segmentation


def test_masks_may_be_what_the_data_are_about(array_data, digits_like):
    data = array_data(digits_like, ["even", "odd"], mask_classes=["none", "inner", "outer"])
    data.setup()
    data_info = data.data_info()
    assert data_info["classes"] == 3 and data_info["class_names"] == ["none", "inner", "outer"]
    assert data_info["activation"] == "softmax" and data_info["has_masks"]
    masks = torch.cat([batch["mask"] for batch in data.test_dataloader()])
    assert set(masks.unique().tolist()) == {0, 1, 2}


def test_of_two_mask_classes_the_second_is_everything_above_zero(array_data, digits_like):
    data = array_data(digits_like, ["even", "odd"], mask_classes=["none", "object"])
    data.setup()
    by_id = {item.id: item.mask for item in digits_like}
    for batch in data.test_dataloader():
        for name, mask in zip(batch["id"], batch["mask"], strict=True):
            assert np.array_equal(mask[0].numpy(), by_id[name] > 0)


def test_a_mask_value_without_a_name_is_named(array_data, digits_like):
    bad = [replace(digits_like[0], mask=np.full((12, 10), 3, np.uint8)), *digits_like[1:]]
    data = array_data(bad, ["even", "odd"], mask_classes=["none", "inner", "outer"])
    with pytest.raises(
        BadImageError, match="im00 holds the value 3, but data.mask_classes names 3 .none, inner, outer"
    ):
        data.setup()


def test_mask_classes_need_masks_and_an_object(array_data, digits_like):
    with pytest.raises(ValueError, match="name the background and at least one class"):
        array_data(digits_like, ["even", "odd"], mask_classes=["object"])
    bare = [replace(item, mask=None) for item in digits_like]
    with pytest.raises(ValueError, match="mask_classes is given, but the arrays has no masks"):
        array_data(bare, ["even", "odd"], mask_classes=["none", "object"]).setup()


def test_images_and_masks_are_prepared_alike_before_they_are_resized(array_data, digits_like):
    crop = SpatialCropd(["image", "mask"], roi_start=(2, 1), roi_end=(10, 7))
    options = {"mask_classes": ["none", "inner", "outer"], "prepare": [crop], "size": (16, 12)}
    data = array_data(digits_like, ["even", "odd"], **options)
    data.setup()
    assert data.image_shape == (1, 16, 12)
    sample, item = data._datasets["test"][0], data.split_items["test"][0]
    assert type(sample["image"]) is torch.Tensor and type(sample["mask"]) is torch.Tensor
    assert np.array_equal(sample["mask"][0, ::2, ::2].numpy(), item.mask[2:10, 1:7])
    small = torch.from_numpy(item.image[2:10, 1:7] / np.float32(255))
    assert F.avg_pool2d(sample["image"], 2)[0].sub(small).abs().mean() < 0.15


def test_volumes_are_turned_and_respaced(array_data, tmp_path):
    """A volume stored left to right in 2 mm voxels, as RAS in 1 mm: twice as many voxels, mirrored."""
    rng, items = np.random.default_rng(0), []
    for number in range(6):
        for kind, values in (("image", rng.random((6, 5, 4), np.float32)), ("mask", rng.integers(0, 2, (6, 5, 4)))):
            values[0] = 0
            affine = np.diag([-2.0, 2.0, 2.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), tmp_path / f"{kind}_{number}.nii.gz")
        items.append(
            Item(f"v{number}", tmp_path / f"image_{number}.nii.gz", number % 2, tmp_path / f"mask_{number}.nii.gz")
        )
    keys = ["image", "mask"]
    prepare = [
        Orientationd(keys, axcodes="RAS", labels=None),
        Spacingd(keys, (1.0, 1.0, 1.0), mode=("bilinear", "nearest")),
    ]
    data = array_data(items, ["a", "b"], mask_classes=["none", "object"], prepare=prepare)
    data.setup()
    sample = data._datasets["test"][0]
    assert sample["image"].shape == sample["mask"].shape == (1, 11, 9, 7)
    assert np.allclose(sample["affine"].diagonal(), [1, 1, 1, 1])
    assert not sample["mask"][:, -1].any() and sample["mask"][:, 0].any(), "the first slice is now the last"
    other = nibabel.Nifti1Image(np.zeros((6, 5, 4), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    nibabel.save(other, tmp_path / "mask_0.nii.gz")
    with pytest.raises(BadImageError, match=r"mask_0.nii.gz lies elsewhere in the world than its image"):
        array_data(items, ["a", "b"], mask_classes=["none", "object"]).setup()


def test_several_patches_an_image_enlarge_the_batch(array_data: Make, digits_like: list[Item]) -> None:
    patches = RandCropByPosNegLabeld(("image", "mask"), label_key="mask", spatial_size=(6, 5), num_samples=3)
    data = array_data(digits_like, ["even", "odd"], batch_size=4, augment=[patches])
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (12, 1, 6, 5) and batch["mask"].shape == (12, 1, 6, 5)
    assert len(batch["id"]) == 12 and len(set(batch["id"])) == 4 and len(batch["label"]) == 12
    assert type(batch["image"]) is torch.Tensor
    assert next(iter(data.val_dataloader()))["image"].shape == (4, 1, 12, 10)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_a_few_images_are_for_testing(
    array_data: Make, digits_like: list[Item], count: int, cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    items = [replace(item, label=0) for item in digits_like[:count]]
    data = array_data(items, ["even"], cache=cache)
    data.setup()
    assert f"{count} images of the arrays are too few to split: all are for testing" in caplog.text
    assert (
        sorted(ids_of(data.test_dataloader())) == sorted(ids_of(data.predict_dataloader())) == ["im00", "im01"][:count]
    )
    pixels = np.stack([item.image for item in items]) / 255
    assert data.mean == pytest.approx([pixels.mean()]) and data.std == pytest.approx([pixels.std()])
    with pytest.raises(ValueError, match="The train split of the arrays ends up empty; give it images"):
        data.train_dataloader()


def test_three_images_are_split(array_data: Make, digits_like: list[Item]) -> None:
    data = array_data([replace(item, label=0) for item in digits_like[:3]], ["even"])
    data.setup()
    assert [len(items) for items in data.split_items.values()] == [1, 1, 1]
