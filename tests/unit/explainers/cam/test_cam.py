"""Class activation maps of one layer and of several: the closed forms, the formulas of the papers and Captum."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet, DenseNet121, ResNet
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import (
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
    XResCAM,
)
from lightning_xai.functional.resize import resize
from lightning_xai.networks.mask_net import SmallCNN
from tests.helpers import CountingTarget, Mean, assert_untouched, cnn, segmenter, state_of, vit

LINEAR = (GradCAM, HiResCAM, XResCAM)
GRADIENT = (*LINEAR, GradCAMPlusPlus, XGradCAM, LayerCAM)
FAMILY = (*GRADIENT, EigenCAM, ScoreCAM, AblationCAM)
ASKED = torch.tensor([[0, 2], [1, 1]])
CLASSES = 4
each_linear = pytest.mark.parametrize("cam", LINEAR)
each_gradient = pytest.mark.parametrize("cam", GRADIENT)
each_of_all = pytest.mark.parametrize("cam", FAMILY)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def conv(dims):
    return (nn.Conv2d, nn.Conv3d)[dims - 2]


def pointwise(dims=2, classes=CLASSES):
    """A layer of the image's size, "1", and a 1x1 head that is all that follows."""
    torch.manual_seed(1)
    return nn.Sequential(conv(dims)(1, 6, 3, padding=1), nn.ReLU(), conv(dims)(6, classes, 1))


def deep(dims=2, classes=3, inplace=False):
    """After the layer "1" of the image's size a strided convolution: gradients differ from place to place."""
    torch.manual_seed(2)
    body = [conv(dims)(1, 5, 3, padding=1), nn.ReLU(inplace), conv(dims)(5, 6, 3, 2, 1), nn.Tanh()]
    net = nn.Sequential(*body, nn.Flatten(2), Mean(), nn.Linear(6, classes))
    with torch.no_grad():
        net[-1].weight.mul_(20)
    return net


def resnet18():
    """MONAI's, a sixteenth as wide."""
    options = {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 3, "conv1_t_stride": 2}
    return ResNet("basic", [2, 2, 2, 2], [4, 6, 6, 8], **options)


def exact(net, kind=ClassifierTarget, **options):
    """A target in double precision, in which rounding has no say."""
    return kind(net, **options).double()


