# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What DeSTSeg and PFADSeg share: a teacher, a student, and a network that reads where they disagree.

Paper: Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR 2023,
arXiv 2211.11317, Sec. 3. Equations are the ones of that paper.
"""

from collections.abc import Callable
from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import nn

from .blocks import BlockFactory, conv3x3, init_kaiming, stage
from .losses import cosine_loss, focal_loss, l1_loss, loss_mask
from .regions import Regions
from .similarity import SegmentationInput, l2_normalize, similarity_maps, upsample
from .student import Student
from .teacher import Teacher
from .tiles import Tiling, square, tiled
from .windows import look_no_further
from .witness import DistanceWitness, distance_map

SEGMENTATION_WIDTH, SEGMENTATION_STRIDE = 256, 4  # channels, and pixels of the image a pixel of its maps
TOP_SHARE = 100 / 256**2  # of an image, which its score averages


class SegmentationNetwork(nn.Module):
    """Reads a map of similarities and says, pixel by pixel, how likely an anomaly is (Sec. 3.3).

    Two residual blocks, a module that gathers context, and a 3x3 and a 1x1 convolution. The residual blocks and the
    head learn at different rates, hence the two attributes.

    Args:
        in_channels: Channels of the similarity map.
        block: Makes the residual blocks.
        context: Makes the module of context, from a number of channels that it keeps.
    """

    def __init__(self, in_channels: int, block: BlockFactory, context: Callable[[int], nn.Module]) -> None:
        super().__init__()
        width = SEGMENTATION_WIDTH
        self.residual = stage(block, in_channels, width)
        init_kaiming(self.residual)
        # The head keeps PyTorch's own initialisation, as in the official DeSTSeg code.
        self.head = nn.Sequential(
            context(width),
            conv3x3(width, width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, kernel_size=1),
        )

    def forward(self, similarity: torch.Tensor) -> torch.Tensor:
        """Map similarities (N, in_channels, H, W) to logits (N, 1, H, W)."""
        return self.head(self.residual(similarity))


class StudentTeacherNetworks(nn.Module):
    """Teacher, student and segmentation network, what they see and what they hand on.

    Args:
        teacher: Frozen teacher.
        student: Student that gives maps of the teacher's shapes.
        segmentation: Network that reads `segmentation_input`; None makes the map from the cosine distances alone.
        denoising: Whether the student sees corrupted images in its training phase.
        l1_loss: Whether the segmentation loss has its L1 term.
        segmentation_input: What the segmentation network reads.
        top_t: How many of the highest pixels the image score averages; None for `TOP_SHARE` of them.
        distance_weight: How much the cosine distances say beside the segmentation network, see `DistanceWitness`.
        regions: Height and width of the `Regions` to look at, whose pixels are set later; None to look everywhere.
        crop_size: Side in pixels of the parts of images that all is trained on; None for whole ones.
        tile: Side in pixels of the tiles that an image is judged in; None for what `tiled` chooses by its size.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        segmentation: SegmentationNetwork | None,
        *,
        denoising: bool = True,
        l1_loss: bool = True,
        segmentation_input: SegmentationInput = "product",
        top_t: int | None = None,
        distance_weight: float = 0.0,
        regions: tuple[int, int] | None = None,
        crop_size: int | None = None,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.segmentation = segmentation
        self.denoising = denoising
        self.l1_loss = l1_loss
        self.segmentation_input = segmentation_input
        self.top_t = top_t
        self.witness = DistanceWitness(distance_weight) if distance_weight else None
        if crop_size is not None:
            for stride, part in (*student.levels(), (SEGMENTATION_STRIDE, segmentation)):
                if part is not None:
                    look_no_further(part, -(-crop_size // stride))
        self.tiling = None if tile is None else square(tile)
        self.regions = None if regions is None else Regions(regions)
        self.register_buffer("mean", torch.tensor(teacher.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(teacher.std).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @property
    def tiler(self) -> Tiling | None:
        """How images are cut to be judged; set by anomalib's `TilerConfigurationCallback` as well."""
        return self.tiling

    @tiler.setter
    def tiler(self, tiler: Any) -> None:  # noqa: ANN401  anomalib's `Tiler`
        if tiler.remove_border_count:
            msg = (
                f"remove_border_count={tiler.remove_border_count} would leave the border of each image unjudged: "
                "use 0, since maps of tiles are blended and have no borders."
            )
            raise ValueError(msg)
        self.tiling = Tiling((tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w))

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images to the statistics the teacher was trained with.

        Args:
            images: Images (N, 3, H, W) in [0, 1], of any floating type.

        Returns:
            Images of the type of the weights, so that a copy in half precision takes float32 images, too.

        Raises:
            ValueError: If the images hold integers, which would be read as if 255 were 255 times as bright as white.
        """
        if not images.is_floating_point():
            msg = f"The model was given images of {images.dtype}: pass floating point between 0 and 1, as images / 255."
            raise ValueError(msg)
        images = images.to(self.mean.dtype)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def within_regions(self, images: torch.Tensor) -> torch.Tensor:
        """Give whole images (N, 3, H, W) the mean colour wherever the networks are not to look."""
        if self.regions is None:
            return images
        return torch.where(self.regions.at(images.shape[-2:]), images, self.mean.to(images.dtype))

    def features(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Run teacher and student once on the same images.

        Args:
            images: Images (N, 3, H, W), float, in [0, 1].

        Returns:
            L2-normalised float32 maps of the teacher and of the student at strides 4, 8 and 16.
        """
        normalized = self.normalize(images)
        teacher = [l2_normalize(features) for features in self.teacher(normalized)]
        student = [l2_normalize(features) for features in self.student(normalized)]
        return teacher, student

    def segment(self, teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
        """Run the segmentation network on normalised maps.

        Args:
            teacher: L2-normalised teacher maps, finest first.
            student: L2-normalised student maps, finest first.

        Returns:
            Logits (N, 1, H / 4, W / 4).
        """
        if self.segmentation is None:
            msg = "The model was built with segmentation=False and has no segmentation network."
            raise RuntimeError(msg)
        similarity = similarity_maps(teacher, student, self.segmentation_input)
        return self.segmentation(similarity.to(self.mean.dtype))  # maps are float32, weights may be of half precision


class StudentTeacherModel(StudentTeacherNetworks):
    """The losses of these networks, and the anomaly map they give; arguments as of `StudentTeacherNetworks`."""

    compiled_with: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """Arguments of `compile`, for a copy to be compiled alike; neither copied nor stored."""

    def compile(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Compile in place, as `torch.nn.Module.compile` does with the same arguments; the state dict keeps its keys.

        A training calls the networks and not this module, so each is compiled for it, too.
        """
        for network in (self.teacher, self.student, self.segmentation):
            if network is not None:
                network.compile(*args, **kwargs)
        super().compile(*args, **kwargs)
        self.compiled_with = args, kwargs

    def __getstate__(self) -> dict[str, Any]:
        """Leave out how it is compiled, as `torch.nn.Module` does."""
        return {name: value for name, value in super().__getstate__().items() if name != "compiled_with"}

    def __call__(self, images: torch.Tensor) -> InferenceBatch:
        """Call the module; once compiled, it takes batches of any length, such as the last one of a test."""
        if self._compiled_call_impl is not None and not torch.compiler.is_compiling():
            images = images.as_subclass(torch.Tensor)  # the compiler does not know torchvision's
            torch._dynamo.maybe_mark_dynamic(images, 0)
            torch._dynamo.mark_static(images, [2, 3])  # or it looks for what holds of all sizes, for minutes
        return super().__call__(images)

    def student_loss(self, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
        """Phase 1: how far the student's view of corrupted images is from the teacher's of the clean ones (Eq. 4).

        Args:
            clean: Images (N, 3, H, W), float, in [0, 1].
            corrupted: The same images with synthetic anomalies; not used with `denoising=False`.

        Returns:
            Scalar, summed over the images.
        """
        teacher = self.teacher(self.normalize(self.within_regions(clean)))
        student = self.student(self.normalize(self.within_regions(corrupted if self.denoising else clean)))
        return cosine_loss(teacher, student)

    def segmentation_losses(self, corrupted: torch.Tensor, mask: torch.Tensor, gamma: float) -> dict[str, torch.Tensor]:
        """Phase 2: how well the segmentation network finds the synthetic anomalies (Eq. 5 to 7).

        Args:
            corrupted: Images (N, 3, H, W), float, in [0, 1], with synthetic anomalies.
            mask: Binary float32 mask (N, 1, H, W) of the anomalies.
            gamma: Focusing exponent of the focal loss.

        Returns:
            `focal` and, unless switched off, `l1`: scalars, means over images and pixels.
        """
        with torch.no_grad():
            teacher, student = self.features(self.within_regions(corrupted))
        logits = self.segment(teacher, student)
        small = loss_mask(mask, logits.shape[-2:])
        losses = {"focal": focal_loss(logits, small, gamma)}
        if self.l1_loss:
            losses["l1"] = l1_loss(logits, small)
        if self.witness is not None:
            self.witness.learn(teacher, student, small)
        return losses

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        """Find anomalies; every network runs once, or once a tile.

        Args:
            images: Images (N, 3, H, W), float, in [0, 1].

        Returns:
            `pred_score` (N,), the mean of the `top_t` highest pixels, and `anomaly_map` (N, 1, H, W), both float32 in
            [0, 1] (without the segmentation network in [0, 8]).
        """
        images = self.within_regions(images)
        anomaly_map = tiled(self._map, images, self.tiling)
        if self.regions is not None:
            anomaly_map = self.regions(anomaly_map)
        pixels = anomaly_map.flatten(start_dim=1)
        count = round(TOP_SHARE * pixels.shape[1]) if self.top_t is None else self.top_t
        top = pixels.topk(min(max(count, 1), pixels.shape[1]), dim=1, sorted=False).values
        return InferenceBatch(pred_score=top.mean(dim=1), anomaly_map=anomaly_map)

    def _map(self, images: torch.Tensor) -> torch.Tensor:
        """Make the map (N, 1, H, W) of images or tiles."""
        teacher, student = self.features(images)
        if self.segmentation is None:
            small = distance_map(teacher, student)
        else:
            logits = self.segment(teacher, student).float()
            if self.witness is not None:
                logits = self.witness(logits, teacher, student)
            small = logits.sigmoid()
        return upsample(small, images.shape[-2:])
