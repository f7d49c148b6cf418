// The map of the memories: takes the messages of views_map.py, draws them, and knows what is where. Plotly draws the frame,
// edges, names and density and lets the visitor move and zoom; map_cloud.js paints the points; map_input.js listens. Until
// plotly's large script is there the points are painted without it, where it will have them.
(() => {
  const lm = (window.latentmem ??= {});
  const store = (lm.mapData = { points: null, paint: null, lit: null, extras: null });
  const listeners = new Set();
  const MANY = 8000, AFRESH = 200; // points; milliseconds
  lm.hand = (name, value) => { if (value) { store[name] = value; listeners.forEach((f) => f(name)); } };
  lm.handNames = (words) => { // of points that came without
    if (words.stamp !== store.points?.stamp) return;
    Object.assign(store.points, words);
    listeners.forEach((f) => f("names"));
  };
  lm.carry = ({ props, watch }, name) => {
    const take = () => lm.hand(name, props.value);
    watch("value", take);
    take();
  };
  const bytes = (text) => Uint8Array.from(atob(text ?? ""), (c) => c.charCodeAt(0));

  lm.map = ({ element, props, trigger, watch }) => {
    const $ = (css) => element.querySelector(css);
    const stage = $(".lm-stage"), host = $(".lm-figure"), wait = $(".lm-wait"), tip = $(".lm-tip"), live = $("[aria-live]");
    const cloudCanvas = document.createElement("canvas"), markCanvas = document.createElement("canvas");
    cloudCanvas.className = markCanvas.className = "lm-cloud";
    const v = { element, stage, host, trigger, cloud: { n: 0, xy: new Float32Array(0), codes: new Uint8Array(0) }, stamp: null,
      mark: {}, cursor: -1, open: -1, only: null, picked: new Uint8Array(0), count: 0, labels: true, density: false, frames: 0 };
    lm.mapView = v;
    let asked = null, explained = null, ids = null, names = null, rowOf = null, lit = null, theme = null, drawn = false, stale = false, pending = 0, known = {};
    let frame = null, moved = null; // [x0, x1, y0, y1] before plotly is there: of all points, and as the visitor chose

    // ---------------------------------------------------------------- what is where
    v.id = (i) => (ids ??= store.points?.ids?.split("\n"))?.[i] ?? ""; // "" as well while the names are on their way
    v.name = (i) => (names ??= store.points?.names?.split("\n"))?.[i] ?? "";
    v.row = (id) => (rowOf ??= store.points?.ids && new Map(Array.from({ length: v.cloud.n }, (_, i) => [v.id(i), i])))?.get(id) ?? -1;
    v.group = (i) => store.paint?.groups?.[v.cloud.codes[i]];
    v.view = (ratio = 1) => {
      const { xaxis: x, yaxis: y } = host._fullLayout ?? {};
      if (!x?._length) return frame && early(moved ?? frame, ratio);
      const [x0, x1] = x.range, [y0, y1] = y.range, sx = x._length / (x1 - x0), sy = -y._length / (y1 - y0);
      return { width: Math.round(host.clientWidth * ratio), height: Math.round(host.clientHeight * ratio), ratio,
        x0: (x._offset - sx * x0) * ratio, sx: sx * ratio, y0: (y._offset + y._length - sy * y0) * ratio, sy: sy * ratio };
    };
    const early = ([a, b, c, d], ratio) => { // as plotly will have it: one scale for both axes, the picture in the middle
      const w = host.clientWidth * ratio, h = host.clientHeight * ratio, s = Math.min(w / (b - a), h / (d - c));
      return w && { width: Math.round(w), height: Math.round(h), ratio, x0: (w - s * (a + b)) / 2, sx: s, y0: (h + s * (c + d)) / 2, sy: -s };
    };
    v.range = () => { const w = v.view(); return { x: [-w.x0 / w.sx, (w.width - w.x0) / w.sx], y: [(w.height - w.y0) / w.sy, -w.y0 / w.sy] }; };
    v.move = ({ x, y }) => {
      if (drawn) return window.Plotly.relayout(host, { "xaxis.range": x, "yaxis.range": y });
      moved = [...x, ...y];
      v.paint();
      return Promise.resolve();
    };
    v.at = (i) => { const w = v.view(); return w && [w.x0 + w.sx * v.cloud.xy[2 * i], w.y0 + w.sy * v.cloud.xy[2 * i + 1]]; };
    v.radius = () => (v.cloud.n < 500 ? 5.2 : v.cloud.n < 8000 ? 3.6 : 2.4);
    const current = () => (v.mark.stamp === v.stamp ? v.mark : {});
    const bits = (text, n) => { const b = bytes(text), mask = new Uint8Array(n); for (let i = 0; i < n; i++) mask[i] = (b[i >> 3] >> (i & 7)) & 1; return mask; };

    const litMask = () => { // what stays bright, most recent wish first; null: everything
      const n = v.cloud.n, mask = () => new Uint8Array(n);
      if (v.only !== null) return mask().map((_, i) => (v.cloud.codes[i] === v.only ? 1 : 0));
      const hits = v.guess ?? current().lit ?? [];
      if (hits.length) { const m = mask(); hits.forEach((i) => { m[i] = 1; }); return m; }
      if (v.count) return v.picked;
      if (store.lit?.stamp === v.stamp && store.lit.bits) return (known.lit === store.lit ? known : (known = { lit: store.lit, mask: bits(store.lit.bits, n) })).mask;
      return null;
    };
    v.lit = () => lit;

    // ---------------------------------------------------------------- painting
    const themed = () => {
      const style = getComputedStyle(document.querySelector(".gradio-container") ?? document.body);
      const get = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
      return { ink: get("--lm-ink", "#222"), paper: get("--lm-card", "#fff"), soft: get("--lm-soft", "#666"), blue: get("--lm-a", "#0072b2"),
        label: document.body.classList.contains("dark") ? "rgba(28,32,39,.78)" : "rgba(255,255,255,.82)" };
    };
    const colour = (c) => (c?.startsWith("theme:") ? theme[c.slice(6)] : c);
    v.colour = (c) => colour(c);
    const look = () => {
      const p = store.paint, colours = p?.stamp === v.stamp ? (p.scale ? p.scale.colours : p.groups.map((g) => colour(g.colour))) : [theme.blue];
      return { colours: colours.map(lm.rgb), shapes: p?.scale ? [] : (p?.groups ?? []).map((g) => g.symbol), paper: lm.rgb(theme.paper) };
    };
    let looks = null, gliding = 0, last = null; // the view that was painted last, and when
    const painted = (view, ratio) => {
      looks ??= look();
      lm.paintCloud(cloudCanvas, view, v.cloud, { ...looks, radius: v.radius() * ratio, rim: v.cloud.n < 3000 ? ratio : 0, lit });
      cloudCanvas.style.transform = "";
      last = { view, at: performance.now() };
      host.dataset.points = v.cloud.n;
    };
    const shifted = (view, ratio) => { // very many points on the way: their picture is moved, and painted anew now and then
      const old = last?.view;
      if (v.cloud.n < MANY || old?.width !== view.width || old.height !== view.height || performance.now() - last.at > AFRESH) return false;
      const kx = view.sx / old.sx, ky = view.sy / old.sy;
      cloudCanvas.style.transform = `translate(${(view.x0 - kx * old.x0) / ratio}px, ${(view.y0 - ky * old.y0) / ratio}px) scale(${kx}, ${ky})`;
      return true;
    };
    const rest = () => { clearTimeout(gliding); gliding = 0; v.paint(); };
    const glide = () => { clearTimeout(gliding); gliding = setTimeout(rest, AFRESH); v.paint(); };
    v.paint = () => { // the points, at most once a frame
      v.dirty = true;
      if (pending) return;
      pending = requestAnimationFrame(() => {
        pending = 0;
        const ratio = Math.min(window.devicePixelRatio || 1, 2), view = v.view(ratio);
        if (!view || !theme) return;
        if (v.dirty) {
          if (!(gliding && shifted(view, ratio))) painted(view, ratio);
          v.dirty = false;
          v.frames += 1;
        }
        marks(view, ratio);
      });
    };
    v.point = () => { if (!pending) pending = requestAnimationFrame(() => { pending = 0; const r = Math.min(window.devicePixelRatio || 1, 2), view = v.view(r); if (view && theme) marks(view, r); if (v.dirty) v.paint(); }); };
    const marks = (view, ratio) => { // rings and the star, above the points
      const { width, height } = view, c = markCanvas.getContext("2d");
      if (markCanvas.width !== width || markCanvas.height !== height) { markCanvas.width = width; markCanvas.height = height; }
      c.setTransform(1, 0, 0, 1, 0, 0);
      c.clearRect(0, 0, width, height);
      const ring = (i, radius, line, style) => {
        if (i < 0 || i >= v.cloud.n) return;
        c.beginPath();
        c.arc(view.x0 + view.sx * v.cloud.xy[2 * i], view.y0 + view.sy * v.cloud.xy[2 * i + 1], (v.radius() + radius) * ratio, 0, 7);
        c.lineWidth = (line + 2) * ratio; c.strokeStyle = theme.paper; c.stroke();
        c.lineWidth = line * ratio; c.strokeStyle = style; c.stroke();
      };
      (current().lit ?? []).forEach((i) => ring(i, 2.5, 1.5, theme.soft));
      ring(v.open, 5.5, 2.5, theme.ink);
      if (v.cursor !== v.open) ring(v.cursor, 4.5, 2, theme.blue);
      const star = current().star;
      if (star) {
        c.setTransform(11 * ratio, 0, 0, 11 * ratio, view.x0 + view.sx * star[0], view.y0 + view.sy * star[1]);
        const path = lm.outline("star");
        c.lineWidth = 0.34; c.strokeStyle = theme.paper; c.lineJoin = "round"; c.stroke(path);
        c.fillStyle = "#D55E00"; c.fill(path);
      }
    };
    v.relight = () => { lit = litMask(); last = null; v.paint(); };

    // ---------------------------------------------------------------- the frame
    const resolved = (value) => (typeof value === "string" && value.startsWith("theme:") ? theme[value.slice(6)]
      : Array.isArray(value) ? (typeof value[0] === "number" ? value : value.map(resolved))
      : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([k, x]) => [k, resolved(x)])) : value);
    const extent = () => {
      const e = [Infinity, -Infinity, Infinity, -Infinity], { n, xy } = v.cloud, star = current().star;
      const grow = (x, y) => { e[0] = Math.min(e[0], x); e[1] = Math.max(e[1], x); e[2] = Math.min(e[2], y); e[3] = Math.max(e[3], y); };
      for (let i = 0; i < n; i++) grow(xy[2 * i], xy[2 * i + 1]);
      if (star) grow(...star);
      if (!n) return [-1, 1, -1, 1];
      const px = 0.06 * (e[1] - e[0]) || 0.5, py = 0.08 * (e[3] - e[2]) || 0.5;
      return [e[0] - px, e[1] + px, e[2] - py, e[3] + py];
    };
    v.home = () => { const [a, b, c, d] = extent(); return { x: [a, b], y: [c, d] }; };
    const sketch = () => {
      if (!frame) { host.append(cloudCanvas, markCanvas); lm.mapInput(v, { live, tip, store }); v.legend(); }
      frame = extent();
      v.relight();
    };
    v.draw = () => {
      stale = !host.clientWidth; // a panel that is not shown is drawn when it is
      if (stale) return Promise.resolve();
      theme = themed();
      looks = null;
      if (!drawn) sketch();
      if (!window.Plotly) return Promise.resolve();
      const [x0, x1, y0, y1] = drawn ? extent() : moved ?? frame, mark = current(), extra = store.extras?.stamp === v.stamp ? store.extras : {};
      const quiet = { visible: false, autorange: false }; // no ticks to compute for every frame
      const data = [{ type: "scatter", x: [], y: [], showlegend: false }, ...(v.density && extra.density ? [extra.density] : []), ...(mark.data ?? [])];
      const hits = mark.layout?.annotations ?? [];
      const layout = { margin: { l: 0, r: 0, t: 0, b: 0 }, hovermode: false, dragmode: v.mode || false, showlegend: false, autosize: true,
        uirevision: v.stamp, selectionrevision: Math.random(), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: "inherit", size: 13, color: theme.ink }, newselection: { line: { color: theme.ink, width: 1.5, dash: "dot" } },
        xaxis: { ...quiet, range: [x0, x1] }, yaxis: { ...quiet, range: [y0, y1], scaleanchor: "x" },
        annotations: [...(v.labels && !hits.length && !v.count ? extra.labels ?? [] : []), ...hits] };
      return window.Plotly.react(host, resolved(data), resolved(layout), { displayModeBar: false, responsive: false, scrollZoom: true, doubleClick: false }).then(() => {
        const under = host.querySelector(".gl-container") ?? host.querySelector(".svg-container");
        if (cloudCanvas.parentNode !== under) under.append(cloudCanvas, markCanvas);
        if (!drawn) {
          drawn = true;
          host.on("plotly_relayouting", glide);
          host.on("plotly_relayout", rest);
          v.join();
        }
        v.relight();
        if (v.cloud.n && explained !== v.stamp) { explained = v.stamp; if (store.extras?.stamp !== v.stamp) setTimeout(() => trigger("explain", {}), 150); }
      });
    };

    // ---------------------------------------------------------------- news
    const lacks = () => host.clientWidth && v.mark.stamp !== undefined && v.mark.stamp !== v.stamp && asked !== v.mark.stamp;
    const want = () => { // the page is to show a picture whose points it lacks, and they did not come beside it
      if (!lacks()) return;
      setTimeout(() => { if (lacks()) trigger("want", { stamp: asked = v.mark.stamp }); }, 40);
    };
    const took = {
      points: () => {
        const p = store.points, kept = v.count ? new Set(v.pickedIds()) : null;
        if (p.stamp === v.stamp) { asked = null; return; }
        const xy = bytes(p.xy);
        v.cloud = { n: p.n, xy: new Float32Array(xy.buffer, 0, 2 * p.n), codes: new Uint8Array(p.n) };
        v.stamp = p.stamp;
        ids = names = rowOf = asked = moved = v.only = v.guess = null;
        v.cursor = -1;
        v.picked = new Uint8Array(p.n);
        v.count = 0;
        if (kept) kept.forEach((id) => { const i = v.row(id); if (i >= 0) { v.picked[i] = 1; v.count += 1; } });
        if (kept) v.tellPicked();
        wait.hidden = p.n > 0;
        wait.textContent = "No memory has a place on this map yet.";
        took.mark();
        took.paint();
      },
      paint: () => {
        if (store.paint?.stamp !== v.stamp) return;
        v.cloud.codes = bytes(store.paint.codes);
        v.only = null;
        looks = null;
        v.legend?.();
        if (theme) v.relight();
      },
      mark: () => {
        v.mark = props.value && typeof props.value === "object" ? props.value : {};
        v.guess = null;
        v.open = current().chosen ?? -1;
        if (v.mark.open !== undefined) v.opened?.(v.mark.open);
        if (current().words) host.setAttribute("aria-label", v.mark.words);
        want();
        v.draw();
      },
      names: () => { v.ticked?.(); v.named?.(); },
      lit: () => { if (theme) v.relight(); }, extras: () => v.draw(),
    };
    listeners.add((name) => took[name]?.());
    v.pickedIds = () => Array.from(v.picked.keys()).filter((i) => v.picked[i]).map(v.id);

    const join = () => { if (window.Plotly) v.draw(); else { lm.plotly(); setTimeout(join, 30); } };
    new ResizeObserver(() => {
      if (!host.clientWidth) return;
      want();
      if (drawn && host._fullLayout) window.Plotly.Plots.resize(host).then(() => (stale ? v.draw() : v.paint())); else v.draw();
    }).observe(stage);
    new MutationObserver(() => v.draw().then(() => v.legend?.())).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    watch("value", took.mark);
    if (store.points) took.points();
    took.mark();
    requestAnimationFrame(() => setTimeout(join)); // the picture first, if its points are there: plotly takes long to read
  };
})();