def noise(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def size_of(dims):
    return (6, 7, 5)[:dims]


def point(size, *place):
    pixels = torch.zeros(1, 1, *size, dtype=torch.bool)
    pixels[(0, 0, *place)] = True
    return pixels


def assert_same(ours, expected, what=""):
    """Maps are float32 at the end, whatever the precision inside."""
    expected = expected.detach().float()
    assert expected.abs().max() > 1e-6, f"{what}: a zero map shows nothing"
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(ours, expected, atol=atol, rtol=1e-5, msg=lambda found: f"{what} {found}")


def scores(net, values, asked, pixels=None):
    """Scores ``(B, T)`` in plain torch of the logits that the rest of a network makes of a layer's output."""
    logits = net(values)
    rows = []
    for row in range(len(values)):
        columns = [
            logits[row, k] if pixels is None else (logits[row, k] * pixels[row, column]).sum()
            for column, k in enumerate(asked[row].tolist())
        ]
        rows.append(torch.stack(columns))
    return torch.stack(rows)


def activations_and_gradients(net, cut, images, asked, pixels=None):
    """``A (B, D, *s)`` and ``G (B, T, D, *s)`` of the output of ``net[cut - 1]`` by plain autograd."""
    features = net[:cut](images).detach().requires_grad_(True)
    values = scores(net[cut:], features, asked, pixels)
    gradients = [torch.autograd.grad(column.sum(), features, retain_graph=True)[0] for column in values.unbind(1)]
    return features.detach(), torch.stack(gradients, dim=1)


# ------------------------------------------------------------------ a 1x1 head after the layer


@both_dims
def test_hires_is_the_score_without_its_bias_within_the_pixels(dims):
    net, images = pointwise(dims), noise(2, 1, *size_of(dims))
    target = exact(net, SegmenterTarget)
    asked = torch.arange(CLASSES).expand(2, -1)
    pixels = noise(2, CLASSES, *size_of(dims)) < torch.tensor([0.2, 0.5, 0.8, 1.0]).view(1, -1, *(1,) * dims)
    maps = HiResCAM(target, "1").explain(images, asked, pixels)
    assert not maps[~pixels].any(), "HiResCAM is not zero outside the pixel set"
    with torch.no_grad():
        score = target.score(images, asked, pixels)
    expected = score - pixels.flatten(2).sum(2) * net[-1].bias
    assert_same(maps.flatten(2).sum(2), expected)


def test_two_pixels_have_one_grad_cam_and_disjoint_hires_maps():
    target, images = exact(pointwise(), SegmenterTarget), noise(1, 1, 6, 7)
    pairs = {}
    for cam in (GradCAM, HiResCAM):
        pairs[cam] = [
            cam(target, "1").explain(images, torch.tensor([2]), point((6, 7), *place)) for place in ((1, 2), (4, 5))
        ]
    assert_same(*pairs[GradCAM])
    for maps, place in zip(pairs[HiResCAM], ((1, 2), (4, 5)), strict=True):
        assert maps.nonzero()[:, 2:].tolist() == [list(place)], "HiResCAM is at the asked pixel alone"


@both_dims
def test_for_the_whole_image_grad_cam_and_hires_agree(dims):
    target, images = exact(pointwise(dims), SegmenterTarget), noise(2, 1, *size_of(dims))
    whole = torch.ones(2, 1, *size_of(dims), dtype=torch.bool)
    assert_same(GradCAM(target, "1").explain(images, ASKED, whole), HiResCAM(target, "1").explain(images, ASKED, whole))


# ------------------------------------------------------------------ pixel sets of a general head


@both_dims
def test_hires_ends_at_the_pixels_grown_by_the_receptive_field(dims):
    """Two 3-wide convolutions after the layer see two places far."""
    torch.manual_seed(0)
    layers = [conv(dims)(1, 5, 1), nn.ReLU(), conv(dims)(5, 5, 3, padding=1), conv(dims)(5, 3, 3, padding=1)]
    target, size = exact(nn.Sequential(*layers), SegmenterTarget), (9, 11, 8)[:dims]
    pixels = point(size, *(4,) * dims) | point(size, *(5,) * dims)
    maps = HiResCAM(target, "1").explain(noise(1, 1, *size), torch.tensor([1]), pixels)
    pool = (F.max_pool2d, F.max_pool3d)[dims - 2]
    near, reach = (pool(pixels.float(), 2 * grown + 1, 1, grown) > 0 for grown in (1, 2))
    assert not maps[~reach].any(), "not zero beyond the receptive field"
    assert maps[reach & ~near].all(), "the test's receptive field is too wide"
    assert GradCAM(target, "1").explain(noise(1, 1, *size), torch.tensor([1]), pixels)[~reach].any()


@each_linear
def test_maps_add_over_disjoint_pixels(cam):
    target, images = exact(segmenter(), SegmenterTarget), noise(2, 1, 6, 7)
    first = noise(2, 2, 6, 7) < 0.3
    explainer = cam(target, "1")
    one, other, both = (explainer.explain(images, ASKED, pixels) for pixels in (first, ~first, first | ~first))
    assert_same(one + other, both)
    assert not torch.allclose(one, both, atol=1e-3)


@pytest.mark.parametrize("layer", ["1", "auto"])
@each_of_all
def test_no_pixel_is_a_zero_map_and_leaves_the_others_alone(cam, layer):
    target, images = exact(segmenter(), SegmenterTarget), noise(2, 1, 6, 7)
    pixels = noise(2, 2, 6, 7) < 0.4
    pixels[0] = False
    maps = cam(target, layer).explain(images, ASKED, pixels)
    assert not maps[0].any(), "no pixel was asked about"
    assert_same(maps[1:], cam(target, "1").explain(images[1:], ASKED[1:], pixels[1:]))


# AblationCAM divides by the score itself (eq. 4).
@pytest.mark.parametrize("cam", [cam for cam in FAMILY if cam is not AblationCAM])
def test_a_constant_added_to_all_logits_changes_nothing(cam):
    for net, kind, pixels in (
        (deep(), ClassifierTarget, None),
        (segmenter(), SegmenterTarget, noise(2, 2, 6, 7) < 0.4),
    ):
        maps = []
        for shift in (0.0, 3.0):
            with torch.no_grad():
                net[-1].bias += shift
            maps.append(cam(exact(net, kind), "1").explain(noise(2, 1, 6, 7), ASKED, pixels))
        assert_same(*maps, kind.__name__)


# ------------------------------------------------------------------ the dial of XResCAM


@both_dims
def test_the_ends_of_the_dial(dims):
    net, images = deep(dims), noise(2, 1, *size_of(dims))
    target = exact(net)

    def explain(cam, **options):
        return cam(target, "1", **options).explain(images, ASKED)

    hires, grad = explain(HiResCAM), explain(GradCAM)
    assert_same(explain(XResCAM, window=1), hires)
    for window in (max(size_of(dims)), 50):
        assert_same(explain(XResCAM, window=window), grad, f"window {window}")
    between = explain(XResCAM, window=3)
    assert all((between - end).abs().max() > 1e-3 * end.abs().max() for end in (hires, grad))


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("size", "window"), [((7, 10), 3), ((7, 10), 4), ((7, 10), 9), ((5, 4, 7), 2), ((5, 4, 7), 3)])
def test_windows_that_do_not_divide_the_layer(size, window, pool):
    """Every place gets the mean, or largest, gradient of its window; the last windows are what is left."""
    net, images = deep(len(size)).double(), noise(2, 1, *size)
    features, gradients = activations_and_gradients(net, 2, images, ASKED)
    pooled = torch.zeros_like(gradients)
    for place in torch.ones(size).nonzero().tolist():
        corner = [side // window * window for side in place]
        around = (..., *(slice(start, start + window) for start in corner))
        inside = gradients[around].flatten(3)
        pooled[(..., *place)] = inside.mean(3) if pool == "mean" else inside.amax(3)
    maps = XResCAM(exact(net), "1", window=window, pool=pool).explain(images, ASKED)
    assert_same(maps, (features.unsqueeze(1) * pooled).sum(2))


def test_a_window_has_at_least_one_place():
    with pytest.raises(ValueError, match="window is 0; it is at least 1"):
        XResCAM(ClassifierTarget(cnn()), "2", window=0)
    with pytest.raises(ValueError, match="pool is 'median'; use mean or max"):
        XResCAM(ClassifierTarget(cnn()), "2", pool="median")


# ------------------------------------------------------------------ classifiers


@pytest.mark.parametrize("cam", [GradCAM, HiResCAM])
@both_dims
def test_pooling_and_a_linear_head_give_cam_itself(cam, dims):
    net, images = cnn(dims, classes=CLASSES), noise(2, 1, *size_of(dims))
    asked = torch.arange(CLASSES).expand(2, -1)
    maps = cam(exact(net), "2").explain(images, asked)
    features = net[:3](images)
    closed = torch.einsum("kd,bd...->bk...", net[-1].weight, features) / features[0, 0].numel()
    assert_same(maps, closed)


@each_gradient
def test_the_two_answers_of_one_logit(cam):
    """One logit z is the pair (-z, z): class 1 is the map of z, class 0 that of -z."""
    cases = (
        (deep(classes=1), ClassifierTarget, None, noise(2, 1, 6, 7)),
        (segmenter(classes=1), SegmenterTarget, noise(2, 1, 6, 7) < 0.5, noise(2, 1, 6, 7)),
    )
    for net, kind, pixels, images in cases:
        explainer = cam(exact(net, kind, activation="sigmoid"), "1")
        maps = explainer.explain(images, torch.tensor([[0, 1], [0, 1]]), pixels)
        sets = None if pixels is None else pixels.expand(-1, 2, 6, 7)
        pair = nn.Sequential(*net, Pair())
        assert_same(maps, FORMULAS[cam](*activations_and_gradients(pair, 2, images, torch.tensor([[0, 1]] * 2), sets)))
        assert (maps[:, 0] - maps[:, 1]).abs().max() > 1e-3 * maps.abs().max(), "class 0 has the map of class 1"
        if cam in LINEAR:
            assert_same(maps[:, 0], -maps[:, 1])


def test_one_channel_predicts_the_pixels_above_zero():
    net, images = segmenter(classes=1), noise(2, 1, 8, 8)
    target = exact(net, SegmenterTarget)
    yes = net(images) > 0
    assert yes.flatten(1).any(1).all() and not yes.flatten(1).all(1).any()
    explainer = HiResCAM(target, "1")
    assert_same(explainer.explain(images), explainer.explain(images, torch.tensor([1, 1]), yes))
    no = explainer.explain(images, torch.tensor([0, 0]))
    assert_same(no, explainer.explain(images, torch.tensor([0, 0]), ~yes))


def test_class_0_is_asked_like_any_other():
    """Explained by its own logit, not by the predicted class's."""
    net, images = deep(), noise(6, 1, 6, 7)
    maps = GradCAM(exact(net), "1").explain(images, torch.zeros(6, dtype=torch.long))
    assert_same(maps, FORMULAS[GradCAM](*activations_and_gradients(net, 2, images, torch.zeros(6, 1, dtype=int))))
    with torch.no_grad():
        net[-1].bias[1] += 1000
    assert_same(GradCAM(exact(net), "1").explain(images, torch.zeros(6, dtype=torch.long)), maps)


@each_of_all
def test_queries_together_equal_queries_alone(cam):
    for net, kind, sets in (
        (deep(), ClassifierTarget, None),
        (segmenter(), SegmenterTarget, noise(2, 3, 6, 7) < 0.5),
    ):
        explainer, images = cam(exact(net, kind), "1"), noise(2, 1, 6, 7)
        asked = torch.tensor([[0, 2, 1], [1, 0, 1]])
        together = explainer.explain(images, asked, sets)
        for column in range(3):
            pixels = None if sets is None else sets[:, column : column + 1]
            alone = explainer.explain(images, asked[:, column], pixels)
            assert_same(together[:, column : column + 1], alone, f"{kind.__name__}, query {column}")


# ------------------------------------------------------------------ Captum


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
@pytest.mark.parametrize(
    ("cam", "method", "options"),
    [(GradCAM, "LayerGradCam", {"relu_attributions": False}), (HiResCAM, "LayerGradientXActivation", {})],
)
@both_dims
def test_the_maps_are_captums(cam, method, options, kind, dims):
    images = noise(2, 1, *(8, 10, 8)[:dims]).float()
    if kind == "classifier":
        torch.manual_seed(5)
        pool = (nn.MaxPool2d, nn.MaxPool3d)[dims - 2](2)
        net, layer, pixels = nn.Sequential(conv(dims)(1, 4, 3), pool, deep(dims)[2:]), "1", None
        net[2][0] = conv(dims)(4, 6, 3, 2, 1)
        target = ClassifierTarget(net)
    else:
        net, layer = segmenter(dims), "1"
        target, pixels = SegmenterTarget(net), torch.rand(2, 2, *images.shape[2:]) < 0.4
    maps = cam(target, layer).explain(images, ASKED, pixels)
    for column in range(2):

        def score(values, column=column):
            sets = None if pixels is None else pixels[:, column : column + 1]
            return scores(net, values, ASKED[:, column : column + 1], sets)[:, 0]

        peer = getattr(captum.attr, method)(score, net[int(layer)]).attribute(images.clone(), **options)
        peer = resize(peer.sum(1, keepdim=True), images.shape[2:])[:, 0].detach()
        assert peer.abs().max() > 1e-3
        assert torch.allclose(maps[:, column], peer, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------ the formulas of the papers, place by place


def grad_cam(features, gradients):
    return sum(gradients[d].mean() * features[d] for d in range(len(features)))


def hires(features, gradients):
    return sum(gradients[d] * features[d] for d in range(len(features)))


def windows_of_three(features, gradients):
    pooled = torch.zeros_like(gradients)
    for row, column in torch.ones(gradients.shape[1:]).nonzero().tolist():
        top, left = row // 3 * 3, column // 3 * 3
        pooled[:, row, column] = gradients[:, top : top + 3, left : left + 3].flatten(1).mean(1)
    return hires(features, pooled)


def plus_plus(features, gradients):
    """Eq. 19: with exp(Y) the derivatives of second and third order are powers of the first."""
    whole = 0
    for feature, gradient in zip(features, gradients, strict=True):
        total = float(feature.sum())
        weight = sum(g**2 / (2 * g**2 + total * g**3) * max(g, 0) for g in gradient.flatten().tolist() if g)
        whole = whole + weight * feature
    return whole


def xgrad(features, gradients):
    """Eq. 8: the gradients' mean, weighted with each place's fraction of the feature map."""
    fractions = (feature / feature.sum() if feature.sum() else torch.zeros_like(feature) for feature in features)
    return sum(
        (fraction * gradient).sum() * feature
        for fraction, gradient, feature in zip(fractions, gradients, features, strict=True)
    )


def layer_cam(features, gradients):
    return sum(torch.where(gradients[d] > 0, gradients[d], 0.0) * features[d] for d in range(len(features)))


def every(formula):
    """A formula of one ``A (D, *s)`` and ``G (D, *s)`` for all images and queries."""

    def table(features, gradients):
        rows = [[formula(features[b], gradient) for gradient in gradients[b]] for b in range(len(features))]
        return torch.stack([torch.stack(row) for row in rows])

    return table


FORMULAS = {
    GradCAM: every(grad_cam),
    HiResCAM: every(hires),
    XResCAM: every(windows_of_three),
    GradCAMPlusPlus: every(plus_plus),
    XGradCAM: every(xgrad),
    LayerCAM: every(layer_cam),
}


class Pair(nn.Module):
    def forward(self, logits):
        return torch.cat([-logits, logits], dim=1)


@each_gradient
def test_the_formula_with_plain_autograd(cam):
    cases = (
        (deep(), ClassifierTarget, None),
        (segmenter(), SegmenterTarget, noise(2, 2, 6, 7) < 0.5),
    )
    for net, kind, pixels in cases:
        with torch.no_grad():
            net[0].weight[0], net[0].bias[0] = 0, -1  # a channel that is zero everywhere
        target, images = exact(net, kind), noise(2, 1, 6, 7)
        features, gradients = activations_and_gradients(net, 2, images, ASKED, pixels)
        assert not features[:, 0].any() and gradients[:, :, 0].any() and (gradients.amin() < 0 < gradients.amax())
        maps = cam(target, "1").explain(images, ASKED, pixels)
        assert_same(maps, FORMULAS[cam](features, gradients), kind.__name__)


@each_gradient
def test_three_dimensions_are_two_with_one_more(cam):
    """A volume whose slices are alike, seen by a kernel one slice thick."""
    torch.manual_seed(4)
    flat = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))
    thick = nn.Sequential(nn.Conv3d(1, 4, (1, 3, 3), padding=(0, 1, 1)), nn.Tanh())
    thick.append(nn.Conv3d(4, 3, (1, 3, 3), padding=(0, 1, 1)))
    for index in (0, 2):
        with torch.no_grad():
            thick[index].weight.copy_(flat[index].weight.unsqueeze(2))
            thick[index].bias.copy_(flat[index].bias)
    images, pixels = noise(2, 1, 6, 7), noise(2, 2, 6, 7) < 0.5
    maps = cam(exact(flat, SegmenterTarget), "1").explain(images, ASKED, pixels)
    deep_images, deep_pixels = (values.unsqueeze(2).repeat(1, 1, 3, 1, 1) for values in (images, pixels))
    volume = cam(exact(thick, SegmenterTarget), "1").explain(deep_images, ASKED, deep_pixels)
    for depth in range(1, 3):
        assert torch.allclose(volume[:, :, depth], volume[:, :, 0], atol=1e-6)
    if cam in (GradCAM, HiResCAM, XGradCAM, LayerCAM):  # no other's weights are free of the number of slices
        assert_same(volume[:, :, 0], maps)


