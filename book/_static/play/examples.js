// Five invented characters, for those who cannot or would not draw, on a pad of 100 x 100.
globalThis.Play ??= {};

(() => {
  "use strict";
  // Points on an ellipse, from one angle to another, in degrees; 0 is right, 90 is down.
  function arc(x, y, across, down, from, to) {
    return Array.from({ length: 17 }, (_, i) => {
      const angle = ((from + ((to - from) * i) / 16) * Math.PI) / 180;
      return [x + across * Math.cos(angle), y + down * Math.sin(angle)];
    });
  }

  const CHARACTERS = [
    [arc(50, 35, 22, 20, -180, 180), [[50, 55], [50, 90]], [[34, 74], [66, 74]]], // a ring on a cross
    [[[25, 15], [25, 85]], [[75, 15], [75, 85]], arc(50, 50, 25, 18, 180, 0)], // two posts and a sling
    [[[20, 20], [80, 20], [35, 55], [78, 85]], [[20, 85], [40, 85]]], // a zigzag and a dash
    [arc(45, 50, 30, 35, 60, 300), [[45, 50], [88, 50]], [[88, 36], [88, 64]]], // a fork in a bow
    [[[50, 12], [82, 45], [50, 78], [18, 45], [50, 12]], [[50, 78], [30, 95]], [[50, 78], [70, 95]]], // a kite
  ];

  // The character as another hand, or the same hand later, would draw it.
  function redrawn(strokes, random) {
    const off = (size) => size * (2 * random() - 1);
    const turn = off(0.16), slant = off(0.18), wide = 1 + off(0.14), bend = [off(5), off(5)];
    return strokes.map((stroke) => {
      const shift = [off(4), off(4)];
      return stroke.map(([x, y]) => {
        const u = (x - 50) * wide + slant * (y - 50), v = y - 50;
        const wave = Math.sin(((x + y) / 100) * Math.PI);
        return [
          50 + u * Math.cos(turn) - v * Math.sin(turn) + shift[0] + bend[0] * wave,
          50 + u * Math.sin(turn) + v * Math.cos(turn) + shift[1] + bend[1] * wave,
        ];
      });
    });
  }

  // One drawing of each character, and another drawing of one of them: which one, says `answer`.
  Play.examples = (seed) => {
    const random = Play.random(seed);
    const answer = Math.floor(random() * CHARACTERS.length);
    const drawings = CHARACTERS.map((strokes) => redrawn(strokes, random));
    return { drawings, query: redrawn(CHARACTERS[answer], random), answer };
  };
})();
