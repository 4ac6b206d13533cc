"""The fold as a pass of Olive: `bnfold.fold`, with Olive's own options of external data."""

from __future__ import annotations

import logging
from pathlib import Path

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.onnx.common import get_external_data_config, model_proto_to_olive_model
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import bnfold

logger = logging.getLogger("olive.bnfold")


class FoldBatchNormalization(Pass):
    """Fold BatchNormalization, and prove that nothing else changed. A fold that does not pass ends the workflow."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "freeze_initializers": PassConfigParam(
                type_=bool,
                default_value=False,
                description="Fold into initializers that are graph inputs, too: callers will not override them.",
            ),
            "verify": PassConfigParam(
                type_=bool, default_value=True, description="Prove that the folded model computes what the other does."
            ),
            **get_external_data_config(),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        result = bnfold.fold(model.model_path, freeze_initializers=config.freeze_initializers, verify=config.verify)
        logger.info("%s", result.in_a_line())
        if not result.folded:
            return model
        target = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        return model_proto_to_olive_model(result.model, target, config)
