"""The projections inside of attention are no layers, however a network computes attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_xai import ClassifierTarget, SegmenterTarget
from lightning_xai.explainers import GradCAM
from lightning_xai.targets.layers.find import auto_layer


def scaled_dot_product(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def products(query, key, value):
    return (query @ key.transpose(-2, -1)).softmax(-1) @ value


def batched_products(query, key, value):
    weights = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT).softmax(-1)
    return torch.bmm(weights, value.flatten(0, 1)).view_as(query)


def sums(query, key, value):
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", query, key).softmax(-1), value)


class Attention(nn.Module):
    """Two heads over tokens; query, key and value from one projection or three, keys maybe from fewer tokens."""

    def __init__(self, attend, fused, reduced=False):
        super().__init__()
        self.attend, self.fused, self.reduced = attend, fused, reduced
        self.qkv = nn.Linear(8, 24)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.shrink, self.proj = nn.Conv2d(8, 8, 2, 2), nn.Linear(8, 8)

    def forward(self, tokens):
        keys = self.shrink(tokens.mT.unflatten(2, (4, 4))).flatten(2).mT if self.reduced else tokens
        parts = self.qkv(tokens).chunk(3, -1) if self.fused else (self.q(tokens), self.k(keys), self.v(keys))
        split = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in parts)
        return self.proj(self.attend(*split).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(8), attention, nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, tokens):
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """A class token and 4 x 4 patches of a 16-pixel image."""

    def __init__(self, attention):
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.blocks, self.norm = nn.Sequential(*(Block(attention()) for _ in range(2))), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        tokens = torch.cat([self.token.expand(len(images), -1, -1), self.patches(images).flatten(2).mT], dim=1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class Itself(nn.Module):
    """`nn.MultiheadAttention` of a token with the others."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        return self.attn(tokens, tokens, tokens, need_weights=False)[0]


ATTENTION = {
    f"{attend.__name__}, {'one projection' if fused else 'three'}": (lambda a=attend, f=fused: Attention(a, f))
    for attend in (scaled_dot_product, products, batched_products, sums)
    for fused in (True, False)
}


@pytest.mark.parametrize("name", [*ATTENTION, "nn.MultiheadAttention"])
def test_the_layer_of_a_class_token_is_the_last_blocks_norm(name):
    torch.manual_seed(0)
    target = ClassifierTarget(ViT(ATTENTION.get(name, Itself)))
    images, asked = torch.rand(2, 1, 16, 16), torch.tensor([[0, 1], [2, 1]])
    assert auto_layer(target, images, asked) == "blocks.1.norm1"
    explainer = GradCAM(target)
    assert (explainer.explain(images, asked).flatten(2).std(dim=2) > 0).all()
    assert explainer.settings == {"layer": "blocks.1.norm1"}


def test_an_exported_transformer_has_the_same_layer():
    torch.manual_seed(0)
    net, images = ViT(ATTENTION["scaled_dot_product, one projection"]).eval(), torch.rand(1, 1, 16, 16)
    module = torch.export.unflatten(torch.export.export(net, (images,)))
    assert auto_layer(ClassifierTarget(module, freeze=False), images, torch.tensor([[0]])) == "blocks.1.norm1"


class Dense(nn.Module):
    """A segmenter with attention to a quarter of the positions, as in SegFormer."""

    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(1, 8, 4, 4), Block(Attention(scaled_dot_product, False, reduced=True))
        self.head = nn.ConvTranspose2d(8, 3, 4, 4)

    def forward(self, images):
        tokens = self.block(self.patches(images).flatten(2).mT)
        return self.head(tokens.mT.unflatten(2, (4, 4)))


def test_the_bottleneck_of_a_segmenter_is_not_inside_of_attention():
    torch.manual_seed(0)
    assert auto_layer(SegmenterTarget(Dense()), torch.rand(1, 1, 16, 16), torch.tensor([[1]])) == "block"


class Alone(nn.Module):
    """A model that attends by itself: it has nothing but projections."""

    def __init__(self):
        super().__init__()
        self.norm, self.first, self.second, self.head = (
            nn.LayerNorm(16), nn.Linear(1, 4), nn.Linear(1, 4), nn.Linear(4, 3)
        )  # fmt: skip

    def forward(self, images):
        tokens = self.norm(images.flatten(2)).mT
        keys, values = self.first(tokens), self.second(tokens)
        return self.head(((keys[:, :1] @ keys.mT).softmax(-1) @ values)[:, 0])


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images)


@pytest.mark.parametrize(("net", "layer"), [(Alone(), "second"), (Around(Alone()), "inner.second")])
def test_where_there_is_nothing_else_a_projection_is_the_layer(net, layer):
    assert auto_layer(ClassifierTarget(net), torch.rand(1, 1, 4, 4), torch.tensor([[1]])) == layer


def test_a_product_with_weights_is_no_attention():
    """Tokens that a mixer multiplies with weights, and channels that are scaled by what is pooled from them."""

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.weight = nn.Conv2d(1, 4, 4, 4), nn.Parameter(torch.randn(16, 16))
            self.inner, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, images):
            tokens = self.inner(self.norm(self.body(images).flatten(2).mT))
            mixed = (self.weight @ tokens) * tokens.mean(dim=1, keepdim=True).sigmoid()
            return self.head(mixed.mean(dim=1))

    target = ClassifierTarget(Around(Mixer()))
    assert auto_layer(target, torch.rand(1, 1, 16, 16), torch.tensor([[1]])) == "inner.inner"
