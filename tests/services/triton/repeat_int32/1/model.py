"""A response for each number, each after its delay in milliseconds, from a thread of its own: to the shape of the
public example of that name. -1 is an error among the responses, and an empty IN one without any other."""

import threading
import time

import numpy as np

import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            delays = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
            if numbers.shape != delays.shape:
                raise pb_utils.TritonModelException("IN and DELAY differ")
            sender = request.get_response_sender()
            threading.Thread(target=self.send, args=(sender, numbers, delays), daemon=True).start()
            time.sleep(pb_utils.get_input_tensor_by_name(request, "WAIT").as_numpy()[0] / 1000)

    def send(self, sender, numbers, delays):
        for index, (number, delay) in enumerate(zip(numbers, delays, strict=True)):
            until = time.monotonic() + delay / 1000
            while not sender.is_cancelled() and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.01))
            if sender.is_cancelled():
                pb_utils.Logger.log_info("repeat_int32 was cancelled")
                return
            sender.send(self.response(index, number))
        if not len(numbers):
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("nothing", 3)))
        sender.send(flags=FINAL)

    def response(self, index, number):
        if number == -1:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("minus one"))
        out = pb_utils.Tensor("OUT", np.array([number], np.int32))
        return pb_utils.InferenceResponse([out, pb_utils.Tensor("IDX", np.array([index], np.uint32))])
