# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""PFADSeg as an anomalib model.

Paper: "Teacher Encoder-Student Decoder Denoising Guided Segmentation Network for Anomaly Detection", arXiv 2501.12104.

Example:
    >>> from destseg_anomalib import PFADSeg
    >>> model = PFADSeg(student_steps=200, segmentation_steps=400, textures="path/to/pictures")
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
from destseg_anomalib.synthesis import Rotation
from destseg_anomalib.training.resumable import ResumableTraining
from destseg_anomalib.training.seeds import seeded
from destseg_anomalib.training.two_step import TwoStepTraining

from .torch_model import PFADSegModel


class PFADSeg(
    TwoStepTraining, ResumableTraining, FoldedPrediction, CarefulQuantization, ListedPredictions, AnomalibModule
):
    """Denoising student-teacher with parallel attention, attentional fusion and rectangular calibration.

    Steps are arguments of the model, since a model's trainer arguments replace the user's in anomalib. Train with
    batches of 16 for the paper's schedule, and never with single images.

    Args:
        backbone: timm model whose maps at strides 4, 8 and 16 teach. The paper's is `resnet18.tv_in1k`;
            `tf_efficientnet_lite0` needs no download where the offline extra is installed.
        pre_trained: Whether the teacher gets pretrained weights when training starts.
        backbone_weights: File of teacher weights (`.safetensors`, `.pth`) to use instead of timm's.
        image_size: Height and width in pixels that images are resized to.
        student_steps: Steps of phase 1.
        segmentation_steps: Steps of phase 2.
        student_lr: Learning rate of the student, for the loss of 16 images whatever the batch size.
        segmentation_lr: Learning rate of the residual blocks of the segmentation network.
        head_lr: Learning rate of the head of the segmentation network.
        focal_gamma: Focusing exponent of the focal loss.
        rotation: How training images are rotated: `none`; `slight`, ±5°; `full`, quarter turns ±5°; `auto`, the
            class that DeSTSeg gives the category of an MVTec AD data module, and `none` for other data.
        textures: Anomaly sources: a folder of pictures; `dtd`, fetched when training starts; None for built-in ones.
        opacity: Range of the opacity of synthetic anomalies.
        cache_images: Whether decoded training images are kept in memory where they fit.
        rcm: Whether the segmentation head gathers context by rectangular self-calibration; else by DeSTSeg's pyramid.
        aff: Whether residual blocks fuse by attention; else by a sum.
        pcar: Whether the second convolution of a block is the parallel attention; else a plain one.
        rcm_layer_scale: Start value of the layer scale of `rcm`; its source has 1e-6.
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
        ValueError: If the backbone or a number of steps cannot work; the sentence says which and why.
    """

    reference_batch: ClassVar[int] = 16
    architecture: ClassVar[tuple[str, ...]] = ("backbone", "rcm", "aff", "pcar", "distance_weight", "regions")

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        pre_trained: bool = True,
        backbone_weights: str | Path | None = None,
        image_size: tuple[int, int] = (256, 256),
        student_steps: int = 3000,
        segmentation_steps: int = 4000,
        student_lr: float = 0.5,
        segmentation_lr: float = 0.1,
        head_lr: float = 0.01,
        focal_gamma: float = 4.0,
        rotation: Literal["auto"] | Rotation = "auto",
        textures: str | Path | None = None,
        opacity: tuple[float, float] = (0.2, 1.0),
        cache_images: bool = True,
        rcm: bool = True,
        aff: bool = True,
        pcar: bool = True,
        rcm_layer_scale: float = 1.0,
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

    def configure_network(self) -> PFADSegModel:
        """Make teacher, student and segmentation network of the hyper-parameters, with random weights."""
        arguments = self.hparams
        return PFADSegModel(
            arguments.backbone,
            pre_trained=False,  # fetched when training starts: a checkpoint brings its own
            rcm=arguments.rcm,
            aff=arguments.aff,
            pcar=arguments.pcar,
            rcm_layer_scale=arguments.rcm_layer_scale,
            top_t=arguments.top_t,
            distance_weight=arguments.distance_weight,
            crop_size=arguments.crop_size,
            tile=arguments.tile,
            regions=None if arguments.regions is None else tuple(arguments.image_size),
        )
