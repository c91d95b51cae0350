# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Jobs that differ in anything but their seed are told apart, wherever a report averages, draws or names."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fabricated import make_results
from hypothesis import given, settings
from hypothesis import strategies as st

from destseg_anomalib.report.charts import library
from destseg_anomalib.report.configurations import tell_apart
from destseg_anomalib.report.gallery import choose
from destseg_anomalib.report.records import read_curves, read_defects, read_rows
from destseg_anomalib.report.report import write_report
from destseg_anomalib.report.tables import LAYOUTS, compare, summarise, to_markdown


def config(
    arguments: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    category: str = "bottle",
    seed: int = 0,
    model: dict[str, Any] | None = None,
    **job: object,
) -> dict[str, Any]:
    """Configuration of a job, as `anomalib benchmark` stores it."""
    return {
        "model": {"class_path": "DeSTSeg", "init_args": arguments or {}} | (model or {}),
        "data": {"class_path": "MVTecAD", "init_args": {"category": category, "root": "mvtec"} | (data or {})},
        "seed": seed,
        "accelerator": "cpu",
        "image_size": None,
    } | job


def told_apart(*configs: dict[str, Any] | None, jobs: list[str] | None = None, **columns: object) -> pd.DataFrame:
    """The rows of jobs with these configurations."""
    rows = [
        {"job": f"job-{index}", "model": "DeSTSeg", "dataset": "MVTecAD", "category": "bottle", "seed": 0}
        | ({"category": each["data"]["init_args"].get("category", ""), "seed": each["seed"]} if each else {})
        for index, each in enumerate(configs)
    ]
    return tell_apart(pd.DataFrame(rows).assign(**columns, **({"job": jobs} if jobs else {})), configs)


def names_of(*configs: dict[str, Any] | None, **columns: object) -> list[str]:
    return list(told_apart(*configs, **columns)["model"])


def test_jobs_that_differ_in_their_seed_and_category_alone_keep_their_name() -> None:
    jobs = [config({"student_steps": 1}, category=place, seed=seed) for place in ("bottle", "tile") for seed in (0, 1)]
    rows = told_apart(*jobs)
    assert set(rows["model"]) == {"DeSTSeg"}
    assert set(rows["dataset"]) == {"MVTecAD"}
    assert set(rows["configuration"]) == {""}


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (config({"student_steps": 1}), config({"student_steps": 40}), ["student_steps=1", "student_steps=40"]),
        (config(), config({"student_steps": 40}), ["", "student_steps=40"]),
        (
            config(data={"train_batch_size": 8}),
            config(data={"train_batch_size": 16}),
            ["train_batch_size=8", "train_batch_size=16"],
        ),
        (config(image_size=None), config(image_size=[64, 64]), ["image_size=null", "image_size=[64, 64]"]),
        (
            config(model={"trainer": {"max_epochs": 1}}),
            config(model={"trainer": {"max_epochs": 2}}),
            ["max_epochs=1", "max_epochs=2"],
        ),
        (config(accelerator="cpu"), config(accelerator="cuda"), ["accelerator=cpu", "accelerator=cuda"]),
        (
            config(model={"textures": "/data/pictures"}),
            config(model={"textures": "/data/other"}),
            ["textures=pictures", "textures=other"],
        ),
        (config(model={"backbone_weights": "offline"}), config(), ["backbone_weights=offline", ""]),
        (config({"layers": ["a"]}), config({"layers": ["a", "b"]}), ['layers=["a"]', 'layers=["a", "b"]']),
        (config({"x": 1}), config({"x": "1"}), ["x=1", 'x="1"']),
        (config({"x": 1}), config({"x": True}), ["x=1", "x=true"]),
        (config({"x": 1}), config({"x": 1.0}), ["x=1", "x=1.0"]),
        (config({"x": None}), config({"x": "null"}), ["x=null", 'x="null"']),
        (config({"x": "a, y=b"}), config({"x": "a", "y": "b"}), ['x="a, y=b"', "x=a"]),
        (
            config({"loss": {"class_path": "Focal", "init_args": {"gamma": 2}}}),
            config({"loss": {"class_path": "Focal", "init_args": {"gamma": 4}}}),
            ["gamma=2", "gamma=4"],
        ),
        (config({"loss": {"class_path": "Focal"}}), config({"loss": {"class_path": "L1"}}), ["loss=Focal", "loss=L1"]),
        (
            config({"steps": [{"class_path": "A"}, {"class_path": "B"}]}),
            config({"steps": [{"class_path": "A"}]}),
            ["1=B", ""],
        ),
        (config(model={"class_path": "mine.DeSTSeg"}), config(), ["model=mine.DeSTSeg", "model=DeSTSeg"]),
        (config({"top_t": {}}), config(), ["top_t={}", ""]),
    ],
)
def test_whatever_differs_is_in_the_name_and_nothing_else(one, other, names) -> None:
    assert names_of(one, other) == [f"DeSTSeg ({name})" if name else "DeSTSeg" for name in names]


