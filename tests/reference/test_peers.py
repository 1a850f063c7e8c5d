"""Our metrics against what other libraries answered (peer_values.json), and the cases in which those are wrong."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lightning_xai import ClassifierTarget
from lightning_xai.explainers import CaptumExplainer, GradCAMPlusPlus
from lightning_xai.metrics import (
    ROAD,
    BaselineProbability,
    DeletionAUC,
    InsertionAUC,
    InsertionDeletionGap,
    PixelAUC,
    PixelFlipping,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from lightning_xai.metrics.functional.similarity import ssim
from lightning_xai.perturbation.imputation import neighbor_imputation
from lightning_xai.perturbation.sets import Curve
from lightning_xai.reveal import reveal_curve, reveal_curves
from tests.reference import inputs

VALUES = json.loads(Path(__file__).with_name("peer_values.json").read_text())
QUANTUS, TORCHCAM = VALUES["quantus"], VALUES["torchcam"]["deletion_insertion"]
MODELS = tuple(inputs.models())
MAPS = {name: getattr(inputs, name)().unsqueeze(1) for name in ("maps", "signed_maps", "tied_maps")}
STEPS = 12
TWELFTHS = [step / STEPS for step in range(STEPS + 1)]
QUARTERS = (0.25, 0.5, 0.75)

# The digits that hold on any processor. Peers answer in float32, whose step is 6e-8 just below 1.
PROBABILITY = 1e-6
AREA = 1e-6
SUM_OF_12 = 1e-5  # Quantus' areas are sums of 12 probabilities
SHARE = 1e-7  # localization: pixels are counted, their mass is added up
WEIGHT = 1e-5  # Grad-CAM++: a peer adds 1e-8 to a denominator of 2 g^2
IMPUTED = 2e-6  # two solvers of one linear system
SIMILARITY = 3e-6  # ours is MONAI's, in float32
MAP = 1e-5  # of one float32 pass and of another


def table(values):
    """Numbers of the file as a tensor; null is NaN."""
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)


def minimum(images):
    """Quantus' "black": each image's own minimum, over channels too."""
    return images.flatten(1).amin(dim=1).view(-1, 1, 1, 1).expand_as(images)


BASELINES = {"zero": "zero", "black": minimum, "minimum": minimum}


def query(name, maps="maps"):
    model, images = inputs.models()[name]
    return {"target": ClassifierTarget(model), "images": images, "maps": MAPS[maps], "targets": inputs.targets()}


def scored(metric, **batch):
    """Values of the images ``(4,)``."""
    metric.update(**batch)
    return metric.per_image()[:, 0]


def localized(metric, maps, masks=None):
    return scored(metric, maps=MAPS[maps], masks=(inputs.masks() if masks is None else masks).unsqueeze(1))


def assert_close(ours, peer, tolerance, what=""):
    peer = torch.as_tensor(peer, dtype=torch.float64)
    torch.testing.assert_close(
        ours.double(), peer, atol=tolerance, rtol=0, equal_nan=True, msg=lambda found: f"{what} {found}"
    )


def fault(name):
    entry = VALUES["faults"][name]
    assert entry["reproduced"], f"the file does not show the fault of {entry['library']} {entry['version']}"
    return entry


def assert_apart(ours, wrong, margin):
    """A fault whose wrong answer is ours as well would test nothing."""
    assert (ours.double() - wrong.double()).abs().amax() > margin, f"ours is the wrong answer too: {wrong}"


# ------------------------------------------------------------------ Quantus: pixel flipping


@pytest.mark.parametrize("order", ["most_first", "least_first"])
@pytest.mark.parametrize("fill", ["black", "zero"])
@pytest.mark.parametrize("name", ["linear_gray", "conv_gray"])
def test_pixel_flipping(name, fill, order):
    stored = QUANTUS["pixel_flipping"][name]
    peer, full = stored[f"{fill}_{order}"], table(stored["full"])
    metric = PixelFlipping(order, steps=STEPS, fill=BASELINES[fill])
    area = scored(metric, **query(name))
    curve = torch.tensor(peer["curve"], dtype=torch.float64)
    # Quantus leaves out the whole image, and with it the first half step.
    assert_close(STEPS * area - (full + curve[:, 0]) / 2, peer["auc"], SUM_OF_12, "area")
    assert_close(metric.per_image("full")[:, 0], full, PROBABILITY, "whole image")
    assert_close(metric.per_image("blank")[:, 0], curve[:, -1], PROBABILITY, "blank image")
    asked = query(name)
    score = asked["target"].scorer(asked["images"], asked["targets"].unsqueeze(1))
    request = Curve(tuple(TWELFTHS), "erase", BASELINES[fill], order)
    points = reveal_curves(score, asked["images"], asked["maps"], {"curve": request})["curve"][:, 0]
    assert_close(points, torch.cat([full.unsqueeze(1), curve], dim=1), PROBABILITY, "points")


@pytest.mark.parametrize("fill", ["black", "zero"])
@pytest.mark.parametrize("name", ["linear_gray", "conv_gray"])
def test_the_gap_of_pixel_flipping(name, fill):
    stored = QUANTUS["pixel_flipping"][name]
    most, least = (stored[f"{fill}_{order}"] for order in ("most_first", "least_first"))
    ends = (table([row[0] for row in least["curve"]]) - table([row[0] for row in most["curve"]])) / 2
    expected = (table(least["auc"]) - table(most["auc"]) + ends) / STEPS
    assert expected.abs().min() > 1e-3
    assert_close(scored(PixelFlipping("gap", steps=STEPS, fill=BASELINES[fill]), **query(name)), expected, AREA)


@pytest.mark.parametrize("name", ["linear_gray", "conv_gray"])
def test_the_black_of_quantus_is_each_images_minimum(name):
    images = inputs.models()[name][1]
    assert_close(minimum(images)[:, 0, 0, 0], QUANTUS["pixel_flipping"][name]["minimum"], 0)


# ------------------------------------------------------------------ Quantus: localization


@pytest.mark.parametrize(
    ("metric", "peer", "maps"),
    [
        (RelevanceMass, "relevance_mass_accuracy", ("maps", "tied_maps")),
        (RelevanceRank, "relevance_rank_accuracy", ("maps", "signed_maps")),
        (lambda: TopKIntersection(k=20), "top_k_intersection", ("maps", "signed_maps")),
        (PixelAUC, "auc", ("maps", "signed_maps", "tied_maps")),
        (PointingGame, "pointing_game", ("maps", "signed_maps")),
    ],
    ids=["mass", "rank", "top_k", "auc", "pointing"],
)
def test_localization(metric, peer, maps):
    for name in maps:
        assert_close(localized(metric(), name), table(QUANTUS[peer][name]), SHARE, name)


def test_the_mass_of_a_signed_map_is_its_positive_fraction():
    """Quantus adds up signed values, so that its fraction can leave [0, 1]."""
    maps, masks = MAPS["signed_maps"].squeeze(1).double(), inputs.masks()
    peer = table(QUANTUS["relevance_mass_accuracy"]["signed_maps"])
    inside = torch.where(masks, maps, 0.0)
    fractions = [
        part.sum(dim=(1, 2)) / whole.sum(dim=(1, 2))
        for part, whole in ((inside, maps), (inside.clamp(min=0), maps.clamp(min=0)))
    ]
    signed, positive = (fraction.where(masks.any(dim=2).any(dim=1), math.nan) for fraction in fractions)
    assert_close(signed, peer, SHARE, "Quantus' sum")
    ours = localized(RelevanceMass(), "signed_maps")
    assert_close(ours, positive, SHARE)
    assert ((ours - peer).abs()[:3] > 1e-3).all()


def test_the_pointing_game_counts_the_fraction_of_tied_maxima():
    """Quantus counts a hit where any of them lies on the evidence."""
    maps, masks = MAPS["tied_maps"].squeeze(1), inputs.masks()
    top = maps == maps.amax(dim=(1, 2), keepdim=True)
    assert (top.sum(dim=(1, 2)) == 18).all()
    fraction = (top & masks).sum(dim=(1, 2)) / top.sum(dim=(1, 2))
    ours, peer = localized(PointingGame(), "tied_maps"), table(QUANTUS["pointing_game"]["tied_maps"])
    assert_close(ours[:3], fraction[:3], SHARE)
    assert ours[3].isnan() and peer[3].isnan()
    assert_close(ours[:3].ceil(), peer[:3], 0, "any of the maxima")
    assert ((ours > 0) & (ours < 1)).any(), "without a split tie nothing is told apart"


# ------------------------------------------------------------------ Quantus: the imputation of ROAD


@pytest.mark.parametrize("name", MODELS)
def test_road(name):
    peer = torch.tensor(QUANTUS["road_imputation"][name]["probability"], dtype=torch.float64)
    for fraction, expected in zip(QUARTERS, peer, strict=True):
        ours = scored(ROAD("most_first", fractions=(fraction,), noise=0.0), **query(name))
        assert_close(ours, expected, IMPUTED, f"{fraction:.0%} removed")
    assert_close(scored(ROAD("most_first", fractions=QUARTERS, noise=0.0), **query(name)), peer.mean(dim=0), IMPUTED)
    assert_apart(scored(ROAD("least_first", fractions=QUARTERS, noise=0.0), **query(name)), peer.mean(dim=0), 1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_imputed_pixels(channels):
    name = {1: "linear_gray", 3: "linear_rgb"}[channels]
    order = inputs.maps()[0].flatten().argsort(descending=True)[: inputs.PIXELS // 2]
    visible = torch.ones(inputs.PIXELS, dtype=torch.bool)
    visible[order] = False
    image = inputs.images(channels)[:1]
    ours = neighbor_imputation(image, visible.view(1, 1, inputs.SIZE, inputs.SIZE))[0].flatten(1)
    assert_close(ours[:, order], QUANTUS["road_imputation"][name]["first_image"], IMPUTED)
    assert torch.equal(ours[:, visible], image[0].flatten(1)[:, visible])


# ------------------------------------------------------------------ torchcam: deletion and insertion


@pytest.mark.parametrize("maps", ["maps", "tied_maps"])
@pytest.mark.parametrize("fill", ["zero", "minimum"])
@pytest.mark.parametrize("name", MODELS)
def test_deletion_and_insertion(name, fill, maps):
    peer = TORCHCAM[name][f"{fill}_{maps}"]
    deletion, insertion = (table(peer[f"{kind}_auc"]) for kind in ("deletion", "insertion"))
    settings, asked = {"steps": STEPS, "fill": BASELINES[fill]}, query(name, maps)
    if maps == "tied_maps":
        # torchcam goes through tied pixels in scan order; ours have a random key, so the maps say the order themselves.
        order = asked["maps"].flatten(2).argsort(dim=2, descending=True, stable=True)
        asked["maps"] = -order.argsort(dim=2).float().view_as(asked["maps"])
    assert_close(scored(DeletionAUC(**settings), **asked), deletion, AREA, "deletion")
    assert_close(scored(InsertionAUC(**settings), **asked), insertion, AREA, "insertion")
    assert_close(scored(InsertionDeletionGap(**settings), **asked), insertion - deletion, AREA, "gap")
    if maps == "maps":
        blank = table([curve[-1] for curve in peer["deletion"]])
        assert_close(scored(BaselineProbability(BASELINES[fill]), **asked), blank, PROBABILITY, "blank")
        score = asked["target"].scorer(asked["images"], asked["targets"].unsqueeze(1))
        for direction, kind in (("erase", "deletion"), ("reveal", "insertion")):
            points = reveal_curve(score, asked["images"], asked["maps"], TWELFTHS, BASELINES[fill], direction)[:, 0]
            assert_close(points, peer[kind], PROBABILITY, kind)


def test_torchcams_20_steps_are_18():
    peer, asked = TORCHCAM["linear_gray"]["zero_maps_steps_20"], query("linear_gray")
    for metric, kind in ((DeletionAUC, "deletion_auc"), (InsertionAUC, "insertion_auc")):
        ours = metric(steps=18)
        assert_close(torch.tensor(ours.fractions), peer["fractions"], 1e-6, "fractions")
        ours.update(**asked)
        assert_close(ours.compute(), peer[kind], AREA, kind)


# ------------------------------------------------------------------ faults of Quantus


class Accuracy(ClassifierTarget):
    """Its "probability" is 1 for the most probable class and 0 for the others: what Quantus' ROAD averages."""

    def activate(self, logits):
        return F.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


