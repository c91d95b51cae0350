# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Metrics of the user's choice beside the evaluator's own: those that rank see raw values, the others do not."""

from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.metrics import AUPIMO, AUPR, AUROC, PRO, F1Max, F1Score
from brightness import Brightness, BrightnessModel, engine, parts
from sklearn.metrics import roc_auc_score

from destseg_anomalib.metrics import IAP, IAPAtRecall, RawMapEvaluator

PIXELS = {"fields": ["anomaly_map", "gt_mask"]}
IMAGES = {"fields": ["pred_score", "gt_label"]}


def run(folder: Path, model: Brightness, learn: bool = True) -> dict[str, float]:
    runner = engine(folder / "results")
    if learn:
        runner.validate(model, datamodule=parts(folder / "parts"))
    return runner.test(model, datamodule=parts(folder / "parts"))[0]


def with_metrics(*metrics: object, **components: object) -> Brightness:
    return Brightness(evaluator=RawMapEvaluator(test_metrics=metrics), visualizer=False, **components)


class Whitened(BrightnessModel):
    """Maps and scores around zero, where some batches have values outside [0, 1] and others have not."""

    def forward(self, images: torch.Tensor):
        result = super().forward(images)
        return result._replace(anomaly_map=result.anomaly_map - 14.5, pred_score=result.pred_score - 14.5)


def test_metrics_that_rank_see_the_raw_map_and_agree_with_the_evaluators_own_figures(tmp_path, part_folder) -> None:
    figures = run(
        tmp_path,
        with_metrics(
            AUROC(**PIXELS, prefix="further_pixel_"),
            AUROC(**IMAGES, prefix="further_image_"),
            AUPR(**PIXELS, prefix="further_pixel_"),
            F1Max(**PIXELS, prefix="further_pixel_"),
            IAP(prefix="further_"),
            IAPAtRecall(recall=0.9, prefix="further_"),
        ),
    )
    for further, own in (
        ("further_pixel_AUROC", "pixel_AUROC"),
        ("further_image_AUROC", "image_AUROC"),
        ("further_pixel_AUPR", "pixel_AP"),
        ("further_pixel_F1Max", "pixel_F1Max"),
        ("further_IAP", "IAP"),
        ("further_IAP@90", "IAP@90"),
    ):
        assert figures[further] == pytest.approx(figures[own], abs=1e-5), further


def test_values_outside_the_unit_interval_are_not_taken_for_logits(tmp_path, part_folder) -> None:
    model = with_metrics(AUROC(**PIXELS, prefix="further_"))
    model.model = Whitened()
    figures = run(tmp_path, model)
    assert figures["further_AUROC"] == pytest.approx(figures["pixel_AUROC"], abs=1e-6)


def test_aupimo_beside_the_evaluators_figures_is_that_of_the_raw_maps(tmp_path, part_folder) -> None:
    options = {"num_thresholds": 2000, "fpr_bounds": (1e-3, 0.5), "force": True}
    figures = run(tmp_path, with_metrics(AUPIMO(**options)))
    data, alone, transform = parts(part_folder), AUPIMO(**options), Brightness().pre_processor.transform
    data.setup()
    for item in (data.test_data[index] for index in range(len(data.test_data))):
        raw = BrightnessModel()(transform(item.image)[None]).anomaly_map
        alone.anomaly_maps.append(raw[:, 0])
        alone.masks.append(transform(item.gt_mask)[None].bool())
    assert figures["AUPIMO"] == pytest.approx(alone.compute().item(), abs=1e-6)
    assert {"IAP", "pixel_AP", "image_AUROC"} < figures.keys()


def test_metrics_with_a_threshold_see_values_at_which_one_half_is_the_models_own(tmp_path, part_folder) -> None:
    at_half = F1Score(**IMAGES, prefix="half_"), F1Score(**PIXELS, prefix="half_pixel_")
    figures = run(tmp_path, with_metrics(*at_half, PRO(**PIXELS), AUROC(**IMAGES, thresholds=50)))
    assert figures["half_F1Score"] == figures["image_F1Score"] > 0
    assert figures["half_pixel_F1Score"] == figures["pixel_F1Score"] > 0
    assert 0 < figures["PRO"] < 1  # at 0.5 of the raw map, which is about 15 everywhere, it would be 1


def test_a_metric_without_its_fields_is_left_out_or_named_as_anomalib_does(tmp_path, part_folder) -> None:
    lenient = F1Score(fields=["pred_mask", "gt_mask"], strict=False, prefix="further_")
    assert "further_F1Score" not in run(tmp_path, with_metrics(lenient, post_processor=False), learn=False)
    strict = F1Score(fields=["pred_mask", "gt_mask"], prefix="further_")
    with pytest.raises(ValueError, match="does not have a value for field with name pred_mask"):
        run(tmp_path, with_metrics(strict, post_processor=False), learn=False)


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ([AUROC(**PIXELS, prefix="pixel_")], "pixel_AUROC"),
        ([F1Score(fields=["pred_label", "gt_label"], prefix="image_")], "image_F1Score"),
        ([IAP()], "IAP"),
        ([AUPIMO(), AUPIMO(num_thresholds=100)], "AUPIMO"),
    ],
)
def test_two_figures_of_one_name_are_refused_in_a_sentence_that_names_it(metrics, name) -> None:
    with pytest.raises(ValueError, match=rf"^Two test metrics would be logged as {name}, .* another prefix\.$"):
        RawMapEvaluator(test_metrics=metrics)


def test_validation_ranks_raw_values_too(tmp_path, part_folder) -> None:
    watching = RawMapEvaluator(val_metrics=AUROC(**PIXELS, prefix="pixel_"))
    model = Brightness(evaluator=watching, visualizer=False)
    model.model = Whitened()
    (figures,) = engine(tmp_path / "results").validate(model, datamodule=parts(part_folder))
    data, transform = parts(part_folder), model.pre_processor.transform
    data.setup()
    items = [data.test_data[index] for index in range(len(data.test_data))]
    maps = Whitened()(torch.stack([transform(item.image) for item in items])).anomaly_map
    masks = torch.stack([transform(item.gt_mask) for item in items])
    assert figures["pixel_AUROC"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-6)


def test_barebones_runs_have_them_too_and_a_second_one_begins_anew(tmp_path, part_folder) -> None:
    model = with_metrics(AUROC(**PIXELS, prefix="further_"))
    runner = Engine(accelerator="cpu", devices=1, default_root_dir=tmp_path / "bare", barebones=True)
    first = runner.test(model, datamodule=parts(part_folder))[0]
    assert first["further_AUROC"] == pytest.approx(first["pixel_AUROC"], abs=1e-6)
    updates = model.evaluator.test_metrics[-1].update_count
    assert runner.test(model, datamodule=parts(part_folder))[0] == first
    assert model.evaluator.test_metrics[-1].update_count == updates


def test_where_metrics_are_kept_is_as_in_anomalib(tmp_path, part_folder) -> None:
    for compute_on_cpu in (True, False):
        further = AUROC(**PIXELS, prefix="further_")
        evaluator = RawMapEvaluator(test_metrics=[further], compute_on_cpu=compute_on_cpu)
        run(tmp_path, Brightness(evaluator=evaluator, visualizer=False), learn=False)
        assert further.compute_on_cpu is compute_on_cpu
