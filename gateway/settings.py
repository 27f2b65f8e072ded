"""Every setting of Tollhouse, read once from the environment. docs/configuration.md describes each.

Secrets have no defaults: `make up` generates them into the data folder, production must name them.
"""

from pathlib import Path

import environ
from django.utils.csp import CSP

from gateway import scrubbing

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.FileAwareEnv()

# ------------------------------------------------------------------ secrets and places

SECRET_KEY = env.str("SECRET_KEY")
TOLLHOUSE_MASTER_KEYS = env.list("TOLLHOUSE_MASTER_KEYS")  # id:base64(32 bytes), newest first
TOLLHOUSE_KEY_PEPPERS = env.list("TOLLHOUSE_KEY_PEPPERS")  # id:base64(32 bytes), newest first
TOLLHOUSE_KMS_URL = env.str("TOLLHOUSE_KMS_URL", "")
TOLLHOUSE_KMS_TOKEN = env.str("TOLLHOUSE_KMS_TOKEN", "")
TOLLHOUSE_KMS_KEY = env.str("TOLLHOUSE_KMS_KEY", "transit/tollhouse")
TOLLHOUSE_KMS_CACHE_S = env.float("TOLLHOUSE_KMS_CACHE_S", 300.0)
TOLLHOUSE_KMS_WRAPS = env.bool("TOLLHOUSE_KMS_WRAPS", True)
TOLLHOUSE_DATA = Path(env.str("TOLLHOUSE_DATA", str(BASE_DIR / ".tollhouse"))).absolute()
DATABASES = {"default": env.db_url("DATABASE_URL")}
DATABASES["default"].setdefault("CONN_MAX_AGE", env.int("DATABASE_CONN_MAX_AGE", 60))
DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
REDIS_URL = env.str("REDIS_URL")
PUBLIC_URL = env.str("PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/")
scrubbing.install(
    [
        SECRET_KEY,
        TOLLHOUSE_KMS_TOKEN,
        *(each.partition(":")[2] for each in (*TOLLHOUSE_MASTER_KEYS, *TOLLHOUSE_KEY_PEPPERS)),
        DATABASES["default"].get("PASSWORD") or "",
        env.str("TOLLHOUSE_STRIPE_API_KEY", ""),
        *env.list("TOLLHOUSE_STRIPE_WEBHOOK_SECRETS", default=[]),
    ]
)

# ------------------------------------------------------------------ data plane

TOLLHOUSE_REQUEST_TIMEOUT_S = env.float("TOLLHOUSE_REQUEST_TIMEOUT_S", 600.0)
TOLLHOUSE_MAX_BODY_BYTES = env.int("TOLLHOUSE_MAX_BODY_BYTES", 32 * 1024 * 1024)
TOLLHOUSE_MAX_IN_FLIGHT = env.int("TOLLHOUSE_MAX_IN_FLIGHT", 2000)
TOLLHOUSE_ALLOW_UNPRICED = env.bool("TOLLHOUSE_ALLOW_UNPRICED", False)
TOLLHOUSE_EGRESS_ALLOWED_HOSTS = env.list("TOLLHOUSE_EGRESS_ALLOWED_HOSTS", default=[])
TOLLHOUSE_REQUEST_LOG_DAYS = env.int("TOLLHOUSE_REQUEST_LOG_DAYS", 30)
TOLLHOUSE_MAX_CONTENT_DAYS = env.int("TOLLHOUSE_MAX_CONTENT_DAYS", 365)
TOLLHOUSE_CONTENT_MAX_BYTES = env.int("TOLLHOUSE_CONTENT_MAX_BYTES", 1024 * 1024)
TOLLHOUSE_CONTENT_BUFFER_BYTES = env.int("TOLLHOUSE_CONTENT_BUFFER_BYTES", 64 * 1024 * 1024)
TOLLHOUSE_ARTIFACTS_DAYS = env.int("TOLLHOUSE_ARTIFACTS_DAYS", 400)
TOLLHOUSE_REGION = env.str("TOLLHOUSE_REGION", "")
TOLLHOUSE_HEALTH_CHECK_IDLE_S = env.float("TOLLHOUSE_HEALTH_CHECK_IDLE_S", 60.0)
TOLLHOUSE_TWO_PERSON = env.str("TOLLHOUSE_TWO_PERSON", "")  # read by tenants.approvals.kinds_on
TOLLHOUSE_AUDIT_DAYS = env.int("TOLLHOUSE_AUDIT_DAYS", 0)
TOLLHOUSE_AUDIT_STRICT = env.bool("TOLLHOUSE_AUDIT_STRICT", env.bool("DEBUG", False))
TOLLHOUSE_PAGERDUTY_URL = env.str("TOLLHOUSE_PAGERDUTY_URL", "https://events.pagerduty.com")
TOLLHOUSE_STRIPE_API_KEY = env.str("TOLLHOUSE_STRIPE_API_KEY", "")
TOLLHOUSE_STRIPE_WEBHOOK_SECRETS = env.list("TOLLHOUSE_STRIPE_WEBHOOK_SECRETS", default=[])
OTEL_EXPORTER_OTLP_ENDPOINT = env.str("OTEL_EXPORTER_OTLP_ENDPOINT", "")
OTEL_EXPORTER_OTLP_HEADERS = env.str("OTEL_EXPORTER_OTLP_HEADERS", "")
TOLLHOUSE_STRIPE_URL = env.str("TOLLHOUSE_STRIPE_URL", "https://api.stripe.com")

