// Tables of memories that are walked with the arrow keys and tied to the map, buttons within live areas, and the slider
// through a memory's steps.
(() => {
  const lm = (window.latentmem ??= {});
  const map = () => lm.mapView;

  lm.rows = ({ element }) => {
    const rows = () => [...element.querySelectorAll("tr[data-id]")];
    const boxes = () => element.querySelectorAll("input[data-pick]");
    const sync = () => { // ticks and the open row, as the map has them
      const v = map();
      boxes().forEach((b) => { const i = v?.row(b.dataset.pick) ?? -1; b.checked = i >= 0 && Boolean(v.picked[i]); b.disabled = i < 0; });
    };
    lm.tables ??= new Set();
    lm.tables.add(sync);
    const host = element.querySelector(".lm-live");
    new MutationObserver(() => { attach(); sync(); }).observe(host, { childList: true, subtree: true });
    const attach = () => {
      const v = map();
      if (!v || v.ticked) return;
      v.ticked = () => lm.tables.forEach((f) => f());
      v.opened = (id) => document.querySelectorAll("tr[data-id]").forEach((tr) => {
        tr.classList.toggle("chosen", tr.dataset.id === id && Boolean(id));
        if (tr.dataset.id === id && id) tr.setAttribute("aria-current", "true"); else tr.removeAttribute("aria-current");
      });
    };
    const show = (tr) => { const v = map(), i = tr ? v?.row(tr.dataset.id) ?? -1 : -1; if (v?.view()) v.hover(i, i >= 0 ? v.at(i) : null); };

    element.addEventListener("pointerover", (e) => show(e.target.closest("tr[data-id]")));
    element.addEventListener("pointerleave", () => show(null));
    element.addEventListener("focusin", (e) => show(e.target.closest("tr[data-id]")));
    element.addEventListener("focusout", () => show(null));
    element.addEventListener("change", (e) => {
      const id = e.target.dataset?.pick;
      if (id) map()?.toggle(map().row(id));
    });
    element.addEventListener("click", (e) => { if (e.target.closest("[data-pick-all]")) map()?.pickFound(); });
    element.addEventListener("keydown", (e) => {
      const tr = e.target.closest("tr[data-id]"), all = rows(), at = all.indexOf(tr);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[e.key];
      if (tr && to !== undefined) {
        e.preventDefault();
        const next = all[Math.max(0, Math.min(all.length - 1, to))];
        (next.querySelector(e.target.matches("input") ? "input" : "a") ?? next).focus();
      } else if (tr && e.key === " " && e.target.matches("a")) { e.preventDefault(); map()?.toggle(map().row(tr.dataset.id)); }
      else if (e.key === "Escape") map()?.clear();
    });
    attach();
  };

  lm.acts = ({ element, trigger }) => {
    element.addEventListener("click", (e) => {
      const b = e.target.closest("[data-do]");
      if (b) trigger("act", { do: b.dataset.do, value: b.dataset.value });
    });
    let asked = false; // a question that opens below the edge is brought into view, once
    new MutationObserver(() => {
      const sure = element.querySelector('[data-do^="really-"]');
      if (sure && !asked) sure.scrollIntoView({ block: "nearest" });
      asked = Boolean(sure);
    }).observe(element, { childList: true, subtree: true });
    element.addEventListener("input", (e) => {
      const box = e.target.closest("[data-stepper]");
      if (!box || e.target.type !== "range") return;
      const at = e.target.value;
      box.querySelectorAll("[data-step]").forEach((p) => { p.hidden = p.dataset.step !== at; });
      const title = box.querySelector(`[data-step="${CSS.escape(at)}"] h4`)?.textContent ?? at;
      box.querySelector("output").textContent = `${at} of ${box.dataset.stepper}`;
      e.target.setAttribute("aria-valuetext", title);
    });
  };
})();
