"""The automatic layer in a run: settled before the first batch, logged, and said on figures."""

import pytest
import torch

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import GradCAM
from lightning_xai.explainers.cam.base import first_sample
from tests.helpers import Blobs, CountingTarget
from tests.unit.explainers.cam.test_cam import deep
from tests.unit.explainers.test_base import trainer

#: The last layer of the network that has positions.
LAYER = "3"


class Iterated(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(Blobs(4).items)


@pytest.mark.parametrize("loops", [("validate",), ("test",), ("predict",), ("test", "predict")])
def test_auto_is_settled_before_the_first_batch_logged_and_said(loops, tmp_path, caplog):
    explainer, seen = GradCAM(ClassifierTarget(deep())), []
    assert explainer.settings == {"layer": "auto"} and explainer.title == "GradCAM, layer auto"
    explain = explainer.explain_batch
    explainer.explain_batch = lambda *args, **kwargs: (seen.append(explainer.settings), explain(*args, **kwargs))[1]
    with caplog.at_level("INFO"):
        for loop in loops:
            getattr(trainer(tmp_path), loop)(explainer, Blobs(4))
    assert seen and all(settings == {"layer": LAYER} for settings in seen)
    assert explainer.title == f"GradCAM, layer {LAYER}"
    said = [record.getMessage() for record in caplog.records if "layer=auto" in record.getMessage()]
    assert said == [f"GradCAM: layer=auto is the layer {LAYER!r}."]


def test_auto_is_settled_from_loaders_of_their_own_and_from_streams(tmp_path):
    for loader in (Blobs(4).loader(), [Blobs(4).loader()], torch.utils.data.DataLoader(Iterated(), batch_size=2)):
        explainer = GradCAM(ClassifierTarget(deep()))
        trainer(tmp_path).test(explainer, loader, verbose=False)
        assert explainer.settings == {"layer": LAYER}


def test_named_layers_are_said_and_cost_nothing(tmp_path):
    target, data = CountingTarget(deep()), Blobs(4, batch_size=4)
    target.logits(torch.stack([item["image"] for item in data.items]))
    target.chunks.clear()
    explainer = GradCAM(target, ["0", target.model[1]])
    trainer(tmp_path).test(explainer, data, verbose=False)
    assert target.chunks == [4] and explainer.title == "GradCAM, layer 0 + 1"


class Drawing(torch.utils.data.Dataset):
    """Items that draw random numbers, as an augmentation does."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": torch.rand(1, 4, 4), "id": str(index)}


def test_the_sample_costs_the_run_no_random_number_and_streams_have_none():
    state = torch.get_rng_state()
    batch = first_sample(torch.utils.data.DataLoader(Drawing(), batch_size=2, shuffle=True))
    assert batch["image"].shape == (1, 1, 4, 4) and batch["id"] == ["0"]
    assert torch.equal(torch.get_rng_state(), state)
    assert first_sample(torch.utils.data.DataLoader(Iterated())) is None and first_sample([]) is None
