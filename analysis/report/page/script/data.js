// Reads the report's data out of the page and unpacks its arrays.

function bytesOfBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

const size = (shape) => shape.reduce((product, extent) => product * extent, 1);

/// Float32 values lie in four planes of bytes, which compress better.
function unpackFloats(bytes, count) {
  const joined = new Uint8Array(4 * count);
  for (let k = 0; k < 4; ++k) {
    for (let i = 0; i < count; ++i) joined[4 * i + k] = bytes[k * count + i];
  }
  const view = new DataView(joined.buffer);
  return Float32Array.from({length: count}, (_, i) => view.getFloat32(4 * i, true));
}

function unpackIntegers(bytes, count) {
  const view = new DataView(bytes.buffer);
  return Int32Array.from({length: count}, (_, i) => view.getInt32(4 * i, true));
}

/// An array of the report: `at(i, j, ...)` is a number, or null where there is none.
export class NumberArray {
  constructor(packed) {
    this.shape = packed.shape;
    this.type = packed.type;
    const bytes = bytesOfBase64(packed.data);
    const count = size(packed.shape);
    this.rowBytes = Math.ceil((packed.shape[packed.shape.length - 1] ?? 0) / 8);
    if (packed.type === 'f32')
      this.values = unpackFloats(bytes, count);
    else if (packed.type === 'i32')
      this.values = unpackIntegers(bytes, count);
    else
      this.values = bytes;
  }

  offset(indices) {
    let offset = 0;
    for (let axis = 0; axis < indices.length; ++axis) offset = offset * this.shape[axis] + indices[axis];
    return offset;
  }

  at(...indices) {
    if (this.type === 'bits') {
      const last = indices.pop();
      return (this.values[this.offset(indices) * this.rowBytes + (last >> 3)] >> (last & 7)) & 1;
    }
    const value = this.values[this.offset(indices)];
    if (Number.isNaN(value) || (this.type === 'u8' && value === 255)) return null;
    return value;
  }

  /// Values along the last axis, null where there is none.
  row(...indices) {
    const length = this.shape[this.shape.length - 1];
    return Array.from({length}, (_, i) => this.at(...indices, i));
  }
}

const unpacked = new WeakMap();

/// Unpacks an array when it is first used; null stays null.
export function numbers(packed) {
  if (packed === null || packed === undefined) return null;
  if (!unpacked.has(packed)) unpacked.set(packed, new NumberArray(packed));
  return unpacked.get(packed);
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).text();
}

/// The report embedded in this page.
export async function embeddedReport(element) {
  const text = element.textContent;
  return JSON.parse(element.dataset.encoding === 'deflate' ? await inflate(bytesOfBase64(text)) : text);
}
