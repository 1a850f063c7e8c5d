"""What a test costs: every call of the model, counted at the model."""

import pytest
import torch
from lightning import Trainer

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.callbacks import AttributionMaps, Faithfulness
from lightning_xai.explainers import CenterPrior, EdgeMap, GradCAM, RandomMap
from lightning_xai.metrics import DeletionAUC, InsertionAUC
from tests.helpers import Blobs, cnn, segmenter

STEPS = 6
CONTROLS = {"random": RandomMap, "center": CenterPrior, "edge": EdgeMap}


@pytest.mark.parametrize(("target", "queries"), [(ClassifierTarget(cnn()), 1), (SegmenterTarget(segmenter()), 2)])
def test_the_model_runs_for_the_explanation_and_for_what_is_perturbed_alone(tmp_path, target, queries):
    data = Blobs(count=6, batch_size=2)
    with torch.no_grad():
        target.logits(data.items[0]["image"].unsqueeze(0))  # what the model wants of such images is known
    calls = []
    target.model.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    metrics = {"deletion": DeletionAUC(steps=STEPS), "insertion": InsertionAUC(steps=STEPS)}
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[AttributionMaps(), Faithfulness(metrics, CONTROLS, chunk_size=64)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.test(GradCAM(target, layer="0"), data, verbose=False)
    hidden = 2 * queries * 2 * (STEPS - 1)  # two images, two curves; their ends show all or nothing
    explanation, baselines = 2, 2
    assert calls == 3 * [explanation, baselines + hidden, hidden, hidden, hidden]
    assert (tmp_path / "maps" / "test.png").is_file() and (tmp_path / "controls.csv").is_file()


def test_logits_of_a_mixed_precision_step_are_not_mixed_with_the_metrics_own(tmp_path):
    """Hidden images are scored in full precision, and so must be the whole ones that they are compared with."""
    target, data = ClassifierTarget(cnn()), Blobs(count=4, batch_size=4)
    scored = Faithfulness({"deletion": DeletionAUC(steps=STEPS)}, CONTROLS)
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    images = torch.stack([item["image"] for item in data.items])
    with torch.no_grad():
        target.logits(images)
    calls = []
    target.model.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    Trainer(accelerator="cpu", precision="bf16-mixed", callbacks=[scored], **quiet).test(
        GradCAM(target, layer="0"), data, verbose=False
    )
    hidden = 4 * (STEPS - 1)
    assert calls == [4, 4 + 4 + hidden, hidden, hidden, hidden], "whole images once more, for all explainers"
    full = target.predict(images).amax(dim=1)
    for name, suite in scored.suites.items():
        assert torch.allclose(suite["deletion"].per_image("full")[:, 0].float(), full, atol=1e-6), name
