from tenants.pseudonyms import is_pseudonym, pseudonym

KEY, OTHER = bytes(32), bytes(31) + b"\x01"


def test_a_name_has_one_pseudonym_per_key():
    ann = pseudonym(KEY, "ann@example.com")
    assert ann == pseudonym(KEY, "ann@example.com")
    assert len({ann, pseudonym(KEY, "bob@example.com"), pseudonym(OTHER, "ann@example.com")}) == 3


def test_a_pseudonym_is_short_plain_and_known_by_its_form():
    ann = pseudonym(KEY, "ann@example.com")
    assert (len(ann), ann[:2], ann.isalnum() or ann[1] == "_") == (34, "u_", True)
    assert is_pseudonym(ann)
    assert not any(map(is_pseudonym, ("", "u_", "ann", ann.upper(), ann + "a", ann[:-1])))


def test_nobody_stays_nobody():
    assert pseudonym(KEY, "") == ""


def test_a_name_of_any_characters_has_a_pseudonym():
    assert is_pseudonym(pseudonym(KEY, "Zoë 🐢 \ud800"))
