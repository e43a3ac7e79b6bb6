"""Asks a decoupled model twice at a time and adds up its responses; loads and unloads a third one."""

import asyncio

import numpy as np

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return [await self.answer(request) for request in requests]

    async def answer(self, request):
        numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        found = await asyncio.gather(self.total(numbers), self.total(numbers))
        pb_utils.load_model("add_sub")
        ready = [pb_utils.is_model_ready("add_sub")]
        pb_utils.unload_model("add_sub")
        ready.append(pb_utils.is_model_ready("add_sub"))
        total = pb_utils.Tensor("SUM", np.array([sum(found)], np.int32))
        return pb_utils.InferenceResponse([total, pb_utils.Tensor("READY", np.array(ready))])

    async def total(self, numbers):
        inputs = [
            pb_utils.Tensor("IN", numbers),
            pb_utils.Tensor("DELAY", np.zeros(len(numbers), np.uint32)),
            pb_utils.Tensor("WAIT", np.zeros(1, np.uint32)),
        ]
        request = pb_utils.InferenceRequest(model_name="repeat_int32", requested_output_names=["OUT"], inputs=inputs)
        responses = await request.async_exec(decoupled=True)
        return sum(int(one.output_tensors()[0].as_numpy()[0]) for one in responses)
