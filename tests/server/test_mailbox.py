"""The mailbox between threads and the event loop: nothing is lost, and nothing overtakes."""

from __future__ import annotations

import asyncio
import threading

from edgellama.server.answers.mailbox import Mailbox

NUM_ITEMS = 3000


def test_items_keep_their_order_while_they_are_diverted() -> None:
    """Whoever takes them, a thread's items come in the order in which it posted them."""

    async def main() -> list[int]:
        mailbox: Mailbox[int] = Mailbox()
        found: list[int] = []

        def post_all() -> None:
            for number in range(NUM_ITEMS):
                mailbox.post(number)

        def taker(item: int) -> int | None:
            if item % 7 == 0:
                return item
            found.append(item)
            return None

        thread = threading.Thread(target=post_all)
        thread.start()
        while len(found) < NUM_ITEMS:
            found += await mailbox.take(5)
            mailbox.divert(taker)
        thread.join()
        return found

    assert asyncio.run(main()) == list(range(NUM_ITEMS))


def test_a_thread_that_posts_first_is_not_waited_for() -> None:
    """Items that came before anybody waited are there at once; silence ends with nothing."""

    async def main() -> tuple[list[str], list[str]]:
        mailbox: Mailbox[str] = Mailbox()
        thread = threading.Thread(target=mailbox.post, args=("early",))
        thread.start()
        thread.join()
        return await mailbox.take(), await mailbox.take(0.01)

    assert asyncio.run(main()) == (["early"], [])


def test_a_late_wake_is_no_silence() -> None:
    """Who took items before the loop was woken for them waits on for the next ones."""

    async def main() -> list[str]:
        mailbox: Mailbox[str] = Mailbox()
        mailbox.post("first")
        await mailbox.take()
        asyncio.get_running_loop().call_later(0.02, mailbox.post, "second")
        return await mailbox.take(30)

    assert asyncio.run(main()) == ["second"]
