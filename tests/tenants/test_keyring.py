import base64

import pytest
from django.core.exceptions import ImproperlyConfigured

from tenants.keyring import keyring

KEY = base64.b64encode(bytes(range(32))).decode()


def test_keeps_the_order_given():
    ring = keyring([f"new:{KEY}", f"old:{KEY}"], setting="S")
    assert list(ring.items()) == [("new", bytes(range(32))), ("old", bytes(range(32)))]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [""],
        [KEY],
        [f":{KEY}"],
        ["a:not base64"],
        ["a:" + base64.b64encode(bytes(31)).decode()],
        [f"a:{KEY}", f"a:{KEY}"],
        [f"{'x' * 17}:{KEY}"],
    ],
)
def test_refuses_a_bad_ring_without_showing_a_key(entries):
    with pytest.raises(ImproperlyConfigured, match=r"^S") as caught:
        keyring(entries, setting="S")
    assert KEY not in str(caught.value)
