"""Rows, of CSV and of JSON Lines, take no more memory than was claimed for them, however a handler reads them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from handlers.rows import read_rows
from handlers.tabular import TabularHandler
from serving import Handler, Request, claims, codecs
from serving.errors import BodyTooLarge
from serving.testing import Client
from serving.worker.batching.batcher import Item
from serving.worker.engine.decoding import decode
from serving.worker.engine.records import split
from tests.unit.test_claims import LIMIT, MIB, peak_of

N = 60_000
CSV, LINES, JSON = "text/csv", "application/jsonlines", "application/json"
BODIES: dict[str, tuple[bytes, str]] = {
    "one row of empty fields": (b"," * N, CSV),
    "one row of digits": (b"1," * N + b"1", CSV),
    "one row of numbers": (b"1.23456789," * N + b"1", CSV),
    "one row of quoted empty fields": (b'"",' * N + b"1", CSV),
    "one row of quoted digits": (b'"1",' * N + b"1", CSV),
    "one row of many lines": (b'"\n",' * N + b"1", CSV),
    "many rows": (b"1\n" * N, CSV),
    "many rows of four": (b"1.5,2.5,3.5,4.5\n" * (N // 4), CSV),
    "many rows of ten": ((b"0.123456," * 9 + b"1\n") * (N // 10), CSV),
    "many rows of old Macs": (b"1\r" * N, CSV),
    "many rows of Windows": (b"1\r\n" * N, CSV),
    "many quoted empty rows": (b'""\n' * N, CSV),
    "many empty rows": (b"\n" * N + b"1\n", CSV),
    "blank lines behind": (b"1\n" + b"\n" * N, CSV),
    "UTF-16": ("1,\n".encode("utf-16") * N, f"{CSV}; charset=utf-16"),
    "lines of empty lists": (b"[]\n" * N, LINES),
    "lines of lists": (b"[1]\n" * N, LINES),
    "lines of floats": (b"[1.5,2.5]\n" * N, LINES),
    "lines of objects": (b"{}\n" * N, LINES),
    "lines of texts": (b'"a"\n' * N, LINES),
    "lines of deep lists": (b"[[[[[]]]]]\n" * N, LINES),
    "lines of old Macs": (b"[]\r" * N, LINES),
    "deep lists": (b"[" + b"[[[[]]]]," * N + b"1]", JSON),
    "a text of wide characters": (b'"' + b"a" * 10 * N + "\N{GRINNING FACE}".encode() + b'"', JSON),
    "a text of escaped wide characters": (b'"' + b"a" * 10 * N + b'\\ud83d\\ude00"', JSON),
}


class Reading(Handler):
    def __init__(self, read: Callable[[Request], Any]) -> None:
        self._read = read

    def decode(self, request: Request) -> Any:
        return self._read(request)


@pytest.fixture(scope="module")
def tabular(tmp_path_factory: pytest.TempPathFactory) -> TabularHandler:
    folder = tmp_path_factory.mktemp("tabular")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(torch.nn.Flatten()), str(folder / "model.pt"))
    handler = TabularHandler()
    handler.load(folder, "cpu", missing=0.0, header="absent")
    return handler


def record(request: Request) -> Any:
    return codecs.decode_record(request.body, request.content_type) if request.media_type == CSV else None


READS: dict[str, Callable[[Request], Any]] = {
    "an array": lambda request: codecs.decode(request.body, request.content_type),
    "rows": lambda request: read_rows(request, [], "absent"),
    "a record": record,
    "records": split,
}


def peak_and_claim(handler: Handler, item: Item) -> tuple[int, int]:
    """The most that decoding takes, and the most that was claimed while it went on."""
    gc.collect()
    most = 0
    take = claims.Ledger.take

    def watched(ledger: claims.Ledger, size: int) -> bool:
        nonlocal most
        taken = take(ledger, size)
        most = max(most, ledger.held)
        return taken

    claims.Ledger.take = watched  # type: ignore[method-assign]
    try:
        return peak_of(lambda: decode(handler, item)), most
    finally:
        claims.Ledger.take = take  # type: ignore[method-assign]
        claims.release([item])


@pytest.mark.parametrize("read", [*READS, "a tensor"])
@pytest.mark.parametrize("name", BODIES)
def test_rows_take_no_more_than_is_claimed(name: str, read: str, tabular: TabularHandler) -> None:
    body, kind = BODIES[name]
    if read in ("rows", "a tensor") and kind == JSON:
        pytest.skip("no rows")
    handler = Reading(READS[read]) if read in READS else tabular
    peak, most = peak_and_claim(handler, Item(1, Request(body, kind)))
    assert peak <= 1.1 * most + MIB // 4, f"{peak / len(body):.0f} bytes a byte"


def test_rows_with_names_take_no_more_than_is_claimed() -> None:
    for body, columns in ((b"a\n" + b"1\n" * N, ["a"]), (b"a,b,c,d\n" + b"1,2,3,4\n" * N, ["a", "b", "c", "d"])):
        handler = Reading(lambda request, columns=columns: read_rows(request, columns, "auto"))  # type: ignore[misc]
        peak, most = peak_and_claim(handler, Item(1, Request(body, CSV)))
        assert peak <= most + MIB // 4, f"{peak / len(body):.0f} bytes a byte"


@pytest.mark.parametrize("read", ["rows", "a record"])
def test_eight_megabytes_of_commas_do_not_fit_into_64(read: str) -> None:
    claims.set_limit(LIMIT)
    try:
        item = Item(1, Request(b"," * (8 << 20), CSV))
        decoded = decode(Reading(READS[read]), item)
        assert isinstance(decoded.error, BodyTooLarge)
        claims.release([item])
    finally:
        claims.set_limit(claims.UNLIMITED)


def test_a_column_of_numbers_fits_where_it_did_not() -> None:
    claims.set_limit(LIMIT)
    try:
        assert codecs.decode(b"1\n" * 500_000, CSV).shape == (500_000, 1)
    finally:
        claims.set_limit(claims.UNLIMITED)


def test_of_rows_that_are_decoded_only_the_tensor_stays_claimed(tabular: TabularHandler) -> None:
    item = Item(1, Request(b"1,2\n" * N, CSV))
    decode(tabular, item)
    assert item.claim.size == 2 * 4 * N
    claims.release([item])


class Each(Handler):
    def predict(self, batch: Any) -> Any:
        return batch.sum(1)


def test_a_body_of_many_records_is_answered_within_what_is_claimed() -> None:
    client = Client(Each())
    body = b"[1]\n" * 20_000
    client.invoke(body[:400], LINES)  # so that what is made once is there
    peak = peak_of(lambda: client.invoke(body, LINES))
    assert peak < 400 * 20_000, f"{peak / 20_000:.0f} bytes a record"
    assert client.invoke(b"1\n2\n" * 3, CSV).body == b"[1.0,2.0,1.0,2.0,1.0,2.0]"
