"""Write peer_values.json: what other libraries answer on the inputs of inputs.py, and where they are wrong.

Run it by hand from the repository root, in an environment of its own and never in the tests::

    pip install torch==2.13.0
    pip install quantus==0.6.0 numpy==2.3.5 scikit-image==0.26.0 captum==0.9.0 monai==1.6.1
    pip install --no-deps torchcam==0.5.0  # its torchvision does not import beside a CPU torch, and is not needed
    python -m tests.reference.make_peer_values

numpy stays below 2.4: Quantus 0.6 integrates with ``np.trapz``, which 2.4 removed. Peers are imported inside the
functions, because pytest imports this file when it looks for doctests. Undefined values (NaN) are stored as null.
"""

import json
import math
import platform
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference import inputs

LIBRARIES = ("torch", "numpy", "quantus", "scikit-learn", "scikit-image", "scipy", "torchcam", "monai")
FILE = Path(__file__).with_name("peer_values.json")
STEP = 12  # 144 pixels in 12 steps
ROAD_PERCENTAGES = (25, 50, 75)
PLAIN: dict[str, Any] = {"abs": False, "normalize": False, "disable_warnings": True}
MAPS: dict[str, Callable[[], Tensor]] = {
    "maps": inputs.maps,
    "signed_maps": inputs.signed_maps,
    "tied_maps": inputs.tied_maps,
}


