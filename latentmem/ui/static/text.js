// Sets mathematics and light Markdown in elements that hold plain text. Everything is built from text nodes; the only
// markup made from foreign text is KaTeX's own, with trust off. Without KaTeX the text stays as it is.
(() => {
  const lm = (window.latentmem ??= {});
  const SPAN = /\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]|\\\(([\s\S]+?)\\\)|(\\begin\{(align\*?|aligned|equation\*?|gather\*?|cases)\}[\s\S]+?\\end\{\5\})|\$(?!\s)((?:[^$\\\n]|\\[\s\S])+?)(?<!\s)\$(?!\d)|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;
  const cache = new Map();
  let katex = null;

  const setMath = (parent, tex, display, raw) => {
    const span = document.createElement("span");
    span.className = display ? "math display" : "math";
    const key = (display ? "D" : "I") + tex;
    try {
      if (!cache.has(key)) {
        if (cache.size > 2000) cache.clear();
        cache.set(key, katex.renderToString(tex, {
          displayMode: display, throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 200 }));
      }
      span.innerHTML = cache.get(key);
    } catch {
      span.className = "math raw"; // not LaTeX after all: show what was written
      span.textContent = raw;
    }
    parent.append(span);
  };

  // **bold**, `code`, and # headings inside a piece of prose
  const setProse = (parent, text) => {
    const parts = text.split(/(\*\*[^*\n]+\*\*|`[^`\n]+`|^#{1,6} .*$)/m);
    for (const part of parts) {
      const make = (tag, content) => { const e = document.createElement(tag); e.textContent = content; parent.append(e); };
      if (/^\*\*.+\*\*$/.test(part)) make("strong", part.slice(2, -2));
      else if (/^`.+`$/.test(part)) make("code", part.slice(1, -1));
      else if (/^#{1,6} /.test(part)) make("strong", part.replace(/^#+ /, ""));
      else if (part) parent.append(part);
    }
  };

  const setText = (element) => {
    const text = element.dataset.source ?? (element.dataset.source = element.textContent);
    const fresh = document.createDocumentFragment();
    let at = 0;
    for (const m of katex ? text.matchAll(SPAN) : []) {
      setProse(fresh, text.slice(at, m.index));
      const tex = m[1] ?? m[2] ?? m[3] ?? m[4] ?? m[6] ?? m[7];
      setMath(fresh, tex.trim(), m[1] !== undefined || m[2] !== undefined || m[4] !== undefined, m[0]);
      at = m.index + m[0].length;
    }
    setProse(fresh, text.slice(at));
    element.replaceChildren(fresh);
  };

  const setAnswer = (element) => { // an answer is LaTeX as a whole
    const text = element.dataset.source ?? (element.dataset.source = element.textContent);
    if (!katex || !/[\\^_]/.test(text)) return;
    element.replaceChildren();
    setMath(element, text, false, text);
  };

  lm.typeset = (root) => {
    root.querySelectorAll(".tx").forEach(setText);
    root.querySelectorAll(".tex").forEach(setAnswer);
  };

  if (lm.katex) {
    import(new URL(lm.katex, document.baseURI)).then((module) => {
      katex = module.default?.renderToString ? module.default : null;
      if (katex) lm.typeset(document);
    }).catch(() => { katex = null; });
  }
})();
