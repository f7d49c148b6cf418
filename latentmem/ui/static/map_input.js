// Pointer, keyboard, tools and legend of the map. Everything a pointer can do has a key, and everything that is shown on the
// map stands in the table as well.
(() => {
  const lm = (window.latentmem ??= {});
  const HOVER = 14, MOVED = 5; // pixels: reach of the pointer; beyond this a press was a drag

  lm.mapInput = (v, { live, tip, store }) => {
    const { stage, host, element, trigger } = v;
    const coarse = window.matchMedia?.("(pointer: coarse)").matches;
    v.mode = coarse ? "" : "pan"; // a finger on the map should scroll the page, until asked to move the map
    let down = null, armed = false, shift = false, anchor = null, waiting = -1;

    // ---------------------------------------------------------------- selection
    const packed = () => {
      const bits = new Uint8Array((v.cloud.n + 7) >> 3);
      for (let i = 0; i < v.cloud.n; i++) if (v.picked[i]) bits[i >> 3] |= 1 << (i & 7);
      let text = "";
      for (let i = 0; i < bits.length; i += 8192) text += String.fromCharCode(...bits.subarray(i, i + 8192));
      return btoa(text);
    };
    let telling = 0;
    v.tellPicked = () => {
      v.count = v.picked.reduce((n, b) => n + b, 0);
      v.ticked?.();
      v.draw();
      clearTimeout(telling);
      telling = setTimeout(() => trigger("picked", { stamp: v.stamp, bits: v.count ? packed() : "" }), 120);
      live.textContent = `${v.count} selected`;
    };
    v.pick = (mask, add) => {
      v.picked = add ? v.picked.map((b, i) => b | mask[i]) : Uint8Array.from(mask);
      v.tellPicked();
    };
    v.toggle = (i) => { if (i >= 0) { v.picked[i] ^= 1; v.tellPicked(); } };
    v.pickNone = () => { if (v.count) v.pick(new Uint8Array(v.cloud.n)); };
    v.pickFound = () => { // what the search found, or all
      const found = store.lit?.stamp === v.stamp && store.lit.bits ? atob(store.lit.bits) : null;
      v.pick(Uint8Array.from({ length: v.cloud.n }, (_, i) => (found ? (found.charCodeAt(i >> 3) >> (i & 7)) & 1 : 1)));
    };
    v.join = () => host.on("plotly_selected", (event) => { // once plotly is there
      if (!event) return;
      const { range, lassoPoints } = event;
      const polygon = lassoPoints ? lassoPoints.x.map((x, k) => [x, lassoPoints.y[k]])
        : range ? [[range.x[0], range.y[0]], [range.x[1], range.y[0]], [range.x[1], range.y[1]], [range.x[0], range.y[1]]] : null;
      if (polygon) v.pick(lm.within(v.cloud, polygon), shift);
    });

    // ---------------------------------------------------------------- opening and closing
    v.go = (i) => {
      if (i < 0) return;
      if (!v.id(i)) { waiting = i; return; }
      v.only = null;
      v.open = i;
      v.guess = [i]; // shown at once; the neighbours come with the answer
      v.relight();
      trigger("memory_click", { id: v.id(i) });
      marked();
    };
    v.named = () => { const i = waiting; waiting = -1; v.go(i); }; // the names came after the click
    v.clear = () => {
      const was = v.open >= 0 || v.mark.open, star = v.mark.star;
      v.guess = null;
      v.cursor = -1;
      hideTip();
      if (v.only !== null) { v.only = null; marked(); v.relight(); return; }
      if (was) { v.open = -1; v.mark = { ...v.mark, lit: [], chosen: -1 }; v.relight(); trigger("memory_click", { id: "" }); return; }
      if (star) { trigger("memory_click", { id: "", star: false }); return; }
      v.pickNone();
      v.point();
    };

    // ---------------------------------------------------------------- pointer
    const hideTip = () => { tip.hidden = true; };
    const showTip = (i, [x, y]) => {
      const hit = v.mark.stamp === v.stamp && (v.mark.lit ?? []).includes(i), group = v.group(i);
      const head = document.createElement("b"), rest = document.createElement("span");
      head.textContent = v.name(i);
      rest.textContent = [group?.name, v.picked[i] ? "selected" : "", hit && i !== v.open ? "a neighbour" : ""].filter(Boolean).join(" · ");
      tip.replaceChildren(head, rest);
      tip.hidden = false;
      const w = tip.offsetWidth, h = tip.offsetHeight;
      tip.style.left = `${Math.max(4, Math.min(stage.clientWidth - w - 4, x - w / 2))}px`;
      tip.style.top = `${y - h - 14 > 0 ? y - h - 14 : y + 16}px`;
    };
    v.hover = (i, at) => {
      if (i !== v.cursor) { v.cursor = i; v.point(); }
      if (i < 0 || !at) hideTip(); else showTip(i, at);
      stage.classList.toggle("over", i >= 0);
    };
    const place = (e) => { const box = host.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
    const under = (e) => { const w = v.view(); return w ? lm.nearestPoint(w, v.cloud, ...place(e), e.pointerType === "touch" ? 22 : HOVER, v.lit()) : -1; };
    let queued = 0;
    stage.addEventListener("pointermove", (e) => {
      if (e.pointerType === "touch" || e.buttons || queued) return;
      queued = requestAnimationFrame(() => { queued = 0; const i = under(e); v.hover(i, i >= 0 ? v.at(i) : null); });
    });
    stage.addEventListener("pointerleave", () => { armed = false; v.hover(-1); });
    stage.addEventListener("pointerdown", (e) => { down = e.button === 0 ? [e.clientX, e.clientY, e.timeStamp] : null; armed = true; shift = e.shiftKey; hideTip(); }, true);
    window.addEventListener("pointerup", (e) => {
      if (!down) return;
      const moved = Math.hypot(e.clientX - down[0], e.clientY - down[1]), long = e.timeStamp - down[2] > 700;
      down = null;
      if (moved > MOVED || long || !host.isConnected) return;
      host.focus({ preventScroll: true });
      const i = under(e);
      if (i >= 0 && e.shiftKey) v.toggle(i); else if (i >= 0) v.go(i); else v.clear();
    });
    stage.addEventListener("wheel", (e) => { if (!armed && !e.ctrlKey && !e.metaKey) e.stopPropagation(); }, { capture: true, passive: true });
    for (const kind of ["touchstart", "touchmove"]) stage.addEventListener(kind, (e) => { if (!v.mode) e.stopPropagation(); }, { capture: true, passive: true });

    // ---------------------------------------------------------------- keyboard
    const zoom = (factor) => {
      const { x, y } = v.range(), around = ([a, b]) => { const m = (a + b) / 2, half = ((b - a) / 2) * factor; return [m - half, m + half]; };
      v.move({ x: around(x), y: around(y) });
    };
    const fit = () => v.move(v.home());
    const say = (i) => { live.textContent = i < 0 ? "" : v.name(i) + (v.picked[i] ? ", selected" : ""); };
    const step = (dx, dy) => {
      if (!v.cloud.n) return;
      const from = v.cursor >= 0 ? v.cursor : v.open;
      if (from < 0) { const w = v.view(); visit(lm.nearestPoint(w, v.cloud, w.width / 2, w.height / 2, 1e5)); return; }
      const next = lm.nextPoint(v.view(), v.cloud, from, dx, dy);
      if (next >= 0) visit(next);
    };
    const visit = (i) => {
      const [x, y] = v.at(i), w = v.view();
      if (x < 0 || y < 0 || x > w.width || y > w.height) { // walk the picture after it
        const { x: [x0, x1], y: [y0, y1] } = v.range(), px = v.cloud.xy[2 * i], py = v.cloud.xy[2 * i + 1];
        const rx = (x1 - x0) / 2, ry = (y1 - y0) / 2;
        v.move({ x: [px - rx, px + rx], y: [py - ry, py + ry] }).then(() => v.hover(i, v.at(i)));
      } else v.hover(i, [x, y]);
      say(i);
    };
    const KEYS = { ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
      Enter: () => v.go(v.cursor), " ": () => { v.toggle(v.cursor); say(v.cursor); }, "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7),
      0: fit, Escape: () => v.clear() };
    host.addEventListener("keydown", (e) => {
      if (e.ctrlKey || e.metaKey || e.altKey || !KEYS[e.key]) return;
      e.preventDefault();
      KEYS[e.key]();
    });
    host.addEventListener("blur", () => v.hover(-1));

    // ---------------------------------------------------------------- tools
    const marked = () => {
      element.querySelectorAll("button[data-mode]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.mode === v.mode)));
      element.querySelectorAll("[data-layer]").forEach((b) => b.setAttribute("aria-pressed", String(v[b.dataset.layer])));
      element.querySelectorAll("[data-only]").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.only) === v.only)));
      stage.dataset.mode = v.mode;
    };
    element.addEventListener("click", (e) => {
      const b = e.target.closest("button");
      if (!b) return;
      const { mode, layer, only } = b.dataset;
      if (mode) { v.mode = v.mode === mode ? (coarse ? "" : "pan") : mode; v.draw(); }
      else if (b.dataset.zoom) ({ in: () => zoom(0.7), out: () => zoom(1 / 0.7), fit })[b.dataset.zoom]();
      else if (layer) { v[layer] = !v[layer]; v.draw(); }
      else if (only !== undefined) { v.only = v.only === Number(only) ? null : Number(only); v.relight(); }
      marked();
    });

    // ---------------------------------------------------------------- legend
    const icon = (symbol, colour) => {
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), circle = !lm.outlines[symbol];
      svg.setAttribute("viewBox", "-1.4 -1.4 2.8 2.8");
      svg.setAttribute("aria-hidden", "true");
      const shape = document.createElementNS("http://www.w3.org/2000/svg", circle ? "circle" : "path");
      circle ? shape.setAttribute("r", "1.05") : shape.setAttribute("d", lm.outlines[symbol]);
      shape.setAttribute("fill", colour);
      svg.append(shape);
      return svg;
    };
    v.legend = () => {
      const box = element.querySelector(".lm-legend"), p = store.paint;
      if (p?.stamp !== v.stamp) { box.replaceChildren(); return; }
      if (p.scale) {
        const bar = document.createElement("i"), words = ["low", "high"].map((k) => { const s = document.createElement("span"); s.textContent = p.scale[k]; return s; });
        const title = document.createElement("b");
        title.textContent = p.scale.title;
        bar.style.background = `linear-gradient(90deg, ${p.scale.colours.join(",")})`;
        const line = document.createElement("p");
        line.className = "scale";
        line.append(title, words[0], bar, words[1]);
        box.replaceChildren(line);
        return;
      }
      box.replaceChildren(...p.groups.map((g, k) => {
        const b = document.createElement("button"), n = document.createElement("span"), name = document.createElement("span");
        b.type = "button";
        b.dataset.only = k;
        b.title = "Show only these";
        name.textContent = g.name;
        n.textContent = g.count;
        n.className = "num";
        b.append(icon(g.symbol, v.colour(g.colour)), name, n);
        return b;
      }));
      marked();
    };
    anchor = marked;
    anchor();
  };
})();
