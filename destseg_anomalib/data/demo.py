# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""A small surface-inspection data set, made on the spot from real photographs."""

import logging
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import platformdirs
from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from destseg_anomalib.data.defects import DEFECTS, SMALL_DEFECTS, Grey, add_defects

logger = logging.getLogger(__name__)

# Photographs by their name in `skimage.data`, and the share of their contrast that is kept: blades and stones in full
# sun would hide any defect, and an inspection is lit softly.
CATEGORIES = {"brick": 1.0, "grass": 0.4, "gravel": 0.4}
GENERATOR_VERSION = 1  # raise it with every change of the pictures: each version has its own folder
IMAGE_SIZE = 256
TRAIN_GOOD, TEST_GOOD, PER_DEFECT = 96, 20, 10
LARGE = 1024


class DemoSurfaces(AnomalibDataModule):
    """A small MVTec-AD-style data set from the photographs of surfaces that scikit-image ships. Nothing is downloaded.

    Each category is one grey photograph of 512x512 pixels: ``brick`` and ``gravel`` come from CC0Textures ("Bricks25",
    "Gravel04"), ``grass`` from DeviantArt ("Grass 01" by linolafett); all three are under CC0. A piece is a crop of it
    at 256x256 pixels with its own light, contrast, noise, small rotation, zoom and mirroring. Pieces for training come
    from the left half of the photograph and pieces for testing from the right half: no pixel is seen in both. Defects
    (dent, scratch, spot, stain; one to three in an image) are drawn, their masks exact. Brick is the easiest surface;
    on grass and gravel the texture camouflages small spots and thin stains.

    The set has 96 normal training images and 60 test images: 20 normal, 10 of each defect. It is written once, in
    about a second, to ``<root>/v<version>-seed<seed>/<category>`` in MVTec AD's layout, and used again afterwards.

    With ``size=1024`` pieces show more of the photograph, and the defects, nick and speck, have 4 to 13 pixels: in an
    image that was reduced to 256x256 most are gone. As many images of this size are written in some ten seconds.

    Args:
        category: Surface: ``"brick"``, ``"grass"`` or ``"gravel"``.
        root: Folder for the pictures. ``None`` means ``destseg_anomalib/demo_surfaces`` in the user's cache folder.
        train_batch_size: Images in a training batch.
        eval_batch_size: Images in a validation or test batch.
        num_workers: Worker processes of each loader. The default is 0: to start workers takes longer than to read
            pictures this small.
        train_augmentations: Augmentations of training images.
        val_augmentations: Augmentations of validation images.
        test_augmentations: Augmentations of test images.
        augmentations: Augmentations of every stage that has none of its own.
        test_split_mode: How the test set comes about.
        test_split_ratio: Share of the training images that a synthetic test set takes.
        val_split_mode: How the validation set comes about; by default it *is* the test set, as for MVTec AD.
        val_split_ratio: Share of the images that a validation set takes where it is split off.
        seed: Seed (>= 0) of the pictures and of the splits.
        size: Height and width of the pictures in pixels, 256 or 1024.

    Raises:
        ValueError: If category or size do not exist, or the seed is negative.

    Example:
        >>> root = getfixture("tmp_path")
        >>> datamodule = DemoSurfaces(root=root, eval_batch_size=4)
        >>> datamodule.setup()
        >>> len(datamodule.train_data), len(datamodule.test_data)
        (96, 60)
        >>> batch = next(iter(datamodule.test_dataloader()))
        >>> batch.image.shape, batch.gt_mask.shape
        (torch.Size([4, 3, 256, 256]), torch.Size([4, 256, 256]))
    """

    def __init__(
        self,
        category: str = "brick",
        root: Path | str | None = None,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int = 0,
        size: int = IMAGE_SIZE,
    ) -> None:
        if category not in CATEGORIES:
            msg = f"DemoSurfaces has no category '{category}': choose one of {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        if seed < 0:
            msg = f"DemoSurfaces got seed={seed}: pass a seed of 0 or more."
            raise ValueError(msg)
        if size not in {IMAGE_SIZE, LARGE}:
            msg = f"DemoSurfaces has no pictures of size={size}: choose {IMAGE_SIZE} or {LARGE}."
            raise ValueError(msg)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        cache = platformdirs.user_cache_path("destseg_anomalib", appauthor=False) / "demo_surfaces"
        of_size = "" if size == IMAGE_SIZE else f"-{size}"
        self.root = (cache if root is None else Path(root)) / f"v{GENERATOR_VERSION}-seed{seed}{of_size}"
        self.size = size
        self.category = category

    def prepare_data(self) -> None:
        """Write the pictures, unless they are there.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = self.root / self.category
        if folder.is_dir():
            return
        logger.info("Making the demo set in %s", folder)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Made aside and moved into place whole: a killed run leaves nothing that a later one would take for a set.
            with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=self.root, ignore_cleanup_errors=True) as aside:
                finished = Path(aside) / self.category
                write_demo_surface(finished, self.category, self.seed, self.size)
                try:
                    finished.rename(folder)
                except OSError:
                    if not folder.is_dir():  # otherwise another process was faster, with the same pictures
                        raise
        except OSError as error:
            msg = f"DemoSurfaces cannot write its pictures to {folder} ({error.strerror}): pass root= with a folder "
            msg += "that you may write to."
            raise OSError(msg) from error

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()  # costs nothing where it has run, and lets `setup()` be called alone
        self.train_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TRAIN)
        self.test_data = MVTecADDataset(root=self.root, category=self.category, split=Split.TEST)


def write_demo_surface(folder: Path, category: str, seed: int, size: int = IMAGE_SIZE) -> None:
    """Write one category in MVTec AD's layout.

    Args:
        folder: New folder of the category; gets ``train/good``, ``test/good``, ``test/<defect>`` and
            ``ground_truth/<defect>/<name>_mask.png``.
        category: One of :data:`CATEGORIES`.
        seed: Seed of everything random; the same seed gives the same bytes.
        size: Height and width of the pictures.
    """
    from skimage import data  # noqa: PLC0415 - needed once, when the pictures are made

    photograph = getattr(data, category)().astype(np.float32)
    photograph = photograph.mean() + CATEGORIES[category] * (photograph - photograph.mean())
    half = photograph.shape[1] // 2
    train_part, test_part = photograph[:, :half], photograph[:, half:]
    rng = np.random.default_rng([seed, *category.encode(), *([] if size == IMAGE_SIZE else [size])])
    kinds, per_kind = (DEFECTS, PER_DEFECT) if size == IMAGE_SIZE else (SMALL_DEFECTS, 2 * PER_DEFECT)
    for index in range(TRAIN_GOOD):
        _write(folder / "train" / "good" / f"{index:03}.png", _expose(_piece(train_part, rng, size), rng))
    for index in range(TEST_GOOD):
        _write(folder / "test" / "good" / f"{index:03}.png", _expose(_piece(test_part, rng, size), rng))
    for kind in kinds:
        for index in range(per_kind):
            marked, mask = add_defects(_piece(test_part, rng, size), kind, rng)
            _write(folder / "test" / kind / f"{index:03}.png", _expose(marked, rng))
            _write(folder / "ground_truth" / kind / f"{index:03}_mask.png", mask.astype(np.uint8) * 255)


def _piece(part: Grey, rng: np.random.Generator, size: int) -> Grey:
    """A square of 150 to 180 pixels, or up to 230, of a part of the photograph, turned by up to 4 degrees, enlarged."""
    side = rng.uniform(150, 180) if size == IMAGE_SIZE else rng.uniform(200, 230)
    angle = np.deg2rad(rng.uniform(-4, 4))
    reach = side / 2 * (np.cos(angle) + np.sin(abs(angle))) + 1  # half of the bounding box of the turned square
    height, width = part.shape
    centre = np.array([rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * side / size
    offset = centre - turn @ np.full(2, (size - 1) / 2)
    piece = cv2.warpAffine(
        part,
        np.column_stack([turn, offset]),
        (size, size),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.ascontiguousarray(piece[:, ::-1] if rng.random() < 0.5 else piece, dtype=np.float32)


def _expose(piece: Grey, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """What a camera makes of a piece: contrast, brightness, a lamp a little to one side, sensor noise."""
    y, x = np.mgrid[-1 : 1 : len(piece) * 1j, -1 : 1 : len(piece) * 1j]
    lamp = 1 + rng.normal(0, 0.03) * x + rng.normal(0, 0.03) * y
    mean = piece.mean()
    exposed = (mean + (piece - mean) * rng.uniform(0.92, 1.08)) * lamp * rng.uniform(0.94, 1.06)
    exposed += rng.normal(0, 1.5, piece.shape)
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def _write(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
