"""Models in odd clothes: maps and scores are those of the plain model, or one sentence says why there are none."""

import functools

import pytest
import torch
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import (
    CAM,
    PCIM,
    RISE,
    AblationCAM,
    AmortizedPCIM,
    CaptumExplainer,
    EigenCAM,
    GradCAM,
    ScoreCAM,
    UNoise,
)
from lightning_xai.targets.model_call import NoGradientError
from tests.contract.explainers import KINDS
from tests.contract.test_model_kinds import EXPLAINERS, PAIRS, Wrapped, images_of, maps_and_scores
from tests.helpers import cnn, segmenter


class WithDefaults(Wrapped):
    """Further inputs that nobody has to give."""

    def forward(self, x, mask=None, *, scale=1.0):
        return self.net(x) * scale


class Casts(nn.Module):
    """A network of another type that converts its images and what it gives by itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double()).float()


def in_place_compiled(net):
    net.compile(backend="eager")
    return net


#: How a network is changed, and how much of the precision of its maps that costs.
CLOTHES = {
    "float16 outputs": (lambda net: Wrapped(net, after=lambda y: y.half()), 2e-2),
    "bfloat16 outputs": (lambda net: Wrapped(net, after=lambda y: y.bfloat16()), 1e-1),
    "float64 outputs": (lambda net: Wrapped(net, after=lambda y: y.double()), 1e-4),
    "further inputs": (WithDefaults, 1e-4),
    "converts by itself": (Casts, 1e-4),
    "channels last in memory": (lambda net: net.to(memory_format=torch.channels_last), 1e-4),
    "DataParallel": (nn.DataParallel, 1e-4),
    "torch.fx": (lambda net: torch.fx.symbolic_trace(net.eval()), 1e-4),
    "torch.compile": (lambda net: torch.compile(net, backend="eager"), 1e-4),
    "compile()": (in_place_compiled, 1e-4),
    "a plain function": (lambda net: functools.partial(net.eval()), 1e-4),
}
CHANNEL = {"AblationCAM": AblationCAM, "ScoreCAM": ScoreCAM}
NO_LAYERS = ("torch.compile", "compile()", "a plain function")


@pytest.mark.parametrize("clothes", CLOTHES)
@pytest.mark.parametrize(("name", "kind"), [*PAIRS, *((name, kind) for name in CHANNEL for kind in KINDS)])
def test_maps_and_scores_are_those_of_the_plain_model(name, clothes, kind):
    wrap, net = KINDS[kind]
    make = EXPLAINERS.get(name) or CHANNEL[name]
    change, precision = CLOTHES[clothes]
    expected, scores = maps_and_scores(wrap(net()), make, images_of())
    if clothes in NO_LAYERS and name in ("GradCAM", "AblationCAM", "ScoreCAM", "CAPE"):
        with pytest.raises(ValueError, match="hides its layers|without layers|no linear layer"):
            make(wrap(change(net())))
        return
    if clothes == "a plain function" and name == "PCIM":
        with pytest.raises(ValueError, match=r"plain callable without gradients; use PCIM\(gradient='spsa'\)"):
            make(wrap(change(net())))
        return
    maps, found = maps_and_scores(wrap(change(net())), make, images_of())
    if name == "ScoreCAM" and precision > 1e-3:
        assert maps.isfinite().all() and maps.abs().sum() > 0, "its softmax makes much of little"
        return
    # The mean, for an optimizer that follows signs makes much of a rounding at some pixels.
    assert (maps - expected).abs().mean() <= precision * expected.abs().max()
    if precision < 1e-3:
        torch.testing.assert_close(found, scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("axes", [(1,), (1, 1), (2,), (2, 3), (1, 3)])
@pytest.mark.parametrize("name", EXPLAINERS)
def test_logits_may_have_axes_of_one_more(name, axes):
    def spread(logits):
        for axis in axes:
            logits = logits.unsqueeze(axis)
        return logits

    make, images = EXPLAINERS[name], images_of()
    maps, scores = maps_and_scores(ClassifierTarget(Wrapped(cnn(), after=spread)), make, images)
    expected = maps_and_scores(ClassifierTarget(Wrapped(cnn())), make, images)
    torch.testing.assert_close((maps, scores), expected)
    single = ClassifierTarget(Wrapped(cnn(), after=spread)).logits(images[:1])
    assert single.shape == (1, 3), "of one image too"


def test_the_score_of_a_large_region_fits_into_16_bits():
    """65,536 pixels of a logit of 5 are more than float16 can hold."""
    net = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([0.0, 5.0]))
    images, asked = torch.rand(1, 1, 256, 256), torch.tensor([[1]])
    for kind in (torch.float16, torch.bfloat16):
        target = SegmenterTarget(Wrapped(net, after=lambda y, kind=kind: y.to(kind)))
        assert float(target.score(images, asked)) == 5 * 256**2
        assert GradCAM(target, "net").explain(images, asked).isfinite().all()


# ------------------------------------------------------------------ no gradient


class Within(Wrapped):
    """A network that runs in a context of its own."""

    def __init__(self, net, context):
        super().__init__(net)
        self.context = context

    def forward(self, x):
        with self.context():
            return self.net(x)


class Elsewhere(Wrapped):
    """Its values leave PyTorch on the way."""

    def forward(self, x):
        return torch.from_numpy(self.net(x).detach().numpy())


def made_in_inference_mode(net):
    with torch.inference_mode():
        return net()


#: A layer that has positions, by how a network of `cnn` or `segmenter` loses its gradient.
LOST = {
    "no_grad": (lambda net: Within(net(), torch.no_grad), "net.0"),
    "inference mode": (lambda net: Within(net(), torch.inference_mode), "net.0"),
    "detached": (lambda net: Wrapped(net(), after=lambda y: y.detach()), "net.0"),
    "numpy": (lambda net: Elsewhere(net()), "net.0"),
    "weights of inference mode": (made_in_inference_mode, "0"),
    "quantized": (
        lambda net: torch.ao.quantization.quantize_dynamic(net().eval(), {nn.Linear}),
        "0",
    ),
}
LOSES = [(lost, kind) for lost in LOST for kind in KINDS if (lost, kind) != ("quantized", "segmenter")]


@pytest.mark.parametrize(("lost", "kind"), LOSES)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_a_model_without_gradient_is_refused_by_those_that_need_one(lost, kind):
    wrap, net = KINDS[kind]
    target, images = wrap(LOST[lost][0](net), in_channels=1, num_classes=3), images_of()
    target.logits(images)
    asked = torch.tensor([[0], [1]])
    for make in (PCIM, GradCAM, *(functools.partial(CaptumExplainer, method=one) for one in ("Saliency", "DeepLift"))):
        with pytest.raises(ValueError, match="no gradient|without a gradient") as refused:
            make(target).explain(images, asked)
        assert "\n" not in str(refused.value) and "EigenCAM" in str(refused.value)
    mask = torch.randint(0, 3, (2, 1, *images.shape[2:]), generator=torch.Generator().manual_seed(0))
    batch = {"image": images, "label": asked[:, 0], "mask": mask, "id": ["a", "b"]}
    for learned in (UNoise(target), AmortizedPCIM(target)):
        with pytest.raises(NoGradientError, match=r"no gradient by its images \(.*\); use .*RISE"):
            learned.loss(batch)


@pytest.mark.parametrize(("lost", "kind"), LOSES)
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_the_explainers_that_are_named_work(lost, kind):
    wrap, net = KINDS[kind]
    make_model, layer = LOST[lost]
    target, images = wrap(make_model(net), in_channels=1, num_classes=3), images_of()
    occlusion = functools.partial(CaptumExplainer, method="Occlusion", patch=4)
    cams = [functools.partial(cam, layer=layer) for cam in (EigenCAM, ScoreCAM, AblationCAM)]
    for make in (RISE, functools.partial(PCIM, gradient="spsa", steps=3), occlusion, *cams):
        maps = make(target).explain(images, torch.tensor([[0], [1]]))
        assert maps.shape == (2, 1, 16, 20) and maps.isfinite().all() and maps.any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_layer_of_quantized_numbers_is_named():
    net = nn.Sequential(torch.ao.quantization.QuantStub(), cnn().eval()[:3], torch.ao.quantization.DeQuantStub())
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    net.qconfig = torch.ao.quantization.default_qconfig
    torch.ao.quantization.prepare(net, inplace=True)(images_of())
    target = ClassifierTarget(torch.ao.quantization.convert(net), in_channels=1, num_classes=6)
    for cam in (EigenCAM, ScoreCAM, AblationCAM):
        with pytest.raises(ValueError, match=r"gives torch\.quint8; choose one of floating numbers"):
            cam(target, "0.1.0").explain(images_of(), torch.tensor([[0], [1]]))
    assert RISE(target, masks=20).explain(images_of(), torch.tensor([[0], [1]])).isfinite().all()


# ------------------------------------------------------------------ sentences


class Needs(Wrapped):
    def forward(self, x, *, age):
        return self.net(x)


class NeedsTwo(Wrapped):
    def forward(self, x, age):
        return self.net(x)


def half_a_body(net):
    net[0].half()
    return net


@pytest.mark.parametrize("wrap", [ClassifierTarget, SegmenterTarget])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Needs, r"needs more than the images \(.*'age'\); wrap it in a module"),
        (NeedsTwo, r"needs more than the images \(.*'age'\); wrap it in a module"),
        (lambda net: net.half(), r"weights are torch\.float16; give images\.to\(torch\.float16\), or model\.to\(torch"),
        (half_a_body, r"weights are torch\.float16 and torch\.float32, .*give it as model\.float\(\)"),
        (lambda net: net.to("meta"), r"weights have no values \(device meta\)"),
        (lambda net: nn.Sequential(nn.LazyConv2d(3, 3)), "lazy layers without weights yet; run it once on images"),
    ],
)
def test_what_cannot_work_is_one_sentence(wrap, change, words):
    net = cnn() if wrap is ClassifierTarget else segmenter()
    with pytest.raises(ValueError, match=words) as refused:
        wrap(change(net)).check(images_of())
    assert "\n" not in str(refused.value)


def test_models_of_one_type_take_images_of_that_type():
    images = images_of()
    expected = CAM(ClassifierTarget(cnn())).explain(images, torch.tensor([[0], [1]]))
    found = CAM(ClassifierTarget(cnn().double())).explain(images.double(), torch.tensor([[0], [1]]))
    torch.testing.assert_close(found, expected)
    # A lazy model that has seen images is a model like the others.
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    lazy(images)
    assert CAM(ClassifierTarget(lazy)).explain(images, torch.tensor([[0], [1]])).any()
