"""The page: fields, a gallery, and what a click does; all else is in the other files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import gradio as gr

from diffusion.errors import UserError
from diffusion.experiment.config.errors import one_line
from diffusion.experiment.studio import card, form, png, verbs
from diffusion.experiment.studio.desk import Desk, View
from diffusion.experiment.studio.form import FIELDS, OWN
from diffusion.experiment.studio.look import LOOK, head, say
from diffusion.experiment.studio.settings import MOST, Settings
from diffusion.experiment.studio.tabs import CLOSE, ONE, begin, command, compare_tab, drawn, edit_tab, gallery

__all__ = ["LOOK", "build"]

SHOWN = 120
"""Images of the history on the page."""
HINT = "Images appear here. A click on one shows the command that makes it again, and what can be done with it."
PAST = "All that was drawn, the newest first. A click on an image shows how it was made."
NOW: dict[str, Any] = {"queue": False, "api_name": False, "show_progress": "hidden"}
"""Of clicks that are answered at once."""


def build(desk: Desk, batch_size: int) -> gr.Blocks:
    """The page of a desk; batch_size: of drawings that do not say."""
    with gr.Blocks(
        title="alphabar studio", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True
    ) as page:
        gr.HTML(head(str(desk.folder)), elem_id="head")
        ticket, files, chosen = gr.State(None), gr.State([]), gr.State(None)
        pictured, picked = gr.State([]), gr.State(None)  # of the history
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=330):
                fields, about = _fields(batch_size)
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", scale=3, elem_id="draw")
                    stop = gr.Button("Stop", variant="stop", scale=1, elem_id="stop", min_width=70)
            inputs = [fields[name] for name in FIELDS]
            with gr.Column(scale=7, min_width=420), gr.Tabs() as tabs:
                with gr.Tab("Draw", id="draw"):
                    status = gr.HTML(say(View(HINT, done=True)), elem_classes="say", elem_id="status")
                    images = gallery("gallery")
                    with gr.Column(visible=False) as details:
                        with gr.Row(elem_classes="verbs"):
                            buttons = {name: gr.Button(name, size="sm", elem_id=_id(name)) for name in verbs.VERBS}
                            paint = gr.Button("Edit", size="sm", elem_id="paint")
                            again = gr.Button("Make again", size="sm", elem_id="again")
                        record = command("record")
                    dropped = gr.File(
                        label="Drop an image of the studio here: its settings come back", file_types=[".png"],
                        height=132, elem_id="restore",
                    )  # fmt: skip
                with gr.Tab("Edit", id="edit"):
                    opened, into = edit_tab(desk, ticket, inputs)
                with gr.Tab("Compare", id="compare"):
                    other = compare_tab(desk, ticket, inputs)
                with gr.Tab("History", id="history") as history:
                    refresh = gr.Button("Look again", size="sm", elem_id="refresh")
                    past = gallery("past", columns=6)
                    told = gr.HTML(say(View(PAST, done=True)), elem_classes="say", elem_id="told")
                    with gr.Column(visible=False) as made:
                        old = command("record-past")
                        with gr.Row(elem_classes="verbs"):
                            reuse = gr.Button("Use these settings", size="sm", elem_id="reuse")
                            rework = gr.Button("Edit this image", size="sm", elem_id="rework")
        shown = [status, images, files, chosen, details]

        def drawing(at: str, *values: Any) -> Iterator[tuple[Any, ...]]:
            for view in drawn(desk, lambda: form.settings_of(values, desk.taken), at):
                yield *view, None, gr.update(visible=False)

        def restore(path: str | None) -> tuple[Any, ...]:
            return _restore(desk, path)

        def verb(name: str) -> Any:
            def made(at: str, path: str) -> Iterator[tuple[Any, ...]]:
                for view in drawn(desk, lambda: verbs.verb(name, path), at):
                    yield *view, None, gr.update(visible=False)

            return made

        first: dict[str, Any] = {
            "fn": lambda: begin(desk),
            "inputs": None,
            "outputs": [ticket, status],
            "js": CLOSE,
            **NOW,
        }
        gr.on([draw.click, fields["text"].submit], **first).then(drawing, [ticket, *inputs], shown, **ONE)
        for name, button in buttons.items():
            button.click(**first).then(verb(name), [ticket, chosen], shown, **ONE)
        stop.click(desk.stop, ticket, None, **NOW)
        again.click(lambda path: _again(desk, path), chosen, status, **ONE)
        page.load(lambda: _opened(desk), None, [*inputs, about, other], **NOW)
        fields["run"].input(_fields_of, fields["run"], [*inputs[1:], about, status], **NOW)
        fields["new"].click(lambda: random.randrange(2**31), None, fields["seed"], **NOW)
        images.select(_choose, files, [chosen, record, details], **NOW)
        dropped.upload(restore, dropped, [*inputs, about, status, record], **NOW).then(
            lambda path: (path, gr.update(visible=True)), dropped, [chosen, details], **NOW
        )
        gr.on([history.select, refresh.click], lambda: _past(desk), None, [past, pictured], **NOW)
        past.select(_choose, pictured, [picked, old, made], **NOW).then(lambda: "", None, told, **NOW)
        reuse.click(restore, picked, [*inputs, about, told, old], **NOW)
        for button, image in ((paint, chosen), (rework, picked)):
            button.click(opened, image, into, **NOW).then(lambda: gr.update(selected="edit"), None, tabs, **NOW)
    return page


def _fields(batch_size: int) -> tuple[dict[str, Any], gr.Markdown]:
    with gr.Row(equal_height=True):
        run = gr.Dropdown([], label="Run", allow_custom_value=True, elem_id="run", scale=1)
    about = gr.Markdown("", elem_classes="about")
    text = gr.Textbox(label="Prompt", lines=2, max_lines=4, placeholder="a red heart", elem_id="text")
    negative = gr.Textbox(label="Negative prompt", info="what guidance leads away from", elem_id="negative")
    labels = gr.Dropdown(
        [], label="Classes", info="images have them in turn; none is all of them", multiselect=True,
        allow_custom_value=True, elem_id="labels",
    )  # fmt: skip
    with gr.Row():
        count = gr.Slider(1, MOST, 4, step=1, label="Images", elem_id="count", min_width=120)
        scale = gr.Number(1.0, label="Guidance scale", info="1 is none", elem_id="scale", min_width=110)
    style = gr.Gallery(
        label="Style references", columns=4, height=160, object_fit="contain", type="filepath", file_types=["image"],
        interactive=True, elem_id="style", visible=False,
    )  # fmt: skip
    with gr.Row():
        weight = gr.Number(1.0, label="Style weight", info="0 is none", elem_id="style-weight", min_width=110)
        stylize = gr.Number(1.0, label="Stylize", info="guidance towards it", elem_id="stylize", min_width=110)
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=110)
        new = gr.Button("Another seed", size="sm", min_width=100, elem_id="new-seed")
    with gr.Row():
        sampler = gr.Dropdown(
            [OWN, *card.options("sampler")], value=OWN, label="Sampler", elem_id="sampler", min_width=140
        )
        steps = gr.Number(50, label="Steps", precision=0, elem_id="steps", min_width=90)
    with gr.Accordion("More", open=False):
        chaos = gr.Slider(
            0, 1, 0, step=0.05, label="Chaos", info="spread between the images of one prompt or class", elem_id="chaos"
        )
        together = gr.Number(
            batch_size, label="Drawn together", precision=0,
            info="another number may change the last bits of an image, so its settings name it",
        )  # fmt: skip
    return {
        "run": run, "text": text, "negative": negative, "labels": labels, "count": count, "seed": seed, "new": new,
        "sampler": sampler, "steps": steps, "scale": scale, "batch_size": together,
        "style_reference": style, "style_weight": weight, "stylize": stylize, "chaos": chaos,
    }, about  # fmt: skip


def _opened(desk: Desk) -> tuple[Any, ...]:
    """The fields when the page is opened: the newest run."""
    try:
        runs = desk.runs()
    except UserError:
        runs = []
    *rest, about, _ = _fields_of(runs[0] if runs else None)
    return gr.update(choices=runs, value=runs[0] if runs else None), *rest, about, gr.update(choices=runs)


def _fields_of(run: str | None) -> tuple[Any, ...]:
    """What the fields below the run are for that run: those that it does not read are gone."""
    if not run:
        sentence = "No run is here yet that draws images: `python scripts/train.py` trains one in minutes."
        return *([gr.skip()] * (len(FIELDS) - 1)), sentence, ""
    try:
        known = card.read(run)
    except UserError as error:
        return *([gr.skip()] * (len(FIELDS) - 1)), "", say(View(one_line(error), wrong=True))
    values = form.values_of(Settings(run), known)
    for kept in ("text", "negative", "count", "seed", "batch_size", "style_reference", "chaos"):
        values[kept] = None
    return *_updates(known, values)[1:], f"This run {known.sentence}.", ""


def _updates(known: card.Card, values: dict[str, Any]) -> list[Any]:
    """Of each field its value, where there is one, and whether it is there."""
    there = {
        "text": known.reads == "text",
        "negative": known.reads == "text" and known.scale is not None,
        "labels": bool(known.classes),
        "scale": known.scale is not None,
        "sampler": not known.stages,
        "steps": not known.stages,
        "style_reference": known.styled,
        "style_weight": known.styled,
        "stylize": known.stylize is not None,
        "chaos": known.reads != "",
    }
    more: dict[str, dict[str, Any]] = {name: {"visible": there[name]} if name in there else {} for name in FIELDS}
    more["labels"]["choices"] = list(known.classes)
    return [gr.update(**more[name], **({} if values[name] is None else {"value": values[name]})) for name in FIELDS]


def _choose(files: list[str], event: gr.SelectData) -> tuple[Any, ...]:
    """The image that was clicked on, its record, and that it can be worked on."""
    if event.index >= len(files):
        return None, "", gr.update(visible=False)
    try:
        return files[event.index], form.said(png.read(files[event.index])), gr.update(visible=True)
    except UserError as error:
        return None, f"# {one_line(error)}", gr.update(visible=True)


def _restore(desk: Desk, path: str | None) -> tuple[Any, ...]:
    """The fields as an image's record has them, about the run, a sentence, the record."""
    nothing = [gr.skip()] * (len(FIELDS) + 1)
    if path is None:
        return *nothing, say(View("no image is chosen; click on one", wrong=True)), ""
    record, sentence = desk.record_of(path)
    if record is None:
        return *nothing, say(View(sentence, wrong=True)), ""
    settings = Settings.of(record["settings"])
    try:
        known = card.read(settings.run)
    except UserError:
        return *nothing, say(View(sentence, wrong=True)), form.said(record)
    what = "Its settings are in the fields: Draw makes it again."
    if settings.edit is not None:
        what = f"It is {settings.image} after edit={settings.edit}: Make again makes it, the fields hold its condition."
    view = View(sentence, wrong=True) if sentence else View(what, done=True)
    updates = _updates(known, form.values_of(settings, known))
    return *updates, f"This run {known.sentence}.", say(view), form.said(record)


def _again(desk: Desk, path: str | None) -> str:
    try:
        same = path is not None and desk.again(path)[1]
    except UserError as error:
        return say(View(one_line(error), wrong=True))
    sentence = "not every pixel is the same: the device, a version or the weights are others"
    return say(View(f"Made again: {'every pixel is the same' if same else sentence}.", wrong=not same, done=True))


def _past(desk: Desk) -> tuple[list[str], list[str]]:
    found = [str(path) for path in desk.history.recent(SHOWN)]
    return found, found


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")
