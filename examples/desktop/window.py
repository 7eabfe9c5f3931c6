"""The window: conversations on the left, the chosen one on the right, the model above.

It only draws and asks; whatever takes time is done by the talker, whose events it takes a few at a
time, so that it answers the user within a few milliseconds.
"""

from __future__ import annotations

import queue
import time
import tkinter as tk
from dataclasses import replace
from pathlib import Path
from tkinter import filedialog, ttk

from appearance import paint, paint_text
from conversations import Conversations
from events import (
    Ask,
    Busy,
    Event,
    Failed,
    FindModels,
    Loaded,
    LoadModel,
    Message,
    ModelChoice,
    ModelsFound,
    Piece,
    Replied,
)
from preferences import Preferences, write_preferences
from settings_dialog import SettingsDialog
from talker import Talker

POLL_MS = 20
POLL_BUDGET_S = 0.008
"""How long events may keep the window busy at a time."""
SHOWN_AT_ONCE = 4000
"""Characters of an old conversation that are drawn at a time."""
REASONS = {
    "stop": "Done.",
    "length": "As long as the settings allow.",
    "context": "The context is full: start a new conversation, or choose a longer one.",
    "cancelled": "Stopped.",
}
"""What is said of the reasons that a reply ends for."""
NAMES = {"user": "You", "assistant": "Model"}


