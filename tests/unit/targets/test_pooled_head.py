"""Heads are found in every kind of network that has one, and refused with the reason where there is none."""

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DenseNet121, EfficientNetBN, SEResNet50, resnet18
from torch import nn

from lightning_xai import ClassifierTarget
from lightning_xai.networks.mask_net import CifarResNet, SmallCNN
from lightning_xai.targets.pooled_head import PooledHead, linear_maps
from tests.helpers import Mean, Transposed, cnn, mlp, vit


class FunctionalDenseNet(nn.Module):
    """Like torchvision's: ReLU and pooling are functions, so no module gives what is pooled."""

    def __init__(self, inplace=False):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.classifier = nn.Linear(6, 3)
        self.inplace = inplace

    def forward(self, images):
        features = F.relu(self.features(images), inplace=self.inplace)
        return self.classifier(F.adaptive_avg_pool2d(features, 1).flatten(1))


class SwinLike(nn.Module):
    """Channels last until the pooling, as torchvision's Swin transformer has them."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(1, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, images):
        tokens = self.norm(self.patches(images).permute(0, 2, 3, 1))
        return self.head(tokens.permute(0, 3, 1, 2).mean(dim=(2, 3)))


class ClassTokenViT(nn.Module):
    """Patch tokens behind a class token, one attention layer, and a head on the class token."""

    def __init__(self, late=False):
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.ones(1, 1, 8))
        self.layer, self.norm = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.LayerNorm(8)
        self.head, self.late = nn.Linear(8, 3), late

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT
        tokens = self.layer(torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1))
        return self.head(self.norm(tokens[:, 0]) if self.late else self.norm(tokens)[:, 0])


class Squared(nn.Module):
    """Its pooled features are squared by no module."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, images):
        return self.head(self.body(images).mean(dim=(2, 3)).square())


class CosineHead(nn.Linear):
    """A linear layer whose weight is scaled on the way."""

    def forward(self, values):
        return F.linear(values, F.normalize(self.weight), self.bias)


class Auxiliary(nn.Module):
    """Its last linear layer does not give the logits."""

    def __init__(self):
        super().__init__()
        self.body, self.classifier, self.projection = nn.Conv2d(1, 6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, images):
        pooled = self.body(images).relu().mean(dim=(2, 3))
        self.projection(pooled)
        return self.classifier(pooled)


def monai_resnet(dims):
    return resnet18(spatial_dims=dims, n_input_channels=1, num_classes=3, conv1_t_stride=1, widen_factor=0.25)


FOUND = {
    "small CNN": (SmallCNN(1, 3), (28, 20)),
    "CIFAR ResNet": (CifarResNet(8), (3, 32, 32)),
    "ResNet 2-D": (monai_resnet(2), (64, 64)),
    "ResNet 3-D": (monai_resnet(3), (24, 24, 24)),
    "SE-ResNet": (SEResNet50(spatial_dims=2, in_channels=1, num_classes=3), (64, 64)),
    "DenseNet 2-D": (DenseNet121(spatial_dims=2, in_channels=1, out_channels=3), (64, 64)),
    "DenseNet 3-D": (DenseNet121(spatial_dims=3, in_channels=1, out_channels=3), (64, 32, 32)),
    "EfficientNet 2-D": (EfficientNetBN("efficientnet-b0", False, False, 2, 1, 3), (64, 64)),
    "EfficientNet 3-D": (EfficientNetBN("efficientnet-b0", False, False, 3, 1, 3), (64, 64, 32)),
    "functional ReLU": (FunctionalDenseNet(), (8, 12)),
    "functional ReLU in place": (FunctionalDenseNet(inplace=True), (8, 12)),
    "channels last": (SwinLike(), (16, 24)),
    "tokens": (vit(side=8), (8, 8)),
    "dropout and flattening before the head": (cnn(), (9, 9)),
    "one logit": (cnn(classes=1), (9, 9)),
}


def images_for(size):
    shape = size if len(size) == 3 and size[0] == 3 else (1, *size)
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FOUND)
def test_the_mean_of_the_class_maps_is_the_models_own_logits(name):
    torch.manual_seed(0)
    net, size = FOUND[name]
    target = ClassifierTarget(net, "sigmoid" if name == "one logit" else "softmax")
    images, pooled = images_for(size), PooledHead(target)
    with torch.no_grad():
        features, logits = pooled(images)
        expected = target.logits(images)
    assert torch.allclose(logits, expected, atol=1e-6), "PyTorch may fuse the layers of a model without hooks"
    assert features.ndim == images.ndim and features[0, 0].numel() > 1
    means = linear_maps(features, pooled.weight, pooled.bias).flatten(2).mean(dim=2)
    assert torch.allclose(means, logits, rtol=1e-4, atol=1e-4)
    cams = pooled.cams(features).flatten(2).sum(dim=2)
    assert torch.allclose(cams + pooled.bias, logits, rtol=1e-4, atol=1e-4)
    assert not any(module._forward_hooks for module in net.modules())


