"""Every metric has its formula as a function, and gives that function's values."""

import importlib
import inspect
import pkgutil

import pytest
import torch

from lightning_xai import metrics
from lightning_xai.functional.tensors import min_max
from lightning_xai.metrics import MapMetric, functional
from lightning_xai.metrics.base import make_batch
from lightning_xai.metrics.evaluation import evaluate
from lightning_xai.metrics.functional import (
    adcc,
    area_between,
    average_drop,
    baseline_probability,
    best_iou,
    boundary_reliance,
    box_energy,
    coherency,
    complexity,
    context_reliance,
    dice_drop,
    dice_of_counts,
    fixed_iou,
    increase_in_confidence,
    infidelity,
    max_sensitivity,
    mean_over_fractions,
    noise_stability,
    off_target_leakage,
    pixel_auc,
    pixel_average_precision,
    pointing_game,
    predicted_change,
    random_fraction,
    relevance_mass,
    relevance_rank,
    sort_evidence,
    spearman,
    top_iou,
    top_k_intersection,
    trapezoid,
    visibility_dice,
)
from lightning_xai.targets import SegmenterTarget
from tests.helpers import GradientMap, segmenter


def points(read):
    """Overlap, total and threshold ``(R, 3, P)`` of a visibility curve of 20 steps over 12 * 10 pixels."""
    shown = read.maps.flatten(2).sort(dim=2, descending=True).values.double()
    thresholds = shown[..., [max(0, 6 * step - 1) for step in range(21)]]
    return torch.stack([read.overlap, read.total, thresholds], dim=2).flatten(0, 1)


def visible(read):
    return visibility_dice(points(read), 0.5, read.targets.flatten()).view(read.targets.shape)


def noisy_maps(read):
    """Maps ``(10, B, T, *S)`` of the noisy copies of the images."""
    fields, size = read.noise.fields_and_size(read.context)
    inputs = read.images + size.view(-1, 1, 1, 1) * fields.unsqueeze(1)
    return torch.stack([read.explainer.explain(copy, read.targets, read.regions) for copy in inputs])


def predicted(read):
    fields, size = read.noise.fields_and_size(read.context)
    return predicted_change(read.maps, fields) * size.view(-1, 1, 1)


def again(read):
    """Maps of the image times its map: a weight of 0 shows what the model receives as zero."""
    maps, baseline = [], read.target.input_zero(read.images)
    for t in range(2):
        inputs = torch.lerp(baseline, read.images, min_max(read.maps)[:, t : t + 1])
        maps.append(read.explainer.explain(inputs, read.targets[:, t], read.regions[:, t : t + 1]))
    return torch.cat(maps, dim=1)


def ranked(read):
    return sort_evidence(read.maps, read.evidence)


def drop(read):
    return average_drop(read.whole, read.kept)[..., 0]


def rivals(read):
    return read.explainer.explain(read.images, read.rival[..., 0].long(), read.regions)