# ------------------------------------------------------------------ without gradients


@both_dims
def test_eigen_cam_is_the_first_principal_component(dims):
    net, images = deep(dims).double(), noise(3, 1, *size_of(dims))
    maps = EigenCAM(exact(net), "1").explain(images, torch.tensor([[0, 2]] * 3))
    assert torch.equal(maps[:, 0], maps[:, 1]), "it knows no classes"
    for features, ours in zip(net[:2](images).detach(), maps[:, 0], strict=True):
        flat = features.flatten(1)
        centered = flat - flat.mean(1, keepdim=True)
        _, values, right = torch.linalg.svd(centered, full_matrices=False)
        assert values[0] > 1.05 * values[1]
        expected = values[0] * right[0]
        agreement = (expected * centered.mean(0)).sum()
        assert agreement.abs() > 1e-3, "the sign would be chance"
        assert_same(ours.flatten(), expected * agreement.sign())


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.numel())
        return result


def test_eigen_cam_builds_no_matrix_of_places_by_places():
    explainer, images = EigenCAM(ClassifierTarget(deep()), "1"), torch.rand(1, 1, 32, 32)
    with Largest() as largest:
        explainer.explain(images, torch.tensor([0]))
    channels, places = 5, 32 * 32
    # A convolution in this mode may unfold its input: 9 values of each of 5 channels a place.
    assert channels * places <= largest.size <= 10 * channels * places < places**2 / 16


