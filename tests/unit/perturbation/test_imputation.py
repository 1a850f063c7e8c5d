"""Hidden pixels as the weighted means of their neighbors, against a dense solve."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_xai.perturbation import imputation as neighbors
from lightning_xai.perturbation.imputation import neighbor_imputation

SIZES = {2: (19, 14), 3: (7, 6, 9)}
MASKS = ("random", "sparse", "blob", "corner", "one hidden", "checkerboard", "frame", "stripes")


def solved(images, visible):
    """The definition, as one dense float64 system per image."""
    size = images.shape[2:]
    points = list(product(*map(range, size)))
    number = {point: index for index, point in enumerate(points)}
    system = torch.zeros(len(points), len(points), dtype=torch.float64)
    for point, step in product(points, product((-1, 0, 1), repeat=len(size))):
        neighbor = number.get(tuple(a + b for a, b in zip(point, step, strict=True)))
        if any(step) and neighbor is not None:
            system[number[point], neighbor] = 1 / sum(map(abs, step))
    system /= system.sum(dim=1, keepdim=True).clamp_min(1e-9)  # a lone pixel has no neighbor
    filled = images.double().flatten(2).transpose(1, 2).clone()
    for image, shown in zip(filled, visible.flatten(1), strict=True):
        matrix = torch.eye(len(points), dtype=torch.float64) - system * ~shown[:, None]
        image[:] = torch.linalg.solve(matrix, torch.where(shown[:, None], image, 0))
    return filled.transpose(1, 2).view(images.shape)


def mask(kind, size, seed=0):
    """``(1, 1, *size)``, True = visible."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, *size, generator=generator)
    parity = sum(torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    visible = torch.zeros(1, 1, *size, dtype=torch.bool)
    if kind == "random":
        visible = noise > 0.6
    elif kind == "sparse":
        visible = noise > 0.97
        visible.view(-1)[-1] = True
    elif kind == "blob":
        coarse = torch.rand(1, 1, *[3] * len(size), generator=generator)
        smooth = F.interpolate(coarse, size=size, mode="bilinear" if len(size) == 2 else "trilinear")
        visible = smooth < smooth.quantile(0.4)
    elif kind == "corner":
        visible.view(-1)[0] = True
    elif kind == "one hidden":
        visible = noise < noise.max()
    elif kind == "checkerboard":
        visible[:] = parity % 2 == 0
    elif kind == "frame":
        visible[:] = True
        visible[(..., *[slice(1, -1)] * len(size))] = False
    elif kind == "stripes":
        visible[..., ::5] = True
    return visible


def random_images(count=2, channels=2, size=SIZES[2], seed=0):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def worst(filled, reference):
    return (filled.double() - reference.double()).abs().max().item()


# ------------------------------------------------------------------ against the dense solve


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dims", [2, 3])
def test_every_kind_of_mask_agrees_with_the_dense_solve(kind, dims):
    images, visible = random_images(1, size=SIZES[dims]), mask(kind, SIZES[dims])
    error = worst(neighbor_imputation(images, visible), solved(images, visible))
    assert error <= 1e-6, f"{kind} mask in {dims}-D is {error:.1e} off"


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (2, 31), (33, 3), (17, 16), (1, 1, 30), (3, 1, 15), (2, 9, 8)])
def test_odd_thin_and_flat_sizes_agree_with_the_dense_solve(size):
    images, visible = random_images(1, size=size), mask("random", size, seed=2)
    error = worst(neighbor_imputation(images, visible), solved(images, visible))
    assert error <= 1e-6, f"size {size} is {error:.1e} off"


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_any_small_mask_agrees_with_the_dense_solve(data, seed):
    size = data.draw(
        st.lists(st.integers(1, 11), min_size=2, max_size=2) | st.lists(st.integers(1, 4), min_size=3, max_size=3)
    )
    fraction = data.draw(st.floats(0.02, 0.98))
    generator = torch.Generator().manual_seed(seed)
    visible = torch.rand(2, 1, *size, generator=generator) < fraction
    visible.flatten(1)[:, seed % visible[0].numel()] = True
    images = torch.rand(2, 1, *size, generator=generator)
    error = worst(neighbor_imputation(images, visible), solved(images, visible))
    assert error <= 1e-6, f"size {size}, {fraction:.0%} visible: {error:.1e} off"


