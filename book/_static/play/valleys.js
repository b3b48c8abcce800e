// Chapter 3, the idea in one picture: two tasks with one parameter, and where descent leads from a start phi to drag.
(() => {
  "use strict";
  const ALPHA = 0.2;
  const hill = (theta, middle, width) => Math.exp(-(((theta - middle) / width) ** 2));
  const slope = (theta, middle, width) => (-2 * (theta - middle) * hill(theta, middle, width)) / width ** 2;

  // Each task has a loss and the derivative of it.
  const TASKS = {
    blue: {
      loss: (theta) => 0.12 * (theta + 0.3) ** 2,
      derivative: (theta) => 0.24 * (theta + 0.3),
    },
    red: {
      loss: (theta) => 1.6 + 0.03 * theta ** 2 - 0.8 * hill(theta, -1, 0.7) - 1.3 * hill(theta, 2.2, 1),
      derivative: (theta) => 0.06 * theta - 0.8 * slope(theta, -1, 0.7) - 1.3 * slope(theta, 2.2, 1),
    },
  };

  // theta after 0, 1, ... steps from phi.
  function descend({ derivative }, phi, steps) {
    const path = [phi];
    while (path.length <= steps) path.push(path.at(-1) - ALPHA * derivative(path.at(-1)));
    return path;
  }

  Play.valleys = { tasks: TASKS, descend };

  const markup = `
    <svg class="play-plane" viewBox="0 0 400 240" role="group" aria-label="Two losses over one parameter"></svg>
    <div class="play-row">${Play.key("blue", "task 1")} ${Play.key("red", "task 2")}
      ${Play.slider("steps", "Steps", 0, 20, 1, 10)}</div>`;

  Play.live("valleys", markup, (root, say) => {
    const svg = root.querySelector("svg"), plane = Play.plane(svg, [-3, 3.5], [-0.3, 2.3]);
    const curves = Object.entries(TASKS).map(([colour, { loss }]) => {
      return `<polyline class="play-${colour}" points="${plane.curve(loss)}"/>`;
    });
    svg.innerHTML = plane.axes([-2, -1, 0, 1, 2], [1, 2], "θ", "loss") + curves.join("")
      + '<polyline class="play-guess"/><g class="play-paths"></g><g class="play-handles"></g>';
    let phi = -1.03;
    const place = plane.handle(svg.querySelector(".play-handles"), "the start phi", 0.05, (x) => { phi = x; draw(); }, 0);

    function draw() {
      const { steps } = Play.settings(root);
      const ends = Object.entries(TASKS).map(([colour, task]) => {
        const path = descend(task, phi, steps).map((theta) => [theta, task.loss(theta)]);
        return { colour, path, now: path[0][1], after: path.at(-1)[1], end: path.at(-1)[0] };
      });
      const sum = (which) => ends.reduce((total, end) => total + end[which], 0).toFixed(2);
      svg.querySelector(".play-guess").setAttribute("points", plane.line([[phi, plane.Y[0]], [phi, plane.Y[1]]]));
      svg.querySelector(".play-paths").innerHTML = ends.map(({ colour, path }) => {
        return `<g class="play-${colour}">${plane.dots(path)}${plane.dots(path.slice(-1), 6)}</g>`;
      }).join("");
      place(phi, 0, `phi ${phi.toFixed(2)}`);
      say(`From φ = ${phi.toFixed(2)}: the losses add up to ${sum("now")} now and to ${sum("after")} after ${steps} steps. `
        + `Task 1 is at ${ends[0].end.toFixed(2)}, task 2 at ${ends[1].end.toFixed(2)}.`);
    }
    return draw;
  });
})();
