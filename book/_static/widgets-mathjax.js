// The widgets speak MathJax 2 (MathJax.Hub.Queue); the pages carry MathJax 3. Answer the one call that
// is made, after MathJax has finished its own first pass over the page.
(() => {
  const hub = {
    Queue(...calls) {
      for (const call of calls) {
        if (!Array.isArray(call) || call[0] !== "Typeset") continue;
        const element = call[2];
        const ready = (window.MathJax.startup && window.MathJax.startup.promise) || Promise.resolve();
        ready.then(() => window.MathJax.typesetPromise && window.MathJax.typesetPromise([element]));
      }
    },
  };
  const attach = () => {
    if (window.MathJax && !window.MathJax.Hub) window.MathJax.Hub = hub;
  };
  attach();
  // MathJax puts a new object in place of its configuration when it has loaded.
  window.addEventListener("DOMContentLoaded", attach);
  window.addEventListener("load", attach, { capture: true });
})();
