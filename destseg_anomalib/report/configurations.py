# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Which jobs may be averaged, and names for those that may not: as short as tells them apart."""

import json
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

# The keys that lead to a leaf of a configuration. Leaves are JSON, in which 1, 1.0, "1" and true differ.
Setting = tuple[str, ...]
Settings = dict[Setting, str]

UNKNOWN = "unknown"
# Arguments of data that say which images they are, and not how they are used.
WHICH_DATA = re.compile(r"category|name|root|.*_(dir|path|root)")


def tell_apart(rows: pd.DataFrame, configs: Sequence[Mapping[str, Any] | None]) -> pd.DataFrame:
    """Give jobs that differ in more than their seed different names.

    Models of one name differ if anything in their jobs does but the seed and the data. How their data are used, such as
    in which batches, counts where it differs on one data set, since no figure is an average over two. Data sets of one
    class differ if images of one category lie in different places.

    Args:
        rows: The rows of ``results.csv``.
        configs: The configuration of each row's job, None where it is lost. Jobs that lost theirs are taken for equal,
            unless there are several of one model, category and seed: then nothing says which of them belong together,
            and each has a name of its own.

    Returns:
        The rows with such names in ``model`` and ``dataset``; in ``method`` the name that the model had, empty if it is
        not its class's; and in ``configuration`` all settings in which models of that name differ, or ``unknown``.

    Example:
        >>> rows = pd.DataFrame({"job": ["a", "b"], "model": "Dsr", "dataset": "Visa", "category": "pcb1", "seed": 0})
        >>> data = {"class_path": "Visa", "init_args": {"category": "pcb1"}}
        >>> models = [{"class_path": "Dsr", "init_args": {"latent_anomaly_strength": value}} for value in (0.1, 0.2)]
        >>> list(tell_apart(rows, [{"model": model, "data": data, "seed": 0} for model in models])["model"])
        ['Dsr (latent_anomaly_strength=0.1)', 'Dsr (latent_anomaly_strength=0.2)']
    """
    rows = rows.reset_index(drop=True)
    rows["method"] = [_method(model, config) for model, config in zip(rows["model"], configs, strict=True)]
    rows["configuration"] = ["" if config else UNKNOWN for config in configs]
    lost = rows["configuration"] == UNKNOWN
    settings = [_flatten(config or {}) for config in configs]
    for dataset, index in rows[~lost].groupby("dataset", sort=False).groups.items():
        places = [_part(settings[job], _is_place) for job in index]
        differing = _differing(places, list(rows.loc[index, "category"]))
        rows.loc[index, "dataset"] = _names(str(dataset), places, differing)
    taken: set[str] = set()
    for model, index in rows.groupby("model", sort=False).groups.items():
        known, unknown = index[~lost[index]], index[lost[index]]
        uses = [_part(settings[job], _is_use) for job in known]
        data = [_part(use, lambda setting: setting[0] == "data") for use in uses]
        others = [_part(use, lambda setting: setting[0] != "data") for use in uses]
        differing = _differing(others, [()] * len(uses)) + _differing(data, list(rows.loc[known, "dataset"]))
        names = _names(str(model), uses, differing) + _names_of_lost(str(model), rows.loc[unknown], bool(uses))
        while taken.intersection(names):  # a user may have given a model such a name
            names = [f"{name} (2)" for name in names]
        taken.update(names)
        rows.loc[[*known, *unknown], "model"] = names
        rows.loc[known, "configuration"] = _texts(uses, differing)
    return rows


def _method(model: str, config: Mapping[str, Any] | None) -> str:
    return model if not config or config["model"]["class_path"].lower().split(".")[-1] == model.lower() else ""


def _is_place(setting: Setting) -> bool:
    """Whether a setting says which images a job is about."""
    return setting == ("data", "class_path") or (
        setting[:2] == ("data", "init_args") and WHICH_DATA.fullmatch(setting[2]) is not None
    )


def _is_use(setting: Setting) -> bool:
    return setting != ("seed",) and not _is_place(setting)