def brute_scores(net, index, images, asked, pixels, negative):
    """Score-CAM by a loop over images, queries and channels."""
    features = net[: index + 1](images)
    maps = torch.zeros(*asked.shape, *features.shape[2:], dtype=features.dtype)
    for b in range(len(images)):
        masks = resize(features[b : b + 1], images.shape[2:])[0]
        for t in range(asked.shape[1]):
            values = []
            for mask in masks:
                low, high = mask.min(), mask.max()
                if low == high:  # it has no say
                    values.append(torch.tensor(torch.nan))
                    continue
                mask = (mask - low) / (high - low)
                sets = None if pixels is None else pixels[b : b + 1, t : t + 1]
                values.append(scores(net, images[b : b + 1] * mask, asked[b : b + 1, t : t + 1], sets)[0, 0])
            signed = torch.stack(values) * (-1 if negative else 1)
            weights = (signed.exp() / signed.exp().nansum()).nan_to_num(0)
            maps[b, t] = sum(weight * feature for weight, feature in zip(weights, features[b], strict=True))
    return maps


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("chunk_size", [2, 64])
def test_score_cam_by_brute_force(chunk_size, negative):
    small = nn.Sequential(nn.Conv2d(1, 5, 3, 2, 1), nn.ReLU(), *deep()[2:])
    for net, kind, pixels in (
        (small, ClassifierTarget, None),
        (segmenter(), SegmenterTarget, noise(2, 2, 6, 7) < 0.1),
    ):
        with torch.no_grad():
            net[0].weight[0] = 0  # a constant channel would hide everything
        target, images = exact(net, kind), noise(2, 1, 6, 7)
        maps = ScoreCAM(target, "1", negative=negative, chunk_size=chunk_size).explain(images, ASKED, pixels)
        expected = resize(brute_scores(net, 1, images, ASKED, pixels, negative), (6, 7))
        # Masks are float32.
        assert torch.allclose(maps, expected.float(), atol=1e-5), kind.__name__
        assert (expected[:, 0] - expected[:, 1])[0].abs().max() > 1e-3, "the queries of an image are alike"


