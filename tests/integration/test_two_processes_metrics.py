# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from destseg_anomalib.metrics import RawMapEvaluator
from destseg_anomalib.metrics.curves import mean_precision
from destseg_anomalib.metrics.figures import PixelFigures, PixelFiguresMetric
from destseg_anomalib.metrics.iap import _IAP, _IAPAtRecall
from tests.conftest import make_part_folder
from tests.integration.forks import Forks, free_port
from tests.unit.metrics import brightness
from tests.unit.metrics.brightness import Brightness, engine, parts


def image_sets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.zeros(7, 12, 12)
    target[1:5, 2:5, 3:9] = target[3, 9, 9] = 1
    return torch.rand(7, 12, 12, generator=generator) + 0.3 * target, target


def work(rank: int, port: str, results: Path) -> None:
    """One process of two: it sees its own images only, and says what the metrics make of all of them."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    preds, target = image_sets()
    part = slice(0, 2) if rank == 0 else slice(2, None)  # uneven, and the first with one region only
    for bits in (None, 18):
        figures, iap, at_recall = PixelFiguresMetric(bits=bits), _IAP(bits=bits), _IAPAtRecall(bits=bits)
        for metric in (figures, iap, at_recall):
            metric.update(preds[part], target[part])
        computed: PixelFigures = figures.compute()
        result = {
            "figures": list(computed[:4]),
            "curve": computed.curve.precision,
            "areas": computed.regions.areas,
            "iap": [iap.compute(), at_recall.compute()],
            "points": iap.plot()[1].get_title(),
            "own": sum(chunk.numel() for chunk in iap.negatives),
        }
        torch.save(result, results / f"{rank}-{bits}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_figures_of_one_and_keep_their_own_pixels(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, (free_port(), tmp_path), nprocs=2, start_method="fork")
    own_pixels = [int((image_sets()[1][part] == 0).sum()) for part in (slice(0, 2), slice(2, None))]
    for bits in (None, 18):
        single = PixelFiguresMetric(bits=bits)
        single.update(*image_sets())
        expected = single.compute()
        for rank in (0, 1):
            result = torch.load(tmp_path / f"{rank}-{bits}.pt", weights_only=False)
            assert result["figures"] == pytest.approx(expected[:4], abs=1e-12)
            assert np.array_equal(result["curve"], expected.curve.precision)
            assert np.array_equal(result["areas"], expected.regions.areas)
            assert result["iap"][0].item() == mean_precision(expected.curve.precision)
            assert result["iap"][1].item() == expected.curve.precision[0]
            assert result["points"] == "5 regions"
            assert result["own"] == (0 if bits else own_pixels[rank])


def test_a_test_by_two_processes_reports_what_one_reports(forks: Forks, tmp_path: Path) -> None:
    even, uneven = make_part_folder(tmp_path / "even"), make_part_folder(tmp_path / "uneven")
    # Three normal and two defective images, which two processes cannot share evenly.
    (uneven / "test" / "hole" / "002.png").unlink()
    (uneven / "ground_truth" / "hole" / "002_mask.png").unlink()
    done = forks.run_pair(brightness.__file__, *map(str, (tmp_path / "results", even, uneven)), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    together = json.loads((tmp_path / "results" / "figures.json").read_text())
    model = Brightness(evaluator=RawMapEvaluator(), visualizer=False)
    alone = engine(tmp_path / "alone").test(model, datamodule=parts(even))[0]
    assert together[0] == pytest.approx(alone, abs=1e-6)
    assert together[1].keys() == alone.keys()
    said = done.stdout + done.stderr
    assert said.count("1 of 6 images are repetitions that the sampler adds") == 1
