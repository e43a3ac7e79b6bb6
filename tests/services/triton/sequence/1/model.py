"""The sum so far of each sequence, begun anew where START says so."""

import numpy as np

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        value, start, id = (
            int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().item())
            for name in ("IN", "START", "CORRID")
        )
        assert id == request.correlation_id()
        assert bool(start) == bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        self.sums[id] = value + (0 if start else self.sums[id])
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([[self.sums[id]]], np.int32))])
