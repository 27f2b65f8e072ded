"""What personal data looks like, and how to tell it from other digits and letters: checksums, issuers, calling codes,
and the words that stand nearby.

Everything here reads a *shadow* (see `gateway.privacy.detect`): bytes, one per character, in which a non-ASCII letter
of an alphabet with cases is 0xFF and any other sign that has no ASCII counterpart is 0xA4. Pure. A pattern must not
count high (`x{0,60}`): RE2's automaton grows with it.
"""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

import phonenumbers
import stdnum.be.nn
import stdnum.br.cpf
import stdnum.ca.sin
import stdnum.ch.ssn
import stdnum.cn.ric
import stdnum.de.idnr
import stdnum.es.dni
import stdnum.es.nie
import stdnum.fi.hetu
import stdnum.fr.nir
import stdnum.iban
import stdnum.in_.aadhaar
import stdnum.it.codicefiscale
import stdnum.kr.rrn
import stdnum.luhn
import stdnum.mx.curp
import stdnum.nl.bsn
import stdnum.no.fodselsnummer
import stdnum.pl.pesel
import stdnum.pt.nif
import stdnum.se.personnummer

from gateway.privacy.kinds import CARD, EMAIL, IBAN, IP_ADDRESS, NATIONAL_ID, PHONE, SECRET

_ALNUM: Final = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\xff")
WORDS_BEFORE: Final = 48
"""How many characters before a finding are read for words that say what it is."""
HEADER_CHARACTERS: Final = 300
"""How long the first line of a table may be."""
MAX_PARSES: Final = 500
"""How many numbers of one text are looked up in libphonenumber (80 us each); further ones count by their form alone,
so that a long list costs little and hides nothing."""


class Span(NamedTuple):
    """A finding in the shadow: byte offsets and a kind."""

    start: int
    end: int
    kind: str


class Sight:
    """What is searched: the shadow, and the words of the text it stands for. `regions`: countries whose national phone
    numbers need no word nearby. Of one search, so that what was looked up is looked up once."""

    __slots__ = ("_at", "_header", "_lowered", "_places", "parses", "regions", "shadow")

    def __init__(
        self, shadow: bytes, text: str, at: Callable[[int], int], regions: tuple[str, ...] = ()
    ) -> None:
        """`at` tells where a byte of the shadow stands in the text."""
        self.shadow = shadow
        self.regions = regions
        self.parses = 0
        self._at = at
        self._lowered = _lowered(text)
        self._places: dict[re.Pattern[str], tuple[list[int], list[int], bool]] = {}
        first, line, _ = self._lowered[:HEADER_CHARACTERS].partition("\n")
        self._header = first if line and any(sign in first for sign in ",;\t|") else ""

    def before(self, start: int) -> str:
        """What stands before an offset of the shadow, in lower case."""
        at = self._at(start)
        return self._lowered[max(0, at - WORDS_BEFORE) : at]

    def has(self, words: re.Pattern[str], start: int) -> bool:
        """Whether such a word stands before, or in the first line of a table."""
        known = self._places.get(words)
        if known is None:
            spans = [match.span() for match in words.finditer(self._lowered)]
            known = self._places[words] = (
                [begin for begin, _ in spans],
                [end for _, end in spans],
                bool(self._header) and words.search(self._header) is not None,
            )
        begins, ends, is_in_header = known
        at = self._at(start)
        last = bisect_right(ends, at) - 1
        return (last >= 0 and begins[last] >= at - WORDS_BEFORE) or (is_in_header and at > len(self._header))


