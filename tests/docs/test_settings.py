"""The page of settings tells of all of them, with their defaults."""

from __future__ import annotations

import re
import tomllib

import msgspec

from pgqueue import Settings
from tests.docs.snippets import ROOT

PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
SETTING = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| ?(.*?) ?\|", re.MULTILINE)


def shown(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def test_every_setting_is_told_of_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, defaults in SETTING.findall(PAGE):
        told |= dict(zip(re.findall(r"\w+", names), defaults.split(", "), strict=True))
    assert told == {field.name: shown(field.default) for field in msgspec.structs.fields(Settings)}


def test_the_file_that_is_shown_is_valid() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert msgspec.convert(tomllib.loads(text), Settings).lease_s == 60