class Window:
    """Everything that the user sees."""

    def __init__(
        self,
        root: tk.Tk,
        conversations: Conversations,
        preferences: Preferences,
        preferences_path: Path,
        models_folder: Path | None = None,
    ) -> None:
        self.root = root
        self.replies: list[Replied | Failed] = []
        self._conversations = conversations
        self._preferences, self._preferences_path = preferences, preferences_path
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._talker = Talker(self._events.put, models_folder)
        self._choices: list[ModelChoice] = []
        self._number: int | None = None
        self._messages: list[Message] = []
        self._reply: list[str] | None = None
        self._loaded: Path | None = None
        root.title("edgellama")
        root.geometry("980x680")
        root.minsize(640, 420)
        self._build()
        self._paint()
        self._list_conversations()
        self._talker.ask(FindModels(preferences.context_length))
        root.protocol("WM_DELETE_WINDOW", self.close)
        root.after(POLL_MS, self._poll)

    def say(self, text: str) -> None:
        """Send a message as if the user had typed it."""
        self._input.delete("1.0", "end")
        self._input.insert("1.0", text)
        self._send()

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded and nothing runs."""
        return self._loaded is not None and self._reply is None

    def close(self) -> None:
        """Keep what was said, end the talker, close the window."""
        if self._reply is not None:
            self._talker.stop()
            self._keep_reply("".join(self._reply))
        self._talker.close()
        self._conversations.close()
        self.root.destroy()

    def _build(self) -> None:
        self._build_side()
        main = ttk.Frame(self.root, padding=(0, 10, 10, 10))
        main.pack(side="left", fill="both", expand=True)
        top = ttk.Frame(main)
        top.pack(fill="x", pady=(0, 8))
        self._model = ttk.Combobox(top, state="readonly")
        self._model.pack(side="left", fill="x", expand=True)
        self._model.bind("<<ComboboxSelected>>", lambda _: self._choose_model())
        ttk.Button(top, text="Open file…", command=self._open_file).pack(side="left", padx=6)
        ttk.Button(top, text="Settings", command=self._open_settings).pack(side="left")
        bottom = ttk.Frame(main)
        bottom.pack(side="bottom", fill="x", pady=(8, 0))
        status = ttk.Frame(main)
        status.pack(side="bottom", fill="x", pady=(6, 0))
        self._status = ttk.Label(status, style="Quiet.TLabel")
        self._status.pack(side="left")
        self._progress = ttk.Progressbar(status, length=160)
        self._button = ttk.Button(
            bottom, text="Send", width=6, style="Accent.TButton", command=self._press
        )
        self._button.pack(side="right", padx=(8, 0), fill="y")
        self._input = tk.Text(
            bottom, height=3, wrap="word", padx=8, pady=6, undo=True, font="TkDefaultFont"
        )
        self._input.pack(side="left", fill="x", expand=True)
        self._input.bind("<Return>", self._on_return)
        scroll = ttk.Scrollbar(main)
        scroll.pack(side="right", fill="y")
        self._transcript = tk.Text(
            main, wrap="word", state="disabled", padx=14, pady=10, spacing3=4, cursor="arrow",
            font="TkDefaultFont",
        )  # fmt: skip
        self._transcript.pack(fill="both", expand=True)
        self._transcript.configure(yscrollcommand=scroll.set)
        scroll.configure(command=self._transcript.yview)
        self.root.bind("<Escape>", lambda _: self._talker.stop())
        self.root.bind("<Control-n>", lambda _: self._start_new())
        self._input.focus_set()

    def _build_side(self) -> None:
        side = ttk.Frame(self.root, padding=10, width=260)
        side.pack(side="left", fill="y")
        side.pack_propagate(False)
        self._search = ttk.Entry(side)
        ttk.Label(side, text="Search", style="Quiet.TLabel").pack(anchor="w")
        self._search.pack(fill="x", pady=(0, 8))
        self._search.bind("<KeyRelease>", lambda _: self._list_conversations())
        self.root.bind("<Control-f>", lambda _: self._search.focus_set())
        buttons = ttk.Frame(side)
        buttons.pack(side="bottom", fill="x", pady=(8, 0))
        ttk.Button(buttons, text="New", command=self._start_new).pack(side="left")
        ttk.Button(buttons, text="Delete", command=self._delete).pack(side="right")
        self._list = ttk.Treeview(side, show="tree", selectmode="browse")
        self._list.pack(fill="both", expand=True)
        self._list.bind("<<TreeviewSelect>>", lambda _: self._open_selected())

    def _paint(self) -> None:
        colours = paint(self.root, self._preferences.theme)
        for widget in (self._transcript, self._input):
            paint_text(widget, colours)

    # What the talker tells

    def _poll(self) -> None:
        until = time.perf_counter() + POLL_BUDGET_S
        pieces: list[str] = []
        while time.perf_counter() < until:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
            if isinstance(event, Piece):
                pieces.append(event.text)
                continue
            self._show_pieces(pieces)
            self._take(event)
        self._show_pieces(pieces)
        self.root.after(POLL_MS, self._poll)

    def _show_pieces(self, pieces: list[str]) -> None:
        if pieces and self._reply is not None:
            if not self._reply:
                self._show_status("Writing. Esc stops.")
            self._reply += pieces
            self._write("".join(pieces))
        pieces.clear()

    def _take(self, event: Event) -> None:
        if isinstance(event, ModelsFound):
            self._show_models(event.choices)
        elif isinstance(event, Busy):
            self._show_status(event.what + " …", event.done, event.total)
        elif isinstance(event, Loaded):
            self._loaded = event.path
            self._show_status("Ready.")
        elif isinstance(event, Replied):
            if self._reply is not None:
                self._keep_reply(event.text)
            words = REASONS.get(event.reason, event.reason)
            self._end_reply(f"{words} {event.tokens_per_second:.0f} tokens/s.")
            self.replies.append(event)
        elif isinstance(event, Failed):
            self._end_reply(event.error)
            self.replies.append(event)

    def _show_models(self, choices: tuple[ModelChoice, ...]) -> None:
        self._choices = list(choices)
        self._model["values"] = [choice.label for choice in choices]
        if not choices:
            self._show_status("No model yet. In a terminal: edgellama pull smollm2")
            return
        names = [str(choice.path) for choice in choices]
        wanted = self._preferences.model
        self._model.current(names.index(wanted) if wanted in names else 0)
        if self._loaded is None:
            self._choose_model()

    # What the user does

    def _choose_model(self) -> None:
        path = self._choices[self._model.current()].path
        self._loaded = None
        self._change(model=str(path))
        self._talker.ask(LoadModel(path, self._preferences.context_length))

    def _open_file(self) -> None:
        name = filedialog.askopenfilename(filetypes=[("Models", "*.gguf"), ("All files", "*")])
        if name:
            path = Path(name)
            self._choices.append(ModelChoice(path.stem, path, path.stat().st_size))
            self._model["values"] = [choice.label for choice in self._choices]
            self._model.current(len(self._choices) - 1)
            self._choose_model()

    def _open_settings(self) -> None:
        SettingsDialog(self.root, self._preferences, self._use_settings)

    def _use_settings(self, preferences: Preferences) -> None:
        is_longer = preferences.context_length != self._preferences.context_length
        self._preferences = preferences
        write_preferences(self._preferences_path, preferences)
        self._paint()
        if is_longer:
            self._loaded = None
            self._talker.ask(FindModels(preferences.context_length))

    def _change(self, *, model: str) -> None:
        self._preferences = replace(self._preferences, model=model)
        write_preferences(self._preferences_path, self._preferences)

    def _on_return(self, event: tk.Event[tk.Text]) -> str | None:
        is_shift = int(event.state) & 1
        if is_shift:
            return None
        self._send()
        return "break"

    def _press(self) -> None:
        if self._reply is None:
            self._send()
        else:
            self._talker.stop()

    def _send(self) -> None:
        text = self._input.get("1.0", "end").strip()
        if not text or self._reply is not None:
            return
        self._input.delete("1.0", "end")
        if not self._messages and self._preferences.system:
            self._messages.append({"role": "system", "content": self._preferences.system})
        self._messages.append({"role": "user", "content": text})
        self._show_message(self._messages[-1])
        self._write("Model\n", "speaker")
        self._reply = []
        self._button.configure(text="Stop")
        preferences = self._preferences
        self._talker.ask(
            Ask(tuple(self._messages), preferences.temperature, preferences.max_tokens)
        )

    def _keep_reply(self, text: str) -> None:
        if text:
            self._messages.append({"role": "assistant", "content": text})
        self._number = self._conversations.save(self._number, self._messages)

    def _end_reply(self, note: str) -> None:
        if self._reply is not None:
            self._write("\n\n")
            self._reply = None
            self._button.configure(text="Send")
            self._list_conversations()
        self._show_status(note)

    # Conversations

    def _list_conversations(self) -> None:
        self._list.delete(*self._list.get_children())
        for entry in self._conversations.find(self._search.get()):
            self._list.insert("", "end", iid=str(entry.number), text=entry.title)
        if self._number is not None and self._list.exists(str(self._number)):
            self._list.selection_set(str(self._number))

    def _open_selected(self) -> None:
        selected = self._list.selection()
        if not selected or self._reply is not None or int(selected[0]) == self._number:
            return
        self._number = int(selected[0])
        self._messages = self._conversations.messages(self._number)
        self._clear()
        self._show_slowly(list(self._messages), self._number)

    def _show_slowly(self, messages: list[Message], number: int) -> None:
        """Draw a conversation in parts, between which the window answers."""
        drawn = 0
        while messages and drawn < SHOWN_AT_ONCE and number == self._number:
            drawn += len(messages[0]["content"])
            self._show_message(messages.pop(0))
        if messages and number == self._number:
            self.root.after(1, self._show_slowly, messages, number)

    def _start_new(self) -> None:
        if self._reply is None:
            self._number, self._messages = None, []
            self._list.selection_set(())
            self._clear()
            self._input.focus_set()

    def _delete(self) -> None:
        if self._number is not None and self._reply is None:
            self._conversations.delete(self._number)
            self._start_new()
            self._list_conversations()

    # Drawing

    def _show_message(self, message: Message) -> None:
        if message["role"] in NAMES:
            self._write(NAMES[message["role"]] + "\n", "speaker")
            self._write(message["content"] + "\n\n")

    def _write(self, text: str, tag: str = "") -> None:
        is_at_end = self._transcript.yview()[1] > 0.99
        self._transcript.configure(state="normal")
        self._transcript.insert("end", text, tag)
        self._transcript.configure(state="disabled")
        if is_at_end:
            self._transcript.see("end")

    def _clear(self) -> None:
        self._transcript.configure(state="normal")
        self._transcript.delete("1.0", "end")
        self._transcript.configure(state="disabled")

    def _show_status(self, text: str, done: int = 0, total: int = 0) -> None:
        self._status.configure(text=text)
        if total and done < total:
            self._progress.configure(maximum=total, value=done)
            self._progress.pack(side="right")
        else:
            self._progress.pack_forget()