def test_road_counts_every_batch():
    found = fault("quantus_road_first_batch")
    images, maps, classes = inputs.images(1), MAPS["maps"], torch.tensor(found["classes"])
    target = Accuracy(inputs.LinearModel(1))
    for fraction in QUARTERS:
        wrong, right = (found[kind][f"{100 * fraction:.0f}"] for kind in ("wrong", "right"))
        metric = ROAD("most_first", fractions=(fraction,), noise=0.0)
        for number, part in enumerate((slice(0, 2), slice(2, 4))):
            metric.update(target=target, images=images[part], maps=maps[part], targets=classes[part])
            # The first batch alone is what Quantus reports.
            assert metric.compute() == (wrong, right)[number]
        assert wrong != right


def test_road_takes_rgb():
    wrong = fault("quantus_road_rgb")["wrong"]
    assert wrong.startswith("IndexError")
    ours = scored(ROAD("most_first", fractions=QUARTERS, noise=0.0), **query("linear_rgb"))
    peer = torch.tensor(QUANTUS["road_imputation"]["linear_rgb"]["probability"], dtype=torch.float64)
    assert_close(ours, peer.mean(dim=0), IMPUTED)


def test_pixel_flipping_tells_a_map_from_its_opposite():
    """Quantus' Monotonicity calls both monotone, whatever they are."""
    found = fault("quantus_monotonicity")
    assert found["wrong"]["maps"] == found["wrong"]["reversed"] == [True] * inputs.IMAGES
    asked, opposite = query("linear_gray"), inputs.reversed_maps().unsqueeze(1)
    rising = Curve(tuple(TWELFTHS), "reveal", minimum, "least_first")
    score = asked["target"].scorer(asked["images"], asked["targets"].unsqueeze(1))
    gaps = {}
    for name, maps in (("maps", asked["maps"]), ("reversed", opposite)):
        curve = reveal_curves(score, asked["images"], maps, {"curve": rising})["curve"][:, 0, 1:]
        assert (curve.diff(dim=1) >= 0).all(dim=1).tolist() == found["right"][name] != found["wrong"][name]
        gaps[name] = scored(PixelFlipping(steps=STEPS, fill=minimum), **{**asked, "maps": maps})
    assert_close(gaps["reversed"], -gaps["maps"], AREA)
    assert gaps["maps"].abs().min() > 1e-3


