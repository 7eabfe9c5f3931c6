"""The machine's graphics cards: what the driver tells of each, and which of them can be used.

Looking at a card allocates nothing on it. How much of its memory is free is therefore not known
here: only an open ``context`` can tell.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from edgellama.cuda.driver import NO_CARD, SUCCESS, Driver
from edgellama.quant.errors import CudaError, InvalidOptionError

MIN_CAPABILITY = (7, 5)
"""Turing: the first whose tensor cores take what kernels give them."""
NAME_BYTES, UUID_BYTES = 256, 16
MULTIPROCESSORS, TIME_LIMIT, INTEGRATED, MAPS_HOST_MEMORY, COMPUTE_MODE = 16, 17, 18, 19, 20
MEMORY_CLOCK_KHZ, MEMORY_BUS_BITS = 36, 37
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Attributes of a device, by the driver's numbers."""
PROHIBITED = 2
"""The compute mode in which nobody may use a card."""


@dataclass(frozen=True)
class Card:
    """One graphics card.

    ``index`` counts as the driver does, within CUDA_VISIBLE_DEVICES. ``has_time_limit``: the
    system ends kernels that run for seconds, as it does where a card drives a display. An
    ``is_integrated`` one has no memory of its own, but the computer's. ``bytes_per_second`` is 0
    where the driver does not tell; of a part of a card (MIG) it is the whole card's.
    """

    index: int
    name: str
    uuid: str
    capability: tuple[int, int]
    total_bytes: int
    num_multiprocessors: int
    bytes_per_second: float
    has_time_limit: bool
    is_integrated: bool
    maps_host_memory: bool
    is_prohibited: bool

    @property
    def architecture(self) -> int:
        """The compute capability as one number, such as 86."""
        major, minor = self.capability
        return 10 * major + minor

    @property
    def obstacle(self) -> str | None:
        """Why edgellama cannot use this card, in a few words; None if it can."""
        if self.capability < MIN_CAPABILITY:
            needed = ".".join(map(str, MIN_CAPABILITY))
            found = ".".join(map(str, self.capability))
            return f"compute capability {found}; needed: {needed} or later"
        if self.is_prohibited:
            return "its compute mode prohibits use"
        if not self.maps_host_memory:
            return "it cannot read the computer's memory"
        return None


def list_cards(driver: Driver) -> tuple[Card, ...]:
    """All cards that the driver shows, usable or not."""
    count = ctypes.c_int()
    driver.call("cuDeviceGetCount", count)
    return tuple(_read_card(driver, index) for index in range(count.value))


def choose_card(driver: Driver, index: int | None = None) -> Card:
    """The card ``index``, or the first that can be used.

    Raises InvalidOptionError for an index that no card has, CudaError if none can be used.
    """
    cards = list_cards(driver)
    if not cards:
        raise CudaError(NO_CARD)
    if index is not None:
        if not 0 <= index < len(cards):
            raise InvalidOptionError(f"gpu {index}; there are: {_listed(cards)}")
        if cards[index].obstacle:
            raise CudaError(f"{_title(cards[index])}: {cards[index].obstacle}")
        return cards[index]
    usable = [card for card in cards if card.obstacle is None]
    if not usable:
        reasons = "; ".join(f"{_title(card)}: {card.obstacle}" for card in cards)
        raise CudaError(f"no card can be used: {reasons}")
    return usable[0]


def device_handle(driver: Driver, index: int) -> int:
    """What the driver calls a card."""
    device = ctypes.c_int()
    driver.call("cuDeviceGet", device, index)
    return device.value


def _read_card(driver: Driver, index: int) -> Card:
    device = device_handle(driver, index)
    name = ctypes.create_string_buffer(NAME_BYTES)
    driver.call("cuDeviceGetName", name, NAME_BYTES, device)
    uuid = ctypes.create_string_buffer(UUID_BYTES)
    driver.call("cuDeviceGetUuid", uuid, device)
    total = ctypes.c_size_t()
    driver.call("cuDeviceTotalMem", total, device)

    def attribute(number: int, *, is_needed: bool = True) -> int:
        value = ctypes.c_int()
        code = driver.result("cuDeviceGetAttribute", value, number, device)
        if code != SUCCESS and is_needed:
            raise driver.error(code, "cuDeviceGetAttribute")
        return value.value if code == SUCCESS else 0

    # Memory of two transfers a clock; newer drivers may tell the clock no more.
    clock, bits = (attribute(n, is_needed=False) for n in (MEMORY_CLOCK_KHZ, MEMORY_BUS_BITS))
    bytes_per_second = 2 * 1000.0 * clock * bits / 8
    return Card(
        index=index,
        name=name.value.decode("utf-8", "replace"),
        uuid=uuid.raw.hex(),
        capability=(attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR)),
        total_bytes=total.value,
        num_multiprocessors=attribute(MULTIPROCESSORS),
        bytes_per_second=bytes_per_second,
        has_time_limit=bool(attribute(TIME_LIMIT)),
        is_integrated=bool(attribute(INTEGRATED)),
        maps_host_memory=bool(attribute(MAPS_HOST_MEMORY)),
        is_prohibited=attribute(COMPUTE_MODE) == PROHIBITED,
    )


def _title(card: Card) -> str:
    return f"card {card.index} ({card.name})"


def _listed(cards: Sequence[Card]) -> str:
    return ", ".join(f"{card.index} ({card.name})" for card in cards)
