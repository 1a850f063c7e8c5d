"""The YAMLs of other libraries' networks, with random weights: they are built, explained, loaded and refused.

A library that is not installed is skipped: ``make test-external`` installs them all.
"""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import OmegaConf, open_dict
from torch import nn

import train
from lightning_xai.cli.target_cache import make_target, target_module
from lightning_xai.explainers import CAM, CAPE, PCIM, RISE, CaptumExplainer, GradCAM
from lightning_xai.targets import Target
from lightning_xai.targets.layers.find import auto_layer
from lightning_xai.targets.sizes import names_of
from tests.helpers import assert_untouched, state_of
from tests.running import CONFIGS, bars_npz, tiny

SIDE = 64
SMALL_VIT = "hidden_size=16 num_hidden_layers=2 num_attention_heads=2 intermediate_size=32"
SMALL_SEGFORMER = "hidden_sizes=[8,8,16,16] depths=[1,1,1,1] num_attention_heads=[1,1,2,2] decoder_hidden_size=16"
#: The library, the task, and the words of the command line, by the name of the case.
NETWORKS = {
    "timm resnet": ("timm", "target=timm target.name=resnet10t"),
    "timm convnext": ("timm", "target=timm target.name=convnext_atto"),
    "timm swin": ("timm", "target=timm target.name=swin_tiny_patch4_window7_224 depths=[1,1,1,1]"),
    "timm vit": ("timm", "target=timm target.name=vit_tiny_patch16_224.augreg_in21k depth=2"),
    "torchvision resnet": ("torchvision", "target=torchvision target.name=resnet18"),
    "torchvision deeplab": ("torchvision", "target=torchvision_segmenter target.name=deeplabv3_mobilenet_v3_large"),
    "smp unet": ("segmentation_models_pytorch", "target=smp target.encoder=resnet18"),
    "smp fpn on timm": ("segmentation_models_pytorch", "target=smp target.name=fpn target.encoder=tu-resnet10t"),
    "hf vit": ("transformers", f"target=huggingface target.name=vit target.weights=null {SMALL_VIT}"),
    "hf segformer": (
        "transformers",
        f"target=huggingface_segmenter target.name=segformer target.weights=null {SMALL_SEGFORMER}",
    ),
    "torchxrayvision": ("torchxrayvision", "target=torchxrayvision block_config=[1,1,1,1]"),
}
#: One of each library.
LIBRARIES = ("timm resnet", "torchvision deeplab", "smp unet", "hf vit", "torchxrayvision")
each_network = pytest.mark.parametrize("case", NETWORKS)
#: What the published weights were trained with, in three channels or one.
PUBLISHED = {
    "timm resnet": (0.485, 0.229),
    "timm vit": (0.5, 0.5),
    "torchvision deeplab": (0.485, 0.229),
    "smp unet": (0.485, 0.229),
    "torchxrayvision": (0.5, 0.5 / 1024),
}
EXPLAINERS = {
    "GradCAM": lambda target: GradCAM(target),
    "RISE": lambda target: RISE(target, masks=8),
    "PCIM": lambda target: PCIM(target, steps=2),
    "Saliency": lambda target: CaptumExplainer(target, "Saliency"),
}


def words_of(case: str) -> list[str]:
    """The words of a case; options of the network alone are those without ``target``."""
    library, words = NETWORKS[case]
    needed(library)
    return [word if word.startswith("target") else f"+target.model.{word}" for word in words.split()]


def needed(library: str) -> None:
    """Skip the test where a library is not installed."""
    pytest.importorskip(library, reason=f"{library} is not installed: make test-external")


def configured(*words: str, channels: int = 1, dims: int = 2, classes: int = 3):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", list(words))
    info = {"channels": channels, "dims": dims, "size": [SIDE] * dims, "classes": classes}
    info |= {"class_names": list("abcdefgh")[:classes], "activation": "softmax", "fingerprint": "none"}
    with open_dict(cfg):
        cfg.data_info = info | {"mean": [0.4] * channels, "std": [0.3] * channels}
    return cfg


def made(*words: str, weights: str | None = None, **sizes: int) -> Target:
    """The target of a command line, in the state that its seed gives."""
    torch.manual_seed(0)
    return make_target(configured(*words, **sizes), weights)


