// Numbers and names as people read them.

/// Three significant digits; "n/a" where there is none.
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return 'n/a';
  if (value === 0) return '0';
  const magnitude = Math.abs(value);
  if (magnitude >= 1e6 || magnitude < 1e-4) return value.toExponential(2);
  if (magnitude >= 1000) return Math.round(value).toLocaleString('en');
  return String(Number(value.toPrecision(3)));
}

export function percent(share) {
  if (share === null || share === undefined) return 'n/a';
  if (share > 0 && share < 1e-5) return '< 0.001 %';
  return `${Number((100 * share).toPrecision(3))} %`;
}

export function bytes(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return 'n/a';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  let scaled = value;
  while (Math.abs(scaled) >= 1024 && unit + 1 < units.length) {
    scaled /= 1024;
    ++unit;
  }
  return `${unit === 0 ? Math.round(scaled) : Number(scaled.toPrecision(3))} ${units[unit]}`;
}

/// A value of a metric in its unit.
export function inUnit(value, unit) {
  if (unit === 'bytes') return bytes(value);
  if (!unit || unit === '1' || unit === 'share') return number(value);
  return value === null || value === undefined ? 'n/a' : `${number(value)} ${unit}`;
}

/// A text that begins a line.
export const sentence = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/// Long names keep both ends, where policies differ.
export function shorten(text, limit = 40) {
  if (text.length <= limit) return text;
  const tail = Math.floor((limit - 1) / 3);
  return `${text.slice(0, limit - 1 - tail)}…${text.slice(text.length - tail)}`;
}

/// Characters that would be invisible, or turn the text around, made visible.
export function visible(text) {
  return text
      .replace(/[\u0000-\u001f\u007f]/g, (c) => (c === '\u007f' ? '␡' : String.fromCharCode(0x2400 + c.charCodeAt(0))))
      .replace(
          /[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
          (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`);
}
