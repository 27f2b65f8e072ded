"""How OpenAPI describes our ways to sign in. Loaded when the app is ready; used by nothing else."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from tenants.authentication import ConsoleAuthentication, KeyAuthentication


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular is untyped there
    """Describes KeyAuthentication in the OpenAPI schema."""

    target_class = KeyAuthentication
    name = ["apiKeyBearer", "apiKeyHeader"]

    def get_security_requirement(self, auto_schema: object) -> list[dict[str, list[str]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: object) -> list[dict[str, str]]:
        return [
            {"type": "http", "scheme": "bearer", "bearerFormat": "th_…"},
            {"type": "apiKey", "in": "header", "name": "x-api-key"},
        ]


class ConsoleScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular is untyped there
    """Describes ConsoleAuthentication in the OpenAPI schema."""

    target_class = ConsoleAuthentication
    name = "consoleSession"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}