def as_plain_tensor(value: Any) -> Any:
    """Numbers, lists and dicts for JSON, at full precision; NaN as None."""
    if isinstance(value, dict):
        return {str(key): as_plain_tensor(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain_tensor(entry) for entry in value]
    if hasattr(value, "tolist"):  # tensors, arrays and numpy's numbers
        return as_plain_tensor(value.detach().tolist() if isinstance(value, Tensor) else value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value


def quantus_batch(channels: int, ranking: Tensor) -> dict[str, Any]:
    """Arguments of a Quantus metric: images, maps ``(4, 1, 12, 12)``, targets, masks."""
    return {
        "x_batch": inputs.images(channels).numpy(),
        "y_batch": inputs.targets().numpy(),
        "a_batch": ranking.unsqueeze(1).numpy(),
        "s_batch": inputs.masks().unsqueeze(1).numpy(),
        "channel_first": True,
    }


def ask(metric: Any, model: nn.Module | None, channels: int, ranking: Tensor, **changes: Any) -> Any:
    """What a Quantus metric says of four maps."""
    return metric(model=model, **{**quantus_batch(channels, ranking), **changes})


def raised(call: Callable[[], Any]) -> str | None:
    """Type and message of what a call raises; None where it raises nothing."""
    try:
        call()
    except Exception as error:  # whatever a peer raises is the value
        return f"{type(error).__name__}: {error}"
    return None


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Softmax probability of each image's target, by torch alone."""
    return model(images).softmax(dim=1).gather(1, inputs.targets().unsqueeze(1)).squeeze(1)


def pixel_flipping() -> dict[str, Any]:
    """Curves of Quantus PixelFlipping on gray images, for two baselines and both orders."""
    import quantus

    values: dict[str, Any] = {
        "call": f"PixelFlipping(features_in_step={STEP}, abs=False, normalize=False, perturb_baseline=baseline)",
        "points": "12 a curve: point i has the (i + 1) * 12 top pixels replaced; the untouched image is not a point, "
        "the last point is the blank image",
        "score": "softmax probability of the target",
        "baselines": "black: each image's own minimum; 0.0: zero",
        "auc": "return_auc_per_sample=True: trapezoid over the 12 points with dx = 1, not divided by the width",
        "full": "probability of the untouched image, by torch",
    }
    for name in ("linear_gray", "conv_gray"):
        model, images = inputs.models()[name]
        values[name] = {"full": probabilities(model, images), "minimum": images.flatten(1).amin(dim=1)}
        for label, baseline in (("black", "black"), ("zero", 0.0)):
            for order, ranking in (("most_first", inputs.maps()), ("least_first", inputs.reversed_maps())):
                setup = {"features_in_step": STEP, "perturb_baseline": baseline, **PLAIN}
                curve, auc = (
                    ask(quantus.PixelFlipping(return_auc_per_sample=area, **setup), model, 1, ranking)
                    for area in (False, True)
                )
                values[name][f"{label}_{order}"] = {"curve": curve, "auc": auc}
    return values


def localization() -> dict[str, Any]:
    """Quantus' localization metrics; the order of ties is numpy's own, so rank metrics skip the tied maps."""
    import quantus

    metrics = {
        "relevance_mass_accuracy": (quantus.RelevanceMassAccuracy(**PLAIN), tuple(MAPS)),
        "relevance_rank_accuracy": (quantus.RelevanceRankAccuracy(**PLAIN), ("maps", "signed_maps")),
        "top_k_intersection": (quantus.TopKIntersection(k=20, **PLAIN), ("maps", "signed_maps")),
        "auc": (quantus.AUC(**PLAIN), tuple(MAPS)),
        "pointing_game": (quantus.PointingGame(**PLAIN), tuple(MAPS)),
    }
    empty = (~inputs.masks().flatten(1).any(dim=1)).tolist()
    values: dict[str, Any] = {}
    for name, (metric, rankings) in metrics.items():
        values[name] = {}
        for ranking in rankings:
            scores = [float(score) for score in ask(metric, None, 1, MAPS[ranking]())]
            # PointingGame's answer for an empty mask is a fault of its own; see faults.
            values[name][ranking] = [math.nan if none else score for score, none in zip(scores, empty, strict=True)]
    return values


def road_imputation() -> dict[str, Any]:
    """Quantus' noisy_linear_imputation without noise; the function is right where the ROAD metric is not."""
    import numpy as np
    from quantus.functions.perturb_func import noisy_linear_imputation

    values: dict[str, Any] = {
        "call": "noisy_linear_imputation(image, indices of the top int(144 * p / 100) pixels of maps(), noise=0.0)",
        "percentages": list(ROAD_PERCENTAGES),
        "probability": "softmax of the target after imputation, (percentages, images)",
        "first_image": "imputed values of images[0], (C, removed pixels), 50 percent, pixels by falling relevance",
    }
    order = inputs.maps().flatten(1).argsort(dim=1, descending=True)
    for name, (model, images) in inputs.models().items():
        values[name] = {"probability": []}
        for percentage in ROAD_PERCENTAGES:
            count = int(inputs.PIXELS * percentage / 100)
            filled = np.stack(
                [
                    noisy_linear_imputation(arr=image.numpy(), indices=ranked[:count].numpy(), noise=0.0)
                    for image, ranked in zip(images, order, strict=True)
                ]
            )
            values[name]["probability"].append(probabilities(model, torch.from_numpy(filled)))
            if percentage == 50 and name.startswith("linear"):
                values[name]["first_image"] = filled[0].reshape(images.shape[1], -1)[:, order[0, :count].numpy()]
    return values


class GivenMaps:
    """Stands where torchcam expects a CAM extractor, and returns the maps that it was given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model = model
        self.maps = maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        """The given maps, whatever the class."""
        return [self.maps.clone()]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """The only map."""
        return cams[0]

    def _hooks_off(self) -> AbstractContextManager[None]:
        return nullcontext()


def deletion_insertion() -> dict[str, Any]:
    """Areas and curves of torchcam's DeletionInsertionMetric, an image at a time because it keeps only sums."""
    from torchcam.metrics import DeletionInsertionMetric

    class Recorder(DeletionInsertionMetric):
        """Keeps the curves that the metric integrates."""

        def _compute_curves(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
            self.curves = super()._compute_curves(*args, **kwargs)
            return self.curves

    values: dict[str, Any] = {
        "call": "DeletionInsertionMetric(maps, softmax, steps=12, baseline=zero or the minimum), one image each",
        "points": "13 a curve at 0/12, 1/12, ... 12/12: the untouched and the blank image are both points",
        "auc": "trapezoid over the fractions, so within [0, 1]",
        "ties": "pixels that tie keep their scan order (stable sort)",
        "steps_20": "steps is a maximum: of 144 pixels, steps=20 makes intervals of ceil(144 / 20) = 8 pixels, so 18",
    }
    baselines = {"zero": None, "minimum": lambda images: images.flatten(1).amin(dim=1).view(-1, 1, 1, 1)}
    softmax = partial(torch.softmax, dim=-1)
    for name, (model, images) in inputs.models().items():
        values[name] = {}
        for label, baseline in baselines.items():
            for which in ("maps", "tied_maps"):
                areas: dict[str, list[Any]] = {"deletion": [], "insertion": [], "deletion_auc": [], "insertion_auc": []}
                for index, target in enumerate(inputs.targets().tolist()):
                    maps = MAPS[which]()[index : index + 1]
                    metric = Recorder(GivenMaps(model, maps), softmax, steps=12, baseline=baseline)
                    metric.update(images[index : index + 1], target)
                    _, deletion, insertion = metric.curves
                    for key, value in {"deletion": deletion[0], "insertion": insertion[0], **metric.summary()}.items():
                        areas[key].append(value)
                if which == "tied_maps":
                    del areas["deletion"], areas["insertion"]
                values[name][f"{label}_{which}"] = areas
    model, images = inputs.models()["linear_gray"]
    metric = Recorder(GivenMaps(model, inputs.maps()), softmax, steps=20)
    metric.update(images, inputs.targets().tolist())
    values["linear_gray"]["zero_maps_steps_20"] = {"fractions": metric.curves[0], **metric.summary()}
    return values


def fault(library: str, call: str, given: str, wrong: Any, why: str, reproduced: bool, **more: Any) -> dict[str, Any]:
    """One entry of faults."""
    found = {"library": library, "version": version(library), "reproduced": reproduced, "call": call, "inputs": given}
    return {**found, "wrong": wrong, "why": why, **more}


def quantus_faults() -> dict[str, Any]:
    """Where Quantus is wrong."""
    import numpy as np
    import quantus
    from quantus.functions.perturb_func import batch_baseline_replacement_by_indices
    from quantus.functions.similarity_func import ssim

    faults: dict[str, Any] = {}
    gray, rgb, maps = inputs.LinearModel(1), inputs.LinearModel(3), inputs.maps()
    lib = "quantus"

    with torch.no_grad():
        asked = gray(inputs.images(1)).argmax(dim=1)
    asked[2:] = (asked[2:] + 1) % inputs.CLASSES  # right for the first two images, wrong for the others
    road = {"percentages": list(ROAD_PERCENTAGES), "noise": 0.0, **PLAIN}
    split, first, whole = (
        ask(quantus.ROAD(**road), gray, 1, maps, y_batch=asked.numpy(), batch_size=2),
        quantus.ROAD(**road)(
            model=gray,
            **{key: value[:2] for key, value in quantus_batch(1, maps).items() if key in ("x_batch", "a_batch")},
            y_batch=asked[:2].numpy(),
            channel_first=True,
        ),
        ask(quantus.ROAD(**road), gray, 1, maps, y_batch=asked.numpy(), batch_size=4),
    )
    faults["quantus_road_first_batch"] = fault(
        lib,
        "ROAD(percentages=[25, 50, 75], noise=0.0)(batch_size=2)",
        "LinearModel(1), images(1), maps(); targets = classes below (predictions, the last two + 1 mod 3)",
        split,
        "custom_postprocess averages evaluation_scores[0], the first batch, and drops the others",
        split == first and split != whole,
        classes=asked,
        right=whole,
        right_by="one batch of 4; fraction of images still given the asked class, by percentage removed",
    )
    message = raised(lambda: ask(quantus.ROAD(**road), rgb, 3, maps))
    faults["quantus_road_rgb"] = fault(
        lib,
        "ROAD(percentages=[25, 50, 75], noise=0.0)",
        "LinearModel(3), images(3), maps(), targets()",
        message,
        "the map is repeated over channels and flattened to C*H*W indices, while the imputation knows H*W pixels",
        message is not None,
    )

    steps = {"features_in_step": STEP, **PLAIN}
    answers = {
        "maps": ask(quantus.Monotonicity(**steps), gray, 1, maps),
        "reversed": ask(quantus.Monotonicity(**steps), gray, 1, inputs.reversed_maps()),
    }
    rising = {
        "maps": (monotone_curve(gray, inputs.images(1), maps).diff(dim=1) >= 0).all(dim=1),
        "reversed": (monotone_curve(gray, inputs.images(1), inputs.reversed_maps()).diff(dim=1) >= 0).all(dim=1),
    }
    faults["quantus_monotonicity"] = fault(
        lib,
        f"Monotonicity(features_in_step={STEP}, abs=False, normalize=False)",
        "LinearModel(1), images(1), maps() and reversed_maps(), targets()",
        answers,
        "it starts from an image full of the baseline and then writes the baseline into it: the image never changes, "
        "the curve is constant, and constant counts as monotone",
        all(map(all, answers.values())),
        right=rising,
        right_by="pixels of the image put back on its minimum, 12 a step, the least relevant first; blank is no point",
    )

    pointing = ask(quantus.PointingGame(**PLAIN), None, 1, maps)
    none = np.zeros((inputs.IMAGES, 1, inputs.SIZE, inputs.SIZE), dtype=bool)
    all_empty = ask(quantus.PointingGame(**PLAIN), None, 1, maps, s_batch=none)
    faults["quantus_pointing_game_empty_mask"] = fault(
        lib,
        "PointingGame(abs=False, normalize=False)",
        "maps(), masks() of which the last is empty; then four empty masks",
        {"masks": pointing, "empty": all_empty},
        "NaN is written into a boolean array and becomes True: an empty mask is a hit",
        bool(pointing[3]) and all(all_empty),
    )
    message = raised(lambda: ask(quantus.PointingGame(weighted=True, **PLAIN), None, 1, maps))
    faults["quantus_pointing_game_weighted"] = fault(
        lib,
        "PointingGame(weighted=True, abs=False, normalize=False)",
        "maps(), masks()",
        message,
        "a column is written into a row; were its shape right, the weight 1 - area would become True (booleans)",
        message is not None,
    )

    other = inputs.other_maps()
    flat = ssim(maps.flatten(1).numpy(), other.flatten(1).numpy(), batched=True)
    square = ssim(maps.numpy(), other.numpy(), batched=True)
    pair = torch.stack([maps[0], other[0]]).numpy()

    def explain(*, targets: Any, **_: Any) -> Any:
        """The map of the class."""
        return pair[np.asarray(targets)][:, None]

    through = quantus.RandomLogit(num_classes=2, similarity_func=ssim, **PLAIN)(
        model=inputs.LinearModel(1, classes=2),
        x_batch=inputs.images(1)[:1].numpy(),
        y_batch=np.zeros(1, dtype=int),
        a_batch=None,
        explain_func=explain,
        channel_first=True,
    )
    faults["quantus_ssim_flat"] = fault(
        lib,
        "RandomLogit and MPRT with similarity_func=ssim; RandomLogit's own default",
        "maps() against other_maps(); random_logit: maps()[0] explains class 0 and other_maps()[0] class 1",
        {"ssim": flat, "random_logit": through},
        "maps are flattened to a row before the similarity, so the window is 7 neighbors in scan order, wrapping from "
        "one row to the next, not 7 x 7",
        bool(np.allclose(through, flat[:1])) and not np.allclose(flat, square),
        right=square,
        right_by="the same ssim on 2-D maps: scikit-image, 7 x 7 uniform window, data_range = joint max - joint min",
    )

    drifting = ask(quantus.PixelFlipping(perturb_baseline="mean", **steps), gray, 1, maps)
    means = inputs.images(1).mean(dim=(1, 2, 3))
    constant = [
        quantus.PixelFlipping(perturb_baseline=float(mean), **steps)(
            model=gray,
            x_batch=inputs.images(1)[row : row + 1].numpy(),
            y_batch=inputs.targets()[row : row + 1].numpy(),
            a_batch=maps[row : row + 1].unsqueeze(1).numpy(),
            channel_first=True,
        )[0]
        for row, mean in enumerate(means.tolist())
    ]
    later = batch_baseline_replacement_by_indices(
        arr=np.array([[0.0, 1.0, 5.0]]), indices=np.array([[2]]), perturb_baseline="mean"
    )
    faults["quantus_pixel_flipping_mean"] = fault(
        lib,
        f"PixelFlipping(features_in_step={STEP}, perturb_baseline='mean', abs=False, normalize=False)",
        "LinearModel(1), images(1), maps(), targets()",
        drifting,
        "the mean is taken anew of the image as it stands at each step, so the fill drifts "
        f"(e.g. [0, 1, 5] fills with 2, and the next step with {later.mean()})",
        not np.allclose(drifting, constant),
        right=constant,
        right_by="PixelFlipping with perturb_baseline = the untouched image's mean, as a number, an image at a time",
    )
    return faults


def monotone_curve(model: nn.Module, images: Tensor, ranking: Tensor) -> Tensor:
    """Probabilities ``(4, 12)`` while pixels are put back on each image's minimum, the least relevant first."""
    order = ranking.flatten(1).argsort(dim=1)
    shown = images.flatten(1).amin(dim=1, keepdim=True).repeat(1, images[0].numel())
    points = []
    for step in order.split(STEP, dim=1):
        shown = shown.scatter(1, step, images.flatten(1).gather(1, step))
        points.append(probabilities(model, shown.view_as(images)))
    return torch.stack(points, dim=1)


def monai_faults() -> dict[str, Any]:
    """Where MONAI is wrong."""
    from monai.visualize import GradCAM, GradCAMpp, OcclusionSensitivity

    faults: dict[str, Any] = {}
    lib = "monai"
    model, images = inputs.ConvNet(3), inputs.images(3)
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    cam = GradCAM(model, "relu2")
    mixed = cam.compute_map(images).detach()
    alone = torch.cat([cam.compute_map(images[row : row + 1]).detach() for row in range(len(images))])
    listed = cam.compute_map(images, class_idx=predicted.tolist()).detach()
    summed = sum(cam.compute_map(images, class_idx=int(index)).detach() for index in predicted)
    faults["monai_gradcam_mixed_classes"] = fault(
        lib,
        "GradCAM(model, 'relu2').compute_map(images, class_idx=None)",
        "ConvNet(3), images(3); raw 6 x 6 maps, before upsampling and the default normalizer, which also inverts them",
        mixed[:, 0],
        "logits[:, argmax] of a (B,) argmax is a (B, B) table, and its sum is differentiated: every image is explained "
        "for the predicted classes of the whole batch at once",
        not torch.allclose(mixed, alone, atol=1e-6),
        predicted=predicted,
        right=alone[:, 0],
        right_by="the same call, an image at a time",
        same_with_a_list_of_classes=bool(torch.equal(listed, mixed)),
        # Gradients add up before the ReLU; here no ReLU cuts, so the maps add up too.
        difference_to_sum_of_maps=float((mixed - summed).abs().max()),
    )
    message = raised(lambda: GradCAMpp(inputs.ConvNet(3), "relu2").compute_map(images, class_idx=1))
    six = torch.cat([images, images[:2]])  # as many images as the layer is wide
    batched = GradCAMpp(inputs.ConvNet(3), "relu2").compute_map(six, class_idx=1).detach()
    single = GradCAMpp(inputs.ConvNet(3), "relu2")
    ratio = torch.stack(
        [(batched[row] / single.compute_map(six[row : row + 1], class_idx=1)[0].detach()).mean() for row in range(6)]
    )
    faults["monai_gradcampp_batch"] = fault(
        lib,
        "GradCAMpp(model, 'relu2').compute_map(images, class_idx=1)",
        "ConvNet(3), images(3); then images 0, 1, 2, 3, 0, 1, as many as the layer is wide",
        {"error": message, "ratio_to_single_images": ratio},
        "score (B,) is multiplied with the gradient (B, C, H, W), so it is broadcast over the width: an error for "
        "B != W, and for B == W column w is weighted with the score of image w",
        message is not None and not torch.allclose(ratio, torch.ones(6), atol=0.01),
    )

    gray = inputs.ConvNet(1)
    image = inputs.images(1)[:1]
    setup = {"mask_size": 4, "overlap": 0.0, "mode": 0.0, "verbose": False}
    wrong, _ = OcclusionSensitivity(gray, **setup)(image)
    right, _ = OcclusionSensitivity(gray, activate=partial(torch.softmax, dim=1), **setup)(image)
    logits, _ = OcclusionSensitivity(gray, activate=False, **setup)(image)
    coarse = (slice(None), slice(1, None, 4), slice(1, None, 4))
    faults["monai_occlusion_gray"] = fault(
        lib,
        "OcclusionSensitivity(model, mask_size=4, overlap=0.0, mode=0.0)(image)",
        "ConvNet(1), images(1)[:1]; (classes, 3, 3), one value for each of the 3 x 3 blocks of 4 x 4 pixels",
        torch.as_tensor(wrong)[0][coarse],
        "activate=True means out.sigmoid() if x.shape[1] == 1 else out.softmax(1), and x is the input image: a gray "
        "image makes sigmoids of a 3-class head, an RGB image a softmax of any head",
        bool(torch.allclose(torch.as_tensor(wrong), torch.as_tensor(logits).sigmoid()))
        and not torch.allclose(torch.as_tensor(wrong), torch.as_tensor(right)),
        sum_over_classes=torch.as_tensor(wrong)[0][coarse].sum(dim=0),
        right=torch.as_tensor(right)[0][coarse],
        right_by="activate=softmax over the classes",
    )
    one_logit = inputs.LinearModel(3, classes=1)
    ones, _ = OcclusionSensitivity(one_logit, **setup)(images[:1])
    sigmoids, _ = OcclusionSensitivity(one_logit, activate=torch.sigmoid, **setup)(images[:1])
    faults["monai_occlusion_rgb_one_logit"] = fault(
        lib,
        "OcclusionSensitivity(model, mask_size=4, overlap=0.0, mode=0.0)(image)",
        "LinearModel(3, classes=1), images(3)[:1]; (1, 3, 3) as above",
        torch.as_tensor(ones)[0][coarse],
        "the same line: a softmax over one logit is 1 everywhere",
        bool((torch.as_tensor(ones) == 1).all()),
        right=torch.as_tensor(sigmoids)[0][coarse],
        right_by="activate=sigmoid",
    )
    return faults


def torchcam_faults() -> dict[str, Any]:
    """Where torchcam is wrong."""
    from torchcam.methods import GradCAMpp

    model, images, targets = inputs.ConvNet(3), inputs.images(3), inputs.targets()
    found: dict[str, Any] = {"wrong": {}, "right": {}}
    reproduced = True
    for layer in inputs.CONV_LAYERS:
        with GradCAMpp(model, layer, input_shape=(3, inputs.SIZE, inputs.SIZE)) as extractor:
            scores = model(images)
            weights = extractor._get_weights(targets.tolist(), scores, retain_graph=True)[0]
            activation, gradient = extractor.hook_a[0], extractor.hook_g[0]
            assert isinstance(activation, Tensor) and isinstance(gradient, Tensor)
        mass = (gradient.pow(3) * activation).sum(dim=(2, 3), keepdim=True)
        divisor = 2 * gradient.pow(2) + mass
        alpha = torch.where(gradient != 0, gradient.pow(2) / (divisor + 1e-8), torch.zeros_like(gradient))
        right = (alpha * gradient.relu()).sum(dim=(2, 3))
        undivided = (gradient.pow(2) * gradient.relu()).sum(dim=(2, 3))
        reproduced &= bool(torch.allclose(weights, undivided)) and not torch.allclose(weights, right)
        found["wrong"][layer], found["right"][layer] = weights, right
    return {
        "torchcam_gradcampp_alpha": fault(
            "torchcam",
            "GradCAMpp(model, layer)._get_weights(targets, model(images)): channel weights (4, C)",
            f"ConvNet(3), images(3), targets(), layers {' and '.join(inputs.CONV_LAYERS)}",
            found["wrong"],
            "alpha[mask].div_(...) divides a copy: alpha stays gradient^2, a weight is sum gradient^2 relu(gradient)",
            reproduced,
            right=found["right"],
            right_by="alpha = g^2 / (2 g^2 + sum_hw(A g^3) + 1e-8), by torch on the extractor's own hooks",
        )
    }


def main() -> None:
    """Readout every peer and write the file."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    values = {
        "made_by": "python -m tests.reference.make_peer_values",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "quantus": {
            "pixel_flipping": pixel_flipping(),
            **localization(),
            "road_imputation": road_imputation(),
        },
        "torchcam": {"deletion_insertion": deletion_insertion()},
        "faults": {**quantus_faults(), **monai_faults(), **torchcam_faults()},
    }
    text = json.dumps(as_plain_tensor(values), indent=1, allow_nan=False)
    FILE.write_text(compact(text) + "\n")
    for name, entry in values["faults"].items():
        print(f"{name}: {'reproduced' if entry['reproduced'] else 'NOT reproduced'}")


def compact(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(r'\[[^][{}"]*\]', lambda found: " ".join(found.group().split()), text)


if __name__ == "__main__":
    main()
