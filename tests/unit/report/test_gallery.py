# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

import shutil

import numpy as np
import pandas as pd
from fabricated import make_results

from destseg_anomalib.report import gallery
from destseg_anomalib.report.gallery import choose, make_gallery, outline
from destseg_anomalib.report.records import read_defects, read_rows
from destseg_anomalib.report.report import write_report


def defects_of(results) -> pd.DataFrame:
    return read_defects(results, read_rows(results))


def test_missed_defects_come_with_the_most_missed_first(tmp_path) -> None:
    # In this set the second model misses the defect of image 0 and the third those of images 0 and 1.
    chosen = choose(defects_of(make_results(tmp_path, categories=["bottle"])))
    missed = [rows for _, group, rows in chosen if group == "missed"]
    assert [rows["image"].iloc[0] for rows in missed] == ["0.png", "1.png"]
    assert [(~rows["found"]).sum() for rows in missed] == [2, 1]
    assert all(list(rows["model"]) == ["DeSTSeg", "Patchcore", "Newcomer"] for rows in missed)


def test_best_and_worst_are_found_by_all_and_share_no_defect(tmp_path) -> None:
    chosen = choose(defects_of(make_results(tmp_path, categories=["bottle"])))
    groups = {
        name: [(rows["image"].iloc[0], rows["region"].iloc[0]) for _, group, rows in chosen if group == name]
        for name in ("best", "worst")
    }
    assert groups["best"][0] == ("5.png", 2)  # scores rise with the image and the region
    assert groups["worst"][0] == ("2.png", 1)
    assert not set(groups["best"]) & set(groups["worst"])
    assert all(rows["found"].all() for _, group, rows in chosen if group != "missed")


def test_the_first_seed_that_finished_is_shown(tmp_path) -> None:
    defects = defects_of(make_results(tmp_path, failing=["Patchcore-bottle-0"]))
    seeds = defects.groupby(["place", "model"])["seed"].unique().map(list).to_dict()
    assert seeds["bottle", "DeSTSeg"] == [0]
    assert seeds["bottle", "Patchcore"] == [1]


def test_jobs_of_two_machines_meet_at_the_same_defects(tmp_path) -> None:
    results = make_results(tmp_path, models=["DeSTSeg", "Stfpm"], categories=["bottle"], seeds=[0])
    for name in ("images.csv", "instances.csv"):
        file = results / "jobs" / "Stfpm-bottle-0" / name
        file.write_text(file.read_text().replace(str(tmp_path), "/mnt/elsewhere"))
    assert all(len(rows) == 2 for _, _, rows in choose(defects_of(results)))


def test_pictures_that_are_not_on_this_machine_are_said_to_be_missing_in_their_places(tmp_path) -> None:
    results = make_results(tmp_path)
    there = write_report(results).read_text(encoding="utf-8")
    assert "not on this machine" not in there
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(results / "jobs" / "DeSTSeg-bottle-0" / "maps")
    gone = write_report(results).read_text(encoding="utf-8")
    assert "The image is not on this machine: " in gone
    assert "This map is not in the results." in gone
    assert "Anomaly map of Patchcore" in gone


def test_an_image_without_its_mask_is_shown_without_an_outline(tmp_path) -> None:
    results = make_results(tmp_path)
    shutil.rmtree(tmp_path / "images" / "bottle" / "masks")
    assert "Its mask is not on this machine, so nothing is outlined." in write_report(results).read_text(
        encoding="utf-8"
    )


def test_pictures_stop_at_the_budget_but_no_category_is_left_empty(tmp_path, monkeypatch) -> None:
    defects = defects_of(make_results(tmp_path))
    full = make_gallery(defects)
    assert full.left_out == 0
    shown = sum(len(views) for groups in full.places.values() for views in groups.values())
    first = full.places["bottle"]["missed"][0]
    one = len(first.picture) + sum(len(view.picture) for view in first.maps)
    monkeypatch.setattr(gallery, "BUDGET", 6 * one)
    short = make_gallery(defects)
    assert 0 < short.left_out < shown
    assert set(short.places) == {"bottle", "cable"}
    assert all(set(groups) == {"missed", "worst", "best"} for groups in short.places.values())


def test_the_thicker_outline_is_around_the_defect_in_question() -> None:
    image, mask = np.full((80, 80, 3), 128, np.uint8), np.zeros((160, 160), np.uint8)
    mask[20:60, 20:60] = mask[100:140, 100:140] = 255  # at a quarter of this size: [5:15] and [25:35]
    for chosen, other, box in (((10, 30), (50, 70), [5, 5, 10, 10]), ((50, 70), (10, 30), [25, 25, 10, 10])):
        drawn = outline(image, mask, np.array(box), np.array([35, 35]))
        white = (drawn > 200).all(axis=2)
        thick, thin = (white[a - 5 : b + 5, a - 5 : b + 5].sum() for a, b in (chosen, other))
        assert thick > 2 * thin > 0
        assert not white[36:44].any()
