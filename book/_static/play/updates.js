// Chapter 5, four updates in one plane: a network theta, a step size alpha, points S for a first step and Q for another.
//
//   g1 = grad l_S(theta),  g2 = grad l_Q(theta - alpha g1),  H1 the Hessian of l_S at theta
//   pre-training -g1,  first-order MAML -g2,  Reptile -(g1 + g2),  MAML -(I - alpha H1) g2
(() => {
  "use strict";
  const WIDTHS = [1, 64, 64, 1], POINTS = 10;
  const NAMES = { red: "pre-training", orange: "first-order MAML", green: "Reptile", blue: "MAML" };

  const gradient = (theta, points) => Play.mlp.lossAndGradient(theta, points).gradient;
  const each = (theta, f) => {
    return Object.fromEntries(Object.entries(theta).map(([name, w]) => [name, w.map((v, i) => f(v, name, i))]));
  };
  const plus = (a, share, b) => each(a, (v, name, i) => v + share * b[name][i]);
  const scaled = (a, share) => each(a, (v) => share * v);
  const dot = (a, b) => Object.keys(a).reduce((sum, name) => a[name].reduce((s, v, i) => s + v * b[name][i], sum), 0);
  const size = (a) => Math.sqrt(dot(a, a));

  // Uniform up to the root of 1 / (numbers that come in), as PyTorch starts a layer.
  function randomStart(random) {
    const layers = WIDTHS.slice(1).map((out, l) => {
      const most = 1 / Math.sqrt(WIDTHS[l]);
      const some = (length) => Float64Array.from({ length }, () => most * (2 * random() - 1));
      return [[`${2 * l}.weight`, some(out * WIDTHS[l])], [`${2 * l}.bias`, some(out)]];
    });
    return Object.fromEntries(layers.flat());
  }

  // The gradients that the four methods descend. H1 g2 is a difference of gradients to both sides of theta, so close to
  // it that no ReLU switches in between.
  function gradients(theta, S, Q, alpha) {
    const g1 = gradient(theta, S), g2 = gradient(plus(theta, -alpha, g1), Q), tiny = 1e-5 / size(g2);
    const difference = plus(gradient(plus(theta, tiny, g2), S), -1, gradient(plus(theta, -tiny, g2), S));
    return { red: g1, orange: g2, green: plus(g1, 1, g2), blue: plus(g2, -alpha / (2 * tiny), difference) };
  }

  // The updates as points of the plane of g1 and g2, in units of |g1|, and by how many degrees MAML's rises out of it.
  function inPlane(found) {
    const unit = size(found.red), e1 = scaled(found.red, -1 / unit);
    const across = plus(scaled(found.orange, -1), dot(found.orange, e1), e1), e2 = scaled(across, 1 / size(across));
    const place = (g) => [-dot(g, e1) / unit, -dot(g, e2) / unit];
    const ends = Object.fromEntries(Object.entries(found).map(([colour, g]) => [colour, place(g)]));
    const shadow = (unit * Math.hypot(...ends.blue)) / size(found.blue);
    return { ends, rise: (180 * Math.acos(Math.min(1, shadow))) / Math.PI };
  }

  Play.updates = { randomStart, gradients, inPlane };

  const markup = `
    <svg class="play-plane" viewBox="0 0 400 260" role="img"></svg>
    <div class="play-row">${Object.entries(NAMES).map(([colour, name]) => Play.key(colour, name)).join(" ")}</div>
    <div class="play-row">${Play.slider("power", "α", -3, -1, 0.05, -2.3)}
      ${Play.slider("a", "the wave's height", 0.2, 5, 0.1, 3)} ${Play.slider("b", "its shift", 0, 3.1, 0.1, 1)}
      <button type="button">Another start and other points</button></div>`;

  Play.live("updates", markup, (root, say) => {
    const svg = root.querySelector("svg"), random = Play.random(5);
    let theta, xs;

    // The plane, as wide as the arrows need: in units of |g1|, doubled until all end inside.
    function planeFor(ends) {
      let unit = 1;
      const inside = ([x, y]) => -1.5 < x / unit && x / unit < 2.3 && -1 < y / unit && y / unit < 1.4;
      while (unit < 64 && !ends.every(inside)) unit *= 2;
      const plane = Play.plane(svg, [-1.6 * unit, 2.4 * unit], [-1.1 * unit, 1.5 * unit]);
      return { ...plane, frame: plane.axes([-unit, unit], [-unit, unit], "along −g₁", "across, in units of |g₁|") };
    }

    function another() {
      theta = randomStart(random);
      xs = Array.from({ length: 2 * POINTS }, () => 10 * random() - 5);
    }

    function draw() {
      const { power, a, b } = Play.settings(root, { power: (p) => (10 ** p).toPrecision(2) }), alpha = 10 ** power;
      const points = xs.map((x) => [x, a * Math.sin(x + b)]);
      const { ends, rise } = inPlane(gradients(theta, points.slice(0, POINTS), points.slice(POINTS), alpha));
      const walk = [[0, 0], ends.red, ends.green], turn = (180 * Math.atan2(ends.orange[1], ends.orange[0])) / Math.PI;
      const plane = planeFor(Object.values(ends)), arrows = Object.entries(ends).map(([colour, end]) => {
        return `<g class="play-${colour}">${plane.arrow([0, 0], end)}</g>`;
      });
      svg.innerHTML = `${plane.frame}<g class="play-paths">${arrows.join("")}
        <polyline class="play-guess" points="${plane.line(walk)}"/></g>`;
      const words = `Step size ${alpha.toPrecision(2)}: first-order MAML points ${Math.abs(turn).toFixed(0)}° away from `
        + `pre-training, Reptile's arrow is the sum of the two, and MAML's rises ${rise.toFixed(0)}° out of the plane.`;
      svg.setAttribute("aria-label", words);
      say(words);
    }

    root.querySelector("button").addEventListener("click", () => { another(); draw(); });
    another();
    return draw;
  });
})();
