# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Break fifteen central lines, one at a time, in a copy of the repository, and list the test that catches each.

    python tests/mutations.py

It exits with 1 if a mutation escapes, or if a line is not found exactly once. It takes a few minutes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = ("destseg_anomalib", "tests", "configs", "examples", "pyproject.toml", "README.md")


class Mutation(NamedTuple):
    """A line of the package, what to write in its place, and the tests that have to notice."""

    what: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "sign of the product",
        "models/similarity.py",
        "maps.append(-t * s)",
        "maps.append(t * s)",
        "unit/models/test_paper_code_here.py",
    ),
    Mutation(
        "pixels at the threshold are predicted",
        "metrics/levels.py",
        'for side in ("left", "right")',
        'for side in ("right", "right")',
        "unit/metrics/test_iap.py::TestFaultsOfTheOfficialCode",
    ),
    Mutation(
        "step at which the phase changes",
        "training/two_step.py",
        "student_phase = step < self.hparams.student_steps",
        "student_phase = step <= self.hparams.student_steps",
        "integration/test_destseg.py::test_each_phase_changes_its_network_and_no_bit_of_the_others",
    ),
    Mutation(
        "half of a pixel keeps it in a mask",
        "transforms/rounded_bilinear.py",
        'mode="bilinear", antialias=True) >= 0.5',
        'mode="bilinear", antialias=True) > 0.5',
        "unit/models/test_paper_code_here.py",
    ),
    Mutation(
        "no gradient for the student in phase 2",
        "models/student_teacher.py",
        "with torch.no_grad():",
        "with torch.enable_grad():",
        "unit/models/test_destseg_model.py",
    ),
    Mutation(
        "normalisation of images",
        "models/student_teacher.py",
        "((images - self.mean) / self.std)",
        "((images - self.mean) * self.std)",
        "unit/models/test_destseg_model.py",
    ),
    Mutation(
        "opacity of anomalies",
        "synthesis/generator.py",
        "mask * opacity",
        "mask * (1 - opacity)",
        "unit/synthesis/test_generator.py",
    ),
    Mutation(
        "number of pixels in the score",
        "models/student_teacher.py",
        "pixels.topk(min(max(count, 1),",
        "pixels.topk(min(max(count, 1) + 1,",
        "unit/models/test_destseg_model.py",
    ),
    Mutation(
        "antialiasing of images",
        "transforms/rounded_bilinear.py",
        "interpolation=self.interpolation, antialias=True)",
        "interpolation=self.interpolation, antialias=self.antialias)",
        "unit/transforms/test_rounded_bilinear.py",
    ),
    Mutation(
        "learning rate of the head",
        "training/two_step.py",
        '"lr": self.hparams.head_lr',
        '"lr": self.hparams.segmentation_lr',
        "integration/test_destseg.py::test_one_optimiser_has_the_published_groups",
    ),
    Mutation(
        "values beyond black and white are clamped",
        "training/images.py",
        ".round().clamp(0, 255).to(torch.uint8)",
        ".round().to(torch.uint8)",
        "integration/test_training_sets.py::test_values_that_an_interpolation_adds_beyond_black_and_white_do_not_wrap_around",
    ),
    Mutation(
        "the checkpoint's top-T",
        "training/restoring.py",
        'DECISIVE = ("image_size", "crop_size", "tile", "top_t")',
        'DECISIVE = ("image_size",)',
        "integration/test_checkpoints_decide.py::test_nothing_but_the_checkpoint_decides_what_is_predicted",
    ),
    Mutation(
        "digest of the training images",
        "training/contents.py",
        "images = {path for name in sets for path in paths.get(name, ())}",
        "images: set[Path] = set()",
        "integration/test_training_sets.py::test_a_training_does_not_go_on_where_its_images_have_become_the_test",
    ),
    Mutation(
        "what was lent is taken back after an exception",
        "metrics/guest.py",
        "del pl_module, exception\n        self.leave(trainer)",
        "del pl_module, exception",
        "integration/test_interruptions.py::test_what_is_not_ours_is_as_it_was",
    ),
    Mutation(
        "a loss that is not finite",
        "training/divergence.py",
        "elif not finite:",
        "elif finite is None:",
        "unit/training/test_divergence.py",
    ),
]


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, with the copy's package and not the installed one."""
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def pytest(copy: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of the copy until one fails."""
    options = "-n 0 -x -q -rf -p no:cacheprovider"  # with several workers the exit code would be another
    return run(copy, "-m", "pytest", *options.split(), *(f"tests/{test}" for test in tests))


def catcher(copy: Path, mutation: Mutation) -> str | None:
    """Apply a mutation, run its tests, take it back; the test that failed, or None."""
    path = copy / "destseg_anomalib" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.file} has `{mutation.old}` {text.count(mutation.old)} times: mend the entry in {__file__}."
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    done = pytest(copy, mutation.tests)
    path.write_text(text, encoding="utf-8")
    failed = re.search(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)
    return failed[1] if failed and done.returncode == 1 else None


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        copy.mkdir()
        for name in COPIED:
            source = REPOSITORY / name
            shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy(source, copy / name)
        if (shared := REPOSITORY.parent / "shared").is_dir():  # reference data that some tests read
            (Path(folder) / "shared").symlink_to(shared)
        imported = run(copy, "-c", "import torch, destseg_anomalib.models as m; print(m.__file__)").stdout.strip()
        if not Path(imported).is_relative_to(copy):
            sys.exit(f"The copy in {copy} is not what is imported, but {imported}.")
        healthy = pytest(copy, *sorted({mutation.tests for mutation in MUTATIONS}))
        if healthy.returncode:
            sys.exit(f"The tests fail without any mutation:\n{healthy.stdout[-3000:]}")
        print("| mutation | line | caught by |\n|---|---|---|", flush=True)  # noqa: T201
        escaped = 0
        for mutation in MUTATIONS:
            caught = catcher(copy, mutation)
            escaped += caught is None
            print(f"| {mutation.what} | `{mutation.new}` | {caught or '**escaped**'} |", flush=True)  # noqa: T201
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
