"""Tensor: a named array in memory of the host, or of a GPU by way of DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np

from triton_python_backend_utils.dtypes import BF16, BYTES, NAMES, NUMBERS, Array
from triton_python_backend_utils.errors import TritonModelException

CPU_DEVICE = (1, 0)  # DLPack's kDLCPU


class Tensor:
    """``Tensor(name, array)`` with a numpy array; one of strings has dtype ``object_`` or ``bytes_``.

    Numbers of type BF16, which numpy does not have, and tensors on a GPU come and go by DLPack alone.
    """

    def __init__(self, name: str, array: Array) -> None:
        if not isinstance(array, np.ndarray):
            raise TritonModelException(f"tensor {name!r} is made of {type(array).__name__}; allowed: a numpy array")
        if array.dtype.kind in "SU":
            array = array.astype(np.object_)
        if array.dtype not in NAMES:
            raise TritonModelException(f"tensor {name!r} has dtype {array.dtype}, which Triton does not have")
        self._name = str(name)
        self._datatype = NAMES[array.dtype]
        self._array: Array | None = array if array.flags.c_contiguous else array.copy(order="C")
        self._torch: Any = None

    @classmethod
    def _of(cls, name: str, datatype: str, array: Array | None, torch: Any = None) -> Tensor:
        """``datatype`` is its name on the wire; of BF16 the array holds the bits."""
        tensor = cls.__new__(cls)
        tensor._name, tensor._datatype, tensor._array, tensor._torch = name, datatype, array, torch
        return tensor

    def name(self) -> str:
        return self._name

    def triton_dtype(self) -> int:
        """Triton's number for its type."""
        return NUMBERS[self._datatype]

    def shape(self) -> list[int]:
        return list(self._array.shape if self._array is not None else self._torch.shape)

    def is_cpu(self) -> bool:
        return self._array is not None

    def as_numpy(self) -> Array:
        """The array itself, no copy. Raises TritonModelException for one on a GPU and for BF16."""
        if self._array is None:
            raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
        if self._datatype == BF16:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        return self._array

    def to_dlpack(self) -> Any:
        """A DLPack capsule of the same memory. Raises TritonModelException for strings."""
        return self.__dlpack__()

    def __dlpack__(self, stream: Any = None, **options: Any) -> Any:
        if self._datatype == BYTES:
            raise TritonModelException("DLPack does not have string tensors.")
        if self._torch is not None:
            return self._torch.__dlpack__(stream=stream)
        assert self._array is not None
        if self._datatype != BF16:
            return (self._array if self._array.flags.writeable else self._array.copy()).__dlpack__()
        import torch

        return torch.from_numpy(self._array.view(np.int16)).view(torch.bfloat16).__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        if self._torch is None:
            return CPU_DEVICE
        kind, index = self._torch.__dlpack_device__()
        return int(kind), int(index)

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """A tensor on the memory of ``tensor``: a DLPack capsule, or anything with ``__dlpack__``."""
        try:
            import torch
        except ImportError:
            return Tensor(name, np.from_dlpack(tensor))
        found = torch.utils.dlpack.from_dlpack(tensor).contiguous()
        if found.device.type != "cpu":
            return Tensor._of(name, datatype_of(found.dtype), None, found)
        if found.dtype == torch.bfloat16:
            return Tensor._of(name, BF16, found.view(torch.int16).numpy().view(np.uint16))
        return Tensor(name, found.numpy())

    def _on_host(self) -> Array:
        """The array, copied from the GPU if it is there; of BF16 its bits."""
        if self._array is not None:
            return self._array
        import torch

        here = self._torch.cpu()
        array: Array = here.view(torch.int16).numpy().view(np.uint16) if self._datatype == BF16 else here.numpy()
        return array


def datatype_of(dtype: Any) -> str:
    """The wire's name for a type of torch. Raises TritonModelException."""
    import torch

    if dtype == torch.bfloat16:
        return BF16
    try:
        return NAMES[torch.empty(0, dtype=dtype).numpy().dtype]
    except (TypeError, KeyError):
        raise TritonModelException(f"Triton does not have the type {dtype}") from None
