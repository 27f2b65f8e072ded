"""A document as PDF: typst sets the page, no system library or font is needed. PDF/A-3b, so that an
e-invoice may be put inside."""

from dataclasses import asdict
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Final

import orjson

from billing.invoicing.document import DocumentShown

TEMPLATE: Final = Path(__file__).with_name("invoice.typ")


def pdf(shown: DocumentShown) -> bytes:
    """The document as PDF/A-3b. Only fonts that come with typst, so it looks the same everywhere; the same
    document gives the same bytes."""
    import typst  # noqa: PLC0415 - 30 MB that only whoever makes a PDF should hold

    made = typst.compile(
        TEMPLATE,
        root=TEMPLATE.parent,
        ignore_system_fonts=True,
        format="pdf",
        pdf_standards=["a-3b"],
        timestamp=datetime.combine(shown.dated, time(), UTC),
        sys_inputs=_inputs(shown),
    )
    return made if isinstance(made, bytes) else made[0]


def pictures(shown: DocumentShown) -> list[bytes]:
    """Each page as PNG at 110 dpi, for a look."""
    import typst  # noqa: PLC0415 - as above

    made = typst.compile(
        TEMPLATE,
        root=TEMPLATE.parent,
        ignore_system_fonts=True,
        format="png",
        ppi=110.0,
        sys_inputs=_inputs(shown),
    )
    return [made] if isinstance(made, bytes) else list(made)


def _inputs(shown: DocumentShown) -> dict[str, str]:
    return {"document": orjson.dumps(asdict(shown)).decode()}
