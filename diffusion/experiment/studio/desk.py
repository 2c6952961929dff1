"""What happens behind the page: a drawing that can be watched and stopped, and sentences for what cannot be done."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffusion.errors import ConfigError, UserError
from diffusion.experiment.config.errors import one_line
from diffusion.experiment.studio import card, png
from diffusion.experiment.studio.history import History
from diffusion.experiment.studio.settings import Settings
from diffusion.experiment.studio.watch import Progress, Stopped
from diffusion.image_file import read_image

if TYPE_CHECKING:
    from diffusion.experiment.studio.drawing import Artist, Drawn

log = logging.getLogger(__name__)

EVERY = 0.4
"""Seconds between two previews."""
STOPPED = "Stopped: nothing of this drawing was kept."


@dataclass(frozen=True, slots=True)
class View:
    """What a page shows of a drawing: previews on the way, files at the end.

    sentence: what is going on, or what went wrong. share: of the work, in [0, 1].
    """

    sentence: str
    share: float = 0.0
    wrong: bool = False
    done: bool = False
    previews: list[Image.Image] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Desk:
    """Takes requests of any number of pages.

    Args:
        runs: the folder of runs. history: where drawings are kept. pipelines: the words of those that may draw.
    """

    def __init__(self, runs: Path, history: History, pipelines: Sequence[str] = ()) -> None:
        self.folder, self.history, self.pipelines = runs, history, tuple(pipelines)
        self._stops: dict[str, threading.Event] = {}

    @cached_property
    def artist(self) -> Artist:
        """Made when it is first needed, as it imports torch."""
        from diffusion.experiment.studio.drawing import Artist

        return Artist()

    def warm(self) -> None:
        """Imports what drawing needs beside the start of the page."""
        threading.Thread(target=lambda: self.artist, daemon=True).start()

    def runs(self) -> list[str]:
        """Those that can be drawn with, pipelines first, then the newest."""
        return [*self.pipelines, *card.find(self.folder)]

    def ticket(self) -> str:
        """Of a drawing that is about to be requested: :meth:`stop` ends it, be it waiting or under way."""
        name = uuid.uuid4().hex
        self._stops[name] = threading.Event()
        return name

    def stop(self, ticket: str | None) -> None:
        """Ends a drawing at its next step; one that is over is left alone."""
        if ticket in self._stops:
            self._stops[ticket].set()

    def check(self, settings: Settings) -> None:
        """A page, and an image that is dropped on it, may name what the studio was opened for and nothing else.

        Raises:
            ConfigError: a run that is not below the folder of runs, a pipeline that the studio was not opened with, or
                an image that is not in the history.
        """
        if settings.staged and settings.run not in self.pipelines:
            raise ConfigError(f"the studio was not opened with {settings.run}; name it in pipelines")
        if not settings.staged and not _inside(settings.run, self.folder):
            raise ConfigError(f"the run {settings.run} is not below runs={self.folder}; choose one that is")
        for path in settings.files:
            if not _inside(path, self.history.folder):
                raise ConfigError(f"the image {path} is not in the history; drop it under Edit")

    def taken(self, path: str) -> str:
        """An image from elsewhere as it is kept in the history, or one that is there.

        Raises:
            UserError: no image, or it cannot be written.
        """
        return str(self.history.take_in(read_image(path)))

    def draw(self, settings: Settings, ticket: str) -> Iterator[View]:
        """A drawing as a page sees it; closing the iterator stops it.

        What goes wrong is a view with a sentence, and no error.
        """
        stop = self._stops.setdefault(ticket, threading.Event())
        views: queue.Queue[View] = queue.Queue()
        worker = threading.Thread(target=self._work, args=(settings, stop, views.put), daemon=True)
        yield View("Loading the model")
        worker.start()
        try:
            while True:
                view = views.get()
                yield view
                if view.done:
                    return
        finally:
            stop.set()
            self._stops.pop(ticket, None)

    def _work(self, settings: Settings, stop: threading.Event, put: Callable[[View], None]) -> None:
        begun, last, shown = time.monotonic(), 0.0, {}

        def watch(progress: Progress) -> None:
            nonlocal last
            if stop.is_set():
                raise Stopped
            now = time.monotonic()
            if now - last >= EVERY:
                last, shown[progress.first] = now, progress.preview()
                before = f"{progress.first} of {settings.count} images, " if progress.first else ""
                sentence = f"{before}step {progress.step} of {progress.steps}, {_span(progress.seconds)} left"
                put(View(sentence, progress.share, previews=[one for batch in shown.values() for one in batch]))

        def drawn() -> View:
            if stop.is_set():
                raise Stopped
            self.check(settings)
            found = self.artist.draw(settings, watch)
            files = [str(path) for path in self.history.keep(found)]
            count = f"{len(files)} images" if len(files) > 1 else "1 image"
            return View(f"{count} in {_span(time.monotonic() - begun)}", 1.0, done=True, files=files)

        put(said(drawn))

    def record_of(self, path: str) -> tuple[dict[str, Any] | None, str]:
        """The record of an image, and why it cannot be made again, in a sentence; empty where it can."""
        from diffusion.experiment.studio.drawing import changed

        try:
            record = png.read(path)
            self.check(Settings.of(record["settings"]))
            return record, changed(record) or ""
        except UserError as error:
            return None, one_line(error)

    def again(self, path: str) -> tuple[Drawn, bool]:
        """An image drawn once more from its record -> the drawing, and whether every pixel is the same.

        Raises:
            UserError: it cannot be read or drawn.
        """
        record = png.read(path)
        settings = Settings.of(record["settings"])
        self.check(settings)
        if not 0 <= record["number"] < settings.count:
            raise ConfigError(f"the image is number {record['number']} of {settings.count}, and there is none such")
        made = self.artist.draw(settings, numbers=[record["number"]])
        with Image.open(path) as image:
            same = image.size == made.images[0].size and image.tobytes() == made.images[0].tobytes()
        return made, same


def said(work: Callable[[], View]) -> View:
    """The view that ``work`` gives, or the sentence for what went wrong in it."""
    try:
        return work()
    except Stopped:
        return View(STOPPED, done=True)
    except UserError as error:
        return View(one_line(error), wrong=True, done=True)
    except Exception as error:
        log.exception("a drawing failed")
        reason = one_line(error)[:200] or "no reason given"
        return View(f"This failed, {type(error).__name__}: {reason}; the log has more.", wrong=True, done=True)


def _inside(path: str, folder: Path) -> bool:
    return Path(path).resolve().is_relative_to(folder.resolve())


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
