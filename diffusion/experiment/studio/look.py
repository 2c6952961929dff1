"""How the page looks: no font and no script of another site, pixels as they are, progress as a thin line."""

from __future__ import annotations

from html import escape

import gradio as gr

from diffusion.experiment.studio.desk import View

CSS = """
.gradio-container > main, main.app { max-width: 1400px !important; width: 100%; margin: 0 auto !important; }
#head { padding: 6px 2px 0; }
#head h1 { font-size: 1.35rem; font-weight: 650; margin: 0; letter-spacing: -.01em; }
#head p { margin: 2px 0 0; color: var(--body-text-color-subdued); font-size: .92rem; }
#head svg { display: inline; vertical-align: -4px; margin-right: 9px; }
#run input, #other input { text-overflow: ellipsis; padding-right: 34px; }
#new-seed { align-self: end; min-width: 0 !important; height: 42px; margin-bottom: 12px; }
.pixels img { image-rendering: pixelated; object-fit: contain !important; }
.pixels .thumbnail-item { aspect-ratio: 1; }
.pixels .grid-wrap.fixed-height { min-height: 260px; max-height: 70vh; }
#gallery .gallery-container { min-height: 460px; }
.about { font-size: .86rem; color: var(--body-text-color-subdued); }
.say { font-size: .92rem; min-height: 34px; }
.say .bar { height: 4px; border-radius: 2px; background: var(--border-color-primary); margin-top: 7px; }
.say .bar i { display: block; height: 100%; background: var(--primary-500); transition: width .3s; }
.say .wrong { color: #b42318; background: #fef3f2; border: 1px solid #fecdca; border-radius: 8px; padding: 8px 12px; }
.dark .say .wrong { color: #fda29b; background: #3a1512; border-color: #7a271a; }
.verbs { gap: 6px !important; flex-wrap: wrap; }
.verbs button { flex: 1 1 auto; min-width: 0 !important; padding: 5px 10px; font-size: .84rem; white-space: nowrap; }
footer { display: none !important; }
"""
HEAD = """<svg width="22" height="22" viewBox="0 0 22 22"><defs><linearGradient id="g" x1="0" x2="1">
<stop offset="0" stop-color="#94a3b8"/><stop offset="1" stop-color="#4f46e5"/></linearGradient></defs>
<rect x="1" y="1" width="20" height="20" rx="6" fill="url(#g)"/><path d="M6 6.5h10" stroke="#fff" stroke-width="1.6"
stroke-linecap="round"/><circle cx="9.6" cy="12.8" r="3.1" fill="none" stroke="#fff" stroke-width="1.6"/>
<path d="M13 9.7c-.4 2.4-.3 5 1.6 6.2" fill="none" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/></svg>"""
"""An alpha under a bar."""
LOOK = {
    "theme": gr.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="lg"),
    "css": CSS,
}


def head(folder: str) -> str:
    """The title of the page."""
    what = f"Draws with the runs in {escape(folder)}; every image says how it is made again."
    return f"<h1>{HEAD}alphabar studio</h1><p>{what}</p>"


def say(view: View) -> str:
    """A view's sentence, and its progress as a bar."""
    if view.wrong:
        return f'<div class="wrong" role="alert">{escape(view.sentence)}</div>'
    width = round(100 * view.share, 1)
    bar = "" if view.done or not view.sentence else f'<div class="bar"><i style="width:{width}%"></i></div>'
    return f'<div class="{"done" if view.done else "going"}">{escape(view.sentence)}</div>{bar}'
