"""The server's own series: what each is called, what it says, its unit and its buckets.

Names and units follow Prometheus: seconds, bytes, ratios from 0 to 1, ``_total`` for what only grows.
"""

from __future__ import annotations

from typing import NamedTuple

from serving.metrics.region import Kind, Series

SECONDS = tuple(2.0**power for power in range(-11, 7))  # 0.5 ms to 64 s
SIZES = tuple(4.0**power for power in range(3, 14))  # 64 bytes to 64 MiB
COUNTS = tuple(2.0**power for power in range(10))  # 1 to 512


class Metric(NamedTuple):
    """One name. ``labels`` are those of each series of it, in this order."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def of(self, *labels: str) -> Series:
        """Return the series with these values of the labels."""
        named = tuple(zip(self.labels, labels, strict=True))
        return Series(self.name, self.kind, self.help, named, self.bounds)


def counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"serving_{name}_total", Kind.COUNTER, help, labels)


def gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"serving_{name}", Kind.GAUGE, help, labels)


def histogram(name: str, help: str, bounds: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(f"serving_{name}", Kind.HISTOGRAM, help, ("model",), bounds)


# Written by HTTP workers.
REQUESTS = counter(
    "requests", "Requests that have their answer, by its status class and error code", "model", "status", "code"
)
REQUEST_SECONDS = histogram("request_seconds", "From the end of a request's head to the last byte of its answer")
REQUEST_BYTES = histogram("request_bytes", "Bodies of requests", SIZES)
RESPONSE_BYTES = histogram("response_bytes", "Bodies of answers; of streamed ones all chunks together", SIZES)
FIRST_CHUNK_SECONDS = histogram("time_to_first_chunk_seconds", "From the end of a request's head to its first chunk")
CHUNK_GAP_SECONDS = histogram("chunk_gap_seconds", "Between two chunks of one streamed answer")
RETRIES = counter("request_retries", "Requests that were sent once more, since their replica died", "model")
WEBSOCKETS = counter("websockets", "WebSockets that were accepted", "model")
LOOP_LAG = Metric(
    "serving_event_loop_lag_seconds", Kind.HISTOGRAM, "How late an HTTP worker's event loop ran a timer", (), SECONDS
)

# Written by model workers.
QUEUE_SECONDS = histogram("queue_seconds", "From a request's arrival at its replica to the call of the model")
DECODE_SECONDS = histogram("decode_seconds", "The handler's decode of one request")
PREDICT_SECONDS = histogram("predict_seconds", "The handler's collate, predict and split of one batch")
ENCODE_SECONDS = histogram("encode_seconds", "The handler's encode of one batch")
BATCH_SIZE = histogram("batch_size", "Requests in one call of the model", COUNTS)
BUSY_SECONDS = counter("busy_seconds", "Time in which the model's thread ran user code", "model")
SATURATION = gauge(
    "saturation", "Busy share of the model's thread over the last 10 s, the mean of all replicas", "model"
)
BISECTIONS = counter("batch_bisections", "Batches that failed and were run in halves", "model")
HALVINGS = counter("out_of_memory_halvings", "Batches that did not fit into the device's memory", "model")
MODEL_RECOMPILATIONS = counter("model_recompilations", "Times a model was compiled while requests waited", "model")
GRAPH_REPLAYS = counter("graph_replays", "Batches that were run as a recorded graph", "model")
GRAPH_MISSES = counter("graph_misses", "Batches that no recorded graph fitted", "model")
MODEL_VALUES = counter("model_values", "Values of the samples that were padded, along the padded dimension", "model")
MODEL_PADDED_VALUES = counter("model_padded_values", "Values of the batches that they were padded to", "model")

# Written by the supervisor.
LOADS = counter("model_loads", "Loads of a replica that ended, by their cause and result", "model", "cause", "result")
LOAD_SECONDS = histogram("model_load_seconds", "From the start of a replica's load to its first request")
EVICTIONS = counter("model_evictions", "Models that left to make room for others, or were unloaded", "model", "reason")
EXITS = counter("worker_exits", "Model workers that ended, by the reason", "model", "reason")
SESSIONS_LOST = counter("sessions_lost", "Sessions that ended with their replica")
RESTARTS = counter("process_restarts", "HTTP masters and fork servers that ended and were started again", "process")
XIDS = counter("gpu_xid_errors", "Errors of a GPU that its driver reported", "device", "xid")

# Read from the processes and the scoreboard when they are asked for.
READY = gauge("ready", "Whether GET /ping says 200")
REPLICAS = gauge("replicas", "Replicas that take requests")
REPLICAS_WANTED = gauge("replicas_wanted", "Replicas that should")
IN_FLIGHT = gauge("requests_in_flight", "Requests accepted and not answered, pings and other paths included")
MODEL_REPLICAS = gauge("model_replicas", "Processes of the model that take requests", "model")
QUEUED = gauge("requests_queued", "Requests that wait at replicas")
MODEL_IN_FLIGHT = gauge(
    "model_requests_in_flight", "Requests that wait or are worked on at the replicas of a model", "model"
)
MODEL_QUEUED = gauge("model_requests_queued", "Requests that wait at the replicas of a model", "model")
STREAMS = gauge("streams_open", "Streamed answers and WebSockets under way")
MODEL_STREAMS = gauge("model_streams_open", "Streamed answers and WebSockets of a model under way", "model")
SESSIONS = gauge("sessions_open", "Sessions that replicas hold")
MODEL_SESSIONS = gauge("model_sessions_open", "Sessions that the replicas of a model hold", "model")
MEMORY = gauge("model_memory_bytes", "Host memory that would be free without the model's processes", "model")
DEVICE_MEMORY = gauge("model_device_memory_bytes", "Memory that the model's processes hold on their GPU", "model")
RECOMPILATIONS = counter("recompilations", "Times a model was compiled while requests waited, all models together")
VALUES = counter("values", "Values of the samples that were padded, all models together")
PADDED_VALUES = counter("padded_values", "Values of the batches that they were padded to, all models together")

# Written by each process about itself.
CPU_SECONDS = counter("process_cpu_seconds", "CPU time of the processes of a kind", "process")
RESIDENT = gauge(
    "process_resident_bytes", "Resident memory of the processes of a kind, shared pages in each", "process"
)
DESCRIPTORS = gauge("process_open_descriptors", "Open file descriptors of the processes of a kind", "process")

ALL: tuple[Metric, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Metric))
