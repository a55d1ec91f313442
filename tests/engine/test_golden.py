"""Golden inputs survive `golden.json`."""

import numpy as np
import pytest

from app.engine.golden import pack, unpack
from app.store.manifest import GoldenFeatures


def test_ids_stay_as_they_are() -> None:
    assert pack(np.array([4, 9, 3])) == [4, 9, 3]
    assert unpack([4, 9, 3]).tolist() == [4, 9, 3] and unpack([4]).dtype == np.int64


def test_features_keep_256_levels_and_then_do_not_change_any_more() -> None:
    source = np.random.default_rng(0).normal(0, 0.5, (30, 7)).astype(np.float32)
    packed = pack(source)
    assert isinstance(packed, GoldenFeatures)
    once = unpack(GoldenFeatures.model_validate_json(packed.model_dump_json()))
    assert once.shape == (30, 7) and once.dtype == np.float32
    assert np.abs(once - source).max() <= 0.51 * np.ptp(source) / 255
    np.testing.assert_array_equal(unpack(packed), once)


def test_a_constant_source_and_damaged_codes() -> None:
    constant = np.full((3, 2), 1.5, np.float32)
    packed = pack(constant)
    np.testing.assert_array_equal(unpack(packed), constant)
    assert isinstance(packed, GoldenFeatures)
    for codes in ("!", "AAAA", packed.codes[:-4]):
        with pytest.raises(ValueError, match=r"."):
            unpack(packed.model_copy(update={"codes": codes}))
