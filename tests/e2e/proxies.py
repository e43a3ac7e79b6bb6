"""nginx and HAProxy as they stand before a server: each in the foreground on a loopback port, its files in one folder.

Both keep connections to the server and give them to whichever client comes next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.server import eventually

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream server {{ server 127.0.0.1:{server}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://server;
            proxy_http_version 1.1;
            proxy_request_buffering {buffering};
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 512
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
    option http-keep-alive
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    server one 127.0.0.1:{server}
"""
KINDS = ("nginx", "nginx-unbuffered", "haproxy")


def program(kind: str) -> str | None:
    """The path of the program, which is not on everybody's own path; None where it is not installed."""
    return shutil.which(kind.partition("-")[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def command(kind: str, folder: Path, port: int, server: int) -> list[str]:
    path = program(kind)
    assert path is not None
    config = folder / "config"
    if kind == "haproxy":
        config.write_text(HAPROXY.format(port=port, server=server))
        return [path, "-db", "-f", str(config)]
    buffering = "off" if kind == "nginx-unbuffered" else "on"
    config.write_text(NGINX.format(folder=folder, port=port, server=server, buffering=buffering))
    return [path, "-e", "stderr", "-p", str(folder), "-c", str(config)]


def takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def proxying(kind: str, folder: Path, server: int) -> Iterator[int]:
    """A proxy of this kind in front of the server on port ``server``; gives the proxy's port."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command(kind, folder, port, server), stdout=log, stderr=log)
    try:
        eventually(lambda: process.poll() is not None or takes_connections(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.kill()
        process.wait()
