"""What lies between two layers comes back from the disk as it was, whatever its type."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from bnfold.recalibration.store import Budget, Store


def test_tensors_survive_the_disk():
    given = {
        "float": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((2, 1), dtype=np.float16),
        "brain": np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
        "number": np.array(3, dtype=np.int64),
        "truth": np.array([True, False]),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "nothing": np.zeros((0, 4), dtype=np.float64),
        "words": np.array([["a", "väter"]], dtype=object),
    }
    store = Store(Budget(limit=0))
    store.put(given)
    store.put({"float": np.zeros(1, dtype=np.float32)})
    first, second = store.drained()
    assert list(first) == list(given)
    for name, value in given.items():
        assert first[name].dtype == value.dtype
        assert first[name].shape == value.shape
        assert first[name].tolist() == value.tolist()
    assert second["float"].tolist() == [0]
