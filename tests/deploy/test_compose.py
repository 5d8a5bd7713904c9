"""compose.yaml: its mounts exist, and its three services are connected."""

import re
import shutil
import subprocess
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from service.settings import Settings
from tests.deploy.manifests import ROOT, read

Json = dict[str, Any]

# Keys of the Compose specification that are in use. Any other key is an error.
SERVICE_KEYS = {
    *("build", "image", "ports", "environment", "read_only", "tmpfs", "cap_drop"),
    *("security_opt", "cpus", "stop_grace_period", "volumes", "depends_on"),
}


@pytest.fixture
def services() -> dict[str, Json]:
    (document,) = read(ROOT / "compose.yaml")
    assert set(document) == {"services"}
    found: dict[str, Json] = document["services"]
    return found


def _mounts(service: Json) -> dict[str, PurePosixPath]:
    """Return the mounted folders of the repository by their path in the container."""
    found = {}
    for volume in service.get("volumes", []):
        source, target, mode = volume.split(":")
        assert mode == "ro", volume
        assert source.startswith("./"), volume
        found[target] = PurePosixPath(source)
    return found


def test_the_three_services_have_only_known_keys(services: dict[str, Json]) -> None:
    assert set(services) == {"limelight", "prometheus", "grafana"}
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("depends_on", ())) <= set(services), name


def test_external_images_are_pinned(services: dict[str, Json]) -> None:
    for name, service in services.items():
        if "build" in service:
            assert (ROOT / service["build"] / "Dockerfile").is_file()
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_ports_are_bound_to_loopback_and_differ(services: dict[str, Json]) -> None:
    published = [port for service in services.values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_service_is_hardened_as_on_kubernetes(services: dict[str, Json]) -> None:
    service = services["limelight"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert service["ports"][0].endswith(f":{exposed}")
    assert service["ports"][1].endswith(f":{service['environment']['LIMELIGHT_GRPC_PORT']}")
    fields = {f"LIMELIGHT_{field.upper()}" for field in Settings.model_fields}
    assert set(service["environment"]) <= fields
    grace_s = float(service["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_s + Settings().timeout_s


def test_prometheus_finds_its_configuration_and_the_service(services: dict[str, Json]) -> None:
    folder = ROOT / _mounts(services["prometheus"])["/etc/prometheus"]
    (configuration,) = read(folder / "prometheus.yml")
    for name in configuration["rule_files"]:
        assert (folder / name).is_file()
    (scrape,) = configuration["scrape_configs"]
    host, _, port = scrape["static_configs"][0]["targets"][0].partition(":")
    assert services[host]["ports"][0].endswith(f":{port}")


def test_grafana_finds_its_dashboard_and_prometheus(services: dict[str, Json]) -> None:
    mounts = _mounts(services["grafana"])
    provisioning = ROOT / mounts["/etc/grafana/provisioning"]
    (sources,) = read(provisioning / "datasources" / "prometheus.yml")
    url = urlsplit(sources["datasources"][0]["url"])
    assert services[str(url.hostname)]["ports"][0].endswith(f":{url.port}")
    (dashboards,) = read(provisioning / "dashboards" / "limelight.yml")
    path = dashboards["providers"][0]["options"]["path"]
    home = PurePosixPath(
        services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    )
    assert home.parent == PurePosixPath(path)
    assert (ROOT / mounts[path] / home.name).is_file()


def test_docker_compose_accepts_the_file() -> None:
    docker = shutil.which("docker")
    has_compose = docker and (
        subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
        == 0
    )
    if not docker or not has_compose:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "--file", ROOT / "compose.yaml", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
