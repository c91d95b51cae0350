# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint is accepted by its contents; the doors are tested in tests/integration/test_inputs_stored.py."""

import pytest
import torch
from torch import nn

from destseg_anomalib.training.acceptance import check_file, check_weights


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 2)
        self.post_processor = nn.BatchNorm1d(2)


def checkpoint_of(model: nn.Module) -> dict:
    return {"state_dict": {name: value.clone() for name, value in model.state_dict().items()}}


def test_a_threshold_that_is_not_known_yet_is_no_damage() -> None:
    checkpoint = checkpoint_of(Small())
    checkpoint["state_dict"]["post_processor.weight"].fill_(float("nan"))
    check_weights(checkpoint, Small())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_damage(value) -> None:
    checkpoint = checkpoint_of(Small())
    checkpoint["state_dict"]["model.bias"][1] = value
    with pytest.raises(ValueError, match=r"NaN or infinite weights in 1 of 2 tensors \(first: model\.bias\)"):
        check_weights(checkpoint, Small())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_whose_sum_is_too_large_for_their_type_are_no_damage(dtype) -> None:
    checkpoint = checkpoint_of(Small().to(dtype))
    checkpoint["state_dict"]["model.weight"].fill_(torch.finfo(dtype).max)
    check_weights(checkpoint, Small())


def test_missing_and_unknown_weights_are_counted_and_the_writer_is_named() -> None:
    checkpoint = checkpoint_of(Small()) | {"training": {"version": "7.0"}}
    del checkpoint["state_dict"]["model.weight"]
    checkpoint["state_dict"]["model.gate"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"destseg-anomalib 7\.0 holds another .* 2 tensors differ \(first: model\.gate"
    ):
        check_weights(checkpoint, Small())


def test_a_file_is_accepted_without_its_tensors_being_read(tmp_path) -> None:
    state = {"big": torch.zeros(1000, 1000)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6"}, tmp_path / "model.ckpt")
    check_file(tmp_path / "model.ckpt")
