# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Which mask belongs to which image.

anomalib sorts the paths of the defective images and those of the masks, and joins them in this order. That is wrong
without a word where folders sort differently, and ends in a message without a name where their numbers differ. Here
names decide, and where they say otherwise than anomalib's order, the image and the mask are named.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anomalib import TaskType
from anomalib.data import MPDD, VAD, Folder, MVTecAD
from anomalib.data.datasets.base.image import AnomalibDataset
from anomalib.data.datasets.image.folder import make_folder_dataset
from anomalib.data.datasets.image.tabular import TabularDataset
from anomalib.data.utils import LabelName
from torchvision.datasets.folder import IMG_EXTENSIONS

from destseg_anomalib.data.images import UnusableImageError

# By file, its place in the list of folders that the data module was given.
Files = Mapping[str, int]

ALIKE = "give each mask the name of its image, and each folder of masks the name of its folder of images"


def check_folder(datamodule: object) -> None:
    """Look at the names of images and masks before a data module is set up, which may fail without naming a file.

    Args:
        datamodule: Any; looked at is one of anomalib's that joins images and masks by the order of their paths.

    Raises:
        UnusableImageError: If a defective image has no mask or several, a mask has no image, or the order of the paths
            would join an image with the mask of another one.
    """
    images, masks = _listed(datamodule)
    if not (images and masks):
        return
    owners = _owners(images, masks)
    for fault in (*_faults_of_images(images, masks, owners), *_faults_of_masks(images, owners)):
        raise UnusableImageError(fault)
    _check_pairs(zip(sorted(images, key=Path), sorted(masks, key=Path), strict=True), owners)