#: The value of each metric by its functional form, from the maps and what is read about perturbed inputs.
FORMS = {
    "ADCC": lambda read: adcc(coherency(again(read), read.maps), complexity(min_max(read.maps)), drop(read)),
    "AverageDrop": drop,
    "AverageDropInDeletion": lambda read: average_drop(read.whole, read.rest)[..., 0],
    "BaselineProbability": lambda read: baseline_probability(read.baseline),
    "BestIoU": lambda read: best_iou(ranked(read)),
    "BoundaryReliance": lambda read: boundary_reliance(read.maps, read.evidence),
    "BoxEnergy": lambda read: box_energy(read.maps, read.evidence),
    "Coherency": lambda read: coherency(again(read), read.maps),
    "Complexity": lambda read: complexity(min_max(read.maps)),
    "ContextReliance": lambda read: context_reliance(read.maps, read.evidence),
    "DeletionAUC": lambda read: trapezoid(read.erase),
    "DiceDrop": lambda read: dice_drop(read.whole, read.hidden)[..., 0],
    "FixedIoU": lambda read: fixed_iou(ranked(read), 0.5),
    "IncreaseInConfidence": lambda read: increase_in_confidence(read.whole, read.kept)[..., 0],
    "Infidelity": lambda read: infidelity(predicted(read), read.noisy - read.whole, scale=True),
    "InsertionAUC": lambda read: trapezoid(read.reveal),
    "InsertionDeletionGap": lambda read: area_between(read.reveal, read.erase),
    "InsertionLeak": lambda read: trapezoid(read.reveal),
    "MaxSensitivity": lambda read: max_sensitivity(read.maps, noisy_maps(read)),
    "NoiseStability": lambda read: noise_stability(read.maps, noisy_maps(read)),
    "OffTargetLeakage": lambda read: off_target_leakage(
        dice_drop(read.whole, read.hidden), dice_drop(getattr(read, "whole others"), getattr(read, "hidden others"))
    )[..., 0],
    "PixelAUC": lambda read: pixel_auc(ranked(read)),
    "PixelAveragePrecision": lambda read: pixel_average_precision(ranked(read)),
    "PixelFlipping": lambda read: area_between(read.least_first, read.most_first),
    "PointingGame": lambda read: pointing_game(ranked(read)),
    "ROAD": lambda read: mean_over_fractions(read.least_first) - mean_over_fractions(read.most_first),
    "RelevanceMass": lambda read: relevance_mass(read.maps, read.evidence),
    "RelevanceRank": lambda read: relevance_rank(ranked(read)),
    "TopClassesIoU": lambda read: top_iou(read.maps, rivals(read)),
    "TopKIntersection": lambda read: top_k_intersection(ranked(read), 100),
    "VisibilityCurve": visible,
    "VisibilityLeak": visible,
}
CLASSES = {
    name: kind
    for name, kind in vars(metrics).items()
    if inspect.isclass(kind) and issubclass(kind, MapMetric) and not inspect.isabstract(kind)
}
FUNCTIONS = [name for name in functional.__all__ if inspect.isfunction(getattr(functional, name))]


class Read:
    """What a functional form takes: a batch, and outputs by their names."""

    def __init__(self, metric, batch, outputs):
        self.batch, self.noise, self.regions = batch, getattr(metric, "noise", None), batch.query.regions
        vars(self).update(outputs)

    def __getattr__(self, name):
        return getattr(self.batch, name)


@pytest.fixture(scope="module")
def case():
    target = SegmenterTarget(segmenter(classes=3), mean=[0.4], std=[0.3])
    images = torch.rand(3, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 1, 12, 10, dtype=torch.long)
    masks[..., 5:], masks[:, :, 0] = 2, 0
    explainer, targets = GradientMap(target), torch.tensor([[1, 2]] * 3)
    query = target.query(images, targets)
    maps = explainer.explain(images, targets, query.regions)
    shared = {"target": target, "images": images, "targets": targets, "masks": masks, "explainer": explainer}
    return shared | {"maps": maps, "pixels": query.regions}


def test_every_metric_has_a_functional_form():
    assert FORMS.keys() == CLASSES.keys(), "add the formula to metrics/functional and the metric to FORMS"


