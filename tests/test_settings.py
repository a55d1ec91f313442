"""Settings: a typo, a wrong value or a secret in the environment never passes in silence."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import AppError
from app.settings import ServiceSettings, read_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"SEQ2SERVE_{name.upper()}", raising=False)


def test_an_unknown_variable_stops_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2SERVE_QUEUE_LIMITS", "5")
    with pytest.raises(AppError, match="SEQ2SERVE_QUEUE_LIMITS: no such setting; did you mean SEQ2SERVE_QUEUE_LIMIT?"):
        read_settings()


def test_a_wrong_value_names_the_variable_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2SERVE_PORT", "hunter2")
    with pytest.raises(AppError, match="SEQ2SERVE_PORT") as caught:
        read_settings()
    assert "hunter2" not in str(caught.value)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2SERVE_API_KEYS", "one, two,")
    monkeypatch.setenv("SEQ2SERVE_CORS_ORIGINS", "https://a.example,https://b.example")
    settings = read_settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_keys_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2SERVE_API_KEYS", "canary-key")
    assert "canary-key" not in repr(read_settings())


def test_options_win_over_the_environment_and_none_means_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQ2SERVE_PORT", "9000")
    assert read_settings(port=9001, host=None).port == 9001
    assert read_settings(port=None, model_store=Path("elsewhere")) == ServiceSettings(
        port=9000, model_store=Path("elsewhere")
    )


def test_a_beam_that_can_never_run_is_refused() -> None:
    with pytest.raises(AppError, match="max_rows is 4, but a beam may take 8 rows"):
        read_settings(max_rows=4)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        read_settings().port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())
