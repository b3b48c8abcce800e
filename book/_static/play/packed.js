// Weights as tools/play_weights.py packs them: name by name, row by row, in base64.
//
//   int8:     w = s_row q,  q an integer from -127 to 127; the scales s, a float32 a row, come first
//   float16:  sign, 5 bits of exponent, 10 of mantissa
//
globalThis.Play ??= {};
Play.packed ??= {};

// {tensors: [{name, kind, rows, columns}], data} to {name: Float64Array}.
Play.unpack = (packed) => {
  const bytes = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  const read = {
    int8: () => view.getInt8(at++),
    float16: () => half(view.getUint16((at += 2) - 2, true)),
    float32: () => view.getFloat32((at += 4) - 4, true),
  };

  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -14 * (mantissa / 1024));
  }

  const theta = {};
  for (const { name, kind, rows, columns } of packed.tensors) {
    const scales = Float64Array.from({ length: rows }, kind === "int8" ? read.float32 : () => 1);
    theta[name] = Float64Array.from({ length: rows * columns }, (_, place) => {
      return scales[Math.floor(place / columns)] * read[kind]();
    });
  }
  return theta;
};

// Numbers from 0 to 1, always the same ones for a seed (the generator is Marsaglia's xorshift).
Play.random = (seed) => {
  let state = (seed * 2654435761 + 88172645) | 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
};
