// Paints the points of the map, pixel by pixel, on a canvas. Plotly's own WebGL points need a graphics card: without one
// a frame of 50,000 takes seconds, this takes milliseconds, and it looks the same everywhere.
(() => {
  const lm = (window.latentmem ??= {});
  const PATHS = { // outlines within -1..1, about equal in area
    circle: null, square: "M-.88-.88H.88V.88H-.88Z", diamond: "M0-1.2 1.2 0 0 1.2-1.2 0Z", "triangle-up": "M0-1.15 1.15.85H-1.15Z",
    "triangle-down": "M0 1.15 1.15-.85H-1.15Z", cross: "M-.4-1.15H.4V-.4H1.15V.4H.4V1.15H-.4V.4H-1.15V-.4H-.4Z",
    pentagon: "M0-1.15 1.1-.35.68.93H-.68L-1.1-.35Z", x: "M-1-.6-.6-1 0-.4.6-1 1-.6.4 0 1 .6.6 1 0 .4-.6 1-1 .6-.4 0Z",
    star: "M0-1.3.33-.43 1.24-.4.53.16.76 1.05 0 .53-.76 1.05-.53.16-1.24-.4-.33-.43Z" };
  lm.outline = (name) => { const p = new Path2D(); name !== "circle" && PATHS[name] ? p.addPath(new Path2D(PATHS[name])) : p.arc(0, 0, 1, 0, 7); return p; };
  lm.outlines = PATHS;

  const stamps = new Map(); // shape and radius -> {solid: offsets written as they are, soft: [offset, coverage], ...}
  const stamp = (shape, radius) => {
    const key = shape + radius.toFixed(2);
    if (stamps.has(key)) return stamps.get(key);
    const reach = Math.ceil(radius * 1.35) + 1, side = 2 * reach + 1;
    const c = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    c.canvas.width = c.canvas.height = side;
    c.translate(reach + 0.5, reach + 0.5);
    c.scale(radius, radius);
    c.fill(lm.outline(shape));
    const alpha = c.getImageData(0, 0, side, side).data;
    const rows = [], soft = [];
    for (let y = 0; y < side; y++) {
      let from = -1;
      for (let x = 0; x <= side; x++) {
        const a = x < side ? alpha[4 * (y * side + x) + 3] : 0;
        if (a > 250) { if (from < 0) from = x; continue; }
        if (from >= 0) { rows.push([y - reach, from - reach, x - reach]); from = -1; }
        if (a > 8) soft.push([y - reach, x - reach, a]);
      }
    }
    const made = { reach, rows: Int16Array.from(rows.flat()), soft: Int16Array.from(soft.flat()) };
    stamps.set(key, made);
    return made;
  };

  lm.rgb = (text) => { // any CSS colour -> [r, g, b]
    const c = (lm.rgb.context ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
    c.canvas.width = c.canvas.height = 1;
    c.fillStyle = text;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const word = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  const mixed = (a, b, share) => a.map((v, i) => Math.round(v + (b[i] - v) * share));

  // view: {width, height, ratio, x0, y0, sx, sy} with pixel = x0 + sx * x (device pixels); cloud: {n, xy, codes};
  // look: {colours: [[r, g, b]], shapes: [name], radius, paper: [r, g, b], rim, lit: Uint8Array or null, hidden}
  lm.paintCloud = (canvas, view, cloud, look) => {
    const { width: w, height: h } = view;
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; canvas.lmImage = null; }
    const context = canvas.getContext("2d");
    if (!w || !h) return;
    const image = (canvas.lmImage ??= context.createImageData(w, h)), pixels = (image.lm ??= new Uint32Array(image.data.buffer));
    pixels.fill(0);
    const { n, xy, codes } = cloud, { lit, radius } = look;
    const bright = look.colours.map(word), dim = look.colours.map((c) => word(mixed(c, look.paper, 0.8))), rim = word(look.paper);
    const kinds = look.colours.map((_, i) => look.shapes[i] ?? "circle");
    const inner = kinds.map((k) => stamp(k, radius)), outer = look.rim ? kinds.map((k) => stamp(k, radius + look.rim)) : null;
    const put = (s, px, py, colour) => {
      const { reach, rows, soft } = s;
      if (px < -reach || py < -reach || px >= w + reach || py >= h + reach) return;
      const inside = px >= reach && py >= reach && px < w - reach && py < h - reach;
      for (let k = 0; k < rows.length; k += 3) {
        const y = py + rows[k];
        if (!inside && (y < 0 || y >= h)) continue;
        const from = y * w + Math.max(0, px + rows[k + 1]), to = y * w + Math.min(w, px + rows[k + 2]);
        for (let o = from; o < to; o++) pixels[o] = colour;
      }
      const R = colour & 255, G = (colour >>> 8) & 255, B = (colour >>> 16) & 255;
      for (let k = 0; k < soft.length; k += 3) {
        const x = px + soft[k + 1], y = py + soft[k];
        if (!inside && (x < 0 || y < 0 || x >= w || y >= h)) continue;
        const o = y * w + x, old = pixels[o], a = soft[k + 2];
        if (!old) { pixels[o] = ((colour & 0xffffff) | (a << 24)) >>> 0; continue; }
        const q = 255 - a, A = old >>> 24;
        const r = ((old & 255) * q + R * a) / 255, g = (((old >>> 8) & 255) * q + G * a) / 255, b = (((old >>> 16) & 255) * q + B * a) / 255;
        pixels[o] = ((Math.max(A, a + ((A * q) >> 8)) << 24) | (b << 16) | (g << 8) | r) >>> 0;
      }
    };
    const pass = (wanted) => {
      for (let i = 0; i < n; i++) {
        if (lit && lit[i] !== wanted) continue;
        const px = Math.round(view.x0 + view.sx * xy[2 * i]), py = Math.round(view.y0 + view.sy * xy[2 * i + 1]), code = codes[i];
        if (outer) put(outer[code], px, py, rim);
        put(inner[code], px, py, lit && !wanted ? dim[code] : bright[code]);
      }
    };
    if (lit) { pass(0); pass(1); } else pass(0);
    context.putImageData(image, 0, 0);
  };

  // The point nearest to a pixel within `reach` pixels, -1 for none; the last painted wins a tie, as it is the one seen.
  lm.nearestPoint = (view, cloud, px, py, reach, lit) => {
    let best = -1, far = reach * reach;
    for (let i = 0; i < cloud.n; i++) {
      const dx = view.x0 + view.sx * cloud.xy[2 * i] - px, dy = view.y0 + view.sy * cloud.xy[2 * i + 1] - py;
      const d = dx * dx + dy * dy - (lit && lit[i] ? 4 : 0);
      if (d <= far) { far = d; best = i; }
    }
    return best;
  };

  // The next point from point `from` in a direction (dx, dy of pixels): near, and not far off the direction.
  lm.nextPoint = (view, cloud, from, dx, dy) => {
    let best = -1, cost = Infinity;
    for (let i = 0; i < cloud.n; i++) {
      const x = view.sx * (cloud.xy[2 * i] - cloud.xy[2 * from]), y = view.sy * (cloud.xy[2 * i + 1] - cloud.xy[2 * from + 1]);
      const along = x * dx + y * dy, off = Math.abs(x * dy - y * dx);
      if (i === from || along <= 0.01 || off > along * 1.6) continue;
      const c = along + 2 * off;
      if (c < cost) { cost = c; best = i; }
    }
    return best;
  };

  // One byte a point: within a polygon [[x, y], ...] in the plane's own numbers.
  lm.within = (cloud, polygon) => {
    const inside = new Uint8Array(cloud.n);
    for (let i = 0; i < cloud.n; i++) {
      const x = cloud.xy[2 * i], y = cloud.xy[2 * i + 1];
      let odd = 0;
      for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
        const [xa, ya] = polygon[a], [xb, yb] = polygon[b];
        if (ya > y !== yb > y && x < ((xb - xa) * (y - ya)) / (yb - ya) + xa) odd ^= 1;
      }
      inside[i] = odd;
    }
    return inside;
  };
})();