# ------------------------------------------------------------------ Django

DEBUG = env.bool("DEBUG", False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[PUBLIC_URL])
IS_LOCAL = PUBLIC_URL.startswith("http://")
BREAK_GLASS_ADMIN = env.bool("BREAK_GLASS_ADMIN", False)

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.usersessions",
    "django_htmx",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "rest_framework",
    "tenants",
    "routing",
    "billing",
    "gateway",
]
MIDDLEWARE = [
    "gateway.transport.transport_headers",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "tenants.second_factor.second_factor_first",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "gateway.urls"
ASGI_APPLICATION = "gateway.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "tenants.User"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.csp",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "gateway.views.navigation",
            ]
        },
    }
]
STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", str(TOLLHOUSE_DATA / "static")))
STATICFILES_DIRS = [BASE_DIR / "templates" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "tollhouse",
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
SESSION_COOKIE_AGE = env.int("SESSION_COOKIE_AGE_S", 14 * 24 * 3600)
SESSION_COOKIE_SAMESITE = "Lax"

# ------------------------------------------------------------------ sign-in

AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "tenants.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_PREVENT_ENUMERATION = "strict"
ACCOUNT_REAUTHENTICATION_TIMEOUT = 900
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,10/10m/key",
    "reset_password": "20/m/ip,5/h/key",
    "reset_password_from_key": "20/m/ip",
    "reauthenticate": "10/m/user",
    "change_password": "5/m/user",
    "signup": "20/m/ip",
}
MFA_ADAPTER = "tenants.adapters.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True  # accounts come from invitations alone: the address has had a mail of ours
MFA_RECOVERY_CODES_SHOW_ONCE = False
MFA_FORMS = {
    "add_webauthn": "tenants.sign_ins.AddKeyForm",
    "login_webauthn": "tenants.sign_ins.SignInByKeyForm",
    "authenticate_webauthn": "tenants.sign_ins.SecondFactorByKeyForm",
    "reauthenticate_webauthn": "tenants.sign_ins.ReauthenticateByKeyForm",
}
SOCIALACCOUNT_ADAPTER = "tenants.oidc.SsoAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = True  # the state parameter and PKCE bind the answer to the browser that asked
REQUIRE_MFA_FOR_OPERATORS = env.bool("REQUIRE_MFA_FOR_OPERATORS", not IS_LOCAL)
PASSWORD_HASHERS = ["django.contrib.auth.hashers.ScryptPasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
_email = env.email_url("EMAIL_URL", default="consolemail://")
_smtp = {  # Django 6.1 warns of the EMAIL_* settings that django-environ's names come from
    "host": _email["EMAIL_HOST"],
    "port": _email["EMAIL_PORT"],
    "username": _email["EMAIL_HOST_USER"],
    "password": _email["EMAIL_HOST_PASSWORD"],
    "use_tls": _email.get("EMAIL_USE_TLS", False),
    "use_ssl": _email.get("EMAIL_USE_SSL", False),
    "timeout": _email.get("EMAIL_TIMEOUT", 20),
}
MAILERS = {
    "default": {
        "BACKEND": _email["EMAIL_BACKEND"],
        "OPTIONS": _smtp if _email["EMAIL_BACKEND"].endswith("smtp.EmailBackend") else {},
    }
}
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "tollhouse@localhost")

