"""A real Prometheus on a loopback port with the deployed configuration but shorter intervals."""

import math
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

DEPLOYED = Path(__file__).resolve().parent.parent.parent / "deploy" / "prometheus"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool in PATH (Debian's package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus in PATH (Debian's package prometheus)"
)


@dataclass(frozen=True)
class Prometheus:
    """HTTP API of a running Prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of each current sample of the expression, without NaN."""
        answer = self._get("query", query=expression)
        return [r["metric"] for r in answer["result"] if not math.isnan(float(r["value"][1]))]

    def query_until_answered(self, expression: str, timeout_s: float = 15) -> list[dict[str, str]]:
        """Repeat the query until there is a sample; return an empty list after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not (samples := self.query(expression)) and time.monotonic() < deadline:
            time.sleep(0.2)
        return samples

    def names(self) -> set[str]:
        """Return the name of every metric that was scraped or recorded."""
        return set(self._get("label/__name__/values"))

    def label_values(self, label: str, selector: str) -> set[str]:
        """Return the values of Grafana's `label_values(selector, label)`."""
        return set(self._get(f"label/{label}/values", **{"match[]": selector}))

    def _get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]


def quickened(folder: Path, targets: Sequence[str], *, interval: str) -> Path:
    """Copy the deployed configuration with other targets, shorter intervals and no `for`."""
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    for name in config["rule_files"]:
        rules = yaml.safe_load((DEPLOYED / name).read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / name).write_text(yaml.safe_dump(rules))
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def run_prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends; log and data go to `folder`."""
    port = free_port()
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    log_file = folder / "prometheus.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(url, process, log_file)
        yield Prometheus(url)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def exposed(page: str) -> Iterator[str]:
    """Serve one page of metrics; gives HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(
    url: str, process: subprocess.Popen[bytes], log_file: Path, timeout_s: float = 30
) -> None:
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"prometheus did not come up:\n{log_file.read_text(errors='replace')}")
