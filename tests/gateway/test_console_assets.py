"""The console's built assets are what the manifest says; its templates keep the content security policy."""

import hashlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "templates" / "static" / "console"
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
PAGES = [path for path in TEMPLATES if path.parent.name != "emails"]  # mail readers know inline styles alone
MANIFEST = json.loads((ASSETS / "manifest.json").read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_built_file_is_the_one_in_the_manifest():
    built = {str(path.relative_to(ASSETS)): sha256(path) for path in ASSETS.rglob("*") if path.is_file()}
    del built["manifest.json"]
    assert built == MANIFEST["files"]


def test_the_assets_were_built_from_these_sources():
    source = ROOT / "frontend"
    found = {
        str(path.relative_to(source)): sha256(path) for path in (source / "src").rglob("*") if path.is_file()
    }
    assert found == MANIFEST["sources"]


def test_every_package_inside_is_the_locked_one_with_its_licence():
    lock = json.loads((ROOT / "frontend" / "package-lock.json").read_text())["packages"]
    notice = (ASSETS / "LICENSES.txt").read_text()
    for name, package in MANIFEST["packages"].items():
        assert lock[f"node_modules/{name}"]["version"] == package["version"]
        assert f"{name} {package['version']} ({package['licence']})" in notice


def test_every_icon_that_a_page_names_is_in_the_sprite():
    sprite = set(re.findall(r'<symbol id="([a-z0-9-]+)"', (ASSETS / "icons.svg").read_text()))
    sources = [*TEMPLATES, *(ROOT / "frontend" / "src").glob("*.js"), ROOT / "gateway" / "navigation.py"]
    named = {
        name
        for path in sources
        for name in re.findall(r'(?:\{% icon |icon=|icon_name=|icon\()"([a-z0-9-]+)"', path.read_text())
    }
    assert named == sprite


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT / "templates")))
def test_a_template_holds_no_inline_style_script_or_handler(path):
    inline = r"\sstyle=|<style|\son[a-z]+=|javascript:|hx-on"
    script = r'<script(?![^>]*(?:\ssrc=|type="application/json"))'  # data is no script
    assert re.findall(f"{inline}|{script}", path.read_text()) == []
