"""The environment `make up` gives its parts: secrets generated once into the data folder, the services' URLs.

Only `up` and the tests write here; a production process gets its environment from its operator and must never
meet a generated secret. Values already set in the environment always win. No Django: it runs before settings.
"""

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

_SECRETS_FILE = "secrets.env"
_SERVICES_FILE = "services.env"


def data_folder() -> Path:
    """TOLLHOUSE_DATA as an absolute path, `.tollhouse` beside manage.py when unset."""
    configured = os.environ.get("TOLLHOUSE_DATA")
    root = Path(configured).expanduser() if configured else Path(__file__).parents[1] / ".tollhouse"
    return root.absolute()


def new_secrets() -> dict[str, str]:
    """Fresh values for every secret the settings ask for; keys are 256 random bits under the id k1."""
    return {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "TOLLHOUSE_MASTER_KEYS": _new_key(),
        "TOLLHOUSE_KEY_PEPPERS": _new_key(),
    }


def _new_key() -> str:
    return f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def keep_secrets(root: Path) -> dict[str, str]:
    """The data folder's secrets, generated on the first call; a missing one is added, none changes.

    Losing this file loses every stored provider credential and API key: it belongs in the backup.
    """
    path = root / _SECRETS_FILE
    kept = _read(path)
    missing = {name: value for name, value in new_secrets().items() if name not in kept}
    if missing:
        kept |= missing
        _write(
            path,
            kept,
            note="Generated once by `up`; encrypts credentials and keys. Back it up, never share it.",
        )
    return kept


def publish_services(root: Path, urls: Mapping[str, str]) -> None:
    """Leave the URLs of the running services for `manage.py` in another terminal."""
    _write(root / _SERVICES_FILE, urls, note="Written by each `up`.")


def withdraw_services(root: Path) -> None:
    """The services of this data folder have stopped."""
    (root / _SERVICES_FILE).unlink(missing_ok=True)


def adopt(root: Path) -> None:
    """Take over what an `up` on this data folder left, where the environment does not say otherwise."""
    for name in (_SECRETS_FILE, _SERVICES_FILE):
        for key, value in _read(root / name).items():
            os.environ.setdefault(key, value)


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def _write(path: Path, values: Mapping[str, str], *, note: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"# {note}\n")
        file.writelines(f"{key}={value}\n" for key, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