def test_a_large_hole_solves_its_own_equations():
    """224 x 224 is beyond a dense solve; the mean of the neighbors, taken by a convolution, is not."""
    images, visible = random_images(1, 3, (224, 224)), mask("blob", (224, 224))
    filled = neighbor_imputation(images.double(), visible)
    stencil = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]], dtype=torch.float64).view(1, 1, 3, 3)
    weight = F.conv2d(torch.ones(1, 1, 224, 224, dtype=torch.float64), stencil, padding=1)
    mean = F.conv2d(filled.transpose(0, 1), stencil, padding=1).transpose(0, 1) / weight
    assert worst(torch.where(visible, 0, filled), torch.where(visible, 0, mean)) <= 5e-7
    assert worst(neighbor_imputation(images, visible), filled) <= 1e-6, "float32 and float64 disagree"


@pytest.mark.parametrize("size", [(96, 130), (1, 301), (2, 200), (12, 20, 17)])
def test_steps_stay_few_whatever_the_mask(size, monkeypatch):
    """A multigrid that lost its coarse grids would still converge, only after hundreds of steps."""
    images = random_images(1, 1, size).double()
    for kind in MASKS:
        filled = []
        for steps in (10, 100):
            monkeypatch.setattr(neighbors, "MAX_STEPS", steps)
            filled.append(neighbor_imputation(images, mask(kind, size)))
        assert worst(*filled) <= 1e-6, f"{kind} mask needs more than ten steps"


# ------------------------------------------------------------------ what must hold exactly or by theory


@pytest.mark.parametrize("kind", ["random", "blob", "corner"])
def test_depth_one_gives_the_image(kind):
    images, visible = random_images(), mask(kind, SIZES[2]).expand(2, 1, *SIZES[2])
    flat = neighbor_imputation(images, visible)
    for axis in (2, 3, 4):
        volume = neighbor_imputation(images.unsqueeze(axis), visible.unsqueeze(axis)).squeeze(axis)
        assert worst(volume, flat) <= 1e-6, f"an axis of length 1 at {axis} changes the image"


@pytest.mark.parametrize("kind", MASKS)
def test_a_constant_stays_constant_at_any_level(kind):
    for level in (0.0, 0.3, -7.1):
        filled = neighbor_imputation(torch.full((1, 2, *SIZES[2]), level), mask(kind, SIZES[2]))
        assert torch.allclose(filled, torch.tensor(level), rtol=1e-6, atol=0), f"{level} became {filled.unique()}"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ramp_hidden_in_the_interior_is_reproduced(dims):
    gradients = (0.03, -0.02, 0.05)[:dims]
    axes = torch.meshgrid(*(torch.arange(float(side)) for side in SIZES[dims]), indexing="ij")
    ramp = sum(gradient * axis for gradient, axis in zip(gradients, axes, strict=True)).view(1, 1, *SIZES[dims])
    visible = mask("frame", SIZES[dims])
    assert visible.sum() < visible.numel() / 1.5 and not visible.all()
    assert worst(neighbor_imputation(torch.where(visible, ramp, 5.0), visible), ramp) <= 1e-6


@pytest.mark.parametrize("kind", MASKS)
def test_filled_values_stay_between_the_visible_ones(kind):
    images, visible = random_images(1, 3), mask(kind, SIZES[2])
    filled = neighbor_imputation(images, visible)
    for channel in range(3):
        shown = images[:, channel][visible[:, 0]]
        assert filled[:, channel].min() >= shown.min() - 1e-6, f"channel {channel} falls below the visible values"
        assert filled[:, channel].max() <= shown.max() + 1e-6, f"channel {channel} rises above the visible values"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_visible_pixels_and_the_dtype_are_kept(dtype):
    images, visible = (random_images() * 3 - 1).to(dtype), mask("blob", SIZES[2]).expand(2, 1, *SIZES[2])
    before = images.clone()
    filled = neighbor_imputation(images, visible)
    assert filled.dtype == dtype
    assert torch.equal(images, before), "the input was written to"
    shown = visible.expand_as(images)
    assert torch.equal(filled[shown], images[shown]), "a visible pixel changed"
    error = worst(filled, solved(images, visible))
    assert error <= max(3e-6, torch.finfo(dtype).eps), f"{dtype} is {error:.1e} off"


