"""API keys: who may use the routes that do work. As LibreTranslate: a wrong key is refused, no key only on request."""

import hashlib
import hmac
from collections.abc import Iterable

from fastapi import Request

from app.api.refusals import AccessError, MissingKeyError
from app.errors import AppError
from app.settings import ServiceSettings


class KeyRing:
    """The accepted keys, kept as digests."""

    def __init__(self, keys: Iterable[str], is_required: bool) -> None:
        self._digests = [_digest(key) for key in keys]
        self.is_required = is_required
        if is_required and not self._digests:
            raise AppError("require_api_key is on and there are no keys; set api_keys or api_keys_file")

    def __len__(self) -> int:
        return len(self._digests)

    def check(self, key: str | None) -> None:
        """Raises: AccessError for a key that is not accepted, MissingKeyError for none where one is required."""
        if not self._digests:
            return
        if not key:
            if self.is_required:
                raise MissingKeyError("Please contact the server operator to get an API key")
            return
        digest = _digest(key)
        # All are compared, so that the time tells nothing.
        if not sum(hmac.compare_digest(digest, own) for own in self._digests):
            raise AccessError("Invalid API key")


def read_keys(settings: ServiceSettings) -> KeyRing:
    """The keys of the settings and of the keys file."""
    keys = [key.get_secret_value() for key in settings.api_keys]
    if settings.api_keys_file is not None:
        try:
            lines = settings.api_keys_file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AppError(f"api_keys_file {settings.api_keys_file}: not readable ({type(error).__name__})") from None
        keys += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return KeyRing(keys, settings.require_api_key)


def bearer_key(request: Request) -> str | None:
    """The key of an `Authorization: Bearer` header."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
