from decimal import Decimal

import pytest
import yaml

from gateway.moving.litellm import ConfigInvalid, read
from routing.types import Operation, ProviderKind

ENVIRON = {"OPENAI_API_KEY": "sk-one", "AZURE_KEY": "sk-two", "AZURE_BASE": "https://mine.openai.azure.com/"}
FULL = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, rpm: 600, weight: 3}
  - model_name: gpt-4o
    litellm_params:
      model: azure/my-deployment
      api_base: os.environ/AZURE_BASE
      api_key: os.environ/AZURE_KEY
      api_version: "2024-10-21"
      input_cost_per_token: 0.0000025
      output_cost_per_token: 1.0e-05
      cache_control_injection_points: []
  - model_name: local
    litellm_params: {model: hosted_vllm/qwen-3, api_base: "http://vllm.internal:8000/v1"}
    model_info: {max_input_tokens: 32768, max_output_tokens: 4096}
  - model_name: embed
    litellm_params: {model: text-embedding-3-small, api_key: os.environ/OPENAI_API_KEY}
    model_info: {mode: embedding}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: os.environ/NOBODY}
  - model_name: nova
    litellm_params: {model: sagemaker/nova}
  - model_name: "*"
    litellm_params: {model: "openai/*"}
  - model_name: whisper
    litellm_params: {model: whisper-1}
    model_info: {mode: audio_transcription}
router_settings:
  routing_strategy: latency-based-routing
  model_group_alias: {gpt-4: gpt-4o}
  num_retries: 3
litellm_settings:
  fallbacks: [{gpt-4o: [claude, local]}]
  context_window_fallbacks: [{gpt-4o: [claude]}]
  drop_params: true
  callbacks: [langfuse]
general_settings: {master_key: sk-secret}
"""


@pytest.fixture(scope="module")
def move():
    return read(yaml.safe_load(FULL), ENVIRON)


def test_each_account_is_one_provider(move):
    assert [(each.slug, each.kind, each.base_url) for each in move.providers] == [
        ("openai", ProviderKind.OPENAI, ""),
        ("azure-mine-openai-azure-com", ProviderKind.AZURE_OPENAI, "https://mine.openai.azure.com"),
        ("hosted-vllm-vllm-internal", ProviderKind.OPENAI_COMPATIBLE, "http://vllm.internal:8000/v1"),
        ("anthropic", ProviderKind.ANTHROPIC, ""),
    ]
    assert [each.secret for each in move.providers] == ["sk-one", "sk-two", "", ""]
    assert move.providers[0].limit_rpm == 600
    assert move.providers[1].options == {"api_version": "2024-10-21"}


def test_secrets_are_not_shown(move):
    assert "sk-one" not in repr(move)
    assert "sk-secret" not in repr(move)


def test_deployments_keep_their_names_weights_and_prices(move):
    first, second, local, embed, _ = move.deployments
    assert (first.model, first.provider_model, first.weight) == ("gpt-4o", "gpt-4o", 3)
    assert (second.model, second.provider_model) == ("gpt-4o", "my-deployment")
    assert second.rates == {"input": Decimal("2.5"), "output": Decimal(10)}
    assert (local.max_input_tokens, local.max_output_tokens) == (32768, 4096)
    assert (embed.provider, embed.operations) == ("openai", (Operation.EMBEDDINGS,))


def test_aliases_and_fallbacks_are_policies(move):
    assert [(each.slug, each.strategy, each.targets) for each in move.policies] == [
        ("gpt-4", "latency", ("gpt-4o",)),
        ("gpt-4o-with-fallback", "ordered", ("gpt-4o", "claude", "local")),
    ]


def test_what_stays_behind_is_said(move):
    said = "\n".join(move.left_out)
    for part in (
        "cache_control_injection_points",
        "the environment has no NOBODY",
        "the provider 'sagemaker' is not spoken here",
        "the wildcard 'openai/*'",
        "the mode 'audio_transcription'",
        "router_settings: num_retries",
        "litellm_settings: callbacks",
        "drop_params: here nothing is dropped in silence",
        "general_settings: master_key",
        "context_window_fallbacks: gpt-4o",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "must hold an object"),
        ("model_list: {}", "model_list must be a list"),
        ("model_list: [1]", "model_list[0] must be an object"),
        ("model_list: [{model_name: a}]", "litellm_params must be an object"),
        ("model_list: [{model_name: a, litellm_params: {}}]", "needs model_name"),
        ("model_list: [{model_name: a, litellm_params: {model: b, rpm: many}}]", "whole number"),
        (
            "model_list: [{model_name: a, litellm_params: {model: b, input_cost_per_token: x}}]",
            "not a number",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: b, input_cost_per_token: -1}}]",
            "not a price",
        ),
    ],
)
def test_what_is_no_configuration_is_refused(text, says):
    with pytest.raises(ConfigInvalid, match=says.replace("[", r"\[")):
        read(yaml.safe_load(text), {})