def lived_in(target: Target) -> Target:
    """Move the weights away from where a network starts: some begin with zeros, through which no gradient goes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in target.model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return target


def images_of(channels: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def sentence(*words: str, **sizes: int) -> str:
    """How a target is refused."""
    with pytest.raises((ValueError, InstantiationException)) as refused:
        made(*words, **sizes)
    cause = refused.value.__cause__ if isinstance(refused.value, InstantiationException) else refused.value
    assert isinstance(cause, ValueError) and "\n" not in str(cause), "one sentence"
    return str(cause)


@each_network
@pytest.mark.parametrize("channels", [1, 3])
def test_it_gives_logits_of_the_datas_classes(case, channels):
    target = made(*words_of(case), channels=channels)
    shape = (2, 3, SIDE, SIDE) if target.dense else (2, 3)
    assert target.logits(images_of(channels)).shape == shape
    assert target.mean.tolist() == pytest.approx([0.4] * channels), "random weights: the data's"


def test_a_vision_transformer_of_torchvision_is_made_for_the_size_of_the_images():
    needed("torchvision")
    assert made("target=torchvision", "target.name=vit_b_32").logits(images_of(1)).shape == (2, 3)


@each_network
@pytest.mark.parametrize("name", EXPLAINERS)
def test_it_is_explained_and_left_as_it_was(case, name):
    target, images = lived_in(made(*words_of(case))), images_of(1)
    explainer = EXPLAINERS[name](target).eval()
    pixels = torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool) if target.dense else None
    target.logits(images)
    before = state_of(target)
    maps = explainer.explain(images, torch.tensor([1, 2]), pixels)
    assert maps.shape == (2, 1, SIDE, SIDE) and maps.isfinite().all()
    if name in ("GradCAM", "Saliency"):
        assert all(values.std() > 0 for values in maps), "no gradient arrives"
    assert_untouched(before, state_of(target))


@each_network
def test_its_weights_are_loaded_from_a_file(case, tmp_path):
    words, file = words_of(case), tmp_path / "weights.pt"
    first = lived_in(made(*words))
    torch.save(first.model.state_dict(), file)
    torch.manual_seed(5)
    cfg = configured(*words, f"target.weights={file}")
    second, images = make_target(cfg, str(file)), images_of(1)
    assert second.fingerprint() == first.fingerprint()
    if case in PUBLISHED:
        mean, std = ([PUBLISHED[case][number]] for number in range(2))
        if PUBLISHED[case] == (0.485, 0.229):  # of three channels, so each gets the average
            mean, std = [(0.485 + 0.456 + 0.406) / 3], [(0.229 + 0.224 + 0.225) / 3]
        assert second.mean.tolist() == pytest.approx(mean) and second.std.tolist() == pytest.approx(std)
    given = make_target(configured(*words, f"target.weights={file}", "target.mean=[0.4]", "target.std=[0.3]"), file)
    assert torch.allclose(given.logits(images), first.logits(images))


@pytest.mark.parametrize(
    ("library", "words", "near"),
    [
        ("timm", "target=timm target.name=resnet5", "no timm network 'resnet5'; did you mean 'resnet50'"),
        ("torchvision", "target=torchvision target.name=resnet5", "classifier 'resnet5'; did you mean 'resnet50'"),
        (
            "torchvision",
            "target=torchvision_segmenter target.name=resnet50",
            "no torchvision segmenter 'resnet50'; did you mean 'fcn_resnet50'",
        ),
        ("segmentation_models_pytorch", "target=smp target.name=u-net", "architecture 'u-net'; did you mean 'unet'"),
        ("segmentation_models_pytorch", "target=smp target.encoder=resnet35", "encoder 'resnet35'; did you mean"),
        ("torchxrayvision", "target=torchxrayvision target.name=densenet121", "'densenet121'; did you mean 'densenet"),
        ("transformers", "target=huggingface target.name=vit", "'vit' is a type of network, which has no weights"),
        (
            "transformers",
            "target=huggingface target.name=bert target.weights=null",
            "no AutoModelForImageClassification",
        ),
        (
            "transformers",
            "target=huggingface_segmenter target.name=vit target.weights=null",
            "no AutoModelForSemanticSegmentation of the type 'vit'; choose one that is made for this task",
        ),
        ("transformers", "target=huggingface target.name=./nowhere", "'./nowhere' is no folder with a config.json"),
    ],
)
def test_an_unknown_name_is_a_sentence(library, words, near):
    needed(library)
    assert near in sentence(*words.split())


@pytest.mark.parametrize("case", LIBRARIES)
def test_volumes_are_refused(case):
    assert "takes images of two axes, but the data have 3" in sentence(*words_of(case), dims=3)


@pytest.mark.parametrize("case", LIBRARIES)
@pytest.mark.parametrize("option", ["cache_dir=x", "trust_remote_code=true", "checkpoint_path=x"])
def test_options_that_bring_weights_or_code_are_refused(case, option):
    name = option.partition("=")[0]
    assert f"{name} is no option of a network here" in sentence(*words_of(case), f"+target.model.{option}")


# ------------------------------------------------------------------ published weights, put in place of the download


def test_timm_starts_from_published_weights_or_takes_the_network_as_it_is(monkeypatch):
    needed("timm")
    builder = importlib.import_module("timm.models._builder")
    asked = []
    monkeypatch.setattr(builder, "load_pretrained", lambda model, **settings: asked.append(settings["num_classes"]))
    words = ["target=timm", "target.name=vit_tiny_patch16_224.augreg_in21k", "+target.model.depth=1"]
    tuned = target_module(configured(*words, "target.pretrained=true", channels=3))
    assert asked == [3] and tuned.hparams["mean"] == [0.5] * 3
    whole = made(*words, "target.weights=builtin", "target.class_names=null", channels=3)
    assert asked == [3, 21843] and whole.num_classes == 21843 and whole.mean.tolist() == [0.5] * 3
    featureless = ["target=timm", "target.name=vit_small_patch14_dinov2.lvd142m", "+target.model.depth=1"]
    assert "tell no classes apart" in sentence(*featureless, "target.weights=builtin", channels=3)


def test_a_download_that_fails_is_a_sentence(monkeypatch):
    needed("timm")

    def fail(*_, **__):
        raise OSError("no route to the hub\nlong story")

    monkeypatch.setattr(importlib.import_module("timm.models._builder"), "load_pretrained", fail)
    words = sentence("target=timm", "target.name=resnet10t", "target.pretrained=true", channels=3)
    assert "published weights of 'resnet10t' cannot be loaded (no route to the hub)" in words


def test_torchvision_keeps_all_published_layers_but_the_last(monkeypatch):
    needed("torchvision")
    models = importlib.import_module("torchvision.models")
    published = lived_in(SimpleNamespace(model=models.resnet18(weights=None))).model.state_dict()
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: published)
    words = ["target=torchvision", "target.name=resnet18"]
    tuned = made(*words, "target.pretrained=true", channels=3)
    assert torch.equal(tuned.model.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert tuned.num_classes == 3 and tuned.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    whole = made(*words, "target.weights=builtin", "target.class_names=null", channels=3)
    assert torch.equal(whole.model.fc.weight, published["fc.weight"])
    assert names_of(whole.model)[0] == "tench" and names_of(tuned.model) is None
    for word in ("target.pretrained=true", "target.weights=builtin"):
        assert "take images of 3 channels, but the data have 1; data.channels=3" in sentence(*words, word)


def test_torchxrayvision_gives_logits_not_scaled_probabilities(monkeypatch, tmp_path):
    needed("torchxrayvision")
    models = importlib.import_module("torchxrayvision").models
    network = lived_in(SimpleNamespace(model=models.DenseNet(weights=None))).model.eval()
    torch.save(network, tmp_path / "network.pt")
    monkeypatch.setattr(models, "get_weights", lambda *_: str(tmp_path / "network.pt"))
    whole = made("target=torchxrayvision", "target.weights=builtin", "target.class_names=null")
    images = torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        assert torch.allclose(whole.logits(images), network(2048 * images - 1024), atol=1e-4)
    assert whole.num_classes == 18 and whole.activation == "sigmoid"
    assert names_of(whole.model)[0] == "Atelectasis"
    tuned = made("target=torchxrayvision", "target.pretrained=true")
    assert tuned.num_classes == 3
    assert torch.equal(tuned.model.features.conv0.weight, network.features.conv0.weight)


def test_a_folder_of_hugging_face_is_taken_as_it_is(tmp_path):
    words = words_of("hf vit")
    network = lived_in(made(*words, channels=3))
    network.model.save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    named = ["target=huggingface", f"target.name={tmp_path}"]
    whole = made(*named, channels=3)
    assert whole.fingerprint() == network.fingerprint() and whole.mean.tolist() == pytest.approx([0.1] * 3)
    tuned = target_module(configured(*named, "target.weights=null", "target.pretrained=true", classes=5, channels=3))
    assert tuned.model.config.num_labels == 5 and tuned.hparams["std"] == pytest.approx([0.2] * 3)
    assert torch.equal(tuned.model.vit.layernorm.weight, network.model.vit.layernorm.weight)
    assert "take images of 3 channels, but the data have 1" in sentence(*named, channels=1)
    other = sentence("target=huggingface_segmenter", f"target.name={tmp_path}", channels=3)
    assert "ViT" in other, other


def test_a_type_of_hugging_face_with_several_networks_is_built():
    words = f"target=huggingface target.name=deit target.weights=null {SMALL_VIT}".split()
    needed("transformers")
    words = [word if word.startswith("target") else f"+target.model.{word}" for word in words]
    assert made(*words, channels=3).logits(images_of(3)).shape == (2, 3)


CLASS_TOKENS = {"timm vit": "blocks.1.norm1", "hf vit": "vit.layers.1.layernorm_before"}


@pytest.mark.parametrize("case", CLASS_TOKENS)
def test_the_layer_of_a_class_token_is_the_last_blocks_norm(case):
    target, asked = lived_in(made(*words_of(case))), torch.tensor([[1], [2]])
    assert auto_layer(target, images_of(1), asked) == CLASS_TOKENS[case]
    with pytest.raises(ValueError, match="it reads a class token"):
        CAM(target).explain(images_of(1), asked)


def test_the_norm_behind_the_pooling_of_a_convnext_is_named():
    target = lived_in(made(*words_of("timm convnext")))
    with pytest.raises(ValueError, match=r"between them lies 'head\.norm' \(LayerNorm"):
        CAM(target).explain(images_of(1), torch.tensor([[1], [2]]))


def test_classes_of_hugging_face_in_another_order_are_noticed(tmp_path):
    network = made(*words_of("hf vit"), channels=3)
    network.model.config.id2label = {0: "B", 1: "a", 2: "c"}
    network.model.save_pretrained(tmp_path)
    named = ["target=huggingface", f"target.name={tmp_path}"]
    assert any(
        "another order (B, a, c; the data: a, b, c)" in said for said in made(*named, channels=3).check(images_of(3))
    )
    tuned = made(*named, "target.weights=null", "target.pretrained=true", channels=3)
    assert not any("order" in said for said in tuned.check(images_of(3))), "its classes are learned from the data"


def test_a_checkpoint_without_a_head_is_not_explained(tmp_path):
    network = made(*words_of("hf vit"), channels=3).model
    network.vit.save_pretrained(tmp_path)
    words = sentence("target=huggingface", f"target.name={tmp_path}", channels=3)
    assert "lacks 2 weights of ViTForImageClassification (classifier.bias, classifier.weight); is it for" in words


def test_a_folder_of_smp_is_taken_as_it_is(tmp_path):
    first = lived_in(made(*words_of("smp unet"), channels=3))
    first.model.save_pretrained(tmp_path)
    second = made("target=smp", f"target.name={tmp_path}", "target.weights=builtin", channels=3)
    assert second.fingerprint() == first.fingerprint() and second.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize("case", ["timm resnet", "hf vit", "torchxrayvision"])
def test_a_run_trains_and_explains_it(case, tmp_path):
    words = [*bars_npz(tmp_path / "bars.npz").split(), *words_of(case), "explainer=grad_cam", "data.size=32"]
    results = train.main(compose_run(tmp_path / "run", *words))
    assert 0 <= results["target/accuracy"] <= 1 and 0 <= results["test/deletion_auc"] <= 1
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert config.target.name and config.target.mean == "published"


def compose_run(folder, *words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", tiny(folder, *words))


def test_cape_finds_the_head_of_a_timm_network():
    target = lived_in(made(*words_of("timm resnet")))
    assert isinstance(target.model, nn.Module)
    assert CAPE(target).explain(images_of(1), torch.tensor([0, 1])).shape == (2, 1, SIDE, SIDE)
