# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What `OperatingPoint` promises, and what it costs, on pictures of the demo.

python examples/operating_point.py results/DeSTSeg/DemoSurfaces/brick/latest/weights/lightning/model.ckpt

The model, trained on one demo set, judges the test pictures of several; maps are computed once. Half of the good ones
set the threshold, the other half, unseen, raise alarms, in 200 random splits: the mean share of alarms should be the
promised one at most, up to two standard errors. Then all maps are judged, and their defects listed, one by one in one
thread.
"""

import argparse
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
import torch
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from averaged_weights import show
from benchmark_synthesis import machine
from numpy.typing import NDArray
from torch.nn import functional

import destseg_anomalib
from destseg_anomalib import DemoSurfaces
from destseg_anomalib.deployment.defects import list_defects
from destseg_anomalib.deployment.judging import judge
from destseg_anomalib.deployment.part_score import part_scores
from destseg_anomalib.deployment.promises import threshold_for_false_alarms

SHARES = (0.05, 0.1, 0.2)
SPLITS = 200
AREAS = (1, 20, 50)
SIDE = 256  # of the maps that are judged for time


def raw_maps(checkpoint: Path, model_name: str, sets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute raw maps (N, H, W) of test pictures of demo sets with seeds from 0, and say which are defective."""
    model = getattr(destseg_anomalib, model_name).load_from_checkpoint(checkpoint)
    model.post_processor = model.visualizer = None
    batches = []
    for seed in range(sets):
        data = DemoSurfaces(seed=seed)
        data.setup()
        batches += Engine(logger=False, enable_progress_bar=False).predict(model, dataset=data.test_data)
    maps = torch.cat([batch.anomaly_map.flatten(0, -3) for batch in batches])
    return maps, torch.cat([batch.gt_label for batch in batches]).bool()


def alarms(scores: NDArray[np.float32], share: float) -> NDArray[np.float64]:
    """Share of alarms on the unseen half of the parts in each split."""
    rng, half = np.random.default_rng(0), len(scores) // 2
    mixed = [rng.permutation(scores) for _ in range(SPLITS)]
    return np.array([(one[half:] >= threshold_for_false_alarms(one[:half], share)).mean() for one in mixed])


def promises(scores: NDArray[np.float32]) -> pd.DataFrame:
    """Hold promises against good parts that did not set the threshold."""
    rows = []
    for share in SHARES:
        if len(scores) // 2 < 1 / share - 1:
            rows.append((f"{share:.0%}", "", "", f"needs {round(1 / share) - 1} pictures to set the threshold"))
            continue
        found = alarms(scores, share)
        error = found.std(ddof=1) / SPLITS**0.5
        kept = "kept" if found.mean() <= share + 2 * error else "NOT kept"
        rows.append((f"{share:.0%}", f"{found.mean():.2%}", f"{error:.2%}", kept))
    return pd.DataFrame(rows, columns=["promised", "alarms on unseen parts", "standard error", "promise"])


def costs(maps: torch.Tensor, threshold: float) -> pd.DataFrame:
    """Time a verdict and a list of defects in pixels of a picture of 900 x 900."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    at, span = torch.tensor(threshold), maps.max() - maps.min()
    rows = []
    for area in AREAS:
        times = []
        for one in maps:
            begin = perf_counter()
            said: InferenceBatch = judge(one[None], at, span, area)
            judged = perf_counter()
            list_defects(said.pred_mask[0].numpy(), said.anomaly_map[0].numpy(), (900, 900), area)
            times.append((judged - begin, perf_counter() - judged))
        verdict, listed = 1e3 * np.array(times).T
        whole = verdict + listed
        cells = (np.median(verdict), np.median(listed), np.median(whole), np.percentile(whole, 95))
        rows.append((str(area), *(f"{cell:.2f}" for cell in cells)))
    return pd.DataFrame(rows, columns=["min_area", "verdict, ms", "list, ms", "both, ms", "both, 95 of 100 below, ms"])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", default="DeSTSeg", choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--sets", type=int, default=5, help="demo sets, of which each has 20 good test pictures")
    chosen = parser.parse_args()
    maps, defective = raw_maps(chosen.checkpoint, chosen.model, chosen.sets)
    scores = part_scores(maps[~defective]).numpy()
    print(f"{machine()}; {len(scores)} good pictures, half of which set the threshold; {SPLITS} splits\n")
    show(promises(scores))
    print(f"{len(maps)} maps, enlarged to {SIDE} x {SIDE}, one thread\n")
    enlarged = functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    show(costs(enlarged, float(np.median(scores))))


if __name__ == "__main__":
    main()
