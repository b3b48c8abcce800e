// Chapter 19, do the players arrive: the game L(e, d) = c d^2 / 2 + e d, in which d descends and e ascends,
//
//   (e, d) <- (I + eta J) (e, d),  J = (0, 1; -1, -c)
//
// from a start to drag.
(() => {
  "use strict";
  const push = ([e, d], c) => [d, -e - c * d];

  // The players after 0, 1, ... rounds.
  function walk(start, c, eta, rounds) {
    const path = [start];
    while (path.length <= rounds) {
      const now = path.at(-1), v = push(now, c);
      path.push(now.map((x, i) => x + eta * v[i]));
    }
    return path;
  }

  // The largest size of an eigenvalue of I + eta J: by how much a round stretches, in the long run.
  function factor(c, eta) {
    const half = 1 - (eta * c) / 2, det = 1 - eta * c + eta ** 2, inside = half ** 2 - det;
    return inside < 0 ? Math.sqrt(det) : Math.abs(half) + Math.sqrt(inside);
  }

  Play.game = { walk, factor };

  const markup = `
    <svg class="play-plane" viewBox="0 0 400 320" role="group" aria-label="The field of a game, and a walk in it"></svg>
    <div class="play-row">${Play.slider("eta", "η", 0.02, 0.8, 0.02, 0.2)} ${Play.slider("c", "c", 0, 1, 0.05, 0)}</div>`;

  Play.live("game", markup, (root, say) => {
    const svg = root.querySelector("svg"), plane = Play.plane(svg, [-2, 2], [-1.6, 1.6]);
    const grid = [-3, -2, -1, 0, 1, 2, 3].flatMap((i) => [-3, -2, -1, 0, 1, 2, 3].map((j) => [0.5 * i, 0.4 * j]));
    svg.innerHTML = `${plane.axes([-1, 0], [-1, 0, 1], "e, the encoder's", "d, the classifier's")}
      <g class="play-grey play-field"></g><g class="play-red play-paths"></g><g class="play-handles"></g>`;
    let start = [1, 0];
    const place = plane.handle(svg.querySelector(".play-handles"), "the start", 0.1, (...to) => { start = to; draw(); });

    function draw() {
      const { eta, c } = Play.settings(root), grows = factor(c, eta);
      const path = walk(start, c, eta, Math.max(60, Math.round(14 / eta))).filter((p) => Math.hypot(...p) < 100);
      svg.querySelector(".play-field").innerHTML = grid.map((p) => {
        return plane.arrow(p, push(p, c).map((v, i) => p[i] + 0.15 * v));
      }).join("");
      svg.querySelector(".play-paths").innerHTML = `<polyline points="${plane.line(path)}"/>${plane.dots(path)}`;
      place(...start, `e ${start[0].toFixed(2)}, d ${start[1].toFixed(2)}`);
      say(`With c = ${c} and η = ${eta} a round multiplies the distance by ${grows.toFixed(4)} in the long run: `
        + `the players ${grows < 1 - 1e-9 ? "arrive" : grows > 1 + 1e-9 ? "leave" : "keep their distance"}.`);
    }
    return draw;
  });
})();
