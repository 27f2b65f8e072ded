from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from routing.credentials import unseal_for
from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy
from tenants.models import AuditEvent
from tests.gateway.moving.test_litellm import ENVIRON, FULL


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "config.yaml"
    path.write_text(FULL)
    return path


def run(*args):
    out = StringIO()
    call_command("import_litellm", *map(str, args), stdout=out)
    return out.getvalue()


def test_without_apply_nothing_changes(db, file):
    said = run(file)
    assert "provider openai: openai (public address), with a key" in said
    assert "policy:gpt-4o-with-fallback: ordered, gpt-4o → claude → local" in said
    assert "left out: general_settings: master_key" in said
    assert "sk-one" not in said
    assert not Provider.objects.filter(slug="openai").exists()


def test_a_move_is_made_once(db, file):
    said = run(file, "--apply")
    assert "Added 4 providers, 4 models, 5 endpoints, 2 rates, 2 policies." in said
    assert unseal_for(Provider.objects.get(slug="openai")).api_key == "sk-one"
    endpoints = Endpoint.objects.filter(model__slug="gpt-4o").order_by("provider__slug")
    assert [(each.provider.slug, each.provider_model, each.weight) for each in endpoints] == [
        ("azure-mine-openai-azure-com", "my-deployment", 1),
        ("openai", "gpt-4o", 3),
    ]
    assert Model.objects.get(slug="local").context_window == 32768
    assert CostRate.objects.filter(provider_model="my-deployment").count() == 2
    assert RoutingPolicy.objects.get(slug="gpt-4").name == "Alias gpt-4"
    assert AuditEvent.objects.filter(action="gateway.import").count() == 1
    assert "Added 0 providers, 0 models, 0 endpoints, 0 rates, 0 policies." in run(file, "--apply")


def test_a_file_that_cannot_be_applied_changes_nothing(db, file):
    file.write_text(FULL.replace("api_key: os.environ/NOBODY", "api_key: schlüssel"))
    before = Provider.objects.count()
    with pytest.raises(CommandError, match="printable ASCII"):
        run(file, "--apply")
    assert Provider.objects.count() == before


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CommandError, match=r"none\.yaml"):
        run(tmp_path / "none.yaml")
