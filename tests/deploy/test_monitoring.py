"""Rules, alerts and dashboard, tested with a real Prometheus that scrapes a real service."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.prometheus import (
    DEPLOYED,
    Prometheus,
    exposed,
    free_port,
    needs_prometheus,
    needs_promtool,
    quickened,
    run_prometheus,
)
from tests.deploy.traffic import MAX_QUEUED_BYTES, send_everything
from tests.service.telemetry.scraping import let_workers_count
from tests.serving_kit import (
    DIGIT_NETWORK,
    REPOSITORY,
    Server,
    bentoml_serve,
    write_artifact,
)

GRAFANA = REPOSITORY / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "limelight.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RULES: list[dict[str, Any]] = [
    rule
    for name in ("limelight.rules.yml", "limelight.alerts.yml")
    for group in yaml.safe_load((DEPLOYED / name).read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = [rule["record"] for rule in RULES if "record" in rule]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RULE_TESTS = sorted((DEPLOYED / "tests").glob("*.yml"))

# Metrics that the service adds on a machine with an NVIDIA GPU. Few test machines have one.
GPU_PAGE = """\
limelight_gpu_utilization_ratio{gpu="0"} 0.5
limelight_gpu_memory_used_bytes{gpu="0"} 1e9
limelight_gpu_memory_total_bytes{gpu="0"} 4e9
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    zoo = tmp_path_factory.mktemp("zoo")
    write_artifact(zoo)
    write_artifact(zoo, name="digits", version="12", network=DIGIT_NETWORK)
    write_artifact(zoo, version="2")
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    with bentoml_serve(
        zoo,
        folder,
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_MAX_QUEUED_BYTES=str(MAX_QUEUED_BYTES),
        LIMELIGHT_VERSIONS="colours=specific:1",
        LIMELIGHT_ADMIN_PORT=str(port),
    ) as server:
        rollout = f"http://127.0.0.1:{port}/models/colours/rollout"
        httpx.put(rollout, params={"kind": "shadow", "version": "2"}, timeout=60).raise_for_status()
        yield server


@pytest.fixture(scope="module")
def watched(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run Prometheus with three replicas: a real one under traffic, a fake GPU, a dead one."""
    folder = tmp_path_factory.mktemp("prometheus")
    stop = threading.Event()
    traffic = threading.Thread(target=send_everything, args=(service.url, stop))
    with exposed(GPU_PAGE) as gpu:
        targets = [service.url.removeprefix("http://"), gpu, f"127.0.0.1:{free_port()}"]
        with run_prometheus(quickened(folder, targets, interval="500ms"), folder) as prometheus:
            traffic.start()
            try:
                yield prometheus
            finally:
                stop.set()
                traffic.join()


def _expand(expression: str) -> str:
    """Replace Grafana's variables: all replicas and models, and a rate over 10 scrapes."""
    values = {"__rate_interval": "5s", "job": "limelight", "instance": ".+", "model": ".+"}
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)


def _promtool(*arguments: str | Path, stdin: bytes = b"") -> None:
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@needs_promtool
def test_the_configuration_is_valid_and_loads_every_rule() -> None:
    _promtool("check", "config", DEPLOYED / "prometheus.yml")
    loaded = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())["rule_files"]
    assert sorted(loaded) == sorted(
        path.name for path in DEPLOYED.glob("*.yml") if path.name != "prometheus.yml"
    )
    _promtool("check", "rules", "--lint-fatal", *(DEPLOYED / name for name in loaded))


@needs_promtool
def test_rule_tests_succeed() -> None:
    _promtool("test", "rules", *RULE_TESTS)


def test_every_rule_has_a_rule_test() -> None:
    cases = [case for path in RULE_TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    alerts = [test for case in cases for test in case.get("alert_rule_test", [])]
    assert {test["alertname"] for test in alerts if test["exp_alerts"]} == set(ALERTS)
    assert {test["alertname"] for test in alerts if not test["exp_alerts"]} == set(ALERTS)
    values = " ".join(
        test["expr"]
        for case in cases
        for test in case.get("promql_expr_test", [])
        if test["exp_samples"]
    )
    assert set(re.findall(r"limelight:\w+:\w+", values)) == set(RECORDED)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_severity_and_a_runbook_section(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description"} < set(rule["annotations"])
    document, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / document).read_text(), re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert anchor == name.lower()
    assert anchors.count(anchor) == 1


@needs_promtool
def test_metrics_follow_the_conventions_and_do_not_grow_with_unknown_paths(service: Server) -> None:
    """Runs before `watched`, whose traffic adds further series."""
    with httpx.Client(base_url=service.url, timeout=30) as client:
        _ask_for_nonsense(client, "first")
        before = _series(client)
        for number in range(50):
            _ask_for_nonsense(client, str(number))
        assert _series(client) == before
        _promtool("check", "metrics", stdin=client.get("/metrics").content)


def _ask_for_nonsense(client: httpx.Client, word: str) -> None:
    assert client.get(f"/{word}/path").status_code == 404
    assert client.post(f"/models/{word}").status_code == 405
    assert client.post("/predict", params={"model": word}, content=b"no image").status_code == 404


def _series(client: httpx.Client) -> set[str]:
    client.get("/metrics")  # this request adds a series, too
    let_workers_count()
    lines = client.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@needs_prometheus
@pytest.mark.parametrize("record", RECORDED)
def test_a_recording_rule_has_a_value_in_a_real_service(watched: Prometheus, record: str) -> None:
    assert watched.query_until_answered(record)


@needs_prometheus
@pytest.mark.parametrize("name", ALERTS)
def test_metrics_of_an_alert_exist(watched: Prometheus, name: str) -> None:
    for metric in re.findall(r"limelight[_:][a-z0-9_:]+", ALERTS[name]["expr"]):
        assert watched.query_until_answered(metric), metric


@needs_prometheus
def test_shedding_and_a_dead_replica_raise_alerts(watched: Prometheus) -> None:
    assert watched.query_until_answered("limelight:rejections:ratio > 0.05 < 0.3")
    assert watched.query_until_answered('ALERTS{alertname="LimelightShedding",alertstate="firing"}')
    assert watched.query_until_answered('ALERTS{alertname="LimelightDown",alertstate="firing"}')


@needs_prometheus
@pytest.mark.parametrize(
    ("expression", "legend"),
    [
        pytest.param(query["expr"], query["legendFormat"], id=f"{panel['title']}-{query['refId']}")
        for panel in PANELS
        for query in panel.get("targets", [])
    ],
)
def test_a_panel_has_data(watched: Prometheus, expression: str, legend: str) -> None:
    samples = watched.query_until_answered(_expand(expression))
    assert samples
    named = {label for sample in samples for label in sample}
    assert set(re.findall(r"{{(\w+)}}", legend)) <= named | {"namespace"}  # Kubernetes only


@needs_prometheus
def test_annotations_and_variables_have_data(watched: Prometheus) -> None:
    for annotation in DASHBOARD["annotations"]["list"]:
        assert watched.query_until_answered(_expand(annotation["expr"])), annotation
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match, variable
            assert watched.label_values(match[2], _expand(match[1])), variable


def test_panels_do_not_overlap_and_have_a_description() -> None:
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in PANELS
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert all(column < 24 for column, _ in places)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"] for panel in PANELS if panel["type"] != "row")


def test_grafana_has_the_scrape_interval_of_prometheus() -> None:
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    provisioned = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(provisioned.read_text())["datasources"]
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
