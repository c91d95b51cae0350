# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""anomalib finds the models whatever is imported first, however the package is installed, and never because of luck.

What happens on import can be seen in a new process only, and importing anomalib takes seconds. So each process here
checks several things; and where it makes no difference, processes are forks of one that has the libraries imported.
"""

import importlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from destseg_anomalib import plugin

REPOSITORY = Path(__file__).resolve().parents[2]
# A command line of anomalib that names both classes by their bare names, and prints what it understood.
BARE_NAMES = ["train", "--model", "DeSTSeg", "--data", "DemoSurfaces", "--print_config"]
UNDERSTOOD = ("class_path: destseg_anomalib.DeSTSeg", "class_path: destseg_anomalib.DemoSurfaces")

# Each statement begins in a process that has torch and the other libraries, but nothing of anomalib. `caught` are the
# warnings of this package.
REGISTERED = """
import anomalib.data, anomalib.models
from anomalib.data import DemoSurfaces
from anomalib.models import DeSTSeg
import destseg_anomalib  # only now: it would register by itself
assert destseg_anomalib.DeSTSeg is DeSTSeg
assert destseg_anomalib.DemoSurfaces is DemoSurfaces
assert type(anomalib) is ModuleType
assert not caught, caught
"""
BROKEN = """
import anomalib.data, anomalib.models
assert anomalib.models.get_model("padim", pre_trained=False)
assert not hasattr(anomalib.models, "DeSTSeg")
(message,) = caught
assert "pip install --force-reinstall destseg-anomalib" in message, message
assert type(anomalib) is ModuleType
"""
WITH_HOOK = {
    "anomalib.data first": "from anomalib.data import DemoSurfaces" + REGISTERED,
    "anomalib.models first": "from anomalib.models import DeSTSeg" + REGISTERED,
    "anomalib.engine first": "import anomalib.engine" + REGISTERED,
    "anomalib.cli first": "import anomalib.cli" + REGISTERED,
    "our package first": "from destseg_anomalib import DeSTSeg" + REGISTERED,
    "our torch model first": "from destseg_anomalib.models.destseg.torch_model import DeSTSegModel" + REGISTERED,
    "our data first": "from destseg_anomalib.data import DemoSurfaces" + REGISTERED,
    "our metrics first": "import destseg_anomalib.metrics" + REGISTERED,
    "our synthesis first": "import destseg_anomalib.synthesis" + REGISTERED,
    "our transforms first": "import destseg_anomalib.transforms" + REGISTERED,
    "our training first": "import destseg_anomalib.training.checkpoints" + REGISTERED,
    "our reading first": "import destseg_anomalib.data.reading" + REGISTERED,
    "our deployment first": "import destseg_anomalib.deployment.quantization" + REGISTERED,
    "our report first": "import destseg_anomalib.report.report" + REGISTERED,
    "our benchmark first": "import destseg_anomalib.benchmark.job" + REGISTERED,
    "a broken model": "sys.modules['destseg_anomalib.models.student'] = None" + BROKEN,
    "all of ours broken": (
        "sys.modules['destseg_anomalib.models.student'] = sys.modules['destseg_anomalib.data.demo'] = None" + BROKEN
    ),
}
WITHOUT_HOOK = {
    "anomalib knows nothing": (
        "import anomalib.models\n"
        "assert not hasattr(anomalib.models, 'DeSTSeg')\n"
        "assert not any(name.startswith('destseg_anomalib') for name in sys.modules)"
    ),
    "our classes after anomalib": (
        "import anomalib.models; from destseg_anomalib import DemoSurfaces, DeSTSeg" + REGISTERED
    ),
    "full name on the command line": (
        "sys.argv = ['anomalib', 'train', '--model', 'destseg_anomalib.DeSTSeg', '--print_config']\n"
        "from anomalib.cli.cli import main; main()"
    ),
    "python -m destseg_anomalib": (
        f"import runpy; sys.argv = ['', *{BARE_NAMES}]\n"
        "runpy.run_module('destseg_anomalib', run_name='__main__', alter_sys=True)"
    ),
}
FORKS = """
import json, os, sys, traceback, warnings
from types import ModuleType
import torch, lightning.pytorch, scipy.signal, torchmetrics, torchvision, timm
import cv2, FrEIA, jsonargparse, kornia, omegaconf, openvino, pandas, skimage.measure, sklearn.metrics
assert not any(name.partition(".")[0] == "anomalib" for name in sys.modules)

statements, folder = json.loads(sys.argv[1]), sys.argv[2]
for number, statement in enumerate(statements):
    if os.fork() == 0:
        caught = []
        def keep(message, *args, **kwargs):
            caught.extend([str(message)] if "destseg" in str(message) else [])
        warnings.showwarning = keep
        with open(f"{folder}/{number}", "w") as output:
            sys.stdout = sys.stderr = output
            try:
                exec(statement, {"sys": sys, "ModuleType": ModuleType, "caught": caught})
                print("fine")
            except SystemExit as end:
                print("fine" if not end.code else f"exit code {end.code}")
            except BaseException:
                traceback.print_exc()
        os._exit(0)
    if number:  # two at a time
        os.wait()
os.wait()
"""


def python(*arguments: str, folder: Path, **variables: str) -> str:
    """Run Python in a folder where only what is installed can be imported, and return what it prints."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    }
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def in_forks(statements: dict[str, str], folder: Path, **variables: str) -> dict[str, str]:
    """Run each statement in a new process and return what it printed, and ``fine`` at the end if it came there."""
    python("-c", FORKS, json.dumps(list(statements.values())), str(folder), folder=folder, **variables)
    return {name: (folder / str(number)).read_text() for number, name in enumerate(statements)}


