// What the figures that compute in a page have in common: a plane with axes, lines and points to drag, sliders beside
// it, and words for a screen reader.
globalThis.Play ??= {};

(() => {
  "use strict";
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const clip = (v, [least, most]) => Math.min(most, Math.max(least, v));

  function set(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  }

  // An svg as a plane: X and Y are what it shows, [from, to].
  Play.plane = (svg, X, Y) => {
    const { width, height } = svg.viewBox.baseVal;
    const across = (x) => (width * (x - X[0])) / (X[1] - X[0]), down = (y) => (height * (Y[1] - y)) / (Y[1] - Y[0]);
    const at = ([x, y]) => `${across(x).toFixed(1)},${down(y).toFixed(1)}`;
    const within = ([x, y]) => [clip(x, X), clip(y, Y)];
    const line = (path) => path.map(at).join(" ");
    const curve = (f) => line(Array.from({ length: 161 }, (_, i) => {
      const x = X[0] + ((X[1] - X[0]) * i) / 160;
      return [x, f(x)];
    }));
    const dots = (path, r = 3) => path.map((p) => `<circle transform="translate(${at(p)})" r="${r}"/>`).join("");

    // An arrow from a to b, with its head.
    function arrow(a, b) {
      const [x, y] = [across(b[0]) - across(a[0]), down(b[1]) - down(a[1])], length = Math.hypot(x, y);
      const head = Math.min(8, length / 2), turn = (180 * Math.atan2(y, x)) / Math.PI;
      return length < 0.5 ? "" : `<path transform="translate(${at(a)}) rotate(${turn.toFixed(1)})"
        d="M0 0H${length.toFixed(1)}m${-head} ${-head / 2}l${head} ${head / 2}l${-head} ${head / 2}"/>`;
    }

    const axes = (xs, ys, nameX, nameY) => `<path class="play-axis" d="M.5 0V${height - 0.5}H${width}"/>
      ${xs.map((x) => `<text x="${across(x)}" y="${height - 5}" text-anchor="middle">${x}</text>`).join("")}
      ${ys.map((y) => `<text x="5" y="${down(y) + 4}">${y}</text>`).join("")}
      <text x="${width - 5}" y="${height - 5}" text-anchor="end">${nameX}</text><text x="5" y="12">${nameY}</text>`;

    // A point that is dragged with a pointer, or moved by the arrow keys, `step` at a time. `move` is told where to;
    // what comes back places the point, and its words. `along` says which of its numbers is the slider's: 0 or 1.
    function handle(group, label, step, move, along = 1) {
      const point = document.createElementNS(svg.namespaceURI, "g"), [least, most] = [X, Y][along];
      let here = null;
      set(point, { class: "play-handle", tabindex: 0, role: "slider", "aria-label": `${label}, arrow keys move it`,
        "aria-valuemin": least, "aria-valuemax": most });
      point.innerHTML = '<circle class="play-halo" r="18"/><circle class="play-point" r="8"/>';
      point.addEventListener("pointerdown", (event) => point.setPointerCapture(event.pointerId));
      point.addEventListener("pointermove", (event) => {
        if (!point.hasPointerCapture(event.pointerId)) return;
        const box = svg.getBoundingClientRect();
        const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        move(...within([X[0] + x * (X[1] - X[0]), Y[1] - y * (Y[1] - Y[0])]));
      });
      point.addEventListener("keydown", (event) => {
        const arrow = ARROWS[event.key];
        if (!arrow) return;
        event.preventDefault();
        move(...within(here.map((v, i) => v + step * arrow[i])));
      });
      group.append(point);
      return (x, y, words = `x ${x.toFixed(2)}, y ${y.toFixed(2)}`) => {
        here = [x, y];
        set(point, { transform: `translate(${at(here)})`, "aria-valuenow": here[along].toFixed(2), "aria-valuetext": words });
      };
    }

    return { X, Y, line, curve, dots, arrow, axes, handle };
  };

  // A slider with its value, as markup; and the values of all sliders in a place, which are shown beside them.
  Play.slider = (name, label, least, most, step, value) => `<label class="play-steps">${label}
    <input type="range" data-set="${name}" min="${least}" max="${most}" step="${step}" value="${value}"> <output></output></label>`;
  Play.settings = (root, shown = {}) => Object.fromEntries([...root.querySelectorAll("[data-set]")].map((input) => {
    const { set: name } = input.dataset, value = Number(input.value), text = String((shown[name] ?? ((v) => v))(value));
    input.parentElement.querySelector("output").textContent = text;
    input.setAttribute("aria-valuetext", text);
    return [name, value];
  }));

  Play.key = (colour, words) => `<span><span class="play-key play-${colour}"></span> ${words}</span>`;

  // Says a text a moment later, so that a screen reader hears the last of several.
  Play.voice = (status) => {
    let saying = 0;
    return (text) => {
      clearTimeout(saying);
      saying = setTimeout(() => { status.textContent = text; }, 400);
    };
  };

  // A live figure takes the place of the static one in the cell that is tagged live-NAME. `start` is given its root and
  // a voice, and gives back what draws it anew.
  Play.live = (name, markup, start) => {
    const output = globalThis.document?.querySelector(`.tag_live-${name} .cell_output`);
    if (!output) return;
    const root = document.createElement("div");
    root.className = "play play-live";
    root.dataset.playground = name;
    root.innerHTML = `${markup}<p class="play-answer" role="status"></p>`;
    output.prepend(root);
    output.classList.add("play-stands");
    const draw = start(root, Play.voice(root.querySelector(".play-answer")));
    root.addEventListener("input", draw);
    draw();
  };
})();
