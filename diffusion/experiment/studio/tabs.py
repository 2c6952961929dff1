"""Two tabs of the page: a mask drawn by hand, and two runs on the same seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from diffusion.errors import ConfigError, UserError
from diffusion.experiment.config.errors import one_line
from diffusion.experiment.studio import card, form, masks, png, verbs
from diffusion.experiment.studio.desk import Desk, View
from diffusion.experiment.studio.look import say
from diffusion.image_file import read_image

ONE = {"concurrency_id": "device", "concurrency_limit": 1, "show_progress": "hidden"}
"""Drawings wait for each other."""
CLOSE = """() => { for (const one of ['gallery', 'results', 'one', 'two'])
    [...document.querySelectorAll(`#${one} .preview .icon-button-wrapper button`)].at(-1)?.click(); return []; }"""
"""Shows all images of a gallery: the one that was chosen is of another drawing, and gradio would show another large."""
OPEN = "Choose an image under Draw or History and press Edit, or drop one here; then paint over what may change."


def gallery(name: str, columns: int = 4, label: str | None = None) -> gr.Gallery:
    """Images as they are, pixel by pixel, and their files as they were written."""
    return gr.Gallery(
        label=label, show_label=label is not None, columns=columns, object_fit="contain", format="png",
        interactive=False, elem_id=name, elem_classes="pixels", buttons=["download", "fullscreen"], height="auto",
    )  # fmt: skip


def command(name: str, visible: bool = True) -> gr.Code:
    """Where an image says how it is made again."""
    return gr.Code(
        label="Makes this image again", language="shell", interactive=False, lines=2, max_lines=8, wrap_lines=True,
        show_line_numbers=False, elem_id=name, visible=visible,
    )  # fmt: skip


def begin(desk: Desk) -> tuple[str, str]:
    """What a click does before its drawing's turn comes: a ticket, and a sentence."""
    return desk.ticket(), say(View("Waiting in line"))


def told(files: list[str], event: gr.SelectData) -> Any:
    """How the image that was clicked on is made again."""
    if event.index >= len(files):  # a preview
        return gr.skip()
    try:
        return gr.update(value=form.said(png.read(files[event.index])), visible=True)
    except UserError as error:
        return gr.update(value=f"# {one_line(error)}", visible=True)


def drawn(desk: Desk, ask: Callable[[], Any], ticket: str) -> Iterator[tuple[str, Any, Any]]:
    """The views of a drawing -> (status, gallery, files); the settings are asked for, as they may be refused."""
    try:
        settings = ask()
    except UserError as error:
        yield say(View(one_line(error), wrong=True)), gr.skip(), gr.skip()
        return
    yield say(View("Waiting")), [], []
    for view in desk.draw(settings, ticket):
        yield say(view), _images(view), view.files


def edit_tab(desk: Desk, ticket: gr.State, inputs: Sequence[Any]) -> tuple[Callable[[str], Any], list[Any]]:
    """The tab -> what opens an image in it, and what that fills."""
    source, files = gr.State(None), gr.State([])
    with gr.Row():
        with gr.Column(scale=3):
            editor = gr.ImageEditor(
                label="Paint over what may change", sources=(), transforms=(), type="numpy", format="png",
                brush=gr.Brush(colors=["#4f46e5"], default_size=48, color_mode="fixed"), layers=False, elem_id="editor",
                elem_classes="pixels", height=560,
            )  # fmt: skip
            taken = gr.File(label="Or drop an image to edit", file_types=["image"], height=132, elem_id="taken")
        with gr.Column(scale=2):
            strength = gr.Slider(0.05, 1.0, 1.0, step=0.05, label="Strength", info="below 1 something of it stays")
            go = gr.Button("Draw what is covered", variant="primary", elem_id="cover")
            status = gr.HTML(say(View(OPEN, done=True)), elem_classes="say", elem_id="edited")
            results = gallery("results", columns=2)
            record = command("record-edit", visible=False)

    def opened(path: str | None) -> tuple[Any, ...]:
        if path is None:
            return gr.skip(), gr.skip(), ""
        try:
            image = read_image(path)
        except UserError as error:
            return gr.skip(), gr.skip(), say(View(one_line(error), wrong=True))
        large, _ = masks.enlarged(image)
        return path, {"background": large, "layers": [], "composite": large}, ""

    def take(path: str | None) -> tuple[Any, ...]:
        try:
            kept = None if path is None else desk.taken(path)
        except UserError as error:
            return gr.skip(), gr.skip(), say(View(one_line(error), wrong=True))
        return opened(kept)

    def paint(at: str, painted: Any, path: str | None, share: float, *values: Any) -> Iterator[tuple[Any, ...]]:
        def ask() -> Any:
            settings = form.settings_of(values, desk.taken)
            if path is None:
                raise ConfigError("there is no image to edit; choose one under Draw or History, or drop one here")
            with Image.open(path) as image:
                mask = masks.mask_of(painted, image.size)
            kept = None if mask is None else str(desk.history.take_in(mask))
            return verbs.covered(settings, path, kept, share)

        yield from drawn(desk, ask, at)

    into = [source, editor, status]
    taken.upload(take, taken, into, api_name=False)
    go.click(lambda: begin(desk), None, [ticket, status], queue=False, api_name=False, js=CLOSE).then(
        paint, [ticket, editor, source, strength, *inputs], [status, results, files], api_name=False, **ONE
    )
    results.select(told, files, record, queue=False, api_name=False)
    return opened, into


def compare_tab(desk: Desk, ticket: gr.State, inputs: Sequence[Any]) -> gr.Dropdown:
    """The tab -> the second run's field."""
    gr.Markdown("The fields on the left, drawn by that run and by another: the same prompts, classes and seeds.")
    with gr.Row(equal_height=True):
        other = gr.Dropdown([], label="The other run", allow_custom_value=True, elem_id="other", scale=4)
        go = gr.Button("Draw both", variant="primary", elem_id="both", scale=1)
    status = gr.HTML(say(View("")), elem_classes="say", elem_id="compared")
    with gr.Row():
        sides = [gallery("one", columns=2, label="This run"), gallery("two", columns=2, label="The other run")]

    def both(at: str, second: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        def ask() -> tuple[Any, Any]:
            first = form.settings_of(values, desk.taken)
            if not second:
                raise ConfigError("no other run is chosen; choose one")
            known = card.read(first.run)
            own = first.sampler is None and first.steps == known.steps
            then = replace(first, run=second, steps=None if own else first.steps)
            if then.staged and first.scale == (known.scale or (None, None))[1]:
                then = replace(then, scale=None)
            for one in (first, then):  # both, before the first is drawn
                desk.check(one)
                one.words(card.read(one.run))
            return first, then

        try:
            pair = ask()
        except UserError as error:
            yield say(View(one_line(error), wrong=True)), gr.skip(), gr.skip()
            return
        yield say(View("Waiting")), [], []
        for i, settings in enumerate(pair):
            view = View("")
            for view in desk.draw(settings, at):
                images = [gr.skip(), gr.skip()]
                images[i] = _images(view)
                yield say(view), *images
            if not view.files:  # refused or stopped
                return

    go.click(lambda: begin(desk), None, [ticket, status], queue=False, api_name=False, js=CLOSE).then(
        both, [ticket, other, *inputs], [status, *sides], api_name=False, **ONE
    )
    return other


def _images(view: View) -> Any:
    """For a gallery: files under their numbers, or previews; nothing where a drawing ended without any."""
    numbered = [(path, f"number {i}") for i, path in enumerate(view.files)]
    return numbered or view.previews or ([] if view.done else gr.skip())
