"""Tells how many requests and rows one ``execute`` was given. A negative number is that request's own error, 100 is
one that spoils the whole batch by an exception."""

import numpy as np

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(one, "IN").as_numpy() for one in requests]
        if any((array == 100).any() for array in arrays):
            raise ValueError("one hundred")
        rows = sum(len(array) for array in arrays)
        return [self.answer(array, [len(requests), rows]) for array in arrays]

    def answer(self, array, sizes):
        if (array < 0).any():
            error = pb_utils.TritonError("negative", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        told = np.array([sizes] * len(array), dtype=np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array), pb_utils.Tensor("SIZES", told)])
