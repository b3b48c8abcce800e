// The page "Sine waves under your fingers": points to drag, two starts, the same steps from each.
(() => {
  "use strict";
  const { predict, descent } = Play.mlp;
  const ALPHA = 0.01, MOST_STEPS = 10, REPORTED = [0, 1, 3, 10];
  const WIDE = 640, HIGH = 400, X = 5, Y = 6; // the picture, and what it shows: |x| <= 5, |y| <= 6
  const STARTS = { maml: "MAML", joint: "joint pre-training" };

  const root = document.querySelector("[data-playground=sine]");
  root.innerHTML = `
    <svg class="play-plane" viewBox="0 0 ${WIDE} ${HIGH}" role="group" aria-label="Points of a function, and what two networks make of them">
      <path class="play-axis" d="M0 ${HIGH / 2}H${WIDE}M${WIDE / 2} 0V${HIGH}"/>
      <polyline class="play-wave"/><polyline class="play-joint"/><polyline class="play-maml"/>
      <g></g>
    </svg>
    <div class="play-row">
      <label class="play-steps">Steps <input type="range" min="0" max="${MOST_STEPS}" value="1"> <output>1</output></label>
      <button type="button" data-do="wave">Another wave</button>
      <button type="button" data-do="fewer">Fewer points</button>
      <button type="button" data-do="more">More points</button>
    </div>
    <table class="table">
      <thead><tr><th>loss on the points after</th>${REPORTED.map((t) => `<th>${t} step${t === 1 ? "" : "s"}</th>`).join("")}</tr></thead>
      <tbody>${Object.entries(STARTS).map(([key, name]) => `<tr data-start="${key}">
        <td><span class="play-key play-${key}"></span> from ${name}</td>${REPORTED.map(() => "<td></td>").join("")}</tr>`).join("")}</tbody>
    </table>
    <p class="play-answer" role="status"></p>`;

  const $ = (selector) => root.querySelector(selector);
  const svg = $("svg"), slider = $("input"), status = $(".play-answer");
  const phi = Object.fromEntries(Object.keys(STARTS).map((key) => [key, Play.unpack(Play.packed[`sine_${key}`])]));
  const random = Play.random(7);
  let wave = null, points = [];

  const across = (x) => (WIDE * (x + X)) / (2 * X), down = (y) => (HIGH * (Y - y)) / (2 * Y);
  const within = (v, most) => Math.min(most, Math.max(-most, v));
  const line = (f) => Array.from({ length: 161 }, (_, i) => {
    const x = -X + (i * X) / 80;
    return `${across(x).toFixed(1)},${down(f(x)).toFixed(1)}`;
  }).join(" ");

  // As in training: y = a sin(x + b), with a from 0.1 to 5 and b from 0 to pi.
  function newWave(count, a = 0.1 + 4.9 * random(), b = Math.PI * random()) {
    wave = (x) => a * Math.sin(x + b);
    points = Array.from({ length: count }, () => { const x = X * (2 * random() - 1); return [x, wave(x)]; });
    dots();
  }

  // A circle for each point: dragged with a pointer, or moved by the arrow keys.
  function dots() {
    const group = $("g");
    group.innerHTML = points.map(() => '<circle class="play-point" r="10" tabindex="0" role="slider"/>').join("");
    [...group.children].forEach((circle, i) => {
      circle.addEventListener("pointerdown", (event) => circle.setPointerCapture(event.pointerId));
      circle.addEventListener("pointermove", (event) => {
        if (!circle.hasPointerCapture(event.pointerId)) return;
        const box = svg.getBoundingClientRect();
        move(i, (2 * X * (event.clientX - box.left)) / box.width - X, Y - (2 * Y * (event.clientY - box.top)) / box.height);
      });
      circle.addEventListener("keydown", (event) => {
        const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!arrow) return;
        event.preventDefault();
        move(i, points[i][0] + 0.25 * arrow[0], points[i][1] + 0.25 * arrow[1]);
      });
    });
    draw();
  }

  function move(i, x, y) {
    points[i] = [within(x, X), within(y, Y)];
    wave = null; // the points are no longer those of a wave
    draw();
  }

  function draw() {
    const steps = Number(slider.value), words = [];
    $(".play-steps output").textContent = steps;
    for (const [key, name] of Object.entries(STARTS)) {
      const path = descent(phi[key], points, MOST_STEPS, ALPHA);
      $(`polyline.play-${key}`).setAttribute("points", line((x) => predict(path[steps].theta, x)));
      root.querySelectorAll(`[data-start=${key}] td`).forEach((cell, column) => {
        if (column) cell.textContent = path[REPORTED[column - 1]].loss.toFixed(2);
      });
      words.push(`from ${name} ${path[steps].loss.toFixed(2)}`);
    }
    $("polyline.play-wave").setAttribute("points", wave ? line(wave) : "");
    [...$("g").children].forEach((circle, i) => {
      const [x, y] = points[i], texts = points[i].map((v) => v.toFixed(2));
      const now = { cx: across(x), cy: down(y), "aria-valuemin": -Y, "aria-valuemax": Y, "aria-valuenow": texts[1],
        "aria-label": `point ${i + 1} of ${points.length}, arrow keys move it`, "aria-valuetext": `x ${texts[0]}, y ${texts[1]}` };
      for (const [name, value] of Object.entries(now)) circle.setAttribute(name, value);
    });
    say(`Loss on the points after ${steps} step${steps === 1 ? "" : "s"}: ${words.join(", ")}.`);
  }

  let saying = 0;
  function say(text) { // a moment later, so that a screen reader hears the last of several
    clearTimeout(saying);
    saying = setTimeout(() => { status.textContent = text; }, 400);
  }

  const actions = {
    wave: () => newWave(points.length),
    fewer() { if (points.length > 1) { points.pop(); dots(); } },
    more() {
      const x = X * (2 * random() - 1);
      if (points.length < 20) points.push([x, wave ? wave(x) : 0]);
      dots();
    },
  };
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => actions[button.dataset.do]());
  slider.addEventListener("input", draw);
  newWave(10, 3.5, 2.2);
})();
