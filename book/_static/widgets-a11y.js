// Names for what the widgets leave nameless to a screen reader: slider handles take the slider's
// description and its readout, Play's icon buttons say what they do.
(() => {
  const PLAY = ["Play", "Pause", "Stop", "Repeat"];
  const ICONS = { "fa-play": "Play", "fa-pause": "Pause", "fa-stop": "Stop", "fa-retweet": "Repeat", "fa-repeat": "Repeat" };

  function set(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  function name(root) {
    for (const handle of root.querySelectorAll(".noUi-handle")) {
      const box = handle.closest(".widget-inline-hbox, .jupyter-widgets");
      const label = box && box.querySelector(".widget-label");
      const readout = box && box.querySelector(".widget-readout");
      set(handle, "aria-label", (label && label.textContent.trim()) || "slider");
      if (readout && readout.textContent.trim()) set(handle, "aria-valuetext", readout.textContent.trim());
    }
    for (const button of root.querySelectorAll(".widget-play button, .jupyter-widgets.widget-play > *")) {
      const icon = button.querySelector("i, svg");
      const found = icon && Object.keys(ICONS).find((key) => icon.classList.contains(key));
      const index = Array.from(button.parentElement.children).indexOf(button);
      set(button, "aria-label", found ? ICONS[found] : PLAY[index] || "Play");
    }
    // Two panels of a figure must not both be read out: what is not shown is hidden from the tree too.
    for (const select of root.querySelectorAll(".widget-dropdown select")) {
      const label = select.parentElement.querySelector(".widget-label");
      if (label && !select.id) set(select, "aria-label", label.textContent.trim());
    }
  }

  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      name(document.body);
    });
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
