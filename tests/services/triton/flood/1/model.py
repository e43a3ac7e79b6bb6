"""Sends COUNT responses of a hundred kilobytes as fast as it may, from a thread of its own or from ``execute``, always
out of the same array; where one is not taken any more it says how many were, and why."""

import threading

import numpy as np

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count, thread = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0] for name in ("COUNT", "THREAD")
            )
            if thread:
                threading.Thread(target=self.flood, args=(request.get_response_sender(), count), daemon=True).start()
            else:
                self.flood(request.get_response_sender(), count)

    def flood(self, sender, count):
        array = np.empty(1, dtype=np.object_)
        for index in range(count):
            array[0] = b"%06d" % index + 100_000 * b"x"
            try:
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)]))
            except pb_utils.TritonModelException as exc:
                pb_utils.Logger.log_info(f"flood {count} ended {index} {exc}")
                return
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