def test_a_name_has_the_fewest_settings_that_tell_apart_and_the_page_has_them_all() -> None:
    jobs = [
        config({"backbone": backbone, "student_steps": steps, "top_t": steps})
        for backbone, steps in (("a", 1), ("a", 2), ("b", 3))
    ]
    rows = told_apart(*jobs)
    assert list(rows["model"]) == [f"DeSTSeg (student_steps={steps})" for steps in (1, 2, 3)]
    assert rows["configuration"][2] == "backbone=b, student_steps=3, top_t=3"


def test_settings_of_one_name_in_two_places_are_named_by_the_place_as_well() -> None:
    jobs = [config({"image_size": own}, image_size=size) for own in (1, 2) for size in (3, 4)]
    assert names_of(*jobs)[0] == "DeSTSeg (model.image_size=1, image_size=3)"
    assert len(set(names_of(*jobs))) == 4


def test_what_data_are_told_on_one_set_only_says_nothing_about_a_model() -> None:
    mvtec = [config(data={"train_batch_size": 8}, seed=seed) for seed in (0, 1)]
    tiles = [
        config(data={"class_path": "Folder", "name": "tile", "root": "tiles", "train_batch_size": 4}, seed=seed)
        for seed in (0, 1)
    ]
    assert set(names_of(*mvtec, *tiles, dataset=["MVTecAD"] * 2 + ["Folder"] * 2)) == {"DeSTSeg"}


def test_categories_that_are_used_in_other_ways_are_not_averaged() -> None:
    jobs = [config(data={"train_batch_size": size}, category=place) for place, size in (("bottle", 8), ("tile", 16))]
    assert names_of(*jobs) == ["DeSTSeg (train_batch_size=8)", "DeSTSeg (train_batch_size=16)"]


def test_two_folders_of_one_category_are_two_data_sets_and_those_of_two_categories_are_one() -> None:
    same = told_apart(config(data={"root": "old/mvtec"}), config(data={"root": "new/mvtec"}))
    assert list(same["dataset"]) == ["MVTecAD (root=old/mvtec)", "MVTecAD (root=new/mvtec)"]
    assert set(same["model"]) == {"DeSTSeg"}
    other = told_apart(config(data={"root": "a"}), config(data={"root": "b"}, category="tile"))
    assert set(other["dataset"]) == {"MVTecAD"}


def test_a_name_that_a_user_chose_is_never_taken_for_one_that_was_made() -> None:
    jobs = [config({"x": 1}), config({"x": 2}), config(model={"name": "DeSTSeg (x=1)"})]
    names = names_of(*jobs, model=["DeSTSeg", "DeSTSeg", "DeSTSeg (x=1)"])
    assert len(set(names)) == 3


def test_the_papers_method_is_that_of_the_class_and_not_of_another_class_with_its_name() -> None:
    jobs = [config({"x": 1}), config({"x": 2}), config(model={"class_path": "Padim", "name": "DeSTSeg"})]
    assert list(told_apart(*jobs)["method"]) == ["DeSTSeg", "DeSTSeg", ""]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["a", "a/b", "1", "", "a, x=1", "x y"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y", "class_path"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(deadline=None)  # a machine that runs tests may be busy
@given(st.lists(st.dictionaries(st.sampled_from(["x", "y"]), JSON, max_size=2), min_size=2, max_size=4))
def test_names_are_equal_where_configurations_are_and_only_there(arguments) -> None:
    names = names_of(*(config(each) for each in arguments))
    for (one, name), (other, its_name) in pairwise(zip(arguments, names, strict=True)):
        assert (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)) == (name == its_name)


def test_configurations_that_are_lost_are_taken_for_equal_where_each_seed_has_one_job() -> None:
    rows = told_apart(None, None, seed=[0, 1])
    assert set(rows["model"]) == {"DeSTSeg"}
    assert set(rows["configuration"]) == {"unknown"}
    assert names_of(config(), None, seed=[0, 1]) == ["DeSTSeg", "DeSTSeg (configuration unknown)"]


