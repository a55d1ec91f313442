"""Detection for the service: the languages asked about now, however many ask at once."""

import asyncio

import pytest

from app.tasks.detect import Detector

pytest.importorskip("py3langid")

ENGLISH, GERMAN = "Where did you put my blue umbrella?", "Wo hast du meinen blauen Regenschirm hingestellt?"


def test_callers_at_once_with_other_languages_get_their_own_answers() -> None:
    async def ask() -> list[list[str]]:
        detector = Detector()
        calls = [detector.detect([ENGLISH, GERMAN], languages) for languages in (["en", "de"], ["de", "fr"]) * 3]
        return [[ranked[0].language for ranked in found] for found in await asyncio.gather(*calls)]

    found = asyncio.run(ask())
    assert found[::2] == [["en", "de"]] * 3
    assert all(second[1] == "de" for second in found[1::2])