def _flatten(value: Any, setting: Setting = ()) -> Settings:  # noqa: ANN401 - anything that JSON may hold
    """Leaves of a configuration; a list of plain values is one."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if value == {} and setting[-1:] in {("init_args",), ("trainer",)}:
        return {}  # as if it were not there
    if not isinstance(value, dict) or not value:
        return {setting: json.dumps(value)}
    return {leaf: text for key, item in value.items() for leaf, text in _flatten(item, (*setting, key)).items()}


def _part(settings: Settings, belongs: Callable[[Setting], bool]) -> Settings:
    return {setting: text for setting, text in settings.items() if belongs(setting)}


def _differing(jobs: Sequence[Settings], groups: Sequence[Hashable]) -> list[Setting]:
    """Settings in which jobs of one group differ, in the order of the configuration."""
    values: dict[tuple[Setting, Hashable], set[str | None]] = {}
    every = dict.fromkeys(setting for job in jobs for setting in job)
    for job, group in zip(jobs, groups, strict=True):
        for setting in every:
            values.setdefault((setting, group), set()).add(job.get(setting))
    found = {setting for (setting, _), texts in values.items() if len(texts) > 1}
    return [setting for setting in every if setting in found]


def _names(base: str, jobs: Sequence[Settings], differing: Sequence[Setting]) -> list[str]:
    """Name each job by the fewest settings that tell all of them apart."""

    def kinds(settings: Sequence[Setting]) -> int:
        return len({tuple(job.get(setting) for setting in settings) for job in jobs})

    chosen: list[Setting] = []
    while kinds(chosen) < kinds(differing):
        chosen.append(max(differing, key=lambda setting: kinds([*chosen, setting])))
    for setting in tuple(chosen):
        rest = [other for other in chosen if other != setting]
        if kinds(rest) == kinds(differing):  # what was chosen later does without it
            chosen = rest
    return [f"{base} ({text})" if text else base for text in _texts(jobs, chosen)]


def _names_of_lost(model: str, rows: pd.DataFrame, others: bool) -> list[str]:
    """Names of jobs whose configurations are lost, where there may be others of that model."""
    if (rows.groupby(["dataset", "category", "seed"])["job"].nunique() > 1).any():
        ends = rows["job"].str.rpartition("-")[2]  # of the whole configuration, which a seed belongs to
        jobs = ends if ends.nunique() == rows["job"].nunique() else rows["job"]
        return [f"{model} (job {job})" for job in jobs]
    return [f"{model} (configuration unknown)" if others else model] * len(rows)


def _texts(jobs: Sequence[Settings], settings: Sequence[Setting]) -> list[str]:
    """Write these settings of each job; one that a job leaves at its default is not mentioned."""
    titles = _titles(settings)
    values = {setting: _values({job[setting] for job in jobs if setting in job}) for setting in settings}
    return [", ".join(f"{titles[each]}={values[each][job[each]]}" for each in settings if each in job) for job in jobs]


def _titles(settings: Sequence[Setting]) -> dict[Setting, str]:
    """The last keys of each setting, as few as tell them apart."""
    tails = {}
    for setting in settings:
        keys = [key for key in setting if key not in {"init_args", "class_path"}] or list(setting)
        tails[setting] = [".".join(keys[-count:]) for count in range(1, len(keys) + 1)] + [".".join(setting)]
    every = [tail for of_one in tails.values() for tail in set(of_one)]
    return {
        setting: next((tail for tail in tails[setting] if every.count(tail) == 1), ".".join(setting))
        for setting in settings
    }


def _values(texts: Collection[str]) -> dict[str, str]:
    """Values as a user would type them, and of paths what they do not share."""
    values = {text: json.loads(text) for text in texts}
    if all(isinstance(value, str) for value in values.values()):
        paths = [value.split("/") for value in values.values()]
        while all(len(path) > 1 and path[1] for path in paths) and len({path[0] for path in paths}) == 1:
            paths = [path[1:] for path in paths]
        values = dict(zip(values, map("/".join, paths), strict=True))
    return {text: one if _is_plain(one) else json.dumps(one, ensure_ascii=False) for text, one in values.items()}


def _is_plain(value: Any) -> bool:  # noqa: ANN401 - anything that JSON may hold
    """Whether a text is clear without quotation marks."""
    if not isinstance(value, str) or not value.isprintable() or value.strip() != value or set(value) & set(',="()'):
        return False
    try:
        json.loads(value)
    except ValueError:
        return value != ""
    return False
