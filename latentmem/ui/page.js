// Light or dark (remembered, else the system's choice), and the address of an open memory.
(() => {
  const lm = (window.latentmem ??= {});
  const wanted = () => {
    const asked = new URLSearchParams(location.search).get("__theme");
    if (asked === "light" || asked === "dark") return asked;
    try { return localStorage.getItem("latentmem-theme"); } catch { return null; }
  };
  lm.setTheme = (dark) => {
    document.body.classList.toggle("dark", dark);
    try { localStorage.setItem("latentmem-theme", dark ? "dark" : "light"); } catch { /* private window: not remembered */ }
  };
  lm.toggleTheme = () => lm.setTheme(!document.body.classList.contains("dark"));
  lm.openTheme = () => { const t = wanted(); if (t) document.body.classList.toggle("dark", t === "dark"); };
  lm.showAddress = (id) => {
    const url = new URL(location.href);
    if (id) url.searchParams.set("memory", id); else url.searchParams.delete("memory");
    history.replaceState(null, "", url);
  };
})();