def test_pixel_flipping_tells_with_the_model_from_against_it():
    """What each pixel of a linear model adds to the logit: no order of the pixels beats it."""
    fault("quantus_monotonicity")
    asked = query("linear_gray")
    weight = asked["target"].model.head.weight[inputs.targets()].view(inputs.IMAGES, 1, inputs.SIZE, inputs.SIZE)
    gain = (asked["images"] - minimum(asked["images"])) * weight
    values = {
        name: scored(PixelFlipping(steps=STEPS, fill=minimum, output="score"), **{**asked, "maps": maps})
        for name, maps in (("with", gain), ("against", -gain), ("neither", asked["maps"]))
    }
    assert (values["with"] > 1).all() and (values["against"] < -1).all(), values
    assert (values["neither"].abs() < values["with"]).all(), values


def test_the_pointing_game_of_an_empty_mask_is_undefined():
    found = fault("quantus_pointing_game_empty_mask")
    ours, wrong = localized(PointingGame(), "maps"), found["wrong"]["masks"]
    assert ours[:3].tolist() == [float(hit) for hit in wrong[:3]]
    assert wrong[3] is True and ours[3].isnan()
    metric = PointingGame()
    assert localized(metric, "maps", torch.zeros_like(inputs.masks())).isnan().all() and all(found["wrong"]["empty"])
    assert metric.counts() == (4, 4) and metric.compute().isnan()


