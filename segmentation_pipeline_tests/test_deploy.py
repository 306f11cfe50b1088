"""The files of `deploy/` are valid, listen on the loopback address only, and fit each other and the project."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from segmentation_pipeline.config import environment

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# Where the units expect the project.
INSTALLED = "/opt/segmentation"


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text_of("compose.yaml"))
    return loaded


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_error_in_the_units(tmp_path: Path) -> None:
    """It also looks for the commands, so the project is taken to be where the units expect it."""
    assert [unit.name for unit in UNITS] == ["segmentation-daemon.service", "segmentation-webserver.service"]
    scripts, files = Path(sys.executable).parent, []
    for unit in UNITS:
        text = unit.read_text("utf-8").replace(f"{INSTALLED}/.venv/bin", str(scripts)).replace(INSTALLED, str(ROOT))
        files.append(tmp_path / unit.name)
        files[-1].write_text(text, "utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", [unit.name for unit in UNITS])
def test_units_differ_only_in_what_they_start(name: str) -> None:
    different = ("Description=", "ExecStart=")
    kept = [[line for line in unit.read_text("utf-8").splitlines() if not line.startswith(different)] for unit in UNITS]
    assert kept[0] == kept[1]
    assert "NoNewPrivileges=true" in kept[0]
    assert "User=segmentation" in kept[0]


def test_no_port_is_open_beyond_the_machine(compose: dict[str, Any]) -> None:
    """In a container the webserver listens on every address of the container, of which Docker publishes one port."""
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports == {"webserver": ["127.0.0.1:3000:3000"], "daemon": [], "postgres": []}
    webserver = (DEPLOY / "systemd" / "segmentation-webserver.service").read_text("utf-8")
    assert re.findall(r"--host (\S+)", webserver) == ["127.0.0.1"]


def test_containers_have_no_rights_beyond_their_volumes(compose: dict[str, Any]) -> None:
    for name in ("webserver", "daemon"):
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
    dockerfile = text_of("Dockerfile")
    [user] = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    assert f"--uid {user} " in dockerfile


def test_every_variable_of_the_example_is_read(compose: dict[str, Any]) -> None:
    """An unknown name in the example would be ignored without a message."""
    used = {*re.findall(r"\$\{(\w+)", text_of("compose.yaml"))} - {"SEGMENTATION_RETAILERS"}
    of_package = {value for name, value in vars(environment).items() if name.isupper()}
    named = {line.split("=")[0] for line in text_of("env.example").splitlines() if "=" in line and line[0] != "#"}
    assert used <= named <= used | of_package
    of_storage = {*re.findall(r"\{env: (\w+)\}", text_of("dagster.yaml"))}
    assert of_storage <= compose["services"]["daemon"]["environment"].keys()


def test_dagster_yaml_adds_only_the_storage() -> None:
    shipped = yaml.safe_load((ROOT / "segmentation_pipeline" / "dagster.yaml").read_text("utf-8"))
    deployed = yaml.safe_load(text_of("dagster.yaml"))
    assert deployed.pop("storage")["postgres"].keys() == {"postgres_db"}
    assert deployed == shipped


def test_the_image_contains_no_secret_and_no_data() -> None:
    """The build sends what .dockerignore names, and nothing else."""
    first, *kept = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[0] != "#"]
    assert first == "*"
    names = {line.removeprefix("!") for line in kept if line.startswith("!")}
    assert {name for name in names if not (ROOT / name).exists()} == set()
    assert not {".git", "data", "deploy"} & names
    ignored = subprocess.run(["git", "check-ignore", "deploy/.env"], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode == 0, "deploy/.env has passwords"


def test_the_image_has_a_python_that_the_package_supports() -> None:
    [version] = {*re.findall(r"^FROM python:([\d.]+)-slim", text_of("Dockerfile"), re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert version in SpecifierSet(project["requires-python"])
