// The network of the few-shot chapters, conv4 with a linear head, and how it learns in this page:
//
//   MAML:        theta_0 = phi,  theta_{t+1} = theta_t - alpha grad l(theta_t)
//   prototypes:  c_k = the mean of the features of class k,  logit_k = -|z - c_k|^2
//
// Nothing here is from a library. A set of parameters, theta or phi, is {name: Float64Array}, with the
// names that PyTorch gives them. An image is 28 * 28 numbers, ink 1. What lies between two layers is
// one array, a channel a row: x[channel][image, place]. In the comments dv is the derivative of l by v.
globalThis.Play ??= {};

(() => {
  "use strict";
  const CHANNELS = 64, FEATURES = 256, WAYS = 5, EPSILON = 1e-5;
  const HEAD = "13";
  const BLOCKS = [ // a convolution that halves the image, a normalisation, a ReLU
    { conv: "0", norm: "1", size: 28 },
    { conv: "3", norm: "4", size: 14 },
    { conv: "6", norm: "7", size: 7 },
    { conv: "9", norm: "10", size: 4 },
  ];

  // ------------------------------------------------------------------------------------- matrices

  // A B: a is [m, k], b is [k, n], both row by row. Four rows of b at a time, for speed alone.
  function times(a, b, m, k, n) {
    const c = new Float64Array(m * n);
    for (let i = 0; i < m; i++) {
      const row = c.subarray(i * n, (i + 1) * n);
      let l = 0;
      for (; l + 4 <= k; l += 4) {
        const at = i * k + l, a0 = a[at], a1 = a[at + 1], a2 = a[at + 2], a3 = a[at + 3];
        const r0 = l * n, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
        for (let j = 0; j < n; j++) row[j] += a0 * b[r0 + j] + a1 * b[r1 + j] + a2 * b[r2 + j] + a3 * b[r3 + j];
      }
      for (; l < k; l++) for (let j = 0; j < n; j++) row[j] += a[i * k + l] * b[l * n + j];
    }
    return c;
  }

  function transposed(a, rows, columns) {
    const t = new Float64Array(a.length);
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) t[j * rows + i] = a[i * columns + j];
    return t;
  }

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const dot = (a, b) => a.reduce((total, value, j) => total + value * b[j], 0);

  // ------------------------------------------------------------------- a block, and back through it

  // A convolution is a matrix product, W P: each column of P is the 3 x 3 neighbourhood, in all
  // channels, of one place of the halved image. This says which entry of P is which entry of x.
  function eachNeighbour(channels, n, size, visit) {
    const half = Math.ceil(size / 2);
    let p = 0;
    for (let channel = 0; channel < channels; channel++)
      for (let down = -1; down <= 1; down++)
        for (let right = -1; right <= 1; right++)
          for (let image = 0; image < n; image++)
            for (let row = down; row < 2 * half + down; row += 2)
              for (let column = right; column < 2 * half + right; column += 2, p++)
                if (row >= 0 && row < size && column >= 0 && column < size)
                  visit(p, ((channel * n + image) * size + row) * size + column);
  }

  // u = W P,  z = (u - mean u) / s,  s = sqrt(var u + epsilon),  y = max(0, gamma z + beta)
  //
  // The mean and the variance are those of a channel over all places of all images that are there:
  // batch statistics. The convolution's bias is left out, since the mean takes it away again.
  function block(theta, { conv, norm, size }, x, n) {
    const channels = x.length / (n * size * size), places = n * Math.ceil(size / 2) ** 2;
    const P = new Float64Array(channels * 9 * places);
    eachNeighbour(channels, n, size, (p, place) => { P[p] = x[place]; });
    const z = times(theta[`${conv}.weight`], P, CHANNELS, channels * 9, places);
    const y = new Float64Array(z.length), s = new Float64Array(CHANNELS);
    const gamma = theta[`${norm}.weight`], beta = theta[`${norm}.bias`];
    for (let c = 0; c < CHANNELS; c++) {
      const row = z.subarray(c * places, (c + 1) * places);
      const mean = sum(row) / places;
      for (let j = 0; j < places; j++) row[j] -= mean;
      s[c] = Math.sqrt(dot(row, row) / places + EPSILON);
      for (let j = 0; j < places; j++) {
        row[j] /= s[c];
        y[c * places + j] = Math.max(0, gamma[c] * row[j] + beta[c]);
      }
    }
    return { n, channels, places, P, z, s, y };
  }

  // dbeta = sum of dy,  dgamma = sum of z dy  (where the ReLU is open),
  // du = gamma / s (dy - mean of dy - z mean of z dy),  dW = du P^T,  dP = W^T du,  and dx from dP.
  function blockBackwards(theta, gradient, { conv, norm, size }, { n, channels, places, P, z, s, y }, dy) {
    const gamma = theta[`${norm}.weight`], W = theta[`${conv}.weight`];
    const dgamma = new Float64Array(CHANNELS), dbeta = new Float64Array(CHANNELS);
    const du = new Float64Array(z.length);
    for (let c = 0; c < CHANNELS; c++) {
      const own = dy.subarray(c * places, (c + 1) * places), zs = z.subarray(c * places, (c + 1) * places);
      for (let j = 0; j < places; j++) if (y[c * places + j] <= 0) own[j] = 0;
      dbeta[c] = sum(own);
      dgamma[c] = dot(own, zs);
      for (let j = 0; j < places; j++)
        du[c * places + j] = (gamma[c] / s[c]) * (own[j] - dbeta[c] / places - (zs[j] * dgamma[c]) / places);
    }
    gradient[`${norm}.weight`] = dgamma;
    gradient[`${norm}.bias`] = dbeta;
    gradient[`${conv}.weight`] = times(du, transposed(P, channels * 9, places), CHANNELS, places, channels * 9);
    const dP = times(transposed(W, CHANNELS, channels * 9), du, channels * 9, CHANNELS, places);
    const dx = new Float64Array(channels * n * size * size);
    eachNeighbour(channels, n, size, (p, place) => { dx[place] += dP[p]; });
    return dx;
  }

  // ---------------------------------------------------------------------------------- the network

  // The blocks' outputs, and z [image][feature]: of the last block, 64 channels at 2 x 2 places.
  function body(theta, images) {
    const n = images.length;
    let x = new Float64Array(n * 784);
    images.forEach((image, i) => x.set(image, i * 784));
    const trace = BLOCKS.map((shape) => {
      const kept = block(theta, shape, x, n);
      x = kept.y;
      return kept;
    });
    const z = images.map((_, i) => Float64Array.from({ length: FEATURES }, (_, f) => x[place(f, i, n)]));
    return { trace, z };
  }

  const place = (f, image, n) => (Math.floor(f / 4) * n + image) * 4 + (f % 4);

  const features = (theta, images) => body(theta, images).z;

  function head(theta, z) {
    const W = theta[`${HEAD}.weight`], b = theta[`${HEAD}.bias`];
    return Array.from({ length: WAYS }, (_, k) => b[k] + dot(W.subarray(k * FEATURES, (k + 1) * FEATURES), z));
  }

  function softmax(logits) {
    const largest = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - largest));
    return powers.map((power) => power / sum(powers));
  }

  // ------------------------------------------------------------------------------------- learning

  // l(theta) = the mean of -log p(label | image), the cross entropy; and its gradient.
  function lossAndGradient(theta, images, labels) {
    const n = images.length, { trace, z } = body(theta, images);
    const W = theta[`${HEAD}.weight`], dW = new Float64Array(W.length), db = new Float64Array(WAYS);
    let loss = 0, dy = new Float64Array(CHANNELS * n * 4);
    labels.forEach((label, i) => {
      const p = softmax(head(theta, z[i]));
      loss -= Math.log(p[label]) / n;
      for (let k = 0; k < WAYS; k++) {
        const dlogit = (p[k] - (k === label ? 1 : 0)) / n;
        db[k] += dlogit;
        for (let f = 0; f < FEATURES; f++) {
          dW[k * FEATURES + f] += dlogit * z[i][f];
          dy[place(f, i, n)] += dlogit * W[k * FEATURES + f];
        }
      }
    });
    const gradient = { [`${HEAD}.weight`]: dW, [`${HEAD}.bias`]: db };
    for (let b = BLOCKS.length - 1; b >= 0; b--) dy = blockBackwards(theta, gradient, BLOCKS[b], trace[b], dy);
    return { loss, gradient };
  }

  // theta - alpha grad l. The old theta stays as it is, so that one can go back.
  function step(theta, gradient, alpha) {
    const moved = Object.entries(theta).map(([name, w]) => [name, w.map((v, j) => v - alpha * gradient[name][j])]);
    return Object.fromEntries(moved);
  }

  // The logits for a query, which is seen in a batch beside the support set and no other query.
  const logits = (theta, support, query) => head(theta, features(theta, [...support, query]).at(-1));

  // {class: the mean of its features}; of the classes that have an example.
  function prototypes(theta, images, labels) {
    const z = features(theta, images), means = {};
    for (const k of new Set(labels)) {
      const own = z.filter((_, i) => labels[i] === k);
      means[k] = own[0].map((_, f) => sum(own.map((example) => example[f])) / own.length);
    }
    return means;
  }

  // -|z - c_k|^2 for the query's features z, in the same batch as above; no class, no chance.
  function distanceLogits(theta, means, support, query) {
    const z = features(theta, [...support, query]).at(-1);
    return Array.from({ length: WAYS }, (_, k) => {
      if (!means[k]) return -Infinity;
      const apart = z.map((value, f) => value - means[k][f]);
      return -dot(apart, apart);
    });
  }

  // A start that has learned nothing: weights as PyTorch draws them, uniform within 1 / sqrt(fan in).
  function randomStart(seed) {
    const random = Play.random(seed);
    const uniform = (length, fan) => Float64Array.from({ length }, () => (2 * random() - 1) / Math.sqrt(fan));
    const phi = { [`${HEAD}.weight`]: new Float64Array(WAYS * FEATURES), [`${HEAD}.bias`]: new Float64Array(WAYS) };
    BLOCKS.forEach(({ conv, norm }, b) => {
      const fan = 9 * (b ? CHANNELS : 1);
      phi[`${conv}.weight`] = uniform(CHANNELS * fan, fan);
      phi[`${norm}.weight`] = new Float64Array(CHANNELS).fill(1);
      phi[`${norm}.bias`] = new Float64Array(CHANNELS);
    });
    return phi;
  }

  Play.conv4 = { lossAndGradient, step, logits, prototypes, distanceLogits, randomStart, softmax, features };
})();
