"""Probe: facts that only the device can show: the cost of a context, the driver's numbers, memory speed, faults.

    python benchmarks/gpu/probe.py --json FILE

Prints a line for each; one that fails says so, and the others follow. The last one breaks its context.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

began = time.perf_counter()
import torch  # noqa: E402

IMPORTED = time.perf_counter() - began

from rows import where  # noqa: E402

from serving.system import gpus, memory  # noqa: E402
from serving.system.pinned import Pages  # noqa: E402
from serving.worker.device.cuda import Cuda, empty_host_cache  # noqa: E402

GIB = 1 << 30
DEVICE = "cuda:0"


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return round(time.perf_counter() - began, 4)


def context() -> dict[str, object]:
    cuda = Cuda(DEVICE)
    opened = seconds(lambda: cuda.open(1))
    held = {"opened": cuda.held()}
    primed = seconds(cuda.prime)
    driver = gpus.find()
    return {
        "import_s": round(IMPORTED, 2),
        "open_s": opened,
        "prime_s": primed,
        "held_mib": {**{name: size >> 20 for name, size in held.items()}, "primed": cuda.held() >> 20},
        "pid": os.getpid(),
        "gpus": str(driver.gpus()),
        "seen_as": str(driver.held(DEVICE)),
        "ram_gib": memory.total() >> 30,
        "cores": os.cpu_count(),
    }


def host_memory() -> dict[str, object]:
    """Measure how fast host memory is pinned, whether it counts as ours and is freed, and the speed of the bus."""
    found: dict[str, object] = {}
    before = memory.memory_of("self").private
    held: list[torch.Tensor] = []
    found["pin_64_mib_at_a_time_gb_s"] = round(
        1.07
        / seconds(lambda: held.extend(torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True) for _ in range(16))),
        2,
    )
    found["pinned_counts_mib"] = memory.memory_of("self").private - before >> 20
    target = torch.empty(64 << 20, dtype=torch.uint8, device=DEVICE)
    found["pinned_gb_s"] = round(1.07 / seconds(lambda: [target.copy_(one, non_blocking=True) for one in held]), 1)
    pageable = torch.ones(GIB, dtype=torch.uint8)
    found["pageable_gb_s"] = round(1.07 / seconds(lambda: pageable.to(DEVICE)), 1)
    held.clear()
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    found["give_back_s"] = seconds(empty_host_cache)
    found["not_given_back_mib"] = memory.memory_of("self").private - before - GIB >> 20
    pages = Pages(cudart)
    found["pages_gb_s"] = round(1.07 / seconds(lambda: [pages.allocate(256 << 20) for _ in range(4)]), 2)
    found["pages_free_s"] = seconds(pages.free)
    found["register_gb_s"] = round(1.07 / seconds(lambda: cudart.cudaHostRegister(pageable.data_ptr(), GIB, 0)), 2)
    cudart.cudaHostUnregister(pageable.data_ptr())
    return found


def launches() -> dict[str, object]:
    """Measure the microseconds of the host for a kernel, and for a graph of 300."""
    cuda, x = Cuda(DEVICE), torch.zeros(64, device=DEVICE)

    def many() -> torch.Tensor:
        y = x
        for _ in range(300):
            y = y + 1
        return y

    with torch.inference_mode():
        many()
        eager = seconds(many)
        replay, outputs = cuda.capture(many)
        replay()
        graph = seconds(replay)
    return {
        "kernel_us": round(eager / 300 * 1e6, 2),
        "graph_us": round(graph * 1e6, 1),
        "right": float(outputs[0]) == 300,
    }


def broken_capture() -> dict[str, object]:
    """Return the state after a capture that the driver aborts."""
    cuda, x = Cuda(DEVICE), torch.ones(4, device=DEVICE)
    try:
        cuda.capture(lambda: x.sum().item())
        said = "nothing"
    except Exception as exc:
        said = f"{type(exc).__name__} {getattr(exc, 'error_code', '')}"
    replay, outputs = cuda.capture(lambda: x * 2)
    replay()
    return {
        "said": said,
        "current_stream_is_default": torch.cuda.current_stream() == torch.cuda.default_stream(),
        "random": bool((torch.rand(8, device=DEVICE) != torch.rand(8, device=DEVICE)).any()),
        "next_is_right": outputs.tolist() == [2.0] * 4,
    }


def late_fault() -> dict[str, object]:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    where = torch.tensor([9]).pin_memory().to(DEVICE, non_blocking=True)
    found = {}
    kept = torch.zeros(4, device=DEVICE)[where]
    event.record()
    time.sleep(1)
    for ask in (event.query, event.synchronize):
        try:
            found[ask.__name__] = str(ask())
        except Exception as exc:
            found[ask.__name__] = f"{type(exc).__name__} {getattr(exc, 'error_code', '')}"
    del kept
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="a file that grows by each line")
    options = parser.parse_args()
    print(where(), flush=True)
    if not torch.cuda.is_available():
        return
    for look in (context, host_memory, launches, broken_capture, late_fault):
        try:
            found = look()
        except Exception as exc:
            found = {"failed": f"{type(exc).__name__}: {exc}"[:300]}
        line = json.dumps({"benchmark": "probe", "what": look.__name__, **found})
        print(line, flush=True)
        if options.json is not None:
            with options.json.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
    os._exit(0)  # a broken context has nothing to clean up
