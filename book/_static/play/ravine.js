// Chapter 10, step size on a quadratic: f = (a^2 + 25 b^2) / 2, descended with and without momentum,
//
//   v <- mu v + grad f(theta),  theta <- theta - alpha v
//
// from a start to drag; gradient descent is mu = 0.
(() => {
  "use strict";
  const CURVATURE = [1, 25], LIMIT = 2 / 25, STEPS = 40;

  const height = (theta) => CURVATURE.reduce((sum, c, i) => sum + (c * theta[i] ** 2) / 2, 0);

  // theta after 0, 1, ... steps.
  function descend(start, alpha, mu, steps) {
    const path = [start];
    let v = [0, 0];
    while (path.length <= steps) {
      const theta = path.at(-1);
      v = v.map((speed, i) => mu * speed + CURVATURE[i] * theta[i]);
      path.push(theta.map((w, i) => w - alpha * v[i]));
    }
    return path;
  }

  Play.ravine = { height, descend };

  const markup = `
    <svg class="play-plane" viewBox="0 0 400 267" role="group" aria-label="A ravine from above, and two descents"></svg>
    <div class="play-row">${Play.key("blue", "gradient descent")} ${Play.key("red", "momentum")}</div>
    <div class="play-row">${Play.slider("share", "α / limit", 0.02, 2.2, 0.02, 0.5)}
      ${Play.slider("mu", "μ", 0, 0.98, 0.02, 0.9)}</div>`;

  Play.live("ravine", markup, (root, say) => {
    const svg = root.querySelector("svg"), plane = Play.plane(svg, [-2, 2], [-4 / 3, 4 / 3]);
    const rings = [0.02, 0.1, 0.25, 0.5, 0.75, 1].map((share) => { // lines of equal height, up to the corner's
      const top = share ** 2.5 * height([2, 4 / 3]), [rx, ry] = CURVATURE.map((c) => 100 * Math.sqrt((2 * top) / c));
      return `<ellipse class="play-axis" cx="200" cy="133.3" rx="${rx.toFixed(1)}" ry="${ry.toFixed(1)}"/>`;
    });
    svg.innerHTML = `${rings.join("")}${plane.axes([-1, 0, 1], [-1, 0, 1], "first number", "second")}
      <g class="play-paths"></g><g class="play-handles"></g>`;
    let start = [-1.8, 0.6];
    const place = plane.handle(svg.querySelector(".play-handles"), "the start", 0.1, (...to) => { start = to; draw(); });

    function draw() {
      const { share, mu } = Play.settings(root), said = [];
      const paths = Object.entries({ blue: ["gradient descent", 0], red: ["momentum", mu] });
      svg.querySelector(".play-paths").innerHTML = paths.map(([colour, [name, memory]]) => {
        const path = descend(start, share * LIMIT, memory, STEPS);
        said.push(`${name} is at ${height(path.at(-1)).toPrecision(2)}`);
        const near = path.filter((theta) => Math.hypot(...theta) < 100); // what has left does not come back
        return `<g class="play-${colour}"><polyline points="${plane.line(near)}"/>${plane.dots(near)}</g>`;
      }).join("");
      place(...start);
      say(`The start is at the height ${height(start).toPrecision(2)}. After ${STEPS} steps of ${share} times the limit `
        + `${said.join(", ")}.`);
    }
    return draw;
  });
})();