def test_the_pointing_game_comes_with_the_area_to_weight_it():
    """Quantus multiplies a hit with 1 - area, or would: it raises."""
    assert fault("quantus_pointing_game_weighted")["wrong"].startswith("TypeError")
    metric = PointingGame()
    hits = localized(metric, "maps")
    weighted = hits * (1 - metric.per_image("random")[:, 0])
    area = inputs.masks().double().mean(dim=(1, 2))
    assert_close(weighted[:3], table([0, 0, 1 - area[2]]), SHARE)
    assert 0 < weighted[2] < 1 and weighted[3].isnan()


def ssim_by_hand(a, b, window, span, unbiased):
    """Mean of Wang et al. 2004, eq. 13, over the places of the window inside of maps ``(4, H, W)``, float64."""
    a, b = (maps.double().unsqueeze(1) for maps in (a, b))
    scale = window.numel() / (window.numel() - 1) if unbiased else 1

    def mean(values):
        return F.conv2d(values, window.double()[None, None])

    low, high = (0.01 * span) ** 2, (0.03 * span) ** 2
    means = mean(a), mean(b)
    spread = [scale * (mean(x * x) - m * m) for x, m in zip((a, b), means, strict=True)]
    both = scale * (mean(a * b) - means[0] * means[1])
    value = (2 * means[0] * means[1] + low) * (2 * both + high)
    return (value / ((means[0] ** 2 + means[1] ** 2 + low) * (sum(spread) + high))).mean(dim=(1, 2, 3))


