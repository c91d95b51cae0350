# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""PFADSeg: DeSTSeg's student and segmentation network with attention in their residual blocks.

Paper: "Teacher Encoder-Student Decoder Denoising Guided Segmentation Network for Anomaly Detection", arXiv 2501.12104.
No code of it is public. The model card says how each unclear sentence was read, and why.
"""

from functools import partial
from pathlib import Path

from destseg_anomalib.models.blocks import AtrousSpatialPyramidPooling, ResidualBlock
from destseg_anomalib.models.similarity import segmentation_channels
from destseg_anomalib.models.student import Student
from destseg_anomalib.models.student_teacher import SegmentationNetwork, StudentTeacherModel
from destseg_anomalib.models.teacher import Teacher

from .attention import (
    AttentionalFeatureFusion,
    ParallelConvolutionalAttentionRecalibration,
    RectangularSelfCalibration,
)


class PFADSegModel(StudentTeacherModel):
    """The three networks of PFADSeg and the map they give.

    Args:
        backbone: timm model whose maps at strides 4, 8 and 16 teach; the paper's is `resnet18.tv_in1k`.
        pre_trained: Whether to load the teacher's weights now. False leaves them random until a checkpoint is loaded.
        backbone_weights: File of teacher weights to use instead of timm's.
        rcm: Whether the segmentation head gathers context by rectangular self-calibration; else by DeSTSeg's pyramid.
        aff: Whether residual blocks fuse by attention; else by a sum.
        pcar: Whether the second convolution of a block is the parallel attention; else a plain one.
        rcm_layer_scale: Start value of the layer scale of `rcm`.
        top_t: How many of the highest pixels the image score averages; None for 100 of 256 x 256, and the same area
            of images of other sizes.
        distance_weight: How much the cosine distances say in the map beside the segmentation network.
        regions: Height and width of the `Regions` to look at; None to look everywhere.
        crop_size: Side in pixels of the parts of images that it is trained on; None for whole ones.
        tile: Side in pixels of the overlapping tiles that an image is judged in; None for one pass up to two million
            pixels, and tiles of at most 1088 above.

    Raises:
        ValueError: If the backbone does not suit, see `Teacher`.
    """

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        *,
        pre_trained: bool = True,
        backbone_weights: str | Path | None = None,
        rcm: bool = True,
        aff: bool = True,
        pcar: bool = True,
        rcm_layer_scale: float = 1.0,
        top_t: int | None = None,
        distance_weight: float = 0.0,
        regions: tuple[int, int] | None = None,
        crop_size: int | None = None,
        tile: int | None = None,
    ) -> None:
        teacher = Teacher(backbone)
        if pre_trained:
            teacher.load_pretrained(backbone_weights)
        block = partial(
            ResidualBlock,
            second=ParallelConvolutionalAttentionRecalibration if pcar else None,
            fusion=AttentionalFeatureFusion if aff else None,
        )
        context = (
            partial(RectangularSelfCalibration, layer_scale=rcm_layer_scale) if rcm else AtrousSpatialPyramidPooling
        )
        super().__init__(
            teacher,
            Student(block, teacher.channels, signed=teacher.signed),
            SegmentationNetwork(segmentation_channels("product", teacher.channels), block, context),
            top_t=top_t,
            distance_weight=distance_weight,
            regions=regions,
            crop_size=crop_size,
            tile=tile,
        )
        # Weights that are sigmoids of noise make the first gradient ten times as large, and nothing of its direction is
        # left in bfloat16: see the card.
        for layer in self.modules():
            if isinstance(layer, AttentionalFeatureFusion):
                layer.begin_as_sum()
