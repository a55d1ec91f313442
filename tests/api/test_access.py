"""API keys: a wrong one is refused, none only where one is required; health needs none."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.api.access import KeyRing, read_keys
from app.api.refusals import AccessError
from app.errors import AppError, InputError
from app.settings import ServiceSettings
from tests.api.conftest import OpenClient

Run = Callable[[Coroutine[Any, Any, None]], None]
ASKED = {"q": "Hello.", "source": "en", "target": "de"}


def test_without_keys_everybody_is_welcome() -> None:
    KeyRing([], is_required=False).check("anything")
    KeyRing([], is_required=False).check(None)


def test_a_wrong_key_is_refused_and_none_is_not() -> None:
    keys = KeyRing(["one", "zwei-ü"], is_required=False)
    for good in ("one", "zwei-ü", None, ""):
        keys.check(good)
    for wrong in ("One", "one ", "\ud800"):
        with pytest.raises(AccessError, match="Invalid API key"):
            keys.check(wrong)


def test_a_required_key_that_is_missing_is_asked_for() -> None:
    with pytest.raises(InputError, match="Please contact the server operator to get an API key"):
        KeyRing(["one"], is_required=True).check(None)


def test_requiring_keys_without_having_any_stops_the_start() -> None:
    with pytest.raises(AppError, match="there are no keys"):
        KeyRing([], is_required=True)


def test_keys_come_from_settings_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the shop\nfrom-file\n\n")
    keys = read_keys(ServiceSettings(api_keys="direct", api_keys_file=file))
    assert len(keys) == 2
    keys.check("from-file")
    with pytest.raises(AppError, match="not readable"):
        read_keys(ServiceSettings(api_keys_file=tmp_path / "missing"))


def test_routes_that_do_work_need_the_key_wherever_it_stands(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client(api_keys="right", require_api_key=True) as client:
            for route in ("/translate", "/detect"):
                statuses = [
                    (await client.post(route, json=ASKED)).status_code,
                    (await client.post(route, json={**ASKED, "api_key": "wrong"})).status_code,
                    (await client.post(route, json={**ASKED, "api_key": 5})).status_code,
                    (await client.post(route, json={**ASKED, "api_key": "right"})).status_code,
                    (await client.post(route, data={**ASKED, "api_key": "right"})).status_code,
                    (await client.post(route, params={**ASKED, "api_key": "right"})).status_code,
                    (await client.post(route, json=ASKED, headers={"authorization": "Bearer right"})).status_code,
                    (await client.post(route, json=ASKED, headers={"authorization": "Bearer wrong"})).status_code,
                ]
                assert statuses == [400, 403, 400, 200, 200, 200, 200, 403], route
            for route in ("/health", "/health/live", "/health/ready", "/metrics", "/languages", "/models"):
                assert (await client.get(route)).status_code == 200
            assert (await client.get("/frontend/settings")).json()["keyRequired"] is True

    run(test())
