"""The secrets and URLs that `make up` leaves in its data folder."""

import base64
import os
import stat
from pathlib import Path

import pytest

from gateway.environment import (
    adopt,
    data_folder,
    keep_secrets,
    new_secrets,
    publish_services,
    withdraw_services,
)


def test_secrets_are_generated_once(tmp_path: Path) -> None:
    first = keep_secrets(tmp_path)
    assert keep_secrets(tmp_path) == first
    assert sorted(first) == ["SECRET_KEY", "TOLLHOUSE_KEY_PEPPERS", "TOLLHOUSE_MASTER_KEYS"]


def test_only_the_owner_may_read_the_secrets(tmp_path: Path) -> None:
    keep_secrets(tmp_path)
    assert stat.S_IMODE((tmp_path / "secrets.env").stat().st_mode) == 0o600


def test_keys_are_256_bits_with_an_id() -> None:
    for name in ("TOLLHOUSE_MASTER_KEYS", "TOLLHOUSE_KEY_PEPPERS"):
        key_id, _, encoded = new_secrets()[name].partition(":")
        assert key_id == "k1"
        assert len(base64.b64decode(encoded, validate=True)) == 32


def test_a_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "secrets.env").write_text("SECRET_KEY=kept=as it is\n")
    kept = keep_secrets(tmp_path)
    assert kept["SECRET_KEY"] == "kept=as it is"
    assert kept["TOLLHOUSE_MASTER_KEYS"].startswith("k1:")
    assert keep_secrets(tmp_path) == kept


def test_the_environment_wins_over_what_up_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_services(tmp_path, {"DATABASE_URL": "postgresql://left", "REDIS_URL": "unix:///left?db=0"})
    monkeypatch.setenv("DATABASE_URL", "postgresql://mine")
    monkeypatch.delenv("REDIS_URL")
    adopt(tmp_path)
    assert os.environ["DATABASE_URL"] == "postgresql://mine"
    assert os.environ["REDIS_URL"] == "unix:///left?db=0"


def test_stopped_services_are_not_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    publish_services(tmp_path, {"REDIS_URL": "unix:///left?db=0"})
    withdraw_services(tmp_path)
    adopt(tmp_path)
    assert "REDIS_URL" not in os.environ


def test_the_data_folder_is_configurable_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLHOUSE_DATA", "there")
    assert data_folder() == tmp_path / "there"
    monkeypatch.delenv("TOLLHOUSE_DATA")
    assert data_folder() == Path(__file__).parents[2] / ".tollhouse"