def brute_ablation(target, layer, images, asked, pixels=None, channel_axis=1):
    """Ablation-CAM by a full forward pass a channel: a hook sets it to zero."""
    taken = []
    note = layer.register_forward_hook(lambda _, __, output: taken.append(output.clone()))
    with torch.no_grad():
        whole = target.score(images, asked, pixels)
    note.remove()
    features, weights = taken[0], []
    for channel in range(features.shape[channel_axis]):

        def drop(_, __, output, channel=channel):
            output = output.clone()
            output.select(channel_axis, channel).zero_()
            return output

        hook = layer.register_forward_hook(drop)
        with torch.no_grad():
            weights.append((whole - target.score(images, asked, pixels)) / whole.abs())
        hook.remove()
    return torch.einsum(
        "dbt,bd...->bt...", torch.stack(weights), features.movedim(channel_axis, 1).flatten(2)
    ), features


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_ablation_cam_by_brute_force(chunk_size):
    for net, kind, pixels in (
        (deep(), ClassifierTarget, None),
        (deep(3), ClassifierTarget, None),
        (segmenter(), SegmenterTarget, noise(2, 2, 6, 7) < 0.3),
    ):
        size = size_of(3) if isinstance(net[0], nn.Conv3d) else (6, 7)
        target, images = exact(net, kind), noise(2, 1, *size)
        maps = AblationCAM(target, "1", chunk_size=chunk_size).explain(images, ASKED, pixels)
        expected, _ = brute_ablation(target, net[1], images, ASKED, pixels)
        assert_same(maps.flatten(2), expected, kind.__name__)


