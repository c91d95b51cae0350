# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The package itself: public names that are imported when they are used."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import destseg_anomalib


@pytest.mark.parametrize("name", destseg_anomalib.__all__)
def test_every_public_name_is_the_class_of_that_name(name: str) -> None:
    assert getattr(destseg_anomalib, name).__name__ == name
    assert name in dir(destseg_anomalib)


def test_version_is_that_of_the_installed_distribution() -> None:
    assert destseg_anomalib.__version__ == importlib.metadata.version("destseg-anomalib")


def test_unknown_name_is_an_attribute_error_that_says_the_name() -> None:
    with pytest.raises(AttributeError, match="'destseg_anomalib' has no attribute 'Patchcore'"):
        _ = destseg_anomalib.Patchcore


def test_importing_the_package_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; before = {*sys.modules}; import destseg_anomalib; print(*({*sys.modules} - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = {name for name in run.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"destseg_anomalib"}


def test_package_is_marked_as_typed() -> None:
    assert (Path(destseg_anomalib.__file__).parent / "py.typed").is_file()
