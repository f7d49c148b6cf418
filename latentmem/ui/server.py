"""How the app is launched: theme, style, scripts, and hardening."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..records import LatentmemError
from . import limits

if TYPE_CHECKING:
    from ..engine import Engine
    from .session import AppSession

log = logging.getLogger(__name__)
UNFIT = "What was sent does not fit, or latentmem failed: the server's log says where."
STATIC = Path(__file__).resolve().parent / "static"
SCRIPTS = ("page.js", "live.js", "map.js")
FONT = (
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


class Blocks(gr.Blocks):
    """Gradio's own prints what it cannot read into the log, with a traceback, and keeps much of
    each page."""

    def __init__(self, session: AppSession, **options: Any) -> None:
        self.latentmem_session = session  # for what is not asked through gradio
        super().__init__(**options)

    @property
    def state_holder(self) -> Any:
        return self._state_holder

    @state_holder.setter
    def state_holder(self, holder: Any) -> None:
        limits.lighten(holder, self.latentmem_session.visits)
        self._state_holder = holder

    async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **more: Any) -> Any:
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if len(inputs) < len(fn.inputs):
            raise gr.Error(
                f"The call has {len(inputs)} values and needs {len(fn.inputs)}: "
                "/gradio_api/info names them.",
                print_exception=False,
            )
        try:
            return await super().process_api(fn, inputs, *args, **more)
        except gr.Error:
            raise
        except Exception:
            log.exception("a call failed")
            raise gr.Error(UNFIT, print_exception=False) from None


def launch_options(engine: Engine) -> dict[str, Any]:
    """Keyword arguments for `Blocks.launch`: look, scripts and hardening. The bank can never be
    served as a file.

    Raises LatentmemError when tools of the Model Context Protocol are asked for in a shared app, or
    their extra is not installed.
    """
    tools, shared = engine.settings.mcp, engine.settings.hosted
    # gradio's server of tools is one client, with one session for all who call it: one visitor
    if tools and shared:
        raise LatentmemError(
            "The settings mcp and hosted are both on, and all who use the tools would be one "
            "visitor, with each other's memories and receipts: set LATENTMEM_MCP=0, or "
            "LATENTMEM_HOSTED=0 for an app of your own."
        )
    if tools and find_spec("mcp") is None:
        raise LatentmemError(
            "The setting mcp is on and the package mcp is not installed: run `pip install "
            "'gradio[mcp]'`, or set LATENTMEM_MCP=0."
        )
    return {
        "theme": theme(),
        "css_paths": [STATIC / "style.css"],
        "head": head(),
        "js": "() => { window.latentmem?.openTheme?.(); }",
        "footer_links": ["api"],
        "ssr_mode": False,
        "show_error": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "mcp_server": tools,
        "max_file_size": "32mb" if shared else "512mb",
        "max_threads": 80,
        "app_kwargs": limits.server_options(Path(get_upload_folder()) if shared else None),
        "allowed_paths": [],
        "blocked_paths": private_paths(engine.settings.bank),
    }


def private_paths(bank: Path) -> list[str]:
    """The bank's file, what SQLite keeps beside it, the streams: never served."""
    whole = bank.absolute()
    return [
        str(whole),
        *(f"{whole}{end}" for end in ("-wal", "-shm", "-journal")),
        str(whole.parent / "streams"),
    ]


BLUE = gr.themes.Color(
    c50="#eef6fb",
    c100="#d8eaf6",
    c200="#b2d5ec",
    c300="#7fb8dd",
    c400="#3f93c8",
    c500="#0072b2",
    c600="#00659e",
    c700="#005586",
    c800="#00456d",
    c900="#003655",
    c950="#00243a",
)


def theme() -> gr.themes.Base:
    """Calm and plain; the system's own fonts, so that nothing is fetched from elsewhere."""
    base = gr.themes.Base(
        primary_hue=BLUE,
        secondary_hue=BLUE,
        neutral_hue=gr.themes.colors.slate,
        font=FONT,
        font_mono=MONO,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    )
    return base.set(
        body_background_fill="#f6f6f3",
        body_background_fill_dark="#14171c",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1c2027",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_padding="0px",
        input_background_fill="#ffffff",
        input_background_fill_dark="#14171c",
        input_border_color="#c9cdd3",
        input_border_color_dark="#3a414c",
        input_border_width="1px",
        input_placeholder_color="#6b7280",
        input_placeholder_color_dark="#9aa3b2",  # 4.8 and 7 to 1
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_500",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#262b34",
        button_secondary_border_color="#c9cdd3",
        button_secondary_border_color_dark="#3a414c",
        button_border_width="1px",
        body_text_color="#1b2430",
        body_text_color_dark="#e8eaed",
        body_text_color_subdued="#56606e",
        body_text_color_subdued_dark="#a7b0bc",
        block_title_text_color="#1b2430",
        block_title_text_color_dark="#e8eaed",
        block_info_text_color="#56606e",
        block_info_text_color_dark="#a7b0bc",
        block_title_text_weight="600",
        block_info_text_size="*text_sm",
    )


def head() -> str:
    """Scripts for the page. Plotly comes from its installed package, KaTeX from gradio's."""
    plotly = plotly_script()
    if plotly is not None:
        gr.set_static_paths([plotly])
    drawn_by = f"gradio_api/file={plotly}" if plotly is not None else ""
    config = json.dumps({"katex": katex("js"), "plotlyAt": drawn_by})
    scripts = [f"window.latentmem = Object.assign(window.latentmem ?? {{}}, {config});"]
    scripts += [(STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS]
    parts = [f'<link rel="stylesheet" href="{katex("css")}">'] if katex("css") else []
    return "\n".join([*parts, *(f"<script>{script}</script>" for script in scripts)])


def katex(kind: str) -> str:
    """The address of KaTeX's module or style sheet in gradio's own pages, whose names carry a hash.
    '' if this gradio has none: then formulas stay as they were written."""
    assets = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    found = sorted(assets.glob(f"katex-*.{kind}"))
    return f"assets/{found[0].name}" if len(found) == 1 else ""


def plotly_script() -> Path | None:
    """plotly.min.js of the installed plotly package, found without importing it."""
    spec = find_spec("plotly")
    file = (
        Path(spec.origin).parent / "package_data" / "plotly.min.js"
        if spec is not None and spec.origin
        else None
    )
    return file if file is not None and file.is_file() else None