def test_configurations_that_are_lost_are_never_taken_for_equal_where_a_seed_has_two_jobs() -> None:
    jobs = [f"DeSTSeg-bottle-seed{seed}-{end}" for seed in (0, 1) for end in ("aa", "bb")]
    jobs[2:] = ["DeSTSeg-bottle-seed1-cc", "DeSTSeg-bottle-seed1-dd"]
    names = names_of(None, None, None, None, seed=[0, 0, 1, 1], jobs=jobs)
    assert names == [f"DeSTSeg (job {end})" for end in ("aa", "bb", "cc", "dd")]


def make_two_configurations(root: Path, **arguments: Any) -> Path:
    """Results of DeSTSeg on two categories and seeds, and of another of its configurations, which is 0.1 worse."""
    results = make_results(root, models=["DeSTSeg", "Other"])
    table = pd.read_csv(results / "results.csv")
    table["model"] = "DeSTSeg"
    table.to_csv(results / "results.csv", index=False)
    for file in results.glob("jobs/*/result.json"):
        record = json.loads(file.read_text())
        steps = 40 if file.parent.name.startswith("Other") else 1
        record["config"]["model"] = {"class_path": "DeSTSeg", "init_args": {"student_steps": steps}}
        file.write_text(json.dumps(record))
    return results


NAMES = ["DeSTSeg (student_steps=1)", "DeSTSeg (student_steps=40)"]


def test_two_configurations_are_two_rows_lines_and_maps_everywhere_in_the_report(tmp_path) -> None:
    results = make_two_configurations(tmp_path)
    page = write_report(results)
    summary = pd.read_csv(page.with_name("summary.csv")).query("figure == 'IAP'").set_index(["place", "model"])
    assert summary["mean"]["bottle"].to_dict() == pytest.approx(dict(zip(NAMES, (91, 81), strict=True)))
    assert summary["mean"]["average"].to_dict() == pytest.approx(dict(zip(NAMES, (86, 76), strict=True)))
    assert set(summary["seeds"]) == {2}
    header = next(line for line in page.with_name("table_3_instance.md").read_text().splitlines() if "category" in line)
    assert header == f"| category | {NAMES[0]} | {NAMES[0]}, paper | {NAMES[1]} | {NAMES[1]}, paper |"
    html = page.read_text(encoding="utf-8")
    for name in NAMES:
        assert html.count(f'<th scope="row">{name}</th>') == 3
        assert f"<b>{name}</b>" in html
    rows = read_rows(results)
    assert set(read_curves(results, rows)["model"]) == set(NAMES)
    assert set(read_defects(results, rows)["model"]) == set(NAMES)


def test_without_the_folders_of_their_jobs_two_configurations_are_not_averaged_and_the_report_says_so(tmp_path) -> None:
    results = make_two_configurations(tmp_path)
    shutil.rmtree(results / "jobs")
    page = write_report(results)
    summary = pd.read_csv(page.with_name("summary.csv")).query("figure == 'IAP'")
    assert sorted(summary["mean"]) == pytest.approx([70, 72, 80, 80, 82, 82, 90, 92])
    assert set(summary["seeds"]) == {1}
    for file in (page, page.with_name("table_1_image.md")):
        assert "Some folders in jobs are missing" in file.read_text(encoding="utf-8")


def test_a_result_that_is_no_json_is_named(tmp_path) -> None:
    results = make_results(tmp_path)
    (results / "jobs" / "DeSTSeg-bottle-0" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"DeSTSeg-bottle-0/result\.json cannot be read .*: delete it and run"):
        write_report(results)


