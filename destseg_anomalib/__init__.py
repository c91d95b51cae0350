# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""DeSTSeg for anomalib, with instance metrics and the papers' ground truth.

The public names are imported when they are first used: PyTorch imports this package at every ``import torch``, to
install the hook of :mod:`destseg_anomalib.plugin`, and that has to cost next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from destseg_anomalib.data import DemoSurfaces
    from destseg_anomalib.deployment import OperatingPoint
    from destseg_anomalib.metrics import IAP, IAPAtRecall, RawMapEvaluator
    from destseg_anomalib.models import DeSTSeg, PFADSeg
    from destseg_anomalib.transforms import RoundedBilinearResize

    __version__: str

__all__ = [
    "IAP",
    "DeSTSeg",
    "DemoSurfaces",
    "IAPAtRecall",
    "OperatingPoint",
    "PFADSeg",
    "RawMapEvaluator",
    "RoundedBilinearResize",
]

_HOMES = {
    "DeSTSeg": "models",
    "DemoSurfaces": "data",
    "IAP": "metrics",
    "IAPAtRecall": "metrics",
    "OperatingPoint": "deployment",
    "PFADSeg": "models",
    "RawMapEvaluator": "metrics",
    "RoundedBilinearResize": "transforms",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - rarely wanted

        value: Any = version("destseg-anomalib")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
