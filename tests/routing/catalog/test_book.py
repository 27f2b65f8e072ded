import hashlib
from decimal import Decimal

import pytest

from routing.catalog.book import PATH, CatalogueRate, Listing, dump, parse, vendored


def listing(book: str, name: str) -> Listing:
    return next(each for each in vendored().listings if (each.book, each.provider_model) == (book, name))


def test_the_vendored_book_holds_thousands_of_priced_offers_by_all_our_dialects_providers() -> None:
    priced = [each for each in vendored().listings if each.rates]
    assert len(priced) > 3000
    assert {"openai", "anthropic", "gemini", "azure", "mistral", "deepseek", "groq"} <= {
        p.book for p in priced
    }


def test_every_offer_names_a_model_of_the_book_and_no_key_is_priced_twice() -> None:
    slugs = {model.slug for model in vendored().models}
    assert {each.model for each in vendored().listings} <= slugs
    for each in vendored().listings:
        keys = [(r.component, r.service_tier, r.min_input_tokens) for r in each.rates]
        assert len(keys) == len(set(keys))


def test_prices_fit_the_column_exactly() -> None:
    for each in vendored().listings:
        for rate in each.rates:
            assert rate.price == rate.price.quantize(Decimal("1e-10"))
            assert rate.price >= 0


def test_a_known_price_is_as_published() -> None:
    # https://platform.claude.com/docs/en/about-claude/pricing
    prices = {(r.component, r.service_tier): r.price for r in listing("anthropic", "claude-sonnet-4-5").rates}
    assert prices["input", ""] == Decimal(3)
    assert prices["cache_read", ""] == Decimal("0.3")
    assert prices["cache_write", ""] == Decimal("3.75")
    assert prices["cache_write_1h", ""] == Decimal(6)
    assert prices["output", ""] == Decimal(15)
    assert prices["output", "batch"] == Decimal("7.5")


def test_context_tiers_are_rows_of_their_own() -> None:
    # https://ai.google.dev/gemini-api/docs/pricing
    rows = [
        r for r in listing("gemini", "gemini-2.5-pro").rates if r.component == "output" and not r.service_tier
    ]
    assert rows == [
        CatalogueRate("output", Decimal(10), 1_000_000, "", 0),
        CatalogueRate("output", Decimal(15), 1_000_000, "", 200_000),
    ]


def test_a_written_book_reads_back_the_same() -> None:
    assert parse(dump(vendored())) == vendored()


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="catalogue schema"):
        parse(b'{"schema": "tollhouse-catalogue/2"}')


def test_the_notice_names_source_version_hash_and_licence() -> None:
    notice = PATH.with_name("NOTICE").read_text()
    (source,) = vendored().sources
    assert source.licence == "MIT"
    assert f"{source.name} {source.version}" in notice
    assert source.sha256 in notice
    assert len(source.sha256) == hashlib.sha256().digest_size * 2
    assert "Permission is hereby granted, free of charge" in notice