# ------------------------------------------------------------------ transport security

SECURE_CSP = {
    "default-src": [CSP.SELF],
    "script-src": [CSP.SELF, CSP.NONCE],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "object-src": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
    "form-action": [CSP.SELF],
}
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not IS_LOCAL
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024  # of a form, files aside; the APIs have limits of their own
DATA_UPLOAD_MAX_NUMBER_FIELDS = 1000
DATA_UPLOAD_MAX_NUMBER_FILES = 5
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", not IS_LOCAL)
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # asked from inside, by plain HTTP
SECURE_HSTS_SECONDS = 0 if IS_LOCAL else 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = not IS_LOCAL
BEHIND_TLS_PROXY = env.bool("BEHIND_TLS_PROXY", False)
TRUSTED_PROXIES = env.list("TRUSTED_PROXIES", default=["127.0.0.1"])
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS_PROXY else None
X_FRAME_OPTIONS = "DENY"

# ------------------------------------------------------------------ REST

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.authentication.KeyAuthentication",
        "tenants.authentication.ConsoleAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.authentication.DenyByDefault"],
    "DEFAULT_PAGINATION_CLASS": "tenants.wire.Cursor",
    "DEFAULT_PARSER_CLASSES": ["tenants.wire.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "tenants.schema.NamedSchema",
    "EXCEPTION_HANDLER": "tenants.wire.error_response",
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tollhouse",
    "VERSION": "1",
    "DESCRIPTION": "AI gateway and multi-tenant control plane. /v1 is the data plane, /api/v1 the control plane.",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "CreditCategoryEnum": "billing.models.CreditGrant.Category",
        "PaymentStatusEnum": "billing.models.Payment.Status",
        "ReminderStateEnum": "billing.models.DunningReminder.State",
        "AlertActionEnum": "billing.models.alerts.AlertRule.Action",
        "AlertChannelKindEnum": "billing.models.alerts.AlertChannel.Kind",
        "AlertRuleKindEnum": "billing.models.alerts.AlertRule.Kind",
        "AlertRuleWindowEnum": "billing.models.alerts.AlertRule.Window",
        "BudgetModeEnum": "billing.models.Budget.Mode",
        "BudgetWindowEnum": "billing.models.Budget.Window",
        "CouponKindEnum": "billing.models.invoices.Coupon.Kind",
        "InvoiceLineKindEnum": "billing.models.invoices.InvoiceLine.Kind",
        "ProviderStateEnum": "routing.health.api.STATES",
        "StatedRateSourceEnum": ["manual", "contract"],
    },
}

# ------------------------------------------------------------------ Celery

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600, "global_keyprefix": "celery:"}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = "UTC"

# ------------------------------------------------------------------ logs

LOG_FORMAT = env.str("LOG_FORMAT", "line")
CELERY_WORKER_HIJACK_ROOT_LOGGER = LOG_FORMAT == "line"  # else Celery would bring its own format

_SERVER_LOGGERS = (  # in JSON the server's own lines too
    {}
    if LOG_FORMAT == "line"
    else {name: {"handlers": [], "propagate": True} for name in ("uvicorn", "uvicorn.error")}
)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(levelname)s %(name)s %(message)s"},
        "json": {"()": "gateway.telemetry.logs.JsonFormatter"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    "loggers": {"httpx": {"level": "WARNING"}, "django.request": {"level": "ERROR"}, **_SERVER_LOGGERS},
}
