"""Who: tenants, people, roles, keys; and the rows that every floor above leans on (audit, config versions).

Money, providers and routes are unknown here.
"""

from tenants.models.approvals import Proposal
from tenants.models.base import Stamped
from tenants.models.keys import ApiKey, DataKey
from tenants.models.people import Membership, OwnedQuerySet, Tenant, TenantQuerySet, User, UserManager
from tenants.models.retention import LegalHold, RetentionSetting
from tenants.models.roles import CustomRole, ServiceAccount
from tenants.models.sign_in import Invitation, SignInSetting, SsoConnection, SsoDomain
from tenants.models.trail import (
    AuditCheckpoint,
    AuditEvent,
    AuditHead,
    AuditSink,
    AuditSinkCursor,
    ConfigVersion,
    IdempotencyRecord,
)

__all__ = [
    "ApiKey",
    "AuditCheckpoint",
    "AuditEvent",
    "AuditHead",
    "AuditSink",
    "AuditSinkCursor",
    "ConfigVersion",
    "CustomRole",
    "DataKey",
    "IdempotencyRecord",
    "Invitation",
    "LegalHold",
    "Membership",
    "OwnedQuerySet",
    "Proposal",
    "RetentionSetting",
    "ServiceAccount",
    "SignInSetting",
    "SsoConnection",
    "SsoDomain",
    "Stamped",
    "Tenant",
    "TenantQuerySet",
    "User",
    "UserManager",
]