def _lowered(text: str) -> str:
    """In lower case, and as long as it was."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(each if len(sign) != 1 else sign for each in text for sign in (each.lower(),))


@dataclass(frozen=True, slots=True)
class Shape:
    """One pattern of the gate, with what makes a finding of its matches."""

    name: str
    pattern: bytes
    judge: Callable[[Sight, int, int], Iterator[Span]]
    kinds: frozenset[str]


def _is_bounded(shadow: bytes, start: int, end: int) -> bool:
    """Not a piece of a longer word or number."""
    return (start == 0 or shadow[start - 1] not in _ALNUM) and (
        end == len(shadow) or shadow[end] not in _ALNUM
    )


# ------------------------------------------------------------------ words nearby

_CARD_WORDS: Final = re.compile(
    r"card|visa|master|maestro|amex|american express|diners|discover|jcb|\bpan\b|karte|carte|tarjeta|carta|cartão|"
    r"cartao|kort|kaart|karta|karty|карт|カード|卡"
)
_PHONE_WORDS: Final = re.compile(
    r"phone|\btel\b|\btel[.:]|mobile|\bcell|\bfax|whatsapp|\bsms\b|\btext\b|\bdial\b|\bpager|\b(?:call|ring|reach)\b|"
    r"telefon|handy|mobil|rufnummer|durchwahl|hotline|anrufen|\bfon\b|t[ée]l[ée]ph|\bt[ée]l\b|\bt[ée]l[.:]|portable|"
    r"joindre|appele|standard ?:|m[óo]vil|tel[ée]fono|\bfijo\b|ll[áa]ma|celular|cellulare|telefoon|mobiel|\bbel me|"
    r"telem[óo]vel|puhelin|telefonu|kom[óo]rk|тел|звони|電話|电话|手机|هاتف|اتصل|फ़ोन|फोन|मोबाइल|☎|📞"
)
_OTHER_WORDS: Final = re.compile(
    r"\b(?:order|bestell\w*|commande|pedido|ordine|zamówienie|invoice|rechnung\w*|facture|factura|fattura|ticket|tracking|"
    r"parcel|paket|serial|sku|part|artikel\w*|article|\bref\w*|isbn|issn|ean|upc|imei|aktenzeichen|dossier|pratica|"
    r"booking|version|build|commit|case|timestamp|ts|id|\w*_id|count|score|norma|订单号|注文番号)"
    r"[\s\w.,:=#\"'\u2019№°-]{0,14}$"
)


def _is_other(sight: Sight, start: int) -> bool:
    """Whether the words right before say that a number is an order's, a book's, a version's …"""
    return _OTHER_WORDS.search(sight.before(start)) is not None


# ------------------------------------------------------------------ e-mail

_PICTURES: Final = frozenset((b"png", b"jpg", b"jpeg", b"gif", b"webp", b"svg"))


def _email(sight: Sight, start: int, end: int) -> Iterator[Span]:
    shadow = sight.shadow
    while end < len(shadow) and shadow[end] in b"-" and shadow[end - 1] in b".-":
        end -= 1
    local, _, domain = shadow[start:end].partition(b"@")
    if domain.rpartition(b".")[2].lower() in _PICTURES:
        return
    if local == b"git" and shadow[end : end + 1] == b":":
        return  # a repository's address
    before = shadow[max(0, start - 200) : start]
    scheme = before.rpartition(b"://")
    if scheme[1] and b":" in scheme[2] and not re.search(rb"[\s/]", scheme[2]):
        return  # a password in a URL, and a host
    yield Span(start, end, EMAIL)


# ------------------------------------------------------------------ addresses

_ADDRESS_WORDS: Final = re.compile(
    r"(?:\bv|version|release|firmware|ver\.?|chapter|section|sections|kapitel|anexo|build|upgraded from [\w. ]*|"
    r"§|oid|image|(?:^|\n)#+)[\s:=]{0,3}$"
)
_LONE_VERSION: Final = re.compile(r"version|upgrade|release|firmware|chapter|section")


def _ipv4(sight: Sight, start: int, end: int) -> Iterator[Span]:
    shadow = sight.shadow
    before, after = shadow[max(0, start - 1) : start], shadow[end : end + 2]
    if (
        not _is_bounded(shadow, start, end)
        or before in {b".", b"-"}
        or re.match(rb"\.[0-9]|-[0-9A-Za-z]", after)
    ):
        return
    try:
        address = ipaddress.IPv4Address(shadow[start:end].decode())
    except ipaddress.AddressValueError:
        return
    if address.is_loopback or address.is_unspecified or address.packed[0] == 255 or address.packed[0] == 0:
        return
    words = sight.before(start)
    if _ADDRESS_WORDS.search(words) or _LONE_VERSION.search(words[-40:]):
        return
    yield Span(start, end, IP_ADDRESS)


