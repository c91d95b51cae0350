# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""DeSTSeg as an anomalib model.

Paper: Zhang et al., "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection", CVPR 2023,
arXiv 2211.11317.

Example:
    >>> from destseg_anomalib import DeSTSeg
    >>> model = DeSTSeg(student_steps=200, segmentation_steps=400, textures="path/to/pictures")
    >>> model.trainer_arguments["max_steps"]
    600
"""

from pathlib import Path
from typing import ClassVar, Literal

from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer

from destseg_anomalib.deployment.folded import FoldedPrediction
from destseg_anomalib.deployment.prediction_lists import ListedPredictions
from destseg_anomalib.deployment.quantization import CarefulQuantization
from destseg_anomalib.models.similarity import SegmentationInput
from destseg_anomalib.synthesis import Rotation
from destseg_anomalib.training.resumable import ResumableTraining
from destseg_anomalib.training.seeds import seeded
from destseg_anomalib.training.two_step import TwoStepTraining

from .torch_model import DeSTSegModel


class DeSTSeg(
    TwoStepTraining, ResumableTraining, FoldedPrediction, CarefulQuantization, ListedPredictions, AnomalibModule
):
    """Segmentation guided denoising student-teacher.

    Steps are arguments of the model, since a model's trainer arguments replace the user's in anomalib.

    Args:
        backbone: timm model whose maps at strides 4, 8 and 16 teach. The paper's is `resnet18.tv_in1k`;
            `tf_efficientnet_lite0` needs no download where the offline extra is installed.
        pre_trained: Whether the teacher gets pretrained weights when training starts.
        backbone_weights: File of teacher weights (`.safetensors`, `.pth`) to use instead of timm's.
        image_size: Height and width in pixels that images are resized to.
        student_steps: Steps of phase 1.
        segmentation_steps: Steps of phase 2.
        student_lr: Learning rate of the student, for the loss of 32 images whatever the batch size.
        segmentation_lr: Learning rate of the residual blocks of the segmentation network.
        head_lr: Learning rate of the head of the segmentation network.
        focal_gamma: Focusing exponent of the focal loss.
        rotation: How training images are rotated: `none`; `slight`, ±5°; `full`, quarter turns ±5°; `auto`, the
            class that the papers give the category of an MVTec AD data module, and `none` for other data.
        textures: Anomaly sources: a folder of pictures; `dtd`, fetched when training starts; None for built-in ones.
        opacity: Range of the opacity of synthetic anomalies.
        cache_images: Whether decoded training images are kept in memory where they fit.
        denoising: Whether the student sees corrupted images.
        encoder_decoder: Whether the student has a decoder.
        segmentation: Whether there is a segmentation network; without it there is no phase 2.
        l1_loss: Whether the segmentation loss has its L1 term.
        segmentation_input: What the segmentation network reads: `product`, `concat` or `cosine`.
        top_t: How many of the highest pixels the image score averages; None for 100 of 256 x 256, and the same area
            of images of other sizes.
        average_weights: Whether phase 2 leaves an average of the segmentation network, not its last step.
        distance_weight: How much the student's distance from the teacher says in the map beside the segmentation
            network: logit + weight * log distance; 0 for nothing.
        crop_size: Side in pixels of the part of each image that a training step sees, cut at random; None for all.
        tile: Side in pixels of the overlapping tiles that an image is judged in; None for one pass up to two million
            pixels, and tiles of at most 1088 above.
        regions: Picture of the shape of the images that is white where to look: nothing is synthesised, seen, said or
            counted elsewhere. Read when training starts, and kept in the checkpoint.
        seed: Number that weights before the training, order of images and synthetic anomalies follow from; None for
            the state that PyTorch is in, such as Lightning's `seed_everything` leaves it.
        pre_processor: Pre-processor, or whether to use the default: `RoundedBilinearResize` to `image_size`.
        post_processor: Post-processor, or whether to use anomalib's.
        evaluator: Evaluator, or whether to use `RawMapEvaluator`.
        visualizer: Visualizer, or whether to use anomalib's, with outlines in the heat maps.

    Raises:
        ValueError: If the backbone, an option or a number of steps cannot work; the sentence says which and why.
    """

    reference_batch: ClassVar[int] = 32
    architecture: ClassVar[tuple[str, ...]] = (
        "backbone",
        "encoder_decoder",
        "segmentation",
        "segmentation_input",
        "distance_weight",
        "regions",
    )

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        pre_trained: bool = True,
        backbone_weights: str | Path | None = None,
        image_size: tuple[int, int] = (256, 256),
        student_steps: int = 1000,
        segmentation_steps: int = 4000,
        student_lr: float = 0.4,
        segmentation_lr: float = 0.1,
        head_lr: float = 0.01,
        focal_gamma: float = 4.0,
        rotation: Literal["auto"] | Rotation = "auto",
        textures: str | Path | None = None,
        opacity: tuple[float, float] = (0.2, 1.0),
        cache_images: bool = True,
        denoising: bool = True,
        encoder_decoder: bool = True,
        segmentation: bool = True,
        l1_loss: bool = True,
        segmentation_input: SegmentationInput = "product",
        top_t: int | None = None,
        average_weights: bool = True,
        distance_weight: float = 0.0,
        crop_size: int | None = None,
        tile: int | None = None,
        regions: str | Path | None = None,
        seed: int | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(
            pre_processor=self.configure_pre_processor(image_size) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.check_arguments()
        with seeded(seed):
            self.model = self.configure_network()

    def configure_network(self) -> DeSTSegModel:
        """Make teacher, student and segmentation network of the hyper-parameters, with random weights."""
        arguments = self.hparams
        return DeSTSegModel(
            arguments.backbone,
            pre_trained=False,  # fetched when training starts: a checkpoint brings its own
            denoising=arguments.denoising,
            encoder_decoder=arguments.encoder_decoder,
            segmentation=arguments.segmentation,
            l1_loss=arguments.l1_loss,
            segmentation_input=arguments.segmentation_input,
            top_t=arguments.top_t,
            distance_weight=arguments.distance_weight,
            crop_size=arguments.crop_size,
            tile=arguments.tile,
            regions=None if arguments.regions is None else tuple(arguments.image_size),
        )
