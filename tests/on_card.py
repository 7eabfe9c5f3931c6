"""A plugin of pytest: every engine of the tests lies on a graphics card, if it may.

``pytest -p on_card tests/generation/test_session.py ...``: the driver is a double with naive
kernels. So one suite of tests holds for both places where keys and values may lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from doubles import naive_card
from doubles.fake_cuda import FakeCard, FakeCuda

from edgellama.cuda.driver import Driver
from edgellama.engine.card import device
from edgellama.engine.card.choice import AttentionChoice
from edgellama.engine.engine import Engine

ROOMY = FakeCard(free_bytes=1 << 40, total_bytes=1 << 40)


@pytest.fixture(autouse=True, scope="session")
def on_card() -> Iterator[None]:
    """Engines that could lie anywhere lie on the double's card."""
    patch = pytest.MonkeyPatch()
    initialize = Engine.__init__

    def on_card(self: Engine, *arguments: Any, **options: Any) -> None:
        if not options.get("exact") and not options.get("timer"):
            options["attention"] = AttentionChoice("cuda")
        initialize(self, *arguments, **options)

    fake = FakeCuda(ROOMY, run=naive_card.run)
    patch.setattr(Driver, "load", classmethod(lambda cls: cls(fake)))
    patch.setattr(device, "ptx_of", naive_card.stub_ptx)
    patch.setattr(Engine, "__init__", on_card)
    yield
    assert fake.violations == []
    assert fake.launches
    patch.undo()
