import numpy as np
import torch

from worker.inspect.engines.densenet_graph import _to_bf16


def test_numbers_are_rounded_to_bf16_as_torch_rounds_them():
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 1, 10_000) * 10.0 ** rng.integers(-6, 6, 10_000)).astype(np.float32)
    halfway = np.float32(1) + np.arange(-8, 9, dtype=np.float32) / 256
    values = np.concatenate([values, halfway, -halfway, np.zeros(1, np.float32)])
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(_to_bf16(values), expected)
