"""Instances that satisfy their schema, or an honest refusal."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.sandbox_schema import Unsatisfiable, instance_of

TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "next"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({}, {}),
        (True, {}),
        ({"type": "null"}, None),
        ({"type": "boolean"}, False),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 4, "multipleOf": 5}, 5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "string"}, "sandbox"),
        ({"type": "string", "maxLength": 2}, "ss"),
        ({"type": "string", "minLength": 9}, "sandboxxx"),
        ({"type": "string", "pattern": "^[0-9]{3}$"}, "000"),
        ({"type": "string", "format": "date"}, "2025-01-01"),
        ({"type": ["string", "null"]}, None),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"type": "integer", "enum": ["1", True, 1, 5], "minimum": 2}, 5),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"type": "array", "prefixItems": [{"const": 1}], "minItems": 2, "items": {"const": 2}}, [1, 2]),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"required": ["a"]}]}, {"a": 1}),
        ({"$defs": {"x": {"type": "integer"}}, "$ref": "#/$defs/x"}, 0),
        ({"oneOf": [{"type": "string", "pattern": "^qqqqq$"}, {"type": "integer"}]}, 0),
        (TREE, {"name": "sandbox", "next": None}),
    ],
)
def test_builds_a_small_valid_instance(schema, instance):
    assert instance_of(schema) == instance
    jsonschema.validate(instance, schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        "string",
        {"enum": []},
        {"type": "string", "const": 7},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "wish"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "string", "pattern": "^zebra$"},
        {"type": "string", "pattern": "("},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"type": "integer"}},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"type": "object", "properties": [], "required": ["a"]},
        {"type": "object", "required": 7},
        {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
    ],
)
def test_refuses_what_it_cannot_satisfy(schema):
    with pytest.raises(Unsatisfiable):
        instance_of(schema)


KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"]),
        "minimum": st.integers(-9, 9),
        "maximum": st.integers(-9, 9),
        "multipleOf": st.integers(1, 4),
        "minLength": st.integers(0, 12),
        "maxLength": st.integers(0, 12),
        "minItems": st.integers(0, 3),
        "enum": st.lists(st.integers(0, 3), min_size=1, max_size=2),
    },
)
SCHEMAS = st.recursive(
    KEYWORDS,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner)},
            optional={"required": st.lists(st.sampled_from("abc"), unique=True)},
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 2)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)})
    ),
    max_leaves=6,
)


@given(SCHEMAS)
def test_every_instance_satisfies_its_schema(schema):
    try:
        instance = instance_of(schema)
    except Unsatisfiable:
        return
    jsonschema.validate(instance, schema)
