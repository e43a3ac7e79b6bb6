"""Every wait has a deadline: what may wait for a client or a process is under one, or is listed with a reason.

The sources are read, not run. A wait without a time limit of its own passes on to whoever awaits the function that it
is in, until there is ``asyncio.timeout``, ``wait_for`` or a ``timeout=``. One that nobody bounds fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for path in ROOT.glob("serving/**/*.py") if "desk" not in path.parts)

LIMITS = ("timeout", "timeout_at")  # async with asyncio.timeout(…)
# Calls that wait for nobody else, or with a time of their own; what a thread does is our own code.
BOUNDED = ("wait_for", "sleep", "to_thread", "create_unix_server")
BLOCKING = (
    "wait",
    "acquire",
    "join",
    "get",
    "result",
    "recv",
)  # of threads, queues, locks, processes: without arguments

STARTING = ("create_task", "ensure_future", "_spawn", "run")
PRIMITIVE = ("wait", "get", "drain", "join", "acquire")  # never taken for a function of ours of that name

# Waits that another thing bounds: where they are, as ``file: function: what is awaited``, and what that is.
READS = "the protocol cuts a client that reads nothing for READ_TIME, and so ends the wait"
INSIDE = "what it awaits is read here by itself"
USER = "user code, which the supervisor ends by its stamp on the scoreboard"
CONVERSATION = "Conversations._converse looks each second and ends what takes too long"
TAKES_TURNS = "two threads of one process take turns; the supervisor watches the one that runs user code"
LIFE = "a process, a thread or a loop waits for work as long as it lives"
BEGINS = "the socket is there already"
DONE = "it is done"
LISTED = {
    "conversation.py: _wait: self._changed.wait()": "the HTTP worker ends a conversation that is idle or too long",
    "conversation.py: wait_closed: self._ended.wait()": "the HTTP worker ends a conversation that is idle or too long",
    "frontend/responses.py: _send: send(": READS,
    "frontend/responses.py: write: send(": "pass_on bounds it",
    "frontend/responses.py: stream: send(": READS,
    "frontend/responses.py: _start_stream: send(": READS,
    "frontend/app.py: __call__: self._local(": INSIDE,
    "frontend/app.py: __call__: self._rest(": INSIDE,
    "frontend/app.py: _converse: self._conversations(": INSIDE,
    "frontend/app.py: _infer: self._open_inference(": INSIDE,
    "frontend/http/writer.py: write: self._flow.drain()": "Responses.pass_on bounds it",
    "frontend/invocation/asgi_border.py: pump: self._changed.wait()": "the exchange that it waits for has a deadline",
    "frontend/invocation/asgi_border.py: write: self._is_empty.wait()": "Responses.pass_on bounds it",
    "frontend/invocation/asgi_border.py: listen: receive()": "its call ends it",
    "frontend/invocation/exchange.py: _await: work()": "each of the works has a time, and the exchange ends them",
    "frontend/routing/connection.py: abandon_reply: call.reply.result()": DONE,
    "frontend/websocket/conversations.py: __call__: receive()": "what says that it begins is there already",
    "frontend/websocket/conversations.py: __call__: send(": READS,
    "frontend/websocket/conversations.py: _converse: asyncio.gather(": (
        "both were cancelled, and neither goes on after that"
    ),
    "frontend/websocket/conversations.py: outcome: task.result()": DONE,
    "frontend/websocket/conversations.py: refuse: send(": READS,
    "frontend/websocket/conversations.py: _unless_over: opening.result()": DONE,
    "frontend/routing/invocations.py: name: self._found": "the task asks the supervisor within a time",
    "frontend/routing/invocations.py: _ask: self._find()": INSIDE,
    "frontend/local/platform_responses.py: respond: send(": READS,
    "frontend/local/asynchronous.py: _run: self._slots": "each of the calls before it has a time",
    "frontend/local/call.py: ask: call.ended": "Call.limit settles it",
    "frontend/local/call.py: watched: receive()": "who asks for a body bounds it",
    "frontend/local/call.py: _run: self._application(": INSIDE,
    "frontend/local/files.py: receive: self._closed.wait()": "its call closes it, and has a time",
    "frontend/local/runtime.py: __call__: self._operations[": INSIDE,
    "frontend/local/stream.py: send: self._writing": READS,
    "frontend/local/stream.py: _begin: self._client(": READS,
    "frontend/local/stream.py: finish: self._writing": READS,
    "frontend/local/stream.py: _write: self._client(": READS,
    "frontend/api/models.py: respond: endpoint(": INSIDE,
    "frontend/receiving.py: watch: work": INSIDE,
    "frontend/routing/stream.py: next: self._changed.wait()": CONVERSATION,
    "frontend/routing/stream.py: send_message: self._changed.wait()": CONVERSATION,
    "frontend/websocket/flow.py: drain: self._writable.wait()": READS,
    "frontend/websocket/inbox.py: get: self._arrived.wait()": CONVERSATION,
    "frontend/websocket/protocol.py: receive: self._inbox.get()": CONVERSATION,
    "frontend/websocket/protocol.py: send: self._flow.drain()": READS,
    "frontend/websocket/running.py: run_app: app(": INSIDE,
    "supervisor/forkserver.py: start: asyncio.get_running_loop().create_connection(": BEGINS,
    "supervisor/supervisor.py: run: self._exit": LIFE,
    "supervisor/store/unpacking.py: _run: ended": "Unpacker.unpack gives it its time",
    "weights/ring.py: _run: self.empty.get()": "Readers.__exit__ ends it",
    "worker/engine/computing.py: predict: self.device.fetch(": USER,
    "worker/engine/streams/conversations.py: converse: asyncio.wait(": (
        "the HTTP worker ends a conversation that is idle or too long"
    ),
    "worker/engine/streams/conversations.py: converse: work.result()": DONE,
    "worker/engine/engine.py: _wait: self.streams.wait()": (
        "as long as the streams that it waits for, which have a time"
    ),
    "worker/engine/batches.py: _landed: flight.landing.wait()": USER,
    "worker/io/controllink.py: connect: loop.create_unix_connection(": BEGINS,
    "worker/parking.py: wait: self._word.wait()": LIFE,
    "worker/server.py: _park: self._intake.parking.wait()": LIFE,
    "worker/engine/streams/asyncgenerators.py: _pass_on: chunks": USER,
    "worker/engine/streams/asyncgenerators.py: _pass_on: stream.room.wait()": (
        "the HTTP worker cancels an answer that is not read in time"
    ),
    "adapters/torchserve/streaming.py: _run: self._go.acquire()": TAKES_TURNS,
    "adapters/torchserve/streaming.py: resume: self._back.acquire()": TAKES_TURNS,
    "adapters/torchserve/streaming.py: give_way: self._go.acquire()": TAKES_TURNS,
    "adapters/triton/decoupled.py: _wait_for_loop: turned.wait()": USER,
    "adapters/triton/decoupled.py: _take: self._queue.get()": LIFE,
    "adapters/triton/decoupled.py: _serve_async: loop.run_in_executor(": LIFE,
    "adapters/triton/decoupled.py: _work_async: work": USER,
    "adapters/triton/decoupled_stream.py: _next: self._changed.wait()": (
        "the HTTP worker cancels an answer that stands still"
    ),
    "adapters/triton/script.py: wait: value": USER,
}


@dataclass
class Function:
    """``waits`` are what in it waits without a limit by itself, ``calls`` the names of our functions that it awaits
    without one."""

    where: str
    name: str
    waits: list[str] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)


def is_limit(item: ast.withitem) -> bool:
    call = item.context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LIMITS


def is_of_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def called(node: ast.expr) -> str | None:
    """The name of the function or method that is called."""
    if not isinstance(node, ast.Call):
        return None
    func = node.func
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else None


class Reader(ast.NodeVisitor):
    """Reads one file. ``own`` are the names of all coroutine functions of the sources."""

    def __init__(self, where: str, own: set[str]) -> None:
        self.where = where
        self._here: set[str] = set()
        self.own = own
        self.functions: list[Function] = []
        self.started: set[str] = set()
        """What is named otherwise than to be awaited, for somebody else to call, as far as names tell."""
        self.called: set[str] = set()
        """What is called otherwise than to be awaited."""
        self.tasks: set[str] = set()
        """What surely is one or the other."""
        self._stack: list[Function | None] = []
        self._parameters: list[set[str]] = [set()]
        self._limits = 0

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        here, self._here = self._here, {one.name for one in node.body if isinstance(one, ast.AsyncFunctionDef)}
        self.generic_visit(node)
        self._here = here

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node, Function(self.where, node.name))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node, None)

    def _visit_function(self, node: ast.AsyncFunctionDef | ast.FunctionDef, function: Function | None) -> None:
        if function is not None:
            self.functions.append(function)
        self._stack.append(function or Function(self.where, node.name))
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self._parameters.append({one.arg for one in arguments})
        limits, self._limits = self._limits, 0
        for child in node.body:
            self.visit(child)
        self._limits = limits
        self._parameters.pop()
        self._stack.pop()
        for decorator in node.decorator_list:
            self.visit(decorator)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        before = self._limits
        for item in node.items:
            self.visit(item.context_expr)
            if is_limit(item):
                self._limits += 1
            else:
                self._waits(item.context_expr)
        for child in node.body:
            self.visit(child)
        self._limits = before

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._awaits(node.iter)
        for child in [*node.body, *node.orelse]:
            self.visit(child)

    def visit_Await(self, node: ast.Await) -> None:
        self._awaits(node.value)

    def _awaits(self, value: ast.expr) -> None:
        name = called(value)
        if not isinstance(value, ast.Call):
            self._waits(value)
            self.visit(value)
            return
        if name == "shield":
            self._awaits(value.args[0])
            return
        if self._is_own(value):
            self._calls(name or "")
        elif name not in BOUNDED and not any(one.arg == "timeout" for one in value.keywords):
            self._waits(value)
        if isinstance(value.func, ast.Attribute):
            self.visit(value.func.value)
        for argument in [*value.args, *(one.value for one in value.keywords)]:
            if isinstance(argument, ast.Call) and self._is_own(argument):
                self._awaits(argument)
            else:
                self.visit(argument)

    def _is_own(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Name) and any(call.func.id in one for one in self._parameters):
            return False
        name = called(call)
        return name in self.own and (isinstance(call.func, ast.Name) or name not in PRIMITIVE)

    def _calls(self, name: str) -> None:
        if not self._limits:
            self._stack[-1].calls.add(name)  # type: ignore[union-attr]

    def _waits(self, value: ast.expr) -> None:
        if not self._limits:
            self._stack[-1].waits.append(ast.unparse(value)[:60])  # type: ignore[union-attr]

    def visit_Call(self, node: ast.Call) -> None:
        name = called(node)
        if name in STARTING:
            self.tasks |= {called(one) or "" for one in node.args}
        if name is not None and self._is_own(node) and not is_of_self(node.func):
            self.called.add(name)
        if isinstance(node.func, ast.Attribute) and name in BLOCKING and not node.args and not node.keywords:
            function = self._stack[-1] if self._stack else None
            if function is not None:
                blocking = Function(self.where, function.name, [ast.unparse(node)[:60]])
                self.functions.append(blocking)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and not any(node.id in one for one in self._parameters):
            self.started.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Load) and is_of_self(node):
            self.tasks |= {node.attr} & self._here
        elif isinstance(node.ctx, ast.Load):
            self.started.add(node.attr)
        self.visit(node.value)


def coroutines(tree: ast.AST) -> Iterator[str]:
    return (node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))


def fields(tree: ast.AST) -> Iterator[str]:
    """Names of attributes that are data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.ClassDef):
            yield from (
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            )


