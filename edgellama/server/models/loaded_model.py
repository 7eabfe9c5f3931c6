"""A loaded model: how many requests use it, and how long it stays when none does.

``model_shelf`` loads and closes it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgellama.server.models.catalogue import ServedModel

if TYPE_CHECKING:
    from edgellama.llama import Llama


@dataclass
class LoadedModel:
    """A model on the shelf: its uses now, and when it goes if there are none.

    ``is_outdated``: its name means another file now, so that it goes after its uses.
    """

    model: ServedModel
    llama: Llama
    num_bytes: int
    keep_alive_s: float
    num_uses: int = 0
    last_use: float = 0.0
    timer: asyncio.TimerHandle | None = None
    is_outdated: bool = False

    def begin_use(self) -> None:
        """Count one use more, during which the model is not closed."""
        self.num_uses += 1
        self.stop_timer()

    def keep_alive(self, seconds: float) -> None:
        """Let it stay so long when nobody uses it, unless it is outdated."""
        if not self.is_outdated:
            self.keep_alive_s = seconds

    def outdate(self) -> None:
        """Let it go once nobody uses it, whatever else is asked for."""
        self.keep_alive_s = 0.0
        self.is_outdated = True

    def stop_timer(self) -> None:
        """Let it stay, however long nobody uses it."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def seconds_left(self) -> float:
        """How long it stays if nobody uses it."""
        return max(0.0, self.last_use + self.keep_alive_s - time.time())

    def described(self) -> dict[str, Any]:
        """The description of the model for programs and for the page."""
        card = self.llama.card_use
        return {
            "name": self.model.name,
            "predicted_bytes": self.num_bytes,
            "file_bytes": self.model.num_bytes,
            "prompt_cache_bytes": self.llama.cached_bytes,
            "context_length": self.llama.context_length,
            "graphics_card": None if card is None else asdict(card),
            "num_uses": self.num_uses,
        }
