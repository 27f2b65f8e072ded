"""What a tenant's retention asks of a call before any other step: nobody is named who shall not be recorded.

Comes before plan, redaction and admission: the open record, ledger, log, shadow and provider see what is left here.
"""

from typing import Final

from gateway.pipeline.call import Call, Kept
from gateway.state.process import Process
from tenants.pseudonyms import pseudonym
from tenants.snapshot import TenantEntry

NAMES_OF_USERS: Final = ("user", "safety_identifier")
"""Fields of the body that name the end user, and go to the provider."""


def be_discreet(call: Call, tenant: TenantEntry, process: Process) -> None:
    """Put pseudonyms in the place of end users, where the tenant wants that; begin to keep content, where it does."""
    if tenant.is_pseudonymous:
        _disguise(call, tenant)
    if tenant.content_days:
        call.kept = Kept(process.content.max_bytes)


def _disguise(call: Call, tenant: TenantEntry) -> None:
    key = tenant.pseudonym_key
    if key is None:  # fail closed: the setting is made with its key
        msg = f"{tenant.slug} has no key for pseudonyms"
        raise RuntimeError(msg)
    call.end_user = pseudonym(key, call.end_user)
    named = {
        name: pseudonym(key, value)
        for name in NAMES_OF_USERS
        if isinstance(value := call.body.get(name), str) and value
    }
    if named:
        call.body = {**call.body, **named}
