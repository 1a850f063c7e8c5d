"""Images that a sampler repeats are left out, wherever they come in an epoch."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler

from lightning_xai.functional.repeats import ImageMeans, Repeats, repeated_ids


class Items(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"id": f"i{index}", "image": torch.full((1, 2, 2), float(index))}


class Module:
    def __init__(self, loader):
        self._trainer = type("Trainer", (), {"test_dataloaders": loader})() if loader is not None else None


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "ranks"), [(9, 2), (8, 2), (10, 4), (1, 3), (2, 7)])
@pytest.mark.parametrize("batches", ["sampler", "batch_sampler"])
def test_all_ranks_together_count_every_image_once(count, ranks, shuffle, batches):
    seen = []
    for rank in range(ranks):
        sampler = DistributedSampler(Items(count), ranks, rank, shuffle=shuffle)
        how = {"sampler": sampler, "batch_size": 2}
        if batches == "batch_sampler":
            how = {"batch_sampler": BatchSampler(sampler, 2, drop_last=False)}
        loader, repeats = DataLoader(Items(count), **how), Repeats()
        for _epoch in range(2):
            repeats.start(Module(loader), "test")
            mine = []
            for batch in loader:
                kept, number = repeats.counted(batch)
                assert len(kept["id"]) == len(kept["image"]) == (number or len(batch["id"]))
                mine += kept["id"] if number else []
                assert [f"i{int(image.mean())}" for image in kept["image"]] == kept["id"]
        seen += mine
    assert sorted(seen) == sorted(f"i{index}" for index in range(count))


def test_nothing_repeats_in_one_process_or_outside_of_a_trainer():
    loader, repeats = DataLoader(Items(3), batch_size=2), Repeats()
    for module in (Module(loader), Module(None)):
        repeats.start(module, "test")
        for batch in loader:
            assert repeats.counted(batch) == (batch, len(batch["id"]))
    assert list(repeated_ids(None)) == []


def test_means_are_over_images():
    class Logs:
        device = torch.device("cpu")

        def log(self, name, metric, **_):
            self.metric = metric

    means, module = ImageMeans(), Logs()
    for value, count in ((0.5, 4), (0.75, 4), (9.0, 0), (0.0, 1)):
        means.log(module, {"val/loss": torch.tensor(value)}, count)
    assert module.metric.compute().item() == pytest.approx(5 / 9)
    means.log(module, {"val/loss": torch.tensor(float("nan"))}, 1)
    assert module.metric.compute().isnan()