def test_ablation_cam_of_networks_with_skips():
    """The bottleneck of a U-Net, whose skips pass it by, and a stage of a ResNet."""
    torch.manual_seed(0)
    unet = BasicUNet(2, 1, 3, (4, 4, 6, 6, 8, 4))
    residual = resnet18()
    for net, name, kind in ((unet, "down_4", SegmenterTarget), (residual, "layer3", ClassifierTarget)):
        target, images, asked = exact(net, kind), noise(1, 1, 32, 32), torch.tensor([[1, 2]])
        pixels = None if kind is ClassifierTarget else noise(1, 2, 32, 32) < 0.5
        layer = getattr(net, name)
        expected, features = brute_ablation(target, layer, images, asked, pixels)
        small = expected.unflatten(2, features.shape[2:])
        assert small[0, 0].numel() > 1
        assert_same(AblationCAM(target, layer).explain(images, asked, pixels), resize(small, (32, 32)), name)


def test_ablation_cam_of_tokens_drops_features():
    target, images = exact(vit()), noise(2, 1, 8, 8)
    expected, _ = brute_ablation(target, target.model[3], images, ASKED, channel_axis=2)
    maps = AblationCAM(target, "3").explain(images, ASKED)
    assert_same(maps, resize(expected.unflatten(2, (2, 2)), (8, 8)))


class Counted(nn.Module):
    """Counts the images that its forward, not a hook, has seen; fails at a call if told so."""

    def __init__(self, module, fail_at=None):
        super().__init__()
        self.module, self.seen, self.calls, self.fail_at = module, 0, 0, fail_at

    def forward(self, values):
        self.seen, self.calls = self.seen + len(values), self.calls + 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of memory")
        return self.module(values)


def test_ablation_cam_runs_what_comes_before_the_layer_once_an_image():
    net = deep()
    net[0], net[2] = Counted(net[0]), Counted(net[2])
    target, images = ClassifierTarget(net), torch.rand(3, 1, 6, 7)
    target.query(images, None, None)
    net[0].seen = net[2].seen = 0
    AblationCAM(target, "1", chunk_size=2).explain(images, torch.tensor([[0, 1]] * 3))
    assert net[0].seen == 3, "before the layer: once an image"
    assert net[2].seen == 3 * (1 + 2 + 5), "after it: the image, a trial of two, and its 5 channels, for all queries"


@pytest.mark.parametrize("fail_at", [None, 1, 2, 3])
def test_ablation_cam_leaves_the_model_as_it_was(fail_at):
    net = deep()
    net[2] = Counted(net[2], fail_at)
    own = [net[0].forward, net[1].forward]  # as a library that patches instances leaves them
    net[0].forward, net[1].forward = own
    target, images = ClassifierTarget(net), torch.rand(1, 1, 6, 7)
    before = state_of(target)
    explainer = AblationCAM(target, "1", chunk_size=2)
    if fail_at is None:
        explainer.explain(images, torch.tensor([0]))
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            explainer.explain(images, torch.tensor([0]))
    assert_untouched(before, state_of(target))
    patched = [name for name, module in net.named_modules() if "forward" in module.__dict__]
    assert patched == ["0", "1"], "forward is replaced in other modules than before"
    assert [net[0].__dict__["forward"], net[1].__dict__["forward"]] == own, "the instances' own forward is lost"


