# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The average of a network's weights against its definition, and the exchange of one for the other."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from destseg_anomalib.training.averaging import WeightAverage, put_average, take_average


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, kernel_size=1), nn.BatchNorm2d(4))


def change(network: nn.Module) -> dict[str, torch.Tensor]:
    """A step that changes weights and, in training mode, the statistics of the batch norm; returns a copy of all."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight))
        network(torch.randn(2, 3, 4, 4))
    return deepcopy(network.state_dict())


def defined(states: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    """Step t (from 0) is taken in with a share of 10 / (t + 10)."""
    average = states[0][name].double()
    for step, state in enumerate(states):
        share = 10 / (step + 10)
        average = (1 - share) * average + share * state[name].double()
    return average


def test_weights_and_statistics_are_averaged_as_defined_and_counts_are_not(network) -> None:
    average = WeightAverage(network)
    states = []
    for _ in range(50):
        states.append(change(network))
        average.update()
    assert average.count == 50
    for name, value in average.averaged.items():
        expected = states[-1][name] if name.endswith("num_batches_tracked") else defined(states, name).float()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, states[-1][name]) for name, value in average.last.items())


def test_half_of_the_average_is_of_the_last_fifteenth_of_the_steps(network) -> None:
    """Whatever their number: a network that jumps after 93.3 % of the steps is half way there at the end."""
    for steps in (150, 1500):
        with torch.no_grad():
            network[0].bias.zero_()
        average = WeightAverage(network)
        for step in range(steps):
            if step == round(steps * 0.5**0.1):
                with torch.no_grad():
                    network[0].bias.fill_(1)
            average.update()
        assert average.averaged["0.bias"].mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_network_serves_with_its_average_and_learns_on_from_its_last_step(network) -> None:
    average = WeightAverage(network)
    average.serve()  # of no step yet: nothing to exchange
    untouched = deepcopy(network.state_dict())
    for _ in range(3):
        last = change(network)
        average.update()
    averaged = {name: value.clone() for name, value in average.averaged.items()}
    assert not torch.equal(untouched["0.weight"], last["0.weight"])
    for _ in range(2):  # once more changes nothing
        average.serve()
        assert all(torch.equal(value, averaged[name]) for name, value in network.state_dict().items())
        assert all(torch.equal(value, last[name]) for name, value in average.last.items())
    for _ in range(2):
        average.learn()
        assert all(torch.equal(value, last[name]) for name, value in network.state_dict().items())
        assert all(torch.equal(value, averaged[name]) for name, value in average.averaged.items())


@pytest.mark.parametrize("serving", [False, True])
def test_a_checkpoint_has_the_average_as_weights_and_gives_back_the_last_step(network, serving) -> None:
    average = WeightAverage(network)
    for _ in range(3):
        last = change(network)
        average.update()
    averaged = {name: value.clone() for name, value in average.averaged.items()}
    if serving:
        average.serve()
    state = {f"model.segmentation.{name}": value for name, value in network.state_dict().items()}
    checkpoint = {"state_dict": state | {"model.student.weight": torch.ones(1)}}
    put_average(checkpoint, average)
    checkpoint = deepcopy(checkpoint)
    for name, value in averaged.items():
        assert torch.equal(checkpoint["state_dict"][f"model.segmentation.{name}"], value)

    stored, count = take_average(checkpoint)
    assert count == 3
    assert stored.keys() == averaged.keys()
    assert all(torch.equal(value, averaged[name]) for name, value in stored.items())
    for name, value in last.items():
        assert torch.equal(checkpoint["state_dict"][f"model.segmentation.{name}"], value)
    assert torch.equal(checkpoint["state_dict"]["model.student.weight"], torch.ones(1))


def test_without_a_step_of_phase_2_a_checkpoint_has_no_average(network) -> None:
    checkpoint = {"state_dict": {}}
    put_average(checkpoint, WeightAverage(network))
    put_average(checkpoint, None)
    assert checkpoint == {"state_dict": {}}
    assert take_average(checkpoint) == ({}, 0)
