"""The settings in a window of their own; what is wrong is said beside the button."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import replace
from tkinter import ttk

from appearance import COLOURS, paint_text
from preferences import CONTEXT_LENGTHS, THEMES, Preferences


class SettingsDialog:
    """``use`` is called with the new preferences."""

    def __init__(
        self, root: tk.Tk, preferences: Preferences, use: Callable[[Preferences], None]
    ) -> None:
        self._preferences, self._use = preferences, use
        self._top = tk.Toplevel(root, background=COLOURS[preferences.theme].window)
        self._top.title("Settings")
        self._top.transient(root)
        frame = ttk.Frame(self._top, padding=16)
        frame.pack(fill="both", expand=True)
        self._theme = self._choice(frame, 0, "Theme", THEMES, preferences.theme)
        lengths = tuple(map(str, CONTEXT_LENGTHS))
        self._context = self._choice(
            frame, 1, "Context, tokens", lengths, str(preferences.context_length)
        )
        self._temperature = self._entry(frame, 2, "Temperature", preferences.temperature)
        self._max_tokens = self._entry(frame, 3, "Longest reply, tokens", preferences.max_tokens)
        ttk.Label(frame, text="System prompt").grid(row=4, column=0, sticky="nw", pady=4)
        self._system = tk.Text(
            frame, width=44, height=5, wrap="word", padx=6, pady=4, font="TkDefaultFont"
        )
        paint_text(self._system, COLOURS[preferences.theme])
        self._system.insert("1.0", preferences.system)
        self._system.grid(row=4, column=1, pady=4)
        self._note = ttk.Label(frame, text="Empty fields: as the model says.", style="Quiet.TLabel")
        self._note.grid(row=5, column=0, columnspan=2, sticky="w", pady=(8, 0))
        ttk.Button(frame, text="Use", style="Accent.TButton", command=self._accept).grid(
            row=5, column=1, sticky="e", pady=(8, 0)
        )
        self._top.bind("<Escape>", lambda _: self._top.destroy())

    def _accept(self) -> None:
        temperature, max_tokens = self._temperature.get().strip(), self._max_tokens.get().strip()
        try:
            preferences = replace(
                self._preferences,
                theme=self._theme.get(),
                context_length=int(self._context.get()),
                temperature=float(temperature.replace(",", ".")) if temperature else None,
                max_tokens=int(max_tokens) if max_tokens else None,
                system=self._system.get("1.0", "end").strip(),
            )
        except ValueError as error:
            self._note.configure(text=str(error))
            return
        self._top.destroy()
        self._use(preferences)

    def _choice(
        self, frame: ttk.Frame, row: int, title: str, values: tuple[str, ...], value: str
    ) -> ttk.Combobox:
        ttk.Label(frame, text=title).grid(row=row, column=0, sticky="w", pady=4, padx=(0, 12))
        box = ttk.Combobox(frame, values=values, state="readonly")
        box.set(value)
        box.grid(row=row, column=1, sticky="ew", pady=4)
        return box

    def _entry(self, frame: ttk.Frame, row: int, title: str, value: float | None) -> ttk.Entry:
        ttk.Label(frame, text=title).grid(row=row, column=0, sticky="w", pady=4, padx=(0, 12))
        entry = ttk.Entry(frame)
        entry.insert(0, "" if value is None else str(value))
        entry.grid(row=row, column=1, sticky="ew", pady=4)
        return entry
