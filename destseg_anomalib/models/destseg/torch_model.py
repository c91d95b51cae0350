# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""DeSTSeg: denoising student, frozen teacher, and a network that learns to read where they disagree.

Paper: Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR 2023,
arXiv 2211.11317. Where the paper and its official code differ, the model card says which one is followed.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from destseg_anomalib.models.blocks import AtrousSpatialPyramidPooling, ResidualBlock
from destseg_anomalib.models.similarity import SegmentationInput, segmentation_channels
from destseg_anomalib.models.student import Student, zero_init_last_norm
from destseg_anomalib.models.student_teacher import (
    SegmentationNetwork,
    StudentTeacherModel,
)
from destseg_anomalib.models.teacher import Teacher

# Prefixes of the official checkpoint and ours; the longest that matches applies.
REFERENCE_PREFIXES = {
    "teacher_net.encoder.": "teacher.backbone.",
    "student_net.": "student.",
    "segmentation_net.res.": "segmentation.residual.",
    "segmentation_net.head.0.aspp_feature_extractors.0.1.": "segmentation.head.0.pooled.",
    "segmentation_net.head.0.aspp_feature_extractors.1.": "segmentation.head.0.dilated.0.",
    "segmentation_net.head.0.aspp_feature_extractors.2.": "segmentation.head.0.dilated.1.",
    "segmentation_net.head.0.aspp_feature_extractors.3.": "segmentation.head.0.dilated.2.",
    "segmentation_net.head.0.aspp_fusion_layer.": "segmentation.head.0.fuse.",
    "segmentation_net.head.": "segmentation.head.",
}


class DeSTSegModel(StudentTeacherModel):
    """The three networks of DeSTSeg and the map they give.

    Args:
        backbone: timm model whose maps at strides 4, 8 and 16 teach; the paper's is `resnet18.tv_in1k`.
        pre_trained: Whether to load the teacher's weights now. False leaves them random until a checkpoint is loaded.
        backbone_weights: File of teacher weights to use instead of timm's.
        denoising: Whether the student sees corrupted images in its training phase (Table 4, "den").
        encoder_decoder: Whether the student has a decoder (Table 4, "ed").
        segmentation: Whether the segmentation network makes the map (Table 4, "seg"); without it the map is the
            product of the three upsampled cosine distances.
        l1_loss: Whether the segmentation loss has its L1 term (Table 5).
        segmentation_input: What the segmentation network reads (Table 6): the channel-wise `product` of the
            normalised maps, both maps (`concat`), or their `cosine` distances.
        top_t: How many of the highest pixels the image score averages (Table S2); None for 100 of 256 x 256, and the
            same area of images of other sizes.
        distance_weight: How much the cosine distances say in the map beside the segmentation network.
        regions: Height and width of the `Regions` to look at; None to look everywhere.
        crop_size: Side in pixels of the parts of images that it is trained on; None for whole ones.
        tile: Side in pixels of the overlapping tiles that an image is judged in; None for one pass up to two million
            pixels, and tiles of at most 1088 above.

    Raises:
        ValueError: If the backbone does not suit, see `Teacher`, `segmentation_input` is none of the three, or
            `distance_weight` is negative or is given without a segmentation network.
    """

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        *,
        pre_trained: bool = True,
        backbone_weights: str | Path | None = None,
        denoising: bool = True,
        encoder_decoder: bool = True,
        segmentation: bool = True,
        l1_loss: bool = True,
        segmentation_input: SegmentationInput = "product",
        top_t: int | None = None,
        distance_weight: float = 0.0,
        regions: tuple[int, int] | None = None,
        crop_size: int | None = None,
        tile: int | None = None,
    ) -> None:
        if distance_weight and not segmentation:
            msg = f"distance_weight={distance_weight} without a segmentation network stands beside nothing: pass 0."
            raise ValueError(msg)
        teacher = Teacher(backbone)
        if pre_trained:
            teacher.load_pretrained(backbone_weights)
        student = Student(ResidualBlock, teacher.channels, signed=teacher.signed, encoder_decoder=encoder_decoder)
        zero_init_last_norm(student.encoder)
        in_channels = segmentation_channels(segmentation_input, teacher.channels)
        network = SegmentationNetwork(in_channels, ResidualBlock, AtrousSpatialPyramidPooling) if segmentation else None
        super().__init__(
            teacher,
            student,
            network,
            denoising=denoising,
            l1_loss=l1_loss,
            segmentation_input=segmentation_input,
            top_t=top_t,
            distance_weight=distance_weight,
            regions=regions,
            crop_size=crop_size,
            tile=tile,
        )

    def load_reference_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load a state dict of the official DeSTSeg code.

        Args:
            state: All tensors under their official names, such as `student_net.encoder.conv1.weight`.

        Raises:
            ValueError: If a name or a shape does not belong to this architecture, or one is missing.
        """
        renamed = {}
        for name, value in state.items():
            prefix = max((p for p in REFERENCE_PREFIXES if name.startswith(p)), key=len, default="")
            renamed[REFERENCE_PREFIXES.get(prefix, "") + name.removeprefix(prefix)] = value
        try:
            self.load_state_dict(renamed, strict=True)
        except RuntimeError as error:
            msg = (
                "The state dict is not an official DeSTSeg checkpoint of this architecture (ResNet18 teacher, decoder, "
                f"segmentation on products): {str(error).splitlines()[1].strip()}"
            )
            raise ValueError(msg) from error