@pytest.mark.parametrize("name", CLASSES)
def test_a_metric_has_the_values_of_its_functional_form(name, case):
    metric = CLASSES[name]()
    metric.update(**case)
    batch = make_batch(**case, shared=None)
    values = FORMS[name](Read(metric, batch, evaluate(batch, metric.readouts(batch.target), 64)))
    assert not values.isnan().all(), "a case without a defined value tests nothing"
    assert torch.allclose(metric.per_image(), values.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def test_every_public_function_is_exported():
    for module in pkgutil.iter_modules(functional.__path__):
        if not module.name.startswith("_"):
            path = f"{functional.__name__}.{module.name}"
            names = [name for name, kind in vars(importlib.import_module(path)).items() if is_public(name, kind, path)]
            assert names and set(names) <= set(functional.__all__), path


def is_public(name, kind, path):
    return not name.startswith("_") and inspect.isroutine(kind) and kind.__module__ == path


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example(name):
    text = inspect.getdoc(getattr(functional, name))
    assert f"{name}(" in text.partition("Example:")[2], f"{name} has no example"


# ------------------------------------------------------------------ closed forms


def test_the_areas_of_straight_lines():
    """Over the fractions a to b, the area of ``c + d x`` is ``c + d (a + b) / 2``."""
    fractions = (0.1, 0.3, 0.8)
    offset, slope = torch.rand(2, 4, 2, 1, dtype=torch.float64)
    curve = offset + slope * torch.tensor(fractions, dtype=torch.float64)
    assert torch.allclose(trapezoid(curve, fractions), (offset + 0.45 * slope)[..., 0])
    between = area_between(curve, torch.full_like(curve, 0.25), fractions)
    assert torch.allclose(between, (offset + 0.45 * slope)[..., 0] - 0.25)
    assert torch.allclose(mean_over_fractions(curve), (offset + 0.4 * slope)[..., 0])
    assert torch.allclose(baseline_probability(curve), (offset + 0.8 * slope)[..., 0])


def test_dice_lost_by_hand():
    whole, hidden = torch.tensor([[0.8, 0.6, 0.5, 0.5]]), torch.tensor([[0.2, 0.6, 0.9, 0.6]])
    drop = dice_drop(whole, hidden)
    assert drop.tolist() == [pytest.approx([0.6, 0.0, -0.4, -0.1])]
    # A gain is no loss: of the third the others lose all, of the fourth nobody loses anything.
    leakage = off_target_leakage(drop, torch.tensor([[0.2, 0.0, 0.3, -0.2]]))
    assert leakage[0, [0, 2]].tolist() == pytest.approx([0.25, 1]) and leakage[0, [1, 3]].isnan().all()


def test_context_by_hand():
    objects = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    objects[:, :2, 0] = True
    maps = torch.tensor([[[[1.0, 2], [1, -9]], [[-1, -1], [-1, -1]], [[1, 1], [1, 1]]]])
    value = context_reliance(maps, objects)
    assert value[0, 0].item() == 0.25 and value[0, 1:].isnan().all(), "no relevance, and no object"


def test_the_largest_of_changes_in_closed_form():
    """A map plus a multiple of itself is as far away as the multiple is large."""
    maps, factors = torch.randn(2, 3, 4, 5), torch.tensor([0.5, -2.0, 1.0])
    noisy = maps + factors.view(-1, 1, 1, 1, 1) * maps
    assert torch.allclose(max_sensitivity(maps, noisy), torch.full((2, 3), 2.0))
    maps[1, 2] = 0
    assert max_sensitivity(maps, noisy).isnan().nonzero().tolist() == [[1, 2]], "a zero map has no relative change"


def test_the_mean_of_rank_correlations():
    maps, flat = torch.randn(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    noisy = torch.stack([maps.exp(), -maps, maps**3, flat])
    assert torch.allclose(noise_stability(maps, noisy), torch.full((2, 3), 1 / 3).double()), "the flat one is left out"
    assert noise_stability(flat, noisy).isnan().all() and noise_stability(maps, flat.unsqueeze(0)).isnan().all()
    other = torch.randn(2, 3, 4, 5)
    assert torch.equal(noise_stability(maps, other.unsqueeze(0)), spearman(other, maps))


def test_a_linear_model_changes_as_its_weights_predict():
    weight, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(6, 4, 5, dtype=torch.float64)
    change = torch.stack([(weight * one).sum(dim=(2, 3)) for one in noise], dim=2)
    assert torch.allclose(predicted_change(weight, noise), change)
    assert infidelity(predicted_change(weight, noise), change) == pytest.approx(torch.zeros(2, 3).double(), abs=1e-20)


def test_groups_of_maps_have_a_threshold_each():
    """The overlap is the visible fraction, the total is 2: the Dice is half of the fraction."""
    line = torch.linspace(0, 1, 5, dtype=torch.float64)
    thresholds = torch.stack([1 - line, 3 - line, 9 - 2 * line])
    curves = torch.stack([line.expand(3, -1), torch.full((3, 5), 2.0).double(), thresholds], dim=1)
    assert visibility_dice(curves, 0.5).tolist() == pytest.approx([0.25, 0.25, 0.25])
    # The first two share a threshold between 1 and 2, below which all of the second and nothing of the first lies.
    assert visibility_dice(curves, 0.5, torch.tensor([4, 4, 7])).tolist() == pytest.approx([0, 0.5, 0.25])
    assert dice_of_counts(torch.tensor([[3.0, 4.0], [0.0, 5.0]])).tolist() == [0.75, 0]


def test_spatial_axes_are_flattened():
    maps, masks = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) < 0.3
    flat, inside = maps.flatten(2), masks.flatten(2)
    assert torch.equal(sort_evidence(maps, masks).hits, sort_evidence(flat, inside).hits)
    assert torch.equal(relevance_mass(maps, masks), relevance_mass(flat, inside))
    assert torch.equal(random_fraction(masks), masks.double().mean(dim=(2, 3)))
