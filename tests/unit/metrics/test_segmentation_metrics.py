"""Explanations of segmenters, against direct hiding: Dice drop, leakage, context, boundary, and curves of the Dice."""

from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.metrics import (
    BoundaryReliance,
    ContextReliance,
    DeletionAUC,
    DiceDrop,
    InsertionAUC,
    MetricSuite,
    OffTargetLeakage,
    PixelFlipping,
    VisibilityCurve,
)
from lightning_xai.metrics.functional.segmentation import boundary, boundary_reliance
from tests.helpers import cnn, pixel_segmenter
from tests.metric_cases import (
    assert_batches_do_not_matter,
    assert_depth_one_does_not_matter,
    assert_precision_does_not_matter,
    assert_queries_do_not_matter,
    assert_refused,
    dice_of,
    noisy_segments,
    over_black,
    part,
    scored,
    top,
    two_objects,
)

HIDING = [DiceDrop, OffTargetLeakage]
PLACED = [ContextReliance, BoundaryReliance]
NAN = float("nan")


def references(case):
    """Boolean ``(B, T, *S)``: the class in the integer masks, or else in the whole image's segmentation."""
    labels = case["target"].logits(case["images"]).argmax(dim=1, keepdim=True)
    shown = labels if case.get("masks") is None else case["masks"]
    return shown == case["targets"].view(*case["targets"].shape, *(1,) * (shown.ndim - 2))


def dices(case, visible_of):
    """Dice ``[b][t][k]`` of class k where image b is visible in ``visible_of(b, t)``, by one input at a time."""
    target, images, wanted = case["target"], case["images"], references(case)
    queries = range(case["maps"].shape[1])
    inputs = {(b, t): over_black(target, images[b], visible_of(b, t)) for b, t in product(range(len(images)), queries)}
    dice = torch.zeros(len(images), len(queries), len(queries), dtype=torch.float64)
    for (b, t), perturbed in inputs.items():
        for k in queries:
            dice[b, t, k] = dice_of(target, perturbed, case["targets"][b, k], wanted[b, k])
    return dice


def losses(case, count):
    """Dice ``(B, T, T)`` that each class loses where the ``count`` top pixels of query t are hidden."""
    everything = torch.ones(case["maps"].shape[2:], dtype=torch.bool)
    whole = dices(case, lambda b, t: everything)
    return whole - dices(case, lambda b, t: ~top(case["maps"][b, t], count))


# ------------------------------------------------------------------ by hand


def hide_on(objects, numbers):
    """A map that ranks so many pixels of each object first."""
    ranked = torch.rand(objects.shape[1:])
    for thing, number in zip(objects, numbers, strict=True):
        ranked += 10 * (top(torch.where(thing, ranked, -1), number))
    return ranked


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("numbers", "drops", "leakage"),
    [
        # 8 of 16 pixels of class 1 gone: its Dice is 2 * 8 / (8 + 16), that of class 2 stays 1.
        ((8, 0), (1 / 3, 0), (0, 1)),
        ((0, 8), (0, 1 / 3), (1, 0)),
        ((4, 4), (1 / 7, 1 / 7), (0.5, 0.5)),
        ((6, 2), (3 / 13, 1 / 15), (13 / 58, 45 / 58)),
        ((0, 0), (0, 0), (NAN, NAN)),
    ],
)
def test_two_objects_by_hand(numbers, drops, leakage, dims):
    case, objects = two_objects(dims=dims)
    case["maps"][:] = hide_on(objects, numbers)
    case["maps"][:, :, ~objects.any(dim=0)] += 5  # what is not on an object is on the background
    assert scored(DiceDrop(fraction=8 / 64), **case)[0].tolist() == pytest.approx(drops, abs=1e-9)
    values = scored(OffTargetLeakage(fraction=8 / 64), **case)[0].tolist()
    assert values == pytest.approx(leakage, abs=1e-9, nan_ok=True)


