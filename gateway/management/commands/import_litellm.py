"""import_litellm: take over a LiteLLM proxy's configuration file. Shows what it would do; `--apply` does it."""

import os
from pathlib import Path
from typing import Any

import yaml
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from gateway.moving.apply import apply
from gateway.moving.litellm import ConfigInvalid, Move, read
from tenants.errors import ApiError
from tenants.principal import SYSTEM


class Command(BaseCommand):
    """Secrets that the file takes from the environment are taken from this process's. May be run again: only adds."""

    help = "Import providers, models, prices, aliases and fallbacks from a LiteLLM config.yaml."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--apply", action="store_true", help="Make the changes instead of showing them.")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        """Raises CommandError; nothing is changed then."""
        try:
            document = yaml.safe_load(file.read_text())
            move = read(document, os.environ)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigInvalid) as error:
            raise CommandError(f"{file}: {error}") from error
        self._show(move)
        if not options["apply"]:
            self.stdout.write("Nothing was changed; run it with --apply.")
            return
        try:
            moved = apply(move=move, actor=SYSTEM, now=timezone.now())
        except ApiError as error:
            raise CommandError(f"{error.param or 'import'}: {error.message}") from error
        self.stdout.write(
            f"Added {moved.providers} providers, {moved.models} models, {moved.endpoints} endpoints,"
            f" {moved.rates} rates, {moved.policies} policies."
        )

    def _show(self, move: Move) -> None:
        for provider in move.providers:
            key = "with a key" if provider.secret else "without a key"
            self.stdout.write(
                f"provider {provider.slug}: {provider.kind} {provider.base_url or '(public address)'}, {key}"
            )
        for each in move.deployments:
            priced = "priced by the file" if each.rates else "priced by the catalogue"
            self.stdout.write(
                f"model {each.model}: {each.provider}/{each.provider_model}, weight {each.weight}, {priced}"
            )
        for policy in move.policies:
            self.stdout.write(f"policy:{policy.slug}: {policy.strategy}, {' → '.join(policy.targets)}")
        for what in move.left_out:
            self.stdout.write(f"left out: {what}")
