// The page "Draw your own characters": the pad, the drawings, the learner, and what it says.
(() => {
  "use strict";
  const { lossAndGradient, step, logits, prototypes, distanceLogits, randomStart, softmax } = Play.conv4;
  const LETTERS = [..."ABCDE"], SHOTS = 3, QUERY = "query";
  const ALPHA = 0.4, MOST_STEPS = 10; // the step size that phi was trained with
  const PAD = 100, MOVE = 4; // the pad's side, and how far an arrow key moves the pen
  const KEYS = "Draw with the mouse or a finger. Or by keys: the arrow keys move the pen, Space puts it down or lifts it, "
    + "Backspace takes back a stroke, Enter goes on to the next drawing.";

  const root = document.querySelector("[data-playground=draw]");
  root.innerHTML = `
    <div class="play-columns">
      <div class="play-drawing">
        <p class="play-title" id="play-now"></p>
        <canvas class="play-pad" width="560" height="560" tabindex="0" role="application"></canvas>
        <div class="play-row">
          <button type="button" data-do="undo">Undo</button>
          <button type="button" data-do="clear">Clear</button>
          <button type="button" data-do="next">Next</button>
        </div>
        <div class="play-row">
          <button type="button" data-do="examples">Fill with examples</button>
          <button type="button" data-do="empty">Start over</button>
        </div>
      </div>
      <div class="play-learning">
        <div class="play-slots" role="group" aria-label="What has been drawn"></div>
        <div class="play-row">
          <label>Learner
            <select data-set="learner">
              <option value="maml">MAML: gradient steps</option>
              <option value="prototypes">Prototypes</option>
            </select>
          </label>
          <label class="play-steps">Steps <input type="range" min="0" max="${MOST_STEPS}" value="3" data-set="steps">
            <output>3</output></label>
        </div>
        <div class="play-row"><label><input type="checkbox" data-set="random"> from a random start, not from φ</label></div>
        <ul class="play-bars">${LETTERS.map((letter) => `<li><b>${letter}</b><i></i><span></span></li>`).join("")}</ul>
        <p class="play-answer" role="status"></p>
        <svg class="play-curve" viewBox="0 0 320 144" role="img"></svg>
      </div>
    </div>`;

  const $ = (selector) => root.querySelector(selector);
  const pad = $(".play-pad"), ink = pad.getContext("2d"), status = $(".play-answer");
  const controls = Object.fromEntries([...root.querySelectorAll("[data-set]")].map((e) => [e.dataset.set, e]));

  // ------------------------------------------------------------------------------------ the state

  // A slot holds one drawing. A1 is the first drawing of character A.
  const slots = {};
  for (let shot = 1; shot <= SHOTS; shot++) for (const letter of LETTERS) slots[letter + shot] = slot(letter, `drawing ${shot}`);
  slots[QUERY] = slot(QUERY, "");
  const ORDER = [...LETTERS.map((letter) => letter + 1), QUERY, ...Object.keys(slots).filter((key) => !/1|query/.test(key))];
  let now = "A1", pen = { x: 50, y: 50, down: false, keys: false };
  let starts = {}, path = null, answerOfExamples = "", fills = 0, run = 0;

  function slot(letter, which) {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 28;
    button.type = "button";
    button.className = letter === QUERY ? "play-slot play-query" : "play-slot";
    const caption = document.createElement("span");
    caption.textContent = letter === QUERY ? "query" : which === "drawing 1" ? letter : "";
    button.append(caption, canvas);
    $(".play-slots").append(button);
    return { letter, which, button, canvas, strokes: [], image: null };
  }

  const label = ({ letter, which }) => (letter === QUERY ? "the query" : `character ${letter}, ${which}`);

  // The support set: the images of all characters, and to which class each belongs.
  function support() {
    const drawn = Object.values(slots).filter(({ letter, image }) => image && letter !== QUERY);
    return { images: drawn.map(({ image }) => image), labels: drawn.map(({ letter }) => LETTERS.indexOf(letter)) };
  }

  // Where learning starts: phi, or the network that meta-training began with. Each is made once.
  function start(learner) {
    const name = controls.random.checked ? "random" : learner;
    starts[name] ??= name === "random" ? randomStart(1)
      : Play.unpack(Play.packed[name === "maml" ? "omniglot_maml" : "omniglot_prototypes"]);
    return starts[name];
  }

  function changed(key) {
    const one = slots[key];
    one.image = one.strokes.length ? Play.image(one.strokes) : null;
    if (key !== QUERY) path = null;
    answerOfExamples = "";
    show();
    learn();
  }

  // -------------------------------------------------------------------------------------- learning

  // One gradient step a frame, so that the page stays alive and the loss is seen to fall. A new
  // drawing makes what is under way pointless: it stops when it sees that it is not the last run.
  function learn() {
    const mine = ++run;
    root.setAttribute("aria-busy", "true");
    requestAnimationFrame(function frame() {
      if (mine !== run) return;
      const { images, labels } = support(), classes = new Set(labels);
      const steps = Number(controls.steps.value), maml = controls.learner.value === "maml";
      if (maml && classes.size >= 2) {
        path ??= [];
        if (path.length <= steps) {
          const last = path.at(-1);
          const theta = last ? step(last.theta, last.gradient, ALPHA) : start("maml");
          path.push({ theta, ...lossAndGradient(theta, images, labels) });
        }
      }
      const more = maml && path && path.length <= steps;
      if (more) requestAnimationFrame(frame);
      say(report(images, labels, classes, maml, steps), !more);
    });
  }

  // Shows the losses and the probabilities, and returns them in words.
  function report(images, labels, classes, maml, steps) {
    const taken = maml && path ? path.slice(0, steps + 1) : [];
    curve(taken.map(({ loss }) => loss), steps);
    const query = slots[QUERY].image;
    if (classes.size < 2 || !query) {
      bars(null);
      return classes.size < 2 ? "Draw at least two characters, or fill with examples." : "Now draw the query: one of your characters once more.";
    }
    const body = start("prototypes");
    const scores = maml ? logits(taken.at(-1).theta, images, query) : distanceLogits(body, prototypes(body, images, labels), images, query);
    const p = softmax(scores.map((score, k) => (classes.has(k) ? score : -Infinity)));
    bars(p);
    const best = p.indexOf(Math.max(...p));
    const how = maml ? `${taken.length - 1} gradient step${taken.length === 2 ? "" : "s"}` : "prototypes";
    const from = controls.random.checked ? ", from a random start" : "";
    const fall = maml && taken.length > 1 ? ` The loss on your drawings went from ${taken[0].loss.toFixed(2)} to ${taken.at(-1).loss.toFixed(2)}.` : "";
    return `Most like ${LETTERS[best]}: ${percent(p[best])} (${how}${from}).${answerOfExamples}${fall}`;
  }

  const percent = (share) => `${Math.round(100 * share)} %`;

  // ---------------------------------------------------------------------------------- what is shown

  let saying = 0;
  function say(text, last) { // a moment later, so that a screen reader hears the last of several
    clearTimeout(saying);
    saying = setTimeout(() => {
      if (last) root.setAttribute("aria-busy", "false");
      if (status.textContent !== text) status.textContent = text;
    }, 400);
  }

  function bars(p) {
    root.querySelectorAll(".play-bars li").forEach((line, k) => {
      line.style.setProperty("--share", p ? p[k] : 0);
      line.querySelector("span").textContent = p && (p[k] || slots[LETTERS[k] + 1].image) ? percent(p[k]) : "–";
    });
  }

  // The losses before each step, and the loss of a uniform guess among five, log 5.
  function curve(losses, steps) {
    const svg = $(".play-curve"), guess = Math.log(LETTERS.length), top = Math.max(2, ...losses);
    const x = (t) => 34 + (t * 270) / MOST_STEPS, y = (loss) => 104 - (loss * 90) / top;
    const dots = losses.map((loss, t) => `<circle cx="${x(t)}" cy="${y(loss)}" r="3.5"/>`).join("");
    const ticks = [0, 5, 10].map((t) => `<text x="${x(t)}" y="120" text-anchor="middle">${t}</text>`).join("");
    svg.innerHTML = `<path class="play-axis" d="M34 10V104H310"/>${ticks}
      <text x="28" y="108" text-anchor="end">0</text><text x="28" y="${y(guess) + 4}" text-anchor="end">1.6</text>
      <path class="play-guess" d="M34 ${y(guess)}H310"/><text x="310" y="${y(guess) - 5}" text-anchor="end">a uniform guess</text>
      <polyline points="${losses.map((loss, t) => `${x(t)},${y(loss)}`).join(" ")}"/>${dots}
      <text x="172" y="138" text-anchor="middle">${losses.length ? "loss on your drawings, by steps" : ""}</text>`;
    svg.setAttribute("aria-label", losses.length
      ? `Loss on your drawings after 0 to ${losses.length - 1} of ${steps} steps: ${losses.map((loss) => loss.toFixed(3)).join(", ")}.`
      : "The loss curve; nothing has been learned by gradient steps yet.");
    svg.dataset.losses = JSON.stringify(losses);
  }

  function show() {
    const { strokes } = slots[now];
    $("#play-now").textContent = `Drawing ${label(slots[now])}`;
    ink.fillStyle = "#fff"; // pictures are on white in both themes
    ink.fillRect(0, 0, pad.width, pad.height);
    ink.save();
    ink.scale(pad.width / PAD, pad.height / PAD);
    ink.lineCap = ink.lineJoin = "round";
    ink.lineWidth = 4;
    ink.strokeStyle = "#111";
    for (const stroke of strokes) {
      ink.beginPath();
      stroke.forEach(([x, y]) => ink.lineTo(x, y));
      ink.lineTo(...stroke.at(-1)); // a single point is a dot
      ink.stroke();
    }
    if (pen.keys) {
      ink.lineWidth = 0.8;
      ink.strokeStyle = pen.down ? "#D55E00" : "#0072B2";
      ink.beginPath();
      ink.arc(pen.x, pen.y, 3, 0, 7);
      for (const [dx, dy] of [[7, 0], [0, 7]]) {
        ink.moveTo(pen.x - dx, pen.y - dy);
        ink.lineTo(pen.x + dx, pen.y + dy);
      }
      ink.stroke();
    }
    ink.restore();
    pad.setAttribute("aria-label", `Drawing pad: ${label(slots[now])}, ${strokes.length} stroke${strokes.length === 1 ? "" : "s"}, `
      + `pen ${pen.down ? "down" : "up"}. ${KEYS}`);
    for (const [key, one] of Object.entries(slots)) {
      one.button.setAttribute("aria-pressed", key === now);
      one.button.setAttribute("aria-label", `${label(one)}, ${one.image ? "drawn" : "empty"}`);
      const pixels = new ImageData(28, 28);
      for (let i = 0; i < 784; i++) {
        const gray = 255 * (1 - (one.image ? one.image[i] : 0));
        pixels.data.set([gray, gray, gray, 255], 4 * i);
      }
      one.canvas.getContext("2d").putImageData(pixels, 0, 0);
    }
  }

  // ------------------------------------------------------------------------------- what can be done

  function choose(key) {
    now = key;
    pen = { ...pen, x: 50, y: 50, down: false };
    show();
  }

  const actions = {
    undo() { slots[now].strokes.pop(); pen.down = false; changed(now); },
    clear() { slots[now].strokes = []; pen.down = false; changed(now); },
    next() {
      const at = ORDER.indexOf(now), later = [...ORDER.slice(at + 1), ...ORDER.slice(0, at)];
      choose(later.find((key) => !slots[key].image) ?? QUERY);
    },
    empty() {
      for (const one of Object.values(slots)) Object.assign(one, { strokes: [], image: null });
      path = null;
      choose("A1");
      changed("A1");
    },
    examples() {
      actions.empty();
      const { drawings, query, answer } = Play.examples(++fills);
      drawings.forEach((strokes, k) => { slots[LETTERS[k] + 1].strokes = strokes; changed(LETTERS[k] + 1); });
      slots[QUERY].strokes = query;
      choose(QUERY);
      changed(QUERY);
      answerOfExamples = ` The query is another drawing of ${LETTERS[answer]}.`;
    },
  };
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => actions[button.dataset.do]());
  for (const [key, { button }] of Object.entries(slots)) button.addEventListener("click", () => choose(key));
  for (const [name, control] of Object.entries(controls)) {
    control.addEventListener("input", () => {
      if (name === "random") path = null;
      $(".play-steps output").textContent = controls.steps.value;
      $(".play-steps").hidden = controls.learner.value !== "maml";
      learn();
    });
  }

  // With a mouse, a pen or a finger.
  const point = (event) => {
    const box = pad.getBoundingClientRect();
    return [(PAD * (event.clientX - box.left)) / box.width, (PAD * (event.clientY - box.top)) / box.height];
  };
  let drawing = null; // the pointer that is down
  pad.addEventListener("pointerdown", (event) => {
    if (drawing !== null || event.button > 0) return;
    drawing = event.pointerId;
    pad.setPointerCapture(drawing);
    pen = { ...pen, down: false, keys: false };
    slots[now].strokes.push([point(event)]);
    show();
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawing) return;
    const between = event.getCoalescedEvents?.() ?? [];
    slots[now].strokes.at(-1).push(...(between.length ? between : [event]).map(point));
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pad.addEventListener(end, (event) => {
      if (event.pointerId !== drawing) return;
      drawing = null;
      changed(now);
    });
  }

  // With keys.
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow) {
      pen.keys = true;
      [pen.x, pen.y] = [pen.x, pen.y].map((v, axis) => Math.min(PAD, Math.max(0, v + MOVE * arrow[axis])));
      if (pen.down) slots[now].strokes.at(-1).push([pen.x, pen.y]);
      show();
    } else if (event.key === " ") {
      pen = { ...pen, keys: true, down: !pen.down };
      if (pen.down) slots[now].strokes.push([[pen.x, pen.y]]);
      changed(now);
    } else if (event.key === "Backspace") {
      actions.undo();
    } else if (event.key === "Enter") {
      if (pen.down) changed(now);
      actions.next();
    } else return;
    event.preventDefault();
  });

  show();
  learn();
})();