def test_leakage_needs_another_class_with_a_reference():
    case, objects = two_objects(batch=2)
    case["maps"][:] = hide_on(objects, (8, 0))
    alone = {**case, "maps": case["maps"][:, :1], "targets": case["targets"][:, 0]}
    assert scored(OffTargetLeakage(), **alone).isnan().all(), "there is no query about another class"
    masks = objects[0].long().expand(2, 1, 8, 8).clone()
    masks[1] += 2 * objects[1]
    metric = OffTargetLeakage(fraction=8 / 64)
    assert scored(metric, **case, masks=masks)[:, 0].tolist() == [pytest.approx(NAN, nan_ok=True), 0]
    assert metric.counts() == (4, 2)
    drop = scored(DiceDrop(fraction=8 / 64), **case, masks=masks)
    assert drop.isnan().tolist() == [[False, True], [False, False]], "no mask of class 2 in the first image"


def test_the_other_classes_are_averaged():
    """Three classes, of which only one suffers: half of its loss is the others' mean."""
    images = torch.zeros(1, 3, 2, 8)
    for k in range(3):
        images[0, k, :, 2 * k : 2 * k + 2] = 1
    weight = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    target = SegmenterTarget(pixel_segmenter(weight, torch.tensor([0.5, 0, 0, 0])))
    maps = torch.rand(1, 3, 2, 8)
    maps[..., 0, 0] = maps[..., 0, 2] = 9  # one of four pixels of class 1 and of class 2
    case = {"target": target, "images": images, "maps": maps, "targets": torch.tensor([[1, 2, 3]])}
    values = scored(OffTargetLeakage(fraction=2 / 16), **case)
    assert values[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1])
    assert scored(DiceDrop(fraction=2 / 16), **case)[0].tolist() == pytest.approx([1 / 7, 1 / 7, 0])


def test_leakage_tells_the_relevance_outside_beside_its_value():
    case, objects = two_objects()
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0][objects[0]], maps[0, 0][objects[1]], maps[0, 0, 0, 7] = 3, 1, -5  # 48 on the own class, 16 on the other
    maps[0, 1][objects[1]] = 1
    metric = OffTargetLeakage()
    scored(metric, **{**case, "maps": maps})
    assert metric.per_image("outside").tolist() == [[pytest.approx(0.25), 0]]
    assert metric.reference_means() == {"outside": pytest.approx(0.125)}
    assert scored(ContextReliance(), **{**case, "maps": maps}).tolist() == [[pytest.approx(0.25), 0]]


def test_context_reliance():
    case, objects = two_objects()
    even = torch.rand(1, 1, 8, 8).expand(1, 2, -1, -1)
    fractions = [1 - (even[0, 0][thing].sum() / even.sum() * 2).item() for thing in objects]
    assert scored(ContextReliance(), **{**case, "maps": even})[0].tolist() == pytest.approx(fractions, abs=1e-6)
    values = scored(ContextReliance(), **{**case, "maps": objects.flip(0).float().unsqueeze(0)})
    assert values.tolist() == [[1, 1]], "all of it on the other object"
    assert scored(ContextReliance(), **{**case, "maps": -even}).isnan().all(), "no positive relevance"
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    assert scored(ContextReliance(), **case, masks=empty).isnan().all(), "no object to be outside of"
    full = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    assert scored(ContextReliance(), **case, masks=full).tolist() == [[0, 0]], "nothing is outside"


# ------------------------------------------------------------------ boundary