@pytest.fixture(scope="module")
def with_hook(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return in_forks(WITH_HOOK, tmp_path_factory.mktemp("with_hook"))


@pytest.fixture(scope="module")
def without_hook(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return in_forks(WITHOUT_HOOK, tmp_path_factory.mktemp("without_hook"), TORCH_DEVICE_BACKEND_AUTOLOAD="0")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("start", WITH_HOOK)
def test_models_and_data_are_registered_once_or_anomalib_starts_with_one_warning(
    with_hook: dict[str, str], start: str
) -> None:
    assert with_hook[start].endswith("fine\n"), with_hook[start]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("start", WITHOUT_HOOK)
def test_without_torch_plugins_our_own_doors_are_open(without_hook: dict[str, str], start: str) -> None:
    assert without_hook[start].endswith("fine\n"), without_hook[start]
    if start == "python -m destseg_anomalib":
        assert all(line in without_hook[start] for line in UNDERSTOOD)


def test_import_of_torch_installs_one_finder_and_imports_nothing_of_anomalib(tmp_path: Path) -> None:
    code = """
import sys, time, torch
from importlib.metadata import entry_points
ours = {name for name in sys.modules if name.partition(".")[0] in {"anomalib", "destseg_anomalib", "timm", "lightning"}}
assert ours == {"destseg_anomalib", "destseg_anomalib.plugin"}, ours

(entry_point,) = entry_points(group="torch.backends", name="destseg_anomalib")
finders = list(sys.meta_path)
entry_point.load()()
assert sys.meta_path == finders
assert [type(finder).__module__ for finder in finders].count("destseg_anomalib.plugin") == 1

# What `import torch` does for us, from files that are compiled, as an installer leaves them.
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
def seconds():
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "destseg_anomalib.plugin"]
    for name in ours:
        sys.modules.pop(name)
    start = time.perf_counter()
    entry_point.load()()
    return time.perf_counter() - start
print(min(seconds() for _ in range(50)))
"""
    seconds = float(python("-c", code, str(tmp_path), folder=tmp_path))
    assert seconds < 1e-3


def test_program_that_begins_with_anomalib_models_has_the_model_by_every_name(tmp_path: Path) -> None:
    # Here it is anomalib.models that imports torch, so that the hook is installed in the middle of its import.
    code = f"""
import anomalib.models
import inspect, pickle
from anomalib.models import DeSTSeg, get_model, list_models
assert type(get_model("destseg", pre_trained=False)) is DeSTSeg
assert type(get_model({{"class_path": "DeSTSeg", "init_args": {{"pre_trained": False}}}})) is DeSTSeg
assert type(get_model({{"class_path": "anomalib.models.DeSTSeg", "init_args": {{"pre_trained": False}}}})) is DeSTSeg
assert "DeSTSeg" in list_models(case="pascal")
assert pickle.loads(pickle.dumps(DeSTSeg)) is DeSTSeg
assert "def get_model" in inspect.getsource(anomalib.models)

from anomalib.cli import AnomalibCLI
AnomalibCLI({BARE_NAMES})
"""
    printed = python("-c", code, folder=tmp_path)
    assert all(line in printed for line in UNDERSTOOD), printed


def test_wheel_is_found_by_the_anomalib_command(tmp_path: Path) -> None:
    wheels, installed = tmp_path / "wheels", tmp_path / "installed"
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels)]
    python(*build, str(REPOSITORY), folder=tmp_path)
    (wheel,) = wheels.iterdir()
    python(*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel), folder=tmp_path)

    # Without `site` no .pth file is read, so that an editable installation of the repository is out of reach; its
    # metadata are not, but of two distributions with one name only the first on the path has entry points.
    code = f"""
import sys
sys.argv = ["anomalib", *{BARE_NAMES}]
from anomalib.cli.cli import main
try:
    main()
finally:
    import destseg_anomalib
    print(destseg_anomalib.__file__)
    assert {str(REPOSITORY)!r} not in sys.path
"""
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    printed = python("-S", "-c", code, folder=tmp_path, PYTHONPATH=path)
    assert all(line in printed for line in UNDERSTOOD), printed
    assert Path(printed.splitlines()[-1]).is_relative_to(installed)
    assert (installed / "destseg_anomalib" / "py.typed").is_file()


@pytest.mark.parametrize("host", ["host_begun_before_the_hook", "host_begun_after_the_hook"])
def test_ours_is_imported_when_the_import_of_the_host_has_ended(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"ours_of_{host}"
    install = "from destseg_anomalib import plugin; plugin.install_import_hook()"
    (tmp_path / host).mkdir()
    (tmp_path / host / "__init__.py").touch()
    (tmp_path / host / "models.py").write_text(f"{install if 'before' in host else ''}\nnames = ['theirs']")
    (tmp_path / f"{ours}.py").write_text(f"import {host}.models; {host}.models.names.append('ours')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugin, "OURS_AFTER", {f"{host}.models": ours})
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, plugin._Finder)]
    )
    if "after" in host:
        plugin.install_import_hook()
    assert importlib.import_module(f"{host}.models").names == ["theirs", "ours"]
    assert type(sys.modules[host]) is ModuleType


def test_name_that_anomalib_has_taken_stays_its_own_with_a_warning() -> None:
    class DeSTSeg: ...

    theirs = type("DeSTSeg", (), {})
    host = ModuleType("anomalib.models")
    host.DeSTSeg = theirs  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match=r"write destseg_anomalib\.DeSTSeg"):
        plugin.register(host, DeSTSeg)
    assert vars(host)["DeSTSeg"] is theirs
