"""A chat in a window: streaming, stopping, several models, conversations that stay.

    python examples/desktop/desktop_app.py

Models are those of ``edgellama list``, and files that are opened; a folder ``models`` beside a
frozen application is searched too. Needs tkinter (Debian: python3-tk) and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tkinter as tk
from pathlib import Path

from conversations import Conversations
from events import Replied
from platformdirs import user_config_path, user_data_path
from preferences import read_preferences
from window import Window

BEAT_MS = 5


class Heartbeat:
    """How long the window has let an event wait at most."""

    def __init__(self, root: tk.Tk) -> None:
        self.longest_wait_ms = 0.0
        self._root, self._last = root, time.perf_counter()
        self._beat()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest_wait_ms = max(self.longest_wait_ms, (now - self._last) * 1e3 - BEAT_MS)
        self._last = now
        self._root.after(BEAT_MS, self._beat)


def main() -> None:
    """Open the window, or run it by itself to see that it works."""
    parser = argparse.ArgumentParser(description="Chat with a model in a window.")
    parser.add_argument("--data", type=Path, help="folder for conversations and settings")
    parser.add_argument("--models", type=Path, help="folder with further GGUF files")
    parser.add_argument("--say", metavar="TEXT", help="send this, print what came as JSON, close")
    arguments = parser.parse_args()
    data = arguments.data or user_data_path("edgellama-desktop")
    settings = (arguments.data or user_config_path("edgellama-desktop")) / "settings.json"
    beside = Path(sys.executable).parent / "models" if getattr(sys, "frozen", False) else None
    try:
        root = tk.Tk()
    except tk.TclError as error:
        sys.exit(f"no window can be opened: {error}")
    window = Window(
        root,
        Conversations(data / "conversations.sqlite"),
        read_preferences(settings),
        settings,
        arguments.models or beside,
    )
    if arguments.say is not None:
        heartbeat = Heartbeat(root)
        run_by_itself(window, arguments.say, heartbeat)
    root.mainloop()


def run_by_itself(window: Window, text: str, heartbeat: Heartbeat) -> None:
    """Send a message once a model is there, and close when it has been answered."""

    def look(is_asked: bool = False) -> None:
        if window.replies:
            outcome = window.replies[0]
            report = {"longest_wait_ms": round(heartbeat.longest_wait_ms, 1)}
            print(json.dumps({**vars(outcome), **report}), flush=True)
            window.close()
            sys.exit(0 if isinstance(outcome, Replied) else 1)
        if not is_asked and window.is_ready:
            window.say(text)
            is_asked = True
        window.root.after(50, look, is_asked)

    look()


if __name__ == "__main__":
    main()
