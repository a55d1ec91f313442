"""Golden inputs as `golden.json` keeps them: ids as they are, features as 8-bit codes."""

import base64
import zlib

import numpy as np

from app.decoding.interface import Source
from app.store.manifest import GoldenFeatures

_LEVELS = 255


def pack(source: Source) -> list[int] | GoldenFeatures:
    """Ids [S] or features [F, M] for `golden.json`; features are rounded to 256 levels between their extremes."""
    if source.ndim == 1:
        return [int(token) for token in source]
    lowest, highest = float(source.min()), float(source.max())
    step = (highest - lowest) / _LEVELS or 1.0
    codes = np.rint((source - lowest) / step).astype(np.uint8)
    text = base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode()
    return GoldenFeatures(shape=(source.shape[0], source.shape[1]), lowest=lowest, step=step, codes=text)


def unpack(packed: list[int] | GoldenFeatures) -> Source:
    """What the model is given. Raises: ValueError if the codes are damaged."""
    if isinstance(packed, list):
        return np.array(packed, np.int64)
    try:
        raw = zlib.decompress(base64.b64decode(packed.codes, validate=True))
    except zlib.error as error:
        raise ValueError(f"its features cannot be unpacked ({error})") from error
    codes = np.frombuffer(raw, np.uint8).reshape(packed.shape)
    return (np.float32(packed.lowest) + np.float32(packed.step) * codes.astype(np.float32)).astype(np.float32)
