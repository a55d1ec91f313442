"""Language detection for the service: one thread reads texts at a time, the event loop never does."""

import asyncio
from collections.abc import Sequence

from app.text.detection import Detection, LanguageDetector

__all__ = ["Detection", "Detector"]


class Detector:
    """Tells in which of some languages texts are; the languages may change from call to call."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._detector = LanguageDetector(())
        self._languages: tuple[str, ...] = ()

    async def detect(self, texts: Sequence[str], languages: Sequence[str]) -> list[list[Detection]]:
        """For every text all `languages`, likeliest first; of confidence 0 and in the order given without letters."""
        async with self._lock:
            if self._languages != tuple(languages):
                self._languages = tuple(languages)
                self._detector = LanguageDetector(languages)
            detector = self._detector
            return await asyncio.to_thread(lambda: [detector.rank(text) for text in texts])
