"""Tiny seeded models, explainers and data that the unit tests share."""

import torch
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_xai import ClassifierTarget, Explainer


def linear_net(weight, bias=None):
    """Logits ``weight @ flat image + bias``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def cnn(dims=2, channels=1, classes=3, seed=0):
    """Convolution, batch norm with lived-in statistics, dropout, global pooling, linear head."""
    torch.manual_seed(seed)
    conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
    head = [nn.Dropout(0.5), nn.Flatten(2), Mean(), nn.Linear(6, classes)]
    net = nn.Sequential(conv(channels, 6, 3, padding=1), norm(6), nn.ReLU(), *head)
    with torch.no_grad():
        net[1].running_mean.uniform_(-0.2, 0.2)
        net[1].running_var.uniform_(0.5, 1.5)
        net[-1].weight.mul_(4)
    return net


def mlp(pixels=64, classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.Tanh(), nn.Linear(8, classes))


def vit(side=8, channels=1, classes=3, seed=0):
    """Patch tokens, one attention layer, mean token."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 4, 4), nn.Flatten(2), Transposed(), layer, Mean(1), nn.Linear(8, classes)
    )


def pixel_segmenter(weight, bias=None):
    """1x1 convolution: the logit of class k at a pixel is ``weight[k] @ channels + bias[k]``."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(weight[..., None, None])
        conv.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return conv


def segmenter(dims=2, channels=1, classes=3, seed=0):
    """Two convolutions, every class predicted somewhere on noise."""
    torch.manual_seed(seed)
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
    net = nn.Sequential(conv(channels, 6, 3, padding=1), nn.ReLU(), conv(6, classes, 3, padding=1))
    with torch.no_grad():
        net[-1].weight.mul_(4)
        net[-1].bias -= net(torch.rand(1, channels, *(16,) * dims)).flatten(2).mean(dim=(0, 2))
    return net


class Mean(nn.Module):
    def __init__(self, dim=-1):
        super().__init__()
        self.dim = dim

    def forward(self, values):
        return values.mean(self.dim)


class Transposed(nn.Module):
    def forward(self, values):
        return values.transpose(1, 2)


class Doubled(torch.autograd.Function):
    """No vmap rule, and a backward that a batched tensor would end the process in."""

    @staticmethod
    def forward(ctx, values):
        return 2 * values

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient.data


class GradientMap(Explainer):
    """Input gradient of the score: fails in a context without gradients, and differs per query."""

    def attribute(self, images, query):
        targets, pixels = query.targets, query.regions
        maps = []
        for column in range(targets.shape[1]):
            leaf = images.clone().requires_grad_(True)
            asked = None if pixels is None else pixels[:, column : column + 1]
            score = self.target.score(leaf, targets[:, column : column + 1], asked)
            maps.append(torch.autograd.grad(score.sum(), leaf)[0].sum(dim=1))
        return torch.stack(maps, dim=1)


class LearnedMap(Explainer):
    """One learned weight per pixel, so that ``fit`` has something to do."""

    def __init__(self, target, side=8):
        super().__init__(target)
        self.net = nn.Parameter(torch.zeros(1, 1, side, side))

    def attribute(self, images, query):
        return self.net.sigmoid().expand(*query.shape, *images.shape[2:])

    def loss(self, batch):
        query = self.target.query(batch["image"])
        masked = batch["image"] * self.net.sigmoid()
        keep = -self.target.log_probability(masked, query.targets, query.regions).mean()
        return {"loss": keep, "keep": keep}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Blobs(LightningDataModule):
    """Noise images with a bright 3 x 3 blob; the mask marks it. ``label`` is the class."""

    def __init__(self, count=6, side=8, batch_size=2, masks=True):
        super().__init__()
        torch.manual_seed(count)
        self.items = []
        for number in range(count):
            image, mask = 0.3 * torch.rand(1, side, side), torch.zeros(1, side, side, dtype=torch.long)
            row, column = (int(place) for place in torch.randint(0, side - 2, (2,)))
            image[:, row : row + 3, column : column + 3] += 0.6
            mask[:, row : row + 3, column : column + 3] = 1
            item = {"image": image, "label": number % 3, "id": f"blob_{number}"}
            self.items.append({**item, "mask": mask} if masks else item)
        self.batch_size = batch_size

    def loader(self):
        return DataLoader(self.items, batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class CountingTarget(ClassifierTarget):
    """Counts the images that went through the model, chunk by chunk."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.chunks = []

    def logits(self, images):
        self.chunks.append(len(images))
        return super().logits(images)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(target):
    """Everything about the model that an explainer must leave alone."""
    return state_of_module(target.model)


def state_of_module(module):
    """Weights, buffers and gradients; and for each part its hooks, its mode, and what was hung on it."""
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    tensors |= {
        f"{name}.grad": value.grad.clone() for name, value in module.named_parameters() if value.grad is not None
    }
    asked = [(name, value.requires_grad) for name, value in module.named_parameters()]
    hooks = [tuple(getattr(part, kind)) for part in module.modules() for kind in HOOKS]
    return tensors, asked, hooks, [(part.training, sorted(vars(part))) for part in module.modules()]


def assert_untouched(before, after):
    for values, others in ((before[0], after[0]), (after[0], before[0])):
        changed = [name for name, value in values.items() if name not in others or not torch.equal(value, others[name])]
        assert not changed, f"weights, buffers or gradients changed: {changed}"
    assert before[1] == after[1], "requires_grad changed"
    assert before[2] == after[2], "hooks changed"
    assert before[3] == after[3], "modes, or attributes of modules, changed"


class LogitTarget(CountingTarget):
    """Its "probabilities" are its logits, so that a linear model has every curve in closed form."""

    def activate(self, logits):
        return logits
