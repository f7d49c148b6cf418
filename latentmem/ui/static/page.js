// Light or dark, the token of this browser tab, and the address: the open panel, memory, receipt and problem stand in it, and
// walking back and forth in the browser opens them again.
(() => {
  const lm = (window.latentmem ??= {});

  // ---------------------------------------------------------------- light or dark: remembered, else the system's choice
  const wanted = () => {
    const asked = new URLSearchParams(location.search).get("__theme");
    if (asked === "light" || asked === "dark") return asked;
    try { return localStorage.getItem("latentmem-theme"); } catch { return null; }
  };
  const dress = (dark) => { // the root, too: the page's own scroll bar follows it
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  };
  lm.setTheme = (dark) => {
    dress(dark);
    try { localStorage.setItem("latentmem-theme", dark ? "dark" : "light"); } catch { /* private window: not remembered */ }
  };
  lm.toggleTheme = () => lm.setTheme(!document.body.classList.contains("dark"));
  lm.openTheme = () => {
    const t = wanted();
    dress(t ? t === "dark" : document.body.classList.contains("dark"));
    watchTabs();
    (window.requestIdleCallback ?? setTimeout)(() => lm.plotly(), { timeout: 4000 });
  };

  // ---------------------------------------------------------------- this tab: the server finds its work again after a reload
  // The token is in sessionStorage only while no page is open: a duplicated tab gets a copy of that, and needs a token of its own.
  const KEY = "latentmem-tab";
  let token = "";
  lm.tab = () => {
    try {
      token = sessionStorage.getItem(KEY) ?? [...crypto.getRandomValues(new Uint8Array(18))].map((b) => b.toString(16).padStart(2, "0")).join("");
      sessionStorage.removeItem(KEY);
    } catch { token = ""; } // no storage: a reload begins anew
    return token;
  };
  window.addEventListener("pagehide", () => { if (token) sessionStorage.setItem(KEY, token); });

  // ---------------------------------------------------------------- the address
  const read = () => {
    const asked = new URLSearchParams(location.search), memory = asked.get("memory") ?? "", receipt = asked.get("receipt") ?? "";
    return { memory, receipt, panel: memory || receipt ? "memories" : asked.get("panel") ?? "solve" };
  };
  let { memory, receipt, panel } = read(), began = Date.now();
  let walks = []; // what walking back and forth asked for and the server has not shown yet, the oldest first
  let problem = new URLSearchParams(location.search).get("problem") ?? "", asking = ""; // the one answered; the one just pressed
  lm.opensMap = panel === "memories"; // what it needs is loaded at once
  { // the panel that the address names is built at once, not after another one
    const parts = window.gradio_config?.components ?? [], named = parts.some((c) => c.type === "tabitem" && c.props.id === panel);
    const bar = parts.find((c) => c.props?.elem_id === "lm-tabs");
    if (bar && named) bar.props.selected = panel;
  }
  const write = (replace) => {
    const url = new URL(location.href), put = (name, value) => value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
    put("memory", panel === "memories" ? memory : "");
    put("receipt", panel === "memories" ? receipt : "");
    put("panel", panel === "solve" || (panel === "memories" && (memory || receipt)) ? "" : panel);
    if (url.href === location.href) return;
    const quiet = replace || Date.now() - began < 1500; // not a step of the visitor's own
    history[quiet ? "replaceState" : "pushState"](null, "", url);
    tell(url);
  };
  const tell = (url) => { // on huggingface.co the app is in a frame: the page around it shows the address, too
    if (window.parent !== window && document.referrer.startsWith("https://huggingface.co")) {
      window.parent.postMessage({ queryString: url.search.slice(1) }, "https://huggingface.co");
    }
  };
  lm.showAddress = (id, paper) => { // a memory, perhaps with a receipt, was opened, or closed with ""
    const step = walks.findIndex((to) => to.receipt ? paper.startsWith(to.receipt) : !paper && (to.memory ? id.startsWith(to.memory) : !id));
    const walked = step >= 0, passed = walked && step < walks.length - 1;
    walks = walked ? walks.slice(step + 1) : [];
    if (passed) return; // the visitor is further back by now, and that answer is on its way
    const closed = walked || !id && !paper || Boolean(receipt && !paper && id === memory);
    [memory, receipt] = [id, paper];
    if (id || paper) panel = "memories";
    write(closed);
  };
  const name = () => { // what was asked last can be copied from the address bar
    const url = new URL(location.href);
    problem && problem.length <= 1500 ? url.searchParams.set("problem", problem) : url.searchParams.delete("problem");
    if (url.href === location.href) return;
    history.replaceState(null, "", url);
    tell(url);
  };
  lm.asks = (text) => { // the button was pressed
    asking = text;
    lm.look("lm-status");
  };
  lm.asked = (shown) => { // ... and the server took it, which it says by "wait"; what it refused has no place in the address
    if (!shown?.some(([key]) => key === "wait")) return;
    problem = asking;
    name();
  };
  lm.guide = ({ props, trigger, watch }) => {
    lm.goTo = () => receipt ? trigger("open_receipt", { id: receipt, memory }) : trigger("open_memory", { id: memory });
    const goOn = () => (props.value?.again ?? []).forEach((event) => trigger(event, {}));
    watch("value", goOn);
    goOn();
  };

  const tabs = () => [...document.querySelectorAll("#lm-tabs button[role=tab]")];
  const nameOf = (button) => button.dataset.tabId ?? button.textContent.trim().toLowerCase();
  const watchTabs = () => {
    const bar = document.querySelector("#lm-tabs");
    if (!bar) return void setTimeout(watchTabs, 50);
    const asked = tabs().find((b) => nameOf(b) === panel);
    if (asked?.getAttribute("aria-selected") === "false") asked.click(); // without waiting for the server to say so
    new MutationObserver(() => {
      setTimeout(nameUploads, 300);
      const open = tabs().find((b) => b.getAttribute("aria-selected") === "true");
      if (!open || nameOf(open) === panel) return;
      panel = nameOf(open);
      write(false);
    }).observe(bar, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
  };
  // gradio gives its upload button a name that leaves out what is written on it; without that the words are the name
  const nameUploads = () => document.querySelectorAll("button.upload-container[aria-label]").forEach((b) => {
    if (b.innerText.trim()) b.removeAttribute("aria-label");
  });
  window.addEventListener("popstate", () => {
    const to = read();
    panel = to.panel;
    name(); // every step has the problem of its time, but the answer on the page is the last one's
    tabs().find((b) => nameOf(b) === panel)?.click();
    if (panel !== "memories" || (to.memory === memory && to.receipt === receipt)) return;
    ({ memory, receipt } = to);
    if (lm.goTo) { walks.push(to); lm.goTo(); }
  });

  // What had the keyboard's place was hidden: it goes to the first of these that is there, once it is.
  lm.focus = (...places) => {
    const at = () => document.activeElement, shown = (e) => Boolean(e?.getClientRects().length);
    const go = (tries) => setTimeout(() => {
      if (at() !== document.body && shown(at())) return;
      const next = places.map((css) => document.querySelector(css)).find(shown);
      next ? next.focus({ preventScroll: true }) : tries && go(tries - 1);
    }, 60);
    go(10);
  };

  // On a narrow screen the answer comes below the question: show where it will be.
  lm.look = (id) => {
    const place = document.getElementById(id);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (place && place.getBoundingClientRect().top > innerHeight * 0.6) {
      setTimeout(() => place.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" }), 60);
    }
  };
})();