def test_what_is_hidden_has_no_influence():
    images, visible = random_images(), mask("blob", SIZES[2]).expand(2, 1, *SIZES[2])
    clean = neighbor_imputation(images, visible)
    for junk in (1e6, torch.inf, torch.nan):
        assert torch.equal(neighbor_imputation(torch.where(visible, images, junk), visible), clean), f"{junk} leaks"


def test_nothing_visible_gives_the_mean_of_each_channel():
    images = random_images()
    filled = neighbor_imputation(images, torch.zeros(2, 1, *SIZES[2], dtype=torch.bool))
    assert torch.allclose(filled, images.mean(dim=(2, 3), keepdim=True).expand_as(images), atol=1e-6)


def test_everything_visible_gives_the_image():
    images = random_images()
    assert torch.equal(neighbor_imputation(images, torch.ones(2, 1, *SIZES[2], dtype=torch.bool)), images)


def test_a_batch_equals_single_runs(monkeypatch):
    """Images that are solved at once, all hidden or all visible, next to some that take several steps."""
    size = (40, 33)
    visible = torch.cat([mask(kind, size) for kind in MASKS] + [torch.zeros(1, 1, *size), torch.ones(1, 1, *size)])
    visible = visible.bool()
    images = random_images(len(visible), size=size)
    images[3] *= 1e-4  # a different range
    singles = torch.cat([neighbor_imputation(images[i : i + 1], visible[i : i + 1]) for i in range(len(images))])
    for chunk in (2**19, 3 * images[0].numel()):
        monkeypatch.setattr(neighbors, "CHUNK", chunk)
        for index, name in enumerate([*MASKS, "nothing visible", "everything visible"]):
            error = worst(neighbor_imputation(images, visible)[index], singles[index])
            assert error <= 1e-6 * images[index].max(), f"{name} is {error:.1e} off in a batch"


def test_solved_pictures_stand_still_while_others_in_the_batch_go_on():
    """A constant is solved by the first guess; what rounding leaves of its residual must not be blown up."""
    images = random_images(3, 1, (120, 120))
    images[0], images[1] = 0.3, images[1] * 1e-6
    for kind in ("corner", "blob"):
        filled = neighbor_imputation(images, mask(kind, (120, 120)).expand(3, 1, 120, 120))
        assert worst(filled[0], images[0]) <= 1e-7, f"the constant drifts, {kind} mask"
        assert filled[1].min() >= 0 and filled[1].max() <= 1.000001e-6, f"the faint image drifts, {kind} mask"


def test_a_long_line_is_exact():
    """The worst conditioned case there is: a gap of one row, where rounding adds up along the whole of it."""
    for length in (60, 400):
        ramp = torch.linspace(0, 1, length).view(1, 1, 1, length)
        visible = torch.zeros(1, 1, 1, length, dtype=torch.bool)
        visible[..., [0, -1]] = True
        assert worst(neighbor_imputation(ramp, visible), ramp) <= 1e-6, f"{length} pixels"


def test_the_memory_layout_does_not_matter():
    images, visible = random_images(channels=3), mask("blob", SIZES[2]).expand(2, 1, *SIZES[2])
    plain = neighbor_imputation(images, visible)
    assert torch.equal(neighbor_imputation(images.to(memory_format=torch.channels_last), visible), plain)
    turned = neighbor_imputation(images.transpose(2, 3).unsqueeze(2), visible.transpose(2, 3).unsqueeze(2))
    assert worst(turned.squeeze(2).transpose(2, 3), plain) <= 1e-6


def test_gradients_are_not_asked_for():
    images = random_images().requires_grad_()
    assert not neighbor_imputation(images, mask("blob", SIZES[2]).expand(2, 1, *SIZES[2])).requires_grad
