"""Makes tests/data/embedding_golden.npz: last hidden states of golden_gqa_tied's model.

Run in ``tests`` with torch and transformers installed:
``python -m reference.make_embedding_golden``. ``hidden`` (tokens, width) is ``last_hidden_state``
of all tokens of that file, ``short`` that of the first seven.
"""

import json
from typing import Any

import numpy as np
import torch

from reference.make_golden import DATA_FOLDER, arrays_of, build

NUM_SHORT = 7


def main() -> None:
    """Load the weights of the other file into the model, so that both tell of the same one."""
    golden: dict[str, Any] = dict(np.load(DATA_FOLDER / "golden_gqa_tied.npz"))
    shape = json.loads(str(golden["shape"]))
    torch.manual_seed(1)
    model = build(shape)
    for name, array in arrays_of(model, shape).items():
        np.testing.assert_array_equal(array, golden[name])
    tokens = torch.from_numpy(golden["tokens"].astype(np.int64))[None]
    with torch.no_grad():
        hidden = model.model(tokens).last_hidden_state[0].numpy()
        short = model.model(tokens[:, :NUM_SHORT]).last_hidden_state[0].numpy()
    np.savez_compressed(DATA_FOLDER / "embedding_golden.npz", hidden=hidden, short=short)


if __name__ == "__main__":
    main()
