// Tables of memories, walked with the arrow keys and tied to the map; buttons in the page of a memory.
(() => {
  const lm = (window.latentmem ??= {});
  lm.tables = new Set();

  lm.rows = ({ element }) => {
    const map = () => lm.mapView, row = (e) => e.target.closest("tr[data-id]");
    const sync = () => { // ticks and the open row, as the map has them
      element.querySelectorAll("input[data-pick]").forEach((box) => { box.checked = Boolean(map()?.picked.has(box.dataset.pick)); });
      element.querySelectorAll("tr[data-id]").forEach((tr) => {
        const open = tr.dataset.id === map()?.mark.open;
        tr.classList.toggle("chosen", open);
        open ? tr.setAttribute("aria-current", "true") : tr.removeAttribute("aria-current");
      });
    };
    lm.tables.add(sync);
    new MutationObserver(sync).observe(element.querySelector(".lm-live"), { childList: true, subtree: true });
    for (const kind of ["pointerover", "focusin"]) element.addEventListener(kind, (e) => map()?.hover(row(e)?.dataset.id));
    for (const kind of ["pointerleave", "focusout"]) element.addEventListener(kind, () => map()?.hover());
    element.addEventListener("change", (e) => { if (e.target.dataset.pick) map()?.toggle(e.target.dataset.pick); });
    element.addEventListener("click", (e) => { if (e.target.closest("[data-pick-all]")) map()?.pickFound(); });
    element.addEventListener("keydown", (e) => {
      const tr = row(e), all = [...element.querySelectorAll("tr[data-id]")], at = all.indexOf(tr);
      const next = tr && all[{ ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[e.key]];
      if (next) next.querySelector(e.target.matches("input") ? "input" : "a").focus();
      else if (tr && e.key === " " && e.target.matches("a")) map()?.toggle(tr.dataset.id);
      else if (e.key === "Escape") map()?.clear();
      else return;
      e.preventDefault();
    });
  };

  lm.acts = ({ element, trigger }) => {
    element.addEventListener("click", (e) => {
      const b = e.target.closest("[data-do]");
      if (b) trigger("act", { do: b.dataset.do, value: b.dataset.value });
    });
  };
})();
