# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a new user sees of a run: the same figures again, no line that worries, and at its end where things are."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback, RichProgressBar

from destseg_anomalib import DeSTSeg
from destseg_anomalib.training import two_step
from destseg_anomalib.training.progress_bar import PhaseProgressBar
from destseg_anomalib.training.quiet import hush_replacements
from destseg_anomalib.training.seeds import seeded
from tests.conftest import quiet_engine
from tests.integration.conftest import STEPS, TINY, Bench


def weights(bench: Bench, folder: Path, seed: int | None) -> dict[str, torch.Tensor]:
    model = DeSTSeg(**TINY, **STEPS, seed=seed)
    quiet_engine(folder).fit(model, datamodule=bench.data())
    return {name: value for name, value in model.state_dict().items() if name.startswith("model.")}


def test_a_seed_repeats_a_training_bit_for_bit_and_touches_nobody_elses_numbers(bench: Bench, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with seeded(5):
        assert not torch.equal(torch.get_rng_state(), before)
    DeSTSeg(**TINY, **STEPS, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    runs = []
    for state, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(state)
        runs.append(weights(bench, tmp_path / f"{state}-{seed}", seed))
    assert all(torch.equal(runs[0][name], value) for name, value in runs[1].items())
    assert any(not torch.equal(runs[0][name], value) for name, value in runs[2].items())


def test_a_trial_run_takes_a_step_of_each_phase(bench: Bench) -> None:
    class Phases(Callback):
        seen: list[float]

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.seen = []

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.seen.append(float(trainer.callback_metrics["phase"]))

    for trial, expected in ((True, [1.0, 2.0]), (2, [1.0, 1.0, 2.0, 2.0])):
        phases = Phases()
        model = DeSTSeg(**TINY, student_steps=40, segmentation_steps=60)
        quiet_engine(bench.folder, fast_dev_run=trial, callbacks=[phases]).fit(model, datamodule=bench.data())
        assert phases.seen == expected
        assert (model.hparams.student_steps, model.hparams.segmentation_steps) == (40, 60)


def test_no_line_worries_without_a_cause(bench: Bench, caplog, recwarn) -> None:
    filters = list(warnings.filters)
    bench.loader_workers = 64
    with caplog.at_level(logging.INFO):
        engine = Engine(default_root_dir=bench.folder, accelerator="cpu", devices=1, logger=False, max_steps=-1)
        engine.fit(DeSTSeg(**TINY, **STEPS), datamodule=bench.data())
        engine.test(datamodule=bench.data(), verbose=False)
        bench.predict()
    said = caplog.text + "".join(str(warning.message) for warning in recwarn)
    for worry in ("weights_only", "in eval mode", "Overriding", "override existing", "worker", "dirpath has changed"):
        assert worry not in said, worry
    assert [entry for entry in warnings.filters if entry not in filters] == []


def test_what_somebody_asked_for_in_vain_is_said(caplog) -> None:
    hush_replacements()
    engine = logging.getLogger("anomalib.engine.engine")
    with caplog.at_level(logging.INFO):
        for line in ("max_steps from 100 with 600 for DeSTSeg", "max_steps from -1 with 600 for Dsr"):
            engine.info("Overriding %s", line)
            assert line in caplog.text
        engine.info("Overriding max_steps from -1 with 600 for DeSTSeg")
    assert caplog.text.count("Overriding") == 2


def test_no_more_workers_than_cores_and_the_users_number_comes_back(bench: Bench) -> None:
    bench.loader_workers = 64
    data, seen = bench.data(), []
    original = data.test_dataloader
    data.test_dataloader = lambda: seen.append(data.num_workers) or original()
    bench.engine().test(bench.model, datamodule=data, ckpt_path=bench.checkpoint, verbose=False)
    assert 1 <= seen[0] < 64
    assert data.num_workers == 64


def test_the_bar_counts_the_whole_training_and_shows_losses_of_its_phase(bench: Bench, monkeypatch) -> None:
    shown, counts = [], []
    get_metrics, update = PhaseProgressBar.get_metrics, PhaseProgressBar._update

    def note(self: PhaseProgressBar, *args: Any) -> dict[str, Any]:
        shown.append((self._get_train_description(0), set(get_metrics(self, *args)), self.total_train_batches))
        return get_metrics(self, *args)

    def count(self: PhaseProgressBar, task: Any, current: int, **kwargs: Any) -> None:
        counts.append(current)
        update(self, task, current, **kwargs)

    monkeypatch.setattr(PhaseProgressBar, "get_metrics", note)
    monkeypatch.setattr(PhaseProgressBar, "_update", count)
    bar = RichProgressBar(refresh_rate=1)
    engine = Engine(default_root_dir=bench.folder, accelerator="cpu", devices=1, logger=False, callbacks=[bar])
    model = DeSTSeg(**TINY, student_steps=3, segmentation_steps=2)
    engine.fit(model, datamodule=bench.data())
    assert {total for _, _, total in shown} == {5}
    assert {name for phase, names, _ in shown for name in names if phase == "Phase 1"} == {"student_loss"}
    assert {name for phase, names, _ in shown for name in names if phase == "Phase 2"} == {"focal_loss", "l1_loss"}
    assert counts[:3] == [0, 1, 2]
    assert max(counts) == 5
    assert engine.trainer.progress_bar_callback is bar


def test_losses_are_handed_on_as_often_as_loggers_and_bar_look_and_at_the_start_of_a_phase(
    bench: Bench, monkeypatch
) -> None:
    monkeypatch.setattr(two_step, "LOGGED_AFTER", 1e9)
    logged, asked = [], []
    log_dict, get_metrics = DeSTSeg.log_dict, RichProgressBar.get_metrics

    def log(self: DeSTSeg, values: dict[str, Any], **arguments: Any) -> None:
        logged.append(self.trainer.global_step + 1)
        log_dict(self, values, **arguments)

    def ask(self: RichProgressBar, trainer: Any, *args: Any) -> dict[str, Any]:
        asked.append(trainer.global_step)
        return get_metrics(self, trainer, *args)

    monkeypatch.setattr(DeSTSeg, "log_dict", log)
    monkeypatch.setattr(RichProgressBar, "get_metrics", ask)
    bar = RichProgressBar(refresh_rate=1)
    engine = Engine(
        default_root_dir=bench.folder, accelerator="cpu", logger=False, callbacks=[bar], log_every_n_steps=3
    )
    engine.fit(DeSTSeg(**TINY, student_steps=4, segmentation_steps=4), datamodule=bench.data())
    assert logged == [1, 3, 5, 6]
    assert asked == logged  # a bar that asks waits for a GPU


def test_what_has_ended_holds_no_momentum_and_says_where_it_is(bench: Bench, capsys) -> None:
    model = DeSTSeg(**TINY, **STEPS)
    engine = bench.engine()
    engine.fit(model, datamodule=bench.data())
    path = Path(engine.best_model_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"Trained 2 steps, the student in 1 of them: {path}"
    [momentum] = torch.load(path, weights_only=True)["optimizer_states"]
    assert not momentum["state"]
    assert len(momentum["param_groups"]) == 3
    engine.test(model, datamodule=bench.data())
    assert re.fullmatch("Heat maps and tables of the test: .*images", capsys.readouterr().out.splitlines()[-1])
    longer = DeSTSeg(**TINY, student_steps=1, segmentation_steps=2)
    bench.engine().fit(longer, datamodule=bench.data(), ckpt_path=path)
    assert longer.progress == (3, 1)


def test_a_start_that_fails_leaves_the_last_run_where_it_was(bench: Bench) -> None:
    bench.train()
    [run] = bench.folder.glob("results/DeSTSeg/parts/v*")
    with pytest.raises(ValueError, match="cannot be read"):
        bench.train(regions=bench.folder / "none.png")
    assert [run] == list(bench.folder.glob("results/DeSTSeg/parts/v*"))
    assert (run.parent / "latest").resolve() == run.resolve()
    assert (run.parent / "latest/weights/lightning/model.ckpt").is_file()


@pytest.mark.parametrize("kind", [ExportType.TORCH, ExportType.ONNX])
def test_an_exported_file_lies_in_the_run_it_belongs_to_unless_somebody_says_where(
    bench: Bench, kind: ExportType, monkeypatch
) -> None:
    # What is in the file is tested elsewhere, and takes ten seconds each time.
    monkeypatch.setattr(torch.onnx, "export", lambda *_, f, **__: Path(f).write_text("a model"))
    run = bench.folder / "results/DeSTSeg/parts/v7"
    inside, outside = run / "weights/lightning/model.ckpt", bench.folder / "elsewhere.ckpt"
    inside.parent.mkdir(parents=True)
    for path in (inside, outside):
        path.hardlink_to(bench.checkpoint)
    given = bench.engine().export(DeSTSeg(), kind, export_root=bench.folder / "given", ckpt_path=inside)
    assert given.is_file()
    assert given.is_relative_to(bench.folder / "given")
    assert bench.engine().export(DeSTSeg(), kind, ckpt_path=inside).is_relative_to(run.resolve())
    assert bench.engine().export(DeSTSeg(), kind, ckpt_path=outside).is_relative_to(bench.folder / "results")
    assert DeSTSeg.load_from_checkpoint(inside).run is None  # which somebody may export to where they like
