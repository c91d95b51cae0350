# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The post-processor: what it learns, keeps and judges, without any model."""

from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg_anomalib import OperatingPoint
from destseg_anomalib.metrics.instances import find_regions


def batch(maps: torch.Tensor, masks: torch.Tensor | None = None, **fields: Any) -> ImageBatch:
    """Parts of which those with a defect in their mask are bad."""
    labels = torch.zeros(len(maps), dtype=torch.bool) if masks is None else masks.flatten(1).any(1)
    arguments = {"gt_label": labels, "gt_mask": masks, "image": torch.zeros(len(maps), 3, *maps.shape[-2:])}
    return ImageBatch(anomaly_map=maps, **(arguments | fields))


def validate(point: OperatingPoint, *batches: ImageBatch, stage: str = "fit", **trainer: Any) -> OperatingPoint:
    state = SimpleNamespace(fn=stage)
    defaults = {"global_rank": 0, "world_size": 1, "sanity_checking": False, "fast_dev_run": False, "state": state}
    made: Any = SimpleNamespace(**(defaults | trainer))
    point.on_validation_epoch_start(made, None)
    for one in batches:
        point.on_validation_batch_end(made, None, one)
    point.on_validation_epoch_end(made, None)
    return point


def parts(count: int = 20, seed: int = 0) -> ImageBatch:
    """Half of the parts are good; the others have a defect that is brighter, in part."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, 1, 12, 12, generator=generator)
    masks = torch.zeros(count, 12, 12, dtype=torch.bool)
    masks[count // 2 :, 3:7, 3:7] = True
    maps[masks.unsqueeze(1)] += torch.rand(int(masks.sum()), generator=generator)
    return batch(maps, masks)


def judge(point: OperatingPoint, maps: torch.Tensor) -> InferenceBatch:
    return point(InferenceBatch(anomaly_map=maps, pred_score=None, pred_label=None, pred_mask=None))


def test_scores_of_defects_and_good_parts_are_learned_in_batches_of_any_size() -> None:
    whole = parts()
    point = validate(OperatingPoint(instance_recall=0.8), whole)
    halves = [batch(whole.anomaly_map[half], whole.gt_mask[half]) for half in (slice(0, 7), slice(7, 20))]
    other = validate(OperatingPoint(false_alarms=0.1), *halves)
    maps, masks = whole.anomaly_map.numpy(), whole.gt_mask.numpy()
    scores = [find_regions(one, mask)[1].scores.tolist() for one, mask in zip(maps, masks, strict=True)]
    assert point.learned.scores_of_defects.tolist() == sorted(chain(*scores))
    assert point.learned.scores_of_good_parts.tolist() == sorted(maps[:10].max((1, 2)).tolist())
    for name, value in point.state_dict().items():
        if "threshold" not in name:
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("min_area", [1, 4])
def test_a_promise_is_kept_on_what_it_was_learned_from(min_area: int) -> None:
    whole = parts()
    point = validate(OperatingPoint(false_alarms=0.1, min_area=min_area), whole)
    alarms = judge(point, whole.anomaly_map).pred_label[:10]
    assert alarms.sum() == 0  # of 10 parts, the 10th smallest score
    point = validate(OperatingPoint(false_alarms=0.2, min_area=min_area), whole)
    assert judge(point, whole.anomaly_map).pred_label[:10].sum() == 1
    point = validate(OperatingPoint(instance_recall=0.8, min_area=min_area), whole)
    found = judge(point, whole.anomaly_map).pred_mask[10:, 3:7, 3:7].flatten(1).float().mean(1) > 0.5
    assert found.sum() == 8


FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=300, deadline=None)
@given(FINITE, FINITE, st.floats(0, 2.0**100, width=32))
def test_no_rounding_turns_a_verdict(threshold: float, lowest: float, span: float) -> None:
    point = OperatingPoint(false_alarms=0.5)
    point.learned.lacking = None
    for buffer, value in (("_pixel_threshold", threshold), ("pixel_min", lowest), ("pixel_max", lowest + span)):
        getattr(point, buffer).fill_(value)
    at = point._pixel_threshold.numpy().reshape(())
    around = [np.nextafter(at, np.float32(end)) for end in (-np.inf, np.inf)]
    maps = torch.from_numpy(np.array([around[0], at, around[1], -3e38, 3e38], np.float32)).view(5, 1, 1, 1)
    judged = judge(point, maps)
    expected = [False, True, True, False, True]
    assert judged.pred_label.tolist() == judged.pred_mask.flatten().tolist() == expected
    for unit in (judged.pred_score, judged.anomaly_map.flatten()):
        assert (unit > 0.5).tolist() == (unit >= 0.5).tolist() == expected
        assert ((unit >= 0) & (unit <= 1)).all()
    assert torch.equal(judged.pred_score, judged.anomaly_map.flatten())


def test_normalising_keeps_the_order_of_maps_and_scores() -> None:
    point = validate(OperatingPoint(instance_recall=0.5), parts())
    maps = torch.linspace(-0.5, 2.5, 1001).view(-1, 1, 1, 1)
    judged = judge(point, maps)
    for unit in (judged.pred_score, judged.anomaly_map.flatten()):
        assert (unit.diff() >= 0).all()
    between = (maps.flatten() > point.pixel_min) & (maps.flatten() < point.pixel_max)
    assert judged.pred_score[between].unique().numel() > 250, "where maps differ, heat maps do"


def test_a_test_sees_the_verdict_whatever_the_model_said_of_the_part() -> None:
    whole = parts()
    point = validate(OperatingPoint(instance_recall=0.5), whole)
    expected = judge(point, whole.anomaly_map)
    raw = whole.anomaly_map.clone()
    whole.pred_score, whole.pred_label = torch.full((20,), 9.0), torch.ones(20, dtype=torch.bool)
    point.on_test_batch_end(None, None, whole)
    assert torch.equal(whole.anomaly_map, expected.anomaly_map)
    assert torch.equal(whole.pred_score, expected.pred_score)
    assert torch.equal(whole.pred_label, expected.pred_label)
    assert torch.equal(whole.pred_mask, expected.pred_mask)
    assert torch.equal(whole.pred_label, raw.flatten(1).amax(1) >= point.pixel_threshold)


@pytest.mark.parametrize("first", [{"instance_recall": 0.9}, {"false_alarms": 0.3, "min_area": 3}])
@pytest.mark.parametrize("then", [{"instance_recall": 0.5}, {"false_alarms": 0.1}])
def test_a_point_is_moved_bit_for_bit_by_reading_what_another_learned(first: dict, then: dict) -> None:
    learned = validate(OperatingPoint(**first), parts())
    direct = validate(OperatingPoint(**then, min_area=learned.min_area), parts())
    moved = OperatingPoint(**then)
    moved.load_checkpoint_config(learned.checkpoint_config())
    assert moved.load_state_dict(learned.state_dict()).missing_keys == []
    assert {n: v.tolist() for n, v in moved.state_dict().items()} == {
        n: v.tolist() for n, v in direct.state_dict().items()
    }
    assert moved.checkpoint_config() == then | {"min_area": learned.min_area} | dict.fromkeys(
        {"instance_recall", "false_alarms"} - then.keys()
    )
    maps = parts(seed=1).anomaly_map
    assert torch.equal(judge(moved, maps).pred_score, judge(direct, maps).pred_score)


def test_another_min_area_than_the_checkpoints_is_named(caplog) -> None:
    learned = validate(OperatingPoint(false_alarms=0.2, min_area=3), parts())
    point = OperatingPoint(false_alarms=0.2, min_area=2)
    point.load_checkpoint_config(learned.checkpoint_config())
    assert point.min_area == 3
    assert "min_area=3 is the checkpoint's, not 2" in caplog.text


def test_a_checkpoint_of_anomalibs_post_processor_leaves_the_point_unset() -> None:
    stored = PostProcessor()
    for buffer in stored.buffers():
        buffer.fill_(0.5)
    point = OperatingPoint(instance_recall=0.9)
    point.load_state_dict(stored.state_dict())
    assert point.pixel_threshold.isnan()
    with pytest.raises(ValueError, match="no validation has shown its OperatingPoint any image"):
        judge(point, torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="no validation has shown"):
        point.on_predict_start(None, None)


def test_too_few_good_parts_let_a_training_end_and_stop_all_else(caplog) -> None:
    point = validate(OperatingPoint(false_alarms=0.01), parts())
    sentence = "false_alarms=0.01 cannot be promised from 10 good parts in the validation: hold out 99 or more"
    assert sentence in caplog.text
    with pytest.raises(ValueError, match=sentence):
        point.on_test_start(None, None)
    with pytest.raises(ValueError, match=sentence):
        validate(OperatingPoint(false_alarms=0.01), parts(), stage="validate")
    smaller = OperatingPoint(false_alarms=0.0910)
    smaller.load_state_dict(point.state_dict())
    smaller.on_test_start(None, None)


def test_a_sanity_check_teaches_nothing(caplog) -> None:
    point = validate(OperatingPoint(false_alarms=0.01), parts(), sanity_checking=True)
    assert point.learned.scores_of_defects.numel() == point.learned.scores_of_good_parts.numel() == 0
    assert not caplog.text


def test_the_next_validation_begins_anew() -> None:
    point = validate(OperatingPoint(false_alarms=0.2), parts())
    assert torch.equal(
        validate(point, parts(seed=3)).learned.scores_of_good_parts,
        validate(OperatingPoint(false_alarms=0.2), parts(seed=3)).learned.scores_of_good_parts,
    )


def test_data_without_masks_serve_a_promise_of_false_alarms_alone() -> None:
    maps = torch.rand(9, 1, 6, 6)
    without = batch(maps, image_path=[f"{index}.png" for index in range(9)])
    assert validate(OperatingPoint(false_alarms=0.1), without).learned.scores_of_good_parts.numel() == 9
    with pytest.raises(ValueError, match="showed none with a mask"):
        validate(OperatingPoint(instance_recall=0.9), without, stage="validate")


def test_a_map_that_is_no_number_is_not_judged_and_its_file_named() -> None:
    point = validate(OperatingPoint(instance_recall=0.9), parts())
    broken = batch(torch.full((1, 1, 12, 12), float("nan")), image_path=["a/b.png"])
    for use in (lambda: point.on_predict_batch_end(None, None, broken), lambda: validate(point, broken)):
        with pytest.raises(ValueError, match=r"b.png.* NaN"):
            use()


def test_a_model_without_maps_is_refused() -> None:
    point = OperatingPoint(false_alarms=0.1)
    nothing = ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.zeros(2), gt_label=torch.zeros(2).bool())
    with pytest.raises(ValueError, match=r"^The model makes no anomaly maps, by which OperatingPoint judges"):
        validate(point, nothing)


def table(*labels: int, masks: bool = True) -> Any:
    """A trainer whose data module has so many images for validation, by label."""
    import pandas as pd

    paths = ["mask.png" if masks and label else "" for label in labels]
    samples = pd.DataFrame({"label_index": labels, "mask_path": paths})
    return SimpleNamespace(val_data=SimpleNamespace(samples=samples))


@pytest.mark.parametrize(
    ("promise", "data", "sentence"),
    [
        ({"false_alarms": 0.1}, table(*[0] * 8, 1), "false_alarms=0.1 cannot be promised from 8 good parts"),
        ({"false_alarms": 0.1}, table(1), "and the validation has none"),
        ({"instance_recall": 0.9}, table(0, 0), "it showed none with a mask"),
        ({"instance_recall": 0.9}, table(0, 1, masks=False), "it showed none with a mask"),
        ({"instance_recall": 0.9}, table(1), None),
        ({"false_alarms": 0.1}, table(*[0] * 9), None),
        ({"false_alarms": 0.1}, SimpleNamespace(), None),
    ],
)
def test_images_that_cannot_carry_the_promise_are_refused_before_the_training(
    monkeypatch, promise: dict, data: Any, sentence: str | None
) -> None:
    monkeypatch.setattr("destseg_anomalib.deployment.operating_point.data_of", lambda trainer: trainer.datamodule)
    start = OperatingPoint(**promise).on_fit_start
    if sentence is None:
        start(SimpleNamespace(datamodule=data), None)
    else:
        with pytest.raises(ValueError, match=sentence):
            start(SimpleNamespace(datamodule=data), None)


@pytest.mark.parametrize("arguments", [{}, {"instance_recall": 0.9, "false_alarms": 0.1}, {"false_alarms": 1}])
def test_wrong_promises_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*(keeps one promise|is no share)[^\n]*\.$"):
        OperatingPoint(**arguments)


def test_an_area_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="min_area=0 must be at least 1"):
        OperatingPoint(false_alarms=0.1, min_area=0)


class InGraph(torch.nn.Module):
    """What is exported: maps in, verdict and all out."""

    def __init__(self, point: OperatingPoint) -> None:
        super().__init__()
        self.point = point

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        judged = judge(self.point, maps)
        return judged.pred_label, judged.pred_score, judged.pred_mask, judged.anomaly_map


@pytest.mark.parametrize("min_area", [1, 5])
def test_an_exported_graph_says_the_same(min_area: int) -> None:
    point = validate(OperatingPoint(false_alarms=0.4, min_area=min_area), parts())
    batch_size = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        InGraph(point).eval(), (torch.rand(2, 1, 12, 12),), dynamic_shapes={"maps": {0: batch_size}}
    )
    maps = parts(40, seed=2).anomaly_map.view(40, 1, 12, 12)
    label, score, mask, unit = program.module()(maps)
    expected = judge(point, maps)
    assert torch.equal(label, expected.pred_label)
    assert 0 < label.sum() < 40
    assert torch.equal(mask, expected.pred_mask)
    assert torch.equal(unit, expected.anomaly_map)
    assert torch.equal(score > 0.5, label)
    assert (score >= expected.pred_score).all()
    if min_area == 1:
        assert torch.equal(score, expected.pred_score)
