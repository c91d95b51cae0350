# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""How anomalib finds us: an import hook that PyTorch installs, and registration. Only the standard library is used.

anomalib 2.7 reads no plug-in group; if a later one does, that group replaces this module.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

# When the import of the module on the left has ended, the one on the right is imported; it registers what it has at
# its own end. All this may happen in the middle of an import of `anomalib.engine` or `anomalib.cli.cli`, which are
# then half made: the modules on the right must do without them.
OURS_AFTER = {
    "anomalib.cli.pipelines": "destseg_anomalib.benchmark.pipeline",
    "anomalib.data": "destseg_anomalib.data",
    "anomalib.models": "destseg_anomalib.models",
}


def install_import_hook() -> None:
    """Make anomalib know this package as soon as anomalib is imported; once installed, a second call does nothing.

    PyTorch calls it on ``import torch``, through the entry point group ``torch.backends``, unless
    ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``. It imports neither anomalib nor our models, and never raises.

    Example:
        >>> import sys
        >>> install_import_hook()
        >>> finders = list(sys.meta_path)
        >>> install_import_hook()
        >>> sys.meta_path == finders
        True
    """
    try:
        if any(isinstance(finder, _Finder) for finder in sys.meta_path):
            return
        sys.meta_path.insert(0, _Finder())
        for host in OURS_AFTER:
            if host in sys.modules:
                # Usually in the middle of its import: in a program that begins with `import anomalib.models`, it is
                # that import which imports torch.
                _expect(host)
    except Exception as error:  # whatever it is, `import torch` has to go on
        _warn(error)


def register(host: ModuleType, *classes: type) -> None:
    """Make classes attributes of an anomalib module, where ``get_model`` and the benchmark look names up.

    A name that anomalib uses for something else stays anomalib's, with a warning.

    Args:
        host: ``anomalib.models`` or ``anomalib.data``.
        *classes: Models or data modules, registered by their exact names.

    Example:
        >>> from types import ModuleType
        >>> class Model: ...
        >>> host = ModuleType("anomalib.models")
        >>> register(host, Model)
        >>> host.Model is Model
        True
    """
    for cls in classes:
        if getattr(host, cls.__name__, cls) is cls:
            setattr(host, cls.__name__, cls)
        else:
            message = (
                f"{host.__name__} has a {cls.__name__} of its own, which keeps the name: "
                f"write destseg_anomalib.{cls.__name__} for the one of destseg-anomalib."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class _Finder:
    """Finds nothing: it sees the imports of ``OURS_AFTER`` begin, and leaves them to the finders behind it."""

    has_warned = False

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:  # noqa: ARG002 - what a finder is given
        if fullname in OURS_AFTER:
            try:
                _expect(fullname)
            except Exception as error:  # anomalib has to start without us
                _warn(error)


class _ExpectantPackage(ModuleType):
    """The class of a package while an import that we wait for goes on in it.

    Python ends the import of ``package.name`` by setting ``name`` on the package. Only then can ours use the module in
    every way; and a wrapped loader would come too late for an import that began before the hook was there.
    """

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        host = f"{self.__name__}.{name}"
        if host in OURS_AFTER:
            if not any(_goes_on(other, self) for other in OURS_AFTER):
                self.__class__ = ModuleType  # type: ignore[assignment] # what it was
            _import_ours(host)


def _expect(host: str) -> None:
    """Import our module when the import of the host ends, or now if it has."""
    package_name, _, name = host.rpartition(".")
    package = sys.modules[package_name]
    if name in vars(package):
        _import_ours(host)
    else:
        package.__class__ = _ExpectantPackage


def _goes_on(host: str, package: ModuleType) -> bool:
    """Tell whether the import of a host in this package has begun and not ended."""
    package_name, _, name = host.rpartition(".")
    return package_name == package.__name__ and host in sys.modules and name not in vars(package)


def _import_ours(host: str) -> None:
    # A user who imports our module first has it half made here; it registers itself when it is complete.
    if OURS_AFTER[host] in sys.modules:
        return
    try:
        import_module(OURS_AFTER[host])
    except Exception as error:  # anomalib has to start without us
        _warn(error)


def _warn(error: Exception) -> None:
    if _Finder.has_warned:  # what breaks one of our modules often breaks the others: say it once
        return
    _Finder.has_warned = True
    message = (
        "destseg-anomalib could not register with anomalib, which goes on without it "
        f"({type(error).__name__}: {error}): run `pip install --force-reinstall destseg-anomalib`, "
        "or `python -c 'import destseg_anomalib.models'` to see where it fails."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=2)
