"""Device faults: the fault behind an exception, by its type and CUDA's code, never by its text.

The codes, and their meaning for the process, are those of ``cudaError_t`` in CUDA's ``driver_types.h``.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from serving.ipc.faults import Fault


class Cuda(IntEnum):
    MEMORY_ALLOCATION = 2
    INITIALIZATION = 3
    CUDART_UNLOADING = 4
    DEVICES_UNAVAILABLE = 46
    NO_DEVICE = 100
    ECC_UNCORRECTABLE = 214
    NVLINK_UNCORRECTABLE = 220
    CONTAINED = 226
    NOT_READY = 600
    ILLEGAL_ADDRESS = 700
    LAUNCH_TIMEOUT = 702
    CONTEXT_IS_DESTROYED = 709
    ASSERT = 710
    HARDWARE_STACK_ERROR = 714
    ILLEGAL_INSTRUCTION = 715
    MISALIGNED_ADDRESS = 716
    INVALID_ADDRESS_SPACE = 717
    INVALID_PC = 718
    LAUNCH_FAILURE = 719
    TENSOR_MEMORY_LEAK = 721
    SYSTEM_NOT_READY = 802
    MPS_SERVER_NOT_READY = 807
    MPS_CLIENT_TERMINATED = 810
    TIMEOUT = 909
    EXTERNAL_DEVICE = 911
    UNKNOWN = 999


TABLE: dict[int, Fault] = {
    Cuda.MEMORY_ALLOCATION: Fault.MEMORY,
    Cuda.DEVICES_UNAVAILABLE: Fault.TRANSIENT,
    Cuda.NOT_READY: Fault.TRANSIENT,
    Cuda.SYSTEM_NOT_READY: Fault.TRANSIENT,
    Cuda.MPS_SERVER_NOT_READY: Fault.TRANSIENT,
    Cuda.TIMEOUT: Fault.TRANSIENT,
    Cuda.NO_DEVICE: Fault.HARDWARE,
    Cuda.ECC_UNCORRECTABLE: Fault.HARDWARE,
    Cuda.NVLINK_UNCORRECTABLE: Fault.HARDWARE,
    # These leave the process in a state in which every further call gives the same error.
    Cuda.INITIALIZATION: Fault.STICKY,
    Cuda.CUDART_UNLOADING: Fault.STICKY,
    Cuda.CONTAINED: Fault.STICKY,
    Cuda.ILLEGAL_ADDRESS: Fault.STICKY,
    Cuda.LAUNCH_TIMEOUT: Fault.STICKY,
    Cuda.CONTEXT_IS_DESTROYED: Fault.STICKY,
    Cuda.ASSERT: Fault.STICKY,
    Cuda.HARDWARE_STACK_ERROR: Fault.STICKY,
    Cuda.ILLEGAL_INSTRUCTION: Fault.STICKY,
    Cuda.MISALIGNED_ADDRESS: Fault.STICKY,
    Cuda.INVALID_ADDRESS_SPACE: Fault.STICKY,
    Cuda.INVALID_PC: Fault.STICKY,
    Cuda.LAUNCH_FAILURE: Fault.STICKY,
    Cuda.TENSOR_MEMORY_LEAK: Fault.STICKY,
    Cuda.MPS_CLIENT_TERMINATED: Fault.STICKY,
    Cuda.EXTERNAL_DEVICE: Fault.STICKY,
}


def fault_of(exc: BaseException) -> Fault | None:
    """Return the fault behind an exception; None where only the device itself can tell.

    Libraries on top of CUDA, such as cuBLAS, raise RuntimeErrors without a code for every failure, and CUDA has a code
    for unknown errors.
    """
    import torch

    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return Fault.MEMORY
    if isinstance(exc, OSError):
        return Fault.MEMORY if exc.errno == errno.ENOMEM else Fault.NONE
    if isinstance(exc, getattr(torch, "AcceleratorError", ())):  # older releases have RuntimeErrors without a code
        code = getattr(exc, "error_code", Cuda.UNKNOWN)
        return None if code == Cuda.UNKNOWN else TABLE.get(code, Fault.NONE)
    return None if isinstance(exc, RuntimeError) else Fault.NONE


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether memory of the host or the GPU was short, or space on a disk, which often is memory."""
    if isinstance(exc, OSError):
        return exc.errno in (errno.ENOMEM, errno.ENOSPC)
    return fault_of(exc) is Fault.MEMORY
