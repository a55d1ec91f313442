"""Conformance: clients that others wrote for LibreTranslate work as they are."""

from urllib.error import HTTPError

import pytest
from deep_translator import LibreTranslator
from deep_translator.exceptions import AuthorizationException, ServerException
from libretranslatepy import LibreTranslateAPI

from tests.system.conftest import Server, StartServer

TEXT = "The cat sleeps on the warm stove."


def test_libretranslatepy_translates_detects_and_lists(server: Server) -> None:
    client = LibreTranslateAPI(f"{server.url}/")
    translated = client.translate(TEXT, "en", "de")
    assert isinstance(translated, str) and translated != TEXT
    assert client.translate(TEXT, "auto", "de") == translated
    assert [found["language"] for found in client.detect("Wo hast du meinen blauen Schirm?")] == ["de", "en"]
    assert {"code": "en", "name": "English", "targets": ["de"]} in client.languages()


def test_libretranslatepy_with_a_wrong_key_gets_403(start_server: StartServer) -> None:
    server = start_server(API_KEYS="right")
    assert LibreTranslateAPI(server.url, api_key="right").translate(TEXT, "en", "de")
    with pytest.raises(HTTPError) as caught:
        LibreTranslateAPI(server.url, api_key="wrong").translate(TEXT, "en", "de")
    assert caught.value.code == 403


def test_deep_translator_translates_one_and_many(server: Server) -> None:
    client = LibreTranslator(source="en", target="de", custom_url=f"{server.url}/", api_key="any")
    [one, *_] = many = client.translate_batch([TEXT, "Good morning."])
    assert one == client.translate(TEXT) and len(many) == 2 and one != TEXT


def test_deep_translator_tells_a_wrong_key_from_a_wrong_language(start_server: StartServer) -> None:
    server = start_server(API_KEYS="right")

    def translate(target: str, key: str) -> str:
        client = LibreTranslator(source="en", target=target, custom_url=f"{server.url}/", api_key=key)
        return str(client.translate(TEXT))

    assert translate("de", "right")
    with pytest.raises(AuthorizationException):
        translate("de", "wrong")
    with pytest.raises(ServerException):
        translate("fr", "right")
