// Lines of several series over one axis, with bands, points, dashed rules and a step-free hover.
import {atPoint, bottomAxis, frame, leftAxis, scaleOver} from './frame.js';

// A cross as Vega reads shapes: a path within a square from -1 to 1.
const crossed = 'M-.7,-.7L.7,.7M.7,-.7L-.7,.7';

/// Powers of ten for a logarithmic axis over several of them; else what Vega takes.
function powersOfTen(options, values) {
  if (!options.log || options.values) return options.values;
  const [low, high] =
      values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, 0]);
  if (!(high > 10 * low)) return undefined;
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); ++power) powers.push(10 ** power);
  return powers;
}

const dimmed = (theme) => ({colour: theme.faint, dash: [], shape: 'circle'});

/// rows: {s: index of the series, x, y, low, high, star: drawn filled, over: drawn as a cross, tip: {title, lines}}.
/// series: [{name, look}]: a series without a look is drawn faint, behind the others.
/// front: points [{x, y}] joined by a broad pale line, in order.
/// paper: with a legend and without what only a pointer needs.
/// x, y: {title, log, format, values, zero, nice}. rules: [{y, label}]. points: whether they are drawn beside the
/// lines. Null without a row that can be drawn.
export function lineChart({
  rows,
  series,
  x,
  y,
  rules = [],
  width,
  height = 320,
  theme,
  paper = false,
  legend = false,
  front = [],
  step = false,
  points: dots = true
}) {
  const named = series.map((entry, s) => ({s, ...entry}));
  const looks = named.map((entry) => entry.look ?? dimmed(theme));
  const strong = named.filter((entry) => entry.look);
  const usable = (row) => row.x !== null && row.y !== null && (!x.log || row.x > 0) && (!y.log || row.y > 0);
  const kept = rows.filter(usable);
  if (kept.length === 0) return null;
  // A bound of zero has no place on a logarithmic axis: bands end at the lowest value.
  const lowest = y.log ? kept.reduce((least, row) => Math.min(least, row.y), Infinity) : -Infinity;
  const points = kept.map((row) => ({
                            ...row,
                            strong: Boolean(series[row.s].look),
                            low: (row.low ?? null) === null ? null : Math.max(row.low, lowest),
                          }));
  const ids = named.map((entry) => entry.s);
  const lines = (name, strongOnes) => ({
    type: 'group',
    from: {facet: {name, data: strongOnes ? 'strong' : 'faint', groupby: 's'}},
    marks: [
      ...(strongOnes ? [{
        type: 'area',
        from: {data: name},
        interactive: false,
        encode: {
          enter: {
            x: {scale: 'x', field: 'x'},
            y: {scale: 'y', field: 'low'},
            y2: {scale: 'y', field: 'high'},
            fill: {scale: 'colour', field: 's'},
            fillOpacity: {value: 0.14},
            interpolate: {value: step ? 'step-after' : 'linear'},
            defined: {signal: 'isValid(datum.low) && isValid(datum.high)'}
          }
        },
      }] :
                       []),
      {
        type: 'line',
        from: {data: name},
        interactive: false,
        encode: {
          enter: {
            ...atPoint,
            stroke: {scale: 'colour', field: 's'},
            strokeDash: {scale: 'dash', field: 's'},
            interpolate: {value: step ? 'step-after' : 'linear'},
            strokeJoin: {value: 'round'}
          },
          update: {
            strokeWidth: {signal: strongOnes ? 'hovered === datum.s ? 3.5 : 2' : 'hovered === datum.s ? 2.5 : 1'},
            strokeOpacity: {
              signal: strongOnes ? 'hovered === null || hovered === datum.s ? 1 : 0.35' :
                                   'hovered === datum.s ? 1 : 0.75'
            },
            ...(strongOnes ? {} : {stroke: {signal: `hovered === datum.s ? '${theme.text}' : '${theme.faint}'`}})
          }
        },
      },
    ],
  });
  const bold = points.filter((row) => row.strong);
  const scale = (name, range, options, domain) => scaleOver(name, range, domain, {
    type: options.log ? 'log' : 'linear',
    nice: options.nice ?? (range === 'height'),
    zero: Boolean(options.zero) && !options.log,
  });
  const ticks = ({title, format, values}) => ({title, format, values});
  return frame({
    width,
    height,
    signals: [
      {
        name: 'hovered',
        value: null,
        on: [{events: '@point:mouseover', update: 'datum.s'}, {events: '@point:mouseout', update: 'null'}]
      },
    ],
    data: [
      {name: 'points', values: points},
      {name: 'faint', values: points.filter((row) => !row.strong)},
      {name: 'strong', values: bold},
      {
        name: 'extent',
        values: bold.flatMap((row) => [{v: row.y}, ...(row.low === null ? [] : [{v: row.low}, {v: row.high}])])
      },
      {name: 'rules', values: rules},
      {name: 'front', values: front},
    ],
    scales: [
      scale('x', 'width', x, {data: 'points', field: 'x'}),
      scale('y', 'height', y, {
        fields: [
          {data: 'points', field: 'y'}, {data: 'extent', field: 'v'},
          ...(rules.length > 0 ? [{data: 'rules', field: 'y'}] : [])
        ]
      }),
      {name: 'colour', type: 'ordinal', domain: ids, range: looks.map((one) => one.colour)},
      {name: 'dash', type: 'ordinal', domain: ids, range: looks.map((one) => one.dash)},
      {name: 'shape', type: 'ordinal', domain: ids, range: looks.map((one) => one.shape)},
      {name: 'label', type: 'ordinal', domain: ids, range: named.map((entry) => entry.name)},
      {
        name: 'named',
        type: 'ordinal',
        domain: strong.map((entry) => entry.name),
        range: strong.map((entry) => entry.look.colour)
      },
      {
        name: 'namedDash',
        type: 'ordinal',
        domain: strong.map((entry) => entry.name),
        range: strong.map((entry) => entry.look.dash)
      },
    ],
    axes: [
      bottomAxis(width, ticks(x)),
      leftAxis(ticks({...y, values: powersOfTen(y, [...points, ...rules].map((row) => row.y))}))
    ],
    legends: (paper || legend) && strong.length > 0 ? [{
      stroke: 'named',
      strokeDash: 'namedDash',
      symbolType: 'stroke',
      symbolStrokeWidth: 2,
      symbolSize: 220,
      orient: 'bottom',
      columns: Math.max(1, Math.floor(width / 190)),
    }] :
                                                      [],
    marks: [
      lines('faint_one', false),
      {
        type: 'line',
        from: {data: 'front'},
        interactive: false,
        encode: {
          enter: {
            ...atPoint,
            stroke: {value: theme.text},
            strokeOpacity: {value: 0.13},
            strokeWidth: {value: 11},
            strokeCap: {value: 'round'},
            strokeJoin: {value: 'round'}
          }
        },
      },
      lines('strong_one', true),
      {
        type: 'rule',
        from: {data: 'rules'},
        interactive: false,
        encode: {
          enter: {
            x: {value: 0},
            x2: {signal: 'width'},
            y: {scale: 'y', field: 'y'},
            stroke: {value: theme.warning},
            strokeDash: {value: [5, 4]},
            strokeWidth: {value: 1.5}
          }
        },
      },
      {
        type: 'text',
        from: {data: 'rules'},
        interactive: false,
        encode: {
          enter: {
            x: {value: 0},
            dx: {value: 4},
            dy: {value: -5},
            align: {value: 'left'},
            y: {scale: 'y', field: 'y'},
            text: {field: 'label'},
            fill: {value: theme.warning}
          }
        },
      },
      {
        type: 'symbol',
        from: {data: 'strong'},
        interactive: false,
        encode: {
          enter: {
            ...atPoint,
            shape: {signal: `datum.over ? '${crossed}' : scale('shape', datum.s)`},
            stroke: {scale: 'colour', field: 's'},
            strokeWidth: {value: 1.5}
          },
          update: {
            size: {signal: 'datum.star ? 90 : 36'},
            fill: {signal: `datum.star ? scale('colour', datum.s) : '${theme.background}'`},
            opacity:
                {signal: dots ? 'hovered === null || hovered === datum.s ? 1 : 0.35' : 'hovered === datum.s ? 1 : 0'}
          }
        },
      },
      // What the pointer finds; paper has none.
      ...(paper ? [] : [{
        type: 'symbol',
        name: 'point',
        from: {data: 'points'},
        encode: {
          enter: {
            ...atPoint,
            size: {value: 160},
            fill: {value: 'transparent'},
            cursor: {value: 'pointer'},
            tooltip: {field: 'tip'}
          }
        },
      }]),
    ],
  });
}