def test_a_row_that_is_there_twice_is_one_measurement_and_one_curve(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    table = pd.read_csv(results / "results.csv")
    pd.concat([table, table[:1]]).to_csv(results / "results.csv", index=False)
    file = results / "jobs" / "DeSTSeg-bottle-0" / "curve.csv"
    pd.read_csv(file).assign(precision=0.0).to_csv(file, index=False)
    rows = read_rows(results)
    row = summarise(rows).query("figure == 'IAP'").iloc[0]
    assert (row["mean"], row["seeds"]) == (pytest.approx(91), 2)
    other = pd.read_csv(results / "jobs" / "DeSTSeg-bottle-1" / "curve.csv")["precision"]
    assert read_curves(results, rows)["precision"].mean() == pytest.approx(other.mean() / 2)


def test_times_of_two_kinds_of_machines_are_not_averaged_and_figures_are(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle"])
    table = pd.read_csv(results / "results.csv").assign(machine=["a: Xeon", "b: H100"], fit_seconds=[60, 10])
    table.to_csv(results / "results.csv", index=False)
    summary = summarise(read_rows(results)).set_index(["figure", "machine"])
    assert summary["mean"]["fit_seconds"].to_dict() == {"Xeon": 60, "H100": 10}
    assert summary["mean"]["IAP"].to_dict() == {"": pytest.approx(91)}
    html = write_report(results).read_text(encoding="utf-8")
    assert re.search(r'<td class="number" data-value="60">60\.0 / 10\.0</td>', html)
    assert "machines of several kinds" in html


@pytest.mark.parametrize("names", [("NA", "null"), ("nan", "None")])
def test_names_that_look_like_gaps_are_names(tmp_path, names) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=names, dataset="Folder")
    assert set(summarise(read_rows(results))["place"]) == {*names, "average"}


def test_a_category_called_average_is_no_average(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle", "average"], dataset="Folder")
    summary = summarise(read_rows(results)).query("figure == 'IAP'").set_index("place")["mean"]
    assert summary.to_dict() == pytest.approx({"bottle": 91, "average (category)": 81, "average": 86})


def test_each_data_set_stands_beside_the_published_average_of_its_own_categories(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg"], categories=["bottle", "cable", "tile"], seeds=[0])
    rows = read_rows(results)
    less = rows[rows["category"] != "tile"].assign(dataset="MVTecAD (root=b)", place=rows["category"] + " b")
    together = compare(summarise(pd.concat([rows, less])))
    alone = compare(summarise(less))
    average = together.query("dataset == 'MVTecAD (root=b)' and category == 'average'")
    assert list(average["published"]) == list(alone.query("category == 'average'")["published"])
    assert average["published"].notna().any()


@pytest.mark.parametrize("name", ["a|b", "<i>x</i>", "*x*", "`x`", "a\nb", "[x](y)", "_x_", "x\\", "&lt;"])
def test_names_with_signs_of_markdown_or_html_leave_tables_whole(tmp_path, name) -> None:
    results = make_results(tmp_path, models=["m"], categories=["bottle"], seeds=[0])
    table = pd.read_csv(results / "results.csv").assign(model=name, category=f"on {name}")
    table.to_csv(results / "results.csv", index=False)
    page = write_report(results)
    lines = to_markdown(LAYOUTS[1], compare(summarise(read_rows(results)))).splitlines()
    grid = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in grid} == {3}
    assert "<i>" not in page.read_text(encoding="utf-8").replace(library(), "") + "".join(grid)
    assert set(pd.read_csv(page.with_name("summary.csv"))["model"]) == {name}


def shrink(results: Path, job: str, factor: float) -> None:
    """Let a job have judged its images at another size."""
    file = results / "jobs" / job / "instances.csv"
    table = pd.read_csv(file)
    box = ["left", "top", "width", "height"]
    table[box] = (table[box] * factor).round().astype(int)
    table.to_csv(file, index=False)


def test_a_defect_is_the_same_at_every_size_and_in_every_order(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg", "Other"], categories=["bottle"], seeds=[0])
    expected = read_defects(results, read_rows(results)).sort_values(["model", "image", "top"])["region"]
    shrink(results, "Other-bottle-0", 0.5)
    file = results / "jobs" / "Other-bottle-0" / "instances.csv"
    table = pd.read_csv(file)
    table["region"] = 1 + table.groupby("image")["region"].transform("max") - table["region"]  # in reverse
    table.to_csv(file, index=False)
    defects = read_defects(results, read_rows(results)).sort_values(["model", "image", "top"])
    assert list(defects["region"]) == list(expected)


def test_a_defect_that_one_model_never_saw_is_not_said_to_be_found_by_all(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg", "Other"], categories=["bottle"], seeds=[0])
    file = results / "jobs" / "Other-bottle-0" / "instances.csv"
    pd.read_csv(file)[:-1].to_csv(file, index=False)  # of the last image it has the upper defect alone
    chosen = choose(read_defects(results, read_rows(results)))
    assert all(len(rows) == 2 for _, group, rows in chosen if group != "missed")
