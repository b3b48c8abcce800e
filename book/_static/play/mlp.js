// The network of the sine waves, 1-40-40-1 with ReLUs, and the same step of descent for every start:
//
//   a = max(0, W1 x + b1),  h = max(0, W2 a + b2),  y = W3 h + b3,  l = mean of (y - target)^2
//   theta <- theta - alpha grad l(theta)
//
// A set of parameters is {name: Float64Array}, with the names that PyTorch gives them.
globalThis.Play ??= {};

(() => {
  "use strict";
  const LAYERS = ["0", "2", "4"];

  // What a layer makes of the numbers before it: W a + b, and the ReLU where there is one.
  function layer(theta, name, before, relu) {
    const W = theta[`${name}.weight`], b = theta[`${name}.bias`], width = before.length;
    return Array.from(b, (bias, i) => {
      let u = bias;
      for (let j = 0; j < width; j++) u += W[i * width + j] * before[j];
      return relu ? Math.max(0, u) : u;
    });
  }

  // All that the layers make of a number x: x itself, a, h and y.
  function trace(theta, x) {
    return LAYERS.reduce((made, name) => [...made, layer(theta, name, made.at(-1), name !== "4")], [[x]]);
  }

  const predict = (theta, x) => trace(theta, x)[3][0];

  // Backwards, du is the derivative of l by a layer's sum: dW = du before^T, db = du, and what comes
  // before gets W^T du where its own ReLU is open.
  function lossAndGradient(theta, points) {
    const gradient = Object.fromEntries(Object.entries(theta).map(([name, w]) => [name, new Float64Array(w.length)]));
    let loss = 0;
    for (const [x, target] of points) {
      const made = trace(theta, x), error = made[3][0] - target;
      loss += error ** 2 / points.length;
      let du = [(2 * error) / points.length];
      for (let l = LAYERS.length - 1; l >= 0; l--) {
        const W = theta[`${LAYERS[l]}.weight`], dW = gradient[`${LAYERS[l]}.weight`];
        const db = gradient[`${LAYERS[l]}.bias`], before = made[l], width = before.length;
        const dbefore = new Float64Array(width);
        du.forEach((d, i) => {
          db[i] += d;
          for (let j = 0; j < width; j++) {
            dW[i * width + j] += d * before[j];
            if (before[j] > 0) dbefore[j] += d * W[i * width + j];
          }
        });
        du = dbefore;
      }
    }
    return { loss, gradient };
  }

  // theta after 0, 1, ... steps from phi, each with its loss on the points.
  function descent(phi, points, steps, alpha) {
    const path = [];
    for (let theta = phi, t = 0; t <= steps; t++) {
      const { loss, gradient } = lossAndGradient(theta, points);
      path.push({ theta, loss });
      const moved = Object.entries(theta).map(([name, w]) => [name, w.map((v, j) => v - alpha * gradient[name][j])]);
      theta = Object.fromEntries(moved);
    }
    return path;
  }

  Play.mlp = { predict, lossAndGradient, descent };
})();
