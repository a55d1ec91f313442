"""What the documents say of settings and commands is what the code has."""

import re
from pathlib import Path

import pytest

from app.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_runbook_lists_every_setting_with_its_default() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `SEQ2SERVE_(\w+)` \| ([^|]*) \|", runbook, flags=re.MULTILINE))
    assert set(rows) == {name.upper() for name in ServiceSettings.model_fields}
    for name, field in ServiceSettings.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            shown = str(default).lower()
        elif default is None or default == ():
            shown = "none"
        else:
            shown = ",".join(default) if isinstance(default, tuple) else str(default)
        assert rows[name.upper()].strip("` ") == shown, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text("utf-8")):
        if "://" not in link:
            assert (document.parent / link).exists(), f"{document.name}: {link}"
