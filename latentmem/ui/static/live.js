// Draws a list of [key, html] fragments (made and escaped in views/) into one element and touches only those that
// changed, so that scroll positions, selections and open <details> survive eight updates a second.
(() => {
  const lm = (window.latentmem ??= {});

  const keep = (old, fresh) => { // what a visitor did to the old fragment
    const opened = old.querySelectorAll("details");
    fresh.querySelectorAll("details").forEach((d, i) => { if (opened[i]?.open) d.open = true; });
    const was = old.querySelectorAll(".body"), now = fresh.querySelectorAll(".body");
    return () => now.forEach((b, i) => {
      const o = was[i];
      const follows = !o || (o.closest(".writing") && o.dataset.end !== "no"); // a stored trace begins where it begins
      b.scrollTop = follows ? b.scrollHeight : Number(o.dataset.top ?? 0);
      if (o?.dataset.end) { b.dataset.end = o.dataset.end; b.dataset.top = o.dataset.top; }
    });
  };

  const STOPS = "a[href], button, input, select, textarea, summary, [tabindex]";
  const mark = (e) => e.tagName + ["pick", "memory", "receipt", "do", "value"].map((k) => e.dataset[k] ?? "").join("|");
  const focused = (old) => { // gives the keyboard its place back in what replaces `old`
    const on = document.activeElement, all = [...old.querySelectorAll(STOPS)], at = all.indexOf(on);
    if (at < 0) return null;
    const like = all.filter((e) => mark(e) === mark(on)).indexOf(on);
    return (node) => {
      const now = [...node.querySelectorAll(STOPS)];
      const next = now.filter((e) => mark(e) === mark(on))[like] ?? now[Math.min(at, now.length - 1)];
      next?.focus({ preventScroll: true });
    };
  };

  lm.live = ({ element, props, trigger, watch }) => {
    const host = element.querySelector(".lm-live");
    const shown = new Map(); // key -> {html, node}
    const draw = () => {
      const parts = Array.isArray(props.value) ? props.value : [];
      const keys = new Set(parts.map((p) => p[0]));
      for (const [key, entry] of shown) if (!keys.has(key)) { entry.node.remove(); shown.delete(key); }
      let before = null;
      for (const [key, html] of parts) {
        let entry = shown.get(key);
        if (!entry || entry.html !== html) {
          const node = document.createElement("div");
          node.className = "fragment";
          node.dataset.key = key;
          node.innerHTML = html;
          lm.typeset?.(node);
          const restore = entry ? keep(entry.node, node) : null, back = entry ? focused(entry.node) : null;
          entry ? entry.node.replaceWith(node) : host.append(node);
          restore?.();
          back?.(node);
          entry = { html, node };
          shown.set(key, entry);
        }
        const place = before ? before.nextSibling : host.firstChild;
        if (place !== entry.node) host.insertBefore(entry.node, place);
        before = entry.node;
      }
      const page = host.querySelector("[data-address]"); // an open memory, or "" when it was closed; perhaps with a receipt
      const address = page?.dataset.address, receipt = page?.dataset.receiptOpen ?? "", last = host.dataset.open;
      if (page && (address !== last || receipt !== host.dataset.slip)) {
        lm.showAddress?.(address, receipt);
        const { top } = host.getBoundingClientRect(); // opened from a table further down: show it
        if (address && last !== undefined && address !== last && (top < 0 || top > innerHeight - 120)) {
          host.scrollIntoView({ block: "start" });
        }
        Object.assign(host.dataset, { open: address, slip: receipt });
      }
      const title = host.querySelector("[data-focus]"), was = host.dataset.focus ?? "";
      host.dataset.focus = title?.dataset.focus ?? "";
      if (title && title.dataset.focus !== was) title.focus(); // opened: read on there
      if (!title && was && document.activeElement === document.body) { // closed: back to the link that opened it
        const link = host.querySelector(`[data-receipt="${CSS.escape(was)}"]`);
        link?.closest("details")?.setAttribute("open", "");
        link?.focus();
      }
    };
    host.addEventListener("scroll", (e) => {
      const b = e.target;
      if (!b.classList?.contains("body")) return;
      b.dataset.top = b.scrollTop;
      b.dataset.end = b.scrollTop + b.clientHeight >= b.scrollHeight - 24 ? "yes" : "no";
    }, true);
    element.addEventListener("click", (e) => {
      const button = e.target.closest("[data-do]");
      if (button) trigger("act", { do: button.dataset.do, value: button.dataset.value });
      const link = e.target.closest("a[data-memory], a[data-receipt]");
      if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
      e.preventDefault();
      const { memory, receipt } = link.dataset;
      receipt ? trigger("open_receipt", { id: receipt }) : trigger("open_memory", { id: memory });
    });
    element.addEventListener("toggle", (e) => { if (e.target.matches(".attempt")) differ(host); }, true);
    watch("value", draw);
    draw();
  };

  // ---------------------------------------------------------------- mathematics and light Markdown in elements that hold plain text
  // Everything is built from text nodes; the only markup made from foreign text is KaTeX's own, with trust off. Without
  // KaTeX the text stays as it is.
  const SPAN = /\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|(\\begin\{(align\*?|aligned|equation\*?|gather\*?|cases)\}[\s\S]+?\\end\{\5\})|\$(?!\s)((?:[^$\\\n]|\\[\s\S])+?)(?<!\s)\$(?!\d)|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;
  const cache = new Map();
  let katex = null;

  const setMath = (parent, tex, display, raw) => {
    const span = document.createElement("span");
    span.className = display ? "math display" : "math";
    const key = (display ? "D" : "I") + tex;
    try {
      if (!cache.has(key)) {
        if (cache.size > 2000) cache.clear();
        cache.set(key, katex.renderToString(tex, {
          displayMode: display, throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 200 }));
      }
      span.innerHTML = cache.get(key);
    } catch {
      span.className = "math raw"; // not LaTeX after all: show what was written
      span.textContent = raw;
    }
    parent.append(span);
  };

  const setProse = (parent, text) => { // **bold**, `code` and # headings
    for (const part of text.split(/(\*\*[^*\n]+\*\*|`[^`\n]+`|^#{1,6} .*$)/m)) {
      const [, bold, code, head] = part.match(/^(?:\*\*(.+)\*\*|`(.+)`|#{1,6} (.+))$/) ?? [], words = bold ?? code ?? head;
      if (words) parent.append(Object.assign(document.createElement(code ? "code" : "strong"), { textContent: words }));
      else if (part) parent.append(part);
    }
  };

  const setText = (element) => {
    const text = element.dataset.source ?? (element.dataset.source = element.textContent);
    const fresh = document.createDocumentFragment();
    let at = 0, apart = false; // a display stands in lines of its own: those around it go
    for (const m of katex ? text.matchAll(SPAN) : []) {
      const prose = text.slice(at, m.index), tex = m[1] ?? m[2] ?? m[3] ?? m[4] ?? m[6] ?? m[7], display = (m[1] ?? m[2] ?? m[4]) !== undefined;
      setProse(fresh, prose.replace(apart ? /^\s*\n/ : "", "").replace(display ? /\n\s*$/ : "", ""));
      setMath(fresh, tex.trim(), display, m[0]);
      [at, apart] = [m.index + m[0].length, display];
    }
    setProse(fresh, text.slice(at).replace(apart ? /^\s*\n/ : "", ""));
    element.replaceChildren(fresh);
  };

  lm.typeset = (root) => root.querySelectorAll(".tx").forEach(setText);

  // ---------------------------------------------------------------- two open attempts: the words, formulas too, that only one has are marked
  const pieces = (body) => [...body.childNodes].flatMap((n) => n.nodeType === Node.TEXT_NODE ? n.data.split(/(?<=\s)(?=\S)/).map((t) => new Text(t)) : [n]);
  const differ = (root) => {
    const open = [...root.querySelectorAll(".attempt[open] .body")];
    open.forEach(setText);
    if (open.length !== 2) return;
    const parts = open.map(pieces), [a, b] = parts.map((all) => all.map((n) => n.textContent.trim()));
    const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1)); // the most words in common from here on
    for (let i = a.length; i--;) for (let j = b.length; j--;) common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    const own = parts.map((all) => new Set(all));
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { own[0].delete(parts[0][i++]); own[1].delete(parts[1][j++]); } else common[i + 1][j] >= common[i][j + 1] ? i++ : j++;
    }
    const marked = (n) => { const m = document.createElement("mark"); m.append(n); return m; };
    open.forEach((body, k) => body.replaceChildren(...parts[k].map((n) => own[k].has(n) && n.textContent.trim() ? marked(n) : n)));
  };

  if (lm.katex) {
    import(new URL(lm.katex, document.baseURI)).then((module) => {
      katex = module.default?.renderToString ? module.default : null;
      if (katex) lm.typeset(document);
    }).catch(() => { katex = null; });
  }
})();