def _ipv6(sight: Sight, start: int, end: int) -> Iterator[Span]:
    shadow = sight.shadow
    if not _is_bounded(shadow, start, end) or shadow[end : end + 1] == b":":
        return
    text = shadow[start:end].rstrip(b":") if not shadow[start:end].endswith(b"::") else shadow[start:end]
    try:
        address = ipaddress.IPv6Address(text.decode())
    except ipaddress.AddressValueError:
        return
    # `dead::beef` is also how C++ qualifies a name.
    if (
        address.is_loopback
        or address.is_unspecified
        or (text.count(b":") < 3 and not re.search(rb"[0-9]", text))
    ):
        return
    if len(text) < 6:
        return
    yield Span(start, start + len(text), IP_ADDRESS)


# ------------------------------------------------------------------ secrets


def _secret(sight: Sight, start: int, end: int) -> Iterator[Span]:
    if start and sight.shadow[start - 1] in _ALNUM:
        return
    if sight.shadow[start:end].startswith(b"sk-") and not re.search(rb"[0-9]", sight.shadow[start:end]):
        return  # words that are joined by hyphens
    yield Span(start, end, SECRET)


def _inner(pattern: bytes, *, kind: str = SECRET) -> Callable[[Sight, int, int], Iterator[Span]]:
    """A judge that takes the last group of a second, exact pattern."""
    exact = re.compile(pattern, re.IGNORECASE | re.DOTALL)

    def judge(sight: Sight, start: int, end: int) -> Iterator[Span]:
        found = exact.match(sight.shadow, start, end)
        if found is not None:
            yield Span(*found.span(1), kind)

    return judge


# ------------------------------------------------------------------ IBANs and ids with letters


_IBAN_BEGINS: Final = re.compile(rb"[A-Za-z]{2}[0-9]{2}")


def _iban(sight: Sight, start: int, end: int) -> Iterator[Span]:
    """Other words may stand before and after in the same run; the country says how long an IBAN is."""
    shadow = sight.shadow
    at = start
    while (begin := _IBAN_BEGINS.search(shadow, at, end)) is not None:
        at = begin.start() + 1
        stop = _iban_end(shadow, begin.start(), end)
        if stop:
            yield Span(begin.start(), stop, IBAN)
            at = stop


def _iban_end(shadow: bytes, start: int, end: int) -> int:
    """Where the IBAN that starts here ends; 0 for none."""
    length = _IBAN_LENGTHS.get(shadow[start : start + 2].decode("latin-1").upper())
    if length is None or (start and shadow[start - 1] in _ALNUM):
        return 0
    signs = 0
    for at in range(start, end):
        signs += shadow[at] in _ALNUM
        if signs == length:
            break
    else:
        return 0
    stop = at + 1
    if stop < len(shadow) and shadow[stop] in _ALNUM:
        return 0
    text = re.sub(r"[^A-Za-z0-9]", "", shadow[start:stop].decode("latin-1"))
    return stop if stdnum.iban.is_valid(text, check_country=False) else 0


_IBAN_LENGTHS_SAID: Final = (
    "AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28 CZ:24 "
    "DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23 GL:18 GR:27 "
    "GT:28 HN:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32 LI:21 LT:20 "
    "LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18 NO:15 OM:23 PK:24 "
    "PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19 SK:24 SM:27 SO:23 ST:25 "
    "SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30"
)
_IBAN_LENGTHS: Final = {each[:2]: int(each[3:]) for each in _IBAN_LENGTHS_SAID.split(" ")}
"""The IBAN registry of SWIFT, release 99: characters per country."""

_PERSO_SIGNS: Final = {sign: value for value, sign in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def _is_personalausweis(text: str) -> bool:
    """A serial number with the check digit of ICAO 9303 (weights 7, 3, 1)."""
    total = sum(_PERSO_SIGNS[sign] * (7, 3, 1)[at % 3] for at, sign in enumerate(text[:9]))
    return total % 10 == int(text[9])


_AUSWEIS_WORDS: Final = re.compile(r"ausweis|identity card|id card|\bpass\b|passport|reisepass")
_NINO: Final = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]")
_NINO_WORDS: Final = re.compile(r"national insurance|\bnino\b|\bni\b")


class _Lettered(NamedTuple):
    """An id that holds letters: its form without separators, and its check."""

    form: re.Pattern[str]
    check: Callable[[str], bool]
    words: re.Pattern[str] | None = None  # needed nearby