def read(sources: dict[str, str]) -> tuple[list[Function], set[str]]:
    """All functions that wait, and the names of those that nobody's limit may stand around."""
    trees = {where: ast.parse(text) for where, text in sources.items()}
    own = {name for tree in trees.values() for name in coroutines(tree)}
    plain = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    data = {name for tree in trees.values() for name in fields(tree)}
    functions: list[Function] = []
    started: set[str] = set()
    for where, tree in trees.items():
        reader = Reader(where, own)
        reader.visit(tree)
        functions += reader.functions
        started |= own & (reader.tasks | reader.called - plain | reader.started - plain - data)
    awaited = {name for one in functions for name in one.calls}
    everywhere = {name for text in sources.values() for name in own if f"{name}(" in text.replace(f"def {name}(", "")}
    return functions, started | own & set(PRIMITIVE) | (own - awaited - everywhere)


def unbounded(sources: dict[str, str]) -> list[str]:
    """The waits that nothing bounds, as in LISTED."""
    functions, roots = read(sources)
    by_name: dict[str, list[Function]] = {}
    for one in functions:
        by_name.setdefault(one.name, []).append(one)
    reached, left = set(roots), list(roots)
    while left:
        for one in by_name.get(left.pop(), []):
            new = one.calls - reached
            reached |= new
            left += new
    own = {name for text in sources.values() for name in coroutines(ast.parse(text))}
    return [
        f"{one.where}: {one.name}: {wait}"
        for one in functions
        for wait in one.waits
        if one.name in reached or one.name not in own
    ]


