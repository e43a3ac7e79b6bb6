"""Without a configuration: it says itself what it takes. Counts its requests, and may be told that it is not ready."""

import numpy as np

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        auto_complete_model_config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [2]})
        auto_complete_model_config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [2]})
        auto_complete_model_config.set_max_batch_size(4)
        auto_complete_model_config.set_dynamic_batching()
        return auto_complete_model_config

    def initialize(self, args):
        self.ready = True
        family = pb_utils.MetricFamily("model_requests", "Requests seen", pb_utils.MetricFamily.COUNTER)
        self.seen = family.Metric(labels={"kind": "all"})

    def is_ready(self):
        return self.ready

    async def execute(self, requests):
        self.seen.increment(len(requests))
        return [self.answer(pb_utils.get_input_tensor_by_name(one, "IN").as_numpy()) for one in requests]

    def answer(self, array):
        self.ready = not (array == -1).any()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array * np.float32(2))])
