"""Server: the HTTP processes, a gunicorn master and its uvicorn workers. Imports no torch.

The supervisor passes down the listening socket, the scoreboard and the runtime folder; the master only keeps the
workers alive.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from uvicorn_worker import UvicornWorker

from serving.config.config import Config
from serving.frontend.app import App
from serving.frontend.drain import HttpServer
from serving.frontend.http.protocol import HttpProtocol
from serving.frontend.websocket.protocol import WebSocketProtocol
from serving.ipc.runtime import BACKLOG, Runtime, set_parent_death_signal
from serving.ipc.scoreboard import Scoreboard
from serving.system import log
from serving.system.signals import OTHERS

# Includes gunicorn's signals that would stop its workers, or change their number.
MEANINGLESS = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU, *OTHERS)
DOORS = 16  # listening sockets: the loop accepts one connection a turn from each, and turns are long under load
GRACE = 1  # seconds for connections to close when all requests are answered
KEEP_ALIVE = 90  # seconds an idle connection stays open; the platform reuses connections for at least 75
STALLED = 30  # seconds without a heartbeat after which the master replaces an HTTP worker


class HttpWorker(UvicornWorker):  # type: ignore[misc]
    """Uvicorn's worker, which drains before it ends."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "lifespan": "on",
        "server_header": False,
        "access_log": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE,
    }

    def init_signals(self) -> None:
        """Leave SIGTERM to uvicorn and ignore the rest, so that nothing else ends this process before its requests are
        answered.
        """
        super().init_signals()
        for number in (signal.SIGHUP, *MEANINGLESS):
            signal.signal(number, signal.SIG_IGN)

    async def _serve(self) -> None:
        app: App = self.wsgi
        self.config.app = app
        server = HttpServer(self.config, app.in_flight, app.must_end, app.drain_timeout)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


class Master(Arbiter):  # type: ignore[misc]
    """Gunicorn's master, which ends only with the server, reloads its workers on SIGHUP, and ignores other signals."""

    def init_signals(self) -> None:
        super().init_signals()
        for number in MEANINGLESS:
            signal.signal(number, signal.SIG_IGN)

    def handle_term(self) -> None:
        if self.app.may_end():
            super().handle_term()
        else:
            log.warning("SIGTERM is for the supervisor; the HTTP master goes on")


class QuietLogger(Logger):  # type: ignore[misc]
    """Gunicorn's logger, whose records and uvicorn's go to this server's handlers."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.loglevel = logging.WARNING
        self._access_log_enabled = False
        for name in ("gunicorn.error", "gunicorn.access", "uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).handlers[:] = logging.getLogger().handlers
            logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger(name).propagate = False

    def reopen_files(self) -> None:
        pass

    def close_on_exec(self) -> None:
        pass


class HttpMaster(BaseApplication):  # type: ignore[misc]
    """Gunicorn's application: the settings of the master and the app of its workers."""

    def __init__(self, config: Config, listener_fd: int, app: App) -> None:
        self._config = config
        # Duplicated once, here: a SIGHUP reads the settings again when the descriptor is already closed.
        self._doors = [listener_fd, *(os.dup(listener_fd) for _ in range(DOORS - 1))]
        self._app = app
        self._supervisor = os.getppid()
        super().__init__()

    def run(self) -> None:
        Master(self).run()

    def may_end(self) -> bool:
        """Return whether the server is stopping, or the supervisor is gone."""
        return self._app.must_end() or os.getppid() != self._supervisor

    def load_config(self) -> None:
        settings = {
            "bind": [f"fd://{fd}" for fd in self._doors],
            "backlog": BACKLOG,
            "workers": self._config.http_workers,
            "worker_class": HttpWorker,
            "logger_class": QuietLogger,
            "keepalive": KEEP_ALIVE,
            "timeout": STALLED,
            "graceful_timeout": 2,
            "preload_app": True,
            "control_socket_disable": True,
            "proc_name": "serving",
            "post_fork": post_fork,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> App:
        return self._app


def post_fork(arbiter: Any, worker: Any) -> None:
    # A worker that outlives its master would hold the port for ever.
    set_parent_death_signal(signal.SIGTERM)


def http_protocol(app: App) -> type[HttpProtocol]:
    """Return the HTTP protocol class. Uvicorn creates the protocols, so dependencies are attributes of the class."""

    class Bound(HttpProtocol):
        endpoint = app.endpoint

    return Bound


def websocket_protocol(config: Config, app: App) -> type[WebSocketProtocol]:
    """Return the WebSocket protocol class. Uvicorn creates the protocols, so the limits are attributes of the class."""

    class Limited(WebSocketProtocol):
        max_message = config.max_message
        bodies = app.bodies

    return Limited


def main() -> None:
    """Run ``python -m serving.frontend.server RUNTIME LISTENER_FD BOARD_FD``."""
    runtime = Runtime(Path(sys.argv[1]))
    listener_fd, board_fd = map(int, sys.argv[2:4])
    set_parent_death_signal(signal.SIGTERM)
    config = runtime.read_config()
    board = Scoreboard(board_fd)
    log.setup("http", config.log_level, config.log_format, board.log_level)
    app = App(config, runtime, board)
    HttpWorker.CONFIG_KWARGS = {
        **HttpWorker.CONFIG_KWARGS,
        "http": http_protocol(app),
        "ws": websocket_protocol(config, app),
    }
    HttpMaster(config, listener_fd, app).run()


if __name__ == "__main__":
    main()
