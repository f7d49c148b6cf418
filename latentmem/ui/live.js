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
      b.scrollTop = !o || o.dataset.end !== "no" ? b.scrollHeight : Number(o.dataset.top);
      if (o?.dataset.end) { b.dataset.end = o.dataset.end; b.dataset.top = o.dataset.top; }
    });
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
          const restore = entry ? keep(entry.node, node) : null;
          entry ? entry.node.replaceWith(node) : host.append(node);
          restore?.();
          entry = { html, node };
          shown.set(key, entry);
        }
        const place = before ? before.nextSibling : host.firstChild;
        if (place !== entry.node) host.insertBefore(entry.node, place);
        before = entry.node;
      }
      const page = host.querySelector("[data-address]"); // an open memory, or "" when it was closed
      if (page && page.dataset.address !== host.dataset.open) {
        lm.showAddress?.(page.dataset.address);
        const { top } = host.getBoundingClientRect(); // opened from a table further down: show it
        if (page.dataset.address && host.dataset.open !== undefined && (top < 0 || top > innerHeight - 120)) {
          host.scrollIntoView({ block: "start" });
        }
        host.dataset.open = page.dataset.address;
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
      const link = e.target.closest("[data-memory]");
      if (!link || e.ctrlKey || e.metaKey || e.shiftKey) return;
      e.preventDefault();
      trigger("open_memory", { id: link.dataset.memory });
    });
    watch("value", draw);
    draw();
  };
})();
