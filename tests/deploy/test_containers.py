"""The image and the compose files keep what they promise: no root, nothing writable, no PyTorch, probes that answer."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
GPU: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text("utf-8"))


def _tool(name: str) -> str:
    """A command of the dev extra, or a skip where its wheel does not exist for this platform."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _stage(name: str) -> str:
    """One stage of the Dockerfile, its FROM line included."""
    return next(part for part in re.split(r"\n(?=FROM )", DOCKERFILE) if re.match(rf"FROM \S+ AS {name}\n", part))


def test_the_default_target_serves() -> None:
    assert re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[-1] == "serve"


@pytest.mark.parametrize("stage", ["serve", "train"])
def test_images_do_not_run_as_root(stage: str) -> None:
    assert re.search(r"^USER 10001$", _stage(stage), flags=re.MULTILINE)


def test_the_serving_image_installs_hashed_locks_only() -> None:
    for name in ("build", "build-serve", "runtime", "serve"):
        for install in re.findall(r"pip install (.*)", _stage(name)):
            assert install in {"--require-hashes -r requirements.lock", "--no-deps ."}


def test_dockerfile_passes_hadolint() -> None:
    run = subprocess.run([_tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]])
def test_compose_files_follow_the_schema(files: list[str]) -> None:
    chosen = [option for name in files for option in ("-f", name)]
    command = [_tool("docker-compose"), *chosen, "config", "--quiet"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_services_are_hardened(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_monitoring_starts_whether_or_not_the_service_is_healthy() -> None:
    assert not COMPOSE["services"]["prometheus"].get("depends_on")


def test_images_turn_the_telemetry_of_onnx_runtime_off() -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in _stage("runtime")


def test_the_model_store_is_mounted_read_only() -> None:
    assert COMPOSE["services"]["seq2serve"]["volumes"] == ["./model_store:/model_store:ro"]


def test_ports_are_published_on_this_machine_only() -> None:
    for service in COMPOSE["services"].values():
        for port in service["ports"]:
            assert re.match(r"(127\.0\.0\.1|\$\{HOST:-127\.0\.0\.1\}):", port)


def test_the_container_outlives_its_drain() -> None:
    settings = ServiceSettings.model_fields
    drain_s = settings["drain_delay_s"].default + settings["drain_timeout_s"].default
    assert int(COMPOSE["services"]["seq2serve"]["stop_grace_period"].removesuffix("s")) > drain_s


def test_only_the_override_asks_for_a_gpu() -> None:
    assert "deploy" not in COMPOSE["services"]["seq2serve"]
    devices = GPU["services"]["seq2serve"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_settings_named_in_the_files_exist() -> None:
    known = {f"SEQ2SERVE_{name.upper()}" for name in ServiceSettings.model_fields}
    for text in (DOCKERFILE, str(COMPOSE), str(GPU)):
        assert set(re.findall(r"\bSEQ2SERVE_\w+", text)) <= known


def test_prometheus_scrapes_the_service_and_loads_mounted_rules() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == "seq2serve:8000"
    assert target.split(":")[0] in COMPOSE["services"]
    mounted = {volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= mounted
