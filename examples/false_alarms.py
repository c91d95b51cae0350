# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Does `OperatingPoint(false_alarms=…)` keep its promise? Good pictures of the demo, split at random 200 times.

python examples/false_alarms.py results/DeSTSeg/DemoSurfaces/brick/latest/weights/lightning/model.ckpt

The model, trained on one demo set, judges the good test pictures of several. Half of them set the threshold, the other
half, unseen, raise alarms; maps are computed once. The mean share of alarms should be the promised one at most, up to
two standard errors of 200 splits.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib.engine import Engine
from averaged_weights import show
from benchmark_synthesis import machine
from numpy.typing import NDArray

import destseg_anomalib
from destseg_anomalib import DemoSurfaces
from destseg_anomalib.deployment.part_score import part_scores
from destseg_anomalib.deployment.promises import threshold_for_false_alarms

SHARES = (0.05, 0.1, 0.2)
SPLITS = 200


def scores_of_good_parts(checkpoint: Path, model_name: str, sets: int) -> NDArray[np.float32]:
    """Score the good test pictures of demo sets with seeds from 0."""
    model = getattr(destseg_anomalib, model_name).load_from_checkpoint(checkpoint)
    model.post_processor = model.visualizer = None  # raw maps, and no pictures of them
    scores = []
    for seed in range(sets):
        data = DemoSurfaces(seed=seed)
        data.setup()
        good = [index for index, label in enumerate(data.test_data.samples.label_index) if not label]
        engine = Engine(logger=False, enable_progress_bar=False)
        batches = engine.predict(model, dataset=data.test_data.subsample(good))
        scores += [part_scores(batch.anomaly_map.float()) for batch in batches]
    return torch.cat(scores).numpy()


def alarms(scores: NDArray[np.float32], share: float, splits: int = SPLITS) -> NDArray[np.float64]:
    """Share of alarms on the unseen half of the parts in each of some random splits."""
    rng, half = np.random.default_rng(0), len(scores) // 2
    mixed = [rng.permutation(scores) for _ in range(splits)]
    return np.array([(one[half:] >= threshold_for_false_alarms(one[:half], share)).mean() for one in mixed])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", default="DeSTSeg", choices=["DeSTSeg", "PFADSeg"])
    parser.add_argument("--sets", type=int, default=5, help="demo sets, 20 good test pictures each")
    chosen = parser.parse_args()
    scores = scores_of_good_parts(chosen.checkpoint, chosen.model, chosen.sets)
    half = len(scores) // 2
    print(f"{machine()}; {len(scores)} good pictures, of which {half} set the threshold; {SPLITS} splits\n")
    rows = []
    for share in SHARES:
        if half >= 1 / share - 1:
            found = alarms(scores, share)
            error = found.std(ddof=1) / SPLITS**0.5
            kept = "kept" if found.mean() <= share + 2 * error else "NOT kept"
            rows.append((f"{share:.0%}", f"{found.mean():.2%}", f"{error:.2%}", kept))
        else:
            rows.append((f"{share:.0%}", "", "", f"needs {round(1 / share) - 1} pictures to set the threshold"))
    show(pd.DataFrame(rows, columns=["promised", "alarms on unseen parts", "standard error", "promise"]))


if __name__ == "__main__":
    main()
