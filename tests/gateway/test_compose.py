"""docker-compose.yml against the Compose Specification's schema, and against what `make up` runs."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from gateway.supervisor import Options, product_commands

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "compose_schema" / "compose-spec.json").read_text())


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> Mapping[str, Any]:
    return yaml.safe_load(text)


def words(command: str | list[str]) -> list[str]:
    return command.split() if isinstance(command, str) else command


def test_follows_the_compose_specification(compose: Mapping[str, Any]) -> None:
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(compose)] == []


def test_the_schema_refuses_what_compose_would(compose: Mapping[str, Any]) -> None:
    broken = {**compose, "services": {"web": {"image": "x", "restarts": "always"}}}
    assert len(list(Draft7Validator(SCHEMA).iter_errors(broken))) == 1


def test_runs_every_part_of_the_product(compose: Mapping[str, Any]) -> None:
    assert sorted(compose["services"]) == ["beat", "migrate", "postgres", "redis", "web", "worker"]


def test_no_secret_has_a_default(text: str) -> None:
    for name in (
        "SECRET_KEY",
        "TOLLHOUSE_MASTER_KEYS",
        "TOLLHOUSE_KEY_PEPPERS",
        "POSTGRES_PASSWORD",
        "PUBLIC_URL",
        "ALLOWED_HOSTS",
    ):
        uses = re.findall(rf"\$\{{{name}\W.?", text)
        assert uses
        assert set(uses) == {f"${{{name}:?"}


def test_only_web_has_a_port(compose: Mapping[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["web"]


def test_web_worker_and_beat_run_as_under_make_up(compose: Mapping[str, Any], tmp_path: Path) -> None:
    options = Options(
        root=tmp_path,
        host="0.0.0.0",  # noqa: S104 - inside the container
        port=8000,
        web_workers=2,
        celery_concurrency=2,
        drain_s=60,
        with_demo=False,
    )
    for name, command in product_commands(options).items():
        ours = ["/data/beat-schedule" if word.startswith(str(tmp_path)) else word for word in command]
        theirs = words(compose["services"][name]["command"])
        if theirs[:2] == ["python", "-m"]:  # `make up` runs every command so
            theirs = theirs[2:]
        assert [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in theirs] == ours


def test_web_may_drain_before_docker_kills_it(compose: Mapping[str, Any]) -> None:
    web = compose["services"]["web"]
    command = words(web["command"])
    drain_s = int(command[command.index("--timeout-graceful-shutdown") + 1])
    assert int(web["stop_grace_period"].removesuffix("s")) > drain_s


def test_everything_that_listens_has_a_health_check(compose: Mapping[str, Any]) -> None:
    checked = [name for name, service in compose["services"].items() if "healthcheck" in service]
    assert checked == ["web", "worker", "postgres", "redis"]
