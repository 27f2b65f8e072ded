"""docs/configuration.md and docs/dependencies.md against what the code reads and installs."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ["manage.py", *("gateway", "billing", "routing", "tenants")]
NOT_SETTINGS = {
    "DJANGO_SETTINGS_MODULE",  # says which settings, not what is in them
    "PYTEST_XDIST_WORKER",  # set by xdist, never by people
    "DATABASE_URL_FILE",  # the _FILE form of any setting is explained once, at the top
    "REDIS_URL_FILE",
}

ENVIRONMENT = {"env", "os.environ", "environ"}
READERS = {"os.getenv", "getenv", "_whole_number"}


def names_read(source: str) -> Iterator[str]:
    """Every environment variable that Python source reads by a literal name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=owner), args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(owner) in ENVIRONMENT or ast.unparse(node.func) in READERS:
                    yield name
            case ast.Call(func=ast.Name(id=function), args=[ast.Constant(value=str(name)), *_]):
                if function in READERS | ENVIRONMENT:
                    yield name
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(name)), ctx=ast.Load()):
                if ast.unparse(owner) in ENVIRONMENT:
                    yield name
            case _:
                pass


def settings_read() -> set[str]:
    files = [path for entry in CODE for path in (ROOT / entry).glob("**/*.py")]
    files += [ROOT / "manage.py", ROOT / "tests" / "conftest.py"]
    found = {name for path in files for name in names_read(path.read_text())}
    compose = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    return (found | set(compose)) - NOT_SETTINGS


def settings_documented() -> list[str]:
    text = (ROOT / "docs" / "configuration.md").read_text()
    return re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("env.str('A_B', 'x')", ["A_B"]),
        ("env('A')", ["A"]),
        ("os.environ['A']", ["A"]),
        ("os.environ['A'] = 'x'", []),
        ("os.environ.get('A')", ["A"]),
        ("os.getenv('A')", ["A"]),
        ("_whole_number('PORT', default=1)", ["PORT"]),
        ("headers.get('A')", []),
        ("env_like.get('A')", []),
    ],
)
def test_the_reader_of_the_code_sees_what_is_read(source: str, names: list[str]) -> None:
    assert list(names_read(source)) == names


def test_every_setting_is_documented() -> None:
    assert sorted(settings_read() - set(settings_documented())) == []


def test_every_documented_setting_exists() -> None:
    assert sorted(set(settings_documented()) - settings_read()) == []


def test_no_setting_is_documented_twice() -> None:
    documented = settings_documented()
    assert sorted(documented) == sorted(set(documented))


def test_every_dependency_has_a_line_and_every_line_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *extras]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}  # type: ignore[index]
    text = (ROOT / "docs" / "dependencies.md").read_text().split("## The console's assets")[0]
    assert sorted(re.findall(r"^\| ([a-z][\w-]*) \|", text, re.MULTILINE)) == sorted(names)
