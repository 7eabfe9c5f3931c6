"""Makes tests/data/torch_*: small files of the real torch.save, in each of its containers.

Run in ``tests`` with torch installed: ``python -m reference.make_torch_golden``. Every tensor
counts up from 0, so that the tests know what must be in them.
"""

from collections import OrderedDict
from pathlib import Path

import torch

DATA_FOLDER = Path(__file__).resolve().parent.parent / "data"


def counting(*shape: int) -> torch.Tensor:
    """0, 1, 2 ... in this shape, float32."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def main() -> None:
    """Write the files."""
    shared = counting(6, 4)
    with_attribute = torch.nn.Parameter(counting(2, 2))
    with_attribute.tag = "kept by torch, of no meaning to a weight"
    tensors = OrderedDict(
        single=shared,
        rows=shared[2:4],
        half=counting(3, 5).half(),
        bfloat=torch.nn.Parameter(counting(3, 5).bfloat16()),
        attribute=with_attribute,
        scalar=torch.tensor(2.0),
        empty=torch.zeros(0, 4),
        transposed=shared.T,
        integer=torch.arange(3),
        double=counting(3).double(),
        float8=counting(2, 2).to(torch.float8_e4m3fn),
    )
    layer = torch.nn.Linear(3, 2)
    layer.weight.data = counting(2, 3)
    layer.bias.data = counting(2)
    torch.save(tensors, DATA_FOLDER / "torch_zip.bin")
    torch.save(tensors, DATA_FOLDER / "torch_legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(
        {"step": 3, "model": layer.state_dict()},
        DATA_FOLDER / "torch_nested.pth",
        pickle_protocol=4,
    )


if __name__ == "__main__":
    main()