def all_sources() -> dict[str, str]:
    return {str(path.relative_to(ROOT / "serving")): path.read_text() for path in SOURCES}


def test_whatever_may_wait_for_others_has_a_deadline() -> None:
    found = unbounded(all_sources())
    assert [wait for wait in found if not any(wait.startswith(one) for one in LISTED)] == []
    assert [one for one in LISTED if not any(wait.startswith(one) for wait in found)] == [], "no longer there"


LIMIT = "async with asyncio.timeout(1):"
WAITS = {
    "a client": "async def app(receive): await receive()",
    "a call that waits": """
async def app(x): await step(x)
async def step(x): await x.read()
""",
    "a call that has a limit elsewhere": f"""
async def app(x):
    {LIMIT}
        await step(x)
    await step(x)
async def step(x): await x.readline()
""",
    "a task": f"""
async def app(x):
    {LIMIT}
        task = asyncio.create_task(step(x))
        await asyncio.wait([task])
async def step(x): await x.drain()
""",
    "what is given to another": """
async def app(x): await watch(step(x))
async def watch(y): pass
async def step(x): await x.wait()
""",
    "a function that others call": f"""
async def app(x):
    {LIMIT}
        async def inner(): await x.wait()
        f(inner)
""",
    "a future": "async def app(future): await future",
    "a shield": "async def app(future): await asyncio.shield(future)",
    "a lock": """
async def app(lock):
    async with lock: pass
""",
    "an iterator": """
async def app(items):
    async for one in items: pass
""",
    "others": "async def app(tasks): await asyncio.wait(tasks)",
    "another process": "async def app(loop): await loop.create_unix_connection(f, '/path')",
    "a queue of a thread": "def run(queue): queue.get()",
}
BOUND = {
    "a limit": f"""
async def app(x):
    {LIMIT}
        await x.read()
""",
    "a limit of the caller": f"""
async def app(x):
    {LIMIT}
        await step(x)
async def step(x): await x.read()
""",
    "a time of its own": """
async def app(x):
    await asyncio.wait_for(x.read(), 1)
    await asyncio.wait(x, timeout=1)
""",
    "a thread with a time": "def run(queue): queue.get(timeout=1)",
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_without_a_deadline_is_found(name: str) -> None:
    assert unbounded({"app.py": WAITS[name]})


@pytest.mark.parametrize("name", BOUND)
def test_a_wait_with_a_deadline_is_not(name: str) -> None:
    assert not unbounded({"app.py": BOUND[name]})