_LETTERED: Final = (
    _Lettered(re.compile(r"\d{8}[A-Z]"), stdnum.es.dni.is_valid),
    _Lettered(re.compile(r"[XYZ]\d{7}[A-Z]"), stdnum.es.nie.is_valid),
    _Lettered(
        re.compile(r"[A-Z]{6}[0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z]"),
        stdnum.it.codicefiscale.is_valid,
    ),
    _Lettered(re.compile(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d"), stdnum.mx.curp.is_valid),
    _Lettered(re.compile(r"[A-Z][0-9A-Z]{8}\d"), _is_personalausweis, _AUSWEIS_WORDS),
    _Lettered(_NINO, lambda text: True),
    _Lettered(re.compile(r"\d{17}X"), stdnum.cn.ric.is_valid),
    _Lettered(re.compile(r"[12]\d{4}2[AB]\d{8}"), stdnum.fr.nir.is_valid),
)


def _lettered(sight: Sight, start: int, end: int) -> Iterator[Span]:
    shadow = sight.shadow
    if not _is_bounded(shadow, start, end):
        return
    text = re.sub(r"[ .-]", "", shadow[start:end].decode("latin-1").upper())
    for each in _LETTERED:
        if each.form.fullmatch(text) and each.check(text):
            if each.words is None:
                if _is_other(sight, start):
                    return
            elif not sight.has(each.words, start):
                continue
            yield Span(start, end, NATIONAL_ID)
            return


def _hetu(sight: Sight, start: int, end: int) -> Iterator[Span]:
    text = sight.shadow[start:end].decode("latin-1").upper()
    if _is_bounded(sight.shadow, start, end) and stdnum.fi.hetu.is_valid(text):
        yield Span(start, end, NATIONAL_ID)


# ------------------------------------------------------------------ numbers


class _Group(NamedTuple):
    """Digits, and what stands between them and the group before."""

    start: int
    end: int
    gap: bytes


class _Window(NamedTuple):
    """Some groups of a run: their digits, sizes and the gaps between them."""

    start: int
    end: int
    digits: str
    sizes: tuple[int, ...]
    gaps: frozenset[bytes]


_DIGITS: Final = re.compile(rb"[0-9]+")
MAX_GROUPS: Final = 9
MIN_DIGITS: Final = 7
MAX_DIGITS: Final = 19


def _number(sight: Sight, start: int, end: int) -> Iterator[Span]:
    """All that a run of digits may hold. Runs are cut into windows of whole groups; the longest that is something
    wins, and what is left is looked at again."""
    shadow = sight.shadow
    groups: list[_Group] = []
    at = start
    for found in _DIGITS.finditer(shadow, start, end):
        groups.append(_Group(found.start(), found.end(), shadow[at : found.start()]))
        at = found.end()
    digits = [0, *accumulate(each.end - each.start for each in groups)]
    first = 0
    while first < len(groups):
        taken = 0
        if _begins(shadow, groups[first]):
            has_plus = (
                shadow[max(0, groups[first].start - 2) : groups[first].start].rstrip(b"(").endswith(b"+")
            )
            for last in range(min(len(groups), first + MAX_GROUPS), first, -1):
                count = digits[last] - digits[first]
                if not MIN_DIGITS <= count <= MAX_DIGITS or not _ends(shadow, groups[last - 1].end):
                    continue
                if count < 2 * (last - first) - 1 and not has_plus:
                    continue  # a list of small numbers
                window = _window(shadow, groups[first:last])
                kind = _kind(sight, window, has_plus=has_plus, is_run=last - first == len(groups))
                if kind is not None:
                    yield Span(
                        _with_sign(shadow, window.start, window.end) if kind == PHONE else window.start,
                        window.end,
                        kind,
                    )
                    taken = last - first
                    break
        first += taken or 1


def _begins(shadow: bytes, group: _Group) -> bool:
    before = shadow[max(0, group.start - 1) : group.start]
    if not before:
        return True
    if before == b".":  # the fraction of a number, a piece of a version
        return not shadow[max(0, group.start - 2) : group.start - 1].isdigit()
    if before == b",":
        return not re.search(rb"(?<![0-9])0$", shadow[max(0, group.start - 3) : group.start - 1])
    return before[0] not in _ALNUM and before != b"_"


def _ends(shadow: bytes, end: int) -> bool:
    after = shadow[end : end + 2]
    return not after or (after[0] not in _ALNUM and after[:1] != b"_" and not re.match(rb"\.[0-9]", after))


def _window(shadow: bytes, groups: list[_Group]) -> _Window:
    return _Window(
        groups[0].start,
        groups[-1].end,
        b"".join(shadow[each.start : each.end] for each in groups).decode(),
        tuple(each.end - each.start for each in groups),
        frozenset(each.gap for each in groups[1:]),
    )


def _with_sign(shadow: bytes, start: int, end: int) -> int:
    """A phone number begins with its plus and its bracket."""
    if start and shadow[start - 1] in b"(" and b")" in shadow[start:end]:
        start -= 1
    if start and shadow[start - 1] in b"+":
        start -= 1
    if start and shadow[start - 1] in b"(" and b")" in shadow[start:end]:
        start -= 1
    return start


def _kind(sight: Sight, window: _Window, *, has_plus: bool, is_run: bool) -> str | None:
    if not has_plus:
        if _is_card(sight, window, is_run=is_run):
            return CARD
        if _is_national_id(sight, window):
            return NATIONAL_ID
    return PHONE if _is_phone(sight, window, has_plus=has_plus) else None


# ------------------------------------------------------------------ cards


def _issuer(digits: str) -> int:
    """2 for a network whose numbers are of this length, 1 for one that is easily met by chance, 0 for none."""
    length, four = len(digits), int(digits[:4])
    if length == 16:
        if digits[0] == "4" or 5100 <= four <= 5599 or 2221 <= four <= 2720 or 3528 <= four <= 3589:
            return 2
        if four == 6011 or 6440 <= four <= 6599 or digits[:2] == "62":
            return 2
    if length == 15:
        return 2 if digits[:2] in {"34", "37"} else 0
    if length == 14:
        return 1 if digits[:2] in {"36", "38", "39"} or 3000 <= four <= 3059 else 0
    if length in {13, 19} and digits[0] == "4":
        return 1
    return (
        1
        if digits[:2] in {"50", "56", "57", "58"} or digits[0] == "6" or 2200 <= four <= 2204 or four == 9792
        else 0
    )


def _is_card(sight: Sight, window: _Window, *, is_run: bool) -> bool:
    if not 13 <= len(window.digits) <= 19 or not window.gaps <= {b" ", b"-"} or len(window.gaps) > 1:
        return False
    sizes = window.sizes
    is_grouped = sizes in {(4, 6, 5), (4, 6, 4)} or (
        len(sizes) > 3 and set(sizes[:-1]) == {4} and (sizes[-1] <= 4)
    )
    if len(sizes) > 1 and not is_grouped:
        return False
    issuer = _issuer(window.digits)
    if not issuer or not stdnum.luhn.is_valid(window.digits) or len(set(window.digits)) == 1:
        return False
    if sight.has(_CARD_WORDS, window.start):
        return True
    return not _is_other(sight, window.start) and (issuer == 2 or (is_grouped and is_run))


# ------------------------------------------------------------------ ids of digits


class _Numeric(NamedTuple):
    """An id of digits: how it is grouped, what checks it, which words are needed nearby when it is not grouped
    (or, `is_always`, in any case)."""

    sizes: frozenset[tuple[int, ...]]
    gaps: frozenset[bytes]
    check: Callable[[str], bool]
    words: re.Pattern[str]
    is_always: bool = False


def _groupings(*sizes: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
    return frozenset(sizes)


def _gaps(signs: bytes) -> frozenset[bytes]:
    return frozenset(bytes((sign,)) for sign in signs)


def _is_ssn(digits: str) -> bool:
    """Rules of the Social Security Administration: https://www.ssa.gov/employer/randomizationfaqs.html"""
    return (
        digits[:3] not in {"000", "666"} and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"
    )


_SSN_WORDS: Final = re.compile(r"\bssn|social security|\bsocial\b")


def _is_personnummer(digits: str) -> bool:
    return bool(stdnum.se.personnummer.is_valid(f"{digits[:-4]}-{digits[-4:]}"))


def _is_idnr(digits: str) -> bool:
    return bool(stdnum.de.idnr.is_valid(digits))


_NUMERIC: Final[Mapping[int, tuple[_Numeric, ...]]] = {
    9: (
        _Numeric(_groupings((3, 2, 4)), _gaps(b"-"), _is_ssn, _SSN_WORDS),
        _Numeric(_groupings((3, 2, 4)), _gaps(b" ."), _is_ssn, _SSN_WORDS, is_always=True),
        _Numeric(
            _groupings((4, 2, 3), (3, 3, 3)),
            _gaps(b" ."),
            stdnum.nl.bsn.is_valid,
            re.compile(r"\bbsn|burgerservice|sofi"),
            is_always=True,
        ),
        _Numeric(
            _groupings((3, 3, 3)),
            _gaps(b" -"),
            stdnum.ca.sin.is_valid,
            re.compile(r"\bsin\b|social insurance|assurance sociale"),
            is_always=True,
        ),
        _Numeric(
            _groupings((3, 3, 3)),
            _gaps(b" ."),
            stdnum.pt.nif.is_valid,
            re.compile(r"\bnif\b|contribuinte"),
            is_always=True,
        ),
    ),
    10: (
        _Numeric(
            _groupings((6, 4)), _gaps(b"-"), _is_personnummer, re.compile(r"personnummer|samordningsnummer")
        ),
    ),
    11: (
        _Numeric(
            _groupings((2, 3, 3, 3)), _gaps(b" "), _is_idnr, re.compile(r"steuer|\bidnr|tax id|\btin\b")
        ),
        _Numeric(_groupings(), frozenset(), stdnum.pl.pesel.is_valid, re.compile(r"pesel"), is_always=True),
        _Numeric(_groupings((3, 3, 3, 2)), _gaps(b".-"), stdnum.br.cpf.is_valid, re.compile(r"\bcpf")),
        _Numeric(
            _groupings((2, 2, 2, 3, 2)),
            _gaps(b".-"),
            stdnum.be.nn.is_valid,
            re.compile(r"national|rijksregister|registre national|\binsz|\bniss"),
        ),
        _Numeric(
            _groupings((6, 5)),
            _gaps(b" "),
            stdnum.no.fodselsnummer.is_valid,
            re.compile(r"f[øo]dselsnummer|personnummer|\bfnr"),
        ),
    ),
    12: (
        _Numeric(
            _groupings((4, 4, 4)),
            _gaps(b" -"),
            stdnum.in_.aadhaar.is_valid,
            re.compile(r"aadha?ar|uidai|आधार"),
        ),
        _Numeric(_groupings((8, 4)), _gaps(b"-"), _is_personnummer, re.compile(r"personnummer")),
    ),
    13: (
        _Numeric(
            _groupings((3, 4, 4, 2)),
            _gaps(b"."),
            stdnum.ch.ssn.is_valid,
            re.compile(r"\bahv|\bavs\b|sozialvers"),
        ),
        _Numeric(
            _groupings((6, 7)),
            _gaps(b"-"),
            stdnum.kr.rrn.is_valid,
            re.compile(r"resident registration|\brrn|주민"),
        ),
    ),
    15: (
        _Numeric(
            _groupings((1, 2, 2, 2, 3, 3, 2), (1, 2, 2, 2, 3, 3), (13, 2), (1, 2, 2, 2, 6, 2)),
            _gaps(b" -"),
            stdnum.fr.nir.is_valid,
            re.compile(r"s[ée]curit[ée] sociale|\bnir\b|\binsee|\bsecu\b|\bsécu\b"),
        ),
    ),
    18: (
        _Numeric(
            _groupings((6, 8, 4)),
            _gaps(b" -"),
            stdnum.cn.ric.is_valid,
            re.compile(r"身份证|resident identity"),
        ),
    ),
}
_STRONG: Final = frozenset((15, 18))
"""Lengths at which the checks alone tell enough, also without groups."""


def _is_national_id(sight: Sight, window: _Window) -> bool:
    for each in _NUMERIC.get(len(window.digits), ()):
        is_grouped = window.sizes in each.sizes and window.gaps <= each.gaps
        if not is_grouped and len(window.sizes) > 1:
            continue
        if not each.check(window.digits):
            continue
        if sight.has(each.words, window.start):
            return True
        is_plain = len(window.sizes) == 1
        if (
            not each.is_always
            and (not is_plain or len(window.digits) in _STRONG)
            and not _is_other(sight, window.start)
        ):
            return True
    return False


# ------------------------------------------------------------------ phones

_PHONE_GAPS: Final = re.compile(rb"[ .\-/]?|[ ]?[()][ ]?|\) ?|[ ]?\(0\)[ ]?")
_ZERO_REGIONS: Final = ("GB", "DE", "FR", "IT", "NL", "AT", "CH", "BE", "SE", "AU")


def _is_phone(sight: Sight, window: _Window, *, has_plus: bool) -> bool:
    digits = window.digits
    if not 7 <= len(digits) <= 15 or not all(_PHONE_GAPS.fullmatch(gap) for gap in window.gaps):
        return False
    if has_plus:
        before = _with_sign(sight.shadow, window.start, window.end)
        if before and sight.shadow[before - 1] in _ALNUM:
            return False
        return _is_international(sight, f"+{digits}", window)
    is_form = (
        (sight.has(_PHONE_WORDS, window.start) and len(digits) <= 13)
        or _is_national(sight, window)
        or any(_is_valid(sight, digits, region) for region in sight.regions)
        or (
            digits.startswith("00")
            and digits[2] != "0"
            and len(digits) > 9
            and _is_valid(sight, f"+{digits[2:]}")
        )
    )
    if not is_form or _DATE.search(sight.shadow[window.start : window.end]):
        return False
    return not _is_other(sight, window.start)


def _is_national(sight: Sight, window: _Window) -> bool:
    """Written in groups as no other number is."""
    digits, sizes, gaps = window.digits, window.sizes, window.gaps
    if sizes == (3, 3, 4) and digits[0] not in "01" and digits[3] not in "01":
        return bool(gaps & {b") ", b")", b")-"}) or (len(gaps) == 1 and _is_valid(sight, digits, "US"))
    if sizes == (2, 2, 2, 2, 2) and digits[0] == "0" != digits[1]:  # as France writes them
        return len(gaps) == 1 and _FRENCH_LEAD.search(sight.before(window.start)) is not None
    if len(sizes) == 1 or sizes[0] < 3 or not 10 <= len(digits) <= 12:
        return False
    if digits[0] != "0" or digits[1] == "0" or b"." in gaps:
        return False
    return any(_is_valid(sight, digits, region) for region in _ZERO_REGIONS)


_FRENCH_LEAD: Final = re.compile(r"(?:^|[\n,;:|(\"'>]|\b(?:au|le|du|ou|et|num[ée]ro|n°))\s*$")
_DATE: Final = re.compile(
    rb"\b(?:19|20)[0-9]{2}[-/.][01][0-9][-/.][0-3][0-9]|\b[0-3]?[0-9][./][01]?[0-9][./](?:19|20)[0-9]{2}\b"
)


def _is_international(sight: Sight, number: str, window: _Window) -> bool:
    if _is_valid(sight, number):
        return True
    if len(window.digits) < 8 or (len(window.sizes) < 3 and not sight.has(_PHONE_WORDS, window.start)):
        return False
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(number, None))
    except phonenumbers.NumberParseException:
        return False


def _is_valid(sight: Sight, number: str, region: str | None = None) -> bool:
    sight.parses += 1
    if sight.parses > MAX_PARSES:
        return True
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


# ------------------------------------------------------------------ all shapes

_NUMBERS: Final = frozenset((CARD, PHONE, NATIONAL_ID, IBAN))
"""Kinds that are looked for together, so that one is not taken for another."""
_WORD: Final = rb"A-Za-z0-9\xff"
_KEYS: Final = (
    rb"\b(?:th_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}"
    rb"|sk-[A-Za-z0-9_-]*[A-Za-z0-9]{16}[A-Za-z0-9_-]*"
    rb"|gh[pousr]_[A-Za-z0-9]{20}[A-Za-z0-9]*|github_pat_[A-Za-z0-9_]{20}[A-Za-z0-9_]*"
    rb"|glpat-[A-Za-z0-9_-]{16}[A-Za-z0-9_-]*|xox[abeoprs]-[A-Za-z0-9-]{10}[A-Za-z0-9-]*"
    rb"|(?:AKIA|ASIA)[A-Z0-9]{16}\b|AIza[0-9A-Za-z_-]{35}"
    rb"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10}[A-Za-z0-9]*|whsec_[A-Za-z0-9+/=]{16}[A-Za-z0-9+/=]*"
    rb"|SG\.[A-Za-z0-9_-]{16}[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{16}[A-Za-z0-9_-]*"
    rb"|npm_[A-Za-z0-9]{30}[A-Za-z0-9]*|pypi-AgE[A-Za-z0-9_-]{16}[A-Za-z0-9_-]*|hf_[A-Za-z0-9]{30}[A-Za-z0-9]*"
    rb"|dop_v1_[a-f0-9]{32}[a-f0-9]*|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|AGE-SECRET-KEY-1[A-Z0-9]{20}[A-Z0-9]*"
    rb"|[0-9]{8,10}:AA[A-Za-z0-9_-]{32}[A-Za-z0-9_-]*"
    rb"|eyJ[A-Za-z0-9_-]{8}[A-Za-z0-9_-]*\.eyJ[A-Za-z0-9_-]{4}[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*)"
)

SHAPES: Final = (
    Shape(
        "email",
        rb"[%b_][%b._%%+'~-]*@(?:[%b](?:[%b-]*[%b])?\.)+[A-Za-z\xff][A-Za-z\xff]+" % ((_WORD,) * 5),
        _email,
        frozenset((EMAIL,)),
    ),
    Shape("number", rb"[0-9](?:[ ().\-/]{0,3}[0-9]){6}(?:[ ().\-/]{0,3}[0-9])*", _number, _NUMBERS),
    Shape("iban", rb"(?i)[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]){11}(?:[ \-]?[A-Z0-9])*", _iban, _NUMBERS),
    Shape(
        "lettered",
        rb"(?i)\b(?:[0-9]{8}[ -]?[A-Z]|[XYZ][ -]?[0-9]{7}[ -]?[A-Z]"
        rb"|[A-Z]{6}[0-9L-V]{2}[A-Z][0-9L-V]{2}[A-Z][0-9L-V]{3}[A-Z]|[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]"
        rb"|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]|[LMNPRTVWXYZ][0-9C-Z]{8}[0-9]|[0-9]{17}X"
        rb"|[12] ?[0-9]{2} ?[0-9]{2} ?2[AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2})\b",
        _lettered,
        _NUMBERS,
    ),
    Shape("hetu", rb"(?i)\b[0-9]{6}[-+ABCDEFUVWXY][0-9]{3}[0-9A-FHJ-NPR-Y]\b", _hetu, _NUMBERS),
    Shape("ipv4", rb"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", _ipv4, frozenset((IP_ADDRESS, PHONE))),
    Shape(
        "ipv6",
        rb"(?i)(?:[0-9a-f]{1,4}:){2}(?::{0,2}[0-9a-f]{1,4})*(?:::)?(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?|[0-9a-f]{1,4}::[0-9a-f:]+",
        _ipv6,
        frozenset((IP_ADDRESS,)),
    ),
    Shape("key", _KEYS, _secret, frozenset((SECRET,))),
    Shape(
        "pem",
        rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)"
        rb"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)",
        _secret,
        frozenset((SECRET,)),
    ),
    Shape(
        "password in a URL",
        rb"[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]*:[^\s/\"'<>]+@",
        _inner(rb"[a-z][a-z0-9+.-]*://[^\s/:@]*:(?![$%{<*]|x+@|\.\.\.)([^\s/]+)@"),
        frozenset((SECRET,)),
    ),
    Shape(
        "bearer",
        rb"(?i)\bBearer[ ]+[A-Za-z0-9._~+/-]{20}[A-Za-z0-9._~+/=-]*",
        _inner(rb"bearer +(\S+)"),
        frozenset((SECRET,)),
    ),
    Shape(
        "AWS secret",
        rb"(?i)\baws_?secret(?:_?access)?_?key[\"']?[ ]*[:=][ ]*[\"']?[A-Za-z0-9/+]{40}",
        _inner(rb".*?[:=] *[\"']?([a-z0-9/+]{40})$"),
        frozenset((SECRET,)),
    ),
)
