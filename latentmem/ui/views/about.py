"""The words and the picture of the About panel. Pure functions; no gradio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from markupsafe import Markup

from ...model.weights.catalog import MODELS
from ...records import Problem, Status
from ...settings import Settings
from ..hosting import LIMITED
from ..session import family
from .html import count, join, table
from .receipt import VERIFIERS, definition_list

_ANSWER = (
    ("Next problem", "similar or not"),
    ("Nearest memory", "by cosine"),
    ("Two votes", "without and with"),
    ("Router", "agree, or verifier"),
    ("Receipt", "who answered, why"),
)


def first_visit() -> Markup:
    """What this is, for somebody who has ten seconds."""
    steps = (
        (
            "Press Solve",
            "A small language model writes several solutions to the problem at once, and their "
            "answers vote. A receipt says which memory helped, if any.",
        ),
        (
            "Distil",
            "The model trains a tiny memory on its own majority, without being told the right "
            "answer.",
        ),
        (
            "Ask again",
            "The next similar problem is answered without and with that memory, side by side.",
        ),
    )
    return _steps(steps)


def _steps(steps: Iterable[tuple[str, str]]) -> Markup:
    step = Markup("<li><b>{}</b><span>{}</span></li>")
    return Markup('<ol class="steps3">{}</ol>').format(join(step.format(*s) for s in steps))


def tiles(examples: Iterable[Problem], most: int = 6) -> Markup:
    """One example a family to begin with; a press puts it into the box."""
    families: dict[str, Problem] = {}
    for problem in examples:
        families.setdefault(family(problem), problem)
    button = Markup(
        '<button type="button" class="tile" data-do="take" data-value="{}"><b>{}</b>'
        '<span class="tx">{}</span></button>'
    )
    buttons = join(button.format(p.id, name, p.text) for name, p in list(families.items())[:most])
    return Markup(
        '<section class="begin"><h3>Or begin with one of these</h3><div class="tiles">{}</div>'
        "</section>"
    ).format(buttons)


def method(s: Settings) -> Markup:
    """The method in one picture and four sentences."""
    return Markup(
        '<section><h2>How it works</h2>{}<div class="columns"><p>The model solves a problem '
        "several times. The answer that "
        "most attempts agree on becomes the label; its share is the confidence. The model never "
        "sees the correct answer.</p><p>A short <b>soft prompt</b>, thousands of numbers beside "
        "the model's hundreds of millions or more, is trained to make the model agree with its own "
        "majority. The model itself never changes. The soft prompt is the <b>memory</b>.</p><p>A "
        "new problem is answered twice: alone, and with the memory of the most similar problem. "
        "If both agree, that is the answer; otherwise a verifier decides, which "
        "limits the harm of a bad memory.</p><p>Every answer comes with a <b>receipt</b>: which "
        "memory was tried, how similar it is, what both sides said, and why one was chosen. “No "
        "memory” and “nothing learnt” are results too.</p></div></section>"
    ).format(diagram(s))


def diagram(s: Settings) -> Markup:
    """Learning and answering, five boxes each; the bank joins the two rows."""
    paper = s.recipe == "paper"
    size = count(s.virtual_tokens, "virtual token") if paper else "a vector for each layer"
    learning = (
        ("A problem", "no answer given"),
        (count(s.rollouts, "attempt"), "sampled at once"),
        ("A vote", "majority = label"),
        ("GRPO" if paper else "Training", count(s.steps, "small step")),
        ("A memory", size),
    )
    return Markup('<div class="begin"><h3>Learning</h3>{}<h3>Answering</h3>{}</div>').format(
        _steps(learning), _steps(_ANSWER)
    )


def kept_where(
    bank: Path, shared: bool = False, most: int = 0, lasting: bool | None = None
) -> Markup:
    """Where memories are, in words. `lasting`: whether the disk of a Space outlives it, None on a
    computer of one's own."""
    alone = not shared and str(bank) == ":memory:"
    if shared:
        words = Markup(
            "The memories that you find here are shared and only read. Those that you make, at "
            "most {}, are yours: nobody else sees them, they are kept in the server's memory for "
            "this browser tab, and they are gone half an hour after you close it."
        ).format(most)
    elif alone:
        words = Markup(
            "In the working memory of the program that runs this app and in no file: they are "
            "gone when it ends."
        )
    else:
        last = {
            None: "It stays there when the app or the computer restarts, as long as that disk "
            "does.",
            True: "It is on storage of its own and stays when this Space restarts.",
            False: "The disk of this Space is emptied when it restarts, and the memories are gone "
            "then.",
        }[lasting]
        words = Markup(
            "In one file on the computer that runs this app: <code>{}</code>. {}"
        ).format(bank, last)
    forget = "" if shared or alone else "; each can be forgotten where it is opened"
    return Markup(
        "<section><h2>Where memories are kept</h2><p>{} <b>Export</b> on the Memories panel makes "
        "a copy to take with you; a single memory exports as a standard PEFT adapter. The receipts "
        "of your newest answers are kept there, too; they say what you asked, so Export leaves "
        "them out{}.</p></section>"
    ).format(words, forget)


