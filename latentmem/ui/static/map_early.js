// The points of a page that opens on the map, fetched before gradio's page can ask for anything: see early.py, whose hint
// has the browser begin with it even before this script is there.
(() => {
  const lm = (window.latentmem ??= {});
  const PATIENCE = 20000; // milliseconds; then the page asks as for any other picture

  const eachLine = async (answer, take) => {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", done = false; !done;) {
      const part = await reader.read(), lines = (rest + (part.value ?? "")).split("\n");
      done = part.done;
      rest = done ? "" : lines.pop();
      lines.filter(Boolean).forEach((line) => take(JSON.parse(line)));
    }
  };
  const fetched = async () => {
    let stamp = "";
    const answer = await fetch(lm.mapAt);
    if (answer.ok) await eachLine(answer, (part) => {
      if (part.points) ["paint", "lit", "points"].forEach((name) => lm.hand(name, part[name]));
      else { lm.handNames(part); stamp = part.stamp; }
    });
    return stamp;
  };
  const early = lm.opensMap ? fetched().catch(() => "") : Promise.resolve("");
  // The stamp of the points that the page has with their names; "" for none.
  lm.early = () => Promise.race([early, new Promise((tell) => setTimeout(tell, PATIENCE, ""))]);
})();
