"""Findings, whatever the text: offsets, tricks of writing, overlaps, custom patterns, names."""

import importlib.util
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy.detect import (
    MAX_PATTERN,
    CustomPattern,
    Detector,
    Found,
    Rules,
    check_names,
    check_pattern,
    compiled,
)
from gateway.privacy.kinds import KINDS, Action

ALL = Rules(
    {**dict.fromkeys(KINDS, Action.TOKENIZE), "custom:staff": Action.REDACT, "custom:broad": Action.REDACT},
    custom=(CustomPattern("staff", r"EMP-\d{4}"), CustomPattern("broad", r"[0-9]{2}.")),
)
PIECES = st.sampled_from(
    (
        "max@example.com",
        "+1 202-555-0147",
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        "536-22-1843",
        "203.0.113.9",
        "2001:db8::1f",
        "EMP-1234",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----",
        "postgres://a:b@c",
        "%40",
        "&#64;",
        "&#0;",
        "\\u200b",
        "\\u0040",
        "\\\\n",
        "\u200b",
        "\ud800",
        "４２",
        "é",
        "शून्य६",
        "tel ",
        ",",
        "\n",
        " ",
    )
)
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="0123456789+-. ()/:@%&;#\\uxab\u200b\u00ad\u00a0"),
    st.lists(st.one_of(PIECES, st.text(max_size=4))).map("".join),
)


def found(text: str, *kinds: str) -> list[tuple[str, str]]:
    rules = Rules(dict.fromkeys(kinds or KINDS, Action.TOKENIZE))
    return [(each.kind, each.text) for each in compiled(rules).find(text)]


@given(TEXTS)
def test_findings_are_in_order_apart_and_the_text_between_their_offsets(text: str) -> None:
    at = 0
    for each in compiled(ALL).find(text):
        assert at <= each.start < each.end <= len(text)
        assert each.text == text[each.start : each.end]
        at = each.end


@given(TEXTS)
def test_what_was_found_is_found_again_in_the_same_text(text: str) -> None:
    assert compiled(ALL).find(text) == Detector(ALL).find(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｂｏｂ＠ｅｘａｍｐｌｅ．ｃｏｍ", ("email", "ｂｏｂ＠ｅｘａｍｐｌｅ．ｃｏｍ")),
        ("a\u200bnna@exam\u00adple.com", ("email", "a\u200bnna@exam\u00adple.com")),
        ("kim%40example.com", ("email", "kim%40example.com")),
        ("kim&#x40;example&period;com", ("email", "kim&#x40;example&period;com")),
        (r"to\\nacc@example.com", ("email", "acc@example.com")),
        (r"kim\u0040example.com", ("email", r"kim\u0040example.com")),
        ("4242\u00a04242\u00a04242\u00a04242", ("card", "4242\u00a04242\u00a04242\u00a04242")),
        ("+1\u2011202\u2011555\u20110155", ("phone", "+1\u2011202\u2011555\u20110155")),
        ("आधार ६३२६ २८७७ ८१४९", ("national_id", "६३२६ २८७७ ८१४९")),
    ],
)
def test_sees_through_tricks_of_writing(text: str, expected: tuple[str, str]) -> None:
    assert found(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png",
        "git@example.com:acme/repo.git",
        "4111111111111112",
        "card 0000000000000000",
        "DE89370400440532013001",
        "127.0.0.1 and 0.0.0.0 and 255.255.255.0",
        "12:34:56 and ::1 and dead::beef",
        "ssn 666-12-3456 or 000-12-3456",
        "sk-navigation-container-wrapper-element",
        "postgres://user:${PASSWORD}@localhost",
    ],
)
def test_leaves_alone_what_only_looks_alike(text: str) -> None:
    assert found(text) == []


def test_a_number_without_groups_needs_a_word_nearby() -> None:
    assert found("value 620261134") == []
    assert found("bsn 620261134") == [("national_id", "620261134")]
    assert found("name,bsn\nx,1\nsomebody of a longer name than the others have got,620261134") == [
        ("national_id", "620261134")
    ]


