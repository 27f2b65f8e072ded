"""create_admin: an owner of the operator's staff, with a generated password that is printed once."""

import secrets
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email
from django.db import transaction

from tenants import audit
from tenants.models import User
from tenants.principal import SYSTEM


class Command(BaseCommand):
    """Creates the person, or refuses when there is one with that address."""

    help = "Create an operator's owner and print a generated password once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--email", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError for a bad or taken address."""
        email = options["email"].strip().lower()
        try:
            validate_email(email)
        except ValidationError as error:
            raise CommandError(f"{email!r} is not an email address") from error
        password = secrets.token_urlsafe(18)
        with transaction.atomic():
            if User.objects.filter(email__iexact=email).exists():
                raise CommandError(f"{email} exists already; reset the password on the sign-in page")
            user = User.objects.create_superuser(email, password)
            audit.record(
                principal=SYSTEM,
                action="user.create",
                object_type="user",
                object_id=user.id,
                tenant=None,
                after={"email": email, "operator_role": user.operator_role},
            )
        self.stdout.write(f"{email}\n{password}")
