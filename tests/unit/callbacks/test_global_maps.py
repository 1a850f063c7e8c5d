"""SaveGlobalMaps: what it aggregates, writes and says, for classifiers, segmenters and volumes."""

import nibabel
import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import SaveGlobalMaps
from lightning_xai.explainers import CenterPrior, HiResCAM
from lightning_xai.explainers.query_policy import QueryPolicy
from lightning_xai.global_maps import GlobalMaps
from tests.helpers import Blobs, GradientMap, cnn, linear_net, segmenter


def run(explainer, folder, data=None, **options):
    callback = SaveGlobalMaps(**options)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(default_root_dir=folder, callbacks=[callback], **quiet).test(explainer, data or Blobs(), verbose=False)
    return callback


def arrays(folder):
    with np.load(folder / "global" / "maps.npz") as file:
        return {name: file[name] for name in file.files}


def test_maps_of_the_labels_are_written(tmp_path):
    explainer = GradientMap(ClassifierTarget(cnn(), class_names=["a", "b", "c"]), query_policy=QueryPolicy("label"))
    result = run(explainer, tmp_path).result
    items = Blobs().items
    expected = GlobalMaps(["a", "b", "c"])
    images, labels = torch.stack([item["image"] for item in items]), torch.tensor([item["label"] for item in items])
    ids = [item["id"] for item in items]
    expected.update(maps=explainer.explain(images, labels), labels=labels, images=images, ids=ids)
    assert result.count == [2, 2, 2] and result.images == 6
    for one, other in zip(result.label_wise, expected.compute().label_wise, strict=True):
        assert torch.allclose(one, other, atol=1e-7)
    kept = arrays(tmp_path)
    assert kept["labels"].tolist() == ["a", "b", "c"] and kept["count"].tolist() == [2, 2, 2]
    assert np.allclose(kept["label_wise"][1], result.label_wise[1]) and np.allclose(kept["overall"], result.overall)
    assert kept["standard_error"].shape == (3, 8, 8) and kept["mean_image"].shape == (1, 8, 8)
    assert sorted(path.name for path in (tmp_path / "global").iterdir()) == ["maps.npz", "maps.png"]


def test_the_predicted_class_leaves_the_true_positives(tmp_path):
    target = ClassifierTarget(cnn())
    explainer = CenterPrior(target)
    batches = list(Blobs().loader())
    right = sum(int((target.predict(batch["image"]).argmax(dim=1) == batch["label"]).sum()) for batch in batches)
    assert sum(run(explainer, tmp_path).result.count) == right


def test_a_segmenter_has_a_map_for_every_foreground_class(tmp_path):
    explainer = HiResCAM(SegmenterTarget(segmenter(), class_names=["rest", "first", "second"]), layer="0")
    result = run(explainer, tmp_path, Blobs(side=16)).result
    assert result.count[0] == 0 and result.label_wise[0] is None, "nobody asks about the background"
    assert result.count[1] + result.skipped[1] == 6 and result.count[2] == 0, "the masks show the first class alone"
    free = run(explainer, tmp_path / "free", Blobs(side=16, masks=False), subset="all").result
    assert free.count[2] + free.skipped[2] == 6


def test_volumes_become_nifti_with_their_affine(tmp_path):
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    items = [
        {"image": torch.rand(1, 5, 6, 7), "label": number % 2, "id": f"scan_{number}", "affine": affine}
        for number in range(4)
    ]
    explainer = GradientMap(ClassifierTarget(linear_net(torch.randn(2, 210))), query_policy=QueryPolicy("all"))
    result = run(explainer, tmp_path, DataLoader(items, batch_size=2), subset="all").result
    volume = nibabel.load(tmp_path / "global" / "maps.nii.gz")
    assert volume.shape == (5, 6, 7, 3) and np.array_equal(volume.affine, affine)
    assert np.allclose(volume.get_fdata()[..., 0], result.overall, atol=1e-6)


def test_what_lies_outside_of_a_region_is_measured_per_image_and_label(tmp_path):
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:, :4] = True
    explainer = GradientMap(ClassifierTarget(cnn()), query_policy=QueryPolicy("all"))
    callback = run(explainer, tmp_path, region=region)
    assert {bias.label for bias in callback.biases} == {"0", "1", "2"}
    for bias in callback.biases:
        values = callback.result.found()[bias.label]
        assert bias.outside == pytest.approx(float(values[:, 4:].sum() / values.sum())) and bias.chance == 0.5
        # With mass 1 the label's fraction is the mean of its images'.
        assert len(bias.images) == 2
        assert np.mean([fraction for _, fraction in bias.images]) == pytest.approx(bias.outside, abs=1e-6)
        assert bias.images[0][1] >= bias.images[1][1]


def test_a_wrong_option_stops_before_the_test():
    with pytest.raises(ValueError, match="was given 'sum'"):
        SaveGlobalMaps(normalization="sum")