def test_the_search_names_what_it_found(caplog):
    caplog.set_level("INFO", logger="lightning_xai.targets.pooled_head")
    PooledHead(ClassifierTarget(FunctionalDenseNet()))(images_for((8, 12)))
    assert "Head 'classifier' pools the 8 x 12 regions of 'features' after a ReLU." in caplog.text


def test_another_linear_layer_behind_the_head_needs_a_name():
    target, images = ClassifierTarget(Auxiliary()), images_for((8, 8))
    with pytest.raises(ValueError, match="'projection' does not give the model's logits; name the one that does"):
        PooledHead(target)(images)
    assert PooledHead(target, "classifier")(images)[0].shape == (2, 6, 6, 6)


REFUSED = {
    "class token": (ClassTokenViT(), "reads a class token"),
    "max-pooling": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        "its regions are max-pooled",
    ),
    "flattened": (
        nn.Sequential(nn.Conv2d(1, 2, 3, 4), nn.Flatten(), nn.Linear(32, 3)),
        "its regions are flattened, each with weights of its own",
    ),
    "two linear layers": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), Mean(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)),
        r"between them lie '3' \(Linear\), '4' \(Tanh\)",
    ),
    "norm after the pooling": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), Mean(), nn.LayerNorm(4), nn.Linear(4, 3)),
        r"between them lies '3' \(LayerNorm\)",
    ),
    "norm after the pooling of a single region": (
        nn.Sequential(nn.Conv2d(1, 4, 16), nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(4, 3)),
        r"between them lies '2' \(GroupNorm\)",
    ),
    "norm of a class token": (ClassTokenViT(late=True), "reads a class token"),
    "a function after the pooling": (Squared(), "something else lies between"),
    "a layer that is more than linear": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), Mean(), CosineHead(4, 3)),
        r"'3' \(CosineHead\) does more than a linear layer",
    ),
    "multilayer perceptron": (mlp(256), r"between them lie '1' \(Linear\), '2' \(Tanh\)"),
    "one region": (
        nn.Sequential(nn.Conv2d(1, 4, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        "leave a single region",
    ),
    "a head per token": (
        nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Flatten(2), Transposed(), nn.Linear(4, 3), Mean(1)),
        "does not give the model's logits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_explained_is_refused_with_the_reason(name):
    torch.manual_seed(0)
    net, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        PooledHead(ClassifierTarget(net))(images_for((16, 16)))
    assert not any(module._forward_hooks for module in net.modules()), "hooks are left behind"


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("name", ["small CNN", "CIFAR ResNet", "functional ReLU", "tokens", "one logit"])
def test_an_exported_graph_has_the_head_of_the_network(name, decomposed):
    torch.manual_seed(0)
    net, size = FOUND[name]
    images = images_for(size)
    program = torch.export.export(net.eval(), (images,))
    module = torch.export.unflatten(program.run_decompositions() if decomposed else program)
    activation = "sigmoid" if name == "one logit" else "softmax"
    with torch.no_grad():
        (features, logits), (expected, whole) = (
            PooledHead(ClassifierTarget(each, activation, freeze=False))(images) for each in (module, net)
        )
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)


def test_models_without_layers_are_refused_at_once():
    with pytest.raises(ValueError, match="no linear layer that can be seen"):
        PooledHead(ClassifierTarget(lambda images: images.flatten(1)[:, :3]))
    with pytest.raises(ValueError, match="TorchScript .* hides its layers"):
        PooledHead(ClassifierTarget(torch.jit.trace(cnn().eval(), torch.rand(1, 1, 8, 8))))
    with pytest.raises(ValueError, match=r"named 'fc' .*its linear layers are \['6'\]"):
        PooledHead(ClassifierTarget(cnn()), "fc")


def test_hooks_are_gone_after_an_exception():
    net = cnn()
    pooled = PooledHead(ClassifierTarget(net))
    for _ in range(2):  # while the head is looked for, and afterwards
        failing = net[-1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pooled(images_for((9, 9)))
        failing.remove()
        assert not any(module._forward_hooks for module in net.modules())
        pooled(images_for((9, 9)))
