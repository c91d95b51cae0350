# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Careful INT8: what our models do otherwise than anomalib's when they are quantised.

Of INT8 through anomalib's export (`compression_type="int8"`, `"int8_ptq"` and `"int8_acq"`), the few layers that 8 bits
would spoil stay float.
"""

from collections.abc import Iterable
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, Batch
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from torch import nn
from torch.utils.data import DataLoader

from destseg_anomalib.data.reading import workers_of
from destseg_anomalib.deployment.export import Export

CALIBRATED_ON = 300  # images, or all where there are fewer; NNCF wants as many, and warns where there are fewer


class CarefulQuantization(Export):
    """Mixin for an anomalib model whose `model` is a `StudentTeacherModel`, to stand before `AnomalibModule`.

    anomalib quantises every layer, with a symmetric scale for activations. On MVTec AD *bottle* (one training) it cost
    0.022 of pixel AP and 0.020 of IAP. With the resize and the convolutions that read images or similarities left in
    float, and asymmetric scales where values have both signs, it costs 0.001 of both (another training, see
    ``examples/export_fidelity.py``); the two were not tried apart.
    """

    model: nn.Module
    pre_processor: Any

    def _compress_ov_model(
        self,
        model: Any,  # noqa: ANN401  OpenVINO is optional
        compression_type: CompressionType | None = None,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Compress an OpenVINO model; 8-bit weights leave the same layers in float, and those of pooled values.

        Args:
            model: OpenVINO model.
            compression_type: How.
            *args: What anomalib's own method takes.
            **kwargs: What anomalib's own method takes.

        Returns:
            Compressed OpenVINO model.
        """
        if compression_type != CompressionType.INT8:
            return super()._compress_ov_model(model, compression_type, *args, **kwargs)  # type: ignore[misc]
        import nncf  # noqa: PLC0415  an optional extra

        # OpenVINO 2026.4 makes a matrix product of a 1x1 convolution of 8-bit weights, and where the map is one pixel
        # that SPR has put together, it then transposes four axes of which there are two.
        pooled = {layer.get_friendly_name() for layer in _convolutions(model) if _spatial_size(layer) == [1, 1]}
        kept = nncf.IgnoredScope(names=sorted(pooled.union(self._kept_in_float(model))))
        return nncf.compress_weights(model, ignored_scope=kept)

    def _post_training_quantization_ov(self, model: Any, datamodule: AnomalibDataModule | None = None) -> Any:  # noqa: ANN401  OpenVINO is optional
        """Quantise an OpenVINO model, calibrated on the validation images.

        Args:
            model: OpenVINO model with a single input, images (N, 3, H, W) in [0, 1].
            datamodule: Data whose validation images calibrate.

        Returns:
            Quantised OpenVINO model.

        Raises:
            ValueError: If there is no data module.
        """
        import nncf  # noqa: PLC0415  an optional extra

        data = _set_up(datamodule, "int8_ptq")
        return nncf.quantize(model, self._calibration(data), **self._care(model, data))

    def _accuracy_control_quantization_ov(
        self,
        model: Any,  # noqa: ANN401
        datamodule: AnomalibDataModule | None = None,
        metric: Any = None,  # noqa: ANN401  AnomalibMetric is no torchmetrics' Metric to a type checker
        task: object = None,
        max_drop: float = 0.01,
    ) -> Any:  # noqa: ANN401
        """Quantise an OpenVINO model, and give layers back to float until a metric of the test images is held.

        Args:
            model: OpenVINO model with a single input, images (N, 3, H, W) in [0, 1].
            datamodule: Data whose validation images calibrate, and on whose test images the metric is measured.
            metric: anomalib metric that is better when higher; None for the F1 score of the images' labels.
            task: Not used.
            max_drop: How much of the metric may be lost, in [0, 1].

        Returns:
            Quantised OpenVINO model.

        Raises:
            ValueError: If there is no data module, or `max_drop` is out of range.
        """
        del task
        if not 0 <= max_drop <= 1:
            msg = f"max_drop={max_drop} is not a loss of a metric: give a number between 0 and 1, such as 0.01."
            raise ValueError(msg)
        import nncf  # noqa: PLC0415  an optional extra

        data = _set_up(datamodule, "int8_acq")
        metric = metric or F1Score(fields=["pred_label", "gt_label"])

        def quality(compiled: Any, batches: Iterable[Batch]) -> float:  # noqa: ANN401
            metric.reset()  # this is called for every candidate, the float model among them
            for batch in map(self._resized, batches):
                answer = compiled(batch.image.numpy())
                fields = {output.get_any_name(): torch.from_numpy(value) for output, value in answer.items()}
                metric.update(batch.update(**fields))
            return float(metric.compute())

        tests = nncf.Dataset(_one_by_one(data.test_data, workers_of(data)))
        return nncf.quantize_with_accuracy_control(
            model, self._calibration(data), tests, quality, max_drop=max_drop, **self._care(model, data)
        )

    def _calibration(self, datamodule: AnomalibDataModule) -> Any:  # noqa: ANN401
        """Validation images as the network sees them."""
        import nncf  # noqa: PLC0415  an optional extra

        batches = _one_by_one(datamodule.val_data, workers_of(datamodule))
        return nncf.Dataset(batches, lambda batch: self._resized(batch).image.numpy())

    def _resized(self, batch: Batch) -> Batch:
        """Apply the model's transform, as before a validation; what has the size already stays as it is."""
        if self.pre_processor is not None and self.pre_processor.transform is not None:
            batch.image, batch.gt_mask = self.pre_processor.transform(batch.image, batch.gt_mask)
        return batch

    def _care(self, model: Any, datamodule: AnomalibDataModule) -> dict[str, Any]:  # noqa: ANN401
        """What every quantisation is told."""
        import nncf  # noqa: PLC0415  an optional extra

        kept = nncf.IgnoredScope(names=self._kept_in_float(model), types=["MatMul"])  # the resize is two products
        images = min(CALIBRATED_ON, len(datamodule.val_data))
        return {"preset": nncf.QuantizationPreset.MIXED, "ignored_scope": kept, "subset_size": images}

    def _kept_in_float(self, model: Any) -> list[str]:  # noqa: ANN401
        """Name the convolutions that read images, and those that read similarities."""
        segmentation: Any = self.model.segmentation
        channels = {3} if segmentation is None else {3, segmentation.residual[0].conv1.in_channels}
        return [c.get_friendly_name() for c in _convolutions(model) if c.input(1).get_shape()[1] in channels]


def _convolutions(model: Any) -> list[Any]:  # noqa: ANN401
    return [layer for layer in model.get_ops() if layer.get_type_name() == "Convolution"]


def _spatial_size(convolution: Any) -> list[int | None]:  # noqa: ANN401
    """Height and width of what a convolution reads, None where they are free."""
    return [
        None if side.is_dynamic else side.get_length() for side in list(convolution.input(0).get_partial_shape())[2:]
    ]


def _set_up(datamodule: AnomalibDataModule | None, compression: str) -> AnomalibDataModule:
    if datamodule is None:
        msg = (
            f"compression_type='{compression}' needs images to calibrate on: "
            "pass datamodule=, or --data in the command."
        )
        raise ValueError(msg)
    datamodule.setup("fit")
    return datamodule


def _one_by_one(dataset: Any, workers: int) -> DataLoader[Batch]:  # noqa: ANN401
    """Load images in batches of one, since those of a set may differ in size."""
    return DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=dataset.collate_fn)