def test_ssim_looks_at_two_dimensions():
    """Quantus' flat window and its right one by one formula, which then gives ours with our window and scale."""
    found = fault("quantus_ssim_flat")
    a, b = inputs.maps(), inputs.other_maps()
    span = (torch.stack([a, b]).amax(dim=(0, 2, 3)) - torch.stack([a, b]).amin(dim=(0, 2, 3))).double()
    span = span.view(-1, 1, 1, 1)
    flat = [maps.view(inputs.IMAGES, 1, -1) for maps in (a, b)]
    assert_close(ssim_by_hand(a, b, torch.full((7, 7), 1 / 49), span, True), found["right"], 1e-6, "2-D")
    wrong = ssim_by_hand(*flat, torch.full((1, 7), 1 / 7), span, True)
    assert_close(wrong, found["wrong"]["ssim"], 1e-6, "flat")
    assert found["wrong"]["random_logit"] == found["wrong"]["ssim"][:1]

    row = (-((torch.arange(11).double() - 5) ** 2) / (2 * 1.5**2)).exp()
    gauss = torch.outer(row, row) / row.sum() ** 2
    low, high = (
        torch.stack([getattr(maps.flatten(1), end)(dim=1) for maps in (a, b)])[..., None, None]
        for end in ("amin", "amax")
    )
    unit = [(maps - bottom) / (top - bottom) for maps, bottom, top in zip((a, b), low, high, strict=True)]
    ours = ssim(a.unsqueeze(1), b.unsqueeze(1))[:, 0]
    assert_close(ours, ssim_by_hand(*unit, gauss, 1, False), SIMILARITY)
    turned = ssim(a.mT.unsqueeze(1), b.mT.unsqueeze(1))[:, 0]
    assert_close(turned, ours, SIMILARITY, "transposed")
    as_rows = ssim(*(maps.unsqueeze(1) for maps in flat))[:, 0]
    assert_apart(ours, table(found["wrong"]["ssim"]), 1e-2)
    assert_apart(ours, as_rows, 1e-2)


def test_a_mean_fill_does_not_drift():
    found = fault("quantus_pixel_flipping_mean")
    asked = query("linear_gray")
    wrong, right = (torch.tensor(found[kind], dtype=torch.float64) for kind in ("wrong", "right"))
    score = asked["target"].scorer(asked["images"], asked["targets"].unsqueeze(1))
    curve = reveal_curve(score, asked["images"], asked["maps"], TWELFTHS, "channel_mean")[:, 0]
    assert_close(curve[:, 1:], right, PROBABILITY)
    assert_apart(curve[:, 1:], wrong, 1e-3)
    metric = PixelFlipping("most_first", steps=STEPS, fill="channel_mean")
    area = scored(metric, **asked)
    full = metric.per_image("full")[:, 0]
    sums = STEPS * area - (full + right[:, 0]) / 2
    assert_close(sums, torch.trapezoid(right, dim=1), SUM_OF_12)
    assert_apart(sums, torch.trapezoid(wrong, dim=1), 1e-3)