class Awkward(nn.Module):
    """Networks that are usual and that a replay can get wrong: ``kind`` says how."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.act = kind, nn.ReLU()
        self.first, self.layer = (nn.Conv2d(channels, 4, 3, padding=1) for channels in (1, 4))
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, values):
        values = self.first(values)
        if self.kind == "a module called before and after":
            values = self.act(self.layer(self.act(values)))
        elif self.kind == "ReLU in place after the layer":
            values = self.layer(values).relu_()
        elif self.kind == "skip added to the layer in place":
            skip, values = values, self.layer(values)
            values += skip
        elif self.kind == "layer added to the skip in place":
            values += self.layer(values)
        elif self.kind == "a module that gives None before":
            tokens = values.flatten(2).mT
            mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            values = self.layer(values) + mixed.mT.unflatten(2, values.shape[2:])
        return self.head(values.tanh().flatten(2).mean(2))


@pytest.mark.parametrize("chunk_size", [1, 64])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "a module called before and after",
        "ReLU in place after the layer",
        "skip added to the layer in place",
        "layer added to the skip in place",
        "a module that gives None before",
    ],
)
def test_ablation_cam_of_an_awkward_network(kind, chunk_size):
    if kind == "plain":
        net = Awkward("")
        net.forward = lambda values: net.head(net.layer(net.first(values)).tanh().flatten(2).mean(2))
    else:
        net = Awkward(kind)
    target, images = exact(net), noise(2, 1, 6, 7)
    expected, _ = brute_ablation(target, net.layer, images, ASKED)
    maps = AblationCAM(target, net.layer, chunk_size=chunk_size).explain(images, ASKED)
    assert_same(maps.flatten(2), expected, kind)


@pytest.mark.parametrize("name", ["norm1", "linear1", "norm2"])
def test_ablation_cam_inside_a_transformer_layer(name):
    target, images = exact(vit()), noise(2, 1, 8, 8)
    layer = getattr(target.model[3], name)
    expected, _ = brute_ablation(target, layer, images, ASKED, channel_axis=2)
    assert_same(AblationCAM(target, layer).explain(images, ASKED), resize(expected.unflatten(2, (2, 2)), (8, 8)))


# ------------------------------------------------------------------ what all share


def test_several_layers_are_averaged_at_one_scale():
    target, images = exact(deep()), noise(2, 1, 6, 7)
    explainer = HiResCAM(target, ["1", target.model[3], "0"])
    alone = [HiResCAM(target, layer).explain(images, ASKED) for layer in ("1", "3", "0")]
    largest = [maps.flatten(2).abs().amax(2)[..., None, None] for maps in alone]
    assert largest[0].median() != largest[1].median()
    expected = sum(maps / size for maps, size in zip(alone, largest, strict=True)) / 3
    assert_same(explainer.explain(images, ASKED), expected)
    empty = SegmenterTarget(segmenter())
    maps = GradCAM(empty, ["0", "1"]).explain(torch.rand(1, 1, 6, 7), torch.tensor([1]), torch.zeros(1, 1, 6, 7) > 0)
    assert not maps.any(), "nothing divided by nothing is nothing"


@pytest.mark.parametrize("cam", [cam for cam in FAMILY if cam is not EigenCAM])
def test_negative_is_the_map_of_the_score_turned_round(cam):
    for net, opposite, kind, pixels in (
        (deep(), deep(), ClassifierTarget, None),
        (segmenter(), segmenter(), SegmenterTarget, noise(2, 2, 6, 7) < 0.5),
    ):
        with torch.no_grad():
            for parameter in opposite[-1].parameters():
                parameter.neg_()
        ours = cam(exact(net, kind), "1", negative=True).explain(noise(2, 1, 6, 7), ASKED, pixels)
        assert_same(ours, cam(exact(opposite, kind), "1").explain(noise(2, 1, 6, 7), ASKED, pixels), kind.__name__)
        straight = cam(exact(net, kind), "1").explain(noise(2, 1, 6, 7), ASKED, pixels)
        assert (ours - straight).abs().max() > 1e-3 * straight.abs().max()


@each_of_all
def test_a_layer_is_a_module_or_its_name_or_a_list_of_one(cam):
    target, images = ClassifierTarget(deep()), torch.rand(2, 1, 6, 7)
    by_name = cam(target, "1").explain(images, ASKED)
    for layer in (target.model[1], ["1"], (target.model[1],)):
        assert torch.equal(cam(target, layer).explain(images, ASKED), by_name), f"layer={layer!r}"
    assert not list(cam(target, target.model[1]).parameters()), "the layer's weights are the explainer's own"


def named(**options):
    """MONAI's networks, small enough for a test."""
    torch.manual_seed(0)
    unet = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "features": (4, 4, 6, 6, 8, 4)}
    return {
        "SmallCNN": (lambda: SmallCNN(1, 3, widths=(4, 6)), "features", 16),
        "resnet18": (resnet18, "layer4", 64),
        "DenseNet121": (lambda: DenseNet121(2, 1, 3, 8, 4, (2, 2, 2, 2)), "class_layers.relu", 64),
        "vit": (vit, "3", 8),
        "ReLU in place": (lambda: deep(inplace=True)[:2].append(deep()[4]).extend(deep(classes=3)[5:]), "1", 8),
        "U-Net": (lambda: BasicUNet(**unet), "down_4", 32),
    }


@pytest.mark.parametrize("name", named())
def test_auto_finds_the_usual_layer(name):
    make, expected, side = named()[name]
    net = make()
    if name == "ReLU in place":
        net[-1] = nn.Linear(5, 3)
    target = (SegmenterTarget if name == "U-Net" else ClassifierTarget)(net)
    images = torch.rand(2, 1, side, side)
    pixels = torch.rand(2, 2, side, side) < 0.5 if name == "U-Net" else None
    for cam in (GradCAM, HiResCAM, EigenCAM):
        explainer = cam(target)
        maps = explainer.explain(images, ASKED, pixels)
        found = [layer for layer, module in net.named_modules() if module is explainer._layers[0]]
        assert found == [expected], f"{name}: {found}"
        assert torch.equal(maps, cam(target, expected).explain(images, ASKED, pixels)) and maps.any()


@pytest.mark.parametrize("cam", [*GRADIENT, EigenCAM, ScoreCAM])
def test_a_relu_in_place_after_the_layer_changes_nothing(cam):
    images = noise(2, 1, 6, 7)
    plain, inplace = (cam(exact(deep(inplace=flag)), "0").explain(images, ASKED) for flag in (False, True))
    assert_same(inplace, plain)


