# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""An operating point through anomalib's doors: trained, stored, moved, tested, exported, and with another model."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.deploy import TorchInferencer
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from lightning.pytorch import seed_everything

from destseg_anomalib import DemoSurfaces, DeSTSeg, OperatingPoint
from destseg_anomalib.deployment.stored_point import restore_point
from destseg_anomalib.metrics.verdict_table import VerdictTable
from tests.integration.conftest import STEPS, TINY, Bench, expect

pytest.importorskip("onnxscript")
onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")

# Three good parts and three defects are held out.
FIRST, OTHER = {"false_alarms": 0.3}, {"instance_recall": 0.6}


def trained(bench: Bench, **promise: float) -> tuple[DeSTSeg, Path]:
    seed_everything(0, verbose=False)
    model = DeSTSeg(**TINY, **STEPS, post_processor=OperatingPoint(**promise))
    engine = bench.engine()
    engine.fit(model, datamodule=bench.data())
    return model, Path(engine.best_model_path)


def judged(bench: Bench, model: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    batches = bench.engine().predict(model, data_path=bench.parts / "test", **kwargs)
    names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def given(**promise: float) -> DeSTSeg:
    return DeSTSeg(post_processor=OperatingPoint(**promise))


def test_a_point_moved_beside_a_checkpoint_is_that_of_a_training_that_had_it_bit_for_bit(
    bench: Bench, monkeypatch, caplog
) -> None:
    _, path = trained(bench, **FIRST)
    direct, _ = trained(bench, **OTHER)
    expected = judged(bench, direct)
    with caplog.at_level(logging.WARNING):
        assert_equal(judged(bench, given(**OTHER), ckpt_path=path), expected)
        loaded = DeSTSeg.load_from_checkpoint(path, post_processor=OperatingPoint(**OTHER))
        assert_equal(judged(bench, loaded), expected)
    assert "post_processor" not in caplog.text
    figures = [
        bench.engine().test(model, datamodule=bench.data(), ckpt_path=checkpoint, verbose=False)
        for model, checkpoint in ((given(**OTHER), path), (direct, None))
    ]
    assert figures[0] == figures[1]
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    exported = bench.engine().export(given(**OTHER), "torch", export_root=bench.folder, ckpt_path=path)
    judge = TorchInferencer(exported, device="cpu").model.post_processor
    assert judge.promise.instance_recall == OTHER["instance_recall"]
    assert torch.equal(judge.pixel_threshold, direct.post_processor.pixel_threshold)


def test_the_checkpoint_brings_its_point_to_a_model_that_was_given_none(bench: Bench, monkeypatch) -> None:
    model, path = trained(bench, **FIRST, min_area=2)
    expected = judged(bench, model)
    plain = DeSTSeg()
    assert_equal(judged(bench, plain, ckpt_path=path), expected)
    assert plain.post_processor.checkpoint_config() == {"instance_recall": None, "min_area": 2} | FIRST
    assert_equal(judged(bench, DeSTSeg.load_from_checkpoint(path)), expected)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    exported = bench.engine().export(DeSTSeg(), "torch", export_root=bench.folder, ckpt_path=path)
    assert TorchInferencer(exported, device="cpu").model.post_processor.checkpoint_config()["min_area"] == 2


def test_a_training_goes_on_with_the_point_that_is_given_or_stored(bench: Bench) -> None:
    _, path = trained(bench, **FIRST)
    steps = {"student_steps": 1, "segmentation_steps": 2}
    for post_processor, promise in ((True, FIRST), (OperatingPoint(**OTHER), OTHER)):
        model = DeSTSeg(**TINY, **steps, post_processor=post_processor)
        bench.engine().fit(model, datamodule=bench.data(), ckpt_path=path)
        config = model.post_processor.checkpoint_config()
        assert {name: value for name, value in config.items() if value is not None} == promise | {"min_area": 1}
        assert model.post_processor.learned.scores_of_good_parts.numel() == 3


def test_what_cannot_be_promised_is_said_before_the_training_and_beside_a_checkpoint(bench: Bench) -> None:
    few = "^false_alarms=0.1 cannot be promised from 3 good parts in the validation: hold out 9 or more, or set .*0.25 "
    expect(few, lambda: bench.train(post_processor=OperatingPoint(false_alarms=0.1)))
    unseen = "^The operating point has not been set, since no validation has shown its OperatingPoint any image: "
    expect(unseen, lambda: judged(bench, given(false_alarms=0.3), ckpt_path=bench.checkpoint))
    export = {"export_root": bench.folder, "ckpt_path": bench.checkpoint}
    model = DeSTSeg.load_from_checkpoint(bench.checkpoint, post_processor=OperatingPoint(false_alarms=0.3))
    expect(unseen, lambda: bench.engine().export(model, "onnx", export_root=bench.folder))
    assert bench.engine().export(given(false_alarms=0.3), "torch", **export)  # its point is anomalib's, as stored
    _, path = trained(bench, **FIRST)
    expect(few, lambda: judged(bench, given(false_alarms=0.1), ckpt_path=path))
    expect(few, lambda: bench.engine().export(given(false_alarms=0.1), "onnx", **(export | {"ckpt_path": path})))


def test_a_validation_alone_sets_the_point_of_a_model_that_had_none(bench: Bench) -> None:
    model, engine = given(**OTHER), bench.engine()
    engine.validate(model, datamodule=bench.data(), ckpt_path=bench.checkpoint, verbose=False)
    assert judged(bench, model)["pred_mask"].any()


DATA = """
    --data Folder --data.name parts --data.root {} --data.normal_dir train/good --data.normal_test_dir test/good
    --data.abnormal_dir test/hole --data.mask_dir ground_truth/hole --data.num_workers 0 --data.train_batch_size 4
    --data.val_split_mode same_as_test
"""
PADIM = """
model:
  class_path: Padim
  init_args:
    backbone: resnet18
    layers: [layer1]
    pre_trained: false
    n_features: 8
    post_processor:
      class_path: destseg_anomalib.OperatingPoint
      init_args:
        false_alarms: 0.25
"""
POINT = "--model.post_processor destseg_anomalib.OperatingPoint --model.post_processor"


def command(bench: Bench, line: str) -> Any:
    trainer = "--trainer.accelerator cpu --trainer.devices 1" if not line.startswith("export") else ""
    return AnomalibCLI([*line.split(), *trainer.split(), "--default_root_dir", str(bench.folder / "results")])


def test_a_bundled_model_has_it_from_yaml_and_a_command_moves_it(bench: Bench, monkeypatch, capsys) -> None:
    monkeypatch.chdir(bench.folder)
    (bench.folder / "padim.yaml").write_text(PADIM)
    arguments = "--config padim.yaml" + DATA.format(bench.parts)
    command(bench, f"train {arguments}")
    [path] = bench.folder.rglob("model.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    good, threshold = (state[f"post_processor.{name}"] for name in ("learned.scores_of_good_parts", "_pixel_threshold"))
    assert threshold == torch.nextafter(good[-1], good.new_tensor(torch.inf))
    capsys.readouterr()
    moved = command(bench, f"test {arguments} --model.post_processor.false_alarms 0.5 --ckpt_path {path}")
    assert "alarms on good parts" in capsys.readouterr().out
    [said] = bench.folder.rglob("operating_point.json")
    point = json.loads(said.read_text())
    assert point["promise"]["false_alarms"] == 0.5
    assert point["alarms_on_good_parts"]["count"] <= 2  # of three, which have set the point
    assert point["defects_found"]["of"] == 3
    assert not any(isinstance(callback, VerdictTable) for callback in moved.engine.trainer.callbacks)
    assert moved.model.post_processor.pixel_threshold == torch.nextafter(good[1], good.new_tensor(torch.inf))
    loaded = Padim.load_from_checkpoint(path, post_processor=OperatingPoint(false_alarms=0.5))
    assert torch.equal(loaded.post_processor.pixel_threshold, moved.model.post_processor.pixel_threshold)
    with pytest.raises(RuntimeError, match="scores_of_good_parts"):  # and not without its point
        Padim.load_from_checkpoint(path)
    command(bench, f"predict --config padim.yaml --data {bench.parts / 'test'} --ckpt_path {path}")
    [pictures] = bench.folder.glob("**/Padim/**/predictions/v0/predictions.csv")
    assert set(pd.read_csv(pictures)["picture"]) == set(map(str, (bench.parts / "test").rglob("*.png")))


def test_our_models_leave_lists_and_outlines_without_a_promise(bench: Bench) -> None:
    batches = bench.predict(bench.parts / "test")
    [folder] = bench.folder.glob("**/predictions/v0")
    pictures, defects = (pd.read_csv(folder / name) for name in ("predictions.csv", "defects.csv"))
    labels = [bool(batch.pred_label) for batch in batches]
    assert (pictures["verdict"] == "bad").tolist() == labels
    assert pictures["defects"].sum() == len(defects)
    assert len(list((folder / "images").rglob("*.png"))) == len(pictures) == len(labels)
    assert bench.model.visualizer.overlay_fields[0] == ("image", ["anomaly_map", "pred_mask"])


def test_commands_set_and_move_the_point_of_our_models_to_the_exported_file(bench: Bench, monkeypatch) -> None:
    monkeypatch.chdir(bench.folder)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = "--model DeSTSeg --model.backbone test_resnet --model.pre_trained false --model.image_size [32,32]"
    steps = "--model.student_steps 1 --model.segmentation_steps 1"
    command(bench, f"train {model} {steps} {POINT}.false_alarms 0.25 {DATA.format(bench.parts)}")
    [path] = bench.folder.rglob("model.ckpt")
    good = torch.load(path, weights_only=True)["state_dict"]["post_processor.learned.scores_of_good_parts"]
    command(bench, f"export --model DeSTSeg {POINT}.false_alarms 0.5 --export_type torch --ckpt_path {path}")
    [exported] = bench.folder.rglob("model.pt")
    threshold = TorchInferencer(exported, device="cpu").model.post_processor.pixel_threshold
    assert threshold == torch.nextafter(good[1], good.new_tensor(torch.inf))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoSurfaces, Path, Path]:
    """The demo's pictures, and a checkpoint of a model that has seen them for a moment."""
    folder = tmp_path_factory.mktemp("demo")
    bench = Bench(folder, folder, DeSTSeg(), folder)
    data = DemoSurfaces(train_batch_size=4)
    seed_everything(0, verbose=False)
    model = DeSTSeg(**TINY, **STEPS, post_processor=OperatingPoint(false_alarms=0.1), visualizer=False)
    engine = bench.engine()
    engine.fit(model, datamodule=data)
    return data, Path(engine.best_model_path), folder


def test_verdicts_of_exported_files_are_the_engines_where_the_point_was_moved_as_well(demo, monkeypatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    promise = {"false_alarms": 0.5}  # trained with 0.1
    data, path, folder = demo
    bench = Bench(folder, folder, DeSTSeg(), path)
    data.setup()
    batches = bench.engine().predict(given(**promise), dataset=data.test_data, ckpt_path=path)
    names = ("pred_score", "pred_label", "pred_mask")
    score, label, mask = (torch.cat([getattr(batch, name) for batch in batches]) for name in names)
    assert 0 < label.sum() < len(label) == 60
    # The point of a validation on the same pictures is the score of one of them, which another order of sums moves.
    clear = (score - 0.5).abs() > 1e-4
    assert clear.sum() >= 58
    export = {"export_root": folder, "ckpt_path": path}
    onnx, torch_file = (bench.engine().export(given(**promise), kind, **export) for kind in ("onnx", "torch"))
    for run in (run_onnx(onnx), run_openvino(onnx), run_torch(torch_file)):
        answers = [run(item.image[None].numpy()) for item in data.test_data]
        labels = torch.tensor([answer["pred_label"].item() for answer in answers])
        assert torch.equal(labels[clear], label[clear])
        for answer in answers:
            verdict = answer["pred_label"].item()
            assert verdict == (answer["pred_score"].item() >= 0.5) == bool(answer["pred_mask"].any())
        masks = torch.from_numpy(np.concatenate([answer["pred_mask"] for answer in answers])).view_as(mask)
        assert (masks != mask).float().mean() < 1e-3


Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def run_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"input": images}), strict=True))


def run_openvino(path: Path) -> Run:
    """As anomalib makes an OpenVINO file: from the ONNX file."""
    # Where the processor can, OpenVINO computes in bfloat16 unless told otherwise.
    compiled = openvino.Core().compile_model(openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {output.get_any_name(): value for output, value in compiled(images).items()}


def run_torch(path: Path) -> Run:
    inferencer, names = TorchInferencer(path, device="cpu"), ("pred_score", "pred_label", "pred_mask")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        answer = inferencer.predict(torch.from_numpy(images))
        return {name: getattr(answer, name).numpy() for name in names}

    return run


def test_a_post_processor_that_was_given_gives_way_to_the_checkpoints_point_with_a_warning(caplog) -> None:
    stored = OperatingPoint(**FIRST).checkpoint_config()
    for given, warnings in ((PostProcessor(), 0), (PostProcessor(image_sensitivity=0.8), 1)):
        model = DeSTSeg(**TINY, post_processor=given)
        restore_point(model, stored)
        assert model.post_processor.checkpoint_config() == stored
        assert caplog.text.count("and not the PostProcessor that was given beside it") == warnings
