# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""DeSTSeg trained, tested, stored, loaded and exported by anomalib's engine, on a small folder of parts."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback, seed_everything
from sklearn.metrics import average_precision_score, roc_auc_score

from destseg_anomalib import DeSTSeg, RoundedBilinearResize
from destseg_anomalib.deployment.inference import inference_copy
from destseg_anomalib.metrics import instance_average_precision, precision_at_instance_recall
from destseg_anomalib.models.teacher import Teacher
from destseg_anomalib.training.preparation import resolve_rotation
from tests.conftest import make_part_data, make_part_folder, quiet_engine
from tests.integration.conftest import TINY

SMALL = TINY | {"image_size": (64, 64)}


class Recorder(Callback):
    """Keeps the loss of every step and, where asked, the state of the model after each."""

    def __init__(self, *, keep_states: bool) -> None:
        self.keep_states = keep_states
        self.losses: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"].item())
        if self.keep_states:
            self.states.append({k: v.clone() for k, v in pl_module.model.state_dict().items()})


def fit(
    folder: Path,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int = 4,
    trainer: dict | None = None,
    keep_states: bool = False,
    **kwargs: Any,
):
    seed_everything(seed, verbose=False)
    model = DeSTSeg(**(SMALL | {"student_steps": 2, "segmentation_steps": 2} | kwargs))
    recorder = Recorder(keep_states=keep_states)
    engine = quiet_engine(out, callbacks=[recorder], **(trainer or {}))
    engine.fit(model, datamodule=make_part_data(folder, batch_size))
    return engine, model, recorder


