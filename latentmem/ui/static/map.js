// Draws a curve (plain JSON from views_distil.py or views_stream.py) with plotly's own script. Colours "theme:ink",
// "theme:paper" and "theme:blue", and everything unset, follow the light or dark theme.
(() => {
  const lm = (window.latentmem ??= {});
  const themed = () => {
    const style = getComputedStyle(document.querySelector(".gradio-container") ?? document.body);
    const v = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    return { ink: v("--lm-ink", "#222"), paper: v("--lm-card", "#fff"), line: v("--lm-line", "#ddd"), soft: v("--lm-soft", "#666"), blue: v("--lm-a", "#0072b2") };
  };
  const coloured = (value, theme) => {
    if (typeof value === "string" && value.startsWith("theme:")) return theme[value.slice(6)];
    if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map((v) => coloured(v, theme));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, theme)]));
    return value;
  };
  const dress = (figure) => {
    const t = themed();
    const { data = [], layout = {} } = coloured(JSON.parse(JSON.stringify(figure)), t);
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { family: "inherit", size: 13, color: t.ink, ...layout.font };
    layout.autosize = true;
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) Object.assign(layout[name], { gridcolor: t.line, linecolor: t.line, zerolinecolor: t.line });
    }
    return { data, layout };
  };

  lm.figure = ({ element, props, watch }) => {
    const host = element.querySelector(".lm-figure");
    let drawn = false, waiting = false, wide = 0;
    const draw = () => {
      const figure = props.value && typeof props.value === "object" ? props.value : { data: [] };
      host.hidden = !figure.data?.length; // no empty axes
      if (host.hidden) {
        if (drawn) window.Plotly.purge(host);
        drawn = false;
        return;
      }
      wide = host.clientWidth;
      if (!wide) return; // in a panel that is not shown there is no width to draw for: later, when it is
      if (!window.Plotly) { // the script is large and may still be on its way
        if (!waiting) { waiting = true; lm.plotly(); const again = () => { if (window.Plotly) { waiting = false; draw(); } else if (host.isConnected || !drawn) setTimeout(again, 60); }; again(); }
        return;
      }
      const { data, layout } = dress(figure);
      if (figure.words) host.setAttribute("aria-label", figure.words);
      host.style.minHeight = (layout.height ?? 0) + "px";
      window.Plotly.react(host, data, layout, { displayModeBar: false }).then(() => {
        drawn = !host.hidden;
      });
    };
    const observer = new MutationObserver(() => { host.isConnected ? draw() : observer.disconnect(); });
    observer.observe(document.body, { attributes: true, attributeFilter: ["class"] });
    new ResizeObserver(() => { if (host.clientWidth !== wide) draw(); }).observe(host);
    watch("value", draw);
    draw();
  };
})();
