"""nginx in front of replicas, as a load balancer that knows nothing of them but their ports."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.steadiness import kernel
from bench.steadiness.client import HOST

# proxy_next_upstream is left as it is (error timeout): a POST is never sent twice, so whatever a
# replica does to one that it was sent is seen by the client. Three settings are not nginx's own:
# - max_fails=0: by default one refused connection turns a replica off for ten seconds, and a
#   restart of both within these would leave none;
# - keepalive: by default each request opens a connection;
# - keepalive_timeout: shorter than the replicas' pause before they close, so that nginx never
#   writes to a connection at the moment in which its replica closes it.
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 20m;
    upstream replicas {{
{servers}
        keepalive 32;
        keepalive_timeout {keepalive_ms}ms;
    }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


# [error] 17#17: *4 upstream prematurely closed connection while ..., client: ...
_ERROR = re.compile(r"\[(?:error|crit|emerg|alert)\] \S+ (?:\*\d+ )?(.{1,100}?)(?:, client|$)")


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running nginx."""

    port: int
    error_log: Path

    def errors(self) -> Counter[str]:
        """What it logged as errors, counted by their first words.

        Refused connections are left out: nginx then asks the other replica.
        """
        lines = self.error_log.read_text(errors="replace").splitlines()
        found = (_ERROR.search(line) for line in lines)
        return Counter(
            match[1] for match in found if match and "Connection refused" not in match[1]
        )


def configuration(folder: Path, port: int, upstreams: Sequence[int], keepalive_ms: int) -> str:
    """Nginx's configuration, with everything that it writes in `folder`."""
    servers = "\n".join(f"        server {HOST}:{each} max_fails=0;" for each in upstreams)
    return _CONFIGURATION.format(
        folder=folder, port=port, host=HOST, servers=servers, keepalive_ms=keepalive_ms
    )


@contextmanager
def balancing(upstreams: Sequence[int], *, keepalive_ms: int) -> Iterator[Balancer]:
    """Nginx in front of `upstreams`, ports of loopback, until the block ends.

    Raises:
        FileNotFoundError: nginx is not installed.
        RuntimeError: it does not start; the message is its own.
    """
    with tempfile.TemporaryDirectory(prefix="limelight-nginx-") as name:
        folder, port = Path(name), kernel.free_port()
        file = folder / "nginx.conf"
        file.write_text(configuration(folder, port, upstreams, keepalive_ms))
        command = ["nginx", "-p", name, "-c", str(file), "-e", str(folder / "error.log")]
        # Debian installs it where only root's PATH leads.
        variables = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
        process = subprocess.Popen(command, env=variables, start_new_session=True)
        balancer = Balancer(port, folder / "error.log")
        try:
            time.sleep(0.5)
            if process.poll() is not None:
                raise RuntimeError(f"nginx does not start: {dict(balancer.errors())}")
            yield balancer
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=10)
