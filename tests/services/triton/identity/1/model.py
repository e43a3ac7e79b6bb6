"""Gives each input back under another name, whatever its type; what numpy lacks goes through DLPack."""

import torch

import triton_python_backend_utils as pb_utils

BF16 = 14


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.copy(tensor) for tensor in one.inputs()]) for one in requests]

    def copy(self, tensor):
        name = tensor.name().replace("IN_", "OUT_")
        if tensor.triton_dtype() != BF16:
            return pb_utils.Tensor(name, tensor.as_numpy())
        return pb_utils.Tensor.from_dlpack(name, torch.utils.dlpack.from_dlpack(tensor.to_dlpack()) * 1)
