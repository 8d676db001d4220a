"""What docker-compose.yml and .env.example say is true. What they start: test_containers.py."""

import importlib.util
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.cli import app as cli
from deploy.docker.make_env import fill, fresh_secrets
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
OURS = ("api", "migrate", "deliverer", "worker", "worker-gpu")


@pytest.fixture
def services(compose_file):
    return compose_file.services


def documented(example):
    """Names and values of the lines `NAME=value`, also of those behind `# `."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=(.*)$", example, re.MULTILINE))


def setting(name):
    return name.removeprefix("DEFECTSCOPE_").lower()


def test_every_setting_in_them_exists(compose_file):
    names = set(re.findall(r"\bDEFECTSCOPE_\w+", compose_file.text + compose_file.example))

    assert len(names) > 15
    assert {setting(name) for name in names} <= set(Settings.model_fields)


def test_our_containers_get_settings_and_nothing_else(services):
    assert {name for name in services if "build" in services[name]} == set(OURS)
    for name in OURS:
        assert all(key.startswith("DEFECTSCOPE_") for key in services[name]["environment"])


def test_the_example_names_exactly_the_variables_that_are_taken(compose_file):
    taken = set(re.findall(r"\$\{(\w+)", compose_file.text))
    for service in compose_file.services.values():
        taken |= {name for name, value in service.get("environment", {}).items() if value is None}

    # Compose itself reads this one.
    assert set(documented(compose_file.example)) == taken | {"COMPOSE_PROJECT_NAME"}


def test_every_variable_of_the_example_has_a_comment(compose_file):
    for above, line in pairwise(compose_file.example.splitlines()):
        if re.match(r"(# )?[A-Z0-9_]+=", line):
            # The two halves of the storage's key share one.
            is_second = line.startswith("DEFECTSCOPE_S3_SECRET_ACCESS_KEY=")
            assert is_second or re.match(r"# ?(?![A-Z0-9_]+=)", above), line


def test_defaults_that_the_example_shows_are_those_of_the_service(compose_file):
    shown = re.findall(r"^# (DEFECTSCOPE_\w+)=(.*)$", compose_file.example, re.MULTILINE)

    assert len(shown) > 5
    for name, value in shown:
        default = Settings.model_fields[setting(name)].default
        # Those without a default show what they may look like.
        assert default in (None, "") or value == str(default), name


@pytest.mark.parametrize("name", sorted(fresh_secrets()))
def test_without_a_secret_nothing_starts(name, compose_file):
    assert documented(compose_file.example)[name] == ""
    assert set(re.findall(rf"\$\{{{name}(..)", compose_file.text)) == {":?"}


def test_without_a_choice_only_api_and_storage_can_be_reached_and_only_from_this_host(compose_file):
    published = {
        name: compose_file.value(port, {})
        for name, service in compose_file.services.items()
        for port in service.get("ports", [])
    }

    assert published == {"api": "127.0.0.1:8000:8000", "storage": "127.0.0.1:8333:8333"}


@pytest.mark.parametrize("has_env", [True, False])
def test_links_to_pictures_point_to_the_published_port_of_the_storage(has_env, compose_file):
    variables = compose_file.variables if has_env else {}
    template = compose_file.services["api"]["environment"]["DEFECTSCOPE_S3_PUBLIC_ENDPOINT_URL"]
    (port,) = compose_file.services["storage"]["ports"]
    host, outside, _ = compose_file.value(port, variables).split(":")

    assert compose_file.value(template, variables) == f"http://{host}:{outside}"


def test_containers_know_each_other_by_the_names_that_they_have(compose_file):
    for name in OURS:
        given = compose_file.environment(name)
        for url in ("DATABASE_URL", "REDIS_URL", "S3_ENDPOINT_URL"):
            assert urlsplit(given[f"DEFECTSCOPE_{url}"]).hostname in compose_file.services


def test_whoever_is_waited_for_can_say_that_it_is_there(services):
    waits = [wait for one in services.values() for wait in one.get("depends_on", {}).items()]

    assert {name for name, _ in waits} == {"postgres", "redis", "storage", "migrate"}
    for name, how in waits:
        if how["condition"] == "service_healthy":
            assert services[name]["healthcheck"]["test"][0] == "CMD"
        else:
            assert how["condition"] == "service_completed_successfully"
            assert services[name]["restart"] == "no"


def test_everything_but_the_migration_comes_back_after_a_restart_of_the_host(services):
    restarted = [name for name, one in services.items() if one["restart"] == "unless-stopped"]

    assert set(services) - set(restarted) == {"migrate"}


def test_what_must_survive_is_in_named_volumes(compose_file):
    mounts = {
        name: mount.split(":")
        for name, service in compose_file.services.items()
        for mount in service.get("volumes", [])
    }

    assert mounts == {
        # The image of PostgreSQL 18 refuses the older place, /var/lib/postgresql/data.
        "postgres": ["postgres", "/var/lib/postgresql"],
        "redis": ["redis", "/data"],
        "storage": ["storage", "/data"],
        "worker": ["models", "/var/cache/defectscope"],
        "worker-gpu": ["models", "/var/cache/defectscope"],
    }
    assert compose_file.volumes == {"postgres", "redis", "storage", "models"}


def test_redis_writes_to_disk_never_drops_a_bell_and_asks_for_the_password(compose_redis):
    settings = compose_redis.config_get("maxmemory*")

    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["maxmemory"] == str(256 * 1024 * 1024)
    assert compose_redis.info("persistence")["aof_enabled"] == 1
    port = compose_redis.connection_pool.connection_kwargs["port"]
    once = Retry(NoBackoff(), retries=0)
    with redis.Redis(port=port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_gpu_worker_starts_only_on_demand_and_differs_in_its_engine_alone(services):
    cpu, gpu = services["worker"], services["worker-gpu"]

    assert [name for name in services if "profiles" in services[name]] == ["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["command"] == cpu["command"]
    assert gpu["environment"] == {**cpu["environment"], "DEFECTSCOPE_ENGINE": "cuda-bf16"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    # The CPU wheels are the default of the Dockerfile.
    assert gpu["build"]["args"] == {"TORCH_INDEX_URL": ""}
    assert "args" not in cpu["build"]


@pytest.mark.parametrize("name", OURS)
def test_commands_and_dockerfiles_exist(name, services):
    program, *arguments = services[name]["command"]
    build = services[name]["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    if program == "defectscope":
        assert arguments[0] in {command.callback.__name__ for command in cli.registered_commands}
    else:
        assert (program, arguments[0]) == ("python", "-m")
        assert importlib.util.find_spec(arguments[1])


def test_docker_compose_accepts_it_with_secrets_and_explains_itself_without(compose_file, tmp_path):
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is not installed")
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.write_text(fill(compose_file.example, fresh_secrets()))
    empty.touch()

    def config(env_file):
        command = [compose, "--file", str(ROOT / "docker-compose.yml"), "--profile", "gpu"]
        return subprocess.run(
            [*command, "--env-file", env_file, "config"],
            capture_output=True,
            text=True,
            check=False,
        )

    accepted, refused = config(full), config(empty)

    assert accepted.returncode == 0, accepted.stderr
    assert set(yaml.safe_load(accepted.stdout)["services"]) == set(compose_file.services)
    assert refused.returncode != 0
    assert "make_env.py" in refused.stderr
