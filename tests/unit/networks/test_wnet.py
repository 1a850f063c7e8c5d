"""Little W-Net: the published names and shapes, and what its second half reads."""

import pytest
import torch

from lightning_xai.networks.wnet import Block, LittleWNet


def test_it_has_the_published_parameters():
    state = LittleWNet().state_dict()
    weights = {name: tuple(value.shape) for name, value in state.items() if name.endswith("weight")}
    assert sum(value.numel() for value in LittleWNet().parameters()) == 68_482
    assert len(state) == 240, "as many entries as the published file"
    assert {name: shape for name, shape in weights.items() if name.startswith("unet2.up_path.1.")} == {
        "unet2.up_path.1.up_layer.block.0.weight": (16, 8, 2, 2),
        "unet2.up_path.1.conv_bridge_layer.block.0.weight": (8, 8, 3, 3),
        "unet2.up_path.1.conv_bridge_layer.block.2.weight": (8,),
        "unet2.up_path.1.conv_layer.block.0.weight": (8, 16, 3, 3),
        "unet2.up_path.1.conv_layer.block.2.weight": (8,),
        "unet2.up_path.1.conv_layer.block.3.weight": (8, 8, 3, 3),
        "unet2.up_path.1.conv_layer.block.5.weight": (8,),
        "unet2.up_path.1.conv_layer.shortcut.0.weight": (8, 16, 1, 1),
        "unet2.up_path.1.conv_layer.shortcut.1.weight": (8,),
    }
    assert weights["unet2.first.block.0.weight"] == (8, 4, 3, 3), "the image and the first logits"


@pytest.mark.parametrize(("channels", "outputs"), [(3, 1), (1, 2)])
def test_it_gives_logits_for_every_pixel(channels, outputs):
    net = LittleWNet(channels, outputs).eval()
    assert net(torch.rand(2, channels, 16, 24)).shape == (2, outputs, 16, 24)
    with pytest.raises(ValueError, match=r"\(16, 22\) cannot be halved 2 times; pad or .* multiples of 4"):
        net(torch.rand(1, channels, 16, 22))


def test_the_second_half_reads_the_image_and_the_logits_of_the_first():
    net = LittleWNet().eval()
    images, read = torch.rand(1, 3, 8, 8), []
    net.unet2.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    net(images)
    assert torch.equal(read[0], torch.cat([images, net.unet1(images)], dim=1))


def test_a_block_adds_its_shortcut():
    block, values = Block(2, 4).eval(), torch.rand(1, 2, 6, 6)
    assert torch.allclose(block(values), block.block(values) + block.shortcut(values))
    order = ["Conv2d", "ReLU", "BatchNorm2d"] * 2
    assert [type(layer).__name__ for layer in block.block] == order, "the published order"


def test_nothing_works_in_place():
    """Explainers hook activations: a later layer must not overwrite what an earlier one gave."""
    net, captured = LittleWNet().eval(), []
    for module in net.modules():
        module.register_forward_hook(lambda _, __, output: captured.append((output, output.clone())))
    net(torch.randn(1, 3, 8, 8))
    assert captured and all(torch.equal(output, copy) for output, copy in captured)
