"""For developers: builds the vendored price book from a LiteLLM wheel. Never run by an installation."""

import hashlib
import lzma
import zipfile
from datetime import date
from email.parser import Parser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from routing.catalog import book, litellm

MAP = "litellm/model_prices_and_context_window_backup.json"

NOTICE = """\
catalogue.json.xz: what model providers publish about their models and prices
==============================================================================

Built by `manage.py build_catalogue` from:

  {name} {version}, file {map}
  {url}
  SHA-256 of that file: {sha256}
  Fetched: {as_of}

Changes: translated into Tollhouse's words (routing/catalog/litellm.py). Prices are decimal strings in USD per
million tokens. Left out: models that serve neither chat, completions nor embeddings; prices of zero, except
for runners on one's own hardware ({local}); models billed by parts that no usage object tells
(unpriced). A price with more than 15 significant digits is float debris and rounded to 12. Image and audio
input without a price of its own takes the plain input price. Prices that depend on the hour of the day are
kept at their list price.

The licence of that file, as shipped with it:

{licence}"""


class Command(BaseCommand):
    requires_system_checks = ()
    help = "Build routing/catalog/data from a LiteLLM wheel (developers only)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("wheel", type=Path, help="litellm-*.whl as published on PyPI")
        parser.add_argument("--as-of", type=date.fromisoformat, required=True, help="the day it was fetched")
        parser.add_argument("--output", type=Path, default=book.PATH)

    def handle(self, *args: Any, wheel: Path, as_of: date, output: Path, **options: Any) -> None:
        raw, licence, version = _read(wheel)
        models, listings = litellm.translate(raw)
        source = book.Source(
            name="LiteLLM",
            version=version,
            licence="MIT",
            url="https://github.com/BerriAI/litellm",
            sha256=hashlib.sha256(raw).hexdigest(),
        )
        catalogue = book.Catalogue(as_of, (source,), models, listings)
        data = book.dump(catalogue)
        output.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        output.with_name("NOTICE").write_text(
            NOTICE.format(
                name=source.name,
                version=version,
                map=MAP,
                url=source.url,
                sha256=source.sha256,
                as_of=as_of,
                local=", ".join(litellm.LOCAL_BOOKS),
                licence=licence,
            )
        )
        rates = sum(len(listing.rates) for listing in listings)
        books = len({listing.book for listing in listings})
        self.stdout.write(
            f"{len(models)} models, {len(listings)} offers in {books} books, {rates} rates, "
            f"{output.stat().st_size} bytes"
        )


def _read(wheel: Path) -> tuple[bytes, str, str]:
    """The map, its licence and the release's version."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(archive.read(info).decode())
            licence = archive.read(info.removesuffix("METADATA") + "licenses/LICENSE").decode()
            return archive.read(MAP), licence, metadata["Version"]
    except (OSError, KeyError, StopIteration, zipfile.BadZipFile) as error:
        raise CommandError(f"{wheel} is not a LiteLLM wheel: {error}") from error
