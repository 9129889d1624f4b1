// Colours that colour-blind readers can tell apart, for a light and a dark page.

// Okabe and Ito, "Color Universal Design" (2008), without yellow and black, which vanish on one of the two backgrounds.
const hues = {
  light: ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'],
  dark: ['#56B4E9', '#E69F00', '#2BC49A', '#E08FC0', '#F0E442', '#FF7F3A'],
};
const dashes = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2, 1, 2, 1, 2]];
const shapes = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down'];

/// The look of the k-th of several series: colours repeat with another dash and shape.
export function look(k, theme) {
  const colours = hues[theme.name];
  const round = Math.floor(k / colours.length);
  return {
    colour: colours[k % colours.length],
    dash: dashes[round % dashes.length],
    shape: shapes[(k + round) % shapes.length],
  };
}

export const themes = {
  light: {
    name: 'light',
    text: '#1b2330',
    muted: '#5a6676',
    faint: '#c3cad4',
    grid: '#e6eaf0',
    background: '#ffffff',
    accent: '#0072B2',
    wash: [86, 180, 233],
    warning: '#D55E00',
    sets: {sink: '#8d99a8', useful: '#009E73', distractor: '#D55E00', rest: '#D55E00', decoded: '#56B4E9'},
    tiers: {hbm: '#0072B2', host: '#E69F00', disk: '#8d99a8'},
  },
  dark: {
    name: 'dark',
    text: '#e8edf4',
    muted: '#a3afbf',
    faint: '#465161',
    grid: '#2a3340',
    background: '#161c25',
    accent: '#56B4E9',
    wash: [0, 114, 178],
    warning: '#FF7F3A',
    sets: {sink: '#7d8998', useful: '#2BC49A', distractor: '#FF7F3A', rest: '#FF7F3A', decoded: '#56B4E9'},
    tiers: {hbm: '#56B4E9', host: '#E69F00', disk: '#7d8998'},
  },
};

/// What all charts share.
export function chartConfig(theme) {
  const font = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
  return {
    background: null,
    axis: {
      labelColor: theme.muted,
      titleColor: theme.text,
      tickColor: theme.faint,
      domainColor: theme.faint,
      gridColor: theme.grid,
      labelFont: font,
      titleFont: font,
      labelFontSize: 11,
      titleFontSize: 12,
      titleFontWeight: 600,
      titlePadding: 8,
      tickSize: 4,
    },
    legend: {
      labelColor: theme.text,
      titleColor: theme.text,
      labelFont: font,
      titleFont: font,
      labelFontSize: 11,
      titleFontSize: 11,
      titleFontWeight: 600,
      labelLimit: 260,
    },
    text: {font, fill: theme.text, fontSize: 11},
    title: {color: theme.text, font, fontSize: 13, fontWeight: 600, anchor: 'start'},
  };
}
