"""task=global: the page, the numbers and the files that it leaves, for explainers that learn and others."""

import html
import json
import re

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

import train
from lightning_xai.cli.tasks import global_maps
from tests.running import CONFIGS, bars_npz, configure, tiny

FILES = ["maps.npz", "maps.png", "over_images.png", "peppr.png", "specificity.png"]
QUICK = ("task=global", "target_trainer.trainer.max_epochs=6", "global.random_orders=2", "global.samples=20")
TENTHS = "global.fractions=[0,0.25,0.5,0.75,1]"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def bars(shared):
    return [*bars_npz(shared / "bars.npz", counts=(48, 12, 16)).split(), *QUICK, TENTHS]


@pytest.fixture(scope="module")
def grad_cam(shared, bars):
    folder = shared / "grad_cam"
    return folder, train.main(configure(folder, *bars, "explainer=grad_cam"))


def test_it_leaves_a_page_numbers_maps_and_pictures(grad_cam):
    folder, result = grad_cam
    assert sorted(path.name for path in (folder / "global").iterdir()) == FILES
    kept = json.loads((folder / "global.json").read_text())
    assert {f"global/{name}": value for name, value in kept["peppr"]["summary"].items()} == {
        name: value for name, value in result.items() if name.startswith("global/")
    }
    assert kept["images"] == 12 and kept["peppr"]["images"] == 16, "maps of val, PEPPR on test"
    assert [row["count"] + row["skipped"] for row in kept["labels"].values()] == [6, 6]
    assert set(kept["peppr"]["per_label"]) == {"0", "1"} and kept["settings"]["maps_split"] == "val"
    for name, (low, high) in kept["peppr"]["intervals"].items():
        assert low <= high, name
    erase, restore = (kept["peppr"]["curves"][name] for name in ("erase_reversed", "restore"))
    assert [row[::-1] for row in erase] == restore, "restoring is erasing the least important"
    with np.load(folder / "global" / "maps.npz") as file:
        assert file["overall"].shape == (16, 16) and file["overall"].sum() == pytest.approx(1, abs=1e-5)


def test_the_page_needs_no_other_file(grad_cam):
    folder, _ = grad_cam
    text = (folder / "global.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', text)) == len(re.findall("<img", text)) == 4
    kept = json.loads((folder / "global.json").read_text())
    assert all(line.split(".")[0] in html.unescape(text) for line in kept["reading"])
    assert "our reconstruction" in text and not re.search(r"\bnan\b", re.sub('base64,[^"]*', "", text))


def test_a_model_that_reads_the_bars_relies_on_where_they_are(shared, bars):
    """The same pixels of all images: the rows of the bars are all there is to see."""
    folder = shared / "gradients"
    train.main(configure(folder, *bars, "explainer=captum_smoothgrad", "global.maps.reduction=median"))
    kept = json.loads((folder / "global.json").read_text())
    with np.load(folder / "global" / "maps.npz") as file:
        rows = file["overall"].sum(axis=1)
    assert rows[:3].sum() + rows[7:10].sum() > 0.7, rows
    numbers = kept["peppr"]["summary"]
    assert numbers["area_erase"] < numbers["area_random"] and numbers["sufficient"] <= 0.5
    assert len(kept["biases"]) == 2 and all(len(bias["images"]) == 6 for bias in kept["biases"])


@pytest.mark.parametrize("explainer", ["amortized_pcim", "cape"])
def test_an_explainer_that_learns_is_fitted_and_its_checkpoint_is_enough(shared, bars, explainer):
    folder = shared / explainer
    first = train.main(configure(folder, *bars, f"explainer={explainer}"))
    again = shared / f"{explainer}_again"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    second = train.main(configure(again, *bars, f"explainer={explainer}", f"ckpt_path={checkpoint}"))
    assert second == first and not (again / "checkpoints").exists()


def test_the_outputs_of_an_earlier_run_are_used_again(shared, bars, grad_cam, monkeypatch):
    folder, first = grad_cam
    files = set((shared / "targets" / "peppr").rglob("*.npy"))
    monkeypatch.setattr(
        "lightning_xai.global_maps.progressive.outputs_of_images", lambda *_: pytest.fail("a step ran again")
    )
    assert train.main(configure(folder, *bars, "explainer=grad_cam")) == first
    assert set((shared / "targets" / "peppr").rglob("*.npy")) == files
    assert (folder / "earlier").is_dir(), "the first results were moved aside"


def test_a_region_can_be_a_file(shared, bars):
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 12:] = 1
    Image.fromarray(mask).save(shared / "region.png")
    folder = shared / "region"
    train.main(configure(folder, *bars, "explainer=center_prior", f"global.region={shared / 'region.png'}"))
    biases = json.loads((folder / "global.json").read_text())["biases"]
    assert all(bias["found"] and bias["chance"] == 0.75 and len(bias["images"]) == 6 for bias in biases)


def test_retraining_fits_a_model_for_every_step(shared, bars, monkeypatch):
    fitted = []
    fit = global_maps.fit_target

    def noted(module, trainer, data):
        fitted.append(trainer)
        return fit(module, trainer, data)

    monkeypatch.setattr("lightning_xai.cli.tasks.global_maps.fit_target", noted)
    one = ("global.fractions=[0,0.5,1]", "global.random_orders=1", "target_trainer.trainer.max_epochs=1")
    folder = shared / "retrained"
    result = train.main(configure(folder, *bars, *one, "explainer=center_prior", "global.retrain=true"))
    # Half erased and half restored, of which the center prior's are also those of the labels; a random half; nothing.
    assert len(fitted) == len({id(trainer) for trainer in fitted}) >= 4
    assert 0 <= result["global/area_erase"] <= 1
    assert "information in the pixels" in (folder / "global.html").read_text()


def test_a_segmenter_is_judged_by_its_dice(shared):
    folder = shared / "segmenter"
    words = [*bars_npz(shared / "masks.npz").split(), "data.mask_classes=[background,bar]", "target=unet_unoise"]
    words += ["target.model.depth=2", "target.model.width=8", "target_trainer=segmenter", "explainer=hires_cam"]
    words = [word for word in tiny(folder, *words, *QUICK, TENTHS) if "widths" not in word]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        train.main(compose("train", [*words, "target_trainer.trainer.max_epochs=30"]))
    kept = json.loads((folder / "global.json").read_text())
    assert kept["peppr"]["metric"] == "dice" and list(kept["peppr"]["per_label"]) == ["bar"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["global.peppr_split=val"], "must be judged on other images"),
        (["global.maps_split=fit"], "names the split 'fit'"),
        (["global.fill=white"], "Unknown fill 'white'"),
        (["global.maps.subset=some"], "was given 'some'"),
    ],
)
def test_wrong_settings_are_one_sentence(shared, bars, words, message):
    with pytest.raises(ValueError, match=message):
        train.main(configure(shared / "wrong", *bars, "explainer=center_prior", *words))


def test_maps_that_are_all_zero_are_an_error(shared, bars, monkeypatch):
    def nothing(self, images, query):
        return torch.zeros(*query.shape, *images.shape[2:])

    monkeypatch.setattr("lightning_xai.explainers.CenterPrior.attribute", nothing)
    with pytest.raises(ValueError, match="No image of the val split gave a map"):
        train.main(configure(shared / "zero", *bars, "explainer=center_prior"))