def box(side, low, high, dims):
    cube = torch.zeros(1, 1, *(side,) * dims, dtype=torch.bool)
    cube[(0, 0, *(slice(low, high),) * dims)] = True
    return cube


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("width", [1, 2])
def test_boundary_of_a_box(dims, width):
    cube = box(11, 2, 9, dims)
    expected = cube & ~box(11, 2 + width, 9 - width, dims)
    assert torch.equal(boundary(cube, width), expected)
    corner = box(11, 0, 7, dims)
    assert torch.equal(boundary(corner, width), corner & ~box(11, 0, 7 - width, dims)), "the image's border counted"
    assert not boundary(torch.ones_like(cube), width).any() and not boundary(torch.zeros_like(cube), width).any()


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 3), st.floats(0.3, 1))
def test_boundary_by_brute_force(seed, width, fraction):
    objects = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(seed)) < fraction
    expected = torch.zeros_like(objects)
    for index in objects.nonzero().tolist():
        image, _, row, column = index
        rows = slice(max(0, row - width), row + width + 1)
        near = objects[image, 0, rows, max(0, column - width) : column + width + 1]
        expected[tuple(index)] = not near.all()
    assert torch.equal(boundary(objects, width), expected)
    assert torch.equal(boundary(objects.unsqueeze(2), width).squeeze(2), expected), "a volume of one slice"


@pytest.mark.parametrize("dims", [2, 3])
def test_boundary_reliance_by_hand(dims):
    objects = box(9, 2, 7, dims)
    inner = box(9, 3, 6, dims)
    edge = objects & ~inner
    maps = {"edge": edge * 1.0, "inner": inner * 1.0, "even": objects * 1.0, "3 to 1": 3.0 * edge + 1.0 * inner}
    maps["3 to 1, and what does not count"] = maps["3 to 1"] + 100.0 * ~objects
    maps["signed"] = maps["3 to 1"] - 10.0 * ~objects
    values = {name: boundary_reliance(one, objects, 1).item() for name, one in maps.items()}
    expected = [1, 0, 0.5, 0.75, 0.75, 0.75]
    assert values == pytest.approx(dict(zip(maps, expected, strict=True)))


def test_boundary_reliance_is_undefined_without_one_of_its_parts():
    maps = torch.rand(1, 1, 9, 9)
    thin, full, empty = box(9, 4, 5, 2), box(9, 0, 9, 2), torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    for objects in (thin, full, empty):
        assert boundary_reliance(maps, objects, 1).isnan().all()
    assert boundary_reliance(-maps, box(9, 2, 7, 2), 1).isnan().all(), "no positive relevance"
    case, _ = two_objects()
    metric = BoundaryReliance(width=2)
    values = scored(metric, **case, masks=torch.stack([box(8, 1, 7, 2)[0, 0], empty[0, 0, :8, :8]])[None])
    assert values.isnan().tolist() == [[False, True]] and metric.counts() == (2, 1)


def test_the_width_of_the_boundary():
    case, objects = two_objects()
    inner = torch.zeros(1, 2, 8, 8)
    inner[0, 0, :3, :3] = inner[0, 1, 5:, 5:] = 1  # all but one pixel from the background
    case["maps"] = inner
    assert scored(BoundaryReliance(width=1), **case).tolist() == [[0, 0]]
    # Of the 12 pixels within two of the outside, 5 have relevance; all 4 of the others do.
    assert scored(BoundaryReliance(width=2), **case)[0].tolist() == pytest.approx([5 / 12 / (1 + 5 / 12)] * 2)


