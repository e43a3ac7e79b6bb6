"""Asks the model that the client names, to the shape of the public example of that name."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.ask(request) for request in requests]

    def ask(self, request):
        name = pb_utils.get_input_tensor_by_name(request, "MODEL_NAME").as_numpy()[0].decode()
        inputs = [pb_utils.get_input_tensor_by_name(request, one) for one in ("INPUT0", "INPUT1")]
        inner = pb_utils.InferenceRequest(
            model_name=name, requested_output_names=["OUTPUT0", "OUTPUT1"], inputs=inputs, request_id="inner"
        )
        response = inner.exec()
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        return pb_utils.InferenceResponse(output_tensors=response.output_tensors())