@pytest.mark.parametrize("cam", [*GRADIENT, EigenCAM])
@pytest.mark.parametrize("kind", [ClassifierTarget, SegmenterTarget])
def test_given_queries_cost_one_pass(cam, kind):
    class Counting(kind):
        passes = 0

        def logits(self, images):
            self.passes += len(images)
            return super().logits(images)

    target, images = Counting(deep() if kind is ClassifierTarget else segmenter()), torch.rand(2, 1, 6, 7)
    pixels = None if kind is ClassifierTarget else torch.rand(2, 2, 6, 7) < 0.5
    explainer = cam(target, "1")
    explainer.explain(images, ASKED, pixels)
    target.passes = 0
    explainer.explain(images, ASKED, pixels)
    assert target.passes == 2, f"{target.passes} images for 2 images of 2 queries each"


@pytest.mark.parametrize("cam", [*GRADIENT, EigenCAM])
def test_several_layers_fraction_one_pass(cam):
    target, images = CountingTarget(deep()), torch.rand(2, 1, 6, 7)
    target.query(images, None, None)
    target.chunks.clear()
    cam(target, ["0", "1", "3"]).explain(images, ASKED)
    assert target.chunks == [2]


@pytest.mark.parametrize("cam", [*GRADIENT, EigenCAM])
def test_a_sweep_over_layers_is_one_pass_and_each_layers_own_map(cam):
    target, images = CountingTarget(deep()), torch.rand(2, 1, 6, 7)
    single = {layer: cam(target, layer).explain(images, ASKED) for layer in ("0", "1", "3")}
    target.chunks.clear()
    swept = cam(target).sweep(images, [*single], ASKED)
    assert target.chunks == [2]
    for maps, (layer, expected) in zip(swept, single.items(), strict=True):
        assert torch.allclose(maps, expected, atol=1e-6), layer


def test_a_sweep_of_a_segmenter_keeps_to_the_rules_of_explain():
    target, images = SegmenterTarget(segmenter(), window=8), torch.rand(2, 1, 11, 8)
    sets = torch.zeros(2, 2, 11, 8, dtype=torch.bool)
    sets[:, 0, :9] = True
    swept = HiResCAM(target).sweep(images, ["0", target.model[1]], torch.tensor([[1, 2]] * 2), sets)
    for maps, layer in zip(swept, ("0", "1"), strict=True):
        assert torch.allclose(maps, HiResCAM(target, layer).explain(images, torch.tensor([[1, 2]] * 2), sets))
        assert (maps[:, 1] == 0).all() and (maps[:, 0] != 0).any()


def test_the_passes_of_the_methods_without_gradients():
    target, images = CountingTarget(deep()), torch.rand(2, 1, 6, 7)
    target.query(images, None, None)
    for cam, expected in ((ScoreCAM, [2, 4, 4, 2]), (AblationCAM, [1, 2, 4, 1, 1, 2, 4, 1])):
        target.chunks.clear()
        cam(target, "1", chunk_size=4).explain(images, ASKED)
        assert target.chunks == expected, f"{cam.__name__}: of 5 channels and 2 queries"


# ------------------------------------------------------------------ errors


class Idle(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.net, self.idle = deep(), nn.Conv2d(1, 3, 1)

    def forward(self, images):
        return self.net(images)


def message(cam, target, layer):
    with pytest.raises(ValueError) as caught:
        cam(target, layer).explain(torch.rand(1, 1, 6, 7))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@each_of_all
def test_an_unknown_name(cam):
    text = message(cam, ClassifierTarget(deep()), "layer4")
    assert text == "The model has no layer 'layer4'; it has 0, 1, 2, 3, 4, 5, 6."


@each_of_all
def test_a_layer_without_positions(cam):
    text = message(cam, ClassifierTarget(deep()), "6")
    assert "(1, 3) for images (1, 1, 6, 7): no positions to map; choose an earlier one." in text


@each_of_all
def test_a_layer_that_is_not_called(cam):
    target = ClassifierTarget(Idle())
    for layer in ("idle", nn.Conv2d(1, 3, 1)):
        assert message(cam, target, layer).startswith("The layer Conv2d gave nothing")


@each_of_all
def test_a_script_hides_its_layers(cam):
    target = ClassifierTarget(torch.jit.trace(deep().eval(), torch.rand(1, 1, 6, 7)))
    assert "script" in message(cam, target, "1")


@each_of_all
def test_a_layer_that_gives_no_tensor(cam):
    net = Awkward("a module that gives None before")
    assert "MultiheadAttention gives a tuple" in message(cam, ClassifierTarget(net), net.attention)


def test_auto_in_a_script():
    assert message(GradCAM, ClassifierTarget(torch.jit.trace(deep().eval(), torch.rand(1, 1, 6, 7))), "auto")


def test_auto_in_a_function():
    assert message(GradCAM, ClassifierTarget(lambda images: images.flatten(1)[:, :3]), "auto")


def test_no_layer_at_all():
    assert message(GradCAM, ClassifierTarget(deep()), [])


def test_a_model_without_positions():
    net = nn.Sequential(nn.Flatten(), nn.Linear(42, 8), nn.Tanh(), nn.Linear(8, 3))
    assert message(GradCAM, ClassifierTarget(net), "auto").startswith("No layer of the model has positions")