def model_facts(s: Settings, most: Mapping[str, int]) -> Markup:
    """The model, the settings everything starts from, and the limits of a shared app."""
    pairs = [
        ("Model", s.model),
        ("Embedder", s.embedder),
        ("Device", s.device),
        ("Attempts", str(s.rollouts)),
        ("Recipe", s.recipe),
        ("Gradient steps", str(s.steps)),
        ("Virtual tokens", str(s.virtual_tokens)),
        ("Learning rate", f"{s.learning_rate:g}"),
        ("Verifier", VERIFIERS[s.verifier]),
    ]
    shared = Markup("")
    if most:
        shared = Markup(
            '<p class="hint">This app is shared: at most {}. On a computer of your own the limits '
            "are far higher.</p>"
        ).format(", ".join(f"{value} {LIMITED[name]}" for name, value in most.items()))
    # other models are fetched as the hub has them
    checked = ", checked against its known checksum" if s.model in MODELS else ""
    return Markup(
        '<section><h2>The model</h2>{}<p class="hint">It is fetched at first use{}, and kept in a '
        "cache. After that "
        "no network is needed.</p>{}</section>"
    ).format(definition_list(pairs), checked, shared)


def endpoints_table(
    rows: Iterable[tuple[str, str, str]], mcp: bool, shared: bool = False
) -> Markup:
    """The endpoints: (name, parameters, what it does)."""
    code, tools = Markup("<code>{}</code>"), ""
    lines = [(code.format(f"/{name}"), code.format(given), what) for name, given, what in rows]
    heads = ("Endpoint", "Parameters", "What it does")
    if mcp:
        tools = "They are offered as MCP tools at <code>gradio_api/mcp/</code>, too."
    elif not shared:
        tools = (
            "With <code>LATENTMEM_MCP=1</code> and the extra <code>mcp</code> they are MCP tools, "
            "too."
        )
    return Markup(
        "<section><h2>From a program</h2><p>Everything the panels do has an endpoint: <code>pip "
        'install gradio_client</code>, then <code>Client("this address").predict("What is 2 + 3?", '
        'api_name="/solve")</code>. {}</p><details><summary>The endpoints and their parameters'
        "</summary>{}</details></section>"
    ).format(Markup(tools), table("Endpoints", heads, lines, "api"))


def header_facts(
    s: Settings,
    ready: bool,
    memories: int,
    own: int = 0,
    *,
    status: Status | None = None,
    error: str = "",
) -> Markup:
    """The line at the top: which model, is it loaded, how many memories, `own` ones."""
    name, bar = s.model.rstrip("/").rsplit("/", 1)[-1], Markup("")
    if ready:
        state = "ready"
    elif status is not None:
        # "memory" means something else here
        text = status.text.replace(f"{s.model} into memory", "the model")
        text = text.replace(" into memory", "")
        state = text.replace(s.model, "").replace("  ", " ").strip()
        if status.total > 0:
            bar = Markup(
                ' <progress max="1" value="{:.3f}" aria-label="Loading"></progress>'
            ).format(min(1.0, status.done / status.total))
    else:
        state = f"could not be loaded: {error}" if error else "loads at first use"
    many = "memory" if memories == 1 else "memories"
    mine = Markup("<li><b>{}</b> of them yours</li>").format(own) if s.hosted else Markup("")
    css = "loading" if not ready and status is not None else "model"
    return Markup(
        '<ul class="facts-line"><li class="{}"><b>{}</b> <span role="status">{}</span>{}</li>'
        "<li><b>{}</b> {}</li>{}</ul>"
    ).format(css, name, state, bar, memories, many, mine)
