// Figures to touch: a control chooses which of a figure's panels shows. All of them are in the page.
(() => {
  const PLAY = "Play", STOP = "Stop";

  for (const figure of document.querySelectorAll(".panels")) {
    const panels = [...figure.querySelectorAll(".panel")];
    const control = figure.querySelector("input, select");
    const readout = figure.querySelector("output");
    const button = figure.querySelector(".panels-play");
    const at = () => (control.matches("select") ? control.selectedIndex : Number(control.value));

    function show() {
      panels.forEach((panel, number) => panel.classList.toggle("shown", number === at()));
      if (!readout) return;
      readout.textContent = panels[at()].dataset.label;
      control.setAttribute("aria-valuetext", readout.textContent);
    }

    let timer = 0;
    function stop() {
      clearInterval(timer);
      timer = 0;
      button.textContent = PLAY;
    }
    function go(number) {
      control.value = number;
      show();
      if (number >= panels.length - 1) stop();
    }
    if (button) {
      button.addEventListener("click", () => {
        if (timer) return stop();
        button.textContent = STOP;
        timer = setInterval(() => go(at() + 1), Number(button.dataset.interval));
        if (at() === panels.length - 1) go(0);
      });
    }
    control.addEventListener("input", show);
  }
})();