# ------------------------------------------------------------------ against direct hiding


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("fraction", [0.25, 0.5])
@pytest.mark.parametrize("size", [(6, 6), (3, 4, 3)])
def test_drop_and_leakage_against_direct_hiding(masks, fraction, size):
    case = noisy_segments(classes=4, size=size, masks=masks)
    lost = losses(case, round(fraction * 36))
    own = lost.diagonal(dim1=1, dim2=2)
    assert torch.allclose(scored(DiceDrop(fraction), **case), own, atol=1e-9) and (own != 0).any()
    others = ((lost.sum(dim=2) - own) / 2).clamp(min=0)
    expected = others / (others + own.clamp(min=0))
    values = scored(OffTargetLeakage(fraction), **case)
    assert torch.allclose(values, expected, atol=1e-9, equal_nan=True)
    assert ((values > 0) & (values < 1)).any(), "a case in which nothing is shared tests little"


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("steps", [4, 9])
def test_curves_of_the_dice_against_direct_hiding(masks, steps):
    case = noisy_segments(batch=2, masks=masks)
    points = {True: [], False: []}
    for step in range(steps + 1):
        for erase in (True, False):
            visible = partial(lambda b, t, n, hidden: top(case["maps"][b, t], n) != hidden, n=step * 36 // steps)
            dice = dices(case, partial(visible, hidden=erase)).diagonal(dim1=1, dim2=2)
            points[erase].append(dice)
    for kind, erase in ((DeletionAUC, True), (InsertionAUC, False)):
        curve = torch.stack(points[erase])
        area = ((curve[1:] + curve[:-1]) / 2).mean(dim=0)
        metric = kind(steps, "input_zero", output="dice")
        assert torch.allclose(scored(metric, **case), area, atol=1e-9), kind
        full, baseline = (curve[0], curve[-1]) if erase else (curve[-1], curve[0])
        assert torch.allclose(metric.per_image("full"), full) and torch.allclose(metric.per_image("blank"), baseline)


def test_curves_of_the_logit_mass_in_closed_form():
    """Linear per-pixel logits: every pixel of the set adds its own, hidden or shown."""
    case = noisy_segments(batch=2, masks=False)
    labels = case["target"].logits(case["images"]).argmax(dim=1, keepdim=True)
    sets = labels == case["targets"].view(2, 2, 1, 1)
    gains = ((case["images"] - 0.1) * sets).double().flatten(2)
    gains = gains.gather(2, case["maps"].flatten(2).argsort(dim=2, descending=True)).cumsum(dim=2)
    gains = torch.cat([torch.zeros(2, 2, 1), gains], dim=2)[..., ::6]
    area, total = ((gains[..., 1:] + gains[..., :-1]) / 2).mean(dim=2), gains[..., -1]
    options = {"steps": 6, "fill": "input_zero", "output": "score"}
    assert torch.allclose(scored(DeletionAUC(**options), **case), total - area, atol=1e-5)
    assert torch.allclose(scored(InsertionAUC(**options), **case), area, atol=1e-5)
    case["masks"] = torch.zeros(2, 1, 6, 6, dtype=torch.long)
    assert torch.allclose(scored(InsertionAUC(**options), **case), area, atol=1e-5), (
        "the mass is the set's, not the masks'"
    )


def test_the_dice_of_a_sigmoid_segmenter():
    """Each class by the sign of its own logit: two classes may share a pixel."""
    target = SegmenterTarget(pixel_segmenter(torch.eye(2), torch.full((2,), -0.5)), "sigmoid", background=None)
    images = torch.zeros(1, 2, 4, 4)
    images[0, :, :2] = 1
    images[0, 1] = 1
    case = {"target": target, "images": images, "maps": torch.rand(1, 2, 4, 4), "targets": torch.tensor([[0, 1]])}
    case["maps"][..., 0, :] += 1
    # The upper row of four pixels goes: 4 of 8 of the first class, 12 of 16 of the second remain.
    assert scored(DiceDrop(0.25), **case)[0].tolist() == pytest.approx([1 - 8 / 12, 1 - 24 / 28])
    assert scored(OffTargetLeakage(0.25), **case)[0].tolist() == pytest.approx([3 / 10, 7 / 10])


# ------------------------------------------------------------------ the reference


MAKERS = [
    partial(DiceDrop, 0.25),
    partial(OffTargetLeakage, 0.25),
    ContextReliance,
    partial(BoundaryReliance, 1),
    partial(InsertionAUC, output="dice"),
    partial(VisibilityCurve, steps=6),
]
NAMES = ["drop", "leakage", "context", "boundary", "insertion", "visibility"]


def boxes():
    """Integer masks with boxes of class 1 and 2, which have a boundary and an interior of 1 pixel."""
    case = noisy_segments(size=(8, 8))
    case["masks"] = torch.zeros_like(case["masks"])
    case["masks"][:, :, 1:6, :4], case["masks"][:, :, 2:7, 4:] = 1, 2
    return case


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_integer_masks_are_read_by_class(make):
    case = boxes()
    values = scored(make(), **case)
    assert not values.isnan().all()
    for masks in (references(case), references(case).long(), case["masks"].float()):
        again = scored(make(), **{**case, "masks": masks})
        assert torch.allclose(again, values, atol=0, rtol=0, equal_nan=True), masks.shape
    one = {**case, "masks": case["masks"] > 0}
    both = {**case, "masks": one["masks"].expand(-1, 2, -1, -1)}
    shared, spelt_out = scored(make(), **one), scored(make(), **both)
    assert torch.allclose(shared, spelt_out, atol=0, rtol=0, equal_nan=True), "a boolean mask is that of all queries"
    assert not torch.allclose(shared, values, equal_nan=True)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_without_masks_the_reference_is_the_prediction_of_the_whole_image(make):
    case = boxes()
    # Some images in which the prediction has an interior.
    case["images"] = 0.2 * case["images"] + torch.cat([case["masks"] == 1, case["masks"] == 2], dim=1)
    predicted = case["target"].logits(case["images"]).argmax(dim=1, keepdim=True)
    values = scored(make(), **{**case, "masks": predicted})
    assert not values.isnan().any()
    assert torch.equal(scored(make(), **{**case, "masks": None}), values)
    pixels = references({**case, "masks": predicted})
    assert torch.equal(scored(make(), **{**case, "masks": None}, pixels=pixels), values)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_queries_about_other_pixels_leave_the_reference_alone(make):
    """With pixels=whole the set is every pixel; the object stays what is predicted."""
    case = {**boxes(), "masks": None}
    case["images"] = 0.2 * case["images"] + torch.cat([boxes()["masks"] == 1, boxes()["masks"] == 2], dim=1)
    values = scored(make(), **case)
    everything = torch.ones(4, 2, 8, 8, dtype=torch.bool)
    assert torch.equal(scored(make(), **case, pixels=everything), values)


def test_empty_and_full_masks():
    case = noisy_segments()
    case["masks"] = torch.ones(4, 2, 6, 6, dtype=torch.bool)
    case["masks"][1, 0] = False
    for make in (DiceDrop, ContextReliance, partial(DeletionAUC, output="dice")):
        metric = make()
        values = scored(metric, **case)
        assert values.isnan().nonzero().tolist() == [[1, 0]] and metric.counts() == (8, 1), make
    # The Dice of the other class where this class's mask is empty: nothing of its own to lose.
    assert scored(OffTargetLeakage(), **case)[1].isnan().all()


def test_means_of_the_classes():
    case = noisy_segments(classes=4)
    for make in (DiceDrop, ContextReliance):
        metric = make()
        values = scored(metric, **case)
        assert metric.per_class() == {k: pytest.approx(values[:, k - 1].nanmean().item()) for k in (1, 2, 3)}
        assert metric.compute().item() == pytest.approx(values.nanmean().item())


# ------------------------------------------------------------------ which targets


def test_a_classifier_is_refused_and_sits_out_in_a_suite():
    case = {"target": ClassifierTarget(cnn()), "images": torch.rand(2, 1, 8, 8), "maps": torch.rand(2, 1, 8, 8)}
    case |= {"targets": torch.tensor([0, 1]), "masks": torch.rand(2, 1, 8, 8) > 0.5}
    control_factories = dict(zip(NAMES, MAKERS, strict=True))
    for name, make in control_factories.items():
        assert_refused(lambda make=make: scored(make(), **case), type(make()).__name__, "SegmenterTarget")
        assert make().metadata()["needs_segmenter"] is True, name
    suite = MetricSuite({name: make() for name, make in control_factories.items()} | {"probability": InsertionAUC()})
    suite.update(**case)
    assert {name: metric.counts() for name, metric in suite.members().items()} == {
        **dict.fromkeys(control_factories, (0, 0)),
        "probability": (2, 0),
    }
    assert InsertionAUC().metadata()["needs_segmenter"] is False


def test_a_suite_gives_the_values_of_each_metric_alone():
    case = boxes()
    suite = MetricSuite({name: make() for name, make in zip(NAMES, MAKERS, strict=True)}, chunk_size=7)
    suite.update(**case)
    for name, make in zip(NAMES, MAKERS, strict=True):
        assert torch.allclose(suite[name].per_image(), scored(make(), **case), atol=1e-9, equal_nan=True), name


def test_clear_errors_and_metadata():
    for kind in HIDING:
        for fraction in (0.0, 1.0, -0.5):
            assert_refused(partial(kind, fraction=fraction), "fraction", str(fraction))
        assert_refused(partial(kind, fill="pink"), "'pink'")
        assert kind(0.3, "median").metadata()["options"] == {"fraction": 0.3, "fill": "median"}
        assert kind().metadata()["passes"] == 2, "the whole and the hidden image, whatever is read from them"
    assert_refused(partial(BoundaryReliance, width=0), "width is 0", "at least 1")
    assert BoundaryReliance(3).metadata()["options"] == {"width": 3}
    assert [kind().metadata()["passes"] for kind in PLACED] == [0, 0]
    directions = {DiceDrop: True, OffTargetLeakage: False, ContextReliance: None, BoundaryReliance: None}
    assert {kind: kind().higher_is_better for kind in directions} == directions
    assert {kind.family for kind in directions} == {"segmentation"}


# ------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_batches_depth_and_short_floats(make):
    case = boxes()
    assert_batches_do_not_matter(make, case)
    assert_depth_one_does_not_matter(make, case)
    assert_precision_does_not_matter(make, case)
    if make is not MAKERS[1]:  # leakage is to the other queries
        assert_queries_do_not_matter(make, case)


@settings(max_examples=12)
@given(st.permutations(range(4)), st.sampled_from([torch.exp, torch.asinh, lambda maps: maps**3 - 2]))
def test_order_of_images_and_monotone_transforms(order, transform):
    case = boxes()
    torch.manual_seed(1)
    case["maps"] = torch.stack([torch.randperm(64) for _ in range(8)]).view(4, 2, 8, 8).double() / 30
    for make in (partial(DiceDrop, 0.25), partial(OffTargetLeakage, 0.25), partial(PixelFlipping, output="dice")):
        values = scored(make(), **case)
        assert not values.isnan().all()
        permuted = scored(make(), **part(case, list(order)))
        assert torch.allclose(permuted, values[list(order)], atol=0, rtol=0, equal_nan=True), make
        moved = scored(make(), **{**case, "maps": transform(case["maps"])})
        assert torch.allclose(moved, values, atol=0, rtol=0, equal_nan=True), make


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_values_are_in_range_and_defined_where_there_is_something(seed, fraction):
    case = noisy_segments(seed=seed)
    wanted = references(case).flatten(2).any(dim=2)
    drop, leak = scored(DiceDrop(fraction), **case), scored(OffTargetLeakage(fraction), **case)
    assert torch.equal(drop.isnan(), ~wanted) and (drop[wanted].abs() <= 1).all()
    leak = leak[~leak.isnan()]
    assert ((leak >= 0) & (leak <= 1)).all()
    context, edge = scored(ContextReliance(), **case), scored(BoundaryReliance(1), **case)
    assert torch.equal(context.isnan(), ~wanted) and ((context[wanted] >= 0) & (context[wanted] <= 1)).all()
    edge = edge[~edge.isnan()]
    assert ((edge >= 0) & (edge <= 1)).all()
