"""Tokens: stable, short, of one tenant."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy.kinds import KINDS
from gateway.privacy.tokens import ALPHABET, MAX_TOKEN, Vault, bare, digests_in

VAULT = Vault(b"k" * 32)


def test_a_token_is_pinned() -> None:
    assert Vault(b"x" * 32).token("email", "a@b.de") == "<EMAIL_LSCF4EX6>"


def test_case_matters_but_in_addresses() -> None:
    assert VAULT.token("email", "Max@Example.com") == VAULT.token("email", "ｍax@example.com")
    assert VAULT.token("secret", "Abc") != VAULT.token("secret", "abc")


def test_another_tenant_kind_or_attempt_has_another_token() -> None:
    first = VAULT.token("email", "a@example.com")
    assert (
        len(
            {
                first,
                Vault(b"j" * 32).token("email", "a@example.com"),
                VAULT.token("email", "a@example.com", 1),
            }
        )
        == 3
    )
    assert VAULT.token("phone", "1")[-9:] != VAULT.token("card", "1")[-9:]


@given(st.sampled_from((*KINDS, "custom:a_name_of_thirty_characters_x", "custom:größe")), st.text())
def test_every_token_is_short_and_of_one_form(kind: str, text: str) -> None:
    token = VAULT.token(kind, text)
    assert len(token) <= MAX_TOKEN
    assert re.fullmatch(rf"<[A-Z][A-Z0-9_]{{0,28}}_[{ALPHABET}]{{8}}>", token)
    assert digests_in([f"x {bare(token).lower()}."]) == {token[-9:-1]}