def differing(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the networks in which any parameter or buffer changed."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_each_phase_changes_its_network_and_no_bit_of_the_others(part_folder, tmp_path) -> None:
    engine, model, recorder = fit(part_folder, tmp_path, student_steps=2, segmentation_steps=3, keep_states=True)
    assert len(recorder.states) == engine.trainer.global_step == 5
    steps = [differing(*pair) for pair in zip(recorder.states, recorder.states[1:], strict=False)]
    assert steps == [{"student"}, {"segmentation"}, {"segmentation"}, {"segmentation"}]
    assert differing(recorder.states[-1], model.model.state_dict()) == {"segmentation"}  # left as it was on average


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(part_folder, tmp_path) -> None:
    steps = {"student_steps": 10, "segmentation_steps": 10, "image_size": (32, 32)}
    runs = [fit(part_folder, tmp_path / str(i), seed=s, **steps)[2].losses for i, s in enumerate((5, 5, 6))]
    assert len(runs[0]) == 20
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_the_cache_changes_no_loss(part_folder, tmp_path) -> None:
    runs = [fit(part_folder, tmp_path / str(c), cache_images=c)[2].losses for c in (True, False)]
    assert runs[0] == runs[1]


def test_devices_and_steps_draw_different_anomalies() -> None:
    model = DeSTSeg(**SMALL)
    model.seed = 3

    def first_draw(rank: int, batch: int) -> float:
        model._trainer = SimpleNamespace(global_rank=rank, fit_loop=SimpleNamespace(total_batch_idx=batch))
        return torch.rand(1, generator=model._step_generator()).item()

    assert len({first_draw(0, 0), first_draw(1, 0), first_draw(0, 1), first_draw(1, 1)}) == 4
    assert first_draw(1, 1) == first_draw(1, 1)


def test_the_student_step_per_image_does_not_depend_on_the_batch_size(part_folder, tmp_path) -> None:
    """The published rate belongs to a sum over 32 images: 4 images count eight times, 2 images sixteen times."""
    network = {"backbone": "resnet18", "encoder_decoder": True, "segmentation": False, "student_steps": 1}
    losses = {n: fit(part_folder, tmp_path / str(n), batch_size=n, **network)[2].losses[0] for n in (2, 4)}
    # A student that starts at random is about orthogonal to the teacher at three levels: 3 an image, 96 for 32.
    assert losses[2] == pytest.approx(losses[4], rel=0.2)
    assert 40 < losses[4] < 100


@pytest.mark.parametrize("trainer", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_it_trains_in_bfloat16_and_with_accumulation(part_folder, tmp_path, trainer) -> None:
    engine, _, recorder = fit(part_folder, tmp_path, trainer=trainer)
    assert engine.trainer.global_step == 4
    assert len(recorder.losses) == 4 * trainer.get("accumulate_grad_batches", 1)
    assert np.isfinite(recorder.losses).all()
    assert Path(engine.best_model_path).is_file()


@pytest.mark.parametrize("switch", [{"segmentation": False}, {"denoising": False}, {"encoder_decoder": False}])
def test_the_switches_train_through_the_engine(part_folder, tmp_path, switch) -> None:
    engine, _, _ = fit(part_folder, tmp_path, **({"encoder_decoder": True} | switch))
    assert engine.trainer.global_step == (2 if "segmentation" in switch else 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training whose results several tests look at: engine, model, data and the figures of a test after the fit."""
    root = tmp_path_factory.mktemp("trained")
    folder = make_part_folder(root)
    engine, model, _ = fit(folder, root / "results", student_steps=6, segmentation_steps=6)
    figures = engine.test(model, datamodule=make_part_data(folder))[0]
    yield SimpleNamespace(engine=engine, model=model, folder=folder, figures=figures, root=root)
    shutil.rmtree(root)


def test_the_checkpoint_has_the_final_weights_and_thresholds_and_no_code(trained) -> None:
    checkpoint = torch.load(trained.engine.best_model_path, weights_only=True)
    assert checkpoint["global_step"] == 12
    assert all(torch.equal(v, checkpoint["state_dict"][k]) for k, v in trained.model.state_dict().items())
    assert torch.isfinite(checkpoint["state_dict"]["post_processor._pixel_threshold"])


def test_a_test_from_the_checkpoint_and_figures_computed_offline_agree(trained) -> None:
    other = DeSTSeg(**(SMALL | {"image_size": (32, 32)}))  # as a user who forgot the size on the command line
    engine = Engine(default_root_dir=trained.root / "again", accelerator="cpu", devices=1, logger=False)
    again = engine.test(other, datamodule=make_part_data(trained.folder), ckpt_path=trained.engine.best_model_path)[0]
    assert again == pytest.approx(trained.figures, abs=1e-6)

    data = make_part_data(trained.folder)
    data.setup()
    data.test_data.augmentations = RoundedBilinearResize((64, 64))
    batch = data.test_data.collate_fn([data.test_data[i] for i in range(len(data.test_data))])
    with torch.no_grad():
        prediction = inference_copy(trained.model.model)(batch.image)  # what a test asks
    maps, masks = prediction.anomaly_map[:, 0], batch.gt_mask
    offline = {
        "image_AUROC": roc_auc_score(batch.gt_label, prediction.pred_score),
        "pixel_AUROC": roc_auc_score(masks.flatten(), maps.flatten()),
        "pixel_AP": average_precision_score(masks.flatten(), maps.flatten()),
        "IAP": float(instance_average_precision(maps, masks)),
        "IAP@90": float(precision_at_instance_recall(maps, masks, recall=0.9)),
    }
    assert offline == pytest.approx({k: trained.figures[k] for k in offline}, abs=1e-6)
    assert {"pixel_AUPRO", "pixel_F1Score", "image_F1Score"} <= set(trained.figures)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"backbone": "resnet34"}, "began with backbone='resnet34'.*pass --model.backbone resnet34"),
        ({"segmentation_input": "cosine"}, "began with segmentation_input='cosine'"),
        ({"backbone": None}, "not one of DeSTSeg"),
    ],
)
def test_a_training_of_another_architecture_does_not_go_on(trained, tmp_path, change, sentence) -> None:
    checkpoint = torch.load(trained.engine.best_model_path, weights_only=True)
    for name, value in change.items():
        if value is None:
            del checkpoint["hyper_parameters"][name]
        else:
            checkpoint["hyper_parameters"][name] = value
    torch.save(checkpoint, tmp_path / "other.ckpt")
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(ValueError, match=sentence):
        engine.fit(DeSTSeg(**SMALL), datamodule=make_part_data(trained.folder), ckpt_path=tmp_path / "other.ckpt")


def test_a_loaded_model_has_its_transform_and_asks_for_no_weights(trained, monkeypatch) -> None:
    monkeypatch.setattr(Teacher, "load_pretrained", lambda *_: pytest.fail("weights were fetched for a checkpoint"))
    loaded = DeSTSeg.load_from_checkpoint(trained.engine.best_model_path)
    assert type(loaded.pre_processor.transform) is RoundedBilinearResize
    assert tuple(loaded.pre_processor.transform.size) == (64, 64)
    image = torch.rand(1, 3, 100, 120)
    expected, actual = (m.eval()(image) for m in (trained.model, loaded))
    assert torch.equal(expected.anomaly_map, actual.anomaly_map)


def test_an_exported_model_sees_the_same_pixels(trained) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = trained.model.to_onnx(trained.root / "export")
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    for image in (torch.rand(1, 3, 100, 150), torch.rand(4, 3, 70, 64)):
        with torch.no_grad():
            expected = trained.model.eval()(image)
        actual = dict(zip(names, session.run(None, {"input": image.numpy()}), strict=True))
        # The post-processor stretches the small range of a model that has hardly learned: compare before stretching.
        post = trained.model.post_processor
        for name, low, high in (
            ("anomaly_map", post.pixel_min, post.pixel_max),
            ("pred_score", post.image_min, post.image_max),
        ):
            difference = np.abs(actual[name] - getattr(expected, name).numpy()).max()
            assert difference * (high - low).item() < 1e-5


def test_heat_maps_are_left_beside_the_results(trained) -> None:
    assert len(list(trained.root.rglob("images/**/*.png"))) >= 6


def test_the_rotation_of_an_mvtec_category_is_looked_up() -> None:
    assert resolve_rotation("auto", MVTecAD(category="bottle")) == "full"
    assert resolve_rotation("auto", MVTecAD(category="zipper")) == "slight"
    assert resolve_rotation("auto", SimpleNamespace(category="bottle")) == "none"
    assert resolve_rotation("slight", MVTecAD(category="bottle")) == "slight"


def test_one_optimiser_has_the_published_groups() -> None:
    optimiser = DeSTSeg("resnet18", pre_trained=False).configure_optimizers()
    assert [g["lr"] for g in optimiser.param_groups] == [0.4, 0.1, 0.01]
    assert {(g["momentum"], g["weight_decay"]) for g in optimiser.param_groups} == {(0.9, 1e-4)}
    counts = [sum(p.numel() for p in g["params"]) for g in optimiser.param_groups]
    assert counts == [24_665_024, 2_918_912, 4_787_457]


def test_a_batch_of_one_image_is_refused(part_folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="train_batch_size=1 cannot train"):
        fit(part_folder, tmp_path, batch_size=1)
    data = make_part_data(part_folder, batch_size=1)
    data.setup()
    data.train_data.augmentations = RoundedBilinearResize((64, 64))
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False)
    with pytest.raises(ValueError, match="batch of 1 image cannot"):
        engine.fit(DeSTSeg(**SMALL), train_dataloaders=data.train_dataloader())


def test_a_number_of_steps_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="segmentation_steps=0 must be at least 1"):
        DeSTSeg(**SMALL, segmentation_steps=0)
