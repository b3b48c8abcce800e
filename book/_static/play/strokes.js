// From a drawing to the image that the network sees.
//
// A drawing is a list of strokes, a stroke a list of points [x, y], in any unit. It is brought to the
// size and the place that Omniglot's drawings have on average, and drawn with a pen of one width; so
// it does not matter how large and where somebody draws. Every pixel is the mean of 4 x 4 finer ones.
globalThis.Play ??= {};

(() => {
  "use strict";
  const SIDE = 28, FINE = 4;
  const LONGER = 18, PEN = 1.3; // the longer side of the ink, and its width, in pixels
  const CENTER = [13.9, 13.7]; // of the ink's mass; a pixel's own center is at its number + 0.5
  const MARGIN = 0.5;

  const segments = (strokes) => strokes.flatMap((stroke) => stroke.map((point, i) => [stroke[Math.max(0, i - 1)], point]));

  // The drawing in pixels of the image.
  function normalized(strokes) {
    const points = strokes.flat();
    const low = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
    const high = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
    const extent = Math.max(high[0] - low[0], high[1] - low[1]);
    const scale = extent > 0 ? (LONGER - PEN) / extent : 1; // a mere dot keeps its size
    let mass = 0;
    const moment = [0, 0];
    for (const [a, b] of segments(strokes)) {
      const length = Math.hypot(b[0] - a[0], b[1] - a[1]) + 1e-9 * (extent || 1);
      mass += length;
      for (const axis of [0, 1]) moment[axis] += (length * (a[axis] + b[axis])) / 2;
    }
    // Long tails must not leave the image: then the center gives way.
    const room = MARGIN + PEN / 2;
    const shift = [0, 1].map((axis) => {
      const wanted = CENTER[axis] - (scale * moment[axis]) / mass;
      return Math.min(Math.max(wanted, room - scale * low[axis]), SIDE - room - scale * high[axis]);
    });
    return strokes.map((stroke) => stroke.map((point) => point.map((v, axis) => scale * v + shift[axis])));
  }

  // The square of the distance of a place from the line between a and b.
  function distance2(x, y, [ax, ay], [bx, by]) {
    const dx = bx - ax, dy = by - ay, length2 = dx * dx + dy * dy;
    const t = length2 > 0 ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length2)) : 0;
    return (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2;
  }

  // 28 * 28 numbers, row by row, from 0 to 1 (ink).
  Play.image = (strokes) => {
    const side = SIDE * FINE, radius = PEN / 2, fine = new Uint8Array(side * side);
    for (const [a, b] of segments(normalized(strokes))) {
      const [left, top] = [0, 1].map((axis) => Math.max(0, Math.floor((Math.min(a[axis], b[axis]) - radius) * FINE)));
      const [right, bottom] = [0, 1].map((axis) => Math.min(side, Math.ceil((Math.max(a[axis], b[axis]) + radius) * FINE)));
      for (let row = top; row < bottom; row++)
        for (let column = left; column < right; column++)
          if (distance2((column + 0.5) / FINE, (row + 0.5) / FINE, a, b) <= radius * radius) fine[row * side + column] = 1;
    }
    const image = new Float64Array(SIDE * SIDE);
    for (let row = 0; row < side; row++)
      for (let column = 0; column < side; column++)
        image[Math.floor(row / FINE) * SIDE + Math.floor(column / FINE)] += fine[row * side + column] / FINE ** 2;
    return image;
  };
})();