# ------------------------------------------------------------------ faults of MONAI


def test_a_batch_of_several_classes_is_explained_image_by_image():
    found = fault("monai_gradcam_mixed_classes")
    assert len(set(found["predicted"])) > 1
    images = inputs.images(3)
    explainer = CaptumExplainer(
        ClassifierTarget(inputs.ConvNet(3)), "LayerGradCam", layer="relu2", relu_attributions=True
    )
    maps = explainer.explain(images)
    assert explainer.target.query(images, None, None).targets[:, 0].tolist() == found["predicted"]
    wrong, right = (
        F.interpolate(torch.tensor(found[kind]).unsqueeze(1), size=(12, 12), mode="bilinear", align_corners=False)
        for kind in ("wrong", "right")
    )
    assert_close(maps, right, MAP)
    assert_apart(maps, wrong, 0.05)
    alone = torch.cat([explainer.explain(images[row : row + 1]) for row in range(len(images))])
    assert_close(maps, alone, MAP, "alone")
    listed = explainer.explain(images, torch.tensor(found["predicted"]))
    assert torch.equal(listed, maps), "MONAI's list of classes has the same fault"


def occluded(images):
    """The 9 images with one block of 4 x 4 pixels set to zero each, row by row."""
    pictures = images.repeat(9, 1, 1, 1)
    for number, picture in enumerate(pictures):
        row, column = 4 * (number // 3), 4 * (number % 3)
        picture[:, row : row + 4, column : column + 4] = 0
    return pictures


def test_occlusion_of_a_gray_image_keeps_the_softmax():
    """The maps are drops of the logit, so the image's logits minus all of them are those of the occluded images."""
    found = fault("monai_occlusion_gray")
    wrong, right = (torch.tensor(found[kind]) for kind in ("wrong", "right"))
    target, image = ClassifierTarget(inputs.ConvNet(1)), inputs.images(1)[:1]
    explainer = CaptumExplainer(target, "Occlusion", sliding_window_shapes=(1, 4, 4), strides=(1, 4, 4))
    classes = torch.arange(inputs.CLASSES).unsqueeze(0)
    maps = explainer.explain(image, classes)[0]
    drops = maps[:, 1::4, 1::4]
    assert torch.equal(drops.repeat_interleave(4, 1).repeat_interleave(4, 2), maps), "one value a block"
    left = target.logits(image)[0].view(-1, 1, 1) - drops
    assert_close(target.activate(left.unsqueeze(0))[0], right, 1e-6, "from the maps")
    asked = target.probability(occluded(image), classes.expand(9, -1)).T.view(3, 3, 3)
    assert_close(asked, right, 1e-6, "asked")
    drop = target.probability(image, classes)[0].view(-1, 1, 1) - asked
    assert_close(drop.sum(dim=0), torch.zeros(3, 3), 1e-6, "what one class loses the others gain")
    assert_close(left.sigmoid(), wrong, 1e-6, "MONAI's sigmoid")
    assert_apart(asked, wrong, 0.1)


def test_occlusion_of_one_logit_is_no_constant():
    found = fault("monai_occlusion_rgb_one_logit")
    wrong, right = (torch.tensor(found[kind])[0] for kind in ("wrong", "right"))
    model, image = inputs.LinearModel(3, classes=1), inputs.images(3)[:1]
    target, yes = ClassifierTarget(model, "sigmoid"), torch.tensor([1])
    options = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}
    maps = CaptumExplainer(target, "Occlusion", **options).explain(image, yes)[0, 0]
    drops = maps[1::4, 1::4]
    assert drops.std() > 0.1
    left = target.score(image, yes) - drops
    assert_close(left.sigmoid(), right, 1e-6, "from the maps")
    asked = target.probability(occluded(image), yes.expand(9)).view(3, 3)
    assert_close(asked, right, 1e-6, "asked")
    assert_apart(asked, wrong, 0.1)
    with pytest.raises(ValueError, match="one logit, whose softmax is always 1"):
        CaptumExplainer(ClassifierTarget(model), "Occlusion", **options).explain(image, yes)


