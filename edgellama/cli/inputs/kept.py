"""Conversations with a name, which ``chat --resume NAME`` continues.

Messages lie in the user's data folder, and are written after every turn. Keys and values lie in the
cache folder, and are written when the chat ends. They only save computing the messages again, so
they may be missing, or belong to another model.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from edgellama.cli.options.completion import Named
from edgellama.kernels_cpu.machine.user_cache import cache_folders, folder_to_fill
from edgellama.quant.errors import EdgellamaError, InvalidOptionError, ModelNotFoundError
from edgellama.quant.records import dataclass

if TYPE_CHECKING:
    from edgellama.generation.chat.conversation import Conversation
    from edgellama.generation.chat.conversation_file import SavedMessages

PATIENCE_SECONDS = 0.5
FOLDER_NAME = "chats"
NAME_FORM = "up to 100 letters, digits, spaces, dots, dashes and underscores, a letter first"
_NAME = re.compile(r"\w[\w .-]{0,98}\w|\w")


@dataclass(frozen=True)
class KeptConversation:
    """A name and the files that belong to it, which need not be there yet."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidOptionError(f"a conversation called {self.name!a}; allowed: {NAME_FORM}")

    @property
    def messages_path(self) -> Path:
        """The file of the messages."""
        return data_folder() / f"{self.name}.json"

    @property
    def session_path(self) -> Path | None:
        """The file of keys and values, if there is one."""
        paths = [folder / f"{self.name}.session" for folder in cache_folders(FOLDER_NAME)]
        return next((path for path in paths if path.is_file()), None)

    @property
    def exists(self) -> bool:
        """Whether there is something to continue."""
        return self.messages_path.is_file()

    @property
    def num_bytes(self) -> int:
        """What it takes on the disk."""
        files = (self.messages_path, self.session_path)
        return sum(file.stat().st_size for file in files if file is not None and file.is_file())

    @property
    def last_use(self) -> float | None:
        """When its messages were written last, in seconds since 1970."""
        try:
            return self.messages_path.stat().st_mtime
        except OSError:
            return None

    def read(self) -> SavedMessages:
        """Its messages; InvalidOptionError for a damaged file."""
        from edgellama.generation.chat.conversation_file import read_messages

        return read_messages(self.messages_path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other chats from it meanwhile. EdgellamaError if one has it, or none can."""
        from edgellama.convert.output.file_lock import try_lock

        with _opened_lock(data_folder() / f".{self.name}.lock") as file:
            if not try_lock(file.fileno()):
                raise EdgellamaError(f"the conversation {self.name!r} is open in another chat")
            yield

    def load(self, conversation: Conversation) -> str | None:
        """Go on with it; why keys and values are computed again, if they are."""
        conversation.load(self.messages_path)
        path = self.session_path
        if path is None:
            return "they are not in the cache any more"
        try:
            conversation.session.load(path)
        except (EdgellamaError, OSError) as error:
            return error.in_terminal if isinstance(error, EdgellamaError) else str(error)
        return None

    def save_messages(self, conversation: Conversation, model: Path) -> None:
        """Write the messages; OSError if the system refuses."""
        conversation.save(self.messages_path, model=str(model.absolute()))

    def save_session(self, conversation: Conversation) -> None:
        """Write keys and values; a bar shows a long wait. Raises EdgellamaError or OSError."""
        from edgellama.cli.output.terminal import byte_progress

        path = folder_to_fill(FOLDER_NAME) / f"{self.name}.session"
        path.parent.chmod(0o700)
        started = monotonic()
        with byte_progress("keeping the conversation") as report:

            def report_late(done: int, total: int) -> None:
                if monotonic() - started > PATIENCE_SECONDS:
                    report(done, total)

            conversation.session.save(path, progress=report_late)

    def remove_session(self) -> None:
        """Delete keys and values."""
        if (path := self.session_path) is not None:
            path.unlink(missing_ok=True)

    def remove(self) -> int:
        """Delete all of it; the bytes that this gives back."""
        num_bytes, session = self.num_bytes, self.session_path
        lock = self.messages_path.with_name(f".{self.name}.lock")
        for path in (self.messages_path, session, lock):
            if path is not None:
                path.unlink(missing_ok=True)
        return num_bytes


def _opened_lock(path: Path) -> BinaryIO:
    """The file, made if need be with its folder; EdgellamaError if the system refuses."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path.open("a+b")
    except OSError as error:
        advice = "; set XDG_DATA_HOME to a folder that you can write to"
        raise EdgellamaError(
            f"no conversation can be kept in {folder}: {error.strerror}"
            f"{advice if sys.platform == 'linux' else ''}"
        ) from error


def model_of(kept: KeptConversation) -> str | None:
    """The file of the model that said it last. ModelNotFoundError if it is not there any more."""
    model = kept.read().model
    if model is not None and not Path(model).is_file():
        raise ModelNotFoundError(
            f"the conversation {kept.name!r} was held with {model}, which is not there any more; "
            "give a MODEL"
        )
    return model


def data_folder() -> Path:
    """Where messages lie."""
    from platformdirs import user_data_path

    return user_data_path("edgellama", appauthor=False) / FOLDER_NAME


def kept_names() -> list[str]:
    """All conversations that are kept."""
    names = (path.stem for path in sorted(data_folder().glob("*.json")))
    return [name for name in names if _NAME.fullmatch(name)]


CONVERSATION = Named("conversation", lambda _: kept_names())
