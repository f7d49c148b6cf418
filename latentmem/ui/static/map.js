// Curves and the map of the memories, drawn by plotly. Figures arrive as plain JSON; their colours "theme:ink",
// "theme:paper", ... and everything unset follow the light or dark theme.
(() => {
  const lm = (window.latentmem ??= {});
  let loading = null;
  lm.plotly = () => (loading ??= new Promise((loaded) => { // a large script
    if (lm.plotlyAt) document.head.append(Object.assign(document.createElement("script"), { src: lm.plotlyAt, onload: loaded }));
  }));
  if (lm.opensMap && lm.plotlyAt) document.head.append(Object.assign(document.createElement("link"), { rel: "preload", as: "script", href: lm.plotlyAt }));

  const themed = () => {
    const style = getComputedStyle(document.querySelector(".gradio-container") ?? document.body);
    return Object.fromEntries(Object.entries({ ink: "ink", paper: "card", line: "line", soft: "soft", blue: "a" }).map(([name, of]) => [name, style.getPropertyValue(`--lm-${of}`).trim()]));
  };
  const coloured = (value, theme) => {
    if (typeof value === "string") return value.startsWith("theme:") ? theme[value.slice(6)] : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map((v) => coloured(v, theme));
    return value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, theme)])) : value;
  };
  const drawn = (host, { data, layout }, config) => {
    const theme = themed(), look = coloured(layout, theme);
    for (const name of Object.keys(look)) {
      if (/^[xy]axis\d*$/.test(name)) Object.assign(look[name], { gridcolor: theme.line, linecolor: theme.line, zerolinecolor: theme.line });
    }
    return window.Plotly.react(host, coloured(data, theme), { autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      ...look, font: { family: "inherit", size: 13, color: theme.ink, ...look.font } }, config);
  };
  const whenSeen = (host, draw) => { // draws when the panel is shown, its width changes or the theme does
    let wide = 0;
    new ResizeObserver(() => { if (host.clientWidth !== wide) { wide = host.clientWidth; draw(); } }).observe(host);
    const theme = new MutationObserver(() => { host.isConnected ? draw() : theme.disconnect(); });
    theme.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };

  lm.figure = ({ element, props, watch }) => {
    const host = element.querySelector(".lm-figure");
    const draw = () => {
      const figure = JSON.parse(JSON.stringify(props.value ?? {}));
      host.hidden = !figure.data?.length; // no empty axes
      if (host.hidden) return void window.Plotly?.purge(host);
      if (!host.clientWidth) return;
      if (!window.Plotly) return void lm.plotly().then(draw);
      if (figure.words) host.setAttribute("aria-label", figure.words);
      host.style.minHeight = `${figure.layout.height ?? 0}px`;
      drawn(host, figure, { displayModeBar: false });
    };
    whenSeen(host, draw);
    watch("value", draw);
    draw();
  };

  // ------------------------------------------------------------------ the map: takes the messages of messages.py
  const SVG_POINTS = 1000, REACH = 1.6; // more points are drawn by a graphics card if there is one; how far beside an arrow's direction the next point may lie
  const news = new Set(), store = (lm.mapData = {}); // points, paint, lit, extras
  lm.carry = ({ props, watch }, name) => {
    const take = () => { if (props.value) { store[name] = JSON.parse(props.value); news.forEach((tell) => tell(name)); } };
    watch("value", take);
    take();
  };
  const graphicsCard = () => { // WebGL in software is slower than SVG
    const gl = document.createElement("canvas").getContext("webgl"), named = gl?.getExtension("WEBGL_debug_renderer_info");
    return Boolean(gl) && !/swiftshader|llvmpipe|software|basic render/i.test(gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  };

  lm.map = ({ element, props, trigger, watch }) => {
    const host = element.querySelector(".lm-figure"), wait = element.querySelector(".lm-wait"), live = element.querySelector("[aria-live]");
    const finger = matchMedia("(pointer: coarse)").matches; // a finger on the map scrolls the page until asked to move the map
    const v = (lm.mapView = { host, mark: {}, picked: new Set() });
    let asked = null, explained = null, names = true, listening = false, adding = false, keyed = false, cursor = -1, frame = 0, rows = new Map(), telling = 0;
    const of = (name) => (store[name]?.stamp === store.points?.stamp ? store[name] : null); // of the points that are shown
    const mark = () => (v.mark.stamp === store.points?.stamp ? v.mark : {});

    // ---------------------------------------------------------------- the picture
    const traces = () => {
      const { ids = [], names: words, x, y } = store.points, { groups = [], codes = [], scale } = of("paint") ?? {};
      const type = ids.length > SVG_POINTS && (v.gl ??= graphicsCard()) ? "scattergl" : "scatter", open = mark();
      const lit = open.lit?.length ? open.lit : v.picked.size ? [...v.picked].map((id) => rows.get(id)) : of("lit")?.rows;
      const bright = lit && new Set(lit), size = ids.length < 500 ? 10 : ids.length < 8000 ? 7 : 5, line = { width: ids.length < 3000 ? 1 : 0, color: "theme:paper" };
      const some = (those, looks, more) => ({ type, mode: "markers", x: those.map((i) => x[i]), y: those.map((i) => y[i]), customdata: those.map((i) => ids[i]),
        text: those.map((i) => words[i]), hovertemplate: "%{text}<extra></extra>", marker: { size, line, opacity: 1, ...looks }, unselected: { marker: { color: "theme:line", opacity: 0.6 } },
        ...(bright && { selectedpoints: those.flatMap((i, k) => (bright.has(i) ? [k] : [])) }), ...more });
      const all = ids.map((_, i) => i), dense = { type: "histogram2dcontour", x, y, name: "Density", visible: "legendonly", showlegend: true, showscale: false,
        hoverinfo: "skip", ncontours: 9, colorscale: [[0, "rgba(0,114,178,0)"], [1, "rgba(0,114,178,.45)"]], line: { width: 0.5, color: "theme:soft" } };
      return [...(ids.length > 11 ? [dense] : []), ...(scale ? [some(all, { color: codes, ...scale }, { showlegend: false })] : groups.map((g, code) =>
        some(all.filter((i) => codes[i] === code), { color: g.colour, symbol: g.symbol }, { name: `${g.name} (${g.count})` }))),
        ...(open.data ?? []).map((t) => (t.mode === "markers" ? { ...t, type } : t))];
    };
    const beside = (labels) => { // each where it hides no point and no other name, or nowhere
      const { xaxis, yaxis } = host._fullLayout ?? {};
      if (!xaxis?.l2p) return [];
      const dots = (store.points.x ?? []).map((x, i) => [xaxis.l2p(x), yaxis.l2p(store.points.y[i])]), taken = [];
      const clear = ([l, r, t, b]) => l > 0 && t > 0 && r < xaxis._length && b < yaxis._length && !dots.some(([x, y]) => x > l - 7 && x < r + 7 && y > t - 7 && y < b + 7) &&
        !taken.some(([l2, r2, t2, b2]) => l < r2 && r > l2 && t < b2 && b > t2);
      return labels.flatMap((label) => {
        const wide = 3.9 * label.text.length + 5, x = xaxis.l2p(label.x), y = yaxis.l2p(label.y);
        for (let far = 0; far < 110; far += 11) for (let turn = 0; turn < 16; turn++) {
          const dx = far * Math.sin(turn * Math.PI / 8) * 1.5, dy = -far * Math.cos(turn * Math.PI / 8), box = [x + dx - wide, x + dx + wide, y + dy - 11, y + dy + 11];
          if (clear(box)) { taken.push(box); return [{ ...label, xshift: dx, yshift: -dy }]; }
        }
        return [];
      });
    };
    const layout = () => {
      const { annotations = [], frame } = mark(), labels = names && !annotations.length && !v.picked.size ? beside(of("extras")?.labels ?? []) : [];
      const axis = (k) => ({ visible: false, uirevision: `${store.points.stamp} ${frame}`, ...(frame ? { range: frame[k], autorange: false } : { autorange: true }) });
      return { margin: { l: 4, r: 4, t: 34, b: 4 }, uirevision: store.points.stamp, dragmode: host._fullLayout?.dragmode ?? (finger ? false : "pan"), hovermode: "closest", selections: [],
        legend: { orientation: "h", y: -0.01, yanchor: "top", x: 0, maxheight: 0.3, uirevision: JSON.stringify(store.paint?.groups) },
        hoverlabel: { bgcolor: "theme:ink", bordercolor: "theme:ink", align: "left", font: { color: "theme:paper" } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: "theme:soft", activecolor: "theme:blue" },
        xaxis: axis(0), yaxis: { ...axis(1), scaleanchor: "x" }, annotations: [...labels, ...annotations] };
    };
    const config = () => ({ displayModeBar: true, displaylogo: false, scrollZoom: true, doubleClick: "reset", modeBarButtons: [
      ["pan2d", "select2d", "lasso2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"],
      [{ name: "names", title: "Names of groups", icon: window.Plotly.Icons.tooltip_basic, click: () => { names = !names; draw(); } }, "toImage"]] });
    const draw = () => { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); }); }; // what changes together is drawn once
    const paint = () => {
      if (!host.clientWidth || !store.points) return;
      if (!window.Plotly) return void lm.plotly().then(draw);
      const { stamp, ids = [] } = store.points;
      wait.hidden = ids.length > 0;
      wait.textContent = "No memory has a place on this map yet.";
      drawn(host, { data: traces(), layout: layout() }, config()).then(() => {
        host.dataset.points = ids.length;
        if (!listening) listen();
        if (keyed && cursor >= 0) v.hover(ids[cursor]); // a redraw takes the box beside the point away
        if (ids.length && of("paint") && explained !== stamp) { explained = stamp; trigger("explain", {}); }
      });
    };
    const ask = () => setTimeout(() => { // the page shows a map whose points it lacks, and they did not come beside it
      const { stamp } = v.mark;
      if (host.clientWidth && stamp !== undefined && stamp !== store.points?.stamp && stamp !== asked) trigger("want", { stamp: asked = stamp });
    }, 40);
    const took = () => {
      v.mark = JSON.parse(JSON.stringify(props.value ?? {}));
      if (v.mark.words) host.setAttribute("aria-label", v.mark.words);
      lm.tables?.forEach((sync) => sync());
      ask();
      draw();
    };
    news.add((name) => {
      if (name === "points") { asked = null; cursor = -1; rows = new Map((store.points.ids ?? []).map((id, i) => [id, i])); }
      draw();
    });

    // ---------------------------------------------------------------- what a visitor does
    v.pick = (ids) => {
      v.picked = new Set(ids);
      live.textContent = `${v.picked.size} selected`;
      lm.tables?.forEach((sync) => sync());
      draw();
      clearTimeout(telling);
      telling = setTimeout(() => trigger("picked", { ids: [...v.picked] }), 120);
    };
    v.toggle = (id) => { const now = new Set(v.picked); if (!now.delete(id)) now.add(id); v.pick(now); };
    v.pickFound = () => v.pick((of("lit")?.rows ?? [...rows.values()]).map((i) => store.points.ids[i])); // what the search found, or all
    v.hover = (id) => { // as if the pointer were on this memory
      cursor = rows.get(id) ?? -1;
      if (!listening || cursor < 0) return void (listening && window.Plotly.Fx.unhover(host));
      const x = store.points.x[cursor], y = store.points.y[cursor], { xaxis, yaxis } = host._fullLayout;
      const go = ({ range: [a, b] }, at) => (at >= a && at <= b ? [a, b] : [at - (b - a) / 2, at + (b - a) / 2]); // the picture follows
      const [toX, toY] = [go(xaxis, x), go(yaxis, y)], show = () => window.Plotly.Fx.hover(host, { xval: x, yval: y }, "xy");
      toX[0] === xaxis.range[0] && toY[0] === yaxis.range[0] ? show() : window.Plotly.relayout(host, { "xaxis.range": toX, "yaxis.range": toY }).then(show);
    };
    v.clear = () => { // the latest thing first
      const { open, star } = v.mark;
      if (open || star) trigger("memory_click", open ? { id: "" } : { id: "", star: false });
      else if (v.picked.size) v.pick([]);
    };
    const step = (dx, dy) => { // to the near point in this direction
      const { ids, names: words, x, y } = store.points, from = cursor >= 0 ? cursor : rows.get(v.mark.open) ?? -1;
      let best = from < 0 && ids.length ? 0 : -1, least = Infinity;
      if (from >= 0) x.forEach((_, i) => {
        const along = (x[i] - x[from]) * dx + (y[i] - y[from]) * dy, off = Math.abs((x[i] - x[from]) * dy - (y[i] - y[from]) * dx);
        if (along > 1e-9 && off <= REACH * along && along + 2 * off < least) { best = i; least = along + 2 * off; }
      });
      if (best < 0) return;
      keyed = true;
      v.hover(ids[best]);
      live.textContent = new DOMParser().parseFromString(words[best], "text/html").body.textContent + (v.picked.has(ids[best]) ? ", selected" : "");
    };
    const press = (name) => host.querySelector(`.modebar-btn[data-attr=zoom][data-val=${name}]`)?.click();
    const KEYS = { ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1), Escape: () => v.clear(),
      Enter: () => { if (cursor >= 0) trigger("memory_click", { id: store.points.ids[cursor] }); }, " ": () => { if (cursor >= 0) v.toggle(store.points.ids[cursor]); },
      "+": () => press("in"), "=": () => press("in"), "-": () => press("out"), 0: () => press("reset") };
    host.addEventListener("keydown", (e) => {
      if (e.target !== host || e.ctrlKey || e.metaKey || e.altKey || !KEYS[e.key] || !listening) return;
      e.preventDefault();
      KEYS[e.key]();
    });
    host.addEventListener("pointerdown", (e) => { adding = e.shiftKey; keyed = false; host.focus({ preventScroll: true }); }, true);
    host.addEventListener("wheel", (e) => { if (!host.contains(document.activeElement) && !e.ctrlKey) e.stopPropagation(); }, { capture: true, passive: true });
    for (const kind of ["touchstart", "touchmove"]) host.addEventListener(kind, (e) => { if (host._fullLayout?.dragmode === false) e.stopPropagation(); }, { capture: true, passive: true });
    const listen = () => {
      listening = true;
      host.on("plotly_click", ({ points }) => {
        const id = points.find((p) => p.customdata)?.customdata;
        if (id) adding ? v.toggle(id) : trigger("memory_click", { id });
      });
      host.on("plotly_selected", (e) => { if (e) v.pick([...(adding ? v.picked : []), ...e.points.map((p) => p.customdata).filter(Boolean)]); });
      host.on("plotly_relayout", () => { if (of("extras")?.labels?.length) draw(); }); // names find other places
      host.on("plotly_hover", ({ points }) => { cursor = rows.get(points[0].customdata) ?? cursor; });
    };
    whenSeen(host, () => { ask(); draw(); });
    watch("value", took);
    if (store.points) news.forEach((tell) => tell("points"));
    took();
    if (host.clientWidth || lm.opensMap) lm.plotly(); // while the server looks for the points
  };

  // ------------------------------------------------------------------ tables of memories, walked with the arrow keys and tied to the map
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
})();
