// Draws a list of [key, html] fragments (made and escaped in views*.py) into one element and touches only those that
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
  const mark = (e) => e.tagName + ["pick", "memory", "receipt", "do", "value", "take"].map((k) => e.dataset[k] ?? "").join("|");
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
      const tile = e.target.closest("[data-take]"); // an example to begin with
      if (tile) trigger("take", { id: tile.dataset.take });
      const link = e.target.closest("a[data-memory], a[data-receipt]");
      if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
      e.preventDefault();
      const { memory, receipt } = link.dataset;
      receipt ? trigger("open_receipt", { id: receipt }) : trigger("open_memory", { id: memory });
    });
    watch("value", draw);
    draw();
  };
})();
