"""Random pipelines of HTTP requests, cut at random places, and what must come back: a reference to hold a server to.

All that is random comes of one seed, which is told where an answer is not what it must be.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

MOST = 400_000  # bytes of a body that the server takes
DEPTH = 10  # requests of a pipeline at most
PATIENCE = 15.0  # seconds for a whole pipeline
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
SIZES = (0, 1, 2, 17, 500, 8_192, 65_535, 65_536, 65_537, 140_000, 262_144, 307_200)
REQUEST = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nFORGED"
FILLINGS = (
    REQUEST,
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\nUpgrade: h2c",
    b"\r\nupgrade:a",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n\r\n",
)


@dataclass(frozen=True)
class Asked:
    """One request, and its answer: ``body`` is None where anything will do.

    ``early``: it may be answered before its body is read, and the connection may end with that. ``ends``: it must.
    """

    name: str
    data: bytes
    status: int
    body: bytes | None = None
    attributes: str | None = None
    early: bool = False
    ends: bool = False
    bodiless: bool = False


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ends(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


@dataclass
class Heard:
    """All that came back; ``cut`` says how the connection ended, "" where it has not."""

    answers: list[Answer] = field(default_factory=list)
    cut: str = ""


# Requests.


def body_of(rng: random.Random, most: int = SIZES[-1]) -> bytes:
    """Random bytes, or what looks like requests or pieces of them, from any byte on."""
    size = rng.choice([size for size in SIZES if size <= most])
    if rng.random() < 0.4:
        return rng.randbytes(size)
    filling = rng.choice(FILLINGS)
    start = rng.randrange(len(filling))
    return (filling[start:] + filling * (size // len(filling) + 1))[:size]


def lines_of(rng: random.Random) -> list[bytes]:
    """Headers that change nothing."""
    found = [b"Host: localhost"]
    for line in (b"accept: */*", b"User-Agent: any", b"x-long: " + b"z" * rng.randrange(3_000), b"Upgrade-Insecure: 1"):
        if rng.random() < 0.25:
            found.append(line)
    if rng.random() < 0.1:
        found += [b"Connection: " + rng.choice((b"Upgrade, HTTP2-Settings", b"upgrade")), b"Upgrade: h2c"]
    rng.shuffle(found)
    return found


def request(start: bytes, lines: Sequence[bytes], body: bytes = b"") -> bytes:
    return b"\r\n".join([start, *lines]) + b"\r\n\r\n" + body


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def chunks_of(rng: random.Random, body: bytes) -> bytes:
    """A chunked body with extensions, and with trailers that nobody may take for headers."""
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.randrange(8)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
    extensions = (b"", b"", b";a", b";a=b", b';a="b c"')
    sizes = (b"%x", b"%X", b"0%x")
    found = b"".join(
        rng.choice(sizes) % len(part) + rng.choice(extensions) + b"\r\n" + part + b"\r\n" for part in parts
    )
    trailers = (
        b"x-checksum: 1",
        b"Connection: close",
        b"X-Amzn-SageMaker-Custom-Attributes: trailer=1",
        b"X-Amzn-SageMaker-Session-Id: NEW_SESSION",
        b"x-long: " + b"t" * 2_000,
    )
    chosen = rng.sample(trailers, rng.choice((0, 0, 1, 2)))
    return found + b"0" + rng.choice(extensions) + b"\r\n" + b"".join(line + b"\r\n" for line in chosen) + b"\r\n"


def echo(rng: random.Random) -> Asked:
    body, lines, attributes = body_of(rng), lines_of(rng), None
    if rng.random() < 0.3:
        attributes = f"k={rng.randrange(10**6)}"
        lines.append(f"X-Amzn-SageMaker-Custom-Attributes: {attributes}".encode())
    if rng.random() < 0.1:
        lines.append(b"Expect: 100-continue")
    start = b"POST /invocations HTTP/1.1"
    if rng.random() < 0.5:
        data = request(start, [*lines, sized(body)], body)
        return Asked(f"echo {len(body)}", data, 200, body, attributes)
    data = request(start, [*lines, b"Transfer-Encoding: chunked"], chunks_of(rng, body))
    return Asked(f"echo {len(body)} chunked", data, 200, body, attributes)


def repeated(rng: random.Random) -> list[Asked]:
    """Requests with the same head, as most clients send them."""
    lines, size = lines_of(rng), rng.choice(SIZES[1:6])
    bodies = [rng.randbytes(size) for _ in range(rng.randrange(2, 5))]
    start = b"POST /invocations HTTP/1.1"
    return [Asked(f"again {size}", request(start, [*lines, sized(body)], body), 200, body) for body in bodies]


def bare(rng: random.Random) -> Asked:
    """A request without a body, so that its answer has no reason to end the connection."""
    start, status = rng.choice(
        [
            (b"GET /ping", 200),
            (b"HEAD /ping", 200),
            (b"GET /metrics", 200),
            (b"GET /nothing/here", 404),
            (b"GET /invocations", 405),
            (b"DELETE /ping", 405),
        ]
    )
    data = request(start + b" HTTP/1.1", lines_of(rng))
    return Asked(start.decode(), data, status, bodiless=start.startswith(b"HEAD"))


def early(rng: random.Random) -> Asked:
    """A request whose answer needs none of its body."""
    start, status, more = rng.choice(
        [
            (b"POST /nosuch", 404, []),
            (b"PUT /invocations", 405, []),
            (b"POST /ping", 200, []),
            (b"GET /ping", 200, []),
            (b"GET /metrics", 200, []),
            (b"POST /invocations", 400, [b"X-Amzn-SageMaker-Custom-Attributes: " + b"y" * 2_000]),
            (b"POST /invocations", 400, [b"X-Amzn-SageMaker-Session-Id: none"]),
        ]
    )
    body = body_of(rng) or b"x"
    if rng.random() < 0.1:
        start, status, more, body = b"POST /invocations", 413, [], body + bytes(MOST)
    lines = [*lines_of(rng), *more]
    if rng.random() < 0.5:
        data = request(start + b" HTTP/1.1", [*lines, sized(body)], body)
    else:
        data = request(start + b" HTTP/1.1", [*lines, b"Transfer-Encoding: chunked"], chunks_of(rng, body))
    return Asked(f"early {start.decode()} {len(body)}", data, status, early=True)


def last(rng: random.Random) -> Asked:
    """A request that ends its connection: it says so, or makes no sense."""
    start, body = b"POST /invocations HTTP/1.1", body_of(rng, 70_000)
    lines = lines_of(rng)
    good = request(start, [*lines, sized(body)], body)
    wrong = rng.choice(
        [
            request(start, [sized(body)], body),  # without a Host
            request(start, [b"Host: a", b"Host: b", sized(body)], body),
            request(b"NONSENSE", lines),
            request(start, [*lines, b"Content-Length: x"]),
            request(start, [*lines, b"Content-Length: 3", b"Content-Length: 4"], b"abc"),
            request(start, [*lines, b"Transfer-Encoding: chunked"], b"zz\r\n"),
            request(start, [*lines, b"bad header"]),
        ]
    )
    asked_close = request(start, [*lines, sized(body), b"Connection: close"], body)
    old = request(b"POST /invocations HTTP/1.0", [sized(body)], body)
    return rng.choice(
        [
            Asked("close", asked_close, 200, body, ends=True),
            Asked("HTTP/1.0", old, 200, body, ends=True),
            Asked(f"wrong {wrong[:60]!r}", wrong, 400, ends=True),
            Asked("echo last", good, 200, body),
        ]
    )


def pipeline(rng: random.Random) -> list[Asked]:
    found: list[Asked] = []
    depth = rng.randrange(1, DEPTH)
    kinds: list[Callable[[random.Random], Asked]] = [echo, echo, echo, bare, bare]
    if rng.random() < 0.4:
        kinds.append(early)
    while len(found) < depth:
        found += repeated(rng) if rng.random() < 0.15 else [rng.choice(kinds)(rng)]
    return [*found, last(rng)] if rng.random() < 0.4 else found


def pieces(rng: random.Random, asked: Sequence[Asked]) -> Iterator[bytes]:
    """All bytes of a pipeline: in one piece, request by request, or cut anywhere, often near a border."""
    data = b"".join(one.data for one in asked)
    borders = [0]
    for one in asked:
        borders += [borders[-1] + len(one.data)]
    way = rng.randrange(4)
    if way == 0:
        cuts = []
    elif way == 1:
        cuts = borders[1:-1]
    elif way == 2:
        cuts = [rng.randrange(len(data)) for _ in range(rng.randrange(1, 12))]
    else:
        near = rng.sample(borders, min(len(borders), 3))
        cuts = [border + away for border in near for away in rng.sample(range(-30, 120), 12)]
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


# Sending and hearing.


async def read_answer(reader: asyncio.StreamReader, bodiless: bool) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").rstrip().split("\r\n")
    status = int(start.split(" ")[1])
    if status == 100:
        return await read_answer(reader, bodiless)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    size = 0 if bodiless else int(headers.get("content-length", 0))
    return Answer(status, headers, await reader.readexactly(size))


async def hear(reader: asyncio.StreamReader, asked: Sequence[Asked], heard: Heard, to_end: bool) -> None:
    """Read an answer to each request, and on to the end of the connection where one is due."""
    try:
        while to_end or len(heard.answers) < len(asked):
            bodiless = len(heard.answers) < len(asked) and asked[len(heard.answers)].bodiless
            heard.answers.append(await read_answer(reader, bodiless))
            to_end |= heard.answers[-1].ends
    except asyncio.IncompleteReadError as error:
        heard.cut = f"cut within an answer: {error.partial[:80]!r}" if error.partial else "end"
    except ConnectionError as error:
        heard.cut = "end" if heard.answers and heard.answers[-1].ends else repr(error)


async def send(writer: asyncio.StreamWriter, rng: random.Random, asked: Sequence[Asked], half_close: bool) -> None:
    for piece in list(pieces(rng, asked)):
        writer.write(piece)
        await writer.drain()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.004)
    if half_close:
        writer.write_eof()


async def ask(port: int, rng: random.Random, asked: Sequence[Asked], half_close: bool) -> Heard:
    """Send a pipeline, and hear what comes."""
    heard = Heard()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    sending = asyncio.create_task(send(writer, rng, asked, half_close))
    try:
        async with asyncio.timeout(PATIENCE):
            await hear(reader, asked, heard, half_close or asked[-1].ends)
            if not heard.cut and not half_close:
                await sending
                probe = request(b"POST /invocations HTTP/1.1", [b"Host: x", b"Content-Length: 5"], b"probe")
                writer.write(probe)
                heard.answers.append(await read_answer(reader, False))
    except TimeoutError:
        heard.cut = f"nothing more within {PATIENCE:g} s"
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        heard.cut = f"gone after its last answer: {error!r}"
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    return heard


# What must be.


def complaints(asked: Sequence[Asked], heard: Heard, half_close: bool) -> Iterator[str]:
    """What is wrong with the answers to a pipeline."""
    answers = heard.answers
    due = list(asked)
    if not half_close and not heard.cut:
        due.append(Asked("probe", b"", 200, b"probe"))
    for number, (one, answer) in enumerate(zip(due, answers, strict=False)):
        yield from (f"{number}, {one.name}: {words}" for words in differences(one, answer))
        if answer.ends and number + 1 < len(answers):
            yield f"{number}, {one.name}: it says that the connection ends, and more came"
    if len(answers) > len(due):
        yield f"{len(answers)} answers to {len(due)} requests; the last says {answers[-1].body[:60]!r}"
    final = asked[min(len(answers), len(asked)) - 1] if answers else None
    if len(answers) < len(due) and not (final and final.early and answers[-1].ends and heard.cut == "end"):
        yield f"{len(answers)} answers to {len(due)} requests, then: {heard.cut}"
    elif heard.cut not in ("", "end"):
        yield heard.cut
    elif asked[-1].ends and not heard.cut:
        yield "the connection goes on behind one that ends it"


def differences(one: Asked, answer: Answer) -> Iterator[str]:
    if answer.status != one.status:
        yield f"{answer.status}, not {one.status}: {answer.body[:80]!r}"
    elif one.body is not None and answer.body != one.body:
        yield f"a body of {len(answer.body)} bytes, not its own {len(one.body)}: {answer.body[:60]!r}"
    elif answer.headers.get(ATTRIBUTES) != one.attributes:
        yield f"attributes {answer.headers.get(ATTRIBUTES)!r}, not {one.attributes!r}"
    elif answer.ends and not (one.early or one.ends):
        yield "it ends the connection"


async def run(port: int, seed: int) -> list[str]:
    """Ask one pipeline; what is wrong with its answers."""
    rng = random.Random(seed)
    asked = pipeline(rng)
    half_close = rng.random() < 0.25
    heard = await ask(port, rng, asked, half_close)
    wrong = list(complaints(asked, heard, half_close))
    names = ", ".join(one.name for one in asked) + (", half-closed" if half_close else "")
    return [f"seed {seed} ({names}): {words}" for words in wrong]
