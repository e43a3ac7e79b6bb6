"""Sum and difference, to the shape of the public example of that name; ``finalize`` leaves a line in the log."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.types = [
            pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(config, name)["data_type"])
            for name in ("OUTPUT0", "OUTPUT1")
        ]
        assert all(isinstance(value, str) for value in args.values())

    def execute(self, requests):
        responses = []
        for request in requests:
            one = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            two = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            tensors = [
                pb_utils.Tensor("OUTPUT0", (one + two).astype(self.types[0])),
                pb_utils.Tensor("OUTPUT1", (one - two).astype(self.types[1])),
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def finalize(self):
        pb_utils.Logger.log_info("add_sub is finalized")
