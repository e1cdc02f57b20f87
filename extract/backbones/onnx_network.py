"""ONNX graphs as networks.

Shapes: B batch, H, W input size.
"""

from __future__ import annotations

import re
import tempfile
from typing import Final

import torch
from torch import nn

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.backbones.network import FrozenNetwork, probe
from featurebank.extract.errors import WeightsError

__all__ = ["OnnxNetwork"]

EXTERNAL: Final = "session.model_external_initializers_file_folder_path"


class OnnxNetwork(FrozenNetwork):
    """A graph with one input (B, 3, H, W) float32, on the CPU, whatever the device and the precision around it.

    Args:
        spec: what to give.
        data: the file's bytes, tensors included.

    Raises:
        WeightsError: not such a graph, or its tensors lie in other files.
        UnknownNameError: an output it does not have.
    """

    def __init__(self, spec: BackboneSpec, data: bytes) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        super().__init__(spec, nn.Module())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            # Tensors in other files are in no digest; of a graph in memory they would be sought in the working folder.
            with tempfile.TemporaryDirectory() as nowhere:
                options.add_session_config_entry(EXTERNAL, nowhere)
                self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base for its errors
            raise WeightsError(
                f"{spec.name}: expected an ONNX file that holds its tensors, found one that cannot be loaded: "
                f"{str(error).splitlines()[0][:200]}"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            taken = ", ".join(f"{given.name} {given.type}" for given in inputs)
            raise WeightsError(f"{spec.name}: expected one input of float32 images, found {taken}")
        self._input = inputs[0].name
        self._graph_names = [output.name for output in self._session.get_outputs()]
        found = self._run(probe(spec, self))
        flat = next((name for name, value in found.items() if value.ndim == 2), None)
        self._by_name = {re.sub(r"[^a-z0-9_]", "_", name.lower()): name for name in found}
        if flat is not None:
            self._by_name.setdefault("pooled", flat)
            self.dimension = found[self._by_name["pooled"]].shape[1]
        self._require(spec.outputs)

    def available(self) -> list[str]:
        """Names of all outputs, in small letters."""
        return list(self._by_name)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, 3, H, W) to one tensor (B, …) per output."""
        found = self._run(images)
        return {name: found[self._by_name[name]].to(images.device) for name in self.spec.outputs}

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self._session.run(None, {self._input: images.detach().float().cpu().contiguous().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self._graph_names, values, strict=True)}