def test_a_region_lets_its_national_numbers_stand_alone() -> None:
    text = "Ansprechpartner 03023125114"
    assert found(text, "phone") == []
    there = compiled(Rules({"phone": Action.TOKENIZE}, regions=("DE",)))
    assert there.find(text) == [Found(16, 27, "phone", "03023125114")]


def test_only_kinds_with_an_action_are_found() -> None:
    text = "max@example.com 203.0.113.9"
    detector = compiled(Rules({"email": Action.ALLOW, "ip_address": Action.BLOCK}))
    assert [each.kind for each in detector.find(text)] == ["ip_address"]


def test_an_account_is_not_taken_for_a_phone_when_accounts_are_allowed() -> None:
    assert found("tel. DE89 3704 0044 0532 0130 00", "phone") == []


def test_the_longest_finding_stays_whole_and_nothing_of_the_others_is_left_open() -> None:
    rules = Rules(
        {"email": Action.TOKENIZE, "custom:left": Action.REDACT},
        custom=(CustomPattern("left", r"staff: max"),),
    )
    assert [(each.kind, each.text) for each in compiled(rules).find("staff: max@example.com")] == [
        ("custom:left", "staff: "),
        ("email", "max@example.com"),
    ]


def test_custom_patterns_read_text_as_it_is_and_without_tricks() -> None:
    rules = Rules(
        {"custom:staff": Action.REDACT, "custom:street": Action.REDACT},
        custom=(CustomPattern("staff", r"EMP-\d{4}"), CustomPattern("street", r"\p{L}+straße \d+")),
    )
    text = "EMP\u20111\u200b234 wohnt Grünstraße 12 \ud800"
    assert [(each.kind, each.text) for each in compiled(rules).find(text)] == [
        ("custom:staff", "EMP\u20111\u200b234"),
        ("custom:street", "Grünstraße 12"),
    ]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "missing )"),
        (r"(a)\1", "invalid escape sequence"),
        ("(?=a)", "invalid perl operator"),
        ("a*", "matches the empty text"),
        ("", f"1 to {MAX_PATTERN} characters"),
        ("a" * (MAX_PATTERN + 1), f"1 to {MAX_PATTERN} characters"),
        ("((a{1,100}){1,100}){1,100}", "staff"),
        (r"\p{L}{10}", "is too large"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_refuses_a_custom_pattern_by_name(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match="'staff'") as refused:
        check_pattern(CustomPattern("staff", pattern))
    assert said in str(refused.value)
    with pytest.raises(ValueError, match="'staff'"):
        compiled(Rules({"custom:staff": Action.BLOCK}, custom=(CustomPattern("staff", pattern),)))


def test_refuses_too_many_custom_patterns() -> None:
    many = tuple(CustomPattern(f"c{number}", "abc") for number in range(101))
    with pytest.raises(ValueError, match="100 custom patterns"):
        compiled(Rules({"custom:c1": Action.BLOCK}, custom=many))


def test_equal_rules_share_one_detector_and_fingerprint() -> None:
    one, other = Rules({"email": Action.BLOCK}), Rules({"email": Action.BLOCK})
    assert compiled(one) is compiled(other)
    assert one.fingerprint == other.fingerprint != Rules({"email": Action.REDACT}).fingerprint


class Capitals:
    """Finds every word in capitals."""

    def find(self, text: str) -> Iterable[tuple[int, int]]:
        at = 0
        for word in text.split(" "):
            if word.isupper():
                yield at, at + len(word)
            at += len(word) + 1


def test_names_come_from_the_detector_that_is_given() -> None:
    rules = Rules({"name": Action.TOKENIZE, "email": Action.TOKENIZE}, names=True)
    assert Detector(rules, Capitals()).find("ask MARIA or b@example.com") == [
        Found(4, 9, "name", "MARIA"),
        Found(13, 26, "email", "b@example.com"),
    ]


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed here")
def test_names_are_refused_where_no_model_is_installed() -> None:
    with pytest.raises(ValueError, match="extra `ner`"):
        check_names()
    with pytest.raises(ValueError, match="extra `ner`"):
        compiled(Rules({"name": Action.TOKENIZE}, names=True))
