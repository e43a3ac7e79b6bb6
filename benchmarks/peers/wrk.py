"""wrk, a load generator in C: each connection sends its next request once it has its answer."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from servers import Question

Row = dict[str, Any]

LUA = """
local file = io.open("%s", "rb")
wrk.body = file:read("*all")
wrk.method = "POST"
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def saturate(port: int, question: Question, connections: int, seconds: float, folder: Path) -> Row:
    """Return ``rps``, and latencies in milliseconds. Raises RuntimeError where a request failed."""
    (folder / "body").write_bytes(question.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in question.headers.items())
    (folder / "post.lua").write_text(LUA % (folder / "body", headers))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(folder / "post.lua")]
    url = f"http://127.0.0.1:{port}{question.path}"
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    found: Row = json.loads(re.findall(r"RESULT (.*)", said)[0])
    if found["errors"]:
        raise RuntimeError(f"{url}: {found['errors']} errors with {connections} connections")
    return {**found, "rps": found["requests"] / found["seconds"]}