def test_grad_cam_plus_plus_of_a_batch_is_that_of_its_images():
    """MONAI needs as many images as the layer is wide, and then weights columns with the scores of other images."""
    found = fault("monai_gradcampp_batch")["wrong"]
    assert found["error"].startswith("RuntimeError")
    images = inputs.images(3)
    explainer = GradCAMPlusPlus(ClassifierTarget(inputs.ConvNet(3)), "relu2")
    wrong = torch.tensor(found["ratio_to_single_images"])
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3, 0, 1]):
        maps = explainer.explain(images[rows], torch.ones(len(rows), dtype=torch.long))
        alone = torch.cat([explainer.explain(images[row : row + 1], torch.tensor([1])) for row in rows])
        assert alone.amax(dim=(1, 2, 3)).min() > 1e-2
        assert_close(maps, alone, MAP, f"{len(rows)} images")
        ratio = maps.sum(dim=(1, 2, 3)) / alone.sum(dim=(1, 2, 3))
        assert_close(ratio, torch.ones(len(rows)), MAP, "ratio")
        assert_apart(ratio, wrong[: len(rows)], 0.3)


# ------------------------------------------------------------------ faults of TorchCAM


def from_weights(features, weights, layer):
    """The maps ``(4, 1, 12, 12)`` of a layer with the peer's channel weights."""
    small = torch.einsum("bd,bdhw->bhw", torch.tensor(weights[layer]), features).unsqueeze(1)
    return F.interpolate(small, size=(inputs.SIZE,) * 2, mode="bilinear", align_corners=False)


def test_grad_cam_plus_plus_divides_its_alphas():
    """Ours is the stored right value where gradients are the same all over a layer, and eq. 19 where they are not.

    The denominator of eq. 19 is ``2 g_ij^2 + g_ij^3 sum_ab A_ab``; TorchCAM means to take ``sum_ab A_ab g_ab^3``.
    """
    found = fault("torchcam_gradcampp_alpha")
    net, images, targets = inputs.ConvNet(3), inputs.images(3), inputs.targets()
    hidden = net.relu1(net.conv1(images)).detach().requires_grad_(True)
    last = net.relu2(net.conv2(hidden))
    score = net.head(last.mean(dim=(2, 3))).gather(1, targets.unsqueeze(1)).sum()
    gradients = torch.autograd.grad(score, [hidden, last])
    explainers = {layer: GradCAMPlusPlus(ClassifierTarget(net), layer) for layer in inputs.CONV_LAYERS}
    for layer, features, gradient in zip(inputs.CONV_LAYERS, (hidden.detach(), last.detach()), gradients, strict=True):
        maps = explainers[layer].explain(images, targets)
        sums = {
            "paper": gradient**3 * features.sum(dim=(2, 3), keepdim=True),
            "peer": (gradient**3 * features).sum(dim=(2, 3), keepdim=True),
        }
        weights = {
            name: (gradient**2 / (2 * gradient**2 + below + 1e-8) * gradient.relu()).sum(dim=(2, 3))
            for name, below in sums.items()
        }
        assert_close(weights["peer"], torch.tensor(found["right"][layer]), WEIGHT, f"TorchCAM's formula, {layer}")
        right = from_weights(features, {layer: weights["paper"].tolist()}, layer)
        assert_close(maps / right.amax(), right / right.amax(), WEIGHT, layer)
        wrong = from_weights(features, found["wrong"], layer)
        assert_apart(maps, wrong, 0.5 * float(right.amax()))
        if layer == "relu2":
            stored = from_weights(features, found["right"], layer)
            assert_close(maps / stored.amax(), stored / stored.amax(), WEIGHT, "stored")
            assert_apart(weights["paper"], torch.tensor(found["wrong"][layer]), 1)
