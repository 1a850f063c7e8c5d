"""What every metric promises, checked for each YAML of configs/metrics, whoever adds to them."""

import copy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.metrics import DeletionAUC, MetricSuite, PointingGame
from tests.helpers import GradientMap, cnn, segmenter

CONFIGS = Path(__file__).parents[2] / "configs" / "metrics"
SETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SIZES = {2: (14, 12), 3: (6, 7, 8)}
KINDS = {"classifier": (ClassifierTarget, cnn), "segmenter": (SegmenterTarget, segmenter)}
CASES = [(name, kind, dims) for name in SETS for kind in KINDS for dims in SIZES]
each_case = pytest.mark.parametrize(("name", "kind", "dims"), CASES, ids=["-".join(map(str, case)) for case in CASES])
#: Not fractions: differences, and squared logits.
OTHER_RANGES = {
    "gap": (-1, 1), "gap_zero": (-1, 1), "gap_median": (-1, 1), "gap_blur": (-1, 1), "flip_gap": (-1, 1),
    "road": (-1, 1), "dice_drop": (-1, 1), "noise_stability": (-1, 1), "infidelity": (0, float("inf")),
    "max_sensitivity": (0, float("inf")),
}  # fmt: skip


class Counting:
    """Counts the images that go through the target."""

    def __init__(self, target):
        self.images, logits = 0, target.logits

        def counted(images):
            self.images += len(images)
            return logits(images)

        target.logits = counted


def suite_of(name, chunk_size=16):
    return MetricSuite(
        {key: instantiate(value) for key, value in OmegaConf.load(CONFIGS / f"{name}.yaml").items()}, chunk_size
    )


