"""Colours of the light and of the dark theme, for Tk's themed widgets and its plain ones."""

from __future__ import annotations

import tkinter as tk
from dataclasses import dataclass
from tkinter import ttk


@dataclass(frozen=True)
class Colours:
    """What each kind of surface is painted with."""

    window: str
    paper: str
    text: str
    quiet: str
    accent: str
    selected: str
    border: str


COLOURS = {
    "light": Colours("#f3f4f6", "#ffffff", "#1f2328", "#6b7280", "#1d4ed8", "#dbeafe", "#d1d5db"),
    "dark": Colours("#1b1d21", "#24272c", "#e6e8eb", "#9aa2ad", "#7fb0ff", "#33415a", "#3a3f47"),
}


def paint(root: tk.Tk, theme: str) -> Colours:
    """Give themed widgets a theme's colours, which plain ones take from what is returned."""
    colours = COLOURS[theme]
    style = ttk.Style(root)
    style.theme_use("clam")
    style.configure(
        ".",
        background=colours.window,
        foreground=colours.text,
        fieldbackground=colours.paper,
        bordercolor=colours.border,
        lightcolor=colours.window,
        darkcolor=colours.window,
        troughcolor=colours.window,
        arrowcolor=colours.text,
        insertcolor=colours.text,
    )
    style.configure("TScrollbar", background=colours.border)
    style.map("TScrollbar", background=[("disabled", colours.window)])
    style.configure("Horizontal.TProgressbar", background=colours.accent)
    style.configure("Quiet.TLabel", foreground=colours.quiet)
    style.configure("TButton", padding=(10, 4), background=colours.paper)
    style.configure("Accent.TButton", foreground=colours.paper, background=colours.accent)
    style.configure(
        "Treeview", background=colours.paper, fieldbackground=colours.paper, rowheight=28,
        borderwidth=0,
    )  # fmt: skip
    style.map("Treeview", background=[("selected", colours.selected)],
              foreground=[("selected", colours.text)])  # fmt: skip
    style.map("TButton", background=[("active", colours.selected)],
              foreground=[("disabled", colours.quiet)])  # fmt: skip
    style.map("Accent.TButton", background=[("disabled", colours.border),
                                            ("active", colours.accent)])  # fmt: skip
    style.map("TCombobox", fieldbackground=[("readonly", colours.paper)],
              foreground=[("readonly", colours.text)])  # fmt: skip
    for option, colour in (("background", colours.paper), ("foreground", colours.text),
                           ("selectBackground", colours.selected),
                           ("selectForeground", colours.text)):  # fmt: skip
        root.option_add(f"*TCombobox*Listbox.{option}", colour)
    root.configure(background=colours.window)
    return colours


def paint_text(widget: tk.Text, colours: Colours) -> None:
    """Colours of a plain text, and of the speakers' names in it."""
    widget.configure(
        background=colours.paper, foreground=colours.text, insertbackground=colours.text,
        selectbackground=colours.selected, highlightthickness=1, relief="flat", borderwidth=0,
        highlightbackground=colours.border, highlightcolor=colours.accent,
    )  # fmt: skip
    widget.tag_configure("speaker", foreground=colours.accent, font=("TkDefaultFont", 10, "bold"))
    widget.tag_configure("note", foreground=colours.quiet)
