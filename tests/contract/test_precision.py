"""Maps in mixed precision are those of float32 up to what 16 bits hold, for every explainer and both types."""

import pytest
import torch

from tests.contract import explainers as made

#: Least correlation of all maps with those in float32; measured on these networks: 0.960 and 0.985.
LEAST = {torch.bfloat16: 0.95, torch.float16: 0.98}


@pytest.mark.parametrize("precision", LEAST, ids=str)
@pytest.mark.parametrize(("name", "kind", "dims"), made.BRIEF, ids=["-".join(map(str, case)) for case in made.BRIEF])
def test_maps_in_mixed_precision_are_those_of_float32(name, kind, dims, precision):
    images = made.images_of(dims, 4)
    explainer = made.explainer_of(name, kind, dims)
    query = explainer.target.query(images, torch.tensor([[1, 2]] * 4))
    expected = explainer.explain(images, query.targets, query.regions)
    passes = []
    explainer.target.model.register_forward_hook(lambda *parts: passes.append(parts[2].dtype))
    with torch.autocast("cpu", precision):
        maps = explainer.explain(images, query.targets, query.regions)
    assert maps.dtype == torch.float32 and maps.isfinite().all()
    if passes and name != "captum_deep_lift":  # which divides by differences too small for 16 bits
        assert set(passes) == {precision}, "the model did not run in mixed precision"
    assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] >= LEAST[precision]