def _faults_of_images(images: Files, masks: Files, owners: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if shared := images.keys() & masks.keys():
        yield f"The file {min(shared)} is listed as an image and as a mask: keep masks in a folder of their own."
    owned = defaultdict(list)
    for mask, candidates in owners.items():
        for image in candidates:
            owned[image].append(mask)
    for image in images:
        if not owned[image]:
            yield (
                f"The defective image {image} has no mask of its name among the {len(masks)} of its set: add it, or "
                "take the image out."
            )
        if len(of_image := [mask for mask in owned[image] if len(owners[mask]) == 1]) > 1:
            yield f"The image {image} has {len(of_image)} masks, {of_image[0]} and {of_image[1]}: join them into one."


def _faults_of_masks(images: Files, owners: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for mask, candidates in owners.items():
        if not candidates:
            yield (
                f"The mask {mask} belongs to none of the {len(images)} defective images by its name: take it out, or "
                "give it the name of its image."
            )
        if len(candidates) > 1:
            yield f"The mask {mask} may be that of {candidates[0]} or of {candidates[1]}: {ALIKE}."


def check_tables(datasets: Sequence[AnomalibDataset]) -> None:
    """Look at the tables of data sets: whether every defective image has a mask, and whether it is its own.

    Args:
        datasets: The data sets of one run.

    Raises:
        UnusableImageError: If an image lacks a mask where others have one, has two different masks or labels, or has
            the mask of another image by its name; the pairs of a `Tabular` table are its author's own.
    """
    pairs: dict[str, str] = {}
    labels: dict[str, int] = {}
    by_order: dict[str, str] = {}
    for dataset in datasets:
        segmented = dataset.samples.attrs.get("task") == TaskType.SEGMENTATION
        for row in dataset.samples.filter(["image_path", "label_index", "mask_path"]).itertuples():
            image, label, mask = row.image_path, row.label_index, _one_path(getattr(row, "mask_path", None))
            _check_entry(image, mask, defective=segmented and label == LabelName.ABNORMAL)
            if labels.setdefault(image, label) != label:
                msg = f"The image {image} is listed as normal and as defective: list it once."
                raise UnusableImageError(msg)
            if label != LabelName.ABNORMAL or not mask:
                continue
            if pairs.setdefault(image, mask) != mask:
                msg = f"The image {image} is listed with two masks, {pairs[image]} and {mask}: join them into one."
                raise UnusableImageError(msg)
            if not isinstance(dataset, TabularDataset):
                by_order[image] = mask
    owners = _owners(dict.fromkeys(by_order, 0), dict.fromkeys(by_order.values(), 0))
    _check_pairs(by_order.items(), {mask: images for mask, images in owners.items() if len(images) == 1})


def _check_entry(image: str, mask: str, *, defective: bool) -> None:
    if not defective:
        return
    if not mask:
        msg = f"The defective image {image} has no mask, while others of its set have one: add it, or take the image "
        msg += "out."
        raise UnusableImageError(msg)
    if not Path(mask).exists():
        msg = f"The defective image {image} has no mask, since {mask} does not exist: add it, or take the image out."
        raise UnusableImageError(msg)
    if Path(mask) == Path(image):
        msg = f"The file {image} is listed as an image and as its own mask: name the file of the mask."
        raise UnusableImageError(msg)


def _check_pairs(pairs: Iterable[tuple[str, str]], owners: Mapping[str, Sequence[str]]) -> None:
    for image, mask in pairs:
        if image not in owners.get(mask, [image]):
            msg = (
                f"The image {image} would get the mask {mask}, which is that of {owners[mask][0]}, since anomalib "
                f"sorts the paths of images and masks and joins them in this order: {ALIKE}."
            )
            raise UnusableImageError(msg)


def _listed(datamodule: object) -> tuple[Files, Files]:
    """Defective images and masks in the folders of a data module."""
    if isinstance(datamodule, Folder):
        if datamodule.abnormal_dir is None or datamodule.mask_dir is None:
            return {}, {}
        folders = [_listed_folders(given) for given in (datamodule.abnormal_dir, datamodule.mask_dir)]
        images, masks = (_files(datamodule, each) for each in folders)
        if len(folders[0]) != len(folders[1]):
            images, masks = dict.fromkeys(images, 0), dict.fromkeys(masks, 0)
        good = _files(datamodule, _listed_folders(datamodule.normal_dir))
        if shared := good.keys() & masks.keys():
            msg = f"The mask {min(shared)} lies among the good images of training: keep masks in a folder of their own."
            raise UnusableImageError(msg)
        return images, masks
    if isinstance(datamodule, MVTecAD | MPDD | VAD):
        folder = datamodule.root / datamodule.category
        files = [path for path in sorted(folder.glob("*/*/*")) if path.suffix in IMG_EXTENSIONS]
        images = {str(path): 0 for path in files if path.parts[-3] == "test" and path.parts[-2] != "good"}
        return images, {str(path): 0 for path in files if path.parts[-3] == "ground_truth"}
    return {}, {}


def _listed_folders(given: Any) -> list[Any]:  # noqa: ANN401  a path, or a sequence of them
    return [given] if isinstance(given, str | Path) else list(given)


def _files(datamodule: Folder, folders: Sequence[Any]) -> dict[str, int]:
    files: dict[str, int] = {}
    for place, folder in enumerate(folders):
        table = make_folder_dataset(normal_dir=folder, root=datamodule.root, extensions=datamodule.extensions)
        files |= dict.fromkeys(table.image_path, place)
    return files


def _owners(images: Files, masks: Files) -> dict[str, list[str]]:
    """Find for each mask the images that it may belong to by its name: one, unless names are missing or ambiguous.

    The name of a mask contains that of its image, as in `7_mask.png`; of several such images the one with the longest
    name is meant. Of images of one name it is the one whose folders are named most alike, then the one whose folder has
    the same place in the list of folders, then the one with the same ending.
    """
    by_stem = defaultdict(list)
    for image in images:
        by_stem[Path(image).stem].append(image)
    base = os.path.commonpath([*images, *masks]) if images else ""
    unlike = cache(lambda *folders: _unlike(*(Path(os.path.relpath(folder, base)).parts for folder in folders)))

    def cost(image: str, mask: str) -> tuple[int, bool, bool]:
        folders = unlike(os.path.dirname(image), os.path.dirname(mask))  # noqa: PTH120 - called for every pair
        return folders, images[image] != masks[mask], Path(image).suffix != Path(mask).suffix

    owners = {}
    for mask in masks:
        costs = {image: cost(image, mask) for image in by_stem.get(_longest_name_in(Path(mask).stem, by_stem), [])}
        owners[mask] = [image for image in costs if costs[image] == min(costs.values())]
    return owners


def _longest_name_in(text: str, names: Mapping[str, object]) -> str:
    """The longest of the names that a text contains, a number in it being a whole number; empty if there is none."""
    for length in range(len(text), 0, -1):
        for start in range(len(text) - length + 1):
            name, before, after = text[start : start + length], text[:start].rstrip("0"), text[start + length :]
            cut = (name[0].isdigit() and before[-1:].isdigit()) or (name[-1].isdigit() and after[:1].isdigit())
            if name in names and not cut:
                return name
    return ""


def _unlike(of_image: Sequence[str], of_mask: Sequence[str]) -> int:
    """Letters by which the names of folders on the way to a mask exceed those of its image, 1000 for one without."""
    extra = [[len(there) - len(here) for there in of_mask if here in there] for here in of_image]
    alone = sum(not any(here in there for here in of_image) for there in of_mask)
    return sum(min(letters, default=1000) for letters in extra) + 1000 * alone


def _one_path(value: object) -> str:
    """Path of a mask in a table, where it is a path, None, NaN, or a list of files in a folder named as the image."""
    if isinstance(value, list) and value:
        return str(Path(value[0]).parent)
    return str(value) if isinstance(value, str | Path) else ""
