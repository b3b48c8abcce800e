// The page "Sine waves under your fingers": points to drag, two starts, the same steps from each.
(() => {
  "use strict";
  const { predict, descent } = Play.mlp;
  const ALPHA = 0.01, MOST_STEPS = 10, REPORTED = [0, 1, 3, 10];
  const X = 5, Y = 6; // the picture shows |x| <= 5, |y| <= 6
  const STARTS = { maml: "MAML", joint: "joint pre-training" };

  const root = document.querySelector("[data-playground=sine]");
  root.innerHTML = `
    <svg class="play-plane" viewBox="0 0 640 400" role="group" aria-label="Points of a function, and what two networks make of them">
      <path class="play-axis" d="M0 200H640M320 0V400"/>
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
  const slider = $("input"), say = Play.voice($(".play-answer")), plane = Play.plane($("svg"), [-X, X], [-Y, Y]);
  const phi = Object.fromEntries(Object.keys(STARTS).map((key) => [key, Play.unpack(Play.packed[`sine_${key}`])]));
  const random = Play.random(7);
  let wave = null, points = [], place = [];

  // As in training: y = a sin(x + b), with a from 0.1 to 5 and b from 0 to pi.
  function newWave(count, a = 0.1 + 4.9 * random(), b = Math.PI * random()) {
    wave = (x) => a * Math.sin(x + b);
    points = Array.from({ length: count }, () => { const x = X * (2 * random() - 1); return [x, wave(x)]; });
    dots();
  }

  // A handle for each point.
  function dots() {
    $("g").replaceChildren();
    place = points.map((_, i) => plane.handle($("g"), `point ${i + 1} of ${points.length}`, 0.25, (x, y) => {
      points[i] = [x, y];
      wave = null; // the points are no longer those of a wave
      draw();
    }));
    draw();
  }

  function draw() {
    const steps = Number(slider.value), words = [];
    $(".play-steps output").textContent = steps;
    for (const [key, name] of Object.entries(STARTS)) {
      const path = descent(phi[key], points, MOST_STEPS, ALPHA);
      $(`polyline.play-${key}`).setAttribute("points", plane.curve((x) => predict(path[steps].theta, x)));
      root.querySelectorAll(`[data-start=${key}] td`).forEach((cell, column) => {
        if (column) cell.textContent = path[REPORTED[column - 1]].loss.toFixed(2);
      });
      words.push(`from ${name} ${path[steps].loss.toFixed(2)}`);
    }
    $("polyline.play-wave").setAttribute("points", wave ? plane.curve(wave) : "");
    points.forEach((point, i) => place[i](...point));
    say(`Loss on the points after ${steps} step${steps === 1 ? "" : "s"}: ${words.join(", ")}.`);
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
