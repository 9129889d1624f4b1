// What the charts share: their frame, their axes and the colours of parts.

/// A specification of that size; its width is the whole chart's, with axes and legends beside.
export const frame = (parts) => ({padding: 4, autosize: {type: 'fit-x', contains: 'padding'}, ...parts});

/// Axis below; `room`: pixels that a label may take.
export const bottomAxis = (width, options, room = 90) => ({
  orient: 'bottom',
  scale: 'x',
  grid: true,
  labelOverlap: true,
  labelFlush: true,
  tickCount: Math.max(3, Math.round(width / room)),
  ...options
});

export const leftAxis = (options) =>
    ({orient: 'left', scale: 'y', grid: true, domain: false, labelOverlap: true, tickCount: 6, ...options});

/// Names beside rows of cells or bars.
export const namesAxis = (labelLimit, options = {}) =>
    ({orient: 'left', scale: 'y', labelLimit, ticks: false, domain: false, ...options});

/// Linear from zero unless the options say otherwise.
export const scaleOver = (name, range, domain, options = {}) =>
    ({name, type: 'linear', range, domain, zero: true, nice: true, ...options});

/// The scale of a few named parts: [{name, colour}].
export const partColours = (parts) => (
    {name: 'colour', type: 'ordinal', domain: parts.map((part) => part.name), range: parts.map((part) => part.colour)});

export const partLegend = (width) =>
    ({fill: 'colour', orient: 'top', columns: Math.max(2, Math.floor(width / 100)), symbolType: 'square'});

/// Where marks stand that are drawn at x and y of their rows.
export const atPoint = {
  x: {scale: 'x', field: 'x'},
  y: {scale: 'y', field: 'y'}
};