def batch_of(kind, dims, count=3):
    """A batch with maps, as the test step hands it to the callbacks."""
    wrap, net = KINDS[kind]
    target = wrap(net(dims, classes=3), mean=[0.4], std=[0.3])
    explainer = GradientMap(target)
    generator = torch.Generator().manual_seed(dims)
    images = torch.rand(count, 1, *SIZES[dims], generator=generator)
    masks = torch.ones(count, 1, *SIZES[dims], dtype=torch.long)
    masks[..., SIZES[dims][-1] // 2 :] = 2  # halves: each class has a boundary and an interior
    masks[:, :, 0] = 0
    query = target.query(images, torch.tensor([[1, 2]] * count), None)
    targets, pixels = query.targets, query.regions
    maps = explainer.explain(images, targets, pixels)
    batch = {"target": target, "explainer": explainer, "images": images, "maps": maps, "masks": masks}
    return batch | {"targets": targets, "pixels": pixels, "ids": [f"image {number}" for number in range(count)]}


def part_of(batch, order):
    """Some images of a batch."""
    whole = ("target", "explainer")
    chosen = {
        key: value if key in whole or value is None else value[order] for key, value in batch.items() if key != "ids"
    }
    return chosen | {"ids": [batch["ids"][index] for index in order]}


def tables(suite):
    return {
        name: {row[:2]: row[2] for row in metric.rows()} for name, metric in suite.members().items() if metric.rows()
    }


def assert_equal(tables, others, tolerance=1e-5):
    assert tables.keys() == others.keys()
    for name, table in tables.items():
        assert others[name] == pytest.approx(table, rel=1e-4, abs=tolerance, nan_ok=True), name


@pytest.fixture(scope="module")
def scored():
    """The suite of each case after one batch, computed once."""
    cases = {}

    def of(name, kind, dims):
        if (name, kind, dims) not in cases:
            batch, suite = batch_of(kind, dims), suite_of(name)
            suite.update(**batch)
            cases[name, kind, dims] = batch, suite
        return cases[name, kind, dims]

    return of


@each_case
def test_every_metric_that_applies_has_a_value_in_its_range_for_each_query(scored, name, kind, dims):
    _, suite = scored(name, kind, dims)
    for key, metric in suite.members().items():
        if metric.needs_segmenter and kind == "classifier":
            assert metric.counts() == (0, 0), f"{key} cannot score a classifier"
            continue
        values = metric.per_image()
        assert values.shape == (3, 2) and metric.counts()[0] == 6, key
        defined = values[~values.isnan()]
        # Nothing is undefined here, but for classes that lose nothing.
        assert len(defined) == 6 or key == "leakage", f"{key} is undefined without a reason"
        low, high = OTHER_RANGES.get(key, (0, 1))
        assert (defined >= low - 1e-9).all() and (defined <= high + 1e-9).all(), key
        assert metric.compute().item() == pytest.approx(defined.mean().item(), abs=1e-12), key


@each_case
def test_values_belong_to_images_whatever_the_batch(scored, name, kind, dims):
    batch, suite = scored(name, kind, dims)
    order = [2, 0, 1]
    moved, pieces = suite_of(name, chunk_size=5), suite_of(name, chunk_size=64)
    moved.update(**part_of(batch, order))
    for index in order:
        pieces.update(**part_of(batch, [index]))
    assert_equal(tables(suite), tables(moved))
    assert_equal(tables(suite), tables(pieces))


@each_case
def test_the_cost_is_what_the_suite_says(name, kind, dims):
    batch, suite = batch_of(kind, dims), suite_of(name)
    suite = MetricSuite(
        {
            key: metric
            for key, metric in suite.members().items()
            if not metric.needs_explainer and not metric.needs_segmenter
        }
    )
    counting = Counting(batch["target"])
    suite.update(**batch)
    assert counting.images == 3 * suite.passes(queries=2)["passes"]


@each_case
def test_a_state_that_is_saved_in_the_middle_goes_on(scored, name, kind, dims):
    batch, suite = scored(name, kind, dims)
    first = suite_of(name)
    first.update(**part_of(batch, [0, 1]))
    later = suite_of(name)
    later.load_state_dict(copy.deepcopy(first.state_dict()))
    later.update(**part_of(batch, [2]))
    assert_equal(tables(suite), tables(later))
    for key, metric in later.members().items():
        assert metric.compute().item() == pytest.approx(suite[key].compute().item(), abs=1e-5, nan_ok=True), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_maps_are_what_they_say(kind, dtype):
    batch = batch_of(kind, 2)
    half = batch["maps"].to(dtype)
    suite, exact = suite_of("full"), suite_of("full")
    suite.update(**(batch | {"maps": half}))
    exact.update(**(batch | {"maps": half.float()}))
    assert_equal(tables(suite), tables(exact))


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_of_depth_one_is_an_image(kind):
    """For a model that sees no depth either."""
    batch = batch_of(kind, 2)
    flat = batch["target"]

    class Deep(type(flat)):
        def logits(self, images):
            logits = flat.logits(images.squeeze(2))
            return logits.unsqueeze(2) if logits.ndim == 4 else logits

    deep = Deep(torch.nn.Identity(), mean=[0.4], std=[0.3])
    thick = {
        key: value.unsqueeze(2) for key, value in batch.items() if isinstance(value, torch.Tensor) and key != "targets"
    }
    suite, volume = suite_of("full"), suite_of("full")
    suite.update(**batch)
    volume.update(**(batch | thick | {"target": deep, "explainer": GradientMap(deep)}))
    expected, values = tables(suite), tables(volume)
    # One row of pixels has no interior of its own in depth: the border of the volume is no outside.
    assert_equal(expected, values, tolerance=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_maps_and_empty_masks_are_undefined(kind):
    batch = batch_of(kind, 2)
    batch["maps"] = torch.ones_like(batch["maps"])
    batch["masks"] = torch.zeros_like(batch["masks"])
    suite = suite_of("full")
    suite.update(**batch)
    for key, metric in suite.members().items():
        count, undefined = metric.counts()
        if key in ("p_zero", "p_blur"):
            assert undefined == 0, "the baseline image has a class whatever the map"
        elif key == "max_sensitivity":
            assert undefined == 0, "a constant map has a size, and a distance"
        else:
            assert undefined == count, f"{key} gives a number for a map that ranks nothing"


@pytest.mark.parametrize("name", SETS)
def test_every_metric_says_what_it_is(name):
    for key, metric in suite_of(name).members().items():
        metadata = metric.metadata()
        assert metadata["family"] in ("faithfulness", "masking", "localization", "segmentation", "stability"), key
        assert metadata["higher_is_better"] in (True, False, None) and len(metadata["paper"]) > 5, key
        assert metadata["passes"] >= 0 and metadata["explanations"] >= 0 and isinstance(metadata["options"], dict), key


def test_paper_and_full_sets_explain_again_and_fast_does_not():
    assert suite_of("fast").passes()["explanations"] == 0
    explanations = suite_of("full").passes()["explanations"]
    assert explanations == 10 + 1 + 1, "noisy copies, the image times its map, and a rival class"


# ------------------------------------------------------------------ figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(line):
    """The heights of a line's points."""
    return [float(value) for value in line.get_ydata()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_draws_its_value_and_several(scored, kind):
    _, suite = scored("full", kind, 2)
    for key, metric in suite.members().items():
        if not metric.counts()[0]:
            continue
        figure, axes = metric.plot()
        (line,) = axes.get_lines()
        curve = key == "visibility"
        expected = list(metric.reference_means().values()) if curve else [metric.compute().item()]
        assert isinstance(figure, Figure) and drawn(line) == pytest.approx(expected), key
        assert axes.get_ylabel() == ("Dice" if curve else type(metric).__name__), key
        steps = [metric.compute(), metric.compute() / 2]
        _, axes = metric.plot(steps)
        assert drawn(axes.get_lines()[0]) == pytest.approx([step.item() for step in steps]), key
        mine = Figure().subplots()
        assert metric.plot(ax=mine)[1] is mine and mine.get_lines(), key
        plt.close("all")


@pytest.mark.parametrize("name", SETS)
def test_the_range_that_is_drawn_is_the_range_of_the_values(name):
    for key, metric in suite_of(name).members().items():
        low, high = OTHER_RANGES.get(key, (0, 1))
        bounds = metric.plot_lower_bound, metric.plot_upper_bound
        assert bounds == (low, None if high == float("inf") else high), key


def test_an_output_without_bounds_is_drawn_without_them(scored):
    batch, _ = scored("fast", "classifier", 2)
    for options in ({"output": "score"}, {"normalize": True}):
        metric = DeletionAUC(steps=3, **options)
        metric.update(**batch)
        assert metric.plot_lower_bound is None and metric.plot_upper_bound is None
        assert isinstance(metric.plot()[0], Figure)


def test_a_suite_draws_all_its_metrics_and_an_undefined_one_too(scored):
    batch, _ = scored("fast", "classifier", 2)
    suite = MetricSuite({"deletion": DeletionAUC(steps=3), "pointing": PointingGame()})
    suite.update(**batch | {"masks": torch.zeros_like(batch["masks"])})
    assert [axes.get_ylabel() for _, axes in suite.plot()] == ["DeletionAUC", "PointingGame"]
